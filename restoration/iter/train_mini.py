"""Training of the small default network (see `mini.py`) in three stages.

    burnish train iter --recipe mini --photos photos --variant clean
    burnish train iter --recipe mini --photos photos --variant photo --fidelity 0.3 \\
        --start runs/iter-mini/clean --steps 3000 600 1800 --rates 5e-4 1e-3 1e-3

`photos` is the folder that `vision/photos.py` tells how to fill. Each command writes checkpoints, goes on from
them when it is started again, and ends with the folder `<folder>/<variant>/weights`, which
`ITERRestorer.from_pretrained` loads.

1. `base`: mean absolute error of the deterministic picture.
2. `tokeniser`: a training-only encoder, the codebook and the decoder learn what the base's picture lacks (base frozen).
3. `tokens`: first tokens, critic and refiner learn as the paper's section 3.3 and the released code do (masking ratio
   cos(pi u / 2), class-balanced critic at the start, per-token losses), all else frozen.

A fourth stage that tuned the decoder on sampled tokens with an absolute and an adversarial error was tried and left
out: the absolute error taught the decoder to ignore the tokens, and the sampled texture with them.

Data: 21 photographs (BSD-2-Clause, CC-BY-4.0, CC0-1.0), halved once and twice. Variant `clean` sees MATLAB-bicubic
inputs, `photo` the mixture `PHOTO_MIXTURE` of degradations. Times and measured results stand in the model card beside
the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.degrade import Draws, degrade
from restoration.iter.mini import MiniConfig, MiniITER, ResidualBlock
from restoration.iter.model import Observed
from restoration.recipes import recipe
from vision.losses import class_balanced_cross_entropy
from vision.photos import collect_photos
from vision.training import Context, Objective, TrainOptions, fit_stage

STAGES = ("base", "tokeniser", "tokens")

CLEAN_MIXTURE = {"bicubic": 1.0}
PHOTO_MIXTURE = {"bsrgan_light": 0.4, "realesrgan": 0.3, "bsrgan": 0.15, "bicubic": 0.15}
"""Shares of the degradations that the variant `photo` is trained on."""


@dataclass(frozen=True)
class MiniTraining:
    """The recipe of the small default."""

    photos: Path = Path("photos")
    """Folder below which the photographs lie."""
    folder: Path = Path("runs/iter-mini")
    """Runs go to a folder in it that is named after the variant."""
    variant: Literal["clean", "photo"] = "clean"
    """Degradations to learn."""
    start: Path | None = None
    """Folder of a finished run whose networks this one starts from."""
    steps: tuple[int, int, int] = (10000, 1800, 3000)
    """Updates of the three stages."""
    rates: tuple[float, float, float] = (1e-3, 1e-3, 1e-3)
    """Peak learning rates of the three stages."""
    crop: int = 112
    """Pixels per side of the high-resolution crops."""
    batch_sizes: tuple[int, int, int] = (16, 16, 8)
    """Crops per update and process in the three stages."""
    fidelity: float = 1.0
    """Share of the sampled texture that the weights recommend as the default of a call."""
    seed: int = 0
    """Of the initial weights, the data and the losses."""
    workers: int = 1
    """Processes that load data."""
    network: MiniConfig = field(default_factory=MiniConfig)
    """Sizes of the network."""

    def __post_init__(self) -> None:
        if self.crop % self.network.scale:
            raise ValueError(f"crop must be a multiple of the scale {self.network.scale}, got {self.crop}.")


class SharpPairs(Dataset[dict[str, Tensor]]):
    """Random crops with something to see in them, flipped and transposed, and their degraded versions.

    Item i depends on (seed, i) alone. A crop is drawn again, at most three times, while the standard deviation of its
    Laplacian is below `sharpness` (grey levels): half of a typical photograph is sky and blur, from which little is
    learnt.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        size: int,
        mixture: Mapping[str, float],
        scale: int = 4,
        seed: int = 0,
        sharpness: float = 5.0,
    ):
        self.paths, self.size, self.mixture, self.scale = list(paths), size, dict(mixture), scale
        self.seed, self.sharpness = seed, sharpness
        self.images = [np.asarray(Image.open(path).convert("RGB")) for path in self.paths]
        roots = np.array([math.sqrt(image.shape[0] * image.shape[1]) for image in self.images])
        self.shares = np.cumsum(roots / roots.sum())
        self.recipes = [replace(recipe(name), scale=scale) for name in self.mixture]
        self.recipe_shares = np.cumsum(list(self.mixture.values())) / sum(self.mixture.values())

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """hr (3, size, size) and lr (3, size / scale, size / scale), float32 in [0, 1]."""
        rng = np.random.default_rng((self.seed, index))
        for _ in range(4):
            image = self.images[min(int(np.searchsorted(self.shares, rng.random())), len(self.images) - 1)]
            y, x = (int(rng.integers(0, side - self.size + 1)) for side in image.shape[:2])
            crop = image[y : y + self.size, x : x + self.size]
            if _laplacian_deviation(crop[..., 1]) >= self.sharpness:
                break
        down, across, transpose = rng.integers(0, 2, 3)
        crop = crop[:: -1 if down else 1, :: -1 if across else 1]
        crop = crop.transpose(1, 0, 2) if transpose else crop
        hr = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255
        how = self.recipes[int(np.searchsorted(self.recipe_shares, rng.random()))]
        return {"hr": hr, "lr": degrade(hr, how, Draws.seeded(self.seed, index))}


