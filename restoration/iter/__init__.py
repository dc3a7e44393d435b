"""ITER: restoration by iterative token evaluation and refinement."""

from restoration.iter.options import ITERCommand, ITERConfig, ITEROptions
from restoration.iter.restorer import ITERRestorer

__all__ = ["ITERCommand", "ITERConfig", "ITEROptions", "ITERRestorer"]
