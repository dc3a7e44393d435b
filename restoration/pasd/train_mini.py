"""Training of a small latent diffusion base from nothing, and of PASD on it.

    python scripts/train.py pasd --recipe mini --photos photos

`photos` is the folder that `restoration/photos.py` tells how to fill. The command writes checkpoints, goes on from them
when it is started again, and ends with the folder `<folder>/weights`, which `PASDRestorer.from_pretrained` loads.

1. `vae`: absolute error of pixels and of their gradients, and a trace of the Kullback-Leibler divergence; 4 pixels per
   latent. Afterwards the latents' scale is measured.
2. `base`: the UNet learns to predict the noise in latents of photographs (unconditional: every prompt is empty).
3. `pasd`: pixel attention and ControlNet learn on the frozen base, with the published losses.

It shows that the method works where a gigabyte of weights is out of reach: about six million parameters, an hour or two
of two CPU cores per stage. Text means nothing to it, so guidance is off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.iter.train_mini import PHOTO_MIXTURE, SharpPairs
from restoration.pasd.builtin import SCHEDULE, emptied, tiny_text
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.folders import initialise
from restoration.pasd.options import PASDConfig
from restoration.pasd.restorer import PASDRestorer
from restoration.pasd.train import PASDNetworks
from restoration.pasd.unet import PASDUNet, Variant
from restoration.photos import collect_photos
from vision.files import atomic_path
from vision.losses import gradient_difference
from vision.training import Context, Objective, TrainOptions, finished, fit

STAGES = ("vae", "base", "pasd")
DIVERGENCE = 1e-6
"""Weight of the divergence; enough to keep latents near the origin."""


@dataclass(frozen=True)
class MiniPASDTraining:
    """The recipe of the small base and of PASD on it."""

    photos: Path = Path("photos")
    """Folder below which the photographs lie."""
    folder: Path = Path("runs/pasd-mini")
    """Checkpoints and weights."""
    steps: tuple[int, int, int] = (6000, 8000, 6000)
    """Updates of the three stages."""
    rates: tuple[float, float, float] = (1e-3, 5e-4, 5e-4)
    """Peak learning rates of the three stages."""
    batch_sizes: tuple[int, int, int] = (16, 16, 16)
    """Crops per update and process."""
    crop: int = 96
    """Pixels per side of the crops."""
    vae_channels: tuple[int, int, int] = (32, 48, 64)
    """Widths of the VAE."""
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
        if self.crop % 16:
            raise ValueError(f"crop must be a multiple of 16, got {self.crop}.")


class Samples(Dataset[dict[str, Any]]):
    """The pairs of `SharpPairs` as PASD's training wants them, without captions."""

    def __init__(self, pairs: SharpPairs):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """high (3, crop, crop), low (3, crop / 4, crop / 4) in [0, 1]."""
        pair = self.pairs[index]
        return {"high": pair["hr"], "low": pair["lr"], "caption": ""}


class VAELoss(nn.Module):
    """A VAE that gives its own loss."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and logs of pictures (b, 3, h, w) in [0, 1]."""
        found = self.vae.encode(2 * high - 1).latent_dist
        latents = found.mean + found.std * torch.randn(found.mean.shape, generator=generator).to(high)
        picture = self.vae.decode(latents).sample / 2 + 0.5
        error, edges, divergence = F.l1_loss(picture, high), gradient_difference(picture, high), found.kl().mean()
        return error + 0.5 * edges + DIVERGENCE * divergence, {"error": error, "edges": edges, "kl": divergence}


class BaseLoss(nn.Module):
    """A UNet that gives its own loss, on latents of a frozen VAE.

    Args:
        unet: diffusers' UNet.
        vae: with its scaling factor.
        text: (1, tokens, width) of the empty prompt.
        scheduler: DDPM.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, text: Tensor, scheduler: Any):
        super().__init__()
        self.unet, self.frozen, self.scheduler = unet, (vae, text), scheduler

    def forward(self, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and logs of pictures (b, 3, h, w) in [0, 1]."""
        vae, text = self.frozen
        vae.to(high.device)
        with torch.no_grad():
            latents = vae.encode(2 * high - 1).latent_dist.mean * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        limit = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, limit, (len(high),), generator=generator).to(high.device)
        text = text.to(high.device).expand(len(high), -1, -1)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        return F.mse_loss(self.unet(noisy, timesteps, text, return_dict=False)[0], noise), {}


