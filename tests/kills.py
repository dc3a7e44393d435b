"""Jobs and trainings that are killed, stopped, starved or robbed, and started again, end as those that were not.

    python -m tests.kills --kills 100 --table kills.csv
    python -m tests.kills --only edit reconstruct --kills 12

Every work of `tests.kill_works` is done once undisturbed, in a process of its own, as a command does it; then again and
again in other folders, where the process is killed (SIGKILL) before its n-th change of a file, n spread over all of
them, or after a random share of the processor time that it needs; up to three kills for a folder before it may finish.
What lies there after a kill must be whole. In the end the folder must hold the same files with the same content, apart
from times. The same holds after Ctrl-C and SIGTERM, a full disk, after the output or the input was taken away or could
no longer be written, and when two processes work in one folder; there the process may end with one sentence.
"""

from __future__ import annotations

import csv
import fcntl
import importlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.terminal import QUIET, run
from tests.kill_contents import contents, differences, halves
from vision.job import Outcome

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes after signals that a process hears of."""
ROOM = 1 << 20
"""Bytes that a process may say."""
TEMPORARY = (".part", ".lock")
"""Endings of files and folders that a process removes before it ends in order."""
NOBODY = 65534
"""A user who owns nothing."""


@dataclass(frozen=True)
class Work:
    """Something that a user starts, and starts again when it was interrupted."""

    inputs: Callable[[Path], object]
    """Makes what it needs in a folder."""
    run: Callable[[Path, Path], object]
    """Does it, given the folder of inputs and that of results; returns an outcome, or what is false when undone."""
    processes: int = 1
    """How many share the work."""
    clocked: tuple[str, ...] = ()
    """Names of files, and of values in them, that depend on time or memory."""


@dataclass(frozen=True)
class End:
    """How a process ended."""

    killed: bool
    """By a signal that it did not hear of."""
    code: int
    """Exit code of the command; 1 after an exception that is no sentence."""
    said: str
    """What it wrote to stderr."""
    changes: int
    """How often it changed files before."""
    seconds: float
    """Processor time."""
    modules: list[str]
    """What it imported."""

    @property
    def is_sentence(self) -> bool:
        """Whether it is done, or said why it is not in a sentence for each thing."""
        return self.code in (0, 2) and "Traceback" not in self.said


@dataclass(frozen=True)
class Started:
    """A process, and the ends of pipes."""

    process: int
    """Its id."""
    heard: int
    """Where what it writes to stderr arrives."""
    told: int
    """Where the number of its changes and its imports arrive."""


# ---- one process


def start(work: Work, folder: Path, out: Path, trap: Callable[[], object] | None = None, rank: int = 0) -> Started:
    """A process that does the work as a command does; `trap` prepares it."""
    heard, said = pipe()
    told, count = pipe()
    process = os.fork()
    if process:
        os.close(said)
        os.close(count)
        return Started(process, heard, told)
    code, counted, null, known = 1, [0], os.open(os.devnull, os.O_RDWR), set(sys.modules)
    try:
        for stream, target in ((0, null), (1, null), (2, said)):
            os.dup2(target, stream)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(work.processes)}
        forget_processes()
        counts_changes(out, counted)
        if trap is not None:
            trap()
        run(lambda: _code(work.run(folder / "inputs", out)))
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.stderr.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(count, json.dumps([counted[0], sorted(sys.modules.keys() - known)]).encode())
        os._exit(code)


def forget_processes() -> None:
    """What accelerate found out about the processes of an earlier training in this one does not hold for its forks."""
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


def _code(outcome: object) -> int:
    if not isinstance(outcome, Outcome):
        return 0
    sys.stderr.write("".join(f"{sentence}\n" for sentence in outcome.problems))
    return outcome.code


def pipe() -> tuple[int, int]:
    """The end that is read, without waiting, and the one that is written: no full disk fills it."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, ROOM)
    os.set_blocking(ends[0], False)
    return ends


def finish(started: Started) -> End:
    """Wait for a process."""
    return ended(started, *os.wait4(started.process, 0)[1:])


def ended(started: Started, status: int, usage: resource.struct_rusage) -> End:
    """How a process ended that was waited for."""
    texts = []
    for end in (started.heard, started.told):
        try:
            texts.append(os.read(end, ROOM).decode(errors="replace"))
        except BlockingIOError:  # a process that it started lives on
            texts.append("")
        os.close(end)
    said, (count, modules) = texts[0], json.loads(texts[1] or "[0, []]")
    killed = os.WIFSIGNALED(status)
    code = -os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    return End(killed, code, said[-3000:], count, usage.ru_utime + usage.ru_stime, modules)


