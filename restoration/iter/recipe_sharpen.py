"""Sharpening: the refinement net learns from the best of several samples, so that one sample becomes better.

    burnish benchmark restorers --hr photos --systems none iter:clean@0 --kinds bicubic --size 192 --cuts 2 \\
        --seeds 8 --keep --out runs/tries
    burnish train iter --recipe sharpen --choices runs/tries --folder runs/iter-sharpened
    burnish evaluate sharpened --hr held_out --source runs/iter-sharpened/weights --out runs/sharpened

In every window of a picture the sample with the highest score is kept: by the judge of restorations, which sees no
truth, or by the truth itself. Its tokens are drawn again from its seed, and the refinement net, masked as when it was
trained first, learns them by cross entropy; everything else stays. After "Self-Improvement in Language Models: The
Sharpening Mechanism" (arXiv 2412.01951), section 3: supervised training on the best of N.

Difference from the paper: there the whole sample is kept; a picture has many windows, and the best of N whole pictures
is hardly better than any. `--keep any` takes a sample by chance, which teaches nothing: what is left is the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from restoration.iter.mini import MiniITER
from restoration.iter.model import Observed
from restoration.iter.options import ITEROptions, Variant
from restoration.iter.restorer import ITERRestorer
from restoration.judge import RestorationJudge
from restoration.known import Known, known
from restoration.train_judge import window_psnr
from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.refine import Verdict, drain
from vision.strategies import Candidate, Choice
from vision.strategies.best import distil
from vision.training import fit_stage
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective

SAME = 1.5 / 255
"""Largest mean difference of a sample that is drawn again to the picture that was kept of it."""


@dataclass(frozen=True)
class SharpenTraining:
    """What the recipe may choose."""

    choices: tuple[Path, ...] = ()
    """Folders that `benchmark restorers --keep --seeds N` wrote with the weights to start from."""
    folder: Path = Path("runs/iter-sharpened")
    """Folder of the run."""
    start: Variant = "clean"
    """Embedded weights to start from."""
    system: str = "iter:clean@0"
    """Whose samples are learnt from; as it was called when they were made."""
    score: Literal["judge", "truth"] = "judge"
    """What says which sample of a window is the best."""
    keep: Literal["best", "any"] = "best"
    """any: a sample by chance, whatever its score."""
    steps: int = 600
    """Updates."""
    batch_size: int = 8
    """Crops per update."""
    crop: int = 40
    """Side of the crops, in input pixels."""
    rate: float = 3e-4
    """Peak learning rate."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Numbers of the networks while they learn."""
    seed: int = 0
    """Of the crops and masks, and of the samples that chance keeps."""

    def __post_init__(self) -> None:
        if not self.choices:
            raise ValueError("choices must name at least one folder that benchmark restorers --keep --seeds N wrote.")
        if min(self.steps, self.batch_size, self.crop) < 1:
            raise ValueError("steps, batch_size and crop must be at least 1.")
        for name, words in (("score", ("judge", "truth")), ("keep", ("best", "any"))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be {' or '.join(words)}, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Lesson:
    """A picture and the tokens that its windows shall get."""

    low: Tensor
    """(3, h, w)."""
    tokens: Tensor
    """(1, h, w) int64."""
    taught: Tensor
    """(1, h, w) bool: where there is something to learn."""


class Crops(Dataset[dict[str, Tensor]]):
    """Crops of lessons; item i depends on (seed, i) alone.

    Args:
        lessons: whole pictures.
        size: side of the crops, in input pixels.
        seed: of their places.
    """

    def __init__(self, lessons: list[Lesson], size: int, seed: int):
        self.lessons, self.seed = lessons, seed
        self.size = min(size, *(side for lesson in lessons for side in lesson.low.shape[1:]))

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """low (3, size, size), tokens and taught (1, size, size)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        draw = lambda high: int(torch.randint(high, (), generator=generator))  # noqa: E731
        lesson = self.lessons[draw(len(self.lessons))]
        top, left = (draw(side - self.size + 1) for side in lesson.low.shape[1:])
        place = (slice(None), slice(top, top + self.size), slice(left, left + self.size))
        return {"low": lesson.low[place], "tokens": lesson.tokens[place], "taught": lesson.taught[place]}


class Refining(nn.Module):
    """The network, of which the refinement net learns.

    Args:
        model: the small network.
    """

    def __init__(self, model: MiniITER, threshold: float):
        super().__init__()
        self.model, self.threshold = model.requires_grad_(False), threshold
        self.model.refiner.requires_grad_(True)

    def forward(self, batch: dict[str, Tensor], context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy, scalar, of tokens (b, 1, h, w) where they are hidden and taught, and its log."""
        model, tokens, taught = self.model, batch["tokens"], batch["taught"][:, 0].float()
        with torch.no_grad():
            observed: Observed = model.observe(batch["low"])
            trusted = (model.confidence(observed, observed.first).softmax(1)[:, 1:] >= self.threshold).float()
        b, _, h, w = tokens.shape
        ratio = torch.cos(torch.rand(b, generator=context.generator) * math.pi / 2)
        hidden = (ratio * h * w).long().clamp(min=1)
        noise = torch.rand(b, h * w, generator=context.generator)
        kept = (noise.argsort(1).argsort(1) >= hidden[:, None]).view(b, 1, h, w).to(batch["low"])
        logits = model.token_logits(observed, trusted, tokens, kept)
        weight = (1 - kept[:, 0]) * taught
        error = F.cross_entropy(logits.float(), tokens[:, 0], reduction="none")
        loss = (error * weight).sum() / weight.sum().clamp(min=1)
        right = ((logits.argmax(1) == tokens[:, 0]) * weight).sum() / weight.sum().clamp(min=1)
        return loss, {"loss": loss, "right": right}


@one_at_a_time
def train(options: SharpenTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Train to the end and return the folder of the weights, or None when time ran out.

    Raises:
        FileNotFoundError: a folder has no trace.
        ValueError: no samples of the system were kept, or they are not those of the weights to start from.
    """
    file = options.folder / "sharpened.safetensors"
    begin_run(options.folder, options, data=("choices",), results=[file])
    restorer = ITERRestorer.from_pretrained(variant=options.start)
    judge = RestorationJudge.from_pretrained()
    lessons = [found for item in known(options.choices) if (found := lesson(item, restorer, judge, options))]
    if not lessons:
        raise ValueError(f"There are no two samples of {options.system} to choose from; let benchmark make --seeds 8.")
    if log is not None:
        share = sum(float(one.taught.float().mean()) for one in lessons) / len(lessons)
        log(f"Learning from {len(lessons)} pictures; {share:.0%} of their windows have a best sample.")
    network = Refining(restorer.model, restorer.config.threshold)
    settings = TrainOptions(
        options.folder,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.rate,
        final_learning_rate=options.rate / 100,
        warmup=min(50, options.steps // 10),
        max_grad_norm=1.0,
        ema_decay=0.99,
        mixed_precision=options.mixed_precision,
        seed=options.seed,
        log_every=min(100, options.steps),
    )

    def loss(batch: Any, context: Context) -> tuple[Tensor, dict[str, Tensor]]:
        return context.modules["refining"](batch, context)

    data = Crops(lessons, options.crop, options.seed)
    trained = fit_stage(file, [Objective("refining", network, loss)], data, settings, log=log, max_seconds=max_seconds)
    if trained is None:
        return None
    sharpened = ITERRestorer(trained.model.requires_grad_(False).eval(), restorer.config)
    return publish(options.folder / "weights", lambda part: sharpened.save_pretrained(part, dtype=torch.float16))


def lesson(item: Known, restorer: ITERRestorer, judge: RestorationJudge, options: SharpenTraining) -> Lesson | None:
    """The tokens that the windows of an item shall get; None: it has no two samples of the system.

    Raises:
        ValueError: a sample that is drawn again is another picture.
    """
    made = [(c, p) for c, p in zip(item.choice.candidates, item.made, strict=True) if c.origin == options.system]
    if len(made) < 2:
        return None
    side, unit = judge.config.side, restorer.model.token_pixels
    shape = tuple(length // side for length in item.high.shape[-2:])
    scores = torch.stack([_scores(picture, item, judge, options).view(-1) for _, picture in made], 1)
    generator = torch.Generator().manual_seed(options.seed)
    best, taught = torch.zeros(len(scores), dtype=torch.int64), torch.zeros(len(scores), dtype=torch.bool)
    for window, row in enumerate(scores.tolist()):
        kept = distil([_choice(window, row)])
        taught[window] = bool(kept)
        best[window] = kept[0].value if kept else 0
    if options.keep == "any":
        best = torch.randint(len(made), best.shape, generator=generator)
    drawn = {number: _tokens(made[number], item, restorer, options) for number in best.unique().tolist()}
    enlarge = lambda values: values.view(shape).repeat_interleave(side // unit, 0).repeat_interleave(side // unit, 1)  # noqa: E731
    chosen, where = enlarge(best), enlarge(taught)
    rows, columns = chosen.shape
    tokens = torch.zeros_like(chosen)
    for number, own in drawn.items():
        tokens = torch.where(chosen == number, own[:rows, :columns], tokens)
    return Lesson(item.low[0, :, :rows, :columns], tokens[None], where[None])


def _choice(window: int, scores: list[float]) -> Choice:
    """The choice among samples, by number, of a window."""
    candidates = tuple(Candidate(str(window), number, "sample") for number in range(len(scores)))
    verdicts = tuple(Verdict(score) for score in scores)
    return Choice(str(window), candidates, verdicts, max(range(len(scores)), key=scores.__getitem__))


def _scores(picture: Tensor, item: Known, judge: RestorationJudge, options: SharpenTraining) -> Tensor:
    """(windows,) of a sample."""
    if options.score == "truth":
        return window_psnr(picture, item.high, judge.config.side)
    return judge.windows(picture, item.low).flatten()


def _tokens(made: tuple[Candidate, Tensor], item: Known, restorer: ITERRestorer, options: SharpenTraining) -> Tensor:
    """(h, w) the tokens of a sample, drawn again from its seed."""
    candidate, picture = made
    asked = ITEROptions(fidelity=0.0, seed=candidate.seed)
    sampler, state = restorer.start(item.low, asked)
    last = drain(sampler.steps(state))
    state = last.state if last else state
    again = restorer.decode(state, asked)[..., : picture.shape[-2], : picture.shape[-1]]
    if float((again - picture).abs().mean()) > SAME:
        raise ValueError(
            f"{candidate.value} is no sample of the weights {options.start} at fidelity 0; name the folder that "
            f"benchmark restorers --systems none iter:{options.start}@0 --keep wrote with this version."
        )
    return state.tokens[0, 0]
