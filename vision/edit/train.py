"""Fine-tuning of a Stable Diffusion UNet on a domain's pictures and labels, as PIE's authors do before they edit.

    accelerate launch --num_processes 8 scripts/train.py pie --base SD14 --data CheXpert-v1.0-small --kind chexpert

Only the UNet is trained, on noise predictions (or velocities) in latents that are sampled from the VAE's posterior.
Published: 8 GPUs x 8 pictures x 2 = 128 per update, 20 000 updates, 5e-5 with cosine decay after 1000 updates of
warm-up, bfloat16, 512 pixels. Differences: the rate is scheduled in optimiser updates (the published script's rate
reaches zero after a fraction of them when there are several processes), and the decay ends at a hundredth of the peak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.diffusion.backbone import TextEncoders, load_scheduler
from vision.diffusion.denoise import denoise_steps, set_steps
from vision.diffusion.latents import decode_latents, encode_image, factor
from vision.diffusion.train import noise_loss
from vision.edit.labels import read_set
from vision.edit.one_edit import Predictor
from vision.edit.pie import PIEEditor
from vision.files import read_text
from vision.images import image_files, load_image, save_image, to_tensor
from vision.job import choose_device
from vision.refine import drain
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective


@dataclass(frozen=True)
class PIETraining(TrainOptions):
    """Fine-tuning on a domain; the defaults are the published recipe's, for 8 processes."""

    base: Path = Path("stable-diffusion-v1-4")
    """Stable Diffusion folder to start from."""
    data: Path = Path("data")
    """Folder of the pictures."""
    kind: Literal["chexpert", "retinopathy", "skin", "folder"] = "chexpert"
    """A published set, whose table gives the prompts; or a folder of pictures, with .txt files or one prompt."""
    prompt: str = ""
    """Of a folder: the text of pictures without a .txt."""
    prior: Path | None = None
    """Folder of pictures of the general kind, which shall not be forgotten; what is missing is made by the base."""
    prior_prompt: str = ""
    """Their text."""
    prior_images: int = 100
    """How many there shall be."""
    prior_weight: float = 1.0
    """Weight of their loss."""
    folder: Path = Path("runs/pie")
    """Checkpoints and weights."""
    steps: int = 20000
    """Optimiser updates; the learning rate is scheduled in them."""
    batch_size: int = 8
    """Pictures per process and micro-batch."""
    accumulate: int = 2
    """Micro-batches per update."""
    learning_rate: float = 5e-5
    """Peak."""
    warmup: int = 1000
    """Updates of linear warm-up."""
    final_learning_rate: float | None = 5e-7
    """End of the cosine decay after the warm-up; None keeps the peak."""
    resolution: int = 512
    """Pixels per side."""
    center_crop: bool = True
    """Cut the middle square, or one at random."""
    offset_noise: float = 0.0
    """Amount of noise per picture and channel; 0.1 teaches darker and brighter pictures."""
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass, to save memory."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Numbers that the networks compute in."""
    workers: int = 4
    """Processes that load data."""
    max_grad_norm: float | None = 1.0
    """Gradients are clipped to this norm; None leaves them."""
    save_every: int = 1000
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < 8:
            raise ValueError(f"resolution must be at least 8 pixels, got {self.resolution}.")
        if self.prior is not None and not self.prior_prompt:
            raise ValueError("Pictures that shall not be forgotten need prior_prompt, their text.")


