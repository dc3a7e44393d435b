"""Answer multiple-choice questions about pictures, and let the model review its answers.

    burnish answer --image photo.jpg --question "what colour is the car ?" --choices red blue green
    burnish answer --image a.png --question "..." --choices yes no --reviews 0 2 --rounds 2 --accept better
    burnish answer --rows questions.jsonl --out answers.jsonl --source org/name

Rows are JSON objects {question, options: {"A": text, ...}, image? | images?, answer?, id?, source?}, one per line;
paths are relative to the file, and where the right answer is given, right ones are counted. Results are appended batch
by batch: the same command goes on after an interruption, unless the rows were edited in between. A row that cannot be
used is an error that names its number, or is reported and left out with --skip-bad.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("answer")
from reward_vlm.scl.corrector import PRETRAINED
from reward_vlm.scl.job import AnswerOptions, answer_question, answer_rows
from vision.job import Event, Show

from . import dispatch
from .terminal import Terminal


def main(options: AnswerOptions, show: Show | None = None) -> int:
    """Answer, and print what came of one question; returns 0, or 2 when rows could not be used."""
    show = show or Terminal()
    if options.rows is not None:
        return answer_rows(options, show).code
    talk = answer_question(options, show)
    for name, answer in (("first", talk.first), ("final", talk.final)):
        show(Event("result", f"{name}: {talk.read(answer)}\n  {answer.text.strip()}"))
    return 0


parse = dispatch.single_command("answer", AnswerOptions, __doc__, PRETRAINED / "corrector.json")
"""Options from the command line."""
call = main
