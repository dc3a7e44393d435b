"""A duel between one who plants faults and one who finds them, and the faults that are planted in pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vision.duel import duel, payoff
from vision.planted import CONTEXT, FADE, KINDS, UNTAUGHT, plant
from vision.strategies import Candidate


def test_payoffs_are_zero_sum_and_invalid_faults_are_dropped():
    assert payoff(True) == (-1.0, 1.0) and payoff(False) == (1.0, -1.0)
    learnt = []
    game = duel(
        ["a", "bb", "ccc"],
        sneaky=lambda task, round: Candidate(task, (len(task), round), "sneaky"),
        critic=lambda candidate: 2,
        valid=lambda task, candidate: task != "ccc",
        right=lambda candidate, says: candidate.value[0] == says,
        rounds=2,
        learn=lambda bouts: learnt.append(len(bouts)),
    )
    assert game.invalid == 2 and learnt == [2, 2] and game.found(0) == 0.5
    assert [bout.rewards for bout in game.bouts] == [payoff(False), payoff(True)] * 2
    with pytest.raises(ValueError, match="Round 7 has no valid fault"):
        game.found(7)


def test_a_critic_that_learns_finds_more_round_by_round():
    """The critic remembers the kinds of fault that fooled it."""
    known = set()
    game = duel(
        [str(i) for i in range(30)],
        sneaky=lambda task, round: Candidate(task, int(task) % 5, "sneaky"),
        critic=lambda candidate: candidate.value if candidate.value in known else None,
        valid=lambda task, candidate: True,
        right=lambda candidate, says: says == candidate.value,
        rounds=3,
        learn=lambda bouts: known.update(bout.planted.value for bout in bouts[: 2 + len(known)] if not bout.found),
    )
    assert 0 == game.found(0) < game.found(1) < game.found(2)


@pytest.mark.parametrize("kind", [*KINDS, *UNTAUGHT])
def test_a_planted_fault_changes_its_window_and_no_pixel_far_from_it(kind):
    generator = torch.Generator().manual_seed(1)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 40, 40, generator=generator), (168, 168), mode="bicubic")
    picture = (picture.clamp(0, 1) * 255).round() / 255
    made = plant(picture, (1, 2), 56, kind, 0.8, np.random.default_rng(0))
    again = plant(picture, (1, 2), 56, kind, 0.8, np.random.default_rng(0))
    assert torch.equal(made, again) and made.shape == picture.shape and made.min() >= 0 and made.max() <= 1
    changed = (made != picture).any(1)[0]
    inside = torch.zeros_like(changed)
    inside[56:112, 112:168] = True
    assert changed[inside].float().mean() > 0.3 and not changed[~inside].any()
    weak = plant(picture, (1, 2), 56, kind, 0.25, np.random.default_rng(0))
    assert (weak - picture).square().mean() < (made - picture).square().mean()
    assert FADE < CONTEXT


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of blur.*moire, got 'scratch'"):
        plant(torch.zeros(1, 3, 56, 56), (0, 0), 56, "scratch", 0.5, np.random.default_rng(0))
