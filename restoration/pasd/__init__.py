"""PASD: restoration and stylisation with a pixel-aware latent diffusion model."""

from restoration.pasd.options import PASDConfig, PASDOptions
from restoration.pasd.restorer import PASDRestorer

__all__ = ["PASDConfig", "PASDOptions", "PASDRestorer"]
