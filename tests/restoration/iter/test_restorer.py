from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import restoration
from restoration.iter import ITERConfig, ITEROptions, ITERRestorer
from restoration.iter.convert import infer_config, published_shapes
from restoration.iter.options import BUILTIN
from restoration.iter.published import PublishedConfig, PublishedITER
from restoration.iter.restorer import PROGRESS
from restoration.iter.sampling import PlacedNoise, SamplingOptions, TokenSampler, keep_counts, mask_schedule
from restoration.iter.tokens import LQEncoderConfig, TokenNetConfig
from restoration.iter.vqgan import VQGANConfig
from vision.config import from_dict, to_dict
from vision.images import pad_to_multiple, to_uint8
from vision.refine import Trace, checkpoints, clone_items, item_generators, load_checkpoint, take_items
from vision.resize import imresize

NAMES = ("builtin:tiny", "builtin:tiny-mini")


@pytest.fixture(scope="module", params=NAMES)
def restorer(request) -> ITERRestorer:
    return ITERRestorer.from_pretrained(request.param)


@pytest.fixture(scope="module")
def mini() -> ITERRestorer:
    return ITERRestorer.from_pretrained("builtin:tiny-mini")


@pytest.fixture(scope="module")
def published() -> ITERRestorer:
    return ITERRestorer.from_pretrained("builtin:tiny")


def noise_picture(*size: int) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(7))


def spread_threshold(restorer: ITERRestorer, images: torch.Tensor) -> float:
    """A threshold that trusts some tokens of every picture, and not equally many; no confidence lies close to it."""
    _, state = restorer.start(images, ITEROptions(threshold=0.0))
    values, median = state.confidence.flatten().sort().values, state.confidence[0].median()
    near = int(torch.searchsorted(values, median))
    near = values[max(near - 5, 0) : near + 6]
    widest = near.diff().argmax()
    return float(near[widest : widest + 2].mean())


def test_pictures_of_a_batch_equal_single_ones(restorer):
    images = noise_picture(3, 3, 14, 22)
    images[1] *= 0.2
    options = ITEROptions(threshold=spread_threshold(restorer, images), steps=6, seed=3)
    _, state = restorer.start(images, options)
    assert len(state.start.unique()) > 1  # the adaptive start differs
    together = restorer(images, options)
    for i, image in enumerate(images):
        alone = restorer(image[None], replace(options, seed=3 + i))
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=0)


def test_the_seed_decides(restorer):
    image = noise_picture(1, 3, 16, 16)
    options = ITEROptions(threshold=1.1, steps=3)
    assert torch.equal(restorer(image, options), restorer(image, options))
    assert not torch.equal(restorer(image, options), restorer(image, replace(options, seed=1)))


def test_nothing_is_seeded_globally(restorer):
    before = torch.get_rng_state()
    restorer(noise_picture(1, 3, 16, 16), ITEROptions(steps=2))
    ITERRestorer.from_pretrained("builtin:tiny-mini")
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_given_comes_back(restorer, tmp_path):
    array = (noise_picture(12, 10, 3).numpy() * 255).round().astype(np.uint8)
    options = ITEROptions(fidelity=1)
    from_array = restorer(array, options)
    assert from_array.shape == (48, 40, 3) and from_array.dtype == np.uint8
    picture = PIL.Image.fromarray(array)
    from_pil = restorer(picture, options)
    assert from_pil.mode == "RGB" and from_pil.size == (40, 48)
    picture.save(tmp_path / "x.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    assert np.array_equal(np.asarray(from_pil), from_array)
    assert np.array_equal(np.asarray(restorer(tmp_path / "x.png", options)), from_array)
    from_tensor = restorer(tensor, options)
    assert from_tensor.shape == (3, 48, 40)
    assert np.array_equal(to_uint8(from_tensor).permute(1, 2, 0).numpy(), from_array)


def test_transparency_and_profile_are_kept(mini):
    picture = PIL.Image.new("RGBA", (9, 7), (200, 100, 50, 128))
    profile = b"\x00" * 16 + b"RGB " + b"\x00" * 16 + b"acsp" + b"\x00" * 88
    picture.info["icc_profile"] = profile
    result = mini(picture, ITEROptions(fidelity=1))
    assert result.mode == "RGBA" and result.size == (36, 28)
    assert result.getchannel("A").getextrema() == (128, 128)
    assert result.info["icc_profile"] == profile


@pytest.mark.parametrize("scale", (2, 2.5, 4, 6))
def test_other_scales_resize_the_result(mini, scale):
    image = noise_picture(1, 3, 10, 14)
    result = mini(image, ITEROptions(scale=scale, fidelity=1))
    assert result.shape[-2:] == (round(10 * scale), round(14 * scale))
    assert result.shape[-2:] == mini.output_size(10, 14, ITEROptions(scale=scale))
    assert 0 <= result.min() and result.max() <= 1


def test_deterministic_tiles_of_a_local_network_equal_the_whole(mini):
    overlap = 2 * mini.model.receptive_field + 1
    image = noise_picture(1, 3, 3 * overlap + 1, 20)
    tiled = mini(image, ITEROptions(fidelity=1, tile=3 * overlap, tile_overlap=overlap))
    whole = mini(image, ITEROptions(fidelity=1, tile=0))
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=0)


