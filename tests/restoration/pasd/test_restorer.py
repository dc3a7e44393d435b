"""PASD's pipeline: batches, tiles, seeds, options, schedulers, and what it refuses."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.pasd import PASDConfig, PASDOptions, PASDRestorer
from restoration.pasd.components import PRETRAINED
from restoration.pasd.memory import SIDES, largest_tile, largest_vae_tile
from restoration.pasd.options import COLORIZE, PRESETS
from restoration.pasd.restorer import PUBLISHED, base_alone
from restoration.pasd.sizes import plan, thicken
from tests.restoration.pasd.conftest import FAST, photo
from vision.metrics import psnr
from vision.refine import Trace, checkpoints, load_checkpoint


@pytest.mark.parametrize("name", ["tiny", "tiny-light", "tiny-sdxl"])
def test_every_family_restores_to_the_exact_size(name):
    restorer = PASDRestorer.from_pretrained(f"builtin:{name}")
    restorer.check()
    image = photo(33, 49)
    for options, size in [({"scale": 2.0}, (66, 98)), ({"scale": 1.5}, (50, 74)), ({"size": (45, 70)}, (70, 45))]:
        result = restorer(image, PASDOptions(**FAST, **options))
        assert result.shape == (1, 3, *size)
        assert result.min() >= 0 and result.max() <= 1 and result.isfinite().all()
        assert restorer.output_size(33, 49, PASDOptions(**options)) == size


@pytest.mark.parametrize("size", [(1, 40), (60, 1), (2, 50), (1, 1)])
def test_thin_pictures_are_seen_with_a_modest_long_side(tiny, size):
    """A line of pixels, enlarged until its short side has the process size, would be endless."""
    line = photo(64, 64)[..., : size[0], : size[1]]
    run = tiny.start(line, PASDOptions(**FAST, scale=2))
    assert max(run.image.shape[-2:]) <= 8 * 32 and min(run.image.shape[-2:]) >= 32
    result = tiny(line, PASDOptions(**FAST, scale=2))
    assert result.shape == (1, 3, 2 * size[0], 2 * size[1])


@pytest.mark.parametrize("picture", [(1, 400), (4000, 1), (4000, 40), (30, 9000), (7, 5)])
@pytest.mark.parametrize("scale", [1.0, 2.5, 4.0])
def test_plans_stay_within_a_factor_of_what_is_asked_for(picture, scale):
    output = (max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale)))
    own, enlarged = thicken(*picture, output, 768)
    assert all(a >= b for a, b in zip((*own, *enlarged), (*picture, *output), strict=True))
    width, height = plan(*own, enlarged, 768).processed
    assert width * height <= max(8 * 768**2, max(output) * 768) * 1.1


def test_pictures_that_are_not_thin_are_as_they_were():
    assert thicken(100, 300, (400, 1200), 768) == ((100, 300), (400, 1200))
    assert thicken(5000, 200, (20_000, 800), 768) == ((5000, 200), (20_000, 800))


def test_results_of_another_size_have_more_than_8_bits(tiny):
    values = tiny(photo(), PASDOptions(**FAST, scale=0.5))
    assert (values * 255 - (values * 255).round()).abs().max() > 0.1


def test_what_goes_in_comes_out(tiny):
    options = PASDOptions(**FAST, scale=2)
    array = (photo()[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    picture = PIL.Image.fromarray(array)
    found = tiny(picture, options)
    assert found.size == (96, 80) and found.mode == "RGB"
    assert np.array_equal(np.asarray(found), tiny(array, options))
    clear = picture.copy()
    clear.putalpha(PIL.Image.new("L", picture.size, 128))
    assert tiny(clear, options).mode == "RGBA"


def test_same_seed_same_picture_alone_or_in_a_batch(tiny):
    images = torch.cat([photo(seed=0), photo(seed=1)])
    options = PASDOptions(**FAST, seed=5)
    whole = tiny(images, options)
    assert torch.equal(whole, tiny(images, options))
    for i in range(2):
        alone = tiny(images[i : i + 1], PASDOptions(**FAST, seed=5 + i))
        assert torch.equal(alone, whole[i : i + 1])
    assert not torch.allclose(tiny(images[:1], PASDOptions(**FAST, seed=6)), whole[:1], atol=1e-2)


def test_prompts_belong_to_their_pictures(tiny):
    images = torch.cat([photo(), photo()])
    options = PASDOptions(**FAST, start="noise")
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]

    def noise(shape):
        return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])

    one = tiny.start(images, options, prompts=["a cat", "a cat"], noise=noise)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    other = tiny.start(images, options, prompts=["a cat", "a dog"], noise=noise)
    last, changed = (list(tiny.run_steps(run))[-1].state.latents for run in (one, other))
    torch.testing.assert_close(changed[0], last[0], rtol=0, atol=1e-5)
    assert (changed[1] - last[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="1 prompts for 2 pictures"):
        tiny.start(images, options, prompts=["a cat"])


def test_steps_show_the_way_and_the_last_is_the_result(tiny):
    options = PASDOptions(**{**FAST, "steps": 3}, scale=1, color="none", vae_tile=0)
    trace, shares = Trace(), []
    (result,) = tiny.bands(photo(), options, observers=[trace], progress=shares.append)
    steps = list(tiny.steps(photo(), options))
    assert [step.index for step in steps] == [0, 1, 2]
    assert shares == sorted(shares) and shares[-1] == 1.0
    decoded = tiny.decode(steps[-1].state, options)
    torch.testing.assert_close(decoded, result, rtol=0, atol=1e-5)


def test_tiles_batches_and_whole_agree(tiny):
    """The small net attends globally, so tiles differ from whole; but not from tiles in other groups."""
    image, more = photo(64, 96), {"scale": 2, "tile": 16, "tile_overlap": 4}
    one = tiny(image, PASDOptions(**FAST, **more, tile_batch=1))
    several = tiny(image, PASDOptions(**FAST, **more, tile_batch=3))
    torch.testing.assert_close(one, several, rtol=0, atol=1e-4)
    whole = tiny(image, PASDOptions(**FAST, scale=2, tile=0, vae_tile=0))
    assert one.shape == whole.shape
    large = tiny(image, PASDOptions(**FAST, scale=2, tile=64, vae_tile=0))
    assert torch.equal(large, whole)


def seam_energy(image, positions):
    """Mean gradient across tile borders over mean gradient elsewhere."""
    steps = (image[..., 1:] - image[..., :-1]).abs().mean(dim=(0, 1, 2))
    at = torch.zeros_like(steps, dtype=torch.bool)
    at[positions] = True
    return float(steps[at].mean() / steps[~at].mean())


def test_tiles_leave_no_seams(tiny):
    image = photo(96, 160)
    options = PASDOptions(**{**FAST, "steps": 3}, scale=2, tile=16, tile_overlap=6, vae_tile=16, color="none")
    tiled = tiny(image, options)
    whole = tiny(image, PASDOptions(**{**FAST, "steps": 3}, scale=2, tile=0, vae_tile=0, color="none"))
    inner = tiny._tiles(torch.zeros(1, 3, 192, 320), options.resolved(tiny.config), 2)._spans(40)
    edges = [8 * side - 1 for span in inner for side in span if 0 < side < 40]
    assert len(edges) > 4
    assert seam_energy(tiled, edges) < 1.1 * max(seam_energy(whole, edges), 1.0)


def test_guidance_and_control_can_be_reused(tiny):
    calls = []
    hooks = [
        net.register_forward_hook(lambda module, args, kwargs, output: calls.append(args[2].shape[0]), with_kwargs=True)
        for net in (tiny.unet, tiny.controlnet)
    ]
    exact = tiny(photo(), PASDOptions(**{**FAST, "steps": 4}))
    assert calls == [2] * 8
    calls.clear()
    reused = tiny(photo(), PASDOptions(**{**FAST, "steps": 4}, guidance_every=4, control_every=2))
    assert sum(calls) == (2 + 1 + 1 + 1) + (2 + 1)
    for hook in hooks:
        hook.remove()
    assert 0 < (exact - reused).abs().max() < 0.5


def test_no_guidance_needs_half_the_work(tiny):
    sizes = []
    hook = tiny.unet.register_forward_hook(lambda module, args, output: sizes.append(output[0].shape[0]))
    tiny(photo(), PASDOptions(**{**FAST, "guidance_scale": 1.0}))
    hook.remove()
    assert sizes == [1, 1]


def test_the_mask_and_guess_mode_change_the_result(tiny):
    plain = tiny(photo(), PASDOptions(**FAST))
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., :5] = 1
    run = tiny.start(photo(), PASDOptions(**FAST), fg_mask=mask)
    assert not torch.equal(tiny.restore(run), plain)
    tiled = PASDOptions(**FAST, scale=2, tile=8, tile_overlap=2)
    assert tiny.restore(tiny.start(photo(), tiled, fg_mask=mask)).isfinite().all()
    assert not torch.equal(tiny(photo(), PASDOptions(**FAST, guess_mode=True)), plain)


def test_start_levels(tiny):
    image = photo()

    def begin(**more):
        return tiny.start(image, PASDOptions(**FAST, **more)).latents

    clean = begin(start_level=0)
    assert not torch.equal(clean, begin(start_level=999))
    # 900 is no level of a schedule of two steps: the scheduler takes its last one instead.
    published = begin(start_level=900, start_reading="published")
    assert torch.equal(published, begin(start_level=901, start_reading="published"))
    assert not torch.equal(begin(start_level=900), begin(start_level=901))
    assert torch.equal(begin(start="noise"), begin(start="noise", start_level=3))


def test_presets_leave_the_picture_in_their_order():
    restorer = PASDRestorer.from_pretrained()
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    distances = []
    for preset in ("faithful", None, "creative"):
        result = restorer(image, PASDOptions(preset=preset, color="none"))
        distances.append((torch.nn.functional.avg_pool2d(result, 4) - image).abs().mean().item())
    assert distances == sorted(set(distances)), distances


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_fill_what_is_not_said(preset):
    config = PASDConfig()
    found = PASDOptions(preset=preset, steps=7).resolved(config)
    for name, value in PRESETS[preset].items():
        assert getattr(found, name) == value
    assert found.steps == 7 and found.conditioning_scale is not None
    assert PASDOptions(preset=preset, guidance_scale=2.5).resolved(config).guidance_scale == 2.5


def test_presets_keep_to_what_weights_can_do():
    config = PASDConfig(guidance_scale=1.0, conditioning_scale=1.3)
    found = PASDOptions(preset="faithful").resolved(config)
    assert found.guidance_scale == 1.0 and found.conditioning_scale == pytest.approx(1.43)


def test_published_options_resolve():
    found = PASDOptions(**PUBLISHED).resolved(PASDConfig())
    assert found.start_level == 900 and found.tile_overlap == 8 and found.scale == 1.0


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"scale": 0}, r"scale must lie in \(0, 32\], got 0"),
        ({"scale": 2.0, "size": (3, 3)}, "size must be two sides"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"guidance_scale": 0.5}, r"guidance_scale must lie in \[1, 100\], got 0.5"),
        ({"start_level": 1000}, r"start_level must lie in \[0, 999\], got 1000"),
        ({"conditioning_scale": -1}, "conditioning_scale must be at least 0"),
        ({"color": "blue"}, "color must be one of wavelet, adain, none"),
        ({"preset": "best"}, "preset must be one of faithful"),
        ({"tiling": "x"}, "tiling must be one of"),
    ],
)
def test_options_out_of_range_say_what_is_allowed(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        PASDOptions(**wrong)


def test_calls_that_cannot_work_say_why(tiny):
    image = photo()
    with pytest.raises(ValueError, match=r"The prompt has 402 tokens, but at most 254 fit; shorten it"):
        tiny(image, PASDOptions(**FAST, prompt="x" * 400))
    with pytest.raises(ValueError, match=r"steps must lie in \[1, 1000\], got 2000"):
        tiny(image, PASDOptions(**{**FAST, "steps": 2000}))
    with pytest.raises(ValueError, match="take no negative prompt unless a guidance_scale above 1 is given"):
        PASDOptions(negative_prompt="noise").resolved(PASDConfig(guidance_scale=1.0))
    with pytest.raises(ValueError, match="start from noise"):
        tiny.start(image, PASDOptions(**FAST), latents=torch.zeros(1, 4, 4, 4))


def test_any_scheduler_of_diffusers(tiny):
    import diffusers

    results = []
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"):
        tiny_with = PASDRestorer(**{key: getattr(tiny, key) for key in PARTS})
        tiny_with.scheduler = getattr(diffusers, name).from_config(tiny.scheduler.config)
        results.append(tiny_with(photo(), PASDOptions(**FAST)))
        assert torch.equal(results[-1], tiny_with(photo(), PASDOptions(**FAST))), name
    assert all(result.isfinite().all() for result in results)


@pytest.mark.parametrize(
    "scheduler, alone", [("PNDMScheduler", True), ("DDIMScheduler", True), ("UniPCMultistepScheduler", False)]
)
def test_a_stopped_run_goes_on_and_drops_pictures_without_a_difference(tiny, scheduler, alone, tmp_path, monkeypatch):
    """With all that is kept between steps: the solver's history, guidance and residuals of earlier steps, conditions
    of every picture."""
    import diffusers

    restorer = PASDRestorer(**{key: getattr(tiny, key) for key in PARTS})
    restorer.scheduler = getattr(diffusers, scheduler).from_config(tiny.scheduler.config)
    options = PASDOptions(**{**FAST, "steps": 5}, guidance_every=3, control_every=2)
    images, prompts = photo(24, 24, batch=3), ["one", "two", "three"]

    def run(**rules):
        ready = restorer.start(images, options, prompts=prompts)
        if not alone:
            ready.predictor.alone = False
            ready.predictor._choose(range(3))
        return list(restorer.run_steps(ready, **rules))

    straight = run()
    cut = 1
    checkpoints(tmp_path)(straight[cut])
    saved = load_checkpoint(tmp_path, like=straight[cut].state)
    for earlier in (straight[cut], saved):
        assert torch.equal(run(resume=earlier)[-1].state.latents, straight[-1].state.latents)
    rules = {"stop": lambda step: torch.tensor([False, step.index >= 2, False])}
    frozen, dropped = run(**rules)[-1], run(**rules, drop_finished=True)[-1]
    assert torch.equal(frozen.state.latents[1], straight[2].state.latents[1])
    if alone:
        assert torch.equal(dropped.state.latents, frozen.state.latents)
    else:  # convolutions of a batch of two round differently from those of three
        torch.testing.assert_close(dropped.state.latents, frozen.state.latents, rtol=0, atol=1e-4)


PARTS = ("unet", "controlnet", "vae", "text", "scheduler", "config")


def test_a_scheduler_is_chosen_by_its_name(tiny):
    restorer = PASDRestorer.from_pretrained("builtin:tiny", scheduler="LCMScheduler")
    assert type(restorer.scheduler).__name__ == "LCMScheduler"
    assert restorer.scheduler.config.beta_start == tiny.scheduler.config.beta_start
    with pytest.raises(ValueError, match="diffusers has no scheduler 'LCM'; names end in Scheduler"):
        PASDRestorer.from_pretrained("builtin:tiny", scheduler="LCM")


def test_tiles_do_not_follow_every_change_of_the_free_memory(tiny):
    sides = [largest_tile(tiny.unet, 2, free << 20, 320) for free in range(1, 4000)]
    assert set(sides) == {64, 80, 112, 160, 224, 320} and sides == sorted(sides)
    assert largest_tile(tiny.unet, 2, 1, 32) == 32
    assert largest_vae_tile(tiny.vae, 1, 32, 32) == 64 and largest_vae_tile(tiny.vae, 1 << 40, 4096, 4096) == 0
    assert largest_vae_tile(tiny.vae, 1 << 30, 4096, 4096) in SIDES


def test_colourization_keeps_the_brightness(tiny):
    restorer = PASDRestorer(**{key: getattr(tiny, key) for key in PARTS})
    restorer.config = COLORIZE
    gray = photo(40, 64).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    result = restorer(gray, PASDOptions(steps=2, process_size=32, guidance_scale=1.0))
    assert result.shape == gray.shape
    luma = (result * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    inside = ((result > 0) & (result < 1)).all(dim=1)
    assert inside.any()
    torch.testing.assert_close(luma[inside], gray[:, 0][inside], rtol=0, atol=2e-3)
    colored = photo(40, 64)
    seen = restorer.start(colored, PASDOptions(steps=2, process_size=32)).image
    assert torch.equal(seen[:, 0], seen[:, 1]) and torch.equal(seen[:, 0], seen[:, 2])


def test_pictures_of_every_shape(tiny):
    for height, width in [(32, 32), (32, 200), (35, 33)]:
        assert tiny(photo(height, width), PASDOptions(**FAST, scale=1)).shape == (1, 3, height, width)


def test_the_embedded_default_restores():
    restorer = PASDRestorer.from_pretrained()
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*") if path.is_file()) < 12e6
    image = photo(32, 48)
    result = restorer(image)
    assert result.shape == (1, 3, 128, 192)
    assert torch.equal(result, restorer(image))
    enlarged = torch.nn.functional.interpolate(image, scale_factor=4, mode="bicubic").clamp(0, 1)
    assert psnr(result, enlarged) > 24
    assert psnr(base_alone(restorer)(image), enlarged) < psnr(result, enlarged)
    guided = PASDOptions(steps=1, guidance_scale=2.0)
    assert base_alone(restorer)(image, guided).isfinite().all()
