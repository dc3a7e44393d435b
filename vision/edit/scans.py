"""Medical scans (NIfTI, DICOM) in and out: planes of a volume as pictures, and the volume again with its header.

What is stored stays as it is stored: numbers, type, scaling, orientation, spacing. Only voxels that an edit changed
differ. Derived DICOM files say that they are derived, and get identifiers of their own.
"""

from __future__ import annotations

import contextlib
import copy
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vision.edit.canvas import Canvas

NIFTI, DICOM = (".nii", ".nii.gz"), (".dcm", ".dicom")
ENDINGS = (*NIFTI, *DICOM)
Plane = Literal["axial", "coronal", "sagittal"]
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> the axis of right, anterior, superior that it cuts."""
Window = tuple[float, float]


def is_scan(path: str | Path) -> bool:
    """Whether a name ends like a scan's."""
    return Path(path).name.lower().endswith(ENDINGS)


def is_volume(path: str | Path) -> bool:
    """Whether a name ends like that of a volume, which can be cut in every plane."""
    return Path(path).name.lower().endswith(NIFTI)


def read_scan(path: str | Path, plane: Plane = "axial") -> Nifti | Dicom:
    """A scan.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or no scan that can be edited, or the library that reads it is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return Nifti.read(path, plane) if is_volume(path) else Dicom.read(path)


@dataclass(frozen=True)
class Nifti:
    """A volume in a NIfTI file."""

    image: Any
    """nibabel's image."""
    raw: np.ndarray
    """(i, j, k) the stored numbers, before scaling."""
    plane: Plane
    """How it is cut."""

    suffix = ".nii.gz"

    @classmethod
    def read(cls, path: Path, plane: Plane) -> Nifti:
        """See `read_scan`."""
        try:
            import nibabel
        except ImportError:
            raise ValueError(f"{path} needs the package nibabel: pip install 'burnish[medical]'.") from None
        with _told(path, nibabel.spatialimages.HeaderDataError, nibabel.filebasedimages.ImageFileError):
            image = nibabel.load(path)
            raw = np.array(image.dataobj.get_unscaled())
        if raw.ndim > 3 and raw.size == np.prod(raw.shape[:3]):
            raw = raw.reshape(raw.shape[:3])
        if raw.ndim != 3 or raw.dtype.kind not in "iuf":
            raise ValueError(f"{path} must hold one volume of numbers, got {raw.shape} of {raw.dtype}.")
        if not np.isfinite(raw).all():
            raise ValueError(f"{path} holds numbers that are no intensities (NaN or infinite).")
        return cls(image, raw, plane)

    @property
    def count(self) -> int:
        """How many planes there are."""
        return self.raw.shape[self._axis[0]]

    def numbers(self, index: int) -> np.ndarray:
        """(rows, columns) a view of one plane, upright: the forehead or the crown on top. `index` is the file's own."""
        return self._plane(self.raw, index)

    def canvas(self, index: int, window: Window | None) -> Canvas:
        """A plane as a picture; see `shown_range` for the window."""
        low, high = self.shown_range(window)
        slope, inter = self._scaling
        return Canvas(self.numbers(index).copy(), (low - inter) / slope, (high - inter) / slope)

    def shown_range(self, window: Window | None) -> Window:
        """Intensities that are black and white: those given, the header's, or 0.5 % and 99.5 % of the volume."""
        slope, inter = self._scaling
        header = self.image.header
        if window is None and float(header["cal_max"]) > float(header["cal_min"]):
            window = float(header["cal_min"]), float(header["cal_max"])
        return window or _percentiles(self.raw * slope + inter)

    def save(self, changed: Mapping[int, np.ndarray], path: Path, identity: str = "", frame: int = 0) -> None:
        """Write the volume with other numbers in some planes."""
        raw = self.raw.copy()
        for index, values in changed.items():
            self._plane(raw, index)[...] = values
        header = self.image.header.copy()
        image = type(self.image)(raw.reshape(self.image.shape), self.image.affine, header)
        # With its scaling set, nibabel writes the numbers as they are.
        image.header.set_slope_inter(*self._scaling)
        image.to_filename(path)

    def _plane(self, raw: np.ndarray, index: int) -> np.ndarray:
        from nibabel.orientations import apply_orientation, io_orientation

        axis, turned = self._axis
        if not 0 <= index < raw.shape[axis]:
            raise ValueError(f"There is no {self.plane} slice {index}; there are 0 to {raw.shape[axis] - 1}.")
        upright = apply_orientation(raw, io_orientation(self.image.affine))  # a view
        cut: list[Any] = [slice(None)] * 3
        cut[AXES[self.plane]] = raw.shape[axis] - 1 - index if turned else index
        return upright[tuple(cut)][:, ::-1].T

    @property
    def _axis(self) -> tuple[int, bool]:
        """The file's axis that the plane cuts, and whether it runs the other way."""
        from nibabel.orientations import io_orientation

        orientation = io_orientation(self.image.affine)
        axis = int(np.flatnonzero(orientation[:, 0] == AXES[self.plane])[0])
        return axis, bool(orientation[axis, 1] < 0)

    @property
    def _scaling(self) -> tuple[float, float]:
        slope, inter = self.image.dataobj.slope, self.image.dataobj.inter
        return float(slope), float(inter)


