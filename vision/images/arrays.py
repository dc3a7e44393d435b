"""Tensors and arrays of pictures: conversion, padding, masks, colour transfer.

Inside the project colour tensors are (batch, 3, height, width) RGB float32 in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from vision.images.loaded import LoadedImage
from vision.images.read import Source, as_loaded

ImageLike = Source | LoadedImage | np.ndarray | Tensor
"""Everything that `to_tensor` takes."""


ROUNDING = 0.5 / 255
"""How far a number may lie outside [0, 1] and still mean the last colour of an 8-bit picture."""


def to_tensor(image: ImageLike) -> Tensor:
    """(1, 3, height, width) float32 RGB in [0, 1] of one picture; transparency is left out (see `LoadedImage.on`).

    Args:
        image: a path, PIL image, content of a file, `LoadedImage`, (height, width, 3) or (height, width) uint8 array,
            or a tensor (3, height, width) or (batch, 3, height, width) in [0, 1], which passes through as float32.

    Raises:
        ValueError: an array or tensor has another shape or type, is empty, or holds numbers that are no colours.
    """
    if isinstance(image, Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point() or not image.numel():
            raise ValueError(f"An image tensor must be (batch, 3, h, w) floats in [0, 1], got {_kind(image)}.")
        low, high = (float(number) for number in image.detach().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # a NaN is neither
            raise ValueError(
                f"An image tensor must hold numbers in [0, 1], got {low:g} to {high:g}; divide by 255, or clamp."
            )
        return image.float() if image.ndim == 4 else image.float()[None]
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise ValueError(f"An image array must be (h, w, 3) or (h, w) uint8, got {_kind(image)}.")
        array = image
    else:
        loaded = as_loaded(image)
        array = np.asarray(loaded.rgb) if loaded.deep is None else loaded.deep
    array = array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)
    white = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float().div_(white)


def to_uint8(image: Tensor, *, truncate: bool = False) -> Tensor:
    """[0, 1] as uint8 of the same shape: clamped, times 255, rounded (or cut off, as torchvision's ToPILImage does).

    Raises:
        ValueError: the picture holds NaN or infinite values.
    """
    scaled = _colours(image).mul_(255)
    return (scaled if truncate else scaled.round_()).to(torch.uint8)


def _colours(image: Tensor) -> Tensor:
    """A float32 copy in [0, 1]."""
    if not image.isfinite().all():
        raise ValueError("The picture holds numbers that are no colours (NaN or infinite); compute in float32.")
    return image.float().clamp(0, 1)


def to_uint16(image: Tensor) -> Tensor:
    """[0, 1] as uint16 of the same shape: clamped, times 65535, rounded; errors as `to_uint8`."""
    return (_colours(image).mul_(65535).round_()).to(torch.uint16)


def to_pil(image: Tensor, *, truncate: bool = False) -> PIL.Image.Image:
    """A PIL image of one picture: (1, c, h, w) or (c, h, w) in [0, 1] or uint8; c = 3 gives RGB, c = 1 gives
    L."""
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"One picture (1, 3, h, w) or (3, h, w) is needed, got {_kind(image)}.")
    pixels = image.detach() if image.dtype == torch.uint8 else to_uint8(image.detach(), truncate=truncate)
    array = pixels.permute(1, 2, 0).cpu().contiguous().numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def pad_to(image: Tensor, height: int, width: int, mode: Literal["symmetric", "reflect"] = "symmetric") -> Tensor:
    """Extend (..., h, w) at the bottom and on the right by mirroring, as often as needed; `crop` undoes it.

    Args:
        image: (..., h, w).
        height: wanted height, at least h.
        width: wanted width, at least w.
        mode: "symmetric" repeats the edge pixel (appending the flipped image), "reflect" does not.
    """
    rows = _mirrored(image.shape[-2], height, mode).to(image.device)
    columns = _mirrored(image.shape[-1], width, mode).to(image.device)
    return image[..., rows, :][..., columns]


def pad_to_multiple(image: Tensor, multiple: int, mode: Literal["symmetric", "reflect"] = "symmetric") -> Tensor:
    """`pad_to` the next multiples of `multiple`; an image that has them already is unchanged."""
    height, width = (math.ceil(side / multiple) * multiple for side in image.shape[-2:])
    return image if (height, width) == tuple(image.shape[-2:]) else pad_to(image, height, width, mode)


def crop(image: Tensor, height: int, width: int) -> Tensor:
    """The top left `height` x `width` of (..., h, w)."""
    return image[..., :height, :width]


def composite(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """`inside` where the mask is 1, `outside` where it is 0, a blend between; shapes broadcast."""
    mask = mask.to(inside.dtype)
    return mask * inside + (1 - mask) * outside


def to_y(rgb: Tensor) -> Tensor:
    """Luma (batch, 1, h, w) of RGB in [0, 1] as MATLAB's rgb2ycbcr defines it (ITU-R BT.601), in [16/255,
    235/255]."""
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((rgb * weights).sum(dim=-3, keepdim=True) + 16) / 255


def keep_grey(image: Tensor, finish: Callable[[Tensor], Tensor] | None = None) -> Callable[[Tensor], Tensor]:
    """What finishes the results of a picture (b, 3, h, w): the items that are grey get back to grey, then `finish`.

    A network answers grey with a little colour.
    """
    grey = is_grey(image)

    def finished(piece: Tensor) -> Tensor:
        if grey.any():
            piece = torch.where(grey.to(piece.device).view(-1, 1, 1, 1), to_grey(piece), piece)
        return piece if finish is None else finish(piece)

    return finished


def is_grey(image: Tensor) -> Tensor:
    """(b,) bool, which items of (b, 3, h, w) have three equal channels."""
    return (image[:, :1] == image[:, 1:]).flatten(1).all(1)


def to_grey(image: Tensor) -> Tensor:
    """(b, 3, h, w) with three equal channels: the weighted mean of those of `image` that its luma is made of."""
    weights = torch.tensor([65.481, 128.553, 24.966], device=image.device).view(3, 1, 1) / 219
    return (image.float() * weights).sum(1, keepdim=True).to(image.dtype).expand_as(image)


def match_color(image: Tensor, reference: Tensor, method: Literal["wavelet", "adain"] = "wavelet") -> Tensor:
    """Give `image` the colours of `reference` and keep its details.

    "wavelet" takes the low frequencies from the reference and the high ones from the image (StableSR, section
    3.3); "adain" moves mean and standard deviation of every channel to the reference's (Huang and Belongie
    2017, equation 8).

    Args:
        image: (batch, 3, h, w) in [0, 1].
        reference: the same shape.
        method: see above.

    Returns:
        (batch, 3, h, w); values may leave [0, 1] a little.
    """
    if image.shape != reference.shape:
        raise ValueError(f"image and reference must have one shape, got {_kind(image)} and {_kind(reference)}.")
    if method == "wavelet":
        return split_frequencies(image)[0] + split_frequencies(reference)[1]
    if method == "adain":
        (mean, std), (wanted_mean, wanted_std) = _statistics(image), _statistics(reference)
        return (image - mean) / std * wanted_std + wanted_mean
    raise ValueError(f"method must be 'wavelet' or 'adain', got {method!r}.")


def split_frequencies(image: Tensor, levels: int = 5) -> tuple[Tensor, Tensor]:
    """(high, low) of (batch, c, h, w) by repeated `blur` of radius 1, 2, 4, ...; their sum is the image."""
    low = image
    for level in range(levels):
        low = blur(low, 2**level)
    return image - low, low


def blur(image: Tensor, radius: int) -> Tensor:
    """(batch, c, h, w) weighted 1 2 1 in both directions with neighbours `radius` pixels away; edges are
    repeated."""
    weights = image.new_tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(weights, weights).expand(image.shape[1], 1, 3, 3)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=image.shape[1], dilation=radius)


def box_mean(image: Tensor, side: int) -> Tensor:
    """(batch, c, h, w) means of `side` x `side` pixels (odd) around every one; edges are mirrored.

    A convolution, in the numbers of `image` also under autocast: the library's pooling takes ten times as long on a
    CPU, with channels last.
    """
    kernel = image.new_full((image.shape[1], 1, side, side), side**-2)
    with torch.autocast(image.device.type, enabled=False):
        return F.conv2d(F.pad(image, (side // 2,) * 4, mode="reflect"), kernel, groups=image.shape[1])


def _statistics(image: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    mean = image.mean(dim=(2, 3), keepdim=True)
    return mean, (image.var(dim=(2, 3), keepdim=True) + eps).sqrt()


def _mirrored(length: int, wanted: int, mode: str) -> Tensor:
    """Indices (wanted,) that walk to and fro over `length` pixels."""
    if wanted < length:
        raise ValueError(f"Cannot pad {length} pixels to {wanted}.")
    steps = torch.arange(wanted)
    if mode == "symmetric":
        phase = steps % (2 * length)
        return torch.minimum(phase, 2 * length - 1 - phase)
    if mode == "reflect":
        period = max(2 * length - 2, 1)
        phase = steps % period
        return torch.minimum(phase, period - phase) if length > 1 else torch.zeros_like(steps)
    raise ValueError(f"mode must be 'symmetric' or 'reflect', got {mode!r}.")


def _kind(array: Tensor | np.ndarray) -> str:
    return f"{tuple(array.shape)} {array.dtype}"