def do(work: Work, folder: Path, out: Path, trap: Callable[[], object] | None = None, trapped: int = 0) -> End:
    """Do the work with all its processes, one of which the trap is for; when one fails, the others are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = range(work.processes)
    begun = [start(work, folder, out, trap if rank == trapped else None, rank) for rank in ranks]
    waiting = {started.process: rank for rank, started in enumerate(begun)}
    ends: dict[int, End] = {}
    first = None
    while waiting:
        for process, rank in list(waiting.items()):  # each by its number: who runs this may have other children
            found, status, usage = os.wait4(process, os.WNOHANG)
            if not found:
                continue
            del waiting[process]
            end = ends[rank] = ended(begun[rank], status, usage)
            if first is None and end.code:
                first = end
                for other in waiting:
                    os.kill(other, signal.SIGKILL)
        time.sleep(0.01)
    return first or ends[trapped]


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


def forbid(folder: Path) -> None:
    """From now on this process can change nothing in a folder."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:  # whom no permission binds
        os.setuid(NOBODY)


def allow(folder: Path) -> None:
    """Undo `forbid`."""
    for path in (folder, *folder.rglob("*")) if folder.exists() else ():
        path.chmod(0o755 if path.is_dir() else 0o644)


# ---- all faults of one work


Row = dict[str, object]
"""A fault as the table has it: work, fault, place, ended, then."""


