"""The small default network and its recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restoration.iter import train_mini
from restoration.iter.mini import MiniConfig, MiniITER
from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from vision import photos
from vision.training import Context

TINY = MiniConfig(
    channels=8,
    base_blocks=2,
    decoder_blocks=1,
    num_codes=8,
    code_dim=4,
    token_channels=8,
    encoder_blocks=1,
    refiner_blocks=1,
    critic_blocks=1,
)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def photo_folder(folder: Path, count: int = 2) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("first.png", "second.png")[:count]:
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_no_strength_is_the_deterministic_picture():
    model = MiniITER(TINY)
    torch.nn.init.normal_(model.decoder.tail.weight)
    observed, base = model.observe(picture(6, 9)), model.restore_base(picture(6, 9))
    assert torch.equal(model.decode(observed, observed.first, 0.0), base)
    assert not torch.equal(model.decode(observed, observed.first, 1.0), base)


def test_the_deterministic_picture_depends_on_its_receptive_field_alone():
    model = MiniITER(TINY)
    reach = model.receptive_field
    size = 2 * reach + 3
    image = picture(size, size).requires_grad_()
    out = model.base(image)[1]
    centre = model.scale * (size // 2) + 1
    out[0, :, centre, centre].sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert size // 2 - reach <= rows.min() and rows.max() <= size // 2 + reach


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
    first = train_mini.SharpPairs(paths, 32, {"bicubic": 0.5, "bsrgan_light": 0.5}, seed=3)
    again = train_mini.SharpPairs(paths, 32, {"bicubic": 0.5, "bsrgan_light": 0.5}, seed=3)
    for index in (5, 0, 5):
        a, b = first[index], again[index]
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"])
    assert a["hr"].shape == (3, 32, 32) and a["lr"].shape == (3, 8, 8)
    assert not torch.equal(first[0]["hr"], first[1]["hr"])


def test_codes_are_the_nearest_ones():
    networks = train_mini.Networks(TINY)
    vectors = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    distances = (vectors.permute(0, 2, 3, 1)[..., None, :] - networks.model.codebook).square().sum(-1)
    assert torch.equal(networks._nearest(vectors), distances.argmin(-1))


def test_a_stage_trains_what_it_names(tmp_path):
    networks = train_mini.Networks(TINY)
    batch = {"hr": picture(16, 16).repeat(2, 1, 1, 1), "lr": picture(4, 4).repeat(2, 1, 1, 1)}
    for stage, parts in (("base", ["model.base"]), ("tokens", ["model.first_tokens", "model.critic", "model.refiner"])):
        networks.train_only(stage).zero_grad()
        context = Context(0, torch.Generator().manual_seed(0), {}, torch.device("cpu"), {})
        networks(stage, batch, context)[0].backward()
        touched = {name for name, p in networks.named_parameters() if p.grad is not None}
        assert touched == {n for n, _ in networks.named_parameters() if n.startswith(tuple(parts))}


def test_the_recipe_runs_resumes_and_its_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(train_mini, "collect_photos", lambda source, out: sorted(source.iterdir()))
    options = train_mini.MiniTraining(
        photos=photo_folder(tmp_path / "photos"),
        folder=tmp_path / "run",
        variant="photo",
        steps=(3, 2, 2),
        crop=32,
        batch_sizes=(2, 2, 2),
        rates=(1e-3, 1e-3, 1e-3),
        workers=0,
        network=TINY,
    )
    assert train_mini.train(options, max_seconds=0.0) is None
    while (folder := train_mini.train(options, max_seconds=0.0)) is None:
        pass
    restorer = ITERRestorer.from_pretrained(folder)
    out = restorer(picture(6, 8), ITEROptions(seed=1))
    assert out.shape == (1, 3, 24, 32) and out.isfinite().all()


def test_missing_photographs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"21 of 21 photographs are missing .* the first is Bamboo\.edj"):
        photos.collect_photos(tmp_path, tmp_path / "out")
    (tmp_path / "Bamboo.edj").write_bytes(b"EET archive without a picture")
    with pytest.raises(ValueError, match="holds no JPEG stream"):
        photos.open_photo(tmp_path / "Bamboo.edj")
