"""Masks as people and programs leave them: strokes, transparent layers, labels; how much of every pixel is painted."""

from __future__ import annotations

import numpy as np
import PIL.Image

from vision.images import LoadedImage

FAINT, ONE_COLOUR = 16, 8
"""Of 255: opacity from which a colour can be told, and how far the shades of one colour may lie apart."""
LABELS = 32
"""So many flat colours at most are labels; painted ones have soft edges, and so more."""
STRAY = 0.01
"""Of the pixels that are near white: where fewer are in between, the mask is black and white, and these are noise."""
FLAT = 0.6
"""Share of neighbours that are equal, from which values beside white are areas of labels; noise has half or fewer."""


def painted(mask: LoadedImage) -> PIL.Image.Image:
    """(mode L) how much of a mask is painted, whatever with: white counts fully.

    Brightness counts, times opacity; opacity alone where only one colour was painted on a transparent layer. Labels
    count as one: values so dark that nobody painted them (0, 1, 2, ... and perhaps 255), and a few flat colours. What
    is nearly all black and white has no labels.
    """
    values = _numbers(mask)
    if mask.alpha is None:
        return PIL.Image.fromarray(values)
    alpha = np.asarray(mask.alpha)
    visible = np.asarray(mask.rgb)[alpha >= FAINT]
    if not len(visible) or (np.ptp(visible, axis=0) <= ONE_COLOUR).all():
        return PIL.Image.fromarray(alpha)
    return PIL.Image.fromarray(np.round(values * (alpha / 255.0)).astype(np.uint8))


def is_colourful(mask: LoadedImage) -> bool:
    """Whether some pixel is not grey."""
    return bool(np.ptp(np.asarray(mask.rgb), axis=2).any())


def _numbers(mask: LoadedImage) -> np.ndarray:
    """(h, w) uint8: the brightest colour of every pixel; 255 where labels are not 0."""
    highest = np.asarray(mask.rgb).max(axis=2)
    deep = highest if mask.deep is None else mask.deep if mask.deep.ndim == 2 else mask.deep.max(axis=2)
    white = 1.0 if deep.dtype.kind == "f" else np.iinfo(deep.dtype).max
    light = deep > white * 7 / 8
    between = (deep > 0) & ~light
    if between.sum() < STRAY * light.sum():
        return highest
    labels = deep[deep < white]  # white beside labels is one more, often for what is not known
    if labels.any() and labels.max() < white / 8 and (deep.min() == 0 or deep.max() < white):
        if light.any() and _flatness(deep, between) < FLAT:
            return highest
        return np.where(deep > 0, 255, 0).astype(np.uint8)
    if is_colourful(mask) and len(mask.rgb.getcolors(LABELS) or ()):
        return np.where(highest > 0, 255, 0).astype(np.uint8)
    return highest


def _flatness(values: np.ndarray, chosen: np.ndarray) -> float:
    """The share of the neighbours, left and above, of the chosen pixels of (h, w) that have their very value."""
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    count = chosen[:, 1:].sum() + chosen[1:].sum()
    return float((across & chosen[:, 1:]).sum() + (down & chosen[1:]).sum()) / max(1, int(count))
