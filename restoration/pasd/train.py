"""Training of PASD's pixel attention and ControlNet on a frozen Stable Diffusion base.

    burnish train pasd --base stable-diffusion-v1-5 --images HQ --folder runs/pasd
    accelerate launch --num_processes 8 scripts/train.py pasd --base stable-diffusion-v1-5 --images HQ

The run goes on from its own checkpoint and ends with the folder `<folder>/weights`, which holds everything that
`PASDRestorer.from_pretrained` needs. The defaults are the published ones: 512-pixel crops, batch 4 x 2, AdamW 5e-5,
half of the captions empty; the authors trained 500 000 updates on 8 GPUs. A caption is the first line of the `.txt`
file beside an image; images without one have none.

Losses: the noise's squared error, and the absolute error of the three pictures that the image encoder predicts
(section 3.1). Colourization adds the colourfulness of these pictures, once; the published code adds it three times.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.data import DegradedImages, PairedImages
from restoration.pasd.controlnet import PASDControlNet
from restoration.pasd.options import COLORIZE, SDXL, PASDConfig, PASDOptions, Task
from restoration.pasd.restorer import PASDRestorer
from restoration.pasd.unet import PASDUNet, Variant, is_trained
from restoration.recipes import recipe
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.diffusion.backbone import Text, load_backbone, load_scheduler
from vision.diffusion.latents import encode_image, factor
from vision.files import file_names, read_text
from vision.metrics import psnr, ssim
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective

Logs = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class PASDTraining(TrainOptions):
    """The published recipe."""

    base: Path = Path("stable-diffusion-v1-5")
    """Stable Diffusion folder in diffusers' layout; it stays frozen."""
    start: Path | None = None
    """PASD folder (unet, controlnet) to go on from; None starts from the base."""
    images: Path = Path("images")
    """Folder of good pictures, with captions in .txt files of the same names."""
    low: Path | None = None
    """Folder of their bad versions under the same names; None degrades on the fly."""
    degradation: str = "realesrgan"
    """Recipe of the degradation on the fly: bicubic, bsrgan, bsrgan_light, bsrgan_strong, realesrgan or blind."""
    task: Task = "restore"
    """restore, or colorize grey pictures."""
    variant: Variant = "full"
    """full or light pixel attention."""
    rrdb: bool = False
    """Residual dense blocks in the image encoder."""
    folder: Path = Path("runs/pasd")
    """Checkpoints, log and weights."""
    crop: int = 512
    """Pixels per side of the crops."""
    steps: int = 500_000
    """Optimiser updates."""
    batch_size: int = 4
    """Crops per process and micro-batch."""
    accumulate: int = 2
    """Micro-batches per update."""
    learning_rate: float = 5e-5
    """Of AdamW (0.9, 0.999), weight decay 0.01."""
    caption_dropout: float = 0.5
    """Share of the captions that are left empty, so that guidance can be used."""
    color_weight: float = 1e-3
    """colorize: weight of the colourfulness."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    validation: Path | None = None
    """Folder of good pictures that no training sees; they are degraded, restored and measured."""
    validation_steps: int = 10
    """Denoising steps of a validation."""
    max_grad_norm: float | None = 1.0
    """Gradients are clipped to this norm; None leaves them."""
    save_every: int = 1000
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop < 64 or self.crop % 64:
            raise ValueError(f"crop must be a multiple of 64, got {self.crop}.")
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"caption_dropout must lie in [0, 1], got {self.caption_dropout}.")
        for name in ("task", "variant"):
            allowed = {"task": ("restore", "colorize"), "variant": ("full", "light")}[name]
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}.")


class PASDLosses(NamedTuple):
    """The parts of the loss, each a scalar."""

    noise: Tensor
    """Mean squared error of the prediction."""
    pictures: list[Tensor]
    """Mean absolute error of the three pictures of the image encoder."""
    color: Tensor | None
    """Lack of colour in these pictures, summed over pictures and batch."""
    prediction: Tensor
    """(b, 4, h, w)."""

    def total(self, color_weight: float = 0.0) -> Tensor:
        """The sum that is descended on."""
        total = self.noise + sum(self.pictures)
        return total if self.color is None else total + color_weight * self.color


def pasd_losses(
    unet: nn.Module,
    controlnet: nn.Module,
    scheduler: Any,
    *,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    cond: Tensor,
    target: Tensor,
    colorize: bool = False,
    added: dict[str, Tensor] | None = None,
) -> PASDLosses:
    """The losses of one batch.

    Args:
        scheduler: a DDPM scheduler; its prediction type says what the UNet predicts.
        latents: (b, 4, h, w) of the good pictures.
        noise: (b, 4, h, w) standard normal.
        timesteps: (b,) in the scheduler's range.
        text: (b, tokens, width).
        cond: (b, 3, H, W) bad pictures in [0, 1].
        target: (b, 3, H, W) good pictures in [-1, 1].
        colorize: with the colour loss.
        added: SDXL's further conditions.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    rgbs, down, mid = controlnet(noisy, timesteps, text, cond, added_cond_kwargs=added)
    prediction = unet(
        noisy,
        timesteps,
        text,
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        return_dict=False,
    )[0]
    wanted = noise
    if scheduler.config.prediction_type == "v_prediction":
        wanted = scheduler.get_velocity(latents, noise, timesteps)
    pictures = [F.l1_loss(F.interpolate(target, rgb.shape[-2:], mode="bilinear"), rgb) for rgb in rgbs or []]
    color = sum(lack_of_color(rgb) for rgb in rgbs) if colorize and rgbs else None
    return PASDLosses(F.mse_loss(prediction.float(), wanted.float()), pictures, color, prediction)


