"""The small default network and its recipe."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from restoration import drawn
from restoration.iter import lessons, recipe_mini
from restoration.iter.mini import MiniConfig, MiniITER
from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from vision import photos
from vision.images import box_mean
from vision.training_run import Context

TINY = MiniConfig(
    channels=8, base_blocks=2, decoder_blocks=1, num_codes=8, code_dim=4, token_channels=8, encoder_blocks=1,
    refiner_blocks=1, critic_blocks=1,
)  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def photo_folder(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("first.png", "second.png")[:count]:
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / name)
    return folder


STEPPED = replace(TINY, step_channels=4, activity_channels=4)
TONED = replace(STEPPED, tone_pixels=3)


def test_no_strength_is_the_deterministic_picture():
    model = MiniITER(TINY)
    torch.nn.init.normal_(model.decoder.tail.weight)
    observed, base = model.observe(picture(6, 9)), model.restore_base(picture(6, 9))
    assert torch.equal(model.decode(observed, observed.first, 0.0), base)
    assert not torch.equal(model.decode(observed, observed.first, 1.0), base)


@pytest.mark.parametrize("config", (TINY, STEPPED, TONED), ids=("one shuffle", "steps", "toned"))
def test_the_deterministic_picture_depends_on_its_receptive_field_alone(config):
    model = MiniITER(config)
    reach = model.receptive_field
    size = 2 * reach + 3
    image = picture(size, size).requires_grad_()
    out = model.base(image)[1]
    centre = model.scale * (size // 2) + 1
    out[0, :, centre, centre].sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert size // 2 - reach <= rows.min() and rows.max() <= size // 2 + reach


def test_a_toned_picture_keeps_mean_colours_whatever_its_weights():
    image = picture(1, 1).expand(1, 3, 20, 24).clone()
    image[..., 12:] = 0.9
    for config, kept in ((TONED, True), (STEPPED, False)):
        model = MiniITER(config)
        torch.nn.init.normal_(model.base.tail[-1].weight, generator=torch.Generator().manual_seed(0))
        gap = (model.base(image)[1] - image.repeat_interleave(4, 2).repeat_interleave(4, 3)).mean((2, 3))
        assert (gap.abs().max() < 0.01) == kept
    assert MiniITER(TONED).base(picture(1, 1))[1].shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match="odd, or 0, got 4"):
        replace(TONED, tone_pixels=4)


def test_texture_stays_where_the_map_expects_some():
    model = MiniITER(STEPPED)
    torch.nn.init.normal_(model.decoder.tail[-1].weight)
    observed = model.observe(picture(8, 8))
    base = observed.context["picture"]
    for expected, share in ((-20.0, 0.0), (1000.0, 1.0)):
        torch.nn.init.zeros_(model.activity.layers[-1].weight)
        torch.nn.init.constant_(model.activity.layers[-1].bias, expected)
        residual = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        found = model.texture_share(residual, observed.context["features"])
        assert torch.allclose(found, torch.full_like(found, share), atol=1e-6)
    torch.nn.init.constant_(model.activity.layers[-1].bias, -20.0)
    assert torch.allclose(model.decode(observed, observed.first), base.clamp(0, 1), atol=1e-6)


def test_a_network_grows_from_a_smaller_one_without_a_change_of_its_features():
    small = MiniITER(STEPPED).eval()
    large = MiniITER(replace(STEPPED, channels=12, base_blocks=4)).eval()
    recipe_mini.grow(large, small)
    image = picture(7, 9)
    assert torch.allclose(large.base(image)[0][:, :8], small.base(image)[0], atol=1e-5)
    with pytest.raises(ValueError, match="8 channels and 2 blocks at scale 4"):
        recipe_mini.grow(MiniITER(replace(TINY, channels=4)), MiniITER(TINY))


def test_lessons_are_kept_and_depend_on_seed_and_number_alone(tmp_path):
    photos = sorted(photo_folder(tmp_path / "p").iterdir())
    make = partial(lessons.make_lessons, photos, tmp_path / "l", 20, {"bicubic": 0.5, "bsrgan_light": 0.5}, size=64)
    files = make(taught=False)
    before = [file.read_bytes() for file in files]
    assert make(taught=False) == files and [file.read_bytes() for file in files] == before
    files[0].unlink()
    assert [file.read_bytes() for file in make(taught=False)] == before
    data, again = lessons.Lessons(files, 32, seed=4), lessons.Lessons(files, 32, seed=4)
    for index in (3, 0, 3):
        item, other = data[index], again[index]
        assert all(torch.equal(item[name], other[name]) for name in item)
    assert item["hr"].shape == item["teacher"].shape == (3, 32, 32) and item["lr"].shape == (3, 8, 8)
    shrunk = torch.nn.functional.avg_pool2d(item["hr"][None], 4)[0]
    assert (shrunk - item["lr"]).abs().mean() < 0.1  # the parts of a lesson show the same place
    with pytest.raises(ValueError, match="multiples of 4 up to 64 pixels, got 80"):
        lessons.Lessons(files, 80)


def test_drawn_crops_depend_on_the_generator_alone():
    for seed in range(24):
        first, again = (drawn.drawn_crop(np.random.default_rng(seed), 64) for _ in range(2))
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and np.array_equal(first, again)


def test_hidden_tokens_do_not_show():
    model = MiniITER(TINY)
    observed = model.observe(picture(5, 7))
    kept = (picture(5, 7)[:, :1] > 0.5).float()
    tokens = torch.randint(8, observed.first.shape, generator=torch.Generator().manual_seed(1))
    other = torch.where(kept.bool(), tokens, (tokens + 3) % 8)
    trusted = torch.zeros_like(kept)
    assert torch.equal(
        model.token_logits(observed, trusted, tokens, kept), model.token_logits(observed, trusted, other, kept)
    )


def test_crops_depend_on_seed_and_number_alone(tmp_path):
    paths = sorted(photo_folder(tmp_path / "p").iterdir())
    first = recipe_mini.SharpPairs(paths, 32, {"bicubic": 0.5, "bsrgan_light": 0.5}, seed=3)
    again = recipe_mini.SharpPairs(paths, 32, {"bicubic": 0.5, "bsrgan_light": 0.5}, seed=3)
    for index in (5, 0, 5):
        a, b = first[index], again[index]
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"])
    assert a["hr"].shape == (3, 32, 32) and a["lr"].shape == (3, 8, 8)
    assert not torch.equal(first[0]["hr"], first[1]["hr"])


def test_codes_are_the_nearest_ones():
    networks = recipe_mini.Networks(TINY)
    vectors = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    distances = (vectors.permute(0, 2, 3, 1)[..., None, :] - networks.model.codebook).square().sum(-1)
    assert torch.equal(networks._nearest(vectors), distances.argmin(-1))


def test_a_stage_trains_what_it_names(tmp_path):
    networks = recipe_mini.Networks(TINY)
    batch = {"hr": picture(16, 16).repeat(2, 1, 1, 1), "lr": picture(4, 4).repeat(2, 1, 1, 1)}
    stages = {
        "base": ["model.base"],
        "tokens": ["model.first_tokens", "model.critic", "model.refiner"],
    }
    for stage, parts in stages.items():
        networks.train_only(stage).zero_grad()
        context = Context(0, torch.Generator().manual_seed(0), {}, torch.device("cpu"), {})
        networks(stage, batch, context)[0].backward()
        touched = {name for name, p in networks.named_parameters() if p.grad is not None}
        assert touched == {n for n, _ in networks.named_parameters() if n.startswith(tuple(parts))}


def test_the_recipe_runs_resumes_and_its_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_mini, "collect_photos", lambda source, out: sorted(source.iterdir()))
    options = recipe_mini.MiniTraining(
        photos=photo_folder(tmp_path / "photos"),
        folder=tmp_path / "run",
        variant="photo",
        steps=(3, 2, 2, 2),
        crop=64,
        lessons=1,
        lesson_size=64,
        drawn=0.5,
        batch_sizes=(2, 2, 2, 2),
        rates=(1e-3, 1e-3, 1e-3, 1e-3),
        workers=0,
        network=STEPPED,
    )
    assert recipe_mini.train(options, max_seconds=0.0) is None
    while (folder := recipe_mini.train(options, max_seconds=0.0)) is None:
        pass
    restorer = ITERRestorer.from_pretrained(folder)
    out = restorer(picture(6, 8), ITEROptions(seed=1))
    assert out.shape == (1, 3, 24, 32) and out.isfinite().all()
    (row,) = map(json.loads, (tmp_path / "run" / "photo" / "sharpen" / "log.jsonl").read_text().splitlines())
    assert row["adversarial"] > 0 and row["discriminator.loss"] > 0
    before, sharp = (
        load_file(tmp_path / "run" / "photo" / f"{stage}.safetensors")["model.base.fuse.weight"]
        for stage in ("base", "sharpen")
    )
    assert_close(restorer.model.base.fuse.weight, before.lerp(sharp, options.blend).half().float())


class Maps(torch.nn.Module):
    def forward(self, images):
        return [images, images.square()]


def test_pictures_whose_teacher_is_the_truth_have_a_squared_error_alone():
    networks = recipe_mini.Networks(STEPPED, Maps()).train_only("sharpen")
    generator = torch.Generator().manual_seed(0)
    hr, lr = (torch.rand(2, 3, side, side, generator=generator) for side in (64, 16))
    teacher = torch.stack([hr[0].flip(1), hr[1]])  # the second one was drawn
    discriminator = recipe_mini.DetailDiscriminator(4)
    told = []
    for items in (slice(None), slice(1)):
        batch = {"hr": hr[items], "lr": lr[items], "teacher": teacher[items]}
        context = Context(0, torch.Generator(), {"discriminator": discriminator}, torch.device("cpu"), {})
        _, logs = networks("sharpen", batch, context)
        told.append(logs | {"discriminator": recipe_mini.discriminate(batch, context)[0]})
    both, taught = told
    error = both.pop("error")
    assert error != taught.pop("error") and both.pop("error_of_truth") != taught.pop("error_of_truth")
    picture = networks.model.base(lr)[1]
    toned = recipe_mini._toned(teacher, hr)
    squared = recipe_mini.SQUARED * (picture[1] - hr[1]).square()
    expected = (picture[0] - hr[0].lerp(toned[0], recipe_mini.TEACHING)).abs().mean() / 2 + squared.mean() / 2
    assert_close(error, expected)
    assert set(both) > {"features", "statistics", "adversarial", "discriminator"}
    assert_close(both, taught)


def test_a_teacher_whose_colours_drift_is_given_those_of_the_truth_and_keeps_its_details():
    generator = torch.Generator().manual_seed(0)
    hr = torch.full((1, 3, 64, 64), 0.5)
    details = 0.1 * torch.rand(1, 3, 64, 64, generator=generator)
    details -= box_mean(details, recipe_mini.TONE)
    drifted = hr + torch.tensor([0.02, 0.0, -0.03]).view(1, 3, 1, 1) + details
    toned = recipe_mini._toned(drifted, hr)
    assert (toned - hr).mean((2, 3)).abs().max() < 1e-3 < (drifted - hr).mean((2, 3)).abs().max()
    assert (toned - hr - details).abs().max() < 0.005
    assert torch.equal(recipe_mini._toned(hr, hr), hr)  # the truth is its own teacher


def test_a_discriminator_that_tells_pictures_apart_pulls_them_to_the_teacher():
    class Brightness(torch.nn.Module):
        def forward(self, image):
            return 9 * (image.mean(1, keepdim=True) - 0.5)

    networks = recipe_mini.Networks(STEPPED, Maps()).train_only("sharpen")
    taught = torch.ones(1, 3, 64, 64)
    batch = {"hr": taught / 2, "teacher": taught, "lr": torch.full((1, 3, 16, 16), 0.25)}
    context = Context(0, torch.Generator(), {"discriminator": Brightness()}, torch.device("cpu"), {})
    _, logs = networks("sharpen", batch, context)
    (down,) = torch.autograd.grad(logs["adversarial"], networks.model.base.tail[-1].bias)
    assert (down < 0).all()  # brighter pictures look truer to this discriminator
    loss, told = recipe_mini.discriminate(batch, context)
    assert told["fake"] < 0.2 < 0.8 < told["real"] and loss < 0.4
    alone = Context(0, torch.Generator(), {}, torch.device("cpu"), {})
    assert "adversarial" not in networks("sharpen", batch, alone)[1]


def test_a_blend_is_a_share():
    with pytest.raises(ValueError, match=r"blend is a share in \(0, 1\], got 1.5"):
        recipe_mini.MiniTraining(blend=1.5)


def test_crops_that_the_discriminator_cannot_halve_are_refused():
    with pytest.raises(ValueError, match="multiple of 8 for the discriminator of photo, got 60"):
        recipe_mini.MiniTraining(variant="photo", crop=60)
    recipe_mini.MiniTraining(variant="photo", crop=60, discriminator_channels=0)


def test_a_folder_of_ones_own_photographs_is_taken_whole(tmp_path):
    folder = photo_folder(tmp_path / "mine")
    (folder / "more").mkdir()
    Image.new("RGB", (1200, 1002), (200, 10, 10)).save(folder / "more" / "first.png")
    shutil.copy(folder / "second.png", folder / "more_first.png")  # a name that a flat copy of the folder would give
    paths = photos.collect_photos(folder, tmp_path / "out")
    names = ["first.png.png", "more/first.png.png", "more_first.png.png", "second.png.png"]
    assert [str(path.relative_to(tmp_path / "out")) for path in paths] == names
    assert [Image.open(path).size for path in paths] == [(128, 96), (600, 501), (128, 96), (128, 96)]


def test_missing_photographs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no photographs\. Name a folder of your own, or unpack"):
        photos.collect_photos(tmp_path, tmp_path / "out")
    (tmp_path / "Bamboo.edj").write_bytes(b"EET archive without a picture")
    with pytest.raises(FileNotFoundError, match=r"20 of 21 photographs are missing .* the first is"):
        photos.collect_photos(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="holds no JPEG stream"):
        photos.open_photo(tmp_path / "Bamboo.edj")


@pytest.mark.parametrize("name, value", [("base_blocks", 100_000), ("channels", 0), ("step_channels", -1)])
def test_sizes_of_a_network_have_limits(name, value):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[[01], 1024\], got {value}"):
        replace(TINY, **{name: value})
