"""Damaged files, rows, replies and options through everything that reads: a result or a sentence, nothing else.

    python -m tests.fuzz --count 30000 --seed 0
    python -m tests.fuzz --count 2000 --only meshes --folder /tmp/damaged

Every case is a sample that reads well, changed at random places; case n of a reader depends on (seed, reader, n)
alone. A case is good when the reader returns, or raises what the commands turn into one sentence (ValueError, TypeError
of options, OSError, a missing package); within five seconds of processor time, and in less than two gigabytes.
With `--folder` the damaged inputs of bad cases are kept.
"""

from __future__ import annotations

import contextlib
import faulthandler
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from vision.config import one_line

SECONDS = 5.0
BYTES = 2 << 30
GROWTH = 1 << 30
"""What a case may take where the process was larger than `BYTES` less this before it."""
SENTENCES = (ValueError, OSError, ModuleNotFoundError)
"""What a reader may raise; see `scripts.terminal.run`."""


@dataclass(frozen=True)
class Reader:
    """Something that reads what people bring."""

    samples: Callable[[Path], list[Any]]
    """Makes what reads well, once, given a folder for files: bytes, text or JSON values."""
    read: Callable[[Any, Path], object]
    """Reads a changed sample; the second argument is a folder for its file."""
    change: Callable[[random.Random, Any, list[Any]], Any]
    """Changes a sample, given all of them."""
    share: float = 1.0
    """Of the cases, compared with the other readers."""
    alike: bool = False
    """Whether all samples are parts of one input."""


@dataclass(frozen=True)
class Bad:
    """A case that is neither a result nor a sentence."""

    reader: str
    """Name of the reader."""
    number: int
    """Of the case."""
    reason: str
    """What happened instead."""
    place: str
    """Where: the last lines of the trace that lie in this project."""


class TooLong(BaseException):
    """The time is over."""


# ---- changing


NASTY_BYTES = [b"\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0" * 16, b"\n", b'"']


def change_bytes(random: random.Random, sample: bytes, others: list[bytes]) -> bytes:
    """Up to four damages: bits, runs, lengths, cuts, repetitions, parts of other samples."""
    data = bytearray(sample)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = min(int(random.choice((random.random(), random.random() ** 4)) * len(data)), max(len(data) - 1, 0))
        size = random.choice((1, 2, 4, 8, 64, 1024))
        kind = random.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[at : at + size] = random.randbytes(size)
        elif kind == 2:
            nasty = random.choice(NASTY_BYTES)
            data[at : at + len(nasty)] = nasty
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + size]
        elif kind == 5:
            data[at:at] = data[at : at + size] * random.choice((1, 2, 100))
        elif kind == 6:
            data[at:at] = random.choice(NASTY_BYTES) * random.choice((1, 50))
        else:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + size]
    return bytes(data)


NASTY_NUMBERS = [
    0,
    -1,
    1,
    2,
    2**31,
    -(2**31),
    2**63,
    10**400,
    -(10**400),
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    1e-320,
]
NASTY_TEXTS = [
    "", " ", "\0", "a\0b", "x" * 20000, "9" * 5000, "é" * 300, "\ud800", "../../../etc/passwd", "/dev/zero", "/", ".",
    "~", "http://127.0.0.1:1/x.png", "file:///etc/passwd", "data:,", "\x1b[31m", "nan", "1e999", "null", "<image>",
    "<|im_end|>", "a" * 300 + ".png", "con", "%2e%2e/x", "\n", "\u202e", "{}", "[", "[" * 3000, "-" * 100, "--",
]  # fmt: skip


def nasty(random: random.Random) -> Any:
    """A value that nobody meant."""
    deep: Any = []
    for _ in range(random.choice((1, 300))):
        deep = [deep]
    many = [[0] * 100, list(range(3)), [None], [[]], {"a": {"b": 1}}, {}, [], deep]
    return random.choice(
        [random.choice(NASTY_NUMBERS), random.choice(NASTY_TEXTS), random.choice(many), None, True, False]
    )


def change_json(random: random.Random, sample: Any, others: list[Any]) -> Any:
    """Up to three values of a tree are replaced, dropped, doubled or moved, or come from another sample."""
    tree = _copied(sample)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return nasty(random)
        holder, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.insert(key, _copied(holder[key]))
        elif kind == 1:
            holder[random.choice(NASTY_TEXTS)] = holder[key]
        elif kind == 2:
            other = list(_places(random.choice(others)))
            if other:
                theirs, name = random.choice(other)
                holder[key] = _copied(theirs[name])
        elif kind == 3 and isinstance(holder[key], str):
            holder[key] = change_text(random, holder[key], [holder[key]])
        else:
            holder[key] = nasty(random)
    return tree


PIECES = [
    "<answer>", "</answer>", "<think>", "</think>", "1", "2", " ", "response ", "answer", "#", "##", ".", "\\boxed{",
    "Response 1", "A", "(B)", "1.5", "-", "+", "e", "/", "10/10", "\n", "Overall Judgment", ":", "²", "\uff11",
    "[[", "]]", "{", "}", '"',
]  # fmt: skip


def change_text(random: random.Random, sample: str, others: list[str]) -> str:
    """Pieces are inserted, repeated up to 60,000 times, cut and mixed."""
    text = sample
    for _ in range(random.choice((1, 2, 3, 6))):
        at, size = random.randrange(len(text) + 1), random.choice((1, 3, 20))
        kind = random.randrange(5)
        if kind == 0:
            text = text[:at] + text[at + size :]
        elif kind == 1:
            text = text[:at] + random.choice(PIECES) * random.choice((1, 1, 2, 300, 60000)) + text[at:]
        elif kind == 2:
            text = text[:at] + random.choice(NASTY_TEXTS) + text[at:]
        elif kind == 3:
            other = random.choice(others)
            text = text[:at] + other[random.randrange(len(other) + 1) :]
        else:
            text = text[:at] + "".join(random.choice(PIECES) for _ in range(random.choice((2, 10, 200)))) + text[at:]
    return text[:200_000]


