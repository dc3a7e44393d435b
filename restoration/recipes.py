"""Orders, probabilities and ranges of degradations; `restoration.degradation` carries them out.

`recipe("bsrgan")` and its sisters give the published settings; make others with `dataclasses.replace`.
Ranges are (lowest, highest). Noise levels are in steps of 8 bit (of 255), blur widths in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[float, float]


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")


def _check_range(name: str, value: Range, lowest: float, highest: float = float("inf")) -> None:
    if not lowest <= value[0] <= value[1] <= highest:
        bounds = f"within [{lowest:g}, {highest:g}]" if highest < float("inf") else f"from {lowest:g} up"
        raise ValueError(f"{name} must be an increasing pair {bounds}, got {value}.")


@dataclass(frozen=True)
class _Shrinking:
    """What all recipes have."""

    scale: int = 4
    """High-resolution pixels per low-resolution pixel and side."""

    def __post_init__(self) -> None:
        if self.scale < 1 or self.scale != int(self.scale):
            raise ValueError(f"scale must be a whole number from 1, got {self.scale}.")


@dataclass(frozen=True)
class BicubicRecipe(_Shrinking):
    """MATLAB's antialiased bicubic shrinking, rounded to 8 bit: the clean setting of papers."""


@dataclass(frozen=True)
class BSRGANRecipe(_Shrinking):
    """Two blurs, two resizes, noise and JPEG in random order, then JPEG (Zhang et al. 2021, figure 1)."""

    halve_probability: float = 0.25
    """How often an image is halved first and degraded by 2 (scale 4 only)."""
    oriented_sizes: tuple[int, ...] = tuple(range(7, 27, 2))
    """Kernel sizes of the blurs with two widths; sizes may be even."""
    round_sizes: tuple[int, ...] = tuple(range(7, 27, 2))
    """Kernel sizes of the round blurs."""
    blur_factor: float = 1.0
    """Multiplies the widest blur: variances up to (4 + scale), round widths up to (2 + scale / 5)."""
    free_resize_probability: float = 0.75
    """How often the first resize is free, 1 to 1 / (2 scale); otherwise a blur and every scale-th pixel."""
    noise_levels: tuple[int, int] = (2, 25)
    """Range of the noise; the highest also bounds noise that is correlated between the colours."""
    jpeg_probability: float = 0.9
    """How often there is a JPEG before the last one."""
    qualities: tuple[int, int] = (30, 95)
    """JPEG qualities, 1 to 100."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("halve_probability", "free_resize_probability", "jpeg_probability"):
            _check_probability(name, getattr(self, name))
        _check_range("noise_levels", self.noise_levels, 0)
        _check_range("qualities", self.qualities, 1, 100)


@dataclass(frozen=True)
class StageRecipe:
    """One of the two rounds of Real-ESRGAN: blur, resize, noise, JPEG."""

    resize_shares: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Shares of growing, shrinking and keeping the size."""
    resize_range: Range = (0.3, 1.5)
    """Smallest and largest factor of the resize."""
    gaussian_probability: float = 0.5
    """How often the noise is Gaussian; otherwise Poisson."""
    gaussian_levels: Range = (1, 15)
    """Range of the Gaussian noise."""
    poisson_scales: Range = (0.05, 2.0)
    """Range of the factor on Poisson noise."""
    gray_probability: float = 0.4
    """How often all colours get the same noise."""
    qualities: Range = (60, 95)
    """JPEG qualities, 1 to 100."""
    sigmas: Range = (0.2, 3.0)
    """Blur widths in pixels."""
    sinc_probability: float = 0.1
    """How often the blur is a low-pass filter that rings."""

    def __post_init__(self) -> None:
        for name in ("gaussian_probability", "gray_probability", "sinc_probability"):
            _check_probability(name, getattr(self, name))
        _check_range("resize_range", self.resize_range, 0.01)
        _check_range("qualities", self.qualities, 1, 100)
        _check_range("sigmas", self.sigmas, 1e-3)


@dataclass(frozen=True)
class RealESRGANRecipe(_Shrinking):
    """Two rounds of degradation, then ringing (Wang et al. 2021, section 3), in the milder ranges of PASD."""

    first: StageRecipe = field(default_factory=StageRecipe)
    """The first round."""
    second: StageRecipe = field(
        default_factory=lambda: StageRecipe(
            resize_shares=(0.3, 0.4, 0.3),
            resize_range=(0.6, 1.2),
            gaussian_levels=(1, 12),
            poisson_scales=(0.05, 1.0),
            qualities=(60, 100),
            sigmas=(0.2, 1.5),
        )
    )
    """The second round."""
    second_blur_probability: float = 0.5
    """How often the second round blurs."""
    final_sinc_probability: float = 0.8
    """How often a low-pass filter comes last."""
    kernel_sizes: tuple[int, ...] = tuple(range(7, 23, 2))
    """Odd sizes of the kernels."""
    shape_shares: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Shares of the six blur shapes, in the order of `restoration.kernels.SHAPES`."""
    generalized_betas: Range = (0.5, 4.0)
    """Exponents of generalised Gaussians, half of the draws below 1."""
    plateau_betas: Range = (1.0, 2.0)
    """Exponents of plateau kernels, half of the draws below 1 (or at it)."""
    resize_back: bool = False
    """Resize the result to the size of the input, as latent models train."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("second_blur_probability", "final_sinc_probability"):
            _check_probability(name, getattr(self, name))
        if not self.kernel_sizes or any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd, got {self.kernel_sizes}.")


@dataclass(frozen=True)
class BlindRecipe(_Shrinking):
    """A fixed degradation for tables: Gaussian blur, Pillow bicubic, noise of a fixed seed, JPEG of quality 60."""


Recipe = BicubicRecipe | BSRGANRecipe | RealESRGANRecipe | BlindRecipe

RECIPES: dict[str, Recipe] = {
    "bicubic": BicubicRecipe(),
    "bsrgan": BSRGANRecipe(),
    "bsrgan_light": BSRGANRecipe(
        oriented_sizes=tuple(range(5, 15)),
        round_sizes=tuple(range(5, 8)),
        blur_factor=0.25,
        noise_levels=(2, 8),
        qualities=(80, 95),
    ),
    "bsrgan_strong": BSRGANRecipe(noise_levels=(10, 50), qualities=(15, 80)),
    "realesrgan": RealESRGANRecipe(),
    "blind": BlindRecipe(),
}


def recipe(name: str) -> Recipe:
    """The degradation of this name.

    Raises:
        ValueError: when there is none; names the ones there are.
    """
    if name not in RECIPES:
        raise ValueError(f"There is no degradation {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
