"""CLIP measures of a progression, on a small network with random weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from vision.edit.measures import rows
from vision.edit.progression import Progression
from vision.metrics import Clip

VISION = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import open_clip

    place = tmp_path_factory.mktemp("clip")
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (place / "burnish-tiny-pie.json").write_text(json.dumps(config))
    open_clip.add_model_config(place / "burnish-tiny-pie.json")
    save_file(open_clip.create_model("burnish-tiny-pie").state_dict(), place / "open_clip_model.safetensors")
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return place


@pytest.fixture(scope="module")
def progression() -> Progression:
    images = torch.rand(3, 2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    return Progression(images, torch.zeros(3, 2, 4, 5, 6), None, None, None)


def test_folder_and_file_hold_the_same_model(folder, progression):
    files = Clip.load("burnish-tiny-pie", folder / "open_clip_model.safetensors")
    pictures, texts = progression.images[0], ["a wall", "a cat"]
    found = Clip.load(f"local-dir:{folder}")
    assert torch.equal(files.images(pictures), found.images(pictures))
    assert torch.equal(files.texts(texts), found.texts(texts))
    torch.testing.assert_close(found.images(pictures).norm(dim=1), torch.ones(2))


def test_columns_are_cosines_to_the_original_the_prompt_and_the_direction(folder, progression):
    clip = Clip.load(f"local-dir:{folder}")
    table = rows(progression, clip=clip, prompt="a large lesion", source_prompt="healthy")
    direction = (clip.texts(["a large lesion"]) - clip.texts(["healthy"]))[0]
    for row in table:
        first, here = (clip.images(progression.images[n, row["item"]][None])[0] for n in (0, row["frame"]))
        assert row["clip_identity"] == pytest.approx(float(first @ here), abs=1e-5)
        assert row["clip_text"] == pytest.approx(float(here @ clip.texts(["a large lesion"])[0]), abs=1e-5)
        if row["frame"]:
            moved = torch.cosine_similarity(here - first, direction, dim=0)
            assert row["clip_directional"] == pytest.approx(float(moved), abs=1e-3)
    assert "clip_text" not in rows(progression, clip=clip)[0]


def test_missing_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothing"):
        Clip.load(f"local-dir:{tmp_path / 'nothing'}")
    with pytest.raises(ValueError, match="open_clip knows no model 'nothing'"):
        Clip.load("nothing")
    with pytest.raises(FileNotFoundError, match="CLIP scores need weights of ViT-B-32"):
        Clip.load("ViT-B-32", "no-such-tag")