def test_sampled_tiles_draw_alike_where_they_overlap(mini):
    image = noise_picture(1, 3, 30, 60)
    whole = mini(image, ITEROptions(tile=0, threshold=1.1))
    tiled = mini(image, ITEROptions(tile=32, tile_overlap=8, threshold=1.1))
    other = mini(image, ITEROptions(tile=0, threshold=1.1, seed=1))
    assert (tiled - whole).abs().mean() < 0.5 * (other - whole).abs().mean()


def test_bands_are_the_result_from_top_to_bottom(restorer):
    image = noise_picture(1, 3, 70, 40)
    options = ITEROptions(tile=48, tile_overlap=16, fidelity=1)
    bands = list(restorer.bands(image, options, finish=to_uint8))
    assert len(bands) > 1 and all(band.dtype == torch.uint8 for band in bands)
    assert torch.equal(torch.cat(bands, 2), to_uint8(restorer(image, options)))


def test_published_tiles_cover_the_picture(restorer):
    image = noise_picture(1, 3, 31, 22)
    options = ITEROptions(tiling="published", tile=20, tile_overlap=4, fidelity=1)
    result = restorer(image, options)
    assert result.shape == (1, 3, 124, 88) and result.isfinite().all()
    assert restorer(image, replace(options, tile=64)).shape == result.shape


@pytest.mark.parametrize("size", ((1, 1), (3, 40), (17, 16)))
def test_every_size_has_a_result(restorer, size):
    assert restorer(noise_picture(1, 3, *size), ITEROptions(steps=2)).shape == (1, 3, 4 * size[0], 4 * size[1])


def test_saved_equals_loaded(restorer, tmp_path):
    restorer.save_pretrained(tmp_path)
    loaded = ITERRestorer.from_pretrained(tmp_path)
    assert loaded.config == restorer.config
    ours, theirs = restorer.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    image = noise_picture(1, 3, 16, 16)
    assert torch.equal(restorer(image), loaded(image))


def test_every_step_can_be_seen(restorer):
    image = noise_picture(1, 3, 16, 16)
    options = ITEROptions(threshold=1.1, steps=5)
    trace, shares = Trace(), []
    result = torch.cat(list(restorer.bands(image, options, observers=[trace], progress=shares.append)), dim=2)
    assert [row["index"] for row in trace.rows] == list(range(5))
    assert shares == sorted(shares) and shares[-1] == 1
    steps = list(restorer.steps(image, options))
    assert [int(step.at.index) for step in steps] == list(range(5))
    torch.testing.assert_close(restorer.decode(steps[-1].state, options)[..., :64, :64], result, atol=1e-5, rtol=0)
    grid = restorer.token_grid(image, options)
    height, width = grid.shape[2] // 2, grid.shape[3] // 5
    last, mask = grid[..., :height, -width:], grid[..., height:, -width:]
    torch.testing.assert_close(last[..., :64, :64], result, atol=1e-5, rtol=0)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_visible_positions_stay_visible_and_follow_the_schedule(restorer):
    image = noise_picture(1, 3, 32, 32)
    sampler, state = restorer.start(image, ITEROptions(threshold=1.1, steps=6, schedule="cosine"))
    counts = keep_counts("cosine", 6, *state.tokens.shape[-2:])
    visible = state.visible
    for step in sampler.steps(state):
        assert (step.state.visible >= visible).all()
        assert step.state.visible.max() <= 1
        visible = step.state.visible
        if step.at.next is not None:
            assert int(visible.sum()) == counts[step.at.index + 1] == step.at.next


