"""What a progression is made of: the run that is being edited, its frames, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import PIL.Image
import torch
from torch import Tensor

from vision.edit.options import ProgressionOptions
from vision.images import to_pil
from vision.refine import PerItem

Score = Callable[[Tensor], Tensor]
"""(b, 3, h, w) in [0, 1] -> (b,), higher is more of the condition."""


@dataclass(frozen=True)
class Frame:
    """The state of a progression."""

    images: Tensor
    """(b, 3, H, W) in [0, 1]."""
    latents: Tensor | None
    """(b, c, h, w), scaled: what the pictures were decoded from; of the original the VAE's mean. None for editors that
    show none."""
    change: Tensor
    """(b,) root mean square of the latents' change in this frame, where the mask lets them; of the pictures' without
    latents."""
    items: Tensor
    """(b,) int64 which pictures of the run these are."""
    generators: PerItem[torch.Generator]
    """Of the noise that is still to be drawn."""
    difference: Tensor
    """(b, 3, H, W) what the networks change of the original, in shares of white. 0 where nobody asks for it."""


@dataclass(frozen=True)
class Run:
    """One batch of pictures, ready to be edited; editors keep in their own kinds what else they need."""

    original: Tensor
    """(b, 3, H, W) in [0, 1]."""
    mask: Tensor | None
    """(b, c, h, w) in [0, 1] the region on latents; None edits everywhere, or there are no latents."""
    region: Tensor | None
    """(b, 1, H, W) the same on pixels: the largest of the colours; None edits everywhere."""
    options: ProgressionOptions
    """Without None, apart from rules to stop."""
    score: Score | None
    """Measures frames; None: nothing does."""


@dataclass(frozen=True)
class Progression:
    """The frames of a batch of pictures; frame 0 is the original."""

    images: Tensor
    """(frames + 1, b, 3, H, W) in [0, 1] on the CPU."""
    latents: Tensor | None
    """(frames + 1, b, c, h, w), scaled; None for editors that show none."""
    scores: Tensor | None
    """(frames + 1, b) of the classifier; None without one."""
    mask: Tensor | None
    """(b, c, h, w)."""
    region: Tensor | None
    """(b, 1, H, W)."""
    differences: Tensor | None = None
    """(frames + 1, b, 3, H, W) what the networks changed, in shares of white; see `Frame`."""

    def pictures(self, item: int = 0) -> list[PIL.Image.Image]:
        """The frames of one picture."""
        return [to_pil(image) for image in self.images[:, item]]

    def mean(self) -> Tensor:
        """(frames + 1, 3, H, W) the mean over the batch: over trajectories of one picture."""
        return self.images.mean(dim=1)

    def spread(self) -> Tensor:
        """(frames + 1, 3, H, W) the standard deviation over the batch."""
        return self.images.std(dim=1, correction=0)


COLUMNS = (("images", 1), ("latents", 1), ("scores", 1), ("mask", 0), ("region", 0), ("differences", 1))
"""The tensors of a progression, and the dimension of their batch."""
