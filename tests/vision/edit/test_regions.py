"""Regions, confidence, evaluation, labels and tables of numbers around the editor."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
import pytest
import torch

from vision.edit import ClassifierConfig, Confidence, PIEOptions, labels, masks
from vision.edit.auc import area_under_curve
from vision.edit.confidence import densenet121
from vision.edit.difference import prompt_difference
from vision.edit.measures import bound, rows, spearman, summary
from vision.edit.report import write_report


def test_shapes_cover_what_they_say():
    assert masks.box(10, 20, 0.5, 0.2, 1.0, 0.4).sum() == 2 * 10
    area = float(masks.ellipse(200, 100, 0.5, 0.5, 0.25, 0.25).mean())
    assert abs(area - math.pi * 0.25**2) < 1e-3
    image = PIL.Image.fromarray(np.array([[0, 100], [200, 255]], dtype=np.uint8))
    assert masks.threshold(image, 0.3, 0.9)[0, 0].tolist() == [[0, 1], [1, 0]]
    joined = masks.join([masks.box(4, 4, 0, 0, 0.5, 1), masks.box(4, 4, 0.5, 0, 1, 1)])
    assert joined.min() == 1


def test_feathering_keeps_the_amount_and_softens_the_edge():
    region = masks.box(64, 64, 0.4, 0.4, 0.6, 0.6)
    soft = masks.feather(region, 2.0)
    torch.testing.assert_close(soft.sum(), region.sum(), rtol=1e-4, atol=0)
    assert torch.equal(masks.feather(region, 0), region) and ((soft > 0.1) & (soft < 0.9)).any()


@pytest.mark.parametrize("make", [lambda: masks.box(8, 8, 0.5, 0, 0.4, 1), lambda: masks.ellipse(8, 8, 2, 2, 0.1, 0.1)])
def test_shapes_without_pixels_are_refused(make):
    with pytest.raises(ValueError, match="pixel inside"):
        make()


NAN = math.nan


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: masks.box(8, 8, NAN, 0, 1, 1), "A box needs .* got nan 0 1 1"),
        (lambda: masks.ellipse(8, 8, 0.5, 0.5, NAN, 1), "An ellipse needs .* radii nan 1"),
        (lambda: masks.ellipse(8, 8, NAN, 0.5, 1, 1), "An ellipse needs .* centre nan"),
        (lambda: masks.threshold(PIL.Image.new("L", (2, 2)), 0.9, 0.1), "lower and a higher value, got 0.9 0.1"),
        (lambda: masks.threshold(PIL.Image.new("L", (2, 2)), NAN, NAN), "lower and a higher value, got nan nan"),
        (lambda: masks.feather(torch.ones(1, 1, 4, 9), 1e9), r"lie in \[0, 9\] pixels here, got 1e\+09"),
        (lambda: masks.feather(torch.ones(1, 1, 4, 9), NAN), "got nan"),
    ],
)
def test_numbers_that_make_no_region_are_told(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_latent_masks_are_the_middle_of_each_block():
    pixels = np.random.RandomState(0).randint(0, 256, (16, 24, 3), dtype=np.uint8)
    found = masks.to_latents(PIL.Image.fromarray(pixels), 8)
    for i, j, c in np.ndindex(2, 3, 3):
        block = pixels[8 * i + 3 : 8 * i + 5, 8 * j + 3 : 8 * j + 5, c].astype(int)
        assert found[0, c, i, j] == torch.tensor((block.sum() + 2) // 4) / 255
    assert torch.equal(found[:, 3], found[:, 0])


def test_difference_of_prompts_is_a_region(editor, image):
    found = prompt_difference(editor, image, "a picture,healthy", "a picture,ill", maps=2)
    assert found.shape == (1, 1, 32, 32) and set(found.unique().tolist()) <= {0.0, 1.0}
    assert not prompt_difference(editor, image, "a picture,ill", "a picture,ill", maps=2).any()


def test_published_classifiers_load(tmp_path):
    from safetensors.torch import save_file

    network = densenet121()
    save_file(network.state_dict(), tmp_path / "classifier.safetensors")
    loaded = Confidence.from_pretrained(tmp_path / "classifier.safetensors")
    images = torch.rand(1, 3, 40, 50)
    wanted = Confidence(network.eval(), ClassifierConfig())(images)
    assert torch.equal(loaded(images), wanted) and loaded.network.features.norm0.momentum == 0.01


def test_the_nearly_sure_are_told_apart(monkeypatch):
    confidence = Confidence(torch.nn.Identity(), ClassifierConfig("small", 32))
    monkeypatch.setattr(confidence, "logits", lambda images: images.mean(dim=(1, 2, 3)))
    found = confidence(torch.tensor([18.0, 20.0, 22.0]).view(3, 1, 1, 1))
    assert (found.diff() > 0).all() and (found < 1).all()


def test_area_under_curve_counts_pairs():
    scores, positive = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.35]), torch.tensor([0, 0, 1, 1, 0])
    assert area_under_curve(scores, positive) == pytest.approx(4.5 / 6)
    with pytest.raises(ValueError, match="positive and negative"):
        area_under_curve(scores, torch.ones(5))


def test_the_report_measures_what_changed(editor, image, square, tmp_path):
    options = PIEOptions(frames=2, steps=4, paste_outside=True)
    found = editor.simulate(editor.start(image, mask=square, options=options))
    table = rows(found)
    assert [row["frame"] for row in table] == [0, 1, 2]
    assert table[0]["change_inside"] == 0 and table[-1]["change_inside"] > 0
    assert all(row["change_outside"] == 0 for row in table)
    told = summary(table)
    assert told["confidence_final"] == table[-1]["confidence"] and told["trajectories"] == 1
    limits = bound(found)
    assert limits.distances[0] == pytest.approx(limits.steps[0])
    names = {path.name for path in write_report(tmp_path, found, table)}
    assert names == {"frames.json", "frames.csv", "report.png", "progression.gif"}
    assert all((tmp_path / name).stat().st_size for name in names)


def test_spearman_is_of_ranks():
    assert spearman([0, 1, 2], [1.0, 10.0, 11.0]) == pytest.approx(1.0)
    assert spearman([0, 1, 2], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert spearman([0, 1, 2], [1.0, 1.0, 1.0]) == 0.0


def test_tables_without_a_column_are_refused():
    with pytest.raises(ValueError, match="lacks the column 'level'"):
        labels.retinopathy(["image", "1_left"])
    with pytest.raises(ValueError, match="diagnosis 'other'"):
        labels.skin(["image_id,dx", "ISIC_1,other"])
