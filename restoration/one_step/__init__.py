"""Restorers of one denoising step on Stable Diffusion."""

from restoration.one_step.options import OneStepConfig, OneStepOptions
from restoration.one_step.restorer import OneStepRestorer

__all__ = ["OneStepConfig", "OneStepOptions", "OneStepRestorer"]
