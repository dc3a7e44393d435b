"""Old checkpoints of torch, read without running what they hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

STARTS = (b"\x80", b"PK")
"""First bytes of pickled files (from protocol 2 on), and of zip files with one inside."""


def read_pickled(path: Path) -> Any:
    """What a pickled file holds, as long as that is tensors and plain containers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no checkpoint, or holds code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is an empty file.")
    with path.open("rb") as file:
        if not file.read(2).startswith(STARTS):
            raise ValueError(f"{path} is no checkpoint of torch: it begins neither as a pickle nor as a zip file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} was refused: it holds objects other than tensors, which could run code.") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path} is damaged or no checkpoint of torch ({type(error).__name__}: {reason}).") from error
