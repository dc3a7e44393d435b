"""The page in a browser: restore, edit, rebuild, judge and answer, on this machine.

    burnish web                                          (opens on http://127.0.0.1:7860, for this machine alone)
    burnish web --host 0.0.0.0 --token SECRET            (for others too: they sign in as burnish with the token)
    burnish web --folder /tmp/burnish --max-megabytes 20

The page runs the same jobs with the same options as the command line. Uploads and results lie in --folder; nothing
else is readable through the page, nothing is loaded from elsewhere, and nothing is reported to anyone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.main import start

    start("web")
from vision.config import cli
from vision.hosts import is_own
from vision.job import Event, Show


@dataclass(frozen=True)
class WebOptions:
    """Open the page."""

    host: str = "127.0.0.1"
    """Address to listen on; another one than this machine's own needs a token."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    token: str | None = None
    """Password of the user "burnish"; None asks for none."""
    folder: Path = Path("runs/web")
    """Uploads and results; those of a visitor are removed an hour after the last use."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto takes a GPU when there is one."""
    max_megabytes: int = 64
    """Refuse larger uploads."""
    max_files: int = 32
    """Refuse more uploads at once."""
    max_pixels: int = 25_000_000
    """Refuse pictures with more pixels than this."""
    max_minutes: float = 30.0
    """Stop what takes longer."""

    def __post_init__(self) -> None:
        if not is_own(self.host) and not self.token:
            raise ValueError(f"On {self.host} others can reach the page; give a --token, or listen on 127.0.0.1.")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must lie in [0, 65535], got {self.port}.")
        for name in ("max_megabytes", "max_files", "max_pixels", "max_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")


def parse(arguments: Sequence[str]) -> WebOptions:
    """Options from the command line."""
    return cli(WebOptions, prog="burnish web", description=__doc__, args=arguments)


def call(options: WebOptions, show: Show) -> None:
    """Serve until it is interrupted."""
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"GRADIO_TEMP_DIR": str((options.folder / "uploads").resolve()), "GRADIO_ANALYTICS_ENABLED": "False"}
    from .page import serve  # gradio reads its settings when it is imported

    with serve(options) as address:
        show(Event("note", f"The page is open on {address}; end it with Ctrl-C."))
        threading.Event().wait()