def change_words(random: random.Random, sample: list[str], others: list[list[str]]) -> list[str]:
    """The words of a command: exchanged, dropped, doubled, taken from another command."""
    words = list(sample)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(words)) if words else 0
        kind = random.randrange(5)
        if kind == 0 and words:
            del words[at]
        elif kind == 1 and words:
            words[at] = random.choice([*map(str, NASTY_NUMBERS[:7]), "0.5", "1e308", "inf", "nan", *NASTY_TEXTS])
        elif kind == 2:
            words[at:at] = words[at : at + 2]
        elif kind == 3:
            words[at:at] = [random.choice(random.choice(others))]
        elif words:
            words[at] = change_text(random, words[at], words)[:500]
    return [word for word in words if "\0" not in word]  # no system passes it on


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _places(tree: Any) -> Any:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(pairs):
        yield tree, key
        yield from _places(value)


# ---- running


def case(reader: Reader, name: str, seed: int, number: int, samples: list[Any]) -> Any:
    """The changed sample of a case."""
    chance = random.Random(f"{seed} {name} {number}")
    return reader.change(chance, chance.choice(samples), samples)


@contextmanager
def limited(seconds: float) -> Any:
    """Raise `TooLong` after so much processor time; a loop outside Python ends the process, much later."""

    def over(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, over)
    faulthandler.dump_traceback_later(600, exit=True)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)


def judge(read: Callable[[], object], seconds: float = SECONDS) -> tuple[str, str] | None:
    """What is bad about reading, and where; None when there is a result or a sentence."""
    most = max(BYTES, start_of_peak() + GROWTH)
    try:
        with limited(seconds), warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            read()
    except SENTENCES as error:
        said = str(error)
        if isinstance(error, OSError) and error.strerror:
            said = error.strerror
        if not one_line(said):
            return f"{type(error).__name__} says nothing", _place(error)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except TooLong as error:
        return f"took longer than {seconds:g} s", _place(error)
    except BaseException as error:
        return f"{type(error).__name__}: {one_line(str(error))[:160]}", _place(error)
    taken = peak()
    return (f"took {taken / 2**30:.1f} GB", "") if taken > most else None


def start_of_peak() -> int:
    """Bytes that the process has now; `peak` counts from here where the system allows it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The most bytes that the process had since `start_of_peak`."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place(error: BaseException) -> str:
    here = Path(__file__).resolve().parents[1]
    lines = [
        f"{Path(frame.filename).relative_to(here)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(here) and ".venv" not in frame.filename and "fuzz" not in frame.filename
    ]
    return " < ".join(reversed(lines[-3:]))


def run(name: str, reader: Reader, count: int, seed: int, *, first: int = 0, keep: Path | None = None) -> list[Bad]:
    """The bad ones among cases `first` to `first + count - 1` of a reader; `keep`: folder for their inputs."""
    found: list[Bad] = []
    with tempfile.TemporaryDirectory() as top:
        samples = reader.samples(_folder(Path(top) / "samples"))
        for sample in samples[: 1 if reader.alike else None]:  # a reader that reads nothing would pass
            reader.read(sample, _folder(Path(top) / "good"))
            shutil.rmtree(Path(top) / "good")
        for number in range(first, first + count):
            data, folder = case(reader, name, seed, number, samples), _folder(Path(top) / "case")
            wrong = judge(lambda data=data, folder=folder: reader.read(data, folder))
            if wrong is not None:
                found.append(Bad(name, number, *wrong))
                if keep is not None:
                    shutil.copytree(folder, keep / f"{name}_{number}", dirs_exist_ok=True)
                    (keep / f"{name}_{number}.txt").write_text(
                        f"{wrong}\n{data!r}"[:100_000], errors="backslashreplace"
                    )
            shutil.rmtree(folder)
    return found


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


@dataclass(frozen=True)
class FuzzOptions:
    """Damage what reads well, and read it."""

    count: int = 30_000
    """Cases, shared out among the readers."""
    seed: int = 0
    """Of everything."""
    only: tuple[str, ...] = ()
    """Readers; all when empty."""
    folder: Path | None = None
    """Keep the inputs of bad cases here."""


def main(options: FuzzOptions) -> int:
    """Say what was found; 1 when anything was."""
    from tests.fuzz_readers import READERS

    chosen = options.only or tuple(READERS)
    shares = sum(READERS[name].share for name in chosen)
    total, seen = 0, {}
    for name in chosen:
        count = round(options.count * READERS[name].share / shares)
        bad = run(name, READERS[name], count, options.seed, keep=options.folder)
        total += len(bad)
        for one in bad:
            seen.setdefault((name, one.reason[:60], one.place), one)
        sys.stdout.write(f"{name}: {count} cases, {len(bad)} bad\n")
        sys.stdout.flush()
    for (name, _, place), one in seen.items():
        sys.stdout.write(f"  {name} {one.number}: {one.reason}  ({place})\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    sys.stdout.write(f"{total} bad; most memory {peak:.2f} GB\n")
    return int(total > 0)


if __name__ == "__main__":
    import tyro

    raise SystemExit(main(tyro.cli(FuzzOptions)))
