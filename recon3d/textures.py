"""Textures: pictures read under a limit, look-ups, and colours between display values and light.

A texture is (height, width, 3) in [0, 1] display values (sRGB); row 0 is the top, where v = 1.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vision.images import BadImage, to_uint8
from vision.images.read import opened
from vision.images.transparency import bleed

Wrap = tuple[Literal["repeat", "mirror", "clamp"], Literal["repeat", "mirror", "clamp"]]
"""What happens to u and to v outside [0, 1]: the picture repeats, turns round, or its border goes on."""
REPEAT: Wrap = ("repeat", "repeat")
MAX_TEXELS = 1 << 26
"""Pixels of all textures of a mesh together: 8192 x 8192, 0.8 GB as float32."""


DAMAGES = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError,
    struct.error, zlib.error,
)  # fmt: skip
"""What decoders make of damaged pictures."""


class UnknownTexture(BadImage):
    """A texture in a format that is not read."""


def read_texture(content: bytes, name: str, max_texels: int = MAX_TEXELS) -> tuple[Tensor, Tensor | None]:
    """Colours (height, width, 3) and opacity (height, width), None where all is opaque, of a picture file, in [0, 1].

    Args:
        content: of the file; its colour profile is left out of account, as glTF asks for.
        name: what it is called, for the sentences.
        max_texels: refuse larger pictures before they are decoded.

    Raises:
        UnknownTexture: it is a KTX2 or DDS file.
        BadImage: it is damaged, no picture, or too large.
    """
    for head, kind in ((b"\xabKTX 20\xbb", "KTX2"), (b"DDS ", "DDS")):
        if content.startswith(head):
            raise UnknownTexture(f"{name} is a {kind} file, which is not read; convert it to PNG or JPEG.")
    try:
        with opened(content, name, max_texels) as file:
            picture = file.read(1, upright=False, fill=False)  # where opacity means nothing, what it hides counts
    except BadImage as error:
        if "more than the limit" not in str(error):
            raise
        raise BadImage(
            f"{name} is larger than textures may be ({max_texels:,} pixels are left of {MAX_TEXELS:,} for all of a "
            "mesh); make the textures smaller."
        ) from None
    except DAMAGES as error:
        raise BadImage(f"{name} is damaged or cut off ({error}).") from error
    return _shares(picture.rgb), None if picture.alpha is None else _shares(picture.alpha)


def _shares(plane: Image.Image) -> Tensor:
    """Numbers in [0, 1] of 8-bit ones."""
    return torch.from_numpy(np.array(plane)).float().div_(255)


def without_hidden(colors: Tensor, opacity: Tensor) -> Tensor:
    """(height, width, 3) the colours, those that an opacity (height, width) of 0 hides taken from their neighbours.

    More than 4096 x 4096 stay as they are: filling takes some fifty bytes a pixel.
    """
    if opacity.numel() > 1 << 24:
        return colors
    filled = bleed(to_uint8(colors).numpy(), to_uint8(opacity).numpy())
    return torch.from_numpy(filled).float().div_(255)


def texture_image(texture: Tensor, opacity: Tensor | None = None) -> Image.Image:
    """PIL picture of a texture (height, width, 3) in [0, 1], with opacity (height, width) of the same size."""
    picture = Image.fromarray(to_uint8(texture.detach()).cpu().numpy())
    if opacity is not None and opacity.shape == texture.shape[:2]:
        picture.putalpha(Image.fromarray(to_uint8(opacity).numpy()))
    return picture


def png(picture: Image.Image) -> bytes:
    """The content of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def sample_texture(texture: Tensor, uv: Tensor, wrap: Wrap = REPEAT) -> Tensor:
    """(points, channels) bilinear look-up in (height, width, channels) at uv (points, 2), origin bottom left."""
    height, width = texture.shape[:2]
    x = uv[:, 0] * width - 0.5
    y = (1 - uv[:, 1]) * height - 0.5
    left, top = x.floor(), y.floor()
    fx, fy = (x - left).unsqueeze(-1), (y - top).unsqueeze(-1)
    left, top = left.long(), top.long()
    flat = texture.reshape(height * width, -1)
    columns = [wrapped(left + step, width, wrap[0]) for step in (0, 1)]
    rows = [wrapped(top + step, height, wrap[1]) for step in (0, 1)]

    def texel(row: Tensor, column: Tensor) -> Tensor:
        return flat.index_select(0, row * width + column)

    upper = texel(rows[0], columns[0]) * (1 - fx) + texel(rows[0], columns[1]) * fx
    lower = texel(rows[1], columns[0]) * (1 - fx) + texel(rows[1], columns[1]) * fx
    return upper * (1 - fy) + lower * fy


def wrapped(index: Tensor, size: int, wrap: Literal["repeat", "mirror", "clamp"]) -> Tensor:
    """Indices of texels, any whole numbers, brought into 0 to size - 1."""
    if wrap == "clamp":
        return index.clamp(0, size - 1)
    if wrap == "repeat":
        return index % size
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def to_linear(display: Tensor) -> Tensor:
    """Light in [0, 1] of display values in [0, 1] (sRGB, IEC 61966-2-1)."""
    return torch.where(display <= 0.04045, display / 12.92, ((display.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def to_display(linear: Tensor) -> Tensor:
    """Display values in [0, 1] of light in [0, 1]; the inverse of `to_linear`."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.003) ** (1 / 2.4) - 0.055)


def times(tint: Tensor, texture: Tensor) -> Tensor:
    """Display values of a textured surface (points, 3) with a tint (points, 3): light is multiplied, as in glTF."""
    return to_display(to_linear(tint.clamp(0, 1)) * to_linear(texture.clamp(0, 1)))
