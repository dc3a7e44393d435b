"""What was decided about pictures: in a line for people, in run.json, and in the trace of choices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.refine import Verdict
from vision.strategies import Candidate, Choice, Cost, write_choices
from vision.strategies.values import score_of


def line(plan: Any, parts: Any, picked: Choice | None) -> str:
    """What was decided about a picture, for people; empty: nothing.

    Args:
        plan: which restorer it got; None: the one that was asked for.
        parts: which of its parts got something else; None: none did.
        picked: which of several results was kept; None: there was one.
    """
    said = [str(part) for part in (plan, parts) if part is not None]
    if picked is not None:
        said.append(f"{picked.why}, seed {picked.kept.seed} kept")
    return "; ".join(said)


def told(system: str, plan: Any, parts: Any, picked: Choice | None) -> dict[str, Any]:
    """The same for run.json; `system` is the one that was asked for."""
    if plan is None and parts is None and picked is None:
        return {}
    names = ("need", "system", "why", "chance", "facts")
    found = {"system": system, "chance": 1.0, "facts": {}, "why": ""}
    found |= {} if plan is None else {name: getattr(plan, name) for name in names}
    facts = {**found["facts"], **({} if parts is None else parts.numbers)}
    why = "; ".join(filter(None, (found["why"], line(None, parts, picked))))
    found |= {"why": why, "facts": facts}
    if picked is None:
        return found
    pairs = zip(picked.candidates, picked.verdicts, strict=True)
    tried = [{"seed": c.seed, "seconds": round(c.cost.seconds, 3), "score": _number(v)} for c, v in pairs]
    return found | {"tried": tried, "kept_seed": picked.kept.seed}


def trace(out: Path, items: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the trace of choices about all pictures that are done; what it says of others stays.

    Args:
        out: folder of the results.
        items: what run.json tells of pictures, by their names.
    """
    chosen = [_choice(out, name, item) for name, item in items.items() if "chance" in item]
    if chosen:
        write_choices(out, chosen, anew=True)


def _number(verdict: Verdict) -> float | None:
    """The score as JSON has it; None: there is none that wins."""
    score = score_of(verdict)
    return score if math.isfinite(score) else None


def _choice(out: Path, name: str, item: Mapping[str, Any]) -> Choice:
    system, why, facts = item["system"], item["why"], item["facts"]
    if "tried" not in item:
        made = Candidate(name, out / name, system, Cost(item["seconds"], 1))
        return Choice(name, (made,), (Verdict(item["chance"]),), 0, why, facts)
    tried = item["tried"]
    place = next(number for number, one in enumerate(tried) if one["seed"] == item["kept_seed"])
    made = tuple(
        Candidate(name, out / name if number == place else None, system, Cost(one["seconds"], 1), one["seed"])
        for number, one in enumerate(tried)
    )
    return Choice(name, made, tuple(Verdict(one["score"]) for one in tried), place, why, facts)
