"""Restore the frames of an animation, or the pages of a document, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import torch

from restoration.restorer import Restorer
from vision.images import Frames, enlarge_alpha, to_tensor, to_uint8


def restore_frames(
    restorer: Restorer,
    frames: Frames,
    options: Any,
    background: str | None = None,
    progress: Callable[[float], object] | None = None,
) -> Iterator[np.ndarray]:
    """Every frame restored, (H, W, 3) or, when any has transparency, (H, W, 4) uint8.

    Args:
        restorer: restores each on its own, with the same seed.
        frames: what was read.
        options: of the restorer.
        background: colour that transparent frames are put on; None keeps their transparency.
        progress: called with the finished share in [0, 1].
    """
    for number, frame in enumerate(frames):
        loaded = frame if background is None else frame.on(background)

        def report(part: float, number: int = number) -> None:
            if progress is not None:
                progress((number + part) / frames.count)

        bands = restorer.bands(to_tensor(loaded), options, finish=to_uint8, progress=report)
        array = torch.cat(list(bands), dim=2)[0].permute(1, 2, 0).cpu().numpy()
        if frames.transparent and background is None:
            alpha = loaded.alpha or PIL.Image.new("L", loaded.rgb.size, 255)
            array = np.dstack([array, enlarge_alpha(alpha, array.shape[1::-1])])
        yield array
