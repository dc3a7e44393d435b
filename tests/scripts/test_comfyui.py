"""The nodes for ComfyUI, imported as ComfyUI does, on small real pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.iter import ITEROptions, ITERRestorer

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nodes() -> dict[str, type]:
    path = PROJECT / "examples" / "comfyui" / "__init__.py"
    spec = importlib.util.spec_from_file_location("custom_nodes.burnish", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    return module.NODE_CLASS_MAPPINGS


def run(nodes: dict[str, type], name: str, **given) -> tuple:
    """What a graph gets: a value of every declared type."""
    node = nodes[name]
    asked = node.INPUT_TYPES()["required"]
    assert given.keys() == asked.keys()
    for key, value in given.items():
        assert not isinstance(asked[key][0], list) or value in asked[key][0]
    found = getattr(node(), node.FUNCTION)(**given)
    assert len(found) == len(node.RETURN_TYPES)
    return found


def image(box: tuple[int, int, int, int]) -> torch.Tensor:
    with PIL.Image.open(PROJECT / "examples" / "cat.jpg") as cat:
        return torch.from_numpy(np.asarray(cat.convert("RGB").crop(box)).copy())[None].float() / 255


def test_restore_gives_what_the_restorer_gives_for_every_picture_of_a_batch(nodes):
    batch = torch.cat([image((40, 40, 72, 64)), image((60, 50, 92, 74))])
    (found,) = run(nodes, "BurnishRestore", image=batch, system="iter:photo", seed=3)
    assert found.shape == (2, 96, 128, 3) and 0 <= found.min() and found.max() <= 1
    restorer = ITERRestorer.from_pretrained()
    for picture, made in zip(batch, found, strict=True):
        expected = restorer(picture.permute(2, 0, 1)[None], ITEROptions(seed=3))
        assert torch.allclose(made, expected[0].clamp(0, 1).permute(1, 2, 0), atol=1e-6)


def test_transparency_is_kept_and_what_it_hides_reaches_no_edge(nodes):
    opaque = torch.cat([image((40, 40, 72, 64)), torch.ones(1, 24, 32, 1)], dim=3)
    opaque[:, :, 16:, 3] = 0
    spoiled = opaque.clone()
    spoiled[:, :, 16:, :3] = torch.tensor([0.0, 1.0, 0.0])
    (found,) = run(nodes, "BurnishRestore", image=opaque, system="bicubic", seed=0)
    (other,) = run(nodes, "BurnishRestore", image=spoiled, system="bicubic", seed=0)
    assert found.shape == (1, 96, 128, 4) and torch.equal(found, other)
    assert (found[:, :, :60, 3] == 1).all() and (found[:, :, 68:, 3] == 0).all()


def test_several_pictures_or_channels_where_one_picture_is_meant_cost_a_sentence(nodes):
    one, region = image((0, 0, 64, 64)), torch.ones(1, 64, 64)
    with pytest.raises(ValueError, match="takes one picture with three channels, got 2 with 3"):
        run(nodes, "BurnishProgress", image=one.repeat(2, 1, 1, 1), mask=region, frames=1, seed=0)
    with pytest.raises(ValueError, match="got 2 with 3"):
        run(nodes, "BurnishProgress", image=one, mask=region.repeat(2, 1, 1), frames=1, seed=0)
    with pytest.raises(ValueError, match="got 1 with 4"):
        run(nodes, "BurnishBetter", first=one, second=torch.cat([one, one[..., :1]], dim=3))


def test_progress_begins_with_the_picture_and_keeps_what_is_outside_the_mask(nodes):
    with PIL.Image.open(PROJECT / "examples" / "brain.png") as brain:
        shown = torch.from_numpy(np.asarray(brain.convert("RGB")).copy())[None].float() / 255
    with PIL.Image.open(PROJECT / "examples" / "brain_mask.png") as mask:
        region = torch.from_numpy(np.asarray(mask.convert("L")).copy())[None].float() / 255
    (found,) = run(nodes, "BurnishProgress", image=shown, mask=region, frames=1, seed=0)
    assert found.shape == (2, *shown.shape[1:]) and torch.equal(found[:1], shown)
    assert torch.equal(found[1][region[0] == 0], shown[0][region[0] == 0]) and not torch.equal(found[1], shown[0])


def test_the_better_picture_comes_out_with_its_number(nodes):
    sharp = image((0, 0, 140, 140))
    small = torch.nn.functional.avg_pool2d(sharp.permute(0, 3, 1, 2), 4)
    blurred = torch.nn.functional.interpolate(small, size=(140, 140), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
    found, number = run(nodes, "BurnishBetter", first=blurred, second=sharp)
    assert number == 2 and found is sharp
