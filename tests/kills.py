"""Jobs and trainings that are killed, starved or robbed, and started again, end as those that were not.

    python -m tests.kills --kills 100 --seed 0
    python -m tests.kills --only edit reconstruct --kills 12

Every work of `tests.kill_works` is done once undisturbed, in a process of its own; then again and again in other
folders, where the process is killed (SIGKILL) before its n-th change of a file, n spread over all of them, or after a
random share of the processor time that it needs; up to three kills for a folder before it may finish. Then the folder
must hold the same files with the same content, apart from times. The same holds after a full disk, after the output or
the input was taken away, and when two processes work in one folder; there the process may end with a sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMES = (
    "seconds",
    "finished",
    "was_done",
    "done_before",
    "runtime",
    "per_second",
    "versions",
    "grad_norm_time",
    "flos",
    "threads",
)
"""Parts of the names of JSON values that differ from run to run."""
UNSTABLE = (".bin", ".pt", ".pth", ".pkl", ".lock")
"""Endings of files, written by other libraries, whose content holds times or paths."""
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


@dataclass(frozen=True)
class Work:
    """Something that a user starts, and starts again when it was interrupted."""

    inputs: Callable[[Path], object]
    """Makes what it needs in a folder."""
    run: Callable[[Path, Path], object]
    """Does it, given the folder of inputs and that of results; returns an outcome, or what is false when undone."""
    processes: int = 1
    """How many share the work."""


@dataclass(frozen=True)
class End:
    """How a process ended."""

    killed: bool
    """By a signal."""
    code: int
    """0 done, 2 an exception that is a sentence or an outcome with problems, 1 anything else."""
    said: str
    """The trace, or the problems."""
    changes: int
    """How often it changed files before."""
    seconds: float
    """Processor time."""


# ---- one process


def start(work: Work, folder: Path, out: Path, trap: Callable[[], object] | None = None, rank: int = 0) -> int:
    """The id of a process that does the work; `trap` prepares it."""
    process = os.fork()
    if process:
        return process
    report, code, said, counted = folder / f"report_{os.getpid()}", 1, "", [0]
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(work.processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ.get("MASTER_PORT", "29541")}
        counts_changes(out, counted)
        if trap is not None:
            trap()
        outcome = work.run(folder / "inputs", out)
        problems = list(getattr(outcome, "problems", ()))
        code, said = (2 if problems else 0), "\n".join(map(str, problems))
    except (ValueError, OSError) as error:
        code, said = 2, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    except BaseException:
        said = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report.write_text(json.dumps([code, said[-3000:], counted[0]]))
        os._exit(code)


def finish(process: int, folder: Path) -> End:
    """Wait for a process."""
    report = folder / f"report_{process}"
    _, status, usage = os.wait4(process, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        return End(True, -os.WTERMSIG(status), "", 0, seconds)
    code, said, changes = json.loads(report.read_text())
    report.unlink()
    return End(False, code, said, changes, seconds)


def do(work: Work, folder: Path, out: Path, trap: Callable[[], object] | None = None) -> End:
    """Do the work with all its processes; a trap is the first one's, and its kill ends the others too."""
    others = range(1, work.processes)
    ids = [start(work, folder, out, trap), *(start(work, folder, out, rank=rank) for rank in others)]
    first = finish(ids[0], folder)
    if first.killed:
        for process in ids[1:]:
            os.kill(process, signal.SIGKILL)
    ends = [first, *(finish(process, folder) for process in ids[1:])]
    return first if first.killed else max(ends, key=lambda end: (end.code == 1, end.code))


def counts_changes(out: Path, counted: list[int]) -> None:
    """Count the changes of files below the parent of `out` in this process; `AT` holds what to do before which one."""
    below = os.fspath(out.parent)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, changes = (arguments or (None,))[0], event in CHANGES
        if not changes or not isinstance(path, (str, bytes, os.PathLike)):
            return
        if os.fsdecode(path).startswith(below):
            counted[0] += 1
            action = AT.pop(counted[0], None)
            if action is not None:
                action()

    sys.addaudithook(watch)


AT: dict[int, Callable[[], object]] = {}
"""What a process does before its n-th change of a file; only set in processes that were started for it."""


def dies() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_change(number: int, action: Callable[[], object] = dies) -> Callable[[], object]:
    """A trap before a change of a file."""
    return lambda: AT.__setitem__(number, action)


def after(seconds: float) -> Callable[[], object]:
    """A trap after so much processor time; nothing in the process hears of it."""

    def trap() -> None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, max(seconds, 0.001))

    return trap


def full_disk(size: int) -> Callable[[], object]:
    """A trap: no file becomes larger."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# ---- what a folder holds


def contents(out: Path) -> dict[str, str]:
    """What every file below a folder holds, times left out."""
    root = str(out)
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_dir():
            found[name + "/"] = ""
        elif path.suffix in UNSTABLE:
            found[name] = "?"
        else:
            found[name] = hashlib.sha256(_steady(path, root)).hexdigest()[:16]
    return found


def _steady(path: Path, root: str) -> bytes:
    """The content of a file without times and without the name of its folder."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return _tensors(data)
    if path.suffix in (".json", ".jsonl"):
        texts = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        data = "\n".join(json.dumps(_without_times(json.loads(text)), sort_keys=True) for text in texts).encode()
    return data.replace(root.encode(), b"OUT").replace(str(Path(root).parent).encode(), b"TOP")


