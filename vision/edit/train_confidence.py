"""Training of a confidence classifier: binary cross entropy, then the area under the ROC curve.

    burnish train pie --recipe confidence --positive DISEASED --negative HEALTHY --folder runs/confidence

Two stages, as the published code trains its DenseNets: cross entropy with Adam's rate 1e-4; then a fresh head, the
AUC-margin loss and PESG, whose rate is halved and whose reference is moved at the start of every epoch but the first.
The best weights on held-out pictures are kept. Differences: one label at a time, and pictures in two folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from vision.checkpoints import Log, begin_run, one_at_a_time, publish
from vision.diffusion.build import initialise
from vision.edit.auc import PESG, AUCMarginLoss, area_under_curve
from vision.edit.confidence import ClassifierConfig, Confidence, SmallClassifier, classifier_grey, densenet121, imagenet
from vision.images import image_files, load_image, to_tensor
from vision.refine import Verdict, clone_items, refine
from vision.training import fit
from vision.training_options import TrainOptions
from vision.training_run import Context, Objective
from vision.weights import read_tensors


@dataclass(frozen=True)
class ConfidenceTraining(TrainOptions):
    """Train a classifier of one condition."""

    positive: Path = Path("positive")
    """Folder of pictures with the condition."""
    negative: Path = Path("negative")
    """Folder of pictures without it."""
    held_out: float = 0.2
    """Share of the pictures that the classifier is measured on."""
    architecture: Literal["densenet121", "small"] = "densenet121"
    """torchvision's DenseNet-121, or a small network."""
    size: int = 224
    """Pixels per side."""
    start: Path | None = None
    """safetensors file of ImageNet weights of the DenseNet's features; None starts from nothing."""
    folder: Path = Path("runs/confidence")
    """Checkpoints and weights."""
    steps: int = 5000
    """Updates of the first stage."""
    batch_size: int = 128
    """Pictures per update."""
    learning_rate: float = 1e-4
    """Of the first stage."""
    epochs: int = 2
    """Of the second stage."""
    auc_learning_rate: float = 0.01
    """Of the second stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out}.")


class Graded(Dataset[dict[str, Any]]):
    """Endless pictures of both kinds, as a classifier sees them; every other one has the condition."""

    def __init__(self, kinds: Mapping[int, list[Path]], size: int, seed: int):
        self.kinds, self.size, self.seed = kinds, size, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """image (1, size, size) grey in [0, 1] and label, 0.0 or 1.0."""
        generator = torch.Generator().manual_seed((self.seed << 32) + index)
        label = index % 2
        paths = self.kinds[label]
        return {
            "image": read(paths[int(torch.randint(len(paths), (), generator=generator))], self.size),
            "label": float(label),
        }


def read(path: Path, size: int) -> Tensor:
    """(1, size, size) grey in [0, 1]."""
    return classifier_grey(to_tensor(load_image(path)), size)[0]


class Scored(nn.Module):
    """A network that takes grey pictures (b, 1, h, w) in [0, 1] and gives logits (b,)."""

    def __init__(self, network: nn.Module, small: bool):
        super().__init__()
        self.network, self.small = network, small

    def forward(self, grey: Tensor) -> Tensor:
        return self.network(grey if self.small else imagenet(grey)).flatten()


@one_at_a_time
def train(options: ConfidenceTraining, *, log: Log | None = None, max_seconds: float | None = None) -> Path | None:
    """Train to the end and return the folder of the weights, or None when `max_seconds` ran out before.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a folder holds too few pictures, or the run was begun with other options or data.
    """
    begin_run(options.folder, options, data=("positive", "negative", "start"), results=[options.folder / "weights"])
    training, measured = split(options)
    small = options.architecture == "small"
    network = SmallClassifier() if small else densenet121()
    initialise(network, torch.Generator().manual_seed(options.seed))
    if options.start is not None:
        features = {name: value for name, value in read_tensors(options.start).items() if name.startswith("features.")}
        network.features.load_state_dict({name.removeprefix("features."): value for name, value in features.items()})
    module = Scored(network, small)

    def loss(batch: Any, context: Context) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        logits = context.modules["classifier"](batch["image"])
        return F.binary_cross_entropy_with_logits(logits, batch["label"].to(logits)), {}

    data = Graded(training, options.size, options.seed)
    settings = replace(options, folder=options.folder / "run", log_every=min(options.log_every, options.steps))
    objective = Objective("classifier", module, loss, betas=(0.9, 0.999), weight_decay=1e-5)
    trained = fit([objective], data, settings, log=log, max_seconds=max_seconds)
    if trained is None:
        return None
    module = trained["classifier"]
    initialise(module.network.classifier, torch.Generator().manual_seed(options.seed + 1))
    maximise_auc(module, data, measured, options, log)
    config = ClassifierConfig(options.architecture, options.size)
    return publish(options.folder / "weights", Confidence(module.network.cpu().eval(), config).save_pretrained)


def maximise_auc(
    module: nn.Module,
    data: Graded,
    measured: Mapping[int, list[Path]],
    options: ConfidenceTraining,
    log: Log | None = None,
) -> float:
    """Second stage: leaves the weights of the best epoch in the module, and returns their area."""
    device = next(module.parameters()).device
    loss = AUCMarginLoss().to(device)
    optimizer = PESG(module.parameters(), loss, learning_rate=options.auc_learning_rate)
    per_epoch = max(1, sum(map(len, data.kinds.values())) // options.batch_size)

    def descend(module: nn.Module, epoch: int) -> nn.Module:
        if epoch:
            optimizer.reset()
        module.train()
        for number in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            rows = [data[i] for i in range(number * options.batch_size, (number + 1) * options.batch_size)]
            images = torch.stack([row["image"] for row in rows]).to(device)
            labels = torch.tensor([row["label"] for row in rows], device=device)
            optimizer.zero_grad()
            loss(torch.sigmoid(module(images)), labels).backward()
            optimizer.step()
        return module

    def evaluate(module: nn.Module, epoch: int) -> Verdict:
        area = measure(module, measured, options.size)
        if log is not None:
            log(f"epoch {epoch + 1}/{options.epochs}  held-out AUC {area:.4f}")
        return Verdict(area)

    best = refine(
        module,
        descend,
        range(options.epochs),
        evaluate=evaluate,
        keep_best=lambda module: clone_items(module.state_dict()),
        result="best",
    )
    module.load_state_dict(best.state)
    return best.score


@torch.no_grad()
def measure(module: nn.Module, kinds: Mapping[int, list[Path]], size: int) -> float:
    """Area under the ROC curve on pictures of both kinds."""
    module.eval()
    device = next(module.parameters()).device
    scores, labels = [], []
    for label, paths in kinds.items():
        for path in paths:
            scores.append(module(read(path, size)[None].to(device)).cpu())
            labels.append(label)
    return area_under_curve(torch.cat(scores), torch.tensor(labels))


def split(options: ConfidenceTraining) -> tuple[dict[int, list[Path]], dict[int, list[Path]]]:
    """Pictures for training and for measuring, by label; every n-th one of the sorted names is held out."""
    training, measured = {}, {}
    for label, folder in ((1, options.positive), (0, options.negative)):
        paths = image_files(folder)
        stride = max(2, round(1 / options.held_out))
        measured[label], training[label] = paths[::stride], [p for i, p in enumerate(paths) if i % stride]
        if not training[label]:
            raise ValueError(f"{folder} holds {len(paths)} pictures; at least 2 are needed.")
    return training, measured