class Prompted(Dataset[dict[str, Any]]):
    """Endless squares of pictures with their prompts; sample i depends on (seed, i) alone.

    Args:
        pictures: (file, prompt) of each.
        resolution: pixels per side.
        center: cut the middle, or a square at random.
        seed: of the draws.
    """

    def __init__(self, pictures: Sequence[tuple[Path, str]], resolution: int, center: bool, seed: int):
        self.pictures, self.resolution, self.center, self.seed = pictures, resolution, center, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """image (3, resolution, resolution) in [0, 1], and prompt."""
        generator = torch.Generator().manual_seed((self.seed << 32) + index)
        path, prompt = self.pictures[int(torch.randint(len(self.pictures), (), generator=generator))]
        picture, side = load_image(path).rgb, self.resolution
        scale = side / min(picture.size)
        size = tuple(max(side, int(scale * length)) for length in picture.size)
        picture = picture.resize(size, PIL.Image.Resampling.BILINEAR)
        spare = [length - side for length in size]
        if self.center:
            left, top = (length // 2 for length in spare)
        else:
            left, top = (int(torch.randint(length + 1, (), generator=generator)) for length in spare)
        return {"image": to_tensor(picture.crop((left, top, left + side, top + side)))[0], "prompt": prompt}


class WithPrior(Dataset[dict[str, Any]]):
    """Samples of a domain, each with one of the general kind."""

    def __init__(self, domain: Prompted, prior: Prompted):
        self.domain, self.prior = domain, prior

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The domain's sample, and prior_image and prior_prompt."""
        other = self.prior[index]
        return self.domain[index] | {"prior_image": other["image"], "prior_prompt": other["prompt"]}


class DomainLoss(nn.Module):
    """A UNet that gives its own loss; VAE and text encoder stay as they are.

    Args:
        unet: diffusers' UNet.
        vae: with its scaling factor.
        text: prompts' encoder.
        scheduler: noise schedule and prediction type.
        options: weights of the loss.
    """

    def __init__(self, unet: nn.Module, vae: nn.Module, text: TextEncoders, scheduler: Any, options: PIETraining):
        super().__init__()
        self.unet, self.options, self.scheduler = unet, options, scheduler
        self.frozen = (vae, text)  # a tuple, so that they are no parts of this module

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss, scalar, and logs of a batch of `Prompted` or `WithPrior`."""
        vae, text = self.frozen
        images, prompts, count = batch["image"], list(batch["prompt"]), len(batch["image"])
        if "prior_image" in batch:
            images, prompts = torch.cat([images, batch["prior_image"]]), [*prompts, *batch["prior_prompt"]]
        vae.to(images.device)
        for encoder in text.encoders:
            encoder.to(images.device)
        side = images.shape[-1] // factor(vae)
        shape = (len(images), vae.config.latent_channels, side, side)
        latents = encode_image(vae, images, torch.randn(shape, generator=generator))
        embeds = text(prompts, truncate=True).embeds

        def denoise(noisy: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
            return self.unet(noisy, timesteps, embeds, return_dict=False)[0]

        losses = noise_loss(denoise, self.scheduler, latents, embeds, generator, offset_noise=self.options.offset_noise)
        domain = losses[:count].mean()
        if count == len(losses):
            return domain, {}
        prior = losses[count:].mean()
        return domain + self.options.prior_weight * prior, {"domain": domain, "prior": prior}


@one_at_a_time
def train(options: PIETraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Train to the end and return the folder of the weights, or None when `max_seconds` ran out before.

    Raises:
        FileNotFoundError: the base or the pictures are missing.
        ValueError: there are no pictures, or one without a prompt, or the run was begun with other options or data.
    """
    begin_run(options.folder, options, data=("base", "data"), results=[options.folder / "weights"])
    editor = PIEEditor.from_pretrained(f"folder:{options.base}")
    data: Dataset[dict[str, Any]] = _prompted(pictures(options), options, options.seed)
    if options.prior is not None:
        make_prior(editor.to(choose_device("auto")), options)
        editor.to("cpu")
        prior = [(path, options.prior_prompt) for path in image_files(options.prior)]
        data = WithPrior(data, _prompted(prior, options, options.seed + 1))
    editor.unet.train()
    if options.gradient_checkpointing:
        editor.unet.enable_gradient_checkpointing()
    scheduler = load_scheduler(options.base / "scheduler", "DDPMScheduler")
    module = DomainLoss(editor.unet, editor.vae.requires_grad_(False), editor.text, scheduler, options)
    settings = replace(options, folder=options.folder / "run", log_every=min(options.log_every, options.steps))

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        return context.modules["unet"](batch, context.generator)

    objective = Objective("unet", module, loss, betas=(0.9, 0.999), weight_decay=1e-2)
    trained = fit([objective], data, settings, log=log, max_seconds=max_seconds)
    if trained is None:
        return None
    editor.unet = trained["unet"].unet.eval()
    return publish(options.folder / "weights", editor.save_pretrained)


def pictures(options: PIETraining) -> list[tuple[Path, str]]:
    """(file, prompt) of every training picture.

    Raises:
        FileNotFoundError: the folder or its table is missing.
        ValueError: there are none, or one has no prompt.
    """
    if options.kind != "folder":
        found = read_set(options.kind, options.data)
    else:
        found = []
        for path in image_files(options.data):
            beside = path.with_suffix(".txt")
            prompt = read_text(beside).strip() if beside.exists() else options.prompt
            if not prompt:
                raise ValueError(f"{path} has no prompt: write {beside.name} beside it, or give one for all.")
            found.append((path, prompt))
    if not found:
        raise ValueError(f"There are no pictures of the kind {options.kind} in {options.data}.")
    return found


@torch.no_grad()
def make_prior(editor: PIEEditor, options: PIETraining, steps: int = 50, guidance_scale: float = 7.5) -> None:
    """Fill the folder of general pictures with what the base makes of their prompt (DreamBooth, section 3.3)."""
    options.prior.mkdir(parents=True, exist_ok=True)
    unit, channels = factor(editor.vae), editor.vae.config.latent_channels
    text, empty = (editor.text([prompt]).embeds for prompt in (options.prior_prompt, ""))
    predict = Predictor(editor.unet, text, empty, guidance_scale)
    for number in range(len(image_files(options.prior)), options.prior_images):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        side = options.resolution // unit
        scheduler = set_steps(editor.ddim(), min(steps, editor.scheduler.config.num_train_timesteps), editor.device)
        noise = torch.randn(1, channels, side, side, generator=generator).to(editor.device)
        latents = drain(denoise_steps(noise, predict, scheduler)).state.latents
        save_image(decode_latents(editor.vae, latents), options.prior / f"made_{number:04d}.png")


def _prompted(found: Sequence[tuple[Path, str]], options: PIETraining, seed: int) -> Prompted:
    return Prompted(found, options.resolution, options.center_crop, seed)
