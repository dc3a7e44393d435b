"""What the published code's two scripts do and write: how they ask each model, and the files that they leave.

Facts that its code decides: pairs are one JSON list with the bare question as prompt, although the file is named
.jsonl (and its save always fails, for a missing import); evaluations are JSON lines. Source: ivy3h/SCL.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from reward_vlm.scl.options import SCLConfig, SCLOptions
from reward_vlm.scl.pairs import Pair, Record
from vision.files import atomic_path

Script = Literal["construction", "evaluation"]


def asked_as_published(model: str, script: Script, review: int | str = 2) -> tuple[SCLConfig, SCLOptions]:
    """How a script of the published code asks a model: configuration and options, one question at a time.

    Args:
        model: minicpm and internlm are sampled at 0.7; llava7b and llava13b see the picture with every turn and say at
            most 256 tokens (their own sampling is left out here: the most probable token is taken).
        script: whose prompts and extractor.
        review: see `reward_vlm.scl.prompts.review`.

    Raises:
        ValueError: the published code has no such model.
    """
    if model not in ("minicpm", "internlm", "llava7b", "llava13b"):
        raise ValueError(f"The published code asks minicpm, internlm, llava7b and llava13b; got {model!r}.")
    llava = model.startswith("llava")
    config = SCLConfig(script, script, image_each_turn=llava, max_new_tokens=256 if llava else 1024)
    return config, SCLOptions((review,), temperature=0.0 if llava else 0.7, batch_size=1)


def preference_list(pairs: Iterable[Pair]) -> list[dict[str, str]]:
    """Pairs as the published code keeps them; build them with `to_pair(record, "bare")`."""
    return [
        {"image": image_name(pair.id), "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in pairs
    ]


def write_preferences(pairs: Sequence[Pair], folder: Path, model: str, dataset: str, review: int | None) -> Path:
    """Write `preference_list` as the published code means to, and return the file."""
    path = folder / f"Preference_Data_{model}_{dataset}_{review}.jsonl"
    with atomic_path(path) as part:
        part.write_text(json.dumps(preference_list(pairs), ensure_ascii=False, indent=4), encoding="utf-8")
    return path


def image_name(id: str) -> str:
    """The file name of a question's picture in the published code's lists."""
    return f"{id}.jpg"


def evaluation_record(index: int, record: Record) -> dict[str, Any]:
    """A record of one review as the published code's inference script writes it."""
    turns = dict(zip(("Q1", "A1", "Q2", "A2"), map(dict, record.turns), strict=True))
    first, final = record.choices
    answers = {"Initial answer": first, "Refined answer": final, "Correct answer": record.gold}
    return {"index": index, **turns, **answers, "Type": record.type}


def evaluation_file(model: str, dataset: str, review: int | None, questions: int) -> str:
    """The name of the inference script's file; `questions` is the number that was asked for."""
    return f"QAs_{model}_{dataset}_{review}_{questions}.jsonl"
