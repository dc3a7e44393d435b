"""Time PASD's denoising steps at their real size, with random weights, beside a straightforward port.

    burnish benchmark pasd                                  (512 x 512: minutes, and 8 GB of memory)
    burnish benchmark pasd --compile
    burnish benchmark pasd --size 1024 --steps 1 --rounds 1 --no-port --no-fast --decode   (peak memory)
    burnish benchmark pasd --tiny                           (seconds: that it runs)

A few guided steps are one round: the port, ours, and the reuse of the preset `fast` take turns in one process, so that
a busy machine slows all of them; the best round of each counts. The port embeds the picture and projects the prompts in
every step, as the published code does.

Two other tasks, fast-distance and seams, are described in `benchmark_pictures.py`.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UniPCMultistepScheduler
from torch import Tensor, nn

from restoration.pasd import builtin
from restoration.pasd.benchmark_pictures import fast_distance, seams
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.memory import free_bytes, largest_vae_tile
from restoration.pasd.options import PRESETS
from restoration.pasd.predictor import NoisePredictor
from restoration.pasd.unet import PASDUNet, Variant
from vision.checkpoints import one_at_a_time
from vision.diffusion.backbone import Text
from vision.diffusion.build import SCHEDULE, emptied, initialise
from vision.diffusion.compiling import frozen_forward
from vision.diffusion.denoise import At, denoise_steps, guide, set_steps
from vision.diffusion.latents import VAE_OVERLAP, decode_latents, vae_tiles
from vision.job import Event, Show, silent
from vision.refine import drain
from vision.report import text_table, write_table

PORT, OURS = "straightforward port", "ours"
GUIDANCE = 9.0
REAL = {"cross_attention_dim": 768, "attention_head_dim": 8}
"""Stable Diffusion 1.5; the rest are diffusers' defaults."""


@dataclass(frozen=True)
class PASDBenchmark:
    """Time guided steps, or measure what the preset fast and tiles cost in quality."""

    task: Literal["steps", "fast-distance", "seams"] = "steps"
    """steps times them; fast-distance and seams compare pictures and need `out`."""
    images: Path | None = None
    """Folder of good pictures (fast-distance)."""
    size: int = 512
    """Pixels per side."""
    variant: Variant = "full"
    """full or light pixel attention."""
    steps: int = 5
    """Denoising steps of one round; the preset fast computes everything in every fifth."""
    rounds: int = 2
    """Measurements of each way."""
    port: bool = True
    """Also time the straightforward port."""
    fast: bool = True
    """Also time the preset fast."""
    compile: bool = False
    """Also time compiled networks; the time that compiling takes is not counted."""
    decode: bool = False
    """Also decode the last latents with a VAE of the real size."""
    tiny: bool = False
    """Networks of a few thousand parameters, to see that it runs."""
    out: Path | None = None
    """Folder for the table (named by the task, json and csv) and pictures."""
    device: str = "cpu"
    """cpu, cuda, ..."""

    def __post_init__(self) -> None:
        if self.size < 64 or self.size % 8:
            raise ValueError(f"size must be a multiple of 8 from 64, got {self.size}.")
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.task != "steps" and self.out is None:
            raise ValueError(f"The task {self.task} writes a table and pictures; name a folder with --out.")
        if self.task == "fast-distance" and self.images is None:
            raise ValueError("The task fast-distance needs good pictures; name their folder with --images.")


@one_at_a_time
def benchmark(options: PASDBenchmark, show: Show = silent) -> list[dict[str, Any]]:
    """Measure and show; returns the rows.

    Raises:
        ValueError: another process works on the folder `out`.
    """
    if options.task == "steps":
        rows = time_steps(options, show)
    elif options.task == "fast-distance":
        rows = fast_distance(options.images, options.out, steps=20, size=160)
    else:
        rows = seams(2048, 1536, tile=64, steps=2)
    show(Event("result", text_table(rows, title=options.task, digits=3)))
    if options.out is not None:
        write_table(rows, options.out / f"{options.task}.json", options.out / f"{options.task}.csv")
    return rows


