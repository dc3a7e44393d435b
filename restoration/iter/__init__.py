"""ITER: restoration by iterative token evaluation and refinement."""

from restoration.iter.restorer import ITERConfig, ITEROptions, ITERRestorer

__all__ = ["ITERConfig", "ITEROptions", "ITERRestorer"]
