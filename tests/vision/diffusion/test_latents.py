"""Encoding and decoding in tiles, noise levels, the denoising loop."""

from __future__ import annotations

import inspect

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from vision.diffusion import latents as module
from vision.diffusion.build import small_vae
from vision.diffusion.denoise import At, Denoising, denoise_steps, guide, set_steps
from vision.diffusion.latents import add_noise, decode_latents, encode_image, factor, posterior, signal_and_noise
from vision.diffusion.tiling import GaussianTiles
from vision.refine import checkpoints, item_generators, load_checkpoint
from vision.tiles import Tiles

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    net = small_vae((8, 8, 8), 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-1.5, 1.5, generator=generator).mul_(parameter[0].numel() ** -0.5)
    return net.eval()


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_whole_results_are_those_of_diffusers(vae):
    image, noise = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)), numbers(2, 4, 8, 12)
    assert factor(vae) == 4
    with torch.no_grad():
        reference = vae.encode(2 * image - 1).latent_dist
        mean, logvar = posterior(vae, image)
        torch.testing.assert_close(mean, reference.mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(logvar, reference.logvar, rtol=0, atol=1e-5)
        found = encode_image(vae, image, noise)
        expected = (reference.mean + reference.std * noise) * vae.config.scaling_factor
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        shown = (vae.decode(found / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decode_latents(vae, found), shown, rtol=0, atol=1e-5)


def test_portions_of_the_attention_change_nothing(vae, monkeypatch):
    z = numbers(2, 4, 12, 16)
    whole = decode_latents(vae, z)
    monkeypatch.setattr(module, "ATTENTION_BYTES", 5000)
    torch.testing.assert_close(decode_latents(vae, z), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("items", [1, 2])
def test_tiles_with_all_statistics_are_whole(vae, items):
    """With every tile measured, wide enough margins and no overlap counted twice, only float32 sums differ."""
    z = numbers(items, 4, 24, 64)
    tiled, whole = decode_latents(vae, z, Tiles(40, 14)), decode_latents(vae, z)
    assert (tiled - whole).abs().max() < 0.02 and (tiled - whole).square().mean() < 1e-5
    image = torch.rand(items, 3, 96, 256, generator=torch.Generator().manual_seed(2))
    tiles = Tiles(160, 40, 4)
    mean, reference = posterior(vae, image, tiles)[0], posterior(vae, image)[0]
    assert (mean - reference).square().mean() < 1e-3 * reference.square().mean()


def test_statistics_are_shared_by_tiles_and_forgotten_afterwards(vae):
    z = torch.cat([numbers(1, 4, 64, 64), 3 + numbers(1, 4, 64, 64, seed=1)])
    both = decode_latents(vae, z, Tiles(24, 8))
    for i in range(2):
        torch.testing.assert_close(decode_latents(vae, z[i : i + 1], Tiles(24, 8)), both[i : i + 1], rtol=0, atol=1e-4)
    assert not any("forward" in vars(part) for part in vae.modules())
    assert both.isfinite().all()


def test_pictures_that_fit_in_a_tile_go_whole(vae):
    z = numbers(1, 4, 16, 20)
    assert torch.equal(decode_latents(vae, z, Tiles(20, 4)), decode_latents(vae, z))


def test_noise_levels():
    scheduler = set_steps(UniPCMultistepScheduler(**SCHEDULE), 4)
    z, noise = numbers(1, 4, 4, 4), numbers(1, 4, 4, 4, seed=1)
    for level in (0, 500, 900, 999):
        signal, amount = signal_and_noise(scheduler, level)
        assert signal**2 + amount**2 == pytest.approx(1)
        assert torch.equal(add_noise(scheduler, z, noise, level), signal * z + amount * noise)
    inside = int(scheduler.timesteps[2])
    torch.testing.assert_close(
        add_noise(scheduler, z, noise, inside, "published"),
        add_noise(scheduler, z, noise, inside),
        atol=1e-5,
        rtol=0,
    )
    with pytest.raises(ValueError, match=r"must lie in \[0, 999\], got 1000"):
        add_noise(scheduler, z, noise, 1000)
    euler = set_steps(EulerDiscreteScheduler(**SCHEDULE), 4)
    with pytest.raises(ValueError, match="knows no noise level 900"):
        add_noise(euler, z, noise, 900, "published")


@pytest.mark.parametrize("cls", [UniPCMultistepScheduler, DDIMScheduler, EulerDiscreteScheduler])
def test_the_loop_is_the_scheduler_step_by_step(cls):
    original = cls(**SCHEDULE)
    scheduler, plain = set_steps(original, 5), set_steps(original, 5)
    start = numbers(2, 4, 4, 4) * scheduler.init_noise_sigma

    def predict(latents, at):
        assert at.timestep == scheduler.timesteps[at.index]
        return 0.3 * latents + 0.1

    steps = list(denoise_steps(start, predict, scheduler, generators=item_generators(0, 2)))
    latents = start
    for step, timestep in zip(steps, plain.timesteps, strict=True):
        noise = predict(plain.scale_model_input(latents, timestep), At(step.index, timestep))
        latents = plain.step(noise, timestep, latents).prev_sample
        assert torch.equal(step.state.latents, latents) and torch.equal(step.state.noise_pred, noise)
    assert original.num_inference_steps is None


def test_stopping_and_resuming():
    scheduler = set_steps(DDIMScheduler(**SCHEDULE), 6)
    start = numbers(2, 4, 4, 4)

    def predict(latents, at):
        return 0.3 * latents

    whole = list(denoise_steps(start, predict, scheduler))
    resumed = list(denoise_steps(start, predict, scheduler, resume=whole[2]))
    assert [step.index for step in resumed] == [3, 4, 5]
    assert torch.equal(resumed[-1].state.latents, whole[-1].state.latents)
    assert isinstance(whole[0].state, Denoising)
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1000\], got 0"):
        set_steps(DDIMScheduler(**SCHEDULE), 0)


SOLVERS = (
    "DDIMScheduler DDPMScheduler PNDMScheduler LMSDiscreteScheduler HeunDiscreteScheduler EulerDiscreteScheduler "
    "EulerAncestralDiscreteScheduler DPMSolverMultistepScheduler DPMSolverSinglestepScheduler UniPCMultistepScheduler "
    "DEISMultistepScheduler KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler SASolverScheduler LCMScheduler"
).split()


@pytest.mark.parametrize("begin", [0, 2])
@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_solver_remembers_lies_in_the_state(name, begin, tmp_path):
    original = getattr(diffusers, name)(**SCHEDULE)
    start = numbers(3, 4, 4, 4) * original.init_noise_sigma
    given = set_steps(original, 6)

    def predict(latents, at):
        return 0.3 * latents + 0.1 * latents.square().tanh()

    def run(scheduler=None, **rules):
        scheduler = scheduler or set_steps(original, 6)
        return list(denoise_steps(start, predict, scheduler, generators=item_generators(0, 3), begin=begin, **rules))

    straight = run(given)
    again = run(given)  # the run before left nothing behind that this one would not put away
    assert torch.equal(again[-1].state.latents, straight[-1].state.latents)
    plain, latents, drawn = set_steps(original, 6), start, {}
    if "generator" in inspect.signature(plain.step).parameters:
        drawn["generator"] = list(item_generators(0, 3))
    if hasattr(plain, "set_begin_index"):
        plain.set_begin_index(begin)
    for timestep in plain.timesteps[begin:]:
        noise = predict(plain.scale_model_input(latents, timestep), None)
        latents = plain.step(noise, timestep, latents, **drawn).prev_sample
    assert torch.equal(straight[-1].state.latents, latents)
    for cut in range(len(straight)):
        checkpoints(tmp_path / str(cut))(straight[cut])
        saved = load_checkpoint(tmp_path / str(cut), like=straight[cut].state)
        for earlier in (straight[cut], saved):
            rest = run(resume=earlier)
            assert torch.equal((rest or straight)[-1].state.latents, straight[-1].state.latents)
    rules = {"stop": lambda step: torch.tensor([False, step.index >= 1, False])}
    frozen, dropped = run(**rules)[-1], run(**rules, drop_finished=True)[-1]
    assert torch.equal(frozen.state.latents, dropped.state.latents)
    assert torch.equal(frozen.state.latents[1], straight[1].state.latents[1])
    assert torch.equal(frozen.state.latents[::2], straight[-1].state.latents[::2])


def test_guidance():
    negative, positive = numbers(1, 2), numbers(1, 2, seed=1)
    assert torch.equal(guide(negative, positive, 0.0), negative)
    torch.testing.assert_close(guide(negative, positive, 1.0), positive)


def test_gaussian_tiles_blend_to_what_they_agree_on():
    tiles, x = GaussianTiles(8, 2), numbers(2, 4, 13, 20)
    torch.testing.assert_close(tiles.run(lambda part: 2 * part, x), 2 * x, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="fewer than all 4 latents, got 4"):
        GaussianTiles(4, 4)
    with pytest.raises(ValueError, match="3 x 40 latents are too few for tiles that share 6"):
        GaussianTiles(9, 6).run(lambda part: part, numbers(1, 4, 3, 40))
