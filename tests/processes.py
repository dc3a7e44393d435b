"""Processes that tests kill."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path


def killed_at(process: subprocess.Popen, folder: Path, count: int) -> dict[str, int]:
    """Kill a process when `count` pictures lie in its folder; names of those that lie there then, and their times."""
    while len(list(folder.glob("*.png"))) < count:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