def lack_of_color(image: Tensor) -> Tensor:
    """Sum over the batch of 1 - colourfulness (Hasler and Suesstrunk 2003) of (b, 3, h, w)."""
    red, green, blue = image.flatten(2).unbind(1)
    axes = (red - green).abs(), ((red + green) / 2 - blue).abs()
    spread = torch.stack([axis.std(dim=1) for axis in axes]).norm(dim=0)
    strength = torch.stack([axis.mean(dim=1) for axis in axes]).norm(dim=0)
    return (1 - spread - 0.3 * strength).sum()


class Captioned(Dataset[dict[str, Any]]):
    """Endless samples {"high", "low", "caption"}: pairs with the first line of the text file beside the good picture.

    Args:
        pairs: whose item i is the i-th sample of the run.
        dropout: share of captions that are left empty.
        seed: which ones depends on it and on the sample's number.
    """

    def __init__(self, pairs: DegradedImages | PairedImages, dropout: float, seed: int):
        self.pairs, self.dropout, self.seed = pairs, dropout, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """high (3, crop, crop), low (3, crop / scale, crop / scale) in [0, 1], and the caption."""
        path = self.pairs.paths[index % len(self.pairs.paths)].with_suffix(".txt")
        empty = random.Random(self.seed * 2**40 + index).random() < self.dropout
        caption = "" if empty or not path.exists() else read_text(path).strip().split("\n")[0]
        return {**self.pairs[index], "caption": caption}


