"""Training of the small default network (see `mini.py`) in four stages.

    burnish train iter --recipe mini --photos photos --variant clean
    burnish train iter --recipe mini --photos photos --variant photo
    burnish train iter --recipe tune --photos my_photos

`photos` is a folder of good photographs: your own, or the ones that the weights in the project were made from
(`vision/photos.py` tells how to get them). Each command writes checkpoints, goes on from them when it is started again,
and ends with the folder `<folder>/<variant>/weights`, which `ITERRestorer.from_pretrained` loads. `--start` grows the
base from that of smaller weights, or goes on from equal ones.

1. `base`: mean absolute error of the deterministic picture.
2. `sharpen` (variant photo only): the base learns to be sharp. A small network cannot learn that from the truth alone,
   because the truth is not determined by the input; what Real-ESRGAN x4plus makes of the input is. Absolute error
   against truth and teacher; against the teacher alone edges, deep features and their statistics, losses of patterns
   that repeat and of dots, and a small discriminator that tells the network's details from the teacher's: the grain of
   the truth is not in the input, and a small network that is held to it puts dots where it is not sure. Letters, line
   art and clean inputs, where the truth takes the teacher's place, have a squared error alone: what is not sure stays
   soft, and is not another letter. The weights may be blended with those from before (`--blend`; network interpolation,
   Wang et al. 2018, ESRGAN, section 3.4). Without the packages of the teacher and of the deep features this stage
   cannot run (`--teacher none` leaves it out).
3. `tokeniser`: a training-only encoder, the codebook and the decoder learn what the base's picture lacks, and the
   activity map how much that is (base frozen).
4. `tokens`: first tokens, critic and refiner learn as the paper's section 3.3 and the published code do (masking ratio
   cos(pi u / 2), class-balanced critic at the start, per-token losses), all else frozen.

Data: photographs, halved once and twice, and a share of crops drawn by code (`restoration/drawn.py`). Variant `clean`
sees MATLAB-bicubic inputs, `photo` kept lessons (`lessons.py`) of the mixture `PHOTO_MIXTURE` of degradations. Times
and measured results stand in the model card beside the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.degradation import Draws, degrade
from restoration.drawn import drawn_crop
from restoration.iter.lessons import Lessons, choose, make_lessons, random_crop
from restoration.iter.mini import MiniConfig, MiniITER, ResidualBlock
from restoration.iter.model import Observed
from restoration.recipes import recipe
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.efficientnet import feature_maps, load_efficientnet
from vision.images import box_mean, load_image
from vision.losses import (
    artefact_difference,
    class_balanced_cross_entropy,
    discriminator_loss,
    generator_loss,
    gradient_difference,
    pattern_difference,
    statistics_difference,
)
from vision.photos import collect_photos
from vision.training import fit_stage
from vision.training_options import stage_settings
from vision.training_run import Context, Objective

STAGES = ("base", "sharpen", "tokeniser", "tokens")

CLEAN_MIXTURE = {"bicubic": 1.0}
PHOTO_MIXTURE = {"bsrgan_light": 0.25, "realesrgan": 0.25, "bsrgan": 0.2, "bsrgan_strong": 0.15, "bicubic": 0.15}
"""Shares of the degradations that the variant `photo` is trained on."""
EDGES, FEATURES, STATISTICS, PATTERN, ARTEFACTS, ADVERSARIAL = 0.3, 0.08, 0.1, 3.0, 25.0, 0.05
"""Weights of the losses of `sharpen` beside the absolute error."""
SQUARED = 10.0
"""Weight of the squared error where there is no teacher."""
TONE = 31
"""Side, in pixels, of the boxes whose mean colours the teacher takes from the truth."""
TEACHING = 0.75
"""Share of the teacher in the picture that `sharpen` measures the absolute error against; the rest is the truth."""


@dataclass(frozen=True)
class MiniTraining:
    """The recipe of the small default."""

    photos: Path = Path("photos")
    """Folder below which the photographs lie."""
    folder: Path = Path("runs/iter-mini")
    """Runs go to a folder in it that is named after the variant."""
    variant: Literal["clean", "photo"] = "clean"
    """Degradations to learn."""
    start: str | None = None
    """Weights to start from (clean or photo of the embedded default, or a folder); those of a smaller network grow."""
    teacher: Literal["x4plus", "none"] = "x4plus"
    """Network that the variant photo learns sharpness from."""
    lessons: int = 1408
    """Kept crops of the variant photo."""
    lesson_size: int = 256
    """Pixels per side of a kept crop."""
    drawn: float = 0.25
    """Share of crops that are drawn by code: text, line art, flat colours."""
    discriminator_channels: int = 24
    """Width of the network that `sharpen` learns against; 0: none."""
    blend: float = 0.75
    """Share of the sharpened base in the base; the rest is as it was before `sharpen`."""
    steps: tuple[int, int, int, int] = (5000, 4000, 1500, 3000)
    """Updates of the four stages."""
    rates: tuple[float, float, float, float] = (5e-4, 2e-4, 1e-3, 1e-3)
    """Peak learning rates of the four stages."""
    crop: int = 160
    """Pixels per side of the high-resolution crops."""
    batch_sizes: tuple[int, int, int, int] = (8, 8, 8, 8)
    """Crops per update and process in the four stages."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Numbers of the networks while they learn; bf16 takes half the time on processors that have it."""
    texture: float = 1.0
    """Share of the sampled texture, in [0, 1], that the weights recommend as the default of a call."""
    seed: int = 0
    """Of the initial weights, the data and the losses."""
    workers: int = 1
    """Processes that load data."""
    network: MiniConfig = field(
        default_factory=lambda: MiniConfig(
            channels=64, base_blocks=16, step_channels=32, activity_channels=16, tone_pixels=7
        )
    )
    """Sizes of the network."""

    def __post_init__(self) -> None:
        if self.crop % self.network.scale:
            raise ValueError(f"crop must be a multiple of the scale {self.network.scale}, got {self.crop}.")
        if not 0 <= self.drawn <= 1:
            raise ValueError(f"drawn is a share in [0, 1], got {self.drawn}.")
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend is a share in (0, 1], got {self.blend}.")
        if self.discriminator_channels and self.variant == "photo" and self.crop % 8:
            raise ValueError(f"crop must be a multiple of 8 for the discriminator of photo, got {self.crop}.")


