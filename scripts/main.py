"""The command `burnish`: one word says what to do, and each has its own help.

burnish restore examples/cat.jpg --out restored
burnish restore --help
burnish train iter --recipe mini --help
burnish restore photos --out restored @runs/words/options.txt       (options out of a file, a word a line)
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from vision.job import Show

COMMANDS = {
    "restore": "restore images, larger and cleaner (ITER, PASD)",
    "edit": "simulate how a condition progresses in a picture (PIE)",
    "reconstruct": "rebuild a 3D object from pictures, or improve a mesh (GTR)",
    "judge": "judge answers to questions about pictures, with reasons (R1-Reward)",
    "answer": "answer questions about pictures, and review the answers (SCL)",
    "train": "train a system's weights",
    "evaluate": "measure a system",
    "benchmark": "time a system's inner loops",
    "prompts": "search for a prompt that solves more tasks",
    "convert": "turn published checkpoints into folders that this project loads",
    "serve": "serve a judge to other programs, over HTTP",
    "web": "open a page in the browser for all of this",
    "completion": "print a script that completes these words in your shell (bash, zsh, tcsh)",
}


def overview() -> str:
    """What `burnish --help` prints."""
    lines = [f"  {name:12} {purpose}" for name, purpose in COMMANDS.items()]
    return f"{__doc__}\ncommands:\n" + "\n".join(lines) + "\n\nburnish COMMAND --help tells each command's options.\n"


def with_files(words: Sequence[str]) -> list[str]:
    """The words of a command line, and where one says @FILE.txt, those of the file: one a line.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from vision.files import read_text

    found: list[str] = []
    for word in words:
        if word.startswith("@") and word.endswith(".txt"):
            path = Path(word[1:])
            if not path.is_file():
                raise FileNotFoundError(f"There is no file of options {path}.")
            found += [line for line in read_text(path).splitlines() if line]
        else:
            found.append(word)
    return found


def start(command: str | None = None) -> NoReturn:
    """The process of a command; the first argument names it unless it is given."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed by who started the process
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
    arguments = sys.argv[1:] if command is None else [command, *sys.argv[1:]]
    name = arguments[0] if arguments else "nothing"
    if name in ("-h", "--help"):
        sys.stdout.write(overview())
        raise SystemExit(0)
    if name not in COMMANDS:
        sys.stderr.write(f"The first word must be a command ({', '.join(COMMANDS)}), got {name!r}.\n")
        raise SystemExit(2)
    gc.disable()
    terminal = importlib.import_module(f"{__package__}.terminal")
    with closing(terminal.Terminal()) as show:
        try:
            terminal.run(lambda: _work(name, arguments[1:], show))
        finally:
            gc.freeze()  # the process ends: nothing is to be looked through once more


def _work(name: str, words: Sequence[str], show: Show) -> int | None:
    """Do what a command line says; returns the exit code.

    Garbage is collected from where the options are known: the modules loaded until then stay, and looking through them
    again and again, and once more at the end, took a sixth of the time of a small job.
    """
    try:
        command = importlib.import_module(f"{__package__}.{name}")
        options = command.parse(with_files(words))
    finally:
        gc.freeze()
        gc.enable()
    return command.call(options, show)
