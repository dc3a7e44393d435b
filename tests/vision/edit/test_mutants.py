"""The editor against a plain second implementation of the published algorithm; each likely mistake is told apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler

from vision.diffusion.backbone import token_ids
from vision.edit import PIEOptions, one_edit, pie

OPTIONS = PIEOptions(
    frames=2, strength=0.58, steps=10, beta_1=0.1, beta_2=0.7, guidance_scale=3.0, negative_prompt="healthy", seed=5
)
PROMPT = "a picture,ill"


@torch.no_grad()
def plain(editor, image, mask, options):
    """Frames 1, 2, ... as the published algorithm gives them, step by step, for one picture."""
    unet, vae, scale = editor.unet, editor.vae, editor.vae.config.scaling_factor
    generator = torch.Generator().manual_seed(options.seed)
    tokenizer, encoder = editor.text.tokenizers[0], editor.text.encoders[0]
    negative, positive = (encoder(token_ids(tokenizer, [text]))[0] for text in (options.negative_prompt, PROMPT))
    original = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    pixels = torch.from_numpy(np.array(mask)).int()
    rows = pixels[1::4] + pixels[2::4]
    weight = ((rows[:, 1::4] + rows[:, 2::4] + 2) // 4).permute(2, 0, 1).float() / 255
    weight = weight[[0, 1, 2, 0]][None]
    moments_0 = vae.encode(original).latent_dist
    current, frames = original, []
    for _ in range(options.frames):
        moments = vae.encode(current).latent_dist
        shape = moments.mean.shape
        d1, d2, d3, _, d5, d6 = (torch.randn(shape, generator=generator) for _ in range(6))
        scheduler = type(editor.scheduler).from_config(editor.scheduler.config)
        scheduler.set_timesteps(options.steps)
        kept = min(int(options.steps * options.strength), options.steps)
        timesteps = scheduler.timesteps[options.steps - kept :]
        latents = scheduler.add_noise(scale * (moments.mean + moments.std * d1), d2, timesteps[:1])
        anchor = scale * (moments_0.mean + moments_0.std * d3)
        behind = scale * (moments_0.mean + moments_0.std * d5)
        for i, t in enumerate(timesteps):
            if i > 0:
                level = scheduler.alphas_cumprod[t]
                latents = (level.sqrt() * behind + (1 - level).sqrt() * d6) * (1 - weight) + latents * weight
            noise = unet(latents, t, positive).sample
            if options.guidance_scale > 1:
                empty = unet(latents, t, negative).sample
                noise = empty + options.guidance_scale * (noise - empty)
            latents = scheduler.step(noise, t, latents).prev_sample
        latents = anchor + (options.beta_1 * (1 - weight) + options.beta_2 * weight) * (latents - anchor)
        decoded = (vae.decode(latents / scale).sample / 2 + 0.5).clamp(0, 1)
        eight = (decoded * 255).round()
        frames.append(eight / 255)
        current = eight / 127.5 - 1
    return torch.cat(frames)


KNOWN: dict[PIEOptions, torch.Tensor] = {}
"""What the plain implementation gives for the picture and mask of the tests."""


def difference(editor, image, mask, options=OPTIONS):
    if options not in KNOWN:
        KNOWN[options] = plain(editor, image, mask, options)
    expected = KNOWN[options]
    with torch.no_grad():
        found = editor.simulate(editor.start(image, PROMPT, mask=mask, options=options)).images[1:, 0]
    return float((found - expected).abs().max())


@pytest.fixture
def subject(editor, pndm):
    """PNDM, and a scaling factor that is not Stable Diffusion's."""
    editor.scheduler = pndm
    editor.vae.register_to_config(scaling_factor=0.5)
    return editor


@pytest.mark.parametrize("scale", [3.0, 1.0, 0.5])
def test_editor_is_the_published_algorithm(subject, image, colours, scale):
    options = replace(OPTIONS, guidance_scale=scale)
    assert difference(subject, image, colours, options) <= 1.01 / 255


def mode_instead_of_sample(patch):
    patch.setattr(one_edit.Moments, "sample", lambda self, vae, noise: one_edit.scaled(vae, self.mean))


def one_sample_for_anchor_and_background(patch):
    def noised(vae, scheduler, begin, current, original, draw):
        drawn = [draw(tuple(current.mean.shape)) for _ in range(6)]
        drawn[4] = drawn[2]
        return one_edit.noised(vae, scheduler, begin, current, original, lambda shape: drawn.pop(0))

    patch.setattr(pie, "noised", noised)