@dataclass(frozen=True)
class TuneTraining(MiniTraining):
    """Tune the weights that come with the project on a folder of your own photographs."""

    folder: Path = Path("runs/iter-tuned")
    """Runs go to a folder in it that is named after the variant."""
    variant: Literal["clean", "photo"] = "photo"
    """Degradations to learn."""
    start: str | None = "photo"
    """Weights to start from (clean or photo of the embedded default, or a folder); those of a smaller network grow."""
    lessons: int = 320
    """Kept crops of the variant photo."""
    steps: tuple[int, int, int, int] = (100, 300, 200, 400)
    """Updates of the four stages."""
    rates: tuple[float, float, float, float] = (1e-4, 1e-4, 3e-4, 3e-4)
    """Peak learning rates of the four stages."""


class SharpPairs(Dataset[dict[str, Tensor]]):
    """Random crops with something to see in them, flipped and transposed, and their degraded versions.

    Item i depends on (seed, i) alone.

    Args:
        paths: files of good photographs.
        size: pixels per side of the crops.
        mixture: shares of degradations by their names.
        drawn: share of crops that are drawn by code.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        size: int,
        mixture: Mapping[str, float],
        scale: int = 4,
        seed: int = 0,
        drawn: float = 0.0,
    ):
        self.paths, self.size, self.mixture, self.scale = list(paths), size, dict(mixture), scale
        self.seed, self.drawn = seed, drawn
        self.images = [np.asarray(load_image(path).rgb) for path in self.paths]

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """hr (3, size, size) and lr (3, size / scale, size / scale), float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        drawn = rng.random() < self.drawn
        crop = drawn_crop(rng, self.size) if drawn else random_crop(self.images, self.size, rng)
        hr = torch.from_numpy(crop.transpose(2, 0, 1).copy()).float() / 255
        how = changed(recipe(choose(self.mixture, rng.random())), scale=self.scale)
        return {"hr": hr, "lr": degrade(hr, how, Draws.seeded(self.seed, index))}