def test_trusting_all_runs_no_step(restorer):
    image = noise_picture(1, 3, 16, 16)
    assert list(restorer.steps(image, ITEROptions(threshold=0.0))) == []
    _, state = restorer.start(image, ITEROptions(threshold=0.0))
    torch.testing.assert_close(restorer(image, ITEROptions(threshold=0.0)), restorer.decode(state)[..., :64, :64])


def test_resumed_sampling_equals_straight(restorer, tmp_path):
    image = noise_picture(2, 3, 16, 16)
    options = ITEROptions(threshold=1.1, steps=5)
    generators = item_generators(5, 2)
    sampler, state = restorer.start(image, options, noise=generators)
    straight = list(sampler.steps(clone_items(state)))[-1].state
    save = checkpoints(tmp_path)
    for step in sampler.steps(clone_items(state)):
        save(step)
        if step.index == 1:
            break
    resumed = load_checkpoint(tmp_path, like=state)
    last = list(sampler.steps(state, resumed))[-1]
    assert torch.equal(last.state.tokens, straight.tokens)


def test_items_wait_for_their_own_starts(restorer):
    """In a batch of different starts every item ends as it does alone, also when a run is resumed before it begins."""
    image, options = noise_picture(2, 3, 16, 16), ITEROptions(threshold=1.1, steps=5)
    sampler, state = restorer.start(image, options)
    alone = [list(sampler.steps(take_items(state, torch.tensor([item]))))[-1].state for item in range(2)]
    late = replace(state, start=torch.tensor([0, 3]))
    late_alone = list(sampler.steps(take_items(late, torch.tensor([1]))))[-1].state
    steps = list(sampler.steps(late))
    assert [step.score.isnan().tolist() for step in steps] == [[False, True]] * 3 + [[False, False]] * 2
    for last in (steps[-1], list(sampler.steps(late, steps[1]))[-1]):
        assert torch.equal(last.state.tokens[:1], alone[0].tokens)
        assert torch.equal(last.state.tokens[1:], late_alone.tokens)
    assert not torch.equal(late_alone.tokens, alone[1].tokens)


def test_sampling_ends_for_every_item_when_its_trust_rises_no_more(restorer):
    image, options = noise_picture(3, 3, 16, 16), ITEROptions(threshold=1.1, steps=6)
    whole = list(restorer.steps(image, options))
    ended = list(restorer.steps(image, replace(options, stop="progress")))[-1].state.tokens
    scores = torch.stack([step.score for step in whole])
    for item in range(3):
        gains = scores[:, item].diff()
        last = next((number + 1 for number, gain in enumerate(gains) if gain < PROGRESS), 5)
        assert torch.equal(ended[item], whole[last].state.tokens[item])
    shown = restorer.token_grid(image[:1], replace(options, stop="progress"))
    assert torch.equal(shown, restorer.token_grid(image[:1], options)[..., : shown.shape[-1]])


def test_one_generator_draws_what_torch_draws(published):
    """The exponential race is torch.multinomial: the same generator gives the same tokens."""
    image = noise_picture(1, 3, 16, 16)
    sampler, state = published.start(image, ITEROptions(threshold=1.1, steps=1), noise=item_generators(11, 1))
    (step,) = sampler.steps(state)
    with torch.no_grad():
        logits = published.model.token_logits(state.observed, state.trusted, state.tokens, state.visible)
    generator = torch.Generator().manual_seed(11)
    drawn = torch.multinomial(logits[0].softmax(0).flatten(1).t().contiguous(), 1, generator=generator)
    assert torch.equal(step.state.tokens.flatten(), drawn.flatten())