class Trials:
    """Faults of one work, each in a new folder with the same inputs.

    Args:
        name: of the work.
        work: what is done.
        top: a folder for everything.
        seed: of the faults.
        tell: gets every fault.
    """

    def __init__(
        self, name: str, work: Work, top: Path, seed: int = 0, tell: Callable[[Row], object] = lambda row: None
    ):
        self.name, self.work, self.top, self.tell = name, work, top, tell
        self.random = random.Random(f"{seed} {name}")
        self.kills, self.faults, self.problems = 0, 0, []
        with self.folder() as (folder, out):
            self.end = do(work, folder, out)
            if self.end.code:
                raise RuntimeError(f"{name} fails undisturbed: {self.end.said}")
            for module in self.end.modules:  # for all that follow
                with suppress(ImportError):
                    importlib.import_module(module)
            self.expected = contents(out, work.clocked)
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

    def bad(self, fault: str, sentence: str) -> str:
        """Take a problem down."""
        self.problems.append(f"{self.name}, {fault}: {sentence}")
        return sentence

    def finishes(self, fault: str, folder: Path, out: Path) -> str:
        """The work, started again, ends as undisturbed; returns how it ends."""
        end = do(self.work, folder, out)
        found = contents(out, self.work.clocked)
        if end.code:
            return self.bad(fault, f"started again it fails: {end.said[-900:]}")
        wrong = differences(found, self.expected)
        return self.bad(fault, "; ".join(wrong[:6])) if wrong else "equal"

    def killed(self, kills: int) -> None:
        """Up to three kills in one folder, before changes of files or by time."""
        with self.folder() as (folder, out):
            rows: list[Row] = []
            for _ in range(kills):
                place = self.random.randint(1, self.end.changes)
                share = self.random.random()
                by_time = self.random.random() < 0.3
                trap = after(share * self.end.seconds) if by_time else at_change(place)
                end = do(self.work, folder, out, trap, self.random.randrange(self.work.processes))
                said = f"{share:.0%} of the time" if by_time else f"change {place} of {self.end.changes}"
                self.kills += end.killed
                if not end.killed:
                    if end.code:
                        self.bad(said, f"it fails: {end.said[-900:]}")
                    break
                rows.append({"work": self.name, "fault": "kill", "place": said, "ended": "killed"})
                if cut := halves(out):
                    self.bad(said, f"half-written: {', '.join(cut)}")
            then = self.finishes("killed at " + ", ".join(str(row["place"]) for row in rows), folder, out)
            for row in rows:
                self.tell(row | {"then": then})

    def disturbed(
        self,
        fault: str,
        trap: Callable[[Path, Path], Callable[[], object]],
        codes: tuple[int, ...] = (0, 2),
        tidies: bool = True,
    ) -> None:
        """One process ends well or with a sentence; what it leaves is whole, and the next one finishes.

        Args:
            codes: exit codes that are right.
            tidies: it can still remove its temporary files.
        """
        with self.folder() as (folder, out):
            shutil.copytree(folder / "inputs", folder / "kept")
            end = do(self.work, folder, out, trap(folder, out))
            allow(folder / "results")
            if end.code not in codes or "Traceback" in end.said:
                self.bad(fault, f"exit code {end.code}, no sentence: {end.said[-1500:]}")
            if cut := halves(out):
                self.bad(fault, f"half-written: {', '.join(cut)}")
            if stray := [path.name for path in out.rglob("*") if tidies and path.suffix in TEMPORARY]:
                self.bad(fault, f"left behind: {', '.join(stray)}")
            if not (folder / "inputs").exists():
                (folder / "kept").rename(folder / "inputs")
            then = self.finishes(fault, folder, out)
            said = " ".join(end.said.split())[-300:]
            self.faults += 1
            self.tell({"work": self.name, "fault": fault, "place": "", "ended": f"{end.code} {said}", "then": then})

    def stopped(self) -> None:
        """Ctrl-C and SIGTERM at some change of a file: the exit code that shells expect."""
        for number, code in STOPPED.items():
            place = self.random.randint(1, self.end.changes)
            send = at_change(place, lambda number=number: os.kill(os.getpid(), number))
            name = f"{number.name} at change {place} of {self.end.changes}"
            self.disturbed(name, lambda folder, out, send=send: send, (code,))

    def full(self) -> None:
        """A file can only grow to half of what the largest needs, or to almost nothing."""
        for size in (max(self.largest // 2, 1), 64):
            self.disturbed(f"full disk, {size} bytes", lambda folder, out, size=size: full_disk(size))

    def robbed(self) -> None:
        """The output, then the input, goes away in the middle; then the output can no longer be written."""
        middle = max(1, self.end.changes // 2)
        gone = lambda path: at_change(middle, lambda: shutil.rmtree(path, ignore_errors=True))  # noqa: E731
        self.disturbed("output taken away", lambda folder, out: gone(out))
        self.disturbed("input taken away", lambda folder, out: gone(folder / "inputs"))
        forbidden = lambda folder, out: at_change(middle, lambda: forbid(out))  # noqa: E731
        self.disturbed("output made read-only", forbidden, tidies=False)

    def doubled(self) -> None:
        """Two processes work in one folder: each ends well or with a sentence."""
        with self.folder() as (folder, out):
            both = [start(self.work, folder, out) for _ in range(2)]
            ends = [finish(started) for started in both]
            for end in ends:
                if not end.is_sentence:
                    self.bad("two at once", f"no sentence: {end.said[-1500:]}")
            said = ", ".join(f"{end.code} {' '.join(end.said.split())[-200:]}" for end in ends)
            then = self.finishes("two at once", folder, out)
            self.faults += 1
            self.tell({"work": self.name, "fault": "two at once", "place": "", "ended": said, "then": then})


@dataclass(frozen=True)
class KillOptions:
    """Kill, stop, starve and rob jobs and trainings, and compare what they leave."""

    kills: int = 100
    """Over all works."""
    seed: int = 0
    """Of the places."""
    only: tuple[str, ...] = ()
    """Works; all when empty."""
    faults: bool = True
    """Also signals, full disks, lost folders and two processes at once."""
    table: Path | None = None
    """A CSV file that gets every fault."""


def main(options: KillOptions) -> int:
    """Say what was found; 1 when anything was."""
    os.environ |= QUIET  # libraries look at it when they are imported, which a command does later
    from tests.kill_works import WORKS

    chosen, kills, faults, bad = options.only or tuple(WORKS), 0, 0, 0
    with tempfile.TemporaryDirectory() as top, table(options.table) as tell:
        Path(top).chmod(0o755)
        for name in chosen:
            trials = Trials(name, WORKS[name], Path(top).resolve(), options.seed, tell)
            while trials.kills < -(-options.kills // len(chosen)):
                trials.killed(trials.random.choice((1, 1, 2, 3)))
            if options.faults and WORKS[name].processes == 1:
                trials.stopped()
                trials.full()
                trials.robbed()
                trials.doubled()
            kills, faults, bad = kills + trials.kills, faults + trials.faults, bad + len(trials.problems)
            say(f"{name}: {trials.end.changes} changes, {trials.kills} kills, {trials.faults} other faults, ")
            say(f"{len(trials.problems)} bad\n" + "".join(f"  {problem}\n" for problem in trials.problems))
    say(f"{kills} kills, {faults} other faults, {bad} bad\n")
    return int(bad > 0)


@contextmanager
def table(path: Path | None) -> Iterator[Callable[[Row], object]]:
    """What appends rows to a CSV file."""
    with open(path or os.devnull, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("work", "fault", "place", "ended", "then"))

        def tell(row: Row) -> None:
            writer.writerow(row)
            file.flush()

        if file.tell() == 0:
            writer.writeheader()
        yield tell


def say(text: str) -> None:
    """Show at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    import tyro

    raise SystemExit(main(tyro.cli(KillOptions)))