class TokenEncoder(nn.Module):
    """What the base's picture lacks, as one code vector per low-resolution pixel; needed in training only."""

    def __init__(self, config: MiniConfig, blocks: int = 3):
        super().__init__()
        c, self.scale = config.channels, config.scale
        self.head = nn.Conv2d(6 * config.scale**2, c, 3, padding=1)
        self.blocks = nn.Sequential(*[ResidualBlock(c) for _ in range(blocks)])
        self.tail = nn.Conv2d(c, config.code_dim, 1)

    def forward(self, hr: Tensor, picture: Tensor) -> Tensor:
        """Pictures (b, 3, H, W) -> code vectors (b, d, H / scale, W / scale)."""
        x = F.pixel_unshuffle(torch.cat([4 * (hr - picture), picture - 0.5], 1), self.scale)
        return self.tail(self.blocks(self.head(x)))


class Networks(nn.Module):
    """The network with its training-only encoder; `forward` computes the loss of a stage."""

    def __init__(self, config: MiniConfig, judge: nn.Module | None = None):
        super().__init__()
        self.model, self.encoder = MiniITER(config), TokenEncoder(config)
        self.judge = (judge,)  # a tuple, so that the frozen network is no part of this module

    def train_only(self, stage: str) -> Networks:
        """Let gradients reach only what this stage trains."""
        model = self.model
        parts: dict[str, list[nn.Module | nn.Parameter]] = {
            "base": [model.base],
            "sharpen": [model.base],
            "tokeniser": [self.encoder, model.codebook, model.decoder, *filter(None, [model.activity])],
            "tokens": [model.first_tokens, model.critic, model.refiner],
        }
        self.requires_grad_(False)
        for part in parts[stage]:
            part.requires_grad_(True)
        return self

    def forward(self, stage: str, batch: dict[str, Tensor], context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs of a stage on hr (b, 3, H, W) and lr (b, 3, h, w)."""
        hr, lr = (batch[name].contiguous(memory_format=torch.channels_last) for name in ("hr", "lr"))
        if stage == "sharpen":
            return self.sharpen(hr, lr, batch["teacher"], context)
        return {"base": self.base, "tokeniser": self.tokeniser, "tokens": self.tokens}[stage](hr, lr, context)

    def base(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute error, scalar, of the deterministic picture; `hr` (b, 3, 4 * h, 4 * w), `lr` (b, 3, h, w)."""
        return F.l1_loss(self.model.base(lr)[1], hr), {}

    def sharpen(self, hr: Tensor, lr: Tensor, teacher: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance to truth and teacher (b, 3, 4 * h, 4 * w), and of details from the teacher's; scalar.

        Details count where there is a teacher: letters and clean inputs, whose teacher is the truth, keep to that.
        """
        picture = self.model.base(lr)[1].float()
        teacher = _toned(teacher, hr)
        sharp, taught = _taught(hr, teacher, picture, teacher)
        (judge,) = self.judge
        with torch.no_grad():
            taught_maps = feature_maps(judge, taught)
        maps = feature_maps(judge, sharp)
        pairs = zip(maps, taught_maps, strict=True)
        terms = {
            "error": (1.0, _error(picture, hr, teacher)),
            "edges": (EDGES, gradient_difference(sharp, taught)),
            "features": (
                FEATURES,
                torch.stack([F.l1_loss(found, other) / other.abs().mean() for found, other in pairs]).mean(),
            ),
            "statistics": (STATISTICS, statistics_difference(maps, taught_maps)),
            "pattern": (PATTERN, pattern_difference(sharp, taught)),
            "artefacts": (ARTEFACTS, artefact_difference(sharp, taught)),
        }
        if "discriminator" in context.modules:
            context.shared["picture"] = picture.detach()
            logits = context.modules["discriminator"](sharp)
            terms["adversarial"] = (ADVERSARIAL, generator_loss("vanilla", logits.float()))
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return loss, {name: term for name, (_, term) in terms.items()} | {"error_of_truth": F.l1_loss(picture, hr)}

    def tokeniser(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute error of the picture decoded from the true tokens, and the quantiser's loss, scalar; `hr` and `lr`
        are (b, 3, 4 * h, 4 * w) and (b, 3, h, w)."""
        with torch.no_grad():
            features, picture = self.model.base(lr)
        vectors = self.encoder(hr, picture).float()
        if context.step % 100 == 0 and context.step < 2000:
            self._revive_codes(vectors, context)
        codes = self.model.codebook[self._nearest(vectors)].permute(0, 3, 1, 2)
        quantiser = F.mse_loss(codes, vectors.detach()) + 0.25 * F.mse_loss(vectors, codes.detach())
        out = picture + self.model.decoder(vectors + (codes - vectors).detach(), features)
        error = F.l1_loss(out, hr)
        logs = {"error": error, "error_of_base": F.l1_loss(picture, hr), "quantiser": quantiser}
        loss = error + 0.1 * quantiser
        if self.model.activity is not None:
            lacking = F.avg_pool2d((hr - picture).abs().mean(1, keepdim=True), self.model.scale)
            logs["activity"] = F.mse_loss(self.model.activity(features), lacking).sqrt()
            loss = loss + 0.1 * logs["activity"]
        return loss, logs

    def tokens(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropies of first tokens, critic (twice) and refiner, as the published code sums them, scalar; `hr`
        and `lr` are (b, 3, 4 * h, 4 * w) and (b, 3, h, w)."""
        model = self.model
        with torch.no_grad():
            features, picture = model.base(lr)
            target = self._nearest(self.encoder(hr, picture).float())
        first_logits = model.first_tokens(features, [], [])
        first = first_logits.detach().argmax(1, keepdim=True)
        observed = Observed(first, {"features": features})
        first_loss = F.cross_entropy(first_logits, target)
        trust_logits = model.confidence(observed, first)
        right = first[:, 0] == target
        trust_loss = class_balanced_cross_entropy(trust_logits, right.long())
        trusted = trust_logits.detach().argmax(1, keepdim=True).float()

        b, h, w = target.shape
        ratio = torch.cos(torch.rand(b, generator=context.generator) * math.pi / 2)
        noise = torch.rand(b, h * w, generator=context.generator)
        hidden = (ratio * h * w).long().clamp(min=1)
        kept = (noise.argsort(1).argsort(1) >= hidden[:, None]).view(b, 1, h, w).to(hr)
        logits = model.token_logits(observed, trusted, target[:, None], kept)
        weight = 1 - kept.mean((1, 2, 3))
        refine_loss = (F.cross_entropy(logits, target, reduction="none").mean((1, 2)) * weight).mean()
        guess = logits.detach().argmax(1, keepdim=True)
        agrees = guess[:, 0] == target
        critic_loss = F.cross_entropy(model.confidence(observed, guess), agrees.long())
        logs = {
            "first": first_loss,
            "first_right": right.float().mean(),
            "refine": refine_loss,
            "refined_right": agrees.float().mean(),
            "trust": trust_loss,
            "critic": critic_loss,
        }
        return first_loss + trust_loss + refine_loss + critic_loss, logs

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        """Code numbers (b, h, w) of vectors (b, d, h, w)."""
        flat = vectors.permute(0, 2, 3, 1).reshape(-1, vectors.shape[1])
        book = self.model.codebook
        with torch.autocast(flat.device.type, enabled=False):
            distances = book.square().sum(1) - 2 * flat @ book.T
        return distances.argmin(1).view(vectors.shape[0], *vectors.shape[2:])

    @torch.no_grad()
    def _revive_codes(self, vectors: Tensor, context: Context) -> None:
        """Put codes that no vector of the batch chose onto random vectors of it."""
        counts = torch.bincount(self._nearest(vectors).flatten(), minlength=len(self.model.codebook))
        dead = (counts == 0).nonzero()[:, 0]
        flat = vectors.permute(0, 2, 3, 1).reshape(-1, vectors.shape[1])
        chosen = torch.randint(len(flat), (len(dead),), generator=context.generator).to(flat.device)
        self.model.codebook[dead] = flat[chosen]
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(self.model.codebook, 0)


def _error(picture: Tensor, hr: Tensor, teacher: Tensor) -> Tensor:
    """Absolute error of pictures (b, 3, H, W) to truth and teacher, scalar; squared where there is no teacher.

    The median of what a smeared letter may have been is another letter; the mean is a soft one.
    """
    off, own = (picture - hr.lerp(teacher, TEACHING)).abs(), (teacher != hr).flatten(1).any(1)
    return torch.where(own[:, None, None, None], off, SQUARED * off.square()).mean()


def _toned(teacher: Tensor, hr: Tensor) -> Tensor:
    """The teacher's details with the colours of the truth around them, (b, 3, H, W): its flat colours drift."""
    return teacher + box_mean(hr - teacher, min(TONE, 2 * (min(hr.shape[-2:]) // 2) - 1))


def _taught(hr: Tensor, teacher: Tensor, *pictures: Tensor) -> list[Tensor]:
    """Of pictures (b, 3, H, W) the items whose teacher is not the truth; all of them where there is none."""
    own = (teacher != hr).flatten(1).any(1)
    chosen = own if own.any() else torch.ones_like(own)
    return [picture[chosen].contiguous(memory_format=torch.channels_last) for picture in pictures]


class DetailDiscriminator(nn.Module):
    """Real or generated, per 8 x 8 pixels, from details alone: what blurs over 5 x 5 and 9 x 9 pixels take away.

    Details are where a small network's pictures differ from sharp ones, as blur and as a weave that repeats with the
    enlargement; a discriminator of whole pictures (Real-ESRGAN's U-Net) saw neither within a thousand updates.
    """

    def __init__(self, channels: int, gain: float = 8.0):
        super().__init__()
        self.gain, c = gain, channels
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(24, 2 * c, 3, padding=1), nn.LeakyReLU(0.2)]
        for inner in (2 * c, 4 * c):
            layers += [nn.Conv2d(inner, 4 * c, 4, stride=2, padding=1, bias=False)]
            layers += [nn.GroupNorm(2, 4 * c), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * c, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        """(b, 3, H, W), sides multiples of 8 -> logits (b, 1, H / 8, W / 8)."""
        details = [image - box_mean(image, side) for side in (5, 9)]
        return self.layers(self.gain * torch.cat(details, 1))


def discriminate(batch: dict[str, Tensor], context: Context) -> tuple[Tensor, dict[str, Tensor]]:
    """How badly the discriminator tells the teacher's pictures (b, 3, H, W) from this update's; scalar."""
    net, teacher = context.modules["discriminator"], batch["teacher"]
    real, fake = (net(x) for x in _taught(batch["hr"], teacher, teacher, context.shared["picture"]))
    loss = discriminator_loss("vanilla", real.float(), True) + discriminator_loss("vanilla", fake.float(), False)
    return loss, {"real": real.sigmoid().mean(), "fake": fake.sigmoid().mean()}


@one_at_a_time
def train(options: MiniTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Run the stages that are not finished and return the folder of the weights, or None when time ran out."""
    from restoration.iter.options import ITERConfig
    from restoration.iter.restorer import ITERRestorer

    folder = options.folder / options.variant
    stages = [folder / f"{stage}.safetensors" for stage in STAGES]
    begin_run(folder, options, data=("start",), results=stages)
    paths = collect_photos(options.photos, options.folder / "pictures")
    taught = options.variant == "photo" and options.teacher != "none"
    data: dict[str, Any] = {}
    if options.variant == "photo":
        where = options.folder / "lessons"
        chosen = {"size": options.lesson_size, "drawn": options.drawn, "taught": taught, "seed": options.seed}
        chosen |= {"bf16": options.mixed_precision == "bf16"}
        files = make_lessons(paths, where, options.lessons, PHOTO_MIXTURE, **chosen, log=log)
        data["photo"] = lambda seed: Lessons(files, options.crop, seed)
    else:
        data["clean"] = lambda seed: SharpPairs(
            paths, options.crop, CLEAN_MIXTURE, options.network.scale, seed, options.drawn
        )
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(options.seed)
        networks = Networks(options.network, load_efficientnet(2) if taught else None)
        discriminator = DetailDiscriminator(options.discriminator_channels or 1)
    networks.to(memory_format=torch.channels_last)
    discriminator.to(memory_format=torch.channels_last)
    if options.start is not None:
        named = {"variant": options.start} if options.start in ("clean", "photo") else {"source": options.start}
        grow(networks.model, ITERRestorer.from_pretrained(**named).model)
    for stage in STAGES:
        if stage == "sharpen" and not taught:
            continue
        settings = stage_settings(options, STAGES, stage, folder=folder, fall=1000)

        def loss(batch: Any, context: Context, stage: str = stage) -> tuple[Tensor, dict[str, Tensor]]:
            return context.modules["networks"](stage, batch, context)

        objectives = [Objective("networks", networks.train_only(stage), loss)]
        if stage == "sharpen" and options.discriminator_channels:
            objectives.append(
                Objective("discriminator", discriminator, discriminate, learning_rate=2 * settings.learning_rate)
            )
        file = folder / f"{stage}.safetensors"
        samples = data[options.variant](settings.seed)
        before = copy.deepcopy(networks.model.base.state_dict())
        trained = fit_stage(file, objectives, samples, settings, log=log, max_seconds=max_seconds)
        if trained is None:
            return None
        networks.load_state_dict(trained.state_dict())
        if stage == "sharpen":
            sharp = networks.model.base.state_dict()
            blended = {name: value.lerp(sharp[name], options.blend) for name, value in before.items()}
            networks.model.base.load_state_dict(blended)
    reach = 4 * math.ceil((networks.model.receptive_field + 1) / 4)
    config = ITERConfig(
        "mini", mini=options.network, padding="minimal", tile=256, tile_overlap=reach, texture=options.texture
    )
    restorer = ITERRestorer(networks.model.requires_grad_(False), config)
    return publish(folder / "weights", lambda part: restorer.save_pretrained(part, dtype=torch.float16))


@torch.no_grad()
def grow(model: MiniITER, smaller: nn.Module) -> None:
    """Put the weights of a network into one that is at least as wide and deep.

    Added channels are read by nothing of the old at first and added blocks add nothing, so that the old part of the
    base computes what it did. Other parts are taken where their shapes are equal.

    Raises:
        ValueError: the other network is not a small one, or it is larger.
    """
    if not isinstance(smaller, MiniITER):
        raise ValueError("Only weights of the small network can be started from.")
    mine, theirs = model.config, smaller.config
    if mine.scale != theirs.scale or mine.channels < theirs.channels or mine.base_blocks < theirs.base_blocks:
        raise ValueError(
            f"A network of {theirs.channels} channels and {theirs.base_blocks} blocks at scale {theirs.scale} does not "
            f"fit into one of {mine.channels} and {mine.base_blocks} at scale {mine.scale}; give larger network sizes."
        )
    old = smaller.state_dict()
    for name, value in model.state_dict().items():
        if name in old and old[name].shape == value.shape:
            value.copy_(old[name])
        elif name in old and name.startswith("base."):
            rows = tuple(slice(0, length) for length in old[name].shape[:2])
            if value.ndim > 1:
                value[rows[0]] = 0
            value[rows] = old[name]
    for block in model.base.blocks[theirs.base_blocks :]:
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
