"""Files on a full disk: what is written is whole or not there, and costs one sentence."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from scripts.main import with_files
from vision.config import read_json
from vision.files import Exclusive, append, atomic_folder, atomic_path, library_writes, read_text


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file becomes larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_row_that_does_not_fit_leaves_the_rows_before_it(tmp_path):
    path = tmp_path / "rows" / "log.jsonl"
    append(path, '{"step": 1}\n')
    with full_disk(16), pytest.raises(ValueError, match=r"Cannot write .*log\.jsonl: File too large\."):
        append(path, '{"step": 2}\n')
    append(path, '{"step": 2}\n')
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


TENSORS = {"weight": torch.zeros(1000)}


@pytest.mark.parametrize("write", [lambda path: save_file(TENSORS, path), lambda path: torch.save(TENSORS, path)])
def test_what_libraries_make_of_a_full_disk_is_a_sentence(tmp_path, write):
    with full_disk(100), pytest.raises(ValueError, match=r"Cannot write run: the disk may be full \("):
        with library_writes("run"):
            write(tmp_path / "model")
    with full_disk(100), pytest.raises(ValueError, match="Cannot write"), atomic_path(tmp_path / "whole") as part:
        write(part)
    with full_disk(100), pytest.raises(ValueError, match="Cannot write"), atomic_folder(tmp_path / "folder") as part:
        write(part / "model")
    assert [path.name for path in tmp_path.iterdir()] in ([], ["model"])


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="size mismatch"), library_writes("run"):
        raise RuntimeError("size mismatch")


def test_what_a_kill_and_a_library_left_goes_with_the_next_attempt(tmp_path):
    path, left = tmp_path / "model.safetensors", tmp_path / ".model.safetensors.part"
    left.mkdir()
    for name in ("part", ".tmpAbCdEf"):  # the second one is how safetensors calls its own
        (left / name).write_text("half")
    with atomic_path(path) as part:
        save_file(TENSORS, part)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_process_that_was_forked_holds_nothing(tmp_path):
    own = Exclusive(tmp_path / "run", folder=True)
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        os.write(said, b"!")
        signal.pause()
    try:
        assert os.read(heard, 1) == b"!"
        with pytest.raises(ValueError, match=r"Another process works on .*run; wait for it"):
            Exclusive(tmp_path / "run", folder=True)
        own.release()
        Exclusive(tmp_path / "run", folder=True).release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_an_earlier_process_left_is_removed_and_a_link_is_not_followed(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kept.txt").write_text("kept")
    target, work = tmp_path / "a.txt", tmp_path / ".a.txt.part"

    def write(text):
        with atomic_path(target) as part:
            part.write_text(text)
        assert target.read_text() == text and not work.exists() and not work.is_symlink()

    work.write_text("of an earlier version")
    write("one")
    (work / "folder" / "inside").mkdir(parents=True)
    write("two")
    work.symlink_to(mine)
    write("three")
    assert (mine / "kept.txt").read_text() == "kept"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_texts_of_every_usual_encoding_are_read(tmp_path, encoding):
    text = '{"name": "Ölbild"}'
    (tmp_path / "a.json").write_text("\ufeff" * (encoding == "utf-16-be") + text, encoding=encoding)
    assert read_text(tmp_path / "a.json") == text and read_json(tmp_path / "a.json") == {"name": "Ölbild"}
    (tmp_path / "a.txt").write_text("--out\nÖl\n", encoding=encoding if encoding != "utf-16-be" else "utf-16")
    assert with_files([f"@{tmp_path / 'a.txt'}"]) == ["--out", "Öl"]


@pytest.mark.parametrize("content", [b"\xe9t\xe9", b"\xff\xfea", b'{"a": "\xff"}'])
def test_what_is_no_text_is_told(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=r"a\.json is not a text file in UTF-8 or UTF-16"):
            read(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_json(tmp_path / "b.json")
