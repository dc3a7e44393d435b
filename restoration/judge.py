"""A small judge of restorations: which of two versions of a picture is nearer to the truth, window by window.

A network of two layers scores numbers of a window: how strong its detail is in three bands and twelve rings of its
spectrum, how noisy, blocky, woven, banded, cut, clipped and overshot it is, and, where the input is known, how its
detail agrees with that of the plainly enlarged input and how well the input, its colours too, follows from it. Scores
of windows at one place differ as the logarithm of the odds that one is better. It is learnt from restorations whose
truth is known and from spoiled photographs, see `restoration.train_judge`, and from faults planted in the former, see
`restoration.train_duel`.

n: windows, side x side: their pixels; H, W: pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from restoration.restorer import PRETRAINED
from vision import hub, weights
from vision.config import load_config, save_config
from vision.faults import SIDE
from vision.images import ImageLike, blur, pad_to, to_tensor, to_y
from vision.refine import Verdict
from vision.resize import imresize
from vision.strategies import Candidate

EMBEDDED = PRETRAINED / "judge"
"""Folder of the judge that comes with the project."""
ALONE = 36
"""Numbers of a window by itself."""
AGAINST = 14
"""Numbers of a window beside its input, and 1 where there is one."""
RINGS = 12
"""Rings of a window's spectrum, the coarsest first; the last one has the corners too."""
_LEAST = 1e-5


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes of the judge."""

    width: int = 64
    """Hidden numbers."""
    side: int = SIDE
    """Pixels per side of a window."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 4096 or not 16 <= self.side <= 1024:
            raise ValueError(f"width must lie in [1, 4096] and side in [16, 1024], got {self.width} and {self.side}.")


class JudgeNetwork(nn.Module):
    """Numbers of windows (n, ALONE + AGAINST) to scores (n,).

    Args:
        width: hidden numbers.
    """

    def __init__(self, width: int):
        super().__init__()
        columns = ALONE + AGAINST
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("deviation", torch.ones(columns))
        self.hidden, self.score = nn.Linear(columns, width), nn.Linear(width, 1)

    def forward(self, numbers: Tensor) -> Tensor:
        normal = ((numbers - self.mean) / self.deviation).clamp(-5, 5)
        return self.score(F.silu(self.hidden(normal)))[:, 0]


class RestorationJudge:
    """Scores restorations.

    Args:
        network: scores windows.
        config: its sizes.
    """

    def __init__(self, network: JudgeNetwork, config: JudgeConfig):
        self.network, self.config = network, config

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, *, revision: str | None = None) -> RestorationJudge:
        """Load a judge: a folder that `save_pretrained` wrote, or a name on the model hub; None: the project's.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds no judge.
        """
        found = hub.find(source, default=EMBEDDED, revision=revision)
        if found.path is None:
            raise ValueError(f"There is no {source} of the judge of restorations; name a folder.")
        config = load_config(JudgeConfig, found.path / "config.json")
        network = JudgeNetwork(config.width)
        weights.load_weights(network, found.path)
        return cls(network.eval(), config)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config and weights, as `dtype` when it is given, to `folder`."""
        weights.save_weights(self.network, folder, dtype=dtype)
        save_config(self.config, Path(folder) / "config.json")

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the network; returns this judge."""
        self.network.to(device=device, dtype=dtype)
        return self

    @torch.no_grad()
    def windows(self, picture: ImageLike, image: ImageLike | None = None) -> Tensor:
        """(rows, columns) scores of the windows of a picture, from the upper left; the rest of it is left out.

        Args:
            picture: a restoration; one that is smaller than a window is mirrored.
            image: its input, which is not larger; None: it is not known.
        """
        return self.scores(*numbers_of(picture, image, self.config.side))

    def scores(self, numbers: Tensor, shape: tuple[int, int]) -> Tensor:
        """(rows, columns) scores of what `numbers_of` gives."""
        return self.network(numbers.to(self.network.mean)).view(shape).float().cpu()

    def judge(self, candidate: Candidate, image: ImageLike | None = None) -> Verdict:
        """The mean score of a candidate's windows; the detail has the scores by rows."""
        found = self.windows(candidate.value, image)
        return Verdict(float(found.mean()), found.tolist())

    def evaluator(self, input_of: Callable[[str], ImageLike] | None = None) -> Callable[[Candidate], Verdict]:
        """This judge as an evaluator; `input_of` gives the input of a task, None: inputs are not known."""
        return lambda candidate: self.judge(candidate, None if input_of is None else input_of(candidate.task))


