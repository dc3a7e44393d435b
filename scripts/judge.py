"""Judge answers to questions about pictures, with the reasons.

    burnish judge --image photo.png --question "what is in the image ?" --answers "a red object" "a cat"
    burnish judge --variant restoration --question "which picture is less degraded ?" --pictures a.png b.png
    burnish judge --rows questions.jsonl --out judged.jsonl --source org/name --votes 5
    burnish judge --audit --rows pairs.jsonl --out audit.jsonl --source org/name      (is this judge worth asking?)

Rows are JSON objects {question, answers: [texts, or {"image": path}], image? | images? | video?, id?}, one per line;
paths are relative to the file. Results are appended batch by batch: the same command goes on after an interruption,
unless the rows were edited in between. A row that cannot be used is an error that names its number, or is reported and
left out with --skip-bad.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("judge")
from reward_vlm.r1.audit_rows import audit_rows
from reward_vlm.r1.job import JudgeOptions, judge_question, judge_rows
from reward_vlm.r1.judge import PRETRAINED
from vision.job import Event, Show

from . import dispatch
from .terminal import Terminal


def main(options: JudgeOptions, show: Show | None = None) -> int:
    """Judge, and print what came of one question; returns 0, or 2 when rows could not be used."""
    show = show or Terminal()
    if options.audit:
        return audit_rows(options, show).code
    if options.rows is not None:
        return judge_rows(options, show).code
    judged = judge_question(options, show)
    answers, best = options.answers or options.pictures, judged.choice
    lines = [
        f"{'*' if number == best else ' '} {score:.2f}  {answer}"
        for number, (answer, score) in enumerate(zip(answers, judged.scores.tolist(), strict=True))
    ]
    known = lines if judged.choice is not None else []
    show(Event("result", "\n".join([judged.reasoning, *known])))
    return 0


parse = dispatch.single_command("judge", JudgeOptions, __doc__, PRETRAINED / "scenes" / "judge.json")
"""Options from the command line."""
call = main
