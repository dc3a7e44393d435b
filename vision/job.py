"""One job: an output folder, its inputs, what is done of them, and what a user is told meanwhile.

Every command, a web page, a notebook and a worker of a cluster run the same function of a package:

    def restore(options: RestoreOptions, show: Show = silent) -> Outcome:
        job = Job(options.out, options, neutral=("inputs", "out", "device"), files=[weights], show=show)
        restorer = None
        for item in job.items(options.inputs, ".png"):          # what was named; this process's share of it
            with job.attempt(item):                             # a failure costs one sentence, the others are done
                picture = load_image(item.input)
                if not item.done():                             # not yet, or with other inputs, options or weights
                    restorer = restorer or job.needs(load, options)   # a failure here ends the job
                    with item.results() as folder:              # all its files appear when the block ends, or none
                        restorer(picture).save(folder / item.name)
                job.progress("restoring", item.number + 1, item.total)
        return job.finish("images", source=options.source)

`show` gets `Event`s; a face prints them or draws bars. Rows and trainings, whose results grow in one file or folder,
keep to the options that they were begun with by `keep_to`. `vision.signals` ends a process in order.

Records beside the results (`vision.records`) tell what is done: a kill at any moment neither loses nor repeats a
result, and a file that the job did not make, or made from another input, is not replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vision.config import one_line, read_json, sentence_of, to_dict, version
from vision.files import RECORDS, atomic_path, digest
from vision.records import Origin, Record, has_content, recorded, remove_empty
from vision.signals import check_signals, uninterrupted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """Something that a user may want to see."""

    kind: Literal["progress", "note", "written", "refused", "result"]
    """progress: `done` of `total` of the work called `text`; note: a sentence; written: a file; refused: why an input
    could not be used; result: what lies where, at the end."""
    text: str
    """For people, in one line."""
    done: float = 0.0
    """Of a progress: how much is done, in the units of `total`."""
    total: float | None = None
    """Of a progress: all there is to do; None when nobody knows."""
    path: Path | None = None
    """The file of written, the input of refused, the folder of result."""


Show = Callable[[Event], object]


def silent(event: Event) -> None:
    """Shows nothing."""


class Unusable(ValueError):
    """Nothing can be done at all: weights or the output folder are unusable."""


@dataclass(frozen=True)
class Outcome:
    """What a job did."""

    out: Path | str
    """Folder of the results; a URL where they are elsewhere."""
    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Facts of every item that is done, by its name."""
    problems: Sequence[str] = ()
    """A sentence for everything that could not be done."""

    @property
    def code(self) -> int:
        """Exit code of a command: 0, or 2 when there are problems."""
        return 2 if self.problems else 0


