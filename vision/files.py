"""Reading regular files; writing files whole: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError

from vision.signals import uninterrupted

MAX_NAME = 255
"""Bytes of a file's name on all common systems."""
TORCH_WRITER = ("PytorchStreamWriter", "inline_container")
"""What torch names when it cannot write a file."""
RECORDS = ".done"
"""Folder, in a folder of results, that says what was made from what (see `vision.job`)."""


def told_apart(short: Sequence[str], long: Sequence[str]) -> list[str]:
    """Names of several things: the short ones, or the long ones where two short ones are equal but for capitals, which
    file systems do not all tell apart."""
    return list(short if len({name.casefold() for name in short}) == len(short) else long)


def file_names(paths: Sequence[Path]) -> list[str]:
    """What to call files of one folder: their names without endings, or with them where two differ in those alone."""
    return told_apart([path.stem for path in paths], [path.name for path in paths])


def partners(paths: Sequence[Path]) -> Callable[[Path], Path | None]:
    """What finds the one of `paths` that belongs to another file: that of the same name, else that of the same name
    without its ending; None where there is none.

    Raises:
        ValueError: when asked, there are several.
    """
    whole, stems = {path.name: path for path in paths}, defaultdict(list)
    for path in paths:
        stems[path.stem].append(path)

    def find(path: Path) -> Path | None:
        found = [whole[path.name]] if path.name in whole else stems.get(path.stem, [])
        if len(found) > 1:
            raise ValueError(f"{path} may belong to {found[0]} and to {found[1]}; leave one of them out.")
        return found[0] if found else None

    return find


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well.

    The folder is made when it is missing. The temporary file lies in a hidden folder `.NAME.part`, with whatever
    libraries write beside it on their own. If the block fails, that folder is removed and `path` is as before; a killed
    process leaves it, and the next attempt removes it. Two processes that write the same name do so one after the
    other.

    Raises:
        ValueError: the folder or the file cannot be written, or a folder above it that this process holds (`Exclusive`)
            was taken away; the sentence says why.
    """
    path = Path(path)
    work = part_of(path)
    if len(os.fsencode(work.name)) > MAX_NAME:
        work = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part")
    Exclusive.check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with _held(work), library_writes(path):
            part = work / "part"
            part.touch()
            mode = part.stat().st_mode
            yield part
            part.chmod(mode)  # safetensors puts a file in its place that nobody else may read
            Exclusive.check(path)
            os.replace(part, path)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {_reason(error)}.") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside `path` that takes its name when the block ends well.

    If the block fails, the new folder is removed; a killed process leaves at most one hidden `.NAME.part`, which the
    next attempt removes.

    Raises:
        ValueError: a file or folder of that name is there, or it cannot be written; the sentence says why.
    """
    path, part = Path(path), part_of(path)
    Exclusive.check(path)
    try:
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            with library_writes(path):
                yield part
                Exclusive.check(path)
                part.rename(path)
        finally:
            with uninterrupted():
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {_reason(error)}.") from error


def part_of(path: str | Path) -> Path:
    """The hidden name, beside it, under which a file or folder is written."""
    return Path(path).with_name(f".{Path(path).name}.part")


def append(path: Path, text: str) -> None:
    """Add text to the end of a file, all of it or nothing; a kill in between leaves the beginning.

    Raises:
        ValueError: it cannot be written; the sentence says why.
    """
    data = memoryview(text.encode())
    Exclusive.check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Exclusive.check(path)
        with open(path, "ab", buffering=0) as file:
            length = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(length)
                raise
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {_reason(error)}.") from error


@contextmanager
def library_writes(path: str | Path) -> Iterator[None]:
    """What safetensors and torch make of a full disk inside, as a sentence about `path`.

    Raises:
        ValueError: they cannot write.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in TORCH_WRITER):
            raise
        raise ValueError(
            f"Cannot write {path}: the disk may be full ({_reason(error).splitlines()[0][:200]})."
        ) from error


def read_file(path: str | Path) -> bytes:
    """The content of a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, or a pipe or device, which may have no end; or it cannot be read.
    """
    path = Path(path)
    try:
        check_regular(path)
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from error


def named_path(folder: Path, name: str) -> Path:
    """The path that a text in `folder` names; as Windows writes it (`photos\\a.png`) unless a file is called so."""
    path = folder / name
    return path if "\\" not in name or os.path.lexists(path) else folder / name.replace("\\", "/")


def read_text(path: str | Path) -> str:
    """The text of a regular file in UTF-8 or, as its mark says, in UTF-16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or is no text.
    """
    try:
        return in_utf8(read_file(path)).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8 or UTF-16.") from None


def in_utf8(text: bytes) -> bytes:
    """A text in UTF-8 without a byte order mark, whether it was in UTF-8 or, as its mark says, in UTF-16.

    Raises:
        UnicodeDecodeError: it is no text in UTF-16; UTF-8 is not looked at.
    """
    wide = text.startswith((b"\xff\xfe", b"\xfe\xff"))
    return text.decode("utf-16").encode() if wide else text.removeprefix(b"\xef\xbb\xbf")


def check_regular(path: Path) -> None:
    """Refuse what is no regular file or link to one.

    Raises:
        OSError: there is nothing, or it cannot be looked at.
        ValueError: it is a folder, a pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder, not a file.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is no regular file but a pipe, socket or device.")


