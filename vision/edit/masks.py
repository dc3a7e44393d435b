"""Regions of interest: white may change. Shapes, thresholds and soft edges.

A region is (1, 1, height, width) or, with a channel per colour, (1, 3, height, width), in [0, 1].
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from vision.images import ImageLike, as_loaded, from_pil, to_pil, to_tensor
from vision.painted import is_colourful, painted


def box(height: int, width: int, left: float, top: float, right: float, bottom: float) -> Tensor:
    """A rectangle; its edges in shares of the sides, in [0, 1].

    Raises:
        ValueError: it holds no pixel.
    """
    region = torch.zeros(1, 1, height, width)
    inside = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    if inside:
        rows, columns = (slice(round(a * n), round(b * n)) for a, b, n in ((top, bottom, height), (left, right, width)))
        region[..., rows, columns] = 1
    if not region.any():
        raise ValueError(
            f"A box needs 0 <= left < right <= 1 and 0 <= top < bottom <= 1, and a pixel inside; got {left:g} {top:g} "
            f"{right:g} {bottom:g}."
        )
    return region


def ellipse(height: int, width: int, x: float, y: float, radius_x: float, radius_y: float) -> Tensor:
    """An ellipse; its centre and radii in shares of the sides.

    Raises:
        ValueError: it holds no pixel.
    """
    rows = ((torch.arange(height) + 0.5) / height - y) / max(radius_y, 1e-9)
    columns = ((torch.arange(width) + 0.5) / width - x) / max(radius_x, 1e-9)
    region = (rows[:, None].square() + columns.square() <= 1).float()[None, None]
    if not min(radius_x, radius_y) > 0 or not region.any():
        raise ValueError(
            f"An ellipse needs positive radii and a pixel inside; got centre {x:g} {y:g}, radii {radius_x:g} "
            f"{radius_y:g}, in shares of the sides."
        )
    return region


def threshold(image: ImageLike, low: float, high: float = 1.0) -> Tensor:
    """Where the mean of a picture's channels lies in [low, high].

    Raises:
        ValueError: nothing lies between them.
    """
    if not low <= high:
        raise ValueError(f"Intensities need a lower and a higher value, got {low:g} {high:g}.")
    grey = to_tensor(image).mean(dim=1, keepdim=True)
    return ((grey >= low) & (grey <= high)).float()


def feather(region: Tensor, pixels: float) -> Tensor:
    """A region (batch, channels, height, width) with soft edges: gaussian of this standard deviation; 0 leaves it.

    Raises:
        ValueError: the edge is softer than the longer side.
    """
    longest = max(region.shape[-2:])
    if not 0 <= pixels <= longest:
        raise ValueError(f"Feathering must lie in [0, {longest}] pixels here, got {pixels:g}.")
    if pixels == 0:
        return region
    reach = int(3 * pixels + 0.5)
    places = torch.arange(-reach, reach + 1).float()
    bell = torch.exp(-places.square() / (2 * pixels**2))
    bell = (bell / bell.sum()).expand(region.shape[1], 1, -1)
    padded = F.pad(region, (reach,) * 4, mode="replicate")
    blurred = F.conv2d(padded, bell[:, :, None], groups=region.shape[1])
    return F.conv2d(blurred, bell[..., None], groups=region.shape[1]).clamp(0, 1)


def load_region(region: ImageLike, size: tuple[int, int]) -> PIL.Image.Image:
    """A region as an 8-bit RGB picture of `size` (height, width): what is painted may change, see `painted`.

    Opaque colours stay apart, as published: they are weights of single latent channels. A region of another size and
    the same shape is resized, with a warning.

    Raises:
        ValueError: it is empty, so that nothing would change, or has another shape than the picture.
    """
    if isinstance(region, Tensor) and region.ndim == 4 and region.shape[1] == 1:
        region = region.expand(-1, 3, -1, -1)
    loaded = from_pil(to_pil(to_tensor(region))) if isinstance(region, (Tensor, np.ndarray)) else as_loaded(region)
    picture = loaded.rgb if loaded.alpha is None and is_colourful(loaded) else painted(loaded).convert("RGB")
    if not np.asarray(picture).any():
        raise ValueError("The mask is empty (all black), so nothing could change; paint white what may.")
    height, width = size
    if picture.size != (width, height):
        if abs(picture.width * height / picture.height - width) > max(1.0, 0.01 * width):
            raise ValueError(
                f"The mask has {picture.width} x {picture.height} pixels, another shape than the picture's {width} x "
                f"{height}; paint it on the picture itself."
            )
        warnings.warn(
            f"The mask of {picture.width} x {picture.height} pixels is resized to the picture's {width} x {height}.",
            stacklevel=2,
        )
        picture = picture.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return picture


GREY = slice(16, 240)
"""Brightness that is neither black nor white in a mask."""


def remarks(region: PIL.Image.Image) -> list[str]:
    """Sentences about a region (mode L, white may change) that is hardly what a user meant."""
    low, high = region.getextrema()
    if low >= 250:
        return ["The mask is white everywhere, so the whole picture may change."]
    if high < 128:
        return [
            f"The mask's brightest place is {high} of 255, so at most {high / 2.55:.0f} % of a change gets through."
        ]
    counts = region.histogram()
    if sum(counts[GREY]) > 0.9 * sum(counts[1:]):
        return ["Nearly all of the mask is grey, so changes get through in part; is it a photograph?"]
    return []


def to_latents(region: PIL.Image.Image, factor: int, channels: int = 4) -> Tensor:
    """(1, channels, h, w) in [0, 1]: what each latent channel may change of an 8-bit region.

    The sides are floored to multiples of the factor (Lanczos), then the central pixels of each block averaged in 8 bit
    with halves rounded up, as OpenCV's bilinear resizing by this factor does. Colours stay apart: the channels take
    red, green, blue, red, and so on (section 2.2, step C of the published code).
    """
    width, height = (side // factor * factor for side in region.size)
    pixels = np.asarray(region.resize((width, height), PIL.Image.Resampling.LANCZOS)).astype(np.int32)
    if factor == 1:
        mean = pixels
    else:
        first, second = (pixels[factor // 2 - 1 + i :: factor] for i in (0, 1))
        blocks = [rows[:, factor // 2 - 1 + i :: factor] for rows in (first, second) for i in (0, 1)]
        mean = (sum(blocks) + 2) >> 2
    colours = torch.from_numpy(mean).permute(2, 0, 1).float() / 255
    return colours[[i % 3 for i in range(channels)]][None]


def join(regions: Sequence[Tensor]) -> Tensor:
    """The union of regions of one size."""
    return torch.stack(list(regions)).amax(dim=0)