def train(
    options: MiniPASDTraining, *, log: Callable[[str], None] | None = None, max_seconds: float | None = None
) -> Path | None:
    """Run the stages that are not finished; returns the folder of the weights, or None when time ran out."""
    from diffusers import DDPMScheduler, UniPCMultistepScheduler

    photos = collect_photos(options.photos, options.folder / "pictures")
    vae, unet, text = build(options)
    empty = text([""]).embeds

    done = _run("vae", VAELoss(vae), photos, options, log, max_seconds)
    if done is None:
        return None
    vae = done.vae.requires_grad_(False).eval()
    _measure_scale(vae, photos, options)

    scheduler = DDPMScheduler(**SCHEDULE)
    done = _run("base", BaseLoss(unet, vae, empty, scheduler), photos, options, log, max_seconds)
    if done is None:
        return None

    pixel = PASDUNet.from_base(done.unet, options.variant, options.seed)
    control = PASDControlNet.from_unet(
        pixel, conditioning_embedding_out_channels=options.encoder_channels, seed=options.seed + 1
    )
    config = PASDConfig(
        scale=4.0,
        process_size=options.crop,
        steps=20,
        guidance_scale=1.0,
        start_level=900,
        added_prompt="",
        negative_prompt="",
        tile=96,
        tile_overlap=16,
    )
    restorer = PASDRestorer(pixel, control, vae, text, UniPCMultistepScheduler(**SCHEDULE), config)
    networks = _run("pasd", PASDNetworks(restorer, scheduler), photos, options, log, max_seconds)
    if networks is None:
        return None
    restorer.unet, restorer.controlnet = networks.unet.eval(), networks.controlnet.eval()
    restorer.save_pretrained(options.folder / "weights", dtype=torch.float16)
    return options.folder / "weights"


def build(options: MiniPASDTraining) -> tuple[nn.Module, nn.Module, Any]:
    """The untrained VAE, UNet and text encoder."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=options.vae_channels,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=options.crop,
        )
        unet = UNet2DConditionModel(
            block_out_channels=options.channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=16,
            attention_head_dim=4,
            use_linear_projection=True,
            sample_size=options.crop // 4,
        )
    emptied(vae, options.seed).train()
    unet.to_empty(device="cpu")
    initialise(unet, torch.Generator().manual_seed(options.seed + 1))
    return vae, unet, tiny_text()


def _run(
    stage: str,
    module: nn.Module,
    photos: list[Path],
    options: MiniPASDTraining,
    log: Callable[[str], None] | None,
    max_seconds: float | None,
) -> nn.Module | None:
    """The trained module of a stage, from its file when it is finished already; None when time ran out."""
    number, done = STAGES.index(stage), options.folder / f"{stage}.safetensors"
    if done.exists():
        module.load_state_dict(load_file(done))
        return module
    settings = TrainOptions(
        folder=options.folder / stage,
        steps=options.steps[number],
        batch_size=options.batch_sizes[number],
        learning_rate=options.rates[number],
        final_learning_rate=options.rates[number] / 100,
        warmup=min(200, options.steps[number] // 10),
        max_grad_norm=1.0,
        ema_decay=0.999,
        seed=options.seed * len(STAGES) + number,
        workers=options.workers,
        log_every=min(100, options.steps[number]),
    )

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        return context.modules[stage](batch if stage == "pasd" else batch["high"], context.generator)

    objective = Objective(stage, module, loss, betas=(0.9, 0.99), weight_decay=1e-3)
    trained = fit([objective], _data(photos, options, settings.seed), settings, log=log, max_seconds=max_seconds)[stage]
    if not finished(settings.folder, settings.steps):
        return None
    with atomic_path(done) as part:
        save_file({key: value.detach().clone() for key, value in trained.state_dict().items()}, part)
    return trained


def _data(photos: list[Path], options: MiniPASDTraining, seed: int) -> Samples:
    return Samples(SharpPairs(photos, options.crop, PHOTO_MIXTURE, 4, seed))


@torch.no_grad()
def _measure_scale(vae: nn.Module, photos: list[Path], options: MiniPASDTraining) -> None:
    """Set the factor that gives latents a standard deviation of one (Rombach et al. 2022, appendix G)."""
    data = _data(photos, options, options.seed + 1000)
    high = torch.stack([data[i]["high"] for i in range(32)])
    deviation = torch.cat([vae.encode(2 * part - 1).latent_dist.mean for part in high.split(4)]).std()
    vae.register_to_config(scaling_factor=float(1 / deviation))
