"""Training of the embedded demonstration `pie-brain-mini`, from nothing.

    burnish train pie --recipe brain-mini --volumes FOLDER

`FOLDER` is filled as `vision/edit/brain.py` says. The command writes checkpoints, goes on from them when it is started
again, and ends with the folder `<folder>/weights`, which `PIEEditor.from_pretrained` loads. Only MNI152 is trained on;
Colin27 stays the held-out patient, on whom the classifier is measured at the end.

1. `classifier`: healthy or not, by binary cross entropy.
2. `vae`: absolute error of pixels and of their gradients, and a trace of the divergence; 4 pixels per latent, so that a
   lesion is several latents wide. Afterwards the latents' scale is measured.
3. `unet`: the UNet and a text encoder of a dozen words learn to predict velocities (Salimans and Ho 2022, appendix D)
   from latents and prompts; one prompt in eight is empty, for guidance.

About an hour and a half on half a CPU core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.diffusion.backbone import TextEncoders, token_ids
from vision.diffusion.build import SCHEDULE, emptied, initialise, small_unet, small_vae, text_encoder, word_tokenizer
from vision.diffusion.train import VAELoss, noise_loss, set_latent_scale
from vision.edit.auc import area_under_curve
from vision.edit.brain import BASE_PROMPT, GRADES, SIDE, BrainImages, load_colin, load_mni, prompt
from vision.edit.confidence import ClassifierConfig, Confidence, SmallClassifier
from vision.edit.options import PIEConfig
from vision.edit.pie import PIEEditor
from vision.files import atomic_path
from vision.training import fit_stage, half_precision
from vision.training_options import stage_settings
from vision.training_run import Context, Objective
from vision.weights import read_tensors

STAGES = ("classifier", "vae", "unet")
NOISES = SCHEDULE | {"prediction_type": "v_prediction", "clip_sample": False}
DROPPED_PROMPTS = 0.125
BRAIN = PIEConfig(
    resolution=SIDE,
    prompt=prompt(1.0),
    source_prompt=prompt(0.0),
    frames=10,
    steps=15,
    strength=1.0,
    guidance_scale=30.0,
    beta_2=tuple(i / 40 for i in range(1, 11)),
    fixed_noise=True,
    paste_outside=True,
)
"""What the weights are used with: a little more of a strong edit in every frame, always with the same noise."""


@dataclass(frozen=True)
class BrainTraining:
    """The recipe of the embedded demonstration."""

    volumes: Path = Path("volumes")
    """Folder below which the files of nilearn and mricron-data lie."""
    folder: Path = Path("runs/pie-brain-mini")
    """Checkpoints and weights."""
    images: int = 8000
    """Images that are rendered once and kept."""
    steps: tuple[int, int, int] = (1200, 1700, 3000)
    """Updates of classifier, VAE and UNet."""
    rates: tuple[float, float, float] = (2e-3, 1e-3, 6e-4)
    """Peak learning rates of the stages."""
    batch_sizes: tuple[int, int, int] = (32, 4, 16)
    """Images per update and process."""
    vae_channels: tuple[int, ...] = (16, 32, 48)
    """Widths of the VAE."""
    channels: tuple[int, ...] = (32, 64)
    """Widths of the UNet; text is attended to in the last."""
    seed: int = 0
    """Of the initial weights, the data and the losses."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}.")