def digest(path: str | Path) -> str:
    """SHA-256 of a regular file's content, or of the names and contents of all files in a folder.

    Raises:
        OSError, ValueError: as `check_regular`.
    """
    path = Path(path)
    found = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            found.update(f"{file.relative_to(path).as_posix()!a} {digest(file)}\n".encode())
        return found.hexdigest()
    check_regular(path)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


class Exclusive:
    """A file or folder, made when it is missing, that belongs to this process alone until `release()` or the end of
    this object.

    Processes that this one forks meanwhile, such as those that load data, hold nothing: they may outlive it. Where the
    system has no such locks (Windows) nothing is locked.
    """

    _held: ClassVar[weakref.WeakSet[Exclusive]] = weakref.WeakSet()

    def __init__(self, path: Path, shown: Path | None = None, *, folder: bool = False):
        """
        Args:
            path: of the file or folder.
            shown: what a sentence names instead.
            folder: it is a folder.

        Raises:
            ValueError: another process works on it, or it cannot be opened.
        """
        self.path, self.shown, self._opened = path, shown or path, -1
        self._close: Callable[[], object] = lambda: None
        try:
            import fcntl
        except ImportError:
            return
        how = os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR | os.O_CREAT
        for _ in range(100):  # another process that just finished may take it away in between
            try:
                (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
                self._opened = os.open(path, how, 0o666)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ValueError(f"Cannot write {path}: {error.strerror}.") from error
            self._close = weakref.finalize(self, os.close, self._opened)
            try:
                fcntl.flock(self._opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise ValueError(
                    f"Another process works on {self.shown}; wait for it, or name another place."
                ) from None
            if self.is_there():
                self._held.add(self)
                return
            self.release()
        raise ValueError(f"Cannot write {path}: it is taken away again and again.")

    def is_there(self) -> bool:
        """Whether what belongs to this process still has its name."""
        try:
            return self._opened < 0 or os.path.samestat(os.fstat(self._opened), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let other processes have it."""
        self._held.discard(self)
        self._close()

    @classmethod
    def check(cls, path: Path) -> None:
        """Refuse to write below a folder that was this process's alone and was taken away.

        Raises:
            ValueError: it is not there any more, or another one has its name.
        """
        for own in list(cls._held):
            if own.path in path.parents and not own.is_there():
                raise ValueError(f"{own.shown} was taken away while this worked; start again.")

    @classmethod
    def _forked(cls) -> None:
        for own in list(cls._held):
            own.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Exclusive._forked)


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """The folder `work`, empty, belongs to this block alone and goes with it; where another process has it, wait."""
    with contextlib.ExitStack() as own:
        own.callback(_remove_unheld, work)  # a signal may end the block before it has the folder
        while not _is_locked(work, own):
            pass
        for left in work.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield


def _is_locked(work: Path, own: contextlib.ExitStack) -> bool:
    """Make and lock a folder until `own` ends; False: another process, which was waited for, took it away."""
    if work.is_symlink() or work.is_file():  # what earlier versions left, or a link that leads elsewhere
        work.unlink(missing_ok=True)
    work.mkdir(exist_ok=True)
    return _lock(work, own, wait=True)


def _remove_unheld(work: Path) -> None:
    """Remove a folder unless another process has it, which will remove it."""
    with uninterrupted(), contextlib.ExitStack() as own:
        if _lock(work, own, wait=False):
            shutil.rmtree(work, ignore_errors=True)


def _lock(work: Path, own: contextlib.ExitStack, wait: bool) -> bool:
    """Lock a folder until `own` ends; False: it is not there, or another process has it that is not waited for."""
    try:
        import fcntl
    except ImportError:  # Windows: there an open file cannot be replaced anyway
        return True
    with contextlib.ExitStack() as attempt, contextlib.suppress(FileNotFoundError, BlockingIOError):
        opened = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        attempt.callback(os.close, opened)
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(opened), os.stat(work)):
            own.push(attempt.pop_all())
            return True
    return False


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")
