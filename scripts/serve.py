"""Serve a model to other programs, over HTTP.

    burnish serve judge                                       (on this machine alone, port 8010)
    burnish serve judge --source org/name --device cuda --dtype bfloat16
    burnish serve judge --host 0.0.0.0                        (needs a token in the environment variable BURNISH_TOKEN)

The first word is what is served; the rest are its options.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from scripts.main import start

    start("serve")
from . import dispatch
from .dispatch import Work

SYSTEMS = {"judge": Work("reward_vlm.serve", "ServeOptions", "rankings of answers, and the OpenAI chat protocol")}
"""What is served -> by what."""
parse, call = dispatch.command("serve", "to serve", __doc__ or "", SYSTEMS)
"""The module and its options, from the command line; and the command."""
