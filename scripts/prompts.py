"""Search for a prompt that solves more tasks.

    burnish prompts scl --out runs/review
    burnish prompts pasd --hr photos --out runs/words
    burnish prompts pie --inputs healthy --masks masks --out runs/prompt
    burnish answer --rows questions.jsonl --out answers.jsonl @runs/review/options.txt

The first word is the system; the rest are its options. Writes prompts.json and .csv, which hold how many tasks every
prompt solves, of those that were searched on and of others, and options.txt, which other commands take as @FILE.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("prompts")
from . import dispatch
from .dispatch import Work

SYSTEMS = {
    "scl": Work("reward_vlm.scl.search_prompts", "ReviewSearch", "the review that leaves most answers right"),
    "pasd": Work("restoration.pasd.search_prompts", "WordSearch", "the words that are added to every prompt"),
    "pie": Work("vision.edit.search_prompts", "ConditionSearch", "the prompt that shows a condition"),
}
"""System -> what searches."""
parse, call = dispatch.command("prompts", "to search a prompt for", __doc__ or "", SYSTEMS)
"""The system's module and its options, from the command line; and the command."""