def blend_before_the_first_step(patch):
    def denoise(beginning, predict, scheduler, begin, mask, **more):
        noisy = mask * beginning.noisy + (1 - mask) * beginning.background(begin)
        return one_edit.denoise(replace(beginning, noisy=noisy), predict, scheduler, begin, mask, **more)

    patch.setattr(pie, "denoise", denoise)


def no_blend_before_the_last_step(patch):
    calls = []
    blend = one_edit.composite

    def composite(mask, inside, outside):
        calls.append(1)
        return inside if len(calls) % 5 == 0 else blend(mask, inside, outside)  # five between six steps

    patch.setattr(one_edit, "composite", composite)


def latent_mask(change):
    def mutate(patch):
        exact = pie.to_latents
        patch.setattr(pie, "to_latents", lambda region, *more: change(region, exact(region, *more)))

    return mutate


def area_average(region, exact):
    pixels = torch.from_numpy(np.array(region)).permute(2, 0, 1)[None].float() / 255
    return F.adaptive_avg_pool2d(pixels, tuple(exact.shape[-2:]))[:, [0, 1, 2, 0]]


def anchored_at_the_frame_before(patch):
    def noised(*arguments):
        beginning = one_edit.noised(*arguments)
        return replace(beginning, anchor=beginning.clean)

    patch.setattr(pie, "noised", noised)


def betas_swapped(patch):
    patch.setattr(pie, "pull_back", lambda x, z, m, beta_1, beta_2: one_edit.pull_back(x, z, m, beta_2, beta_1))


def new_noise_in_every_background(patch):
    def noised(vae, scheduler, begin, current, original, draw):
        def background(index):
            drawn = iter([draw(tuple(current.mean.shape)) for _ in range(6)])
            return one_edit.noised(vae, scheduler, begin, current, original, lambda shape: next(drawn)).background(
                index
            )

        return replace(one_edit.noised(vae, scheduler, begin, current, original, draw), background=background)

    patch.setattr(pie, "noised", noised)


def unrounded_frames(patch):
    patch.setattr(pie, "to_uint8", lambda images: images * 255)


def another_scheduler(patch):
    def prepare(scheduler, *more):
        return one_edit.prepare(DDIMScheduler.from_config(scheduler.config, clip_sample=False), *more)

    patch.setattr(pie, "prepare", prepare)


def fixed_scaling_factor(patch):
    patch.setattr(one_edit, "scaled", lambda vae, latents: 0.18215 * latents)


def rounded_strength(patch):
    patch.setattr(one_edit, "first_step", lambda scheduler, steps, strength: steps - math.floor(steps * strength + 0.5))


def always_guided(patch):
    patch.setattr(pie, "is_guided", lambda scale: True)


MUTANTS = {
    "posterior mode instead of sample": mode_instead_of_sample,
    "one posterior sample for anchor and background": one_sample_for_anchor_and_background,
    "blend before the first step": blend_before_the_first_step,
    "no blend before the last step": no_blend_before_the_last_step,
    "mask binarised": latent_mask(lambda region, exact: (exact > 0.5).float()),
    "mask averaged over blocks": latent_mask(area_average),
    "colour mask averaged to grey": latent_mask(lambda region, exact: exact[:, :3].mean(1, True).expand_as(exact)),
    "anchored at the frame before": anchored_at_the_frame_before,
    "betas swapped": betas_swapped,
    "new noise per timestep": new_noise_in_every_background,
    "unrounded frames": unrounded_frames,
    "DDIM instead of PNDM": another_scheduler,
    "scaling factor fixed": fixed_scaling_factor,
    "strength rounded": rounded_strength,
    "guidance below 1": always_guided,
}


@pytest.mark.parametrize("name", list(MUTANTS))
def test_mistakes_are_told_apart(subject, image, colours, monkeypatch, name):
    options = replace(OPTIONS, guidance_scale=0.5) if name == "guidance below 1" else OPTIONS
    MUTANTS[name](monkeypatch)
    found = difference(subject, image, colours, options)
    if name == "unrounded frames":
        with torch.no_grad():
            frames = subject.simulate(subject.start(image, PROMPT, mask=colours, options=options)).images
        assert not torch.equal(frames, (frames * 255).round() / 255)
    else:
        assert found > 2.01 / 255
