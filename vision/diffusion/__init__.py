"""Latent diffusion: loading a base model, latents, and the denoising loop on the refinement core."""