class PASDNetworks(nn.Module):
    """What is trained, beside its frozen base; `forward` is the loss, so that several processes average gradients.

    Args:
        restorer: holds all networks; VAE and text encoders are not saved in checkpoints.
        scheduler: DDPM, of the base's noise schedule.
        color_weight: of the colour loss, for colourization.
    """

    def __init__(self, restorer: PASDRestorer, scheduler: Any, color_weight: float = 1e-3):
        super().__init__()
        self.unet, self.controlnet = restorer.unet, restorer.controlnet
        self.frozen = (restorer.vae, restorer.text)  # a tuple, so that they are no parts of this module
        self.scheduler, self.color_weight = scheduler, color_weight
        self.colorize = restorer.config.task == "colorize"
        self.controlnet.requires_grad_(True)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_(is_trained(name))

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Logs]:
        """Loss, scalar, and logs of a batch of `Captioned`."""
        high, device = batch["high"], batch["high"].device
        vae, text = self.frozen
        vae.to(device)
        for encoder in text.encoders:
            encoder.to(device)
        if self.colorize:
            cond = (high * high.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand_as(high)
        else:
            cond = enlarge(batch["low"], high.shape[-2:], generator)
        with torch.no_grad():
            shape = len(high), vae.config.latent_channels, *(side // factor(vae) for side in high.shape[-2:])
            latents = encode_image(vae, high, torch.randn(shape, generator=generator))
            encoded: Text = text(batch["caption"])
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        limit = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, limit, (len(high),), generator=generator).to(device)
        added = None
        if encoded.pooled is not None:
            height, width = high.shape[-2:]
            ids = encoded.pooled.new_tensor([[height, width, 0, 0, height, width]]).expand(len(high), -1)
            added = {"text_embeds": encoded.pooled, "time_ids": ids}
        losses = pasd_losses(
            self.unet,
            self.controlnet,
            self.scheduler,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            text=encoded.embeds,
            cond=cond,
            target=2 * high - 1,
            colorize=self.colorize,
            added=added,
        )
        logs: dict[str, Tensor | float] = {"noise": losses.noise}
        logs |= {f"picture_{2 ** (i + 1)}": loss for i, loss in enumerate(losses.pictures)}
        if losses.color is not None:
            logs["color"] = losses.color
        return losses.total(self.color_weight), logs


def enlarge(low: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Bad pictures (b, 3, h, w) at the size of the good ones, in 8-bit steps; area, bilinear or bicubic at random."""
    mode = ("area", "bilinear", "bicubic")[int(torch.randint(0, 3, (1,), generator=generator))]
    enlarged = F.interpolate(low, tuple(size), mode=mode)
    return (enlarged.clamp(0, 1) * 255).round() / 255


@one_at_a_time
def train(options: PASDTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Train to the end and return the folder of the weights, or None when `max_seconds` ran out before.

    Raises:
        FileNotFoundError: the base, the start or the pictures are missing.
        ValueError: they do not fit each other, or the run was begun with other options or data.
    """
    data = ("base", "start", "images", "low")
    begin_run(options.folder, options, data=data, results=[options.folder / "weights"])
    restorer = networks_to_train(options)
    scheduler = load_scheduler(options.base / "scheduler", "DDPMScheduler")
    networks = PASDNetworks(restorer, scheduler, options.color_weight)
    if options.gradient_checkpointing:
        for net in (networks.unet, networks.controlnet):
            net.train()
            net.enable_gradient_checkpointing()
    settings = replace(options, folder=options.folder / "run", log_every=min(options.log_every, options.steps))

    def loss(batch: Any, context: Context) -> tuple[Tensor, Logs]:
        return context.modules["pasd"](batch, context.generator)

    objective = Objective("pasd", networks, loss, betas=(0.9, 0.999), weight_decay=1e-2)
    evaluate = None
    if options.validation is not None:
        evaluate = Validation(options, restorer)
    trained = fit([objective], _data(options), settings, evaluate=evaluate, log=log, max_seconds=max_seconds)
    if trained is None:
        return None
    return publish(options.folder / "weights", with_networks(restorer, trained["pasd"]).save_pretrained)


def networks_to_train(options: PASDTraining) -> PASDRestorer:
    """The base with untrained, or already trained, pixel attention and ControlNet."""
    backbone = load_backbone(options.base)
    if options.start is not None:
        unet = PASDUNet.from_pretrained(options.start / "unet")
        controlnet = PASDControlNet.from_pretrained(options.start / "controlnet")
    else:
        unet = PASDUNet.from_base(options.base / "unet", options.variant, options.seed)
        levels = (16, 32, 96, 256)[: len(backbone.vae.config.block_out_channels)]
        controlnet = PASDControlNet.from_unet(
            unet, use_rrdb=options.rrdb, seed=options.seed + 1, conditioning_embedding_out_channels=levels
        )
    scheduler = load_scheduler(options.base / "scheduler", "UniPCMultistepScheduler")
    config = COLORIZE if options.task == "colorize" else PASDConfig()
    if unet.config.addition_embed_type == "text_time":
        config = replace(SDXL, task=options.task)
    config = replace(config, process_size=options.crop * 3 // 2)
    restorer = PASDRestorer(unet, controlnet, backbone.vae, backbone.text, scheduler, config)
    restorer.check()
    restorer.vae.requires_grad_(False)
    return restorer


def with_networks(restorer: PASDRestorer, networks: nn.Module) -> PASDRestorer:
    """A restorer with the networks of a training, averaged ones for instance, in evaluation mode."""
    found = copy.copy(restorer)
    found.unet, found.controlnet = networks.unet.eval(), networks.controlnet.eval()
    return found


class Validation:
    """Restores held-out crops during training and measures them.

    Args:
        options: of the training; its folder gets `validation/`.
        restorer: gives everything but the trained networks.
        count: pictures at most.
    """

    def __init__(self, options: PASDTraining, restorer: PASDRestorer, count: int = 4):
        self.options, self.restorer, self.count = options, restorer, count

    @torch.no_grad()
    def __call__(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Means of the metrics, of the restored and of the bicubically enlarged pictures."""
        from vision.images import save_image, to_pil
        from vision.report import side_by_side
        from vision.resize import imresize

        options, networks = self.options, modules["pasd"]
        how = recipe(options.degradation)
        pairs = DegradedImages(options.validation, how, crop=options.crop, augment=False, seed=options.seed)
        restorer, rows, names = with_networks(self.restorer, networks), [], file_names(pairs.paths)
        settings = PASDOptions(
            scale=None if options.task == "colorize" else float(how.scale),
            steps=options.validation_steps,
            process_size=options.crop,
            guidance_scale=1.0,
        )
        for i in range(min(self.count, len(pairs))):
            pair = pairs[i]
            high, low = pair["high"][None], pair["low"][None]
            if options.task == "colorize":
                low = high.mean(1, keepdim=True).expand_as(high)
            restored, enlarged = restorer(low, settings), imresize(low, size=tuple(high.shape[-2:])).clamp(0, 1)
            rows.append({"psnr": float(psnr(restored, high)), "psnr_bicubic": float(psnr(enlarged, high))})
            rows[-1] |= {"ssim": float(ssim(restored, high)), "ssim_bicubic": float(ssim(enlarged, high))}
            shown = side_by_side([to_pil(x) for x in (enlarged, restored, high)], ["bicubic", "restored", "original"])
            save_image(shown, options.folder / "validation" / f"{names[i]}.png")
        for net in (networks.unet, networks.controlnet):
            net.train()
        return {f"validation.{key}": sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def _data(options: PASDTraining) -> Captioned:
    endless = 2**31
    if options.low is not None:
        pairs = PairedImages(options.images, options.low, crop=options.crop, seed=options.seed, repeats=endless)
    else:
        how = recipe("bicubic") if options.task == "colorize" else recipe(options.degradation)
        pairs = DegradedImages(options.images, how, crop=options.crop, seed=options.seed, repeats=endless)
    return Captioned(pairs, options.caption_dropout, options.seed)
