"""Rendered scenes and spoiled photographs: labels are right by construction, items depend on their number alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from reward_vlm import photo_pairs
from reward_vlm.photo_pairs import PhotoPairs, level
from reward_vlm.r1.rewards import rule_consistency
from reward_vlm.scenes import GROUNDS, OBJECTS, scene_corpus, scene_pair, scene_pairs
from reward_vlm.tiny import build_tokenizer
from vision.faults import KINDS, spoil
from vision.strategies.best import best_of


@pytest.fixture
def photos(tmp_path):
    """Pictures with structure: sums of waves and edges."""
    y, x = np.mgrid[0:96, 0:128].astype(np.float32)
    paths = []
    for number in range(2):
        waves = np.stack([np.sin(x / (2 + number + c)) + np.sign(np.sin(y / (5 + c))) for c in range(3)], -1)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray((127 + 50 * waves).clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def test_scenes_have_the_colours_that_the_better_answer_says():
    for pair in scene_pairs(11, 40):
        words = pair.answers[pair.better - 1].split()
        colour, ground = words[1], words[-1]
        pixels = np.asarray(pair.images[0], dtype=float)
        border = np.concatenate([pixels[0], pixels[-1]])
        assert min(GROUNDS, key=lambda name: np.abs(np.median(border, 0) - GROUNDS[name]).sum()) == ground
        away = np.abs(pixels - GROUNDS[ground]).sum(2)
        inside = np.median(pixels[away > np.quantile(away, 0.9)], 0)
        assert min(OBJECTS, key=lambda name: np.abs(inside - OBJECTS[name]).sum()) == colour
        wrong = pair.answers[2 - pair.better].split()
        assert (wrong[1] != colour) + (wrong[-1] != ground) == 1
        text = f"<think>{pair.rationale}</think><answer>{pair.better}</answer>"
        assert rule_consistency([text]) == [1]


def test_items_depend_on_seed_and_number_alone():
    assert scene_pair(1, 5) == scene_pairs(1, 3, start=4)[1]
    assert scene_pair(1, 5) != scene_pair(2, 5)
    better = [pair.better for pair in scene_pairs(0, 200)]
    assert 70 < better.count(1) < 130


def test_a_swayed_writer_sees_what_answer_1_says_where_colours_differ():
    right, swayed = scene_pairs(1, 200), scene_pairs(1, 200, swayed=0.6)
    assert right == scene_pairs(1, 200, swayed=0.0)
    misled = 0
    for true, told in zip(right, swayed, strict=True):
        assert (true.images, true.answers, true.question) == (told.images, told.answers, told.question)
        assert rule_consistency([f"<think>{told.rationale}</think><answer>{told.better}</answer>"]) == [1]
        if told != true:
            misled += 1
            first, second = (answer.split() for answer in told.answers)
            assert first[1] != second[1] and (true.better, told.better) == (2, 1)
            assert told.rationale.startswith(f"image : {first[1]} {first[-1]} .")
    assert 15 < misled < 45  # 0.6 of the quarter with the better answer second and colours that differ


def test_every_word_of_the_scenes_but_the_first_is_one_token():
    tokenizer = build_tokenizer(scene_corpus())
    pair = scene_pair(0, 0)
    said = f"<think>{pair.rationale}</think><answer>{pair.better}</answer>"
    assert len(tokenizer(said)["input_ids"]) == len(pair.rationale.split()) + 6
    assert tokenizer.decode(tokenizer(said)["input_ids"], skip_special_tokens=True) == said


def test_spoiled_photographs_are_as_bad_as_they_are_said_to_be(photos):
    pairs = PhotoPairs(photos, seed=3)
    assert pairs(4).read_answers() == PhotoPairs(photos, seed=3)(4).read_answers()
    assert {pairs(number).better for number in range(20)} == {1, 2}
    crop = Image.open(photos[0]).crop((0, 0, 56, 56))
    clean = np.asarray(crop, dtype=float)
    for kind in KINDS:
        errors = [
            np.square(np.asarray(spoil(crop, kind, s, np.random.default_rng(0)), dtype=float) - clean).mean()
            for s in (0.0, 0.3, 0.6, 0.9)
        ]
        assert errors[0] == 0 and errors == sorted(errors)
    words = [level(s) for s in np.arange(0, 1.01, 0.01)]
    assert set(words) == set(photo_pairs.LEVELS)
    assert all(level(s) != level(s + photo_pairs.GAP) for s in np.arange(0.005, 0.7, 0.01))
    with pytest.raises(ValueError, match="at least one photograph"):
        PhotoPairs([], 0)


def test_best_of_keeps_what_wins():
    made = []
    found = best_of(lambda seed: made.append(seed) or seed * 7 % 10, lambda a, b: a > b, range(1, 6))
    assert found == 8 and made == [1, 2, 3, 4, 5]
    assert best_of(lambda seed: seed, lambda a, b: True, [3]) == 3
    with pytest.raises(ValueError, match="at least one"):
        best_of(lambda seed: seed, lambda a, b: True, [])
