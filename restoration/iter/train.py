"""Training of the published ITER network in its three stages.

    burnish train iter --stage vqgan --images HQ --folder runs/iter
    burnish train iter --stage distortion --images HQ --folder runs/iter --start runs/iter/vqgan
    burnish train iter --stage refine --images HQ --folder runs/iter --start runs/iter/distortion

Every stage goes on from its own checkpoint and ends with the folder `<folder>/<stage>`; that of the last two is what
`ITERRestorer.from_pretrained` loads. The defaults are the authors': Adam 1e-4 (betas 0.9, 0.99) without decay, 400 000
updates of 4 x 4 crops of 320 pixels on each of 8 GPUs (`accelerate launch --num_processes 8`, mixed_precision bf16).
At that scale a stage takes days; the tests run each for a few updates on tiny networks.

- `vqgan`: L1 + LPIPS + (1 - SSIM) + quantiser + 0.1 hinge; the U-Net discriminator is trained from the first update.
- `distortion`: cross entropy of the distortion-removal encoder with the codes of the good picture (stage 2 of the
  paper).
- `refine`: encoder, evaluation and refinement net together, as the published code trains stages 2 and 3. It may start
  from a `vqgan` folder at once, as the authors did, or from a finished network of another scale: tensors that fit are
  taken.

Differences from the published code, none of which changes a gradient: the picture of the encoder's tokens, whose
losses reach no weight there, is not made; nor is the unused random draw of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.data import DegradedImages, PairedImages
from restoration.iter.model import Observed
from restoration.iter.options import ITERConfig
from restoration.iter.published import PublishedConfig, PublishedITER
from restoration.iter.restorer import ITERRestorer
from restoration.iter.vqgan import SwinVQGAN, UNetDiscriminatorSN
from restoration.recipes import recipe
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.config import save_config
from vision.losses import (
    class_balanced_cross_entropy,
    discriminator_loss,
    generator_loss,
    l1,
    load_perceptual,
    ssim_loss,
)
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective
from vision.weights import read_tensors

Logs = Mapping[str, Tensor | float]


@dataclass(frozen=True)
class ITERTraining(TrainOptions):
    """One stage of the published recipe."""

    stage: Literal["vqgan", "distortion", "refine"] = "vqgan"
    """What to train."""
    images: Path = Path("images")
    """Folder of good pictures."""
    low: Path | None = None
    """Folder of their bad versions under the same names; None degrades on the fly."""
    degradation: str = "bsrgan_light"
    """Recipe of the degradation on the fly: bicubic, bsrgan, bsrgan_light, bsrgan_strong, realesrgan or blind."""
    folder: Path = Path("runs/iter")
    """Runs go to a folder in it that is named after the stage."""
    start: Path | None = None
    """Finished folder to take weights from; distortion and refine need one with a trained VQGAN."""
    network: PublishedConfig = field(default_factory=PublishedConfig)
    """Sizes of the network."""
    discriminator_channels: int = 64
    """Width of the discriminator."""
    crop: int = 320
    """Pixels per side of the crops of good pictures."""
    steps: int = 400_000
    """Optimiser updates."""
    batch_size: int = 4
    """Crops per process and micro-batch."""
    accumulate: int = 4
    """Micro-batches per update."""
    learning_rate: float = 1e-4
    """Of the generator and the token nets; the discriminator has four times as much."""
    perceptual: float = 1.0
    """Weight of LPIPS on VGG; needs its weights on this machine."""
    adversarial: float = 0.1
    """vqgan: weight of the adversarial loss."""
    save_every: int = 1000
    """Updates between checkpoints."""
    log_every: int = 100
    """Updates between log rows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in ("vqgan", "distortion", "refine"):
            raise ValueError(f"stage must be vqgan, distortion or refine, got {self.stage}.")
        unit = self.network.vqgan.stride * self.network.vqgan.window
        if self.crop < unit or self.crop % unit:
            raise ValueError(f"crop must be a multiple of {unit}, got {self.crop}.")
        if self.stage != "vqgan" and self.start is None:
            raise ValueError(f"stage {self.stage} needs start: the folder of a trained vqgan.")
        for name in ("perceptual", "adversarial"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")


def vqgan_loss(
    picture: Tensor,
    target: Tensor,
    quantiser: Tensor,
    fake_logits: Tensor | None = None,
    perceptual: Tensor | None = None,
    weights: tuple[float, float] = (1.0, 0.1),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the VQGAN and its parts.

    Args:
        picture: reconstruction (b, 3, H, W) in [0, 1].
        target: (b, 3, H, W), the picture that was encoded.
        quantiser: the codebook's loss.
        fake_logits: of the discriminator on the reconstruction; None leaves the adversarial part out.
        perceptual: (b,) distances; None leaves them out.
        weights: of the perceptual and of the adversarial part.
    """
    parts = {"l1": l1(picture, target), "ssim": ssim_loss(picture, target), "quantiser": quantiser}
    total = parts["l1"] + parts["ssim"] + quantiser
    if perceptual is not None:
        parts["perceptual"] = perceptual.mean()
        total = total + weights[0] * parts["perceptual"]
    if fake_logits is not None:
        parts["adversarial"] = generator_loss("hinge", fake_logits)
        total = total + weights[1] * parts["adversarial"]
    return total, parts


@dataclass(frozen=True)
class TokenChance:
    """Random numbers of one training step of the token nets, for b grids of h x w tokens."""

    rates: Tensor
    """(b,) uniform: masked share is cos(pi / 2 u)."""
    positions: Tensor
    """(b, 1, h, w) uniform: the largest are masked."""
    gumbel: Tensor
    """(b, n, h, w) exponential: of the straight-through draw that is decoded."""

    @staticmethod
    def draw(target: Tensor, num_codes: int, generator: torch.Generator) -> TokenChance:
        """For targets (b, 1, h, w), on their device."""
        b, _, h, w = target.shape
        rates = torch.rand(b, generator=generator)
        positions = torch.rand(b, 1, h, w, generator=generator)
        gumbel = torch.empty(b, num_codes, h, w).exponential_(1, generator=generator)
        return TokenChance(*(x.to(target.device) for x in (rates, positions, gumbel)))


@dataclass(frozen=True)
class TokenLosses:
    """What the token nets lose in one step."""

    encoder: Tensor
    """Cross entropy of the distortion-removal encoder."""
    trust: Tensor
    """Class-balanced cross entropy of the evaluation net on the encoder's tokens."""
    refine_per_token: Tensor
    """(b, h * w): cross entropy of the refinement net."""
    masked: Tensor
    """(b,): share of masked positions, the weight of an image."""
    critic: Tensor
    """Cross entropy of the evaluation net on the refined tokens."""
    encoder_logits: Tensor
    """(b, n, h, w)."""
    logits: Tensor
    """(b, n, h, w) of the refinement net."""
    trusted: Tensor
    """(b, 1, h, w): encoder tokens that the evaluation net accepts."""
    right: Tensor
    """(b, 1, h, w) bool: encoder tokens that are right."""
    accepted: Tensor
    """(b, 1, h, w): refined tokens that the evaluation net accepts."""
    refined_right: Tensor
    """(b, 1, h, w) bool: refined tokens that are right."""

    @property
    def refine(self) -> Tensor:
        """Mean over all positions, visible ones too, weighted by each image's masked share; scalar."""
        return (self.refine_per_token * self.masked[:, None]).mean()

    @property
    def total(self) -> Tensor:
        """Sum of the four, scalar."""
        return self.encoder + self.trust + self.critic + self.refine


def visible_targets(rates: Tensor, positions: Tensor) -> Tensor:
    """Mask (b, 1, h, w), 1 = visible: the largest cos(pi / 2 u) h w of the uniforms are hidden, at least one."""
    flat = positions.flatten(1)
    hidden = (torch.cos(math.pi / 2 * rates) * flat.shape[1]).long().clamp(min=1)
    smallest_hidden = flat.sort(1, descending=True).values.gather(1, hidden[:, None] - 1)
    return (flat < smallest_hidden).to(positions.dtype).view(positions.shape)


def straight_through(logits: Tensor, exponential: Tensor) -> Tensor:
    """One-hot draw (b, n, h, w) whose gradient is the Gumbel softmax's at temperature 1 (Jang et al. 2017)."""
    soft = (logits.float() - exponential.log()).softmax(1)
    hard = F.one_hot(soft.argmax(1), soft.shape[1]).movedim(-1, 1).to(soft)
    return hard - soft.detach() + soft


def token_losses(model: PublishedITER, low: Tensor, target: Tensor, chance: TokenChance) -> TokenLosses:
    """The losses of stages 2 and 3 as the published code computes them.

    Args:
        model: the network.
        low: bad pictures (b, 3, h, w) in [0, 1], sides multiples of the network's unit.
        target: codes (b, 1, th, tw) of the good pictures.
        chance: random numbers.
    """
    encoder_logits = model.lq_encoder(low)
    first = encoder_logits.argmax(1, keepdim=True)
    observed, right = Observed(first, {}), first == target
    trust_logits = model.confidence(observed, first)
    trusted = trust_logits.argmax(1, keepdim=True).to(low.dtype)
    visible = visible_targets(chance.rates, chance.positions).to(low.dtype)
    logits = model.token_logits(observed, trusted, target, visible)
    refined = logits.argmax(1, keepdim=True)
    refined_right = refined == target
    critic_logits = model.confidence(observed, refined)
    return TokenLosses(
        encoder=F.cross_entropy(encoder_logits, target[:, 0]),
        trust=class_balanced_cross_entropy(trust_logits, right[:, 0].long()),
        refine_per_token=F.cross_entropy(logits, target[:, 0], reduction="none").flatten(1),
        masked=1 - visible.mean((1, 2, 3)),
        critic=F.cross_entropy(critic_logits, refined_right[:, 0].long()),
        encoder_logits=encoder_logits,
        logits=logits,
        trusted=trusted,
        right=right,
        accepted=critic_logits.argmax(1, keepdim=True).to(low.dtype),
        refined_right=refined_right,
    )


class _TokenStage(nn.Module):
    """The network of the last two stages; `forward` is the loss, so that several processes average its gradients."""

    def __init__(self, model: PublishedITER, joint: bool, perceptual: nn.Module | None, weight: float):
        super().__init__()
        self.model, self.joint, self.perceptual, self.weight = model, joint, perceptual, weight
        model.requires_grad_(False)
        model.lq_encoder.requires_grad_(True)
        if joint:
            model.token_refine_net.requires_grad_(True)

    def forward(self, high: Tensor, low: Tensor, generator: torch.Generator) -> tuple[Tensor, Logs]:
        target = self.model.target_tokens(high)
        if not self.joint:
            logits = self.model.lq_encoder(low)
            return F.cross_entropy(logits, target[:, 0]), {"right": (logits.argmax(1, keepdim=True) == target).float()}
        chance = TokenChance.draw(target, self.model.vqgan.config.num_codes, generator)
        losses = token_losses(self.model, low, target, chance)
        total = losses.total
        logs = {name: getattr(losses, name) for name in ("encoder", "trust", "refine", "critic")}
        logs |= {"right": losses.right.float(), "refined_right": losses.refined_right.float()}
        if self.perceptual is not None:
            picture = self.model.vqgan.decode_onehot(straight_through(losses.logits, chance.gumbel))
            logs["perceptual"] = self.perceptual(picture, high).mean()
            # The authors average over two pictures; one of them has no gradient.
            total = total + 0.5 * self.weight * logs["perceptual"]
        return total, logs


@one_at_a_time
def train(options: ITERTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Run one stage and return its folder, or None when `max_seconds` ran out before its last update.

    Raises:
        ValueError: the pictures, the start or the perceptual loss are not there or do not fit, or the run was begun
            with other options or data.
    """
    run, result = options.folder / f"{options.stage}-run", options.folder / options.stage
    begin_run(run, options, data=("images", "low", "start"), results=[result])
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(options.seed)
        model = PublishedITER(options.network)
        discriminator = UNetDiscriminatorSN(3, options.discriminator_channels)
    if options.start is not None:
        _take_weights(model, options.start, needs_vqgan=options.stage != "vqgan", log=log)
    perceptual = load_perceptual() if options.perceptual and options.stage != "distortion" else None
    settings = replace(options, folder=run, log_every=min(options.log_every, options.steps))
    if options.stage == "vqgan":
        objectives = vqgan_objectives(model.vqgan, discriminator, perceptual, options)
    else:
        stage = _TokenStage(model, options.stage == "refine", perceptual, options.perceptual)
        objectives = [Objective(options.stage, stage, _token_loss(options.stage))]
    if fit(objectives, _data(options), settings, log=log, max_seconds=max_seconds) is None:
        return None
    return _save(model.requires_grad_(False).eval(), options)


def vqgan_objectives(
    vqgan: SwinVQGAN, discriminator: nn.Module, perceptual: nn.Module | None, options: ITERTraining
) -> list[Objective]:
    """The generator's and the discriminator's objective of stage 1; batches hold good pictures under "high"."""

    def generate(batch: Any, context: Context) -> tuple[Tensor, Logs]:
        high = batch["high"]
        picture, _, quantiser = context.modules["vqgan"](high)
        logits = context.modules["discriminator"](picture) if options.adversarial else None
        distance = None
        if perceptual is not None:
            distance = perceptual.to(high.device)(picture, high)
        return vqgan_loss(picture, high, quantiser, logits, distance, (options.perceptual, options.adversarial))

    def discriminate(batch: Any, context: Context) -> tuple[Tensor, Logs]:
        net = context.modules["discriminator"]
        with torch.no_grad():
            picture, _, _ = context.modules["vqgan"](batch["high"])
        real = discriminator_loss("hinge", net(batch["high"]), True)
        fake = discriminator_loss("hinge", net(picture), False)
        return real + fake, {"real": real, "fake": fake}

    objectives = [Objective("vqgan", vqgan, generate)]
    if options.adversarial:
        rate = 4 * options.learning_rate
        objectives.append(Objective("discriminator", discriminator, discriminate, learning_rate=rate))
    return objectives


def _token_loss(name: str) -> Callable[[Any, Context], tuple[Tensor, Logs]]:
    def loss(batch: Any, context: Context) -> tuple[Tensor, Logs]:
        return context.modules[name](batch["high"], batch["low"], context.generator)

    return loss


def _data(options: ITERTraining) -> Dataset[dict[str, Tensor]]:
    """Endless samples {"high", "low"}; stage 1 does without bad pictures."""
    endless = 2**31
    if options.stage == "vqgan":
        how = replace(recipe("bicubic"), scale=1)
    elif options.low is not None:
        return PairedImages(
            options.images,
            options.low,
            crop=options.crop,
            augment=True,
            rescale=True,
            seed=options.seed,
            repeats=endless,
        )
    else:
        how = replace(recipe(options.degradation), scale=options.network.scale)
    return DegradedImages(options.images, how, crop=options.crop, seed=options.seed, repeats=endless)


def _take_weights(model: PublishedITER, folder: Path, needs_vqgan: bool, log: Log | None = None) -> None:
    """Copy what fits from a finished folder."""
    files = [folder / name for name in ("model.safetensors", "vqgan.safetensors") if (folder / name).exists()]
    if not files:
        raise FileNotFoundError(f"There are no weights in the start folder {folder}.")
    found = read_tensors(files[0])
    own = model.state_dict()
    fitting = {name: value for name, value in found.items() if name in own and value.shape == own[name].shape}
    missing = [name for name in own if name not in fitting]
    lacking = [name for name in missing if name.startswith("vqgan.")]
    if needs_vqgan and lacking:
        raise ValueError(f"{files[0]} lacks {len(lacking)} tensors of this VQGAN, the first is {lacking[0]}.")
    model.load_state_dict(fitting, strict=False)
    if log is not None:
        log(f"{len(fitting)} tensors come from {files[0]}, {len(missing)} start from random numbers")


def _save(model: PublishedITER, options: ITERTraining) -> Path:
    """The finished folder: a restorer, or the VQGAN alone."""
    config = ITERConfig("published", options.network, tile=512 // options.network.scale)

    def save(folder: Path) -> None:
        if options.stage != "vqgan":
            ITERRestorer(model, config).save_pretrained(folder)
            return
        tensors = {f"vqgan.{name}": value.contiguous() for name, value in model.vqgan.state_dict().items()}
        save_file(tensors, folder / "vqgan.safetensors")
        save_config(config, folder / "config.json")

    return publish(options.folder / options.stage, save)