def _laplacian_deviation(channel: np.ndarray) -> float:
    x = channel.astype(np.float32)
    return float((x[1:-1, :-2] + x[1:-1, 2:] + x[:-2, 1:-1] + x[2:, 1:-1] - 4 * x[1:-1, 1:-1]).std())


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

    def __init__(self, config: MiniConfig):
        super().__init__()
        self.model, self.encoder = MiniITER(config), TokenEncoder(config)

    def train_only(self, stage: str) -> Networks:
        """Let gradients reach only what this stage trains."""
        model = self.model
        parts: dict[str, list[nn.Module | nn.Parameter]] = {
            "base": [model.base],
            "tokeniser": [self.encoder, model.codebook, model.decoder],
            "tokens": [model.first_tokens, model.critic, model.refiner],
        }
        self.requires_grad_(False)
        for part in parts[stage]:
            part.requires_grad_(True)
        return self

    def forward(self, stage: str, batch: dict[str, Tensor], context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and logs of a stage on hr (b, 3, H, W) and lr (b, 3, h, w)."""
        hr, lr = (batch[name].contiguous(memory_format=torch.channels_last) for name in ("hr", "lr"))
        return {"base": self.base, "tokeniser": self.tokeniser, "tokens": self.tokens}[stage](hr, lr, context)

    def base(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute error of the deterministic picture."""
        return F.l1_loss(self.model.base(lr)[1], hr), {}

    def tokeniser(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute error of the picture decoded from the true tokens, and the quantiser's loss."""
        with torch.no_grad():
            features, picture = self.model.base(lr)
        vectors = self.encoder(hr, picture)
        if context.step % 100 == 0 and context.step < 2000:
            self._revive_codes(vectors, context)
        codes = self.model.codebook[self._nearest(vectors)].permute(0, 3, 1, 2)
        quantiser = F.mse_loss(codes, vectors.detach()) + 0.25 * F.mse_loss(vectors, codes.detach())
        out = picture + self.model.decoder(vectors + (codes - vectors).detach(), features)
        error = F.l1_loss(out, hr)
        logs = {"error": error, "error_of_base": F.l1_loss(picture, hr), "quantiser": quantiser}
        return error + 0.1 * quantiser, logs

    def tokens(self, hr: Tensor, lr: Tensor, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropies of first tokens, critic (twice) and refiner, as the released code sums them."""
        model = self.model
        with torch.no_grad():
            features, picture = model.base(lr)
            target = self._nearest(self.encoder(hr, picture))
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


def train(options: MiniTraining, *, log: Any = None, max_seconds: float | None = None) -> Path | None:
    """Run the stages that are not finished and return the folder of the weights, or None when time ran out."""
    from restoration.iter.options import ITERConfig
    from restoration.iter.restorer import ITERRestorer

    folder = options.folder / options.variant
    paths = collect_photos(options.photos, options.folder / "pictures")
    mixture = CLEAN_MIXTURE if options.variant == "clean" else PHOTO_MIXTURE
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(options.seed)
        networks = Networks(options.network)
    networks.to(memory_format=torch.channels_last)
    if options.start is not None:
        networks.load_state_dict(load_file(options.start / f"{STAGES[-1]}.safetensors"))
    for number, stage in enumerate(STAGES):
        settings = TrainOptions(
            folder=folder / stage,
            steps=options.steps[number],
            batch_size=options.batch_sizes[number],
            learning_rate=options.rates[number],
            final_learning_rate=options.rates[number] / 1000,
            warmup=min(200, options.steps[number] // 10),
            max_grad_norm=1.0,
            ema_decay=0.999,
            seed=options.seed * len(STAGES) + number,
            workers=options.workers,
            log_every=min(100, options.steps[number]),
        )
        data = SharpPairs(paths, options.crop, mixture, options.network.scale, settings.seed)

        def loss(batch: Any, context: Context, stage: str = stage) -> tuple[Tensor, dict[str, Tensor]]:
            return context.modules["networks"](stage, batch, context)

        objectives = [Objective("networks", networks.train_only(stage), loss)]
        file = folder / f"{stage}.safetensors"
        trained = fit_stage(file, objectives, data, settings, log=log, max_seconds=max_seconds)
        if trained is None:
            return None
        networks.load_state_dict(trained.state_dict())
    config = ITERConfig(
        "mini", mini=options.network, padding="minimal", tile=256, tile_overlap=24, fidelity=options.fidelity
    )
    restorer = ITERRestorer(networks.model.requires_grad_(False), config)
    restorer.save_pretrained(folder / "weights", dtype=torch.float16)
    return folder / "weights"