@dataclass(frozen=True)
class Dicom:
    """One DICOM file: a slice, or several frames."""

    data: Any
    """pydicom's data set."""
    raw: np.ndarray
    """(frames, rows, columns) the stored numbers."""

    suffix = ".dcm"

    @classmethod
    def read(cls, path: Path) -> Dicom:
        """See `read_scan`."""
        try:
            import pydicom
        except ImportError:
            raise ValueError(f"{path} needs the package pydicom: pip install 'burnish[medical]'.") from None
        with _told(path, pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException):
            data = pydicom.dcmread(path)
            raw = np.array(data.pixel_array)
            kind = str(data.PhotometricInterpretation)
        if kind not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError(f"{path} holds {kind} pixels; only grey ones (MONOCHROME1, MONOCHROME2) can be edited.")
        return cls(data, raw if raw.ndim == 3 else raw[None])

    @property
    def count(self) -> int:
        """How many frames there are."""
        return len(self.raw)

    def numbers(self, index: int) -> np.ndarray:
        """(rows, columns) a view of one frame."""
        if not 0 <= index < self.count:
            raise ValueError(f"There is no slice {index}; there are 0 to {self.count - 1}.")
        return self.raw[index]

    def canvas(self, index: int, window: Window | None) -> Canvas:
        """A frame as a picture; see `shown_range` for the window."""
        low, high = self.shown_range(window)
        slope, inter = self._scaling
        stored = (low - inter) / slope, (high - inter) / slope
        return Canvas(self.numbers(index).copy(), *(stored[::-1] if self._negative else stored))

    def shown_range(self, window: Window | None) -> Window:
        """Intensities that are black and white: those given, the file's first window, or 0.5 % and 99.5 % of it."""
        slope, inter = self._scaling
        if window is None and "WindowCenter" in self.data and "WindowWidth" in self.data:
            centre, width = (_first(self.data[name].value) for name in ("WindowCenter", "WindowWidth"))
            if width > 1:
                window = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        return window or _percentiles(self.raw * slope + inter)

    def save(self, changed: Mapping[int, np.ndarray], path: Path, identity: str = "", frame: int = 0) -> None:
        """Write the file with other numbers in some frames, as a derived image of a series of its own.

        Args:
            identity: of the run, and `frame`, the progression's: the new identifiers depend on them alone.
        """
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid

        raw = self.raw.copy()
        for index, values in changed.items():
            raw[index] = values
        data = copy.deepcopy(self.data)
        data.PixelData = raw.astype(raw.dtype.newbyteorder("<")).tobytes()
        data["PixelData"].VR = "OW" if raw.dtype.itemsize > 1 else "OB"
        data["PixelData"].is_undefined_length = False
        if data.file_meta.TransferSyntaxUID.is_compressed or not data.file_meta.TransferSyntaxUID.is_little_endian:
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.ImageType = ["DERIVED", "SECONDARY", *list(data.get("ImageType", []))[2:]]
        data.DerivationDescription = "Simulated by progressive image editing; shows no patient's state"
        for name in ("SOPInstanceUID", "SeriesInstanceUID"):
            setattr(data, name, generate_uid(entropy_srcs=[str(data.get(name, "")), identity, str(frame)]))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(path, enforce_file_format=True)

    @property
    def _negative(self) -> bool:
        return str(self.data.PhotometricInterpretation) == "MONOCHROME1"

    @property
    def _scaling(self) -> tuple[float, float]:
        return float(self.data.get("RescaleSlope", 1) or 1), float(self.data.get("RescaleIntercept", 0) or 0)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _percentiles(values: np.ndarray) -> Window:
    low, high = (float(x) for x in np.percentile(values, (0.5, 99.5)))
    if low >= high:
        low, high = float(values.min()), float(values.max())
    if low >= high:
        raise ValueError("The scan holds one number only, so nothing can be seen; name a window (--window LOW HIGH).")
    return low, high


DAMAGES = (
    OSError, ValueError, TypeError, ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip
"""What nibabel and pydicom raise, beside their own errors, on files that are damaged."""


@contextlib.contextmanager
def _told(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """What the libraries raise on damaged files, as one sentence."""
    try:
        yield
    except (*DAMAGES, *errors) as error:
        raise ValueError(f"{path} is no scan that can be read: {' '.join(str(error).split()).rstrip('.')}.") from error