def _tensors(data: bytes) -> bytes:
    """A safetensors file without what stands beside its tensors (a state keeps its seconds there)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    parts = [
        f"{name} {at['dtype']} {at['shape']}".encode() + body[slice(*at["data_offsets"])]
        for name, at in sorted(header.items())
    ]
    return b"".join(parts)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(part in k for part in TIMES)}
        return {key: _without_times(inner) for key, inner in kept.items()}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """What is lost, left over or changed."""
    lost = [f"lost {name}" for name in expected if name not in found]
    extra = [f"left over {name}" for name in found if name not in expected]
    return lost + extra + [f"changed {name}" for name in expected if name in found and found[name] != expected[name]]


# ---- all faults of one work


class Trials:
    """Faults of one work, each in a new folder with the same inputs.

    Args:
        name: of the work.
        work: what is done.
        top: a folder for everything.
        seed: of the faults.
    """

    def __init__(self, name: str, work: Work, top: Path, seed: int = 0):
        self.name, self.work, self.top = name, work, top
        self.random = random.Random(f"{seed} {name}")
        self.kills, self.problems, self.count = 0, [], 0
        with self.folder() as (folder, out):
            self.end = do(work, folder, out)
            if self.end.code:
                raise RuntimeError(f"{name} fails undisturbed: {self.end.said}")
            self.expected = contents(out)
            self.largest = max(path.stat().st_size for path in out.rglob("*") if path.is_file())
        if not self.expected or not self.end.changes:
            raise RuntimeError(f"{name} leaves nothing behind.")

    @contextmanager
    def folder(self) -> Iterator[tuple[Path, Path]]:
        """A new folder with inputs, always of the same name, and that of the results in it."""
        folder = self.top / self.name.replace(" ", "_")
        (folder / "inputs").mkdir(parents=True)
        self.work.inputs(folder / "inputs")
        yield folder, folder / "results" / "out"
        shutil.rmtree(folder)

    def finishes(self, fault: str, folder: Path, out: Path) -> None:
        """The work, started again, ends as undisturbed."""
        end = do(self.work, folder, out)
        found = contents(out)
        if end.code:
            self.problems.append(f"{self.name}, {fault}: started again it fails: {end.said[-600:]}")
        elif wrong := differences(found, self.expected):
            self.problems.append(f"{self.name}, {fault}: {'; '.join(wrong[:6])}")

    def killed(self, kills: int) -> None:
        """Up to three kills in one folder, before changes of files or by time."""
        with self.folder() as (folder, out):
            said = []
            for _ in range(kills):
                place = self.random.randint(1, self.end.changes)
                share = self.random.random()
                by_time = self.random.random() < 0.3
                trap = after(share * self.end.seconds) if by_time else at_change(place)
                end = do(self.work, folder, out, trap)
                self.kills += end.killed
                said.append(f"{share:.0%} of the time" if by_time else f"change {place}")
                if not end.killed:
                    break
            self.finishes("killed at " + ", ".join(said), folder, out)

    def disturbed(self, fault: str, trap: Callable[[Path, Path], Callable[[], object]]) -> None:
        """One process ends well or with a sentence; what it leaves is whole, and the next one finishes."""
        with self.folder() as (folder, out):
            shutil.copytree(folder / "inputs", folder / "kept")
            end = do(self.work, folder, out, trap(folder, out))
            if end.code not in (0, 2):
                self.problems.append(f"{self.name}, {fault}: no sentence: {end.said[-900:]}")
            if not (folder / "inputs").exists():
                (folder / "kept").rename(folder / "inputs")
            self.finishes(fault, folder, out)

    def full(self) -> None:
        """A file can only grow to half of what the largest needs."""
        self.disturbed("full disk", lambda folder, out: full_disk(max(self.largest // 2, 1)))

    def robbed(self) -> None:
        """The output, then the input, goes away in the middle."""
        middle = max(1, self.end.changes // 2)
        gone = lambda path: at_change(middle, lambda: shutil.rmtree(path, ignore_errors=True))  # noqa: E731
        self.disturbed("output taken away", lambda folder, out: gone(out))
        self.disturbed("input taken away", lambda folder, out: gone(folder / "inputs"))

    def doubled(self) -> None:
        """Two processes work in one folder: each ends well or with a sentence."""
        with self.folder() as (folder, out):
            ids = [start(self.work, folder, out) for _ in range(2)]
            ends = [finish(process, folder) for process in ids]
            for end in ends:
                if end.code not in (0, 2):
                    self.problems.append(f"{self.name}, two at once: no sentence: {end.said[-900:]}")
            self.finishes("two at once", folder, out)


@dataclass(frozen=True)
class KillOptions:
    """Kill, starve and rob jobs and trainings, and compare what they leave."""

    kills: int = 100
    """Over all works."""
    seed: int = 0
    """Of the places."""
    only: tuple[str, ...] = ()
    """Works; all when empty."""
    faults: bool = True
    """Also full disks, lost folders and two processes at once."""


def main(options: KillOptions) -> int:
    """Say what was found; 1 when anything was."""
    from tests.kill_works import WORKS

    chosen, total, bad = options.only or tuple(WORKS), 0, 0
    with tempfile.TemporaryDirectory() as top:
        for name in chosen:
            trials = Trials(name, WORKS[name], Path(top).resolve(), options.seed)
            while trials.kills < -(-options.kills // len(chosen)):
                trials.killed(trials.random.choice((1, 1, 2, 3)))
            if options.faults and WORKS[name].processes == 1:
                trials.full()
                trials.robbed()
                trials.doubled()
            total += trials.kills
            bad += len(trials.problems)
            sys.stdout.write(
                f"{name}: {trials.end.changes} changes, {trials.kills} kills, {len(trials.problems)} bad\n"
            )
            sys.stdout.write("".join(f"  {problem}\n" for problem in trials.problems))
            sys.stdout.flush()
    sys.stdout.write(f"{total} kills, {bad} bad\n")
    return int(bad > 0)


if __name__ == "__main__":
    import tyro

    raise SystemExit(main(tyro.cli(KillOptions)))
