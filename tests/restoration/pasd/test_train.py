"""Training of PASD on a tiny base: it learns what it should, stops and goes on, and its weights load."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.pasd import PASDOptions, PASDRestorer
from restoration.pasd.train import Captioned, PASDTraining, enlarge, lack_of_color, networks_to_train, train
from restoration.pasd.unet import is_trained
from scripts import train as script
from vision.diffusion.backbone import load_scheduler


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("base")
    tiny = PASDRestorer.from_pretrained("builtin:tiny")
    tiny.save_pretrained(folder)
    config = {key: value for key, value in tiny.unet.config.items() if not key.startswith("_")}
    stock = UNet2DConditionModel(**config)
    stock.load_state_dict({name: value for name, value in tiny.unet.state_dict().items() if not is_trained(name)})
    stock.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        small = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        PIL.Image.fromarray(small).resize((72, 72), PIL.Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    (folder / "0.txt").write_text("a street at night\nsecond line\n")
    return folder


def options(base, images, folder, **more) -> PASDTraining:
    small = {"crop": 64, "steps": 4, "batch_size": 2, "accumulate": 1, "degradation": "bicubic", "learning_rate": 1e-3}
    return PASDTraining(base=base, images=images, folder=folder, **(small | more))


@pytest.mark.parametrize("variant", ["full", "light"])
def test_only_the_new_parts_learn_and_the_weights_load(base, images, tmp_path, variant):
    chosen = options(base, images, tmp_path, variant=variant, validation=images, validation_steps=1)
    before = networks_to_train(chosen)
    folder = train(chosen)
    after = PASDRestorer.from_pretrained(folder)
    assert after.unet.variant == variant
    start, end = before.unet.state_dict(), after.unet.state_dict()
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert changed and all(is_trained(name) for name in changed)
    # Keys and values of pixel attention get no gradient while the new branch is silent; everything else does at once.
    assert {name.split(".")[0] for name in changed} == {"up_blocks"}
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.controlnet.parameters(), after.controlnet.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"noise", "picture_2", "picture_4", "picture_8"} <= rows[0].keys()
    assert {"validation.psnr", "validation.psnr_bicubic"} <= rows[-1].keys()
    assert len(list((tmp_path / "validation").iterdir())) == 3
    shown = after(images / "0.png", PASDOptions(steps=1, process_size=64, guidance_scale=1.0))
    assert shown.size == (72, 72)


def test_a_stopped_run_ends_with_the_same_weights(base, images, tmp_path):
    straight = train(options(base, images, tmp_path / "a", ema_decay=0.9, save_every=2))
    stopped = options(base, images, tmp_path / "b", ema_decay=0.9, save_every=2)
    assert train(stopped, max_seconds=0.0) is None
    resumed = train(stopped)
    for net in ("unet", "controlnet"):
        one, other = (getattr(PASDRestorer.from_pretrained(folder), net).state_dict() for folder in (straight, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_checkpointing_activations_changes_no_weight(base, images, tmp_path):
    plain = train(options(base, images, tmp_path / "a", steps=2))
    spared = train(options(base, images, tmp_path / "b", steps=2, gradient_checkpointing=True))
    one, other = (PASDRestorer.from_pretrained(folder).controlnet.state_dict() for folder in (plain, spared))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-5)


def test_a_finished_folder_is_a_start(base, images, tmp_path):
    first = train(options(base, images, tmp_path / "a", steps=1))
    again = networks_to_train(options(base, images, tmp_path / "b", start=first))
    done = PASDRestorer.from_pretrained(first)
    assert all(torch.equal(a, b) for a, b in zip(again.unet.parameters(), done.unet.parameters(), strict=True))


def test_colourization_trains_on_grey_pictures(base, images, tmp_path):
    folder = train(options(base, images, tmp_path, task="colorize", steps=2))
    restorer = PASDRestorer.from_pretrained(folder)
    assert restorer.config.task == "colorize"
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[0]["color"] > 0


def test_captions_belong_to_their_pictures(images):
    class Pairs:
        paths = sorted(images.glob("*.png"))

        def __len__(self):
            return 6

        def __getitem__(self, index):
            return {"high": index}

    always, never, half = (Captioned(Pairs(), dropout, 0) for dropout in (0.0, 1.0, 0.5))
    assert [always[i]["caption"] for i in range(4)] == ["a street at night", "", "", "a street at night"]
    assert never[0]["caption"] == ""
    kept = [bool(half[3 * i]["caption"]) for i in range(200)]
    assert 70 < sum(kept) < 130
    assert kept == [bool(half[3 * i]["caption"]) for i in range(200)]


def test_lack_of_colour():
    grey = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    assert lack_of_color(grey).item() == pytest.approx(2.0, abs=1e-5)
    assert lack_of_color(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))) < 1.6


def test_enlarging_rounds_to_8_bits():
    found = enlarge(torch.rand(1, 3, 4, 4), (16, 16), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found * 255, (found * 255).round(), rtol=0, atol=1e-4)


def test_the_script_knows_the_recipe(base, images, tmp_path):
    words = ["pasd", "--base", str(base), "--images", str(images), "--folder", str(tmp_path), "--steps", "1"]
    module, chosen = script.parse([*words, "--crop", "64", "--batch-size", "1", "--degradation", "bicubic"])
    assert isinstance(chosen, PASDTraining) and module.train(chosen) == tmp_path / "weights"


def test_what_cannot_be_trained_says_why(base, images, tmp_path):
    with pytest.raises(ValueError, match="crop must be a multiple of 64, got 100"):
        PASDTraining(crop=100)
    with pytest.raises(ValueError, match=r"caption_dropout must lie in \[0, 1\]"):
        PASDTraining(caption_dropout=2)
    with pytest.raises(FileNotFoundError, match="lacks vae"):
        train(options(tmp_path, images, tmp_path))
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ValueError, match="needs the package bitsandbytes; install it, or switch eight_bit off"):
            train(options(base, images, tmp_path, eight_bit=True))
    assert load_scheduler(base / "scheduler", "DDPMScheduler").config.beta_schedule == "scaled_linear"


def test_the_small_base_and_pasd_on_it(tmp_path, monkeypatch):
    """All stages for two updates each, stopped once in between."""
    from restoration.pasd import recipe_mini

    names = ("a.png", "b.png")
    for i, name in enumerate(names):
        small = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        PIL.Image.fromarray(small).resize((160, 160), PIL.Image.Resampling.BICUBIC).save(tmp_path / name)
    pictures = [tmp_path / name for name in names]
    monkeypatch.setattr(recipe_mini, "collect_photos", lambda source, out: pictures)
    small = {
        "steps": (2, 2, 2, 2), "batch_sizes": (2, 2, 2, 2), "crop": 48, "vae_channels": (8, 8, 8),
        "channels": (8, 8, 16), "encoder_channels": (4, 4, 8), "workers": 0, "perceptual": 0.0,
        "held_out": tmp_path / "good",
    }  # fmt: skip
    (tmp_path / "good").mkdir()
    PIL.Image.open(pictures[0]).crop((0, 0, 64, 64)).save(tmp_path / "good" / "a.png")
    stopped = recipe_mini.MiniPASDTraining(folder=tmp_path / "stopped", **small)
    while (folder := recipe_mini.train(stopped, max_seconds=0.0)) is None:
        pass
    straight = recipe_mini.train(recipe_mini.MiniPASDTraining(folder=tmp_path / "straight", **small))
    one, other = (PASDRestorer.from_pretrained(path) for path in (folder, straight))
    for net in ("unet", "controlnet", "vae"):
        mine, theirs = getattr(one, net).state_dict(), getattr(other, net).state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    with PIL.Image.open(folder.parent / "training.png") as drawn:
        assert min(drawn.size) > 200
    levels = json.loads((folder.parent / "levels.json").read_text())
    assert list(levels) == ["bicubic", "base alone", "PASD"] and all(level["psnr_y"] > 0 for level in levels.values())
    rows = [json.loads(line) for line in (folder.parent / "finish" / "log.jsonl").read_text().splitlines()]
    assert {"texture", "pattern", "edges", "error", "tones", "heads"} <= rows[0].keys() and rows[-1][
        "held_out.psnr_y"
    ] > 0
    assert one.vae.config.scaling_factor == pytest.approx(other.vae.config.scaling_factor)
    image = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    assert one(image, PASDOptions(steps=2)).shape == (1, 3, 96, 160)
    tiled = PASDOptions(steps=2, tile=8, tile_overlap=2, vae_tile=16)
    assert one(image, tiled).isfinite().all()
