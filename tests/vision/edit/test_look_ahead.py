"""Several tries of an edit, each followed a little further: which one is taken, and that runs stay reproducible."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.vision.edit.conftest import picture
from vision.edit import PIEOptions
from vision.edit.look_ahead import best_next, noise
from vision.edit.progression import Frame, Run
from vision.edit.repair import mended
from vision.refine import item_generators
from vision.strategies.lookahead import td_lookahead

QUICK = PIEOptions(frames=3, steps=4, seed=3)


def brightness(images):
    return images.mean(dim=(1, 2, 3))


def scripted(tables, options, asked):
    """A run of as many pictures as tables; table[attempt] has the logits of a try and of the frames after it."""
    batch = len(tables)
    nothing = torch.zeros(batch)
    start = Frame(
        torch.full((batch, 3, 1, 1), -1.0), None, nothing, torch.arange(batch), item_generators(0, batch), nothing
    )
    attempts = iter(range(100))

    def make(run, frame, number):
        asked.append(number)
        if number == 1:
            attempt = next(attempts)
            codes = torch.full((batch,), float(attempt * 10))
        else:
            codes = frame.images[:, 0, 0, 0] + 1
        return replace(frame, images=codes.view(-1, 1, 1, 1).expand(-1, 3, 1, 1))

    def score(images):
        codes = images[:, 0, 0, 0].long().tolist()
        logits = [tables[item][code // 10][code % 10] for item, code in enumerate(codes)]
        return torch.tensor(logits, dtype=torch.float64).sigmoid()

    return Run(torch.zeros(batch, 3, 1, 1), None, None, options, score), start, make


def test_every_picture_gets_the_try_that_leads_furthest_by_the_published_rule():
    tables = [
        [[0.0, 0.1, 0.2], [-0.5, 1.0, 3.0], [0.3, 0.31, 5.0]],  # the last one's look-ahead ends at once
        [[2.0, 1.0, 0.0], [0.0, 0.2, 0.4], [1.0, 1.1, 1.2]],
    ]
    asked = []
    run, start, make = scripted(tables, PIEOptions(frames=3, look_ahead=2, tries=3), asked)
    kept = best_next(run, start, 1, make)
    best = [max(range(3), key=lambda attempt: td_lookahead(table[attempt])) for table in tables]
    assert best == [1, 0] and kept.images[:, 0, 0, 0].tolist() == [10.0 * number for number in best]
    assert asked == [1, 2, 3] * 3


def test_nothing_is_made_beyond_the_last_frame_and_late_frames_look_ahead_by_one():
    asked = []
    run, start, make = scripted([[[0.0, 0.0]] * 2], PIEOptions(frames=1, look_ahead=5, tries=2), asked)
    best_next(run, start, 1, make)
    assert asked == [1, 1]
    asked.clear()
    options = PIEOptions(frames=9, look_ahead=3, tries=1)
    later = lambda run, frame, number: asked.append(number) or frame  # noqa: E731
    still = replace(start, images=torch.zeros(1, 3, 1, 1))
    best_next(replace(run, options=options), still, 4, later)
    assert asked == [4, 5]


def test_one_try_is_the_run_without_a_look_ahead(editor, image, square):
    options = replace(QUICK, look_ahead=2, tries=1)
    looked = [
        step.state.images
        for step in editor.run_steps(editor.start(image, mask=square, options=options, score=brightness))
    ]
    plain = [step.state.images for step in editor.run_steps(editor.start(image, mask=square, options=QUICK))]
    assert len(looked) == 3 and all(map(torch.equal, looked, plain))


def test_a_look_ahead_is_reproducible_and_a_resumed_run_is_the_straight_one(editor):
    images = [picture(0), picture(1)]
    options = replace(QUICK, look_ahead=1, tries=3)
    run = editor.start(images, options=options, score=brightness)
    straight = list(editor.run_steps(run))
    resumed = list(editor.run_steps(run, straight[0]))
    assert [step.at for step in resumed] == [2, 3] and torch.equal(resumed[-1].state.images, straight[-1].state.images)
    alone = list(editor.run_steps(editor.start(images[0], options=options, score=brightness)))
    torch.testing.assert_close(alone[-1].state.images[0], straight[-1].state.images[0], rtol=0, atol=1.01 / 255)
    plain = list(editor.run_steps(editor.start(images, options=QUICK, score=brightness)))
    assert not torch.equal(plain[-1].state.images, straight[-1].state.images)


def test_tries_draw_other_noise_of_every_picture_and_the_first_its_own():
    own = item_generators(5, 2)
    first, second, again, later = (
        [torch.randn(3, generator=one).tolist() for one in noise(own, number, attempt)]
        for number, attempt in ((1, 0), (1, 1), (1, 1), (2, 1))
    )
    assert first == [torch.randn(3, generator=one).tolist() for one in item_generators(5, 2)]
    assert second == again and len({str(draw) for draw in (*first, *second, *later)}) == 6


def test_a_frame_that_the_classifier_likes_less_is_made_anew_and_the_better_one_kept():
    """Three pictures: one gains, one loses and its second try is better, one loses and its second try is worse."""
    run, start, _ = scripted([[[0.0]]] * 3, PIEOptions(frames=1), [])
    table = {-1: [1.0, 1.0, 1.0], 0: [2.0, 0.0, 0.0], 1: [9.0, 0.5, -1.0]}
    asked = []

    def score(images):
        codes = images[:, 0, 0, 0].tolist()
        return torch.tensor([table[round(code)][round(10 * (code - round(code)))] for code in codes]).double().sigmoid()

    def code(attempt, items):
        return (attempt + items.double() / 10).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)

    def make(run, frame, number):
        asked.append(frame.items.tolist())
        return replace(frame, images=code(1, frame.items))

    run = replace(run, score=score)
    start = replace(start, images=code(-1, start.items))
    kept = mended(run, start, replace(start, images=code(0, start.items)), 1, make)
    assert asked == [[1, 2]] and kept.images[:, 0, 0, 0].round().tolist() == [0, 1, 0]
    best = replace(start, images=code(0, start.items[:1].expand(3)))
    assert mended(run, start, best, 1, make) is best and len(asked) == 1


def test_a_repaired_run_is_never_below_the_plain_one_in_its_first_frame(editor):
    images = [picture(i) for i in range(3)]
    plain, repaired = (
        next(iter(editor.run_steps(editor.start(images, options=replace(QUICK, repair=repair), score=brightness))))
        for repair in (False, True)
    )
    assert (repaired.score >= plain.score).all()
    fell = plain.score < brightness(editor.start(images, options=QUICK).original)
    same = (repaired.state.images == plain.state.images).flatten(1).all(1)
    assert same[~fell].all()


def test_a_look_ahead_needs_a_classifier_and_sensible_numbers(editor, image):
    editor.classifier = None
    with pytest.raises(ValueError, match="look_ahead needs a classifier"):
        editor.start(image, options=replace(QUICK, look_ahead=1))
    with pytest.raises(ValueError, match="look_ahead must be at least 0, tries at least 1"):
        PIEOptions(look_ahead=1, tries=0)