def test_placed_noise_depends_on_the_place_alone():
    whole = PlacedNoise(3, 0, 0, 40).exponential((30 * 40, 5), "tokens", 2).view(30, 40, 5)
    tile = PlacedNoise(3, 7, 18, 20).exponential((23 * 20, 5), "tokens", 2).view(23, 20, 5)
    assert torch.equal(whole[7:30, 18:38], tile)
    assert not torch.equal(whole, PlacedNoise(3, 0, 0, 40).exponential((30 * 40, 5), "tokens", 3).view(30, 40, 5))
    assert (whole > 0).all() and abs(whole.mean() - 1) < 0.05


def test_fidelity_blends_the_small_network(mini):
    image = noise_picture(1, 3, 16, 16)
    base = mini(image, ITEROptions(fidelity=1))
    full = mini(image, ITEROptions(threshold=1.1))
    faint = mini(image, ITEROptions(threshold=1.1, fidelity=1 - 1e-4))
    assert (faint - base).abs().max() < 1e-3
    assert not torch.equal(base, full)


def test_only_sampled_texture_depends_on_the_seed(mini):
    image = noise_picture(1, 3, 8, 8)
    for fidelity in (None, 0.0, 0.5, 1.0):
        results = [mini(image, ITEROptions(threshold=1.1, fidelity=fidelity, seed=seed)) for seed in (0, 1)]
        assert mini.facts(ITEROptions(fidelity=fidelity)).seed is not torch.equal(*results)


def test_grey_pictures_stay_grey_and_others_keep_their_colours(mini):
    coloured = noise_picture(1, 3, 12, 14)
    grey = coloured[:, :1].expand(-1, 3, -1, -1)
    both = mini(torch.cat([grey, coloured]), ITEROptions(threshold=1.1))
    assert torch.equal(both[0, 0], both[0, 1]) and torch.equal(both[0, 0], both[0, 2])
    assert (both[1, 0] - both[1, 1]).abs().max() > 0.1


def test_the_weights_that_ship_keep_a_smooth_gradient_smooth():
    rise = torch.linspace(60, 200, 64) / 255
    image = torch.stack([rise, 0.8 * rise, 0.6 * rise]).view(1, 3, 1, 64).expand(-1, -1, 64, -1)
    result = ITERRestorer.from_pretrained()(image)
    assert (result - imresize(image, 4)).abs().max() < 6 / 255  # 17 of 255 where texture was sampled everywhere
    assert result.diff(dim=2).abs().max() < 2 / 255  # along its columns nothing changes


def test_weights_saved_before_the_dial_was_turned_keep_their_texture(mini, tmp_path):
    mini.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["fidelity"] = 0.25 + 0 * config.pop("texture")
    for name in ("step_channels", "activity_channels"):
        del config["mini"][name]
    path.write_text(json.dumps(config))
    old = ITERRestorer.from_pretrained(tmp_path)
    assert old.config.texture == 0.25 and old.config.mini == mini.config.mini
    image = noise_picture(1, 3, 9, 8)
    assert torch.equal(old(image), mini(image, ITEROptions(fidelity=0.75)))


