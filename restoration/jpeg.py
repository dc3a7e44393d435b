"""JPEG round trips: the real codec (Pillow, 4:2:0) and the plain-tensor one that Real-ESRGAN degrades with.

b: batch, h, w: height and width in pixels, n: 8 x 8 blocks.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# Annex K of the JPEG standard. The luma table is used transposed, as the published degradation does.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Send an image through a real JPEG file (libjpeg, 4:2:0).

    Args:
        image: (3, height, width) RGB in [0, 1]; values outside are clipped.
        quality: 1 to 100.

    Returns:
        (3, height, width) float32 multiples of 1/255, on the device of `image`.
    """
    array = (image.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=int(quality), subsampling="4:2:0")
    decoded = torch.from_numpy(np.array(Image.open(file))).to(image.device)
    return decoded.permute(2, 0, 1).float() / 255


def tensor_jpeg(image: Tensor, quality: float | Tensor) -> Tensor:
    """JPEG loss computed on tensors.

    4:2:0 by averaging, standard tables, nearest chroma upsampling. Sides are padded with black to multiples
    of 16, as Real-ESRGAN does.

    Args:
        image: (b, 3, h, w) RGB in [0, 1].
        quality: 1 to 100, fractions allowed; one number or (b,).

    Returns:
        (b, 3, h, w) in [0, 1], not rounded to 8 bit.
    """
    batch, _, height, width = image.shape
    quality = torch.as_tensor(quality, dtype=image.dtype, device=image.device).expand(batch)
    factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    x = F.pad(image, (0, -width % 16, 0, -height % 16)) * 255
    red, green, blue = x.unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma_blue = -0.168736 * red - 0.331264 * green + 0.5 * blue + 128
    chroma_red = 0.5 * red - 0.418688 * green - 0.081312 * blue + 128
    chroma = F.avg_pool2d(torch.stack((chroma_blue, chroma_red), 1), 2)  # (b, 2, h / 2, w / 2)
    luma = _quantise(luma[:, None], _table("luma").to(x), factor)[:, 0]
    chroma = _quantise(chroma, _table("chroma").to(x), factor)
    chroma_blue, chroma_red = (F.interpolate(chroma, scale_factor=2, mode="nearest") - 128).unbind(1)
    red = luma + 1.402 * chroma_red
    green = luma - 0.344136 * chroma_blue - 0.714136 * chroma_red
    blue = luma + 1.772 * chroma_blue
    return (torch.stack((red, green, blue), 1).clamp(0, 255) / 255)[..., :height, :width]


def _quantise(plane: Tensor, table: Tensor, factor: Tensor) -> Tensor:
    """Planes (b, c, h, w) in [0, 255] with 8 x 8 cosine coefficients rounded to `table` * `factor` (b,)."""
    cosine = _cosine().to(plane)
    batch, channels, height, width = plane.shape
    blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    # blocks: (b, c, h / 8, w / 8, 8, 8)
    step = table * factor.view(batch, 1, 1, 1, 1, 1)
    coefficients = torch.round(cosine @ blocks @ cosine.T / step) * step
    blocks = cosine.T @ coefficients @ cosine + 128
    return blocks.transpose(3, 4).reshape(plane.shape)


@lru_cache
def _cosine() -> Tensor:
    """(8, 8) orthonormal cosine transform, rows are frequencies."""
    index = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * index[None, :] + 1) * index[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


@lru_cache
def _table(plane: str) -> Tensor:
    """(8, 8) quantisation steps."""
    if plane == "luma":
        return torch.tensor(_LUMA, dtype=torch.float64).T
    table = torch.full((8, 8), 99.0, dtype=torch.float64)
    table[:4, :4] = torch.tensor(_CHROMA, dtype=torch.float64)
    return table
