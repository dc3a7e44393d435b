"""Brain images with simulated lesions of known size: the data of the embedded demonstration.

Real anatomy, simulated disease. Two subjects, both free to fetch from package registries (nothing is downloaded here):

    pip download --no-deps nilearn && python -m zipfile -e nilearn-*.whl FOLDER/nilearn
    apt-get download mricron-data && dpkg -x mricron-data_*.deb FOLDER/mricron

- MNI152 (nilearn): the average of many normal adults, with a map of its white matter. Training.
- Colin27 (Debian's mricron-data, BSD-3): one person, another scanner, never trained on. The held-out patient.

Every image is an axial slice, turned, scaled, flipped, shifted and warped, with a smooth bias of the coil, a gain,
sharpness and noise. Diseased ones get one to three soft dark ellipses in the white matter, as multiple sclerosis or
small strokes leave them on T1-weighted images. Their severity is known, so a progression can be measured exactly.

Sides are in pixels of the image unless said otherwise; intensities lie in [0, 1].
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

MNI_T1 = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
MNI_WHITE = "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz"
COLIN_T1 = "ch2bet.nii.gz"
SLICES = range(82, 114)
"""Axial slices, 10 to 41 mm above the anterior commissure in both volumes: lateral ventricles and white matter."""
SIDE = 64
"""Pixels per side of an image."""
FIELD_MM = 205.0
"""Width of an image; a brain fills about 85 % of it."""
BASE_PROMPT = "A brain MRI image"
GRADES = ("healthy", "small lesion", "moderate lesion", "large lesion")
"""What a prompt says after the base, by severity."""
LEAST_SEVERITY = 0.25


@dataclass(frozen=True)
class Subject:
    """Axial slices of one brain, upright: the forehead is on top."""

    t1: Tensor
    """(slices, rows, columns), 1 mm per pixel, white matter near 0.85."""
    white: Tensor
    """The same shape: how much of each pixel is white matter, [0, 1]."""


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it."""

    image: Tensor
    """(1, side, side) in [0, 1]."""
    lesion: Tensor
    """(1, side, side) in [0, 1]: how much of each pixel was replaced by lesion."""
    white: Tensor
    """(1, side, side) in [0, 1]: white matter."""
    severity: float
    """0 for healthy, else in [0.25, 1]."""


def find_file(folder: str | Path, name: str) -> Path:
    """The file `name` anywhere below `folder`.

    Raises:
        FileNotFoundError: it is not there; the sentence says how to get it.
    """
    found = sorted(Path(folder).rglob(name)) if Path(folder).is_dir() else []
    if not found:
        raise FileNotFoundError(
            f"There is no {name} below {folder}. Fill the folder once: 'pip download --no-deps nilearn', unpack the "
            "wheel there (training), and 'apt-get download mricron-data', 'dpkg -x' it there (held-out patient)."
        )
    return found[0]


def load_mni(folder: str | Path) -> Subject:
    """The training subject from a folder that holds nilearn's data."""
    t1, white = (read_nifti(find_file(folder, name)) for name in (MNI_T1, MNI_WHITE))
    return Subject(_upright(_normalised(t1)), _upright(white.astype(np.float32) / 255))


def load_colin(folder: str | Path) -> Subject:
    """The held-out subject from a folder that holds mricron's templates; its white matter is what is bright."""
    t1 = _normalised(read_nifti(find_file(folder, COLIN_T1)))
    return Subject(_upright(t1), _upright(((t1 - 0.70) / 0.08).clip(0, 1)))


def read_nifti(path: str | Path) -> np.ndarray:
    """The voxels of a gzipped NIfTI-1 file, indexed (z, y, x); uint8, int16 or float32 without scaling.

    Raises:
        ValueError: it is no such file.
    """
    data = gzip.decompress(Path(path).read_bytes())
    kinds = {2: "u1", 4: "<i2", 16: "<f4"}
    if len(data) < 352 or struct.unpack("<i", data[:4])[0] != 348 or data[344:347] != b"n+1":
        raise ValueError(f"{path} is no NIfTI-1 file.")
    dims, kind = struct.unpack("<8h", data[40:56]), struct.unpack("<h", data[70:72])[0]
    if kind not in kinds:
        raise ValueError(f"{path} holds numbers of type {kind}; {sorted(kinds)} can be read.")
    offset = int(struct.unpack("<f", data[108:112])[0])
    return np.frombuffer(data, kinds[kind], math.prod(dims[1:4]), offset).reshape(dims[3], dims[2], dims[1])


def _normalised(t1: np.ndarray) -> np.ndarray:
    return (0.85 * t1 / np.percentile(t1[t1 > 0], 97)).clip(0, 1).astype(np.float32)


