"""Texts of the published training sets: which pictures are kept, and what their prompts say.

A prompt is the base, a comma and the labels, joined by commas without blanks; a picture without labels ends in the
comma. Tables are read from the sets' own CSV files.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CHEXPERT_BASE, RETINOPATHY_BASE, SKIN_BASE = "A chest X-ray image", "A retinopathy image", "An image of skin"
PATHOLOGIES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""CheXpert's labels in the order of the targets; Effusion is the column Pleural Effusion."""
SKIN = {
    "bkl": "benign keratosis-like lesions",
    "mel": "melanoma",
    "nv": "melanocytic nevi",
    "akiec": "actinic keratoses and intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "vasc": "vascular lesions",
    "df": "dermatofibroma",
}
"""Diagnoses of ISIC 2018 (HAM10000), spelled out."""


@dataclass(frozen=True)
class Labelled:
    """One picture of a training set."""

    path: str
    """Relative to the set's folder; of CheXpert to the folder above it."""
    prompt: str
    """What the picture shows, in words."""
    target: tuple[float, ...]
    """Numbers that the labels stand for; NaN is unknown."""


def join(base: str, labels: Iterable[str]) -> str:
    """A prompt."""
    return f"{base},{','.join(labels)}"


def chexpert(table: Iterable[str], views: tuple[str, ...] = ("AP", "PA"), base: str = CHEXPERT_BASE) -> list[Labelled]:
    """Frontal pictures of CheXpert's train.csv or valid.csv, from its lines.

    A label counts when it is 1; uncertain (-1) and empty cells are unknown; "No Finding" makes all labels 0.

    Raises:
        ValueError: a column is missing.
    """
    found = []
    rows = _rows(table, "Path", "Frontal/Lateral", "AP/PA", "No Finding", *map(_column, PATHOLOGIES))
    for row in rows:
        if row["Frontal/Lateral"] != "Frontal" or row["AP/PA"] not in views:
            continue
        healthy = row["No Finding"] != "" and float(row["No Finding"]) == 1
        cells = [row[_column(name)] for name in PATHOLOGIES]
        target = tuple(0.0 if healthy else _certain(cell) for cell in cells)
        labels = [name for name, value in zip(PATHOLOGIES, target, strict=True) if value == 1]
        found.append(Labelled(row["Path"], join(base, labels), target))
    return found


def retinopathy(table: Iterable[str], base: str = RETINOPATHY_BASE) -> list[Labelled]:
    """Pictures of the 2015 challenge's trainLabels.csv, from its lines: level 0 is healthy, 1 to 4 diabetic."""
    found = []
    for row in _rows(table, "image", "level"):
        level = int(row["level"])
        text = join(base, ["diabetic" if level > 0 else "healthy"])
        found.append(Labelled(f"train/{row['image']}.jpeg", text, (float(level),)))
    return found


def skin(table: Iterable[str], base: str = SKIN_BASE) -> list[Labelled]:
    """Pictures of HAM10000_metadata.csv, from its lines; `path` is the file's name in one of the set's two folders.

    Raises:
        ValueError: a diagnosis is unknown.
    """
    found, codes = [], list(SKIN)
    for row in _rows(table, "image_id", "dx"):
        if row["dx"] not in SKIN:
            raise ValueError(f"The diagnosis {row['dx']!r} is none of {', '.join(SKIN)}.")
        target = (float(codes.index(row["dx"])),)
        found.append(Labelled(f"{row['image_id']}.jpg", join(base, [SKIN[row["dx"]]]), target))
    return found


def read_set(kind: str, folder: str | Path) -> list[tuple[Path, str]]:
    """(file, prompt) of every picture of a published set that lies in `folder`.

    Args:
        kind: chexpert, retinopathy or skin.
        folder: with train.csv, trainLabels.csv or HAM10000_metadata.csv.

    Raises:
        FileNotFoundError: the table or a picture is missing.
        ValueError: the kind is unknown.
    """
    folder = Path(folder)
    tables = {"chexpert": "train.csv", "retinopathy": "trainLabels.csv", "skin": "HAM10000_metadata.csv"}
    if kind not in tables:
        raise ValueError(f"The set must be one of {', '.join(tables)}, got {kind!r}.")
    table = folder / tables[kind]
    if not table.exists():
        raise FileNotFoundError(f"There is no {table}; a folder of the set {kind} holds it.")
    with open(table, newline="", encoding="utf-8") as file:
        rows = {"chexpert": chexpert, "retinopathy": retinopathy, "skin": skin}[kind](file)
    if kind == "chexpert":
        return [(folder.resolve().parent / row.path, row.prompt) for row in rows]
    if kind == "retinopathy":
        return [(folder / row.path, row.prompt) for row in rows]
    lying = {path.name: path for part in sorted(folder.glob("*")) if part.is_dir() for path in part.glob("*.jpg")}
    missing = [row.path for row in rows if row.path not in lying]
    if missing:
        raise FileNotFoundError(f"There is no {missing[0]} in the sub-folders of {folder}.")
    return [(lying[row.path], row.prompt) for row in rows]


def _column(name: str) -> str:
    return "Pleural Effusion" if name == "Effusion" else name


def _certain(cell: str) -> float:
    value = float(cell) if cell else math.nan
    return math.nan if value == -1 else value


def _rows(table: Iterable[str], *columns: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(table))
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing:
        raise ValueError(f"The table lacks the column {missing[0]!r}.")
    return rows
