"""Where the reference tensors lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def golden_root() -> Path:
    """BURNISH_GOLDEN when it is set, else the shared folder beside the project, else the project's own subset."""
    named = os.environ.get("BURNISH_GOLDEN")
    if named:
        root = Path(named).resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"BURNISH_GOLDEN names {root}, which is no folder.")
        return root
    shared = PROJECT.parent / "shared" / "golden"
    return shared if shared.is_dir() else PROJECT / "tests" / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder that holds iter/, metrics/, pasd/ and so on."""
    return golden_root()