CONFIGS = {
    "x1": PublishedConfig(scale=1, vqgan=BUILTIN["tiny"].published.vqgan),
    "x2-mhsa": PublishedConfig(scale=2, vqgan=VQGANConfig(channels=8, code_dim=8, num_codes=16, global_blocks="mhsa")),
    "x8-window4": PublishedConfig(
        scale=8, vqgan=VQGANConfig(channels=8, code_dim=8, num_codes=16, swin_channels=8, swin_depth=1, window=4)
    ),
    "x4-small-grid": PublishedConfig(
        scale=4,
        vqgan=VQGANConfig(channels=8, code_dim=8, num_codes=16, swin_channels=8, swin_depth=2, resolution=(64, 64)),
    ),
    "transformer": PublishedConfig(
        scale=4,
        vqgan=BUILTIN["tiny"].published.vqgan,
        token_nets=TokenNetConfig("transformer", channels=32, num_layers=1, num_heads=4),
    ),
    "unet": PublishedConfig(
        scale=4,
        vqgan=BUILTIN["tiny"].published.vqgan,
        token_nets=TokenNetConfig("unet", channels=32, multipliers=(1, 2, 2)),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_other_sizes_work_and_survive_saving(name, tmp_path):
    config = CONFIGS[name]
    encoder = LQEncoderConfig(channels=32, width=32, swin_channels=16, swin_groups=1, swin_depth=2)
    nets = config.token_nets
    if nets.body == "swin":
        nets = TokenNetConfig(channels=32, swin_groups=1, swin_depth=2)
    config = ITERConfig("published", replace(config, encoder=encoder, token_nets=nets))
    assert from_dict(ITERConfig, to_dict(config)) == config
    with torch.device("meta"):
        shapes = published_shapes(PublishedITER(config.published))
    if name != "transformer":  # whose heads leave no trace in the shapes
        read = infer_config({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
        assert read == config.published
    restorer = ITERRestorer(PublishedITER(config.published).eval(), config)
    image = noise_picture(1, 3, 9, 10)
    result = restorer(image, ITEROptions(steps=2, threshold=0.9))
    assert result.shape == (1, 3, 9 * config.published.scale, 10 * config.published.scale)
    restorer.save_pretrained(tmp_path)
    assert torch.equal(ITERRestorer.from_pretrained(tmp_path)(image, ITEROptions(steps=2, threshold=0.9)), result)


@pytest.mark.parametrize("schedule", ("linear", "cosine", "pow2", "pow0.5", "exp10", "exp2.5"))
def test_schedules_fall_to_zero(schedule):
    gamma = mask_schedule(schedule, torch.linspace(0, 1, 50))
    assert (gamma.diff() <= 0).all() and abs(gamma[-1]) < 1e-6
    counts = keep_counts(schedule, 8, 16, 16)
    assert counts == sorted(counts) and counts[-1] < 256


def test_counting_over_the_batch_starts_all_at_once(published):
    images = noise_picture(2, 3, 16, 16)
    threshold = spread_threshold(published, images)
    _, state = published.start(images, ITEROptions(threshold=threshold, batch_counts=True))
    assert len(state.start.unique()) == 1


def test_an_item_takes_part_from_its_own_start(published):
    images = noise_picture(2, 3, 16, 16)
    images[1] *= 0.1
    padded = pad_to_multiple(images, published.model.unit)
    probabilities = TokenSampler(published.model, SamplingOptions()).start(padded, item_generators(0, 2)).confidence
    threshold = next(
        float(t) for t in probabilities.flatten().sort().values if len((probabilities >= t).sum((1, 2, 3)).unique()) > 1
    )
    sampler = TokenSampler(published.model, SamplingOptions(steps=256, threshold=threshold))
    state = sampler.start(padded, item_generators(0, 2))
    late, last = int(state.start.argmax()), int(state.start.max())
    assert int(state.start.min()) < last
    for step in sampler.steps(state):
        if step.at.index >= last:
            break
        assert torch.equal(step.state.tokens[late], state.tokens[late])
        assert torch.equal(step.state.visible[late], state.visible[late])


@pytest.mark.parametrize(
    "arguments, sentence",
    (
        ({"scale": 0}, r"scale must lie in \(0, 32\], got 0"),
        ({"fidelity": 1.5}, r"fidelity must lie in \[0, 1\], got 1.5"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": "pow"}, "mask schedule must be linear, cosine, powP"),
        ({"schedule": "exp1"}, "expE with E > 1"),
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"threshold": float("nan")}, "threshold must be at least 0"),
        ({"temperature_tokens": 0.0}, "temperature_tokens must be above 0"),
        ({"padding": "zero"}, "padding must be published or minimal, got zero"),
        ({"tile": -1}, "tile must be at least 0, got -1"),
        ({"tile_overlap": -1}, "tile_overlap must be at least 0, got -1"),
        ({"tiling": "none"}, "tiling must be blended or published, got none"),
    ),
)
def test_options_say_what_is_wrong(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ITEROptions(**arguments)


def test_networks_refuse_what_they_cannot_do(published, mini):
    image = noise_picture(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"fidelity must be 0 or 1 for the published network, got 0.5"):
        published(image, ITEROptions(fidelity=0.5))
    with pytest.raises(ValueError, match="tile must be more than twice tile_overlap"):
        mini(image, ITEROptions(tile=16, tile_overlap=8))


def test_sources_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="no builtin:nix for ITER; there are tiny, tiny-mini"):
        ITERRestorer.from_pretrained("builtin:nix")
    with pytest.raises(ValueError, match="variant chooses among the embedded weights"):
        ITERRestorer.from_pretrained("builtin:tiny", variant="clean")
    with pytest.raises(ValueError, match="variant must be photo or clean, got x"):
        ITERRestorer.from_pretrained(variant="x")
    with pytest.raises(FileNotFoundError, match="no file"):
        ITERRestorer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="needs its sizes, and those alone"):
        ITERConfig("published", mini=BUILTIN["tiny-mini"].mini)
    with pytest.raises(ValueError, match="scale must be a power of two up to 8, got 3"):
        PublishedConfig(scale=3)


def test_half_precision_gives_float_pictures(restorer):
    image = noise_picture(2, 3, 16, 16)
    half = ITERRestorer(copy.deepcopy(restorer.model), restorer.config).to(dtype=torch.bfloat16)
    result = half(image, ITEROptions(threshold=1.1, steps=3))
    assert result.dtype == torch.float32 and result.isfinite().all()


def test_tokens_are_counted_in_whole_numbers(restorer):
    """Half precision tells no two numbers above 256 (bfloat16) apart that differ by one, and none above 65504."""
    half = ITERRestorer(copy.deepcopy(restorer.model), restorer.config).to(dtype=torch.bfloat16)
    sampler, state = half.start(noise_picture(1, 3, 80, 84), ITEROptions(threshold=1.1, steps=7, tile=0))
    assert state.visible.dtype == torch.bfloat16 and state.visible.numel() > 300
    for step in sampler.steps(state):
        if step.at.next is not None:
            assert int((step.state.visible > 0).sum()) == step.at.next


def test_self_ensemble_commutes_with_flips_and_turns_and_refuses_sampled_texture():
    restorer = ITERRestorer.from_pretrained()
    image = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    options = ITEROptions(fidelity=1, self_ensemble=True)
    straight = restorer(image, options)
    for change in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        assert torch.allclose(restorer(change(image), options), change(straight), atol=1e-5)
    plain = restorer(image, ITEROptions(fidelity=1))
    assert not torch.allclose(plain, straight, atol=1e-3)
    views = [plain, restorer(image.flip(2), ITEROptions(fidelity=1)).flip(2)]
    assert (sum(views) / 2 - straight).abs().mean() < (plain - straight).abs().mean()  # half of the views come nearer
    with pytest.raises(ValueError, match=r"self_ensemble averages deterministic results; take fidelity 1, not 0\.5"):
        restorer(image, ITEROptions(fidelity=0.5, self_ensemble=True))


@pytest.mark.parametrize("tiles", [{}, {"tile": 48, "tile_overlap": 8}, {"tiling": "published", "tile": 32}])
@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_a_blend_is_a_share_of_the_restoration_beside_plain_enlargement(restorer, fidelity, tiles):
    image = noise_picture(2, 3, 40, 68)
    options = ITEROptions(fidelity=fidelity, **tiles)
    whole, plain = restorer(image, options), imresize(image, restorer.scale).clamp(0, 1)
    for blend in (0.0, 0.3, 1.0):
        made = restorer(image, replace(options, blend=blend))
        assert torch.allclose(made, torch.lerp(plain, whole, blend), atol=1e-5)


def test_a_folder_above_weights_names_those_below():
    with pytest.raises(FileNotFoundError, match=r"no file .*config\.json; .* in the folders below: clean, photo\."):
        ITERRestorer.from_pretrained(Path(restoration.__file__).parent / "pretrained" / "iter-mini")