@torch.no_grad()
def time_steps(options: PASDBenchmark, show: Show = silent) -> list[dict[str, Any]]:
    """A row for every way of computing guided steps; shows the peak memory."""
    unet, controlnet = networks(options)
    image, latents, positive, negative = inputs(options, unet)

    def ours(**reuse: int) -> Tensor:
        predictor = NoisePredictor(unet, controlnet, image, positive, negative, guidance_scale=GUIDANCE, **reuse)
        return _run(latents, predictor, options.steps)

    def port() -> Tensor:
        return _run(latents, straightforward(unet, controlnet, image, positive, negative), options.steps)

    ways: dict[str, Callable[[], Tensor]] = {PORT: port} if options.port else {}
    ways[OURS] = ours
    if options.fast:
        fast = {name: PRESETS["fast"][name] for name in ("guidance_every", "control_every")}
        ways["ours, preset fast"] = lambda: ours(**fast)
    if options.compile:
        compiled = [(net, frozen_forward(net)) for net in (unet, controlnet)]

        def with_compiled() -> Tensor:
            with _replaced(compiled):
                return ours()

        with_compiled()
        ways["ours, compiled"] = with_compiled

    best: dict[str, tuple[float, float]] = {}
    results: dict[str, Tensor] = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = way()
            if options.device.startswith("cuda"):
                torch.cuda.synchronize()
            spent = (time.perf_counter() - wall) / options.steps, (time.process_time() - cpu) / options.steps
            best[name] = tuple(map(min, best.get(name, spent), spent))
    first = next(iter(ways))
    rows = [
        {
            "what": name,
            "seconds_per_step": wall,
            "cpu_seconds": cpu,
            "of_first": wall / best[first][0],
            "cpu_of_first": cpu / best[first][1],
            "largest_difference": float((results[name] - results[first]).abs().max()),
        }
        for name, (wall, cpu) in best.items()
    ]
    show(Event("note", f"{options.size} x {options.size}, guided, {torch.get_num_threads()} threads."))
    show(Event("note", f"Peak memory of the process: {_peak():.0f} MB."))
    if options.decode:
        started, vae = time.process_time(), real_vae()
        tile = largest_vae_tile(vae, free_bytes(vae.device), *results[first].shape[-2:])
        decode_latents(vae, results[first].cpu(), vae_tiles(tile, VAE_OVERLAP))
        seconds = time.process_time() - started
        show(Event("note", f"With the VAE, after decoding: {_peak():.0f} MB, {seconds:.0f} CPU seconds."))
    return rows


def _peak() -> float:
    """Megabytes that the process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def real_vae() -> nn.Module:
    """Stable Diffusion's VAE with random weights."""
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    return emptied(vae, 2)


@contextmanager
def _replaced(forwards: list[tuple[nn.Module, Callable[..., object]]]) -> Iterator[None]:
    """Networks with other forward functions for a while."""
    for net, forward in forwards:
        net.forward = forward
    try:
        yield
    finally:
        for net, _ in forwards:
            del net.forward


def networks(options: PASDBenchmark) -> tuple[PASDUNet, PASDControlNet]:
    """Random ones of the real or the tiny size."""
    config = builtin.UNET if options.tiny else REAL
    with torch.device("meta"):
        unet = PASDUNet(options.variant, **config)
    emptied(unet, 0)
    levels = (4, 4, 4, 8) if options.tiny else (16, 32, 96, 256)
    controlnet = PASDControlNet.from_unet(unet, conditioning_embedding_out_channels=levels)
    initialise(controlnet, torch.Generator().manual_seed(1))
    return tuple(nn.Module.to(net, options.device).requires_grad_(False) for net in (unet, controlnet))


def inputs(options: PASDBenchmark, unet: PASDUNet) -> tuple[Tensor, Tensor, Text, Text]:
    """A picture (1, 3, size, size), latents (1, 4, size / 8, size / 8), and encoded prompts."""
    generator, side = torch.Generator().manual_seed(0), options.size // 8
    image = torch.rand(1, 3, options.size, options.size, generator=generator).to(options.device)
    latents = torch.randn(1, 4, side, side, generator=generator).to(options.device)
    width = unet.config.cross_attention_dim
    texts = [Text(torch.randn(1, 77, width, generator=generator).to(options.device)) for _ in range(2)]
    return image, latents, *texts


def straightforward(
    unet: PASDUNet, controlnet: PASDControlNet, image: Tensor, positive: Text, negative: Text
) -> Callable[[Tensor, At], Tensor]:
    """The prediction as the published pipeline computes it, for an image (1, 3, size, size) in [0, 1]."""
    images, text = torch.cat([image] * 2), torch.cat([negative.embeds, positive.embeds])

    def predict(latents: Tensor, at: At) -> Tensor:
        both = torch.cat([latents] * 2)
        _, down, mid = controlnet(both, at.timestep, text, images)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return guide(*unet(both, at.timestep, text, **residuals).sample.chunk(2), GUIDANCE)

    return predict


def _run(latents: Tensor, predict: Callable[[Tensor, At], Tensor], steps: int) -> Tensor:
    scheduler = set_steps(UniPCMultistepScheduler(**SCHEDULE), steps, latents.device)
    return drain(denoise_steps(latents, predict, scheduler)).state.latents
