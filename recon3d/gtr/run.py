"""A reconstruction while it is being made: what its stages share, and how a stage runs and is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from recon3d.gtr.fit import At, Fit, Stage, pack, unpacker
from recon3d.gtr.losses import psnr_of
from recon3d.gtr.options import GTROptions
from recon3d.gtr.result import Reconstruction
from recon3d.mesh import Mesh
from recon3d.render import render
from recon3d.views import Views
from vision.refine import Step, checkpoints, load_checkpoint, refine_steps

POOR = 17.0
"""A PSNR over the given views below this is worth a sentence: poses or intrinsics may be wrong."""


@dataclass
class Run:
    """One reconstruction, from its views to the finished object."""

    options: GTROptions
    """What the call chose."""
    full: Views
    """In their own size, in the box's world."""
    views: Views
    """The same in the size that is fitted."""
    centre: Tensor
    """(3,) of the box in the user's world."""
    scale: float
    """The box holds (x - centre) * scale of the user's world."""
    given: Mesh | None = None
    """The mesh to start from, in the user's world."""
    mesh: Mesh | None = None
    """The same in the box."""
    folder: Path | None = None
    """Keeps the state of every stage."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""
    surface: Mesh | None = None
    """The refined mesh, once there is one."""
    fit: Fit | None = None
    """What colours it; None: it has its own colours."""
    kept: Mesh | None = None
    """See `Reconstruction`."""
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    """PSNR over the views, by stage: before and after."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage."""

    def stage(self, stage: Stage, keep_last: bool = False) -> Iterator[Step]:
        """Run one stage, on from the state that the folder holds; the fit then has its best state (or its last)."""
        name, fit = stage.name, stage.fit
        folder = None if self.folder is None else self.folder / name
        resume = last = None if folder is None else load_checkpoint(folder, unpack=unpacker(fit))
        steps = refine_steps(
            fit,
            stage.propose,
            stage.schedule,
            evaluate=stage.evaluate,
            stop=stage.stop,
            keep_best=lambda state: state.weights(),
            resume=resume,
            evaluate_start=True,
        )
        keep = None if folder is None else checkpoints(folder, every=5, pack=pack)
        for last in steps:
            if keep is not None:
                keep(last)
            yield last if last.at else replace(last, at=At(name, 0, len(stage.schedule)))
        if folder is not None and last is not resume:
            checkpoints(folder, pack=pack)(last)
        if not keep_last:
            fit.load(last.best)
        self.scores[name] = (float(last.start_score), float(last.score if keep_last else last.best_score))
        self.seconds[name] = last.seconds

    def take_better(self, surface: Mesh, fit: Fit) -> None:
        """Take a refined object, or the mesh as it was given when that shows the views better."""
        before, after = shown_psnr(self.mesh, self.views), shown_psnr(surface, self.views, fit.color)
        self.scores["mesh given"] = (before, max(before, after))
        if after > before and math.isfinite(after):
            self.surface, self.fit = surface, fit
            return
        self.surface, self.kept = self.mesh, self.given
        self.notes.append(
            f"The mesh as it was given shows the views better ({before:.2f} dB) than the refined one ({after:.2f} dB); "
            "it is returned unchanged."
        )

    def result(self) -> Reconstruction:
        """The finished object."""
        notes, reached = list(self.notes), [after for _, after in self.scores.values()][-1:]
        if reached and reached[0] < POOR:
            notes.append(
                f"The result shows the given views poorly ({reached[0]:.1f} dB); check poses, intrinsics and masks, "
                "or give it more steps."
            )
        paints = self.fit is not None and self.options.refines_texture and self.options.texture_mode == "default"
        return Reconstruction(
            self.surface,
            self.fit,
            self.centre.cpu(),
            self.scale,
            views=self.full if paints else None,
            kept=self.kept,
            scores=self.scores,
            seconds=self.seconds,
            notes=tuple(notes),
        )


def shown_psnr(mesh: Mesh, views: Views, color: Callable[[Tensor], Tensor] | None = None) -> float:
    """PSNR over whole views of a mesh in their world, in its own colours or those of its points (points, 3)."""
    return psnr_of(float((render(mesh, views.cameras, color=color).images - views.images).square().mean()))