class Kept(Dataset[dict[str, Any]]):
    """Endless rows of kept tensors, drawn from (seed, index); images are flipped now and then.

    Args:
        tensors: name -> (n, ...); `images` are (n, 1, side, side) uint8.
        seed: of the draws.
    """

    def __init__(self, tensors: Mapping[str, Tensor], seed: int):
        self.tensors, self.seed = tensors, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row of every tensor; images as floats in [0, 1]."""
        generator = torch.Generator().manual_seed((self.seed << 32) + index)
        rows = len(next(iter(self.tensors.values())))
        row = int(torch.randint(rows, (), generator=generator))
        found = {name: tensor[row] for name, tensor in self.tensors.items()}
        if "images" in found:
            image = found["images"].float() / 255
            found["images"] = image.flip(-1) if torch.rand((), generator=generator) < 0.5 else image
        return found


class Denoiser(nn.Module):
    """UNet and text encoder, which are trained together, and give their own loss."""

    def __init__(self, unet: nn.Module, encoder: nn.Module, scheduler: Any):
        super().__init__()
        self.unet, self.encoder, self.scheduler = unet, encoder, scheduler

    def forward(self, latents: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of latents (b, c, h, w), scaled, and their prompts' tokens (b, tokens)."""
        text = self.encoder(ids)[0]

        def denoise(noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
            return self.unet(noisy, timesteps, text, return_dict=False)[0]

        return noise_loss(denoise, self.scheduler, latents, text, generator).mean()


@one_at_a_time
def train(options: BrainTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Run the stages that are not finished; returns the folder of the weights, or None when time ran out.

    Raises:
        FileNotFoundError: the volumes are missing.
        ValueError: the run was begun with other options.
    """
    from diffusers import DDPMScheduler

    begin_run(options.folder, options, results=[options.folder / f"{stage}.safetensors" for stage in STAGES])
    kept = rendered(options)
    classifier, vae, unet, text = build(options)
    images = {"images": kept["images"]}

    def classify(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        logits, ill = context.modules["classifier"](batch["images"]), (batch["severity"] > 0).float()
        right = ((logits > 0).float() == ill).float().mean()
        return F.binary_cross_entropy_with_logits(logits, ill), {"right": right}

    data = Kept(images | {"severity": kept["severity"]}, options.seed + 1)
    done = _run("classifier", classifier.train(), classify, data, options, log, max_seconds)
    if done is None:
        return None
    classifier = done.eval()
    if log is not None:
        log(f"AUC on the held-out brain: {held_out_auc(classifier, options):.4f}")

    def reconstruct(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        return context.modules["vae"](batch["images"].expand(-1, 3, -1, -1), context.generator)

    done = _run("vae", VAELoss(vae.train()), reconstruct, Kept(images, options.seed + 2), options, log, max_seconds)
    if done is None:
        return None
    vae = done.vae.requires_grad_(False).eval()
    latents = encoded(vae, kept, options)
    scale = set_latent_scale(vae, latents["mean"])

    def denoise(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor]]:
        noise = torch.randn(batch["mean"].shape, generator=context.generator).to(batch["mean"])
        ids = batch["ids"]
        dropped = torch.rand(len(ids), generator=context.generator).to(ids.device) < DROPPED_PROMPTS
        ids = torch.where(dropped[:, None], empty.to(ids.device), ids)
        return context.modules["unet"](scale * (batch["mean"] + batch["std"] * noise), ids, context.generator), {}

    tokenizer = text.tokenizers[0]
    empty = token_ids(tokenizer, [""])
    ids = token_ids(tokenizer, [prompt(severity) for severity in kept["severity"].tolist()]).repeat(2, 1)
    networks = Denoiser(unet.train(), text.encoders[0].train(), DDPMScheduler(**NOISES))
    data = Kept(latents | {"ids": ids}, options.seed + 3)
    done = _run("unet", networks, denoise, data, options, log, max_seconds)
    if done is None:
        return None
    return _finish(options, classifier, vae, done.unet.eval(), text, done.encoder.eval())


def build(options: BrainTraining) -> tuple[SmallClassifier, nn.Module, nn.Module, Any]:
    """The untrained classifier, VAE, UNet and text encoder."""
    classifier = SmallClassifier()
    initialise(classifier, torch.Generator().manual_seed(options.seed))
    tokenizer = word_tokenizer(" , ".join((BASE_PROMPT, *GRADES)).split())
    text = text_encoder(tokenizer, seed=options.seed + 3)
    levels = len(options.vae_channels)
    with torch.device("meta"):
        vae = small_vae(options.vae_channels, 8, sample_size=SIDE)
        attends = [False] * (len(options.channels) - 1) + [True]
        unet = small_unet(
            options.channels, attends, 8, cross_attention_dim=text.encoders[0].config.hidden_size,
            attention_head_dim=4, use_linear_projection=True, sample_size=SIDE // 2 ** (levels - 1),
        )  # fmt: skip
    return classifier, emptied(vae, options.seed + 1), emptied(unet, options.seed + 2), text


def rendered(options: BrainTraining) -> dict[str, Tensor]:
    """The training images: images (n, 1, side, side) uint8, severity (n,); kept in a file."""
    path = options.folder / f"images_{options.images}_{options.seed}.safetensors"
    if not path.exists():
        data = BrainImages(load_mni(options.volumes), options.seed)
        samples = [data[i] for i in range(options.images)]
        tensors = {
            "images": torch.stack([(255 * sample.image).round().to(torch.uint8) for sample in samples]),
            "severity": torch.tensor([sample.severity for sample in samples]),
        }
        with atomic_path(path) as part:
            save_file(tensors, part)
    return read_tensors(path)


@torch.no_grad()
def encoded(vae: nn.Module, kept: Mapping[str, Tensor], options: BrainTraining) -> dict[str, Tensor]:
    """Unscaled posterior of every training image and of its mirror image: mean and std, (2 n, c, h, w); kept."""
    path = options.folder / "latents.safetensors"
    if not path.exists():
        moments = []
        for images in (kept["images"], kept["images"].flip(-1)):
            for part in images.split(64):
                found = vae.encode(2 * part.expand(-1, 3, -1, -1).float() / 255 - 1).latent_dist
                moments.append((found.mean, found.std))
        mean, std = (torch.cat(tensors).contiguous() for tensors in zip(*moments, strict=True))
        with atomic_path(path) as part:
            save_file({"mean": mean, "std": std}, part)
    return read_tensors(path)


@torch.no_grad()
def held_out_auc(classifier: nn.Module, options: BrainTraining, count: int = 600) -> float:
    """Area under the ROC curve of healthy against diseased images of the held-out brain."""
    data = BrainImages(load_colin(options.volumes), options.seed + 1000, healthy=0.5)
    samples = [data[i] for i in range(count)]
    scores = classifier(torch.stack([sample.image for sample in samples]))
    return area_under_curve(scores, torch.tensor([sample.severity > 0 for sample in samples]))


def _run(
    stage: str,
    module: nn.Module,
    loss: Callable[[Any, Context], tuple[Tensor, Mapping[str, Tensor | float]]],
    data: Kept,
    options: BrainTraining,
    log: Log | None,
    max_seconds: float | None,
) -> nn.Module | None:
    """The trained module of a stage; None when time ran out."""
    steps = options.steps[STAGES.index(stage)]
    settings = stage_settings(
        options, STAGES, stage, warmup=min(100, steps // 10), ema_decay=0.998, mixed_precision=half_precision(),
        save_every=250, log_every=min(50, steps),
    )  # fmt: skip
    objective = Objective(stage, module, loss, betas=(0.9, 0.99), weight_decay=1e-3)
    file = options.folder / f"{stage}.safetensors"
    return fit_stage(file, [objective], data, settings, log=log, max_seconds=max_seconds)


def _finish(
    options: BrainTraining, classifier: nn.Module, vae: nn.Module, unet: nn.Module, text: Any, encoder: nn.Module
) -> Path:
    """Write the folder of the weights in half precision."""
    from diffusers import DDIMScheduler

    text = TextEncoders(text.tokenizers, (encoder,))
    scheduler = DDIMScheduler(**NOISES, set_alpha_to_one=False)
    confidence = Confidence(classifier, ClassifierConfig("small", SIDE))
    editor = PIEEditor(unet, vae, text, scheduler, BRAIN, confidence)
    return publish(options.folder / "weights", lambda part: editor.save_pretrained(part, torch.float16))
