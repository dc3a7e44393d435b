"""Look ahead before an edit is taken: several tries of a frame, each followed a little further, and the best is kept.

After ReARTeR (arXiv 2501.07861): what a step is worth is corrected by where it leads (`vision.strategies.lookahead`);
the classifier's logits are the values. As in its published code, later steps look ahead by one only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vision.edit.progression import Frame, Run
from vision.refine import PerItem, clone_items, put_items, take_items
from vision.strategies.lookahead import td_lookahead

FAR = 3
"""Frames that look as far as they are asked to; the others look ahead by one."""
SURE = 1e-12
"""Nearest that a probability comes to 0 and 1 before its logit is taken."""
Next = Callable[[Run, Frame, int], Frame]
"""Frame `number` of a run from the one before it."""


def best_next(run: Run, frame: Frame, number: int, make: Next) -> Frame:
    """Frame `number` of a run: for every picture the try whose look-ahead is worth most, of equal ones the first.

    The first try draws the noise that is drawn without a look-ahead.

    Args:
        run: with a classifier, and with the tries and the look-ahead in its options.
        frame: the one before.
        number: from 1.
        make: a frame from the one before.
    """
    options = run.options
    depth = options.look_ahead if number <= FAR else min(options.look_ahead, 1)
    last = min(number + depth, options.frames)
    made, worth = [], []
    for attempt in range(options.tries):
        began = Frame(**{**vars(clone_items(frame)), "generators": noise(frame.generators, number, attempt)})
        made.append(make(run, began, number))
        values, further = [logits(run, made[-1])], made[-1]
        for later in range(number + 1, last + 1):
            further = make(run, further, later)
            values.append(logits(run, further))
        worth.append([td_lookahead(list(row)) for row in torch.stack(values, 1).tolist()])
    kept = made[0]
    for item in range(len(frame.items)):
        best = max(range(len(made)), key=lambda attempt: (worth[attempt][item], -attempt))
        if best:
            place = torch.tensor([item])
            kept = put_items(kept, place, take_items(made[best], place))
    return kept


def logits(run: Run, frame: Frame) -> Tensor:
    """(b,) float64 logits of how sure the classifier is."""
    sure = run.score(frame.images).double().cpu().clamp(SURE, 1 - SURE)
    return torch.logit(sure)


def noise(generators: PerItem[torch.Generator], number: int, attempt: int) -> PerItem[torch.Generator]:
    """Of every picture in a try of a frame: its own for the first, else others that follow from its seed."""
    if attempt == 0:
        return clone_items(generators)
    far = 1_000_003 * (1000 * number + attempt)
    return PerItem(torch.Generator().manual_seed((own.initial_seed() + far) % 2**63) for own in generators)
