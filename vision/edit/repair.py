"""A frame that makes the classifier less sure than the frame before is made anew, and the better one is kept.

After GLoRe (arXiv 2402.10963): scores of steps say where a draft went wrong, the step is made again from there, and the
score ranks both (`vision.strategies.repair`). A progression whose confidence falls is mended where it falls, instead of
being made again as a whole.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vision.edit.look_ahead import Next, logits, noise
from vision.edit.progression import Frame, Run
from vision.refine import Verdict, put_items, take_items
from vision.strategies import Candidate
from vision.strategies.repair import first_bad, refine_and_rerank


def mended(run: Run, frame: Frame, made: Frame, number: int, make: Next) -> Frame:
    """Frame `number` of a run, with other noise for the pictures whose classifier is less sure of it than before.

    Args:
        run: with a classifier.
        frame: the one before.
        made: a draft of frame `number`; no picture gets one of which the classifier is less sure.
        number: from 1.
        make: a frame from the one before.
    """
    gains = (logits(run, made) - logits(run, frame)).tolist()
    bad = [item for item, gain in enumerate(gains) if first_bad([gain], 0.0) is not None]
    if not bad:
        return made
    place = torch.tensor(bad)
    part = take_items(frame, place)
    again = make(run, replace(part, generators=noise(part.generators, number, 1)), number)
    scores = {"draft": logits(run, take_items(made, place)).tolist(), "again": logits(run, again).tolist()}
    for row, item in enumerate(bad):
        choice = refine_and_rerank(
            Candidate(str(item), row, "draft"),
            [lambda draft: replace(draft, origin="again")],
            lambda candidate: Verdict(scores[candidate.origin][candidate.value]),
        )
        if choice.chosen:
            made = put_items(made, torch.tensor([item]), take_items(again, torch.tensor([row])))
    return made
