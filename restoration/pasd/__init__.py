"""PASD: restoration and stylisation with a pixel-aware latent diffusion model."""

from restoration.pasd.options import PASDCommand, PASDConfig, PASDOptions
from restoration.pasd.restorer import PASDRestorer

__all__ = ["PASDCommand", "PASDConfig", "PASDOptions", "PASDRestorer"]
