"""ITER: restoration by iterative token evaluation and refinement."""

from restoration.iter.options import ITERConfig, ITEROptions
from restoration.iter.restorer import ITERRestorer

__all__ = ["ITERConfig", "ITEROptions", "ITERRestorer"]
