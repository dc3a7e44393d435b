"""What other libraries say and raise while they load files: one sentence, and no bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from vision.config import one_line
from vision.signals import check_signals


class library_errors:
    """What diffusers, transformers, tokenizers and safetensors raise inside, as a ValueError of one sentence.

    Their ways of refusing a file range from AttributeError to Exception itself. A signal that a library turned into an
    error stays one.

    Args:
        what: how the sentence begins, such as "folder does not load".
    """

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (kind is Exception or isinstance(error, _raised_by_libraries())):
            check_signals()
            reason = f"it lacks the entry {error}" if isinstance(error, KeyError) else one_line(str(error))[:300]
            raise ValueError(f"{self.what}: {reason.rstrip('.') or kind.__name__}.") from error


@contextmanager
def silent() -> Iterator[None]:
    """Without messages and progress bars of those of diffusers and transformers that are in use."""
    found = [sys.modules.get(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    found = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in found if logging]
    for logging, _, _ in found:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level, bars in found:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


def _raised_by_libraries() -> tuple[type[Exception], ...]:
    """Everything but Exception itself that the libraries were seen to raise about a file."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    python = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError)
    return (*python, OSError, RuntimeError, TypeError, ValueError, SafetensorError, StrictDataclassError)