class Job:
    """A folder of results, made from inputs by certain options.

    Args:
        out: folder of the results; made when the first one is.
        options: a dataclass; together with `files` and the version it decides about results.
        neutral: fields of the options that leave results as they are.
        files: files and folders whose content decides about results, such as weights; None is left out.
        show: gets the events.
        overwrite: replace files that this job did not make.
    """

    def __init__(
        self,
        out: str | Path,
        options: Any,
        *,
        neutral: Sequence[str] = (),
        files: Sequence[str | Path | None] = (),
        show: Show = silent,
        overwrite: bool = False,
    ):
        self.out, self.options, self.show, self.overwrite = Path(out), options, show, overwrite
        self.neutral, self.files = ("out", "overwrite", *neutral), files
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.made: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        self.started = time.monotonic()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything but the inputs that decides about results, as JSON values."""
        chosen = {name: value for name, value in to_dict(self.options).items() if name not in self.neutral}
        return {"version": version(), **chosen, "files": [digest(path) for path in self.files if path is not None]}

    def items(self, named: Sequence[str | Path], suffix: str, also: Sequence[str] = ()) -> list[Item]:
        """This process's share of the pictures that are named, each with the name of its result.

        What cannot be used is refused, what is left out is noted; results of this folder are no inputs.

        Args:
            named: pictures, folders, lists and patterns, see `vision.inputs.Inputs`.
            suffix: of the results, such as ".png"; "" for folders.
            also: endings of files in folders that are inputs too, besides those of pictures.
        """
        from vision.inputs import Inputs, identity

        found, out = Inputs.find(named, self.out, also), identity(self.out)
        inputs = {identity(path): path for path, _ in found.pictures}
        if any(path.is_relative_to(out) for path in inputs):
            made = {out / name for name, content in recorded(out).items() if has_content(out / name, content)}
            if results := made & inputs.keys():
                found.notes.append(f"{self.out}: results of this job are no inputs ({len(results)} left out).")
                found.pictures = [pair for pair in found.pictures if identity(pair[0]) not in results]
                inputs = {path: named for path, named in inputs.items() if path not in results}
        pairs = []
        for path, name in found.results(suffix):
            if (replaced := inputs.get(identity(self.out / name))) is None:
                pairs.append((path, name))
            else:
                of = "its result" if replaced == path else f"the result of {path}"
                found.problems.append(f"{replaced} would be overwritten by {of}; choose another output folder.")
        if self.rank == 0:
            for sentence in found.notes:
                self.note(sentence)
            for sentence in found.problems:
                self.refuse(sentence)
        share = pairs[self.rank :: self.world]
        return [Item(self, *pair, not suffix, number, len(share)) for number, pair in enumerate(share)]

    @contextmanager
    def attempt(self, item: Item | Path) -> Iterator[None]:
        """What fails inside is refused in one sentence, and the block is left; unusable weights end the job."""
        check_signals()
        path = item if isinstance(item, Path) else item.input
        try:
            yield
        except Unusable:
            raise
        except (ValueError, OSError, MemoryError) as error:
            check_signals()
            sentence = sentence_of(error)
            self.refuse(sentence if one_line(str(path)) in sentence else f"{one_line(str(path))}: {sentence}", path)
        finally:
            if isinstance(item, Item):
                item.record.release()

    def needs(self, load: Callable[..., T], *arguments: Any) -> T:
        """`load(*arguments)`; its failure ends the job, not only the item that is being attempted.

        Raises:
            Unusable: what `load` refused.
        """
        try:
            return load(*arguments)
        except (ValueError, OSError) as error:
            check_signals()
            raise Unusable(sentence_of(error)) from error

    def progress(self, text: str, done: float, total: float | None = None) -> None:
        """Tell how far the work called `text` is; of several processes, the first one does."""
        check_signals()
        if self.rank == 0:
            self.show(Event("progress", text, done, total))

    def note(self, sentence: str) -> None:
        """Tell something worth knowing."""
        self.show(Event("note", one_line(sentence)))

    def refuse(self, sentence: str, path: Path | None = None) -> None:
        """Tell what could not be used, and why; the job goes on with the rest."""
        self.problems.append(one_line(sentence))
        self.show(Event("refused", self.problems[-1], path=path))

    def leave_out(self, problems: Iterable[str]) -> None:
        """Tell which parts of the input cannot be used, a sentence each."""
        for sentence in problems:
            self.refuse(f"Left out: {sentence}")

    def finish(self, noun: str, **facts: Any) -> Outcome:
        """Write run.json (options, versions, seconds, problems, what is known of every item) and tell what lies where.

        Of several processes, the first one does that for all.

        Args:
            noun: what the items are, in the plural; run.json lists them under this name.
            facts: further entries of run.json.
        """
        parts = self._gather((self.made, self.problems))
        made = {name: told for part, _ in parts for name, told in part.items()}
        problems = [sentence for _, part in parts for sentence in part]
        earlier = sum(told["was_done"] for told in made.values())
        self.conclude(noun, len(made), earlier, **{**facts, noun: made, "problems": problems})
        return Outcome(self.out, made, problems)

    def conclude(
        self, noun: str, number: int, earlier: int, name: str = "run.json", path: Path | None = None, **facts: Any
    ) -> None:
        """Write `name` into the output folder, and tell what lies where; of several processes, the first one does.

        Args:
            noun: what was made, in the plural.
            number: how many there are.
            earlier: how many of them were there before.
            name: of the file.
            path: where the results lie; None: in the output folder.
            facts: its further entries; `problems` are those of this job unless they are given.
        """
        from vision.report import write_run

        if self.rank:
            return
        seconds, problems = round(time.monotonic() - self.started, 3), facts.setdefault("problems", self.problems)
        write_run(self.out / name, options=to_dict(self.options), seconds=seconds, **facts)
        one = noun.removesuffix("es") if noun.endswith("shes") else noun.removesuffix("s")
        text = f"{path or self.out}: {number} {noun if number != 1 else one}"
        text += f" ({earlier} done before)" if earlier else ""
        text += f", {len(problems)} refused" if problems else ""
        self.show(Event("result", one_line(f"{text}; {name} says how. {_duration(seconds)}"), path=self.out))

    def _gather(self, value: T) -> list[T]:
        """The value of every process, in the first one."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        # The fastest process waits for the slowest, however long a folder takes.
        dist.init_process_group("gloo", timeout=timedelta(days=30))
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        dist.destroy_process_group()
        return values


