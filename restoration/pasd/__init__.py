"""PASD: restoration and stylisation with a pixel-aware latent diffusion model."""