def _upright(volume: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume[SLICES.start : SLICES.stop, ::-1]))


def grade(severity: float) -> str:
    """The grade of a severity in [0, 1]: healthy, or a third of the range above 0.25."""
    if severity <= 0:
        return GRADES[0]
    return GRADES[1 + min(2, int(3 * (severity - LEAST_SEVERITY) / (1 - LEAST_SEVERITY)))]


def prompt(severity: float) -> str:
    """The text of an image of this severity."""
    return f"{BASE_PROMPT},{grade(severity)}"


def render(
    subject: Subject, generator: torch.Generator, *, severity: float, augment: bool = True, depth: int | None = None
) -> Sample:
    """One image of a subject.

    Args:
        generator: of everything that is drawn.
        severity: 0 for a healthy brain, else in [0.25, 1]: radius of the lesions over their largest possible one.
        augment: False leaves out pose, warp, bias and sharpness; only lesions and a little noise are drawn.
        depth: number of the slice; None draws one.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    number = int(uniform(0, len(subject.t1))) if depth is None else depth
    planes = torch.stack([subject.t1[number], subject.white[number]])
    fine = F.grid_sample(planes[None], _grid(subject, generator, augment), align_corners=False)
    image, white = F.avg_pool2d(fine, 2)[0].split(1)
    if augment:
        blurred = F.avg_pool2d(F.pad(image[None], (1,) * 4, mode="replicate"), 3, 1)[0]
        image = (image + uniform(-0.3, 0.9) * (image - blurred)).clamp(0, 1) ** uniform(0.85, 1.15)
    lesion = _lesions(white[0], generator, severity)[None] if severity > 0 else torch.zeros_like(white)
    image = image * (1 - lesion) + lesion * (0.25 * image + 0.05)
    if augment:
        bias = F.interpolate(torch.randn(1, 1, 3, 3, generator=generator), (SIDE, SIDE), mode="bicubic")[0]
        image = image * (1 + 0.06 * bias) * uniform(0.85, 1.1)
    amount = uniform(0.01, 0.03) if augment else 0.01
    image = (image + amount * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    return Sample(image, lesion, white, severity)


def _grid(subject: Subject, generator: torch.Generator, augment: bool) -> Tensor:
    """(1, 2 side, 2 side, 2) places to sample at: twice as fine as the image."""
    rows, columns = subject.t1.shape[1:]
    axis = (torch.arange(2 * SIDE) + 0.5) / SIDE - 1
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (x, y) in [-1, 1] of the field
    if augment:
        angle, scale, flip, *shift = torch.rand(5, generator=generator).tolist()
        angle, scale = math.radians(24 * angle - 12), 0.9 + 0.2 * scale
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
        bend = 0.025 * torch.randn(1, 2, 5, 5, generator=generator)
        bend = F.interpolate(bend, (2 * SIDE, 2 * SIDE), mode="bicubic", align_corners=True)[0]
        places = (places + bend.permute(1, 2, 0)) @ turn.T + 0.1 * torch.tensor(shift) - 0.05
        if flip < 0.5:
            places = places * places.new_tensor([-1, 1])
    return (places * FIELD_MM / places.new_tensor([columns, rows]))[None]


def _lesions(white: Tensor, generator: torch.Generator, severity: float) -> Tensor:
    """(side, side) one to three soft ellipses that grow with the severity, within the white matter."""
    candidates = (white > 0.75).nonzero()
    if not len(candidates):
        return torch.zeros_like(white)
    total = torch.zeros_like(white)
    axis = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
        row, column = candidates[int(torch.randint(len(candidates), (1,), generator=generator))].tolist()
        radius, stretch, turn = torch.rand(3, generator=generator).tolist()
        radius, stretch, turn = severity * (5 + 4 * radius), 0.8 + 0.4 * stretch, math.pi * turn
        dy, dx = y - row - 0.5, x - column - 0.5
        along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        distance = ((along / stretch).square() + (across * stretch).square()).sqrt()
        total = torch.maximum(total, torch.sigmoid((radius - distance) / 0.6))
    return total * (1.5 * white).clamp(0, 1)


class BrainImages(Dataset[Sample]):
    """Endless images of one subject; image i depends on the seed and i alone.

    Args:
        subject: who is shown.
        seed: of everything that is drawn.
        healthy: share of images without lesions.
    """

    def __init__(self, subject: Subject, seed: int = 0, healthy: float = 0.4):
        self.subject, self.seed, self.healthy = subject, seed, healthy

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed((self.seed << 32) + index)
        ill, severity = torch.rand(2, generator=generator).tolist()
        severity = 0.0 if ill < self.healthy else LEAST_SEVERITY + (1 - LEAST_SEVERITY) * severity
        return render(self.subject, generator, severity=severity)