class Item:
    """One input of a job and its results.

    Args:
        name: of its result below the output folder, with "/" between folders.
        is_folder: whether the result is a folder of files.
        number: its place among this process's items.
        total: how many they are.
        content: digest of what it is made from; None: of the input.
    """

    def __init__(
        self,
        job: Job,
        input: Path,
        name: str,
        is_folder: bool = False,
        number: int = 0,
        total: int = 1,
        content: str | None = None,
    ):
        self.content = content
        self.job, self.input, self.name = job, input, name
        self.number, self.total, self.started = number, total, time.monotonic()
        self.record = Record(job.out, name, is_folder)
        self.told: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """Where its result lies, or will."""
        return self.job.out / self.name

    @cached_property
    def origin(self) -> Origin:
        """What its results are made from."""
        content = digest(self.input) if self.content is None else self.content
        key = hashlib.sha256(json.dumps([self.job.facts, content], sort_keys=True).encode()).hexdigest()
        return Origin(str(self.input.absolute()), content, key)

    def done(self) -> bool:
        """Whether its results are there, unchanged, and made from this input with these options and weights.

        If not, the item belongs to this process alone from here on, until the block of `Job.attempt` ends.

        Raises:
            ValueError: another process works on it.
            Unusable: nothing can be written into the output folder.
        """
        if not self.record.holds(self.origin.key):
            self._own()
            if not self.record.holds(self.origin.key):  # another process may just have finished it
                return False
        self.record.forget_work()
        self.job.made[self.name] = self.record.read().facts | {"input": str(self.input), "was_done": True}
        return True

    def has(self, name: str) -> bool:
        """Whether a file or folder, named below the output folder, is among its results."""
        return any(file == name or file.startswith(f"{name}/") for file in self.record.read().files)

    def tell(self, **facts: Any) -> None:
        """Facts about the results, as JSON values, for run.json and the record; call it while they are made."""
        self.told |= facts

    def work(self) -> Path:
        """A hidden folder for unfinished work that outlives an interruption; gone when the results are there.

        Raises:
            Unusable: nothing can be written into the output folder.
        """
        with self._writing():
            return self.record.work(self.origin.key)

    def _own(self) -> None:
        with self._writing():
            self.record.own()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unusable(f"Cannot write to the folder {self.job.out}: {error.strerror}.") from error

    @contextmanager
    def results(self, *names: str, keep: bool = False) -> Iterator[Path]:
        """A folder to write results into, laid out like the output folder; they appear there when the block ends well.

        Args:
            names: further files that will be written, to be refused early where others lie already.
            keep: earlier results of this item stay beside the new ones.

        Raises:
            ValueError: a file of that name is there that this item did not make, a file cannot be written, or the
                output folder was taken away meanwhile.
            Unusable: nothing can be written into the output folder.
        """
        job = self.job
        self._own()
        for name in () if job.overwrite else (self.name, *names):
            self.record.claim(name, self.origin)
        work = self.work()
        folder = work / "results"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
            self._own()
            facts = {"seconds": round(time.monotonic() - self.started, 3), **self.told}
            facts = {**self.record.read().facts, **facts} if keep else facts
            for path in self.record.publish(folder, self.origin, facts, keep=keep, overwrite=job.overwrite):
                if RECORDS in path.relative_to(job.out).parts:
                    job.note(f"A result of {self.input} had been changed since; the changed file is now {path}.")
                else:
                    job.show(Event("written", one_line(str(path)), path=path))
            job.made[self.name] = {**facts, "input": str(self.input), "was_done": False}
        finally:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)
                remove_empty(work, job.out)
        self.record.forget_work()


def keep_to(path: str | Path, facts: Mapping[str, Any]) -> None:
    """Begin a result that grows (a file of rows, a run folder) with `facts`, or go on with it if they are the same.

    Args:
        path: the JSON file of the facts, beside the result.
        facts: everything that decides about the result, as JSON values.

    Raises:
        ValueError: it was begun with others; the sentence names them.
    """
    path = Path(path)
    now = json.loads(json.dumps(dict(facts)))
    if path.exists():
        begun = read_json(path)
        other = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
        if other:
            told = ", ".join(f"{name} ({_short(begun.get(name))}, now {_short(now.get(name))})" for name in other[:3])
            told += f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise ValueError(f"{path} was begun with other options or data: {told}. Name another place, or remove it.")
        return
    with atomic_path(path) as part:
        part.write_text(json.dumps(now, indent=1), encoding="utf-8")


def choose_device(name: str) -> torch.device:
    """The device that a user names; auto is a GPU when there is one. Of several processes each gets its own GPU.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"There is no device {name!r}; use auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"There is no CUDA device here that is called {name}; use --device cpu.")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