@torch.no_grad()
def numbers_of(picture: ImageLike, image: ImageLike | None, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Numbers (n, ALONE + AGAINST) of the windows of a picture, and how many rows and columns of them there are.

    The picture is taken in steps of 8 bit, as it is saved and as the judge learns: without them plain enlargement
    agrees with its input better than any picture that was ever shown.

    Raises:
        ValueError: the picture is smaller than its input.
    """
    result = (to_tensor(picture).cpu().float().clamp(0, 1) * 255).round() / 255
    height, width = result.shape[-2:]
    low = None if image is None else to_tensor(image).cpu().float()
    if low is not None and (low.shape[-2] > height or low.shape[-1] > width):
        size = f"{low.shape[-1]} x {low.shape[-2]}"
        raise ValueError(f"A result of {width} x {height} pixels is smaller than its input of {size}.")
    padded = pad_to(result, max(height, side), max(width, side))
    shape = (padded.shape[-2] // side, padded.shape[-1] // side)
    cut = lambda maps: _windows(maps, side)  # noqa: E731
    detail = bands(to_y(padded))
    alone = _alone(cut(to_y(padded)), cut(detail), cut(padded))
    against = torch.zeros(len(alone), AGAINST)
    if low is not None:
        plain = pad_to(imresize(low, size=(height, width)), *padded.shape[-2:])
        left = torch.cat([unexplained(to_y(result), to_y(low)), unexplained(result, low)[:, :3]], 1)
        left = cut(pad_to(left, *padded.shape[-2:]))
        against = _against(cut(detail), cut(bands(to_y(plain))), left[:, :2], left[:, 2:])
    return torch.cat([alone, against], 1), shape


def bands(luma: Tensor) -> Tensor:
    """(1, 3, H, W) detail of luma (1, 1, H, W) at three sizes, the finest first."""
    levels = [luma, blur(luma, 1), blur(blur(luma, 1), 2)]
    levels.append(blur(levels[-1], 4))
    return torch.cat([fine - coarse for fine, coarse in pairwise(levels)], 1)


def unexplained(luma: Tensor, low: Tensor) -> Tensor:
    """(1, 2 c, H, W): what of the input's luma or colours (1, c, h, w) does not follow from those of a result
    (1, c, H, W), shrunk as it is and shrunk after a blur; enlarged to the size of the result."""
    size, scale = tuple(low.shape[-2:]), luma.shape[-1] / low.shape[-1]
    soft = luma
    for radius in range(1, max(2, round(scale / 2) + 1)):
        soft = blur(soft, radius)
    parts = [part if tuple(part.shape[-2:]) == size else imresize(part, size=size) for part in (luma, soft)]
    return F.interpolate(torch.cat([part - low for part in parts], 1), luma.shape[-2:], mode="nearest")


def _windows(maps: Tensor, side: int) -> Tensor:
    """(1, c, H, W) -> (n, c, side, side), row by row."""
    rows, columns = maps.shape[-2] // side, maps.shape[-1] // side
    cut = maps[0, :, : rows * side, : columns * side].unfold(1, side, side).unfold(2, side, side)
    return cut.permute(1, 2, 0, 3, 4).reshape(rows * columns, maps.shape[1], side, side)


def _alone(luma: Tensor, detail: Tensor, colours: Tensor) -> Tensor:
    """(n, ALONE) numbers of windows: luma (n, 1, s, s), its bands (n, 3, s, s), colours (n, 3, s, s)."""
    strength, sparse = _log_rms(detail), detail.abs().mean((2, 3)) / detail.square().mean((2, 3)).sqrt().clamp(_LEAST)
    quiet = F.avg_pool2d(detail[:, :1].abs(), 8).flatten(1)
    quiet = torch.stack([quiet.amin(1), quiet.median(1).values, quiet.amax(1)], 1).clamp(_LEAST).log()
    chroma = colours - luma
    grain = _log_rms((chroma - F.avg_pool2d(chroma, 3, 1, 1, count_include_pad=False)).mean(1, keepdim=True))
    beside = torch.stack([_correlation(detail[:, i], detail[:, i + 1]) for i in range(2)], 1)
    along = torch.stack(
        [_correlation(detail[:, 0, :, 1:], detail[:, 0, :, :-1]), _correlation(detail[:, 0, 1:], detail[:, 0, :-1])], 1
    )
    period = torch.stack([_period(luma, 8), _period(luma, 4)], 1)
    rings, wave = _spectrum(luma)
    odd = torch.stack([*_cut(luma), wave, _flat(luma), _clipped(colours), *_overshot(luma)], 1)
    return torch.cat([strength, sparse, quiet, grain, beside, along, period, rings, odd, luma.mean((2, 3))], 1)


def _against(detail: Tensor, plain: Tensor, left: Tensor, colours: Tensor) -> Tensor:
    """(n, AGAINST) numbers of windows beside their input: bands of both (n, 3, s, s), and what of the input's luma
    (n, 2, s, s) and colours (n, 3, s, s) does not follow."""
    agree = torch.stack([_correlation(detail[:, i], plain[:, i]) for i in range(3)], 1)
    more = _log_rms(detail) - _log_rms(plain)
    apart = _log_rms(detail - plain)
    shift = colours.mean((2, 3))
    tone, cast = shift.mean(1, keepdim=True), shift.std(1, keepdim=True, correction=0)
    most = left[:, :1].abs().amax((2, 3))
    far = torch.cat([tone.abs(), cast, most], 1).clamp(_LEAST).log()
    return torch.cat([agree, more, apart[:, :2], _log_rms(left), far, torch.ones(len(detail), 1)], 1)


def _log_rms(maps: Tensor) -> Tensor:
    """(n, c, s, s) -> (n, c) logarithm of the root mean square."""
    return maps.square().mean((2, 3)).sqrt().clamp(_LEAST).log()


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """(n, a, b) twice -> (n,) in [-1, 1]."""
    first, second = first.flatten(1), second.flatten(1)
    product = first.norm(dim=1) * second.norm(dim=1)
    return (first * second).sum(1) / product.clamp(_LEAST**2)


def _period(luma: Tensor, length: int) -> Tensor:
    """(n,) logarithm of the steps at the strongest phase of a period over those at the others, of (n, 1, s, s)."""
    found = []
    for plane in (luma[:, 0], luma[:, 0].mT):
        steps = (plane[:, 1:] - plane[:, :-1]).abs().mean(2)
        by_phase = steps[:, : steps.shape[1] // length * length].view(len(steps), -1, length).mean(1)
        others = (by_phase.sum(1) - by_phase.amax(1)) / (length - 1)
        found.append((by_phase.amax(1) + 1e-3).log() - (others + 1e-3).log())
    return torch.stack(found).mean(0)


def _cut(luma: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) twice: logarithms of the strongest step across a line of (n, 1, s, s) over the usual one, of its size and
    of its mean, which is large only where all pixels of the line step the same way."""
    size, mean = [], []
    for plane in (luma[:, 0], luma[:, 0].mT):
        steps = plane[:, 1:] - plane[:, :-1]
        lines = steps.abs().mean(2)
        size.append((lines.amax(1) + 1e-3).log() - (lines.median(1).values + 1e-3).log())
        mean.append((steps.mean(2).abs().amax(1) + 1e-3).log())
    return torch.stack(size).amax(0), torch.stack(mean).amax(0)


def _spectrum(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, 1, s, s): (n, RINGS) logarithms of the mean power of the rings of its spectrum, and (n,) logarithm of the
    strongest frequency over the mean of its ring."""
    side = luma.shape[-1]
    window = torch.hann_window(side, periodic=False)
    power = torch.fft.rfft2((luma - luma.mean((2, 3), keepdim=True))[:, 0] * window[:, None] * window).abs().square()
    radius = (torch.fft.fftfreq(side)[:, None].square() + torch.fft.rfftfreq(side).square()).sqrt()
    rings = (radius * 2 * RINGS).long().clamp(max=RINGS - 1).flatten()
    power, inside = power.flatten(1), (radius > 0.12).flatten()
    sums = torch.zeros(len(power), RINGS).index_add_(1, rings, power)
    means = sums / torch.bincount(rings, minlength=RINGS)
    wave = (power / (means[:, rings] + 1e-4))[:, inside].amax(1).clamp(_LEAST).log()
    return (means / side**2).clamp(_LEAST**2).log(), wave


def _clipped(colours: Tensor) -> Tensor:
    """(n,) logarithm of the share of values in (n, 3, s, s) that are black or white."""
    return ((colours - 0.5).abs() >= 0.5 - 0.5 / 255).float().mean((1, 2, 3)).clamp(1e-4).log()


def _overshot(luma: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) twice, along the rows of (n, 1, s, s): logarithm of the change of steps over the steps, and the share of
    places where a step up follows a step down or the other way round, by more than 2 of 255."""
    steps = luma[..., 1:] - luma[..., :-1]
    change = (steps[..., 1:] - steps[..., :-1]).abs().mean((1, 2, 3))
    turns = (steps[..., 1:] * steps[..., :-1] < -((2 / 255) ** 2)).float().mean((1, 2, 3))
    return (change + 1e-4).log() - (steps.abs().mean((1, 2, 3)) + 1e-4).log(), turns


def _flat(luma: Tensor) -> Tensor:
    """(n,) share of the neighbours in (n, 1, s, s) that differ by less than half a step of 8 bit."""
    return ((luma[..., 1:] - luma[..., :-1]).abs() < 0.5 / 255).float().mean((1, 2, 3))
