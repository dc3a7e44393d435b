"""Restoring URLs and shards: the bytes of one machine, a row for every picture, and nothing lost or doubled."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from restoration.iter.options import ITEROptions
from restoration.iter.restorer import ITERRestorer
from restoration.job import RestoreOptions, restore
from tests.processes import killed_at
from vision.scale import manifest
from vision.scale.stores import Store

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = "builtin:tiny-mini"


def picture(number: int, size: tuple[int, int] = (24, 20)) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def options(out: str | Path, *inputs: str | Path, seed: int = 0, **changes) -> RestoreOptions:
    given = {"source": SOURCE, "device": "cpu", **changes}
    return RestoreOptions(inputs=inputs, out=out, options=ITEROptions(seed=seed), **given)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four pictures, one of them in a folder, and one that is none."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "in" / "sub" / "3.jpg").write_bytes(picture(3))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "in"


@pytest.fixture
def memory():
    """A store that is no folder of this machine."""
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/bucket"):
        system.rm("/bucket", recursive=True)


def upload(folder: Path, system) -> str:
    system.put(str(folder), "/bucket/in", recursive=True)
    return "memory://bucket/in"


def results(url: str | Path) -> dict[str, bytes]:
    """Pictures and shards of results."""
    store = Store(url)
    names = [name for name in store.sizes() if name.endswith((".png", ".tar")) and not name.startswith(".")]
    return {name: store.read(name) for name in sorted(names)}


def rows(url: str | Path) -> dict[str, manifest.Row]:
    return {row.member or row.result: row for row in manifest.rows(manifest.Manifest(Store(url)).gather())}


def test_a_store_gets_the_bytes_of_one_machine_and_a_row_for_every_picture(folder, memory, tmp_path):
    restore(options(tmp_path / "here", folder))
    url = upload(folder, memory)
    events = []
    outcome = restore(options("memory://bucket/out", url), events.append)
    assert results("memory://bucket/out") == results(tmp_path / "here")
    assert sorted(results(tmp_path / "here")) == ["0.png", "1.png", "2.png", "sub/3_jpg.png"]
    found = rows("memory://bucket/out")
    assert len(found) == 5 and [name for name, row in found.items() if row.problem] == ["bad.png"]
    told = [event.text for event in events if event.kind == "refused"]
    assert list(outcome.problems) == told == [found["bad.png"].problem] and outcome.code == 2
    assert told[0].startswith("memory:///bucket/in/bad.png ") and told[0].count("bad.png") == 1
    assert events[-1].text.startswith("memory://bucket/out: 4 images, 1 refused; manifest.parquet says how.")


def test_what_is_done_is_kept_until_a_picture_or_an_option_changes(folder, memory, monkeypatch):
    url, out = upload(folder, memory), "memory://bucket/out"
    restore(options(out, url))
    before = results(out)
    monkeypatch.setattr(ITERRestorer, "bands", None)  # whoever restores fails
    outcome = restore(options(out, url))
    assert all(facts["was_done"] for facts in outcome.items.values()) and len(outcome.items) == 4
    monkeypatch.undo()
    memory.pipe_file("/bucket/in/0.png", picture(7))
    memory.pipe_file("/bucket/out/1.png", b"damaged")
    memory.rm_file("/bucket/out/2.png")
    outcome = restore(options(out, url))
    assert [name for name, facts in outcome.items.items() if not facts["was_done"]] == ["0.png", "1.png", "2.png"]
    after = results(out)
    assert after["0.png"] != before.pop("0.png") and before.items() <= after.items()
    assert not any(facts["was_done"] for facts in restore(options(out, url, seed=5)).items.values())
    assert results(out)["1.png"] != before["1.png"] and len(rows(out)) == 5


def test_an_interruption_at_any_file_loses_and_doubles_nothing(folder, tmp_path, monkeypatch):
    restore(options(tmp_path / "straight", folder))
    url, publish = folder.as_uri(), Store.publish
    for stop in (0, 1, 2, 4, 5, 8):
        out, left = tmp_path / f"out{stop}", [stop]

        def interrupted(self, file, name, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            publish(self, file, name)

        monkeypatch.setattr(Store, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(options(out.as_uri(), url))
        monkeypatch.undo()
        restore(options(out.as_uri(), url))
        assert results(out) == results(tmp_path / "straight"), stop
        table = pq.read_table(out / "manifest.parquet")
        assert sorted(table["result"].to_pylist()) == sorted({*results(out), "bad.png"}), stop
        assert list((out / ".done" / "parts").iterdir()) == []


def test_files_of_somebody_else_and_inputs_are_not_replaced(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").write_bytes(b"mine")
    problems = restore(options(out.as_uri(), folder.as_uri())).problems
    assert sum("0.png is there already and was not made by this job" in sentence for sentence in problems) == 1
    assert (out / "0.png").read_bytes() == b"mine" and len(results(out)) == 4
    assert len(restore(options(out.as_uri(), folder.as_uri())).problems) == 2
    assert len(restore(options(out.as_uri(), folder.as_uri(), overwrite=True)).problems) == 1
    assert (out / "0.png").read_bytes() != b"mine"
    original = (folder / "0.png").read_bytes()
    told = restore(options(folder.as_uri(), folder.as_uri(), overwrite=True)).problems
    assert any("0.png would be overwritten by the result of" in sentence for sentence in told)
    assert (folder / "0.png").read_bytes() == original


def shard(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1234
            file.addfile(info, io.BytesIO(content))


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        return {member.name: file.extractfile(member).read() for member in file}


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two shards of three samples and one that is none; one sample has a picture that is none."""
    (tmp_path / "shards").mkdir()
    for number in range(2):
        shard(
            tmp_path / "shards" / f"{number}.tar",
            ("a/x.png", picture(number)),
            ("a/x.json", b'{"caption": "x"}'),
            ("y.jpg", picture(number + 2)),
            ("y.right.png", picture(number + 4)),
            ("z.cls", b"3"),
            ("z.png", picture(9) if number else b"no picture"),
        )
    (tmp_path / "shards" / "damaged.tar").write_bytes(b"no shard")
    return tmp_path / "shards"


def test_shards_become_shards_whose_pictures_have_the_bytes_of_one_machine(shards, tmp_path):
    out = tmp_path / "out"
    outcome = restore(options(out, *sorted(shards.glob("*.tar"))))
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    restore(options(tmp_path / "single", *(tmp_path / f"{number}.png" for number in range(6))))
    made, single = {name: members(data) for name, data in results(out).items()}, results(tmp_path / "single")
    assert list(made) == ["0.tar", "1.tar"]
    assert list(made["0.tar"]) == ["a/x.png", "a/x.json", "y.png", "y.right.png"]  # z has no result
    assert list(made["1.tar"]) == ["a/x.png", "a/x.json", "y.png", "y.right.png", "z.cls", "z.png"]
    assert made["0.tar"]["a/x.json"] == b'{"caption": "x"}' and made["1.tar"]["z.cls"] == b"3"
    for name, expected in {"a/x.png": "1.png", "y.png": "3.png", "y.right.png": "5.png"}.items():
        assert made["1.tar"][name] == single[expected]
    problems = sorted(outcome.problems)
    assert len(problems) == 2 and "0.tar!z.png" in problems[0] and "damaged.tar is no tar file" in problems[1]
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    assert len(table) == 9 and sum(bool(row["digest"]) for row in table) == 7


def test_finished_shards_are_kept(shards, tmp_path, monkeypatch):
    out, pattern = tmp_path / "out", str(shards / "[0-9].tar")
    restore(options(out, pattern))
    before = results(out)
    monkeypatch.setattr(ITERRestorer, "bands", None)
    outcome = restore(options(out, pattern))
    assert all(facts["was_done"] for facts in outcome.items.values()) and len(outcome.problems) == 1
    assert results(out) == before


def test_two_pictures_that_would_get_one_name_leave_their_sample_out(tmp_path):
    shard(tmp_path / "s.tar", ("x.png", picture(0)), ("x.jpg", picture(1)), ("y.png", picture(2)))
    outcome = restore(options(tmp_path / "out", tmp_path / "s.tar"))
    assert list(members(results(tmp_path / "out")["s.tar"])) == ["y.png"]
    assert "two pictures of x would become png." in outcome.problems[1] and len(outcome.problems) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"compare": True}, "compare, previews and dry_run go without URLs"),
        ({"actors": 2}, "are about a Ray cluster; give --engine ray as well"),
        ({"engine": "ray", "actors": 0}, "actors must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        options(tmp_path, "memory://bucket/in", **changes)


@pytest.mark.parametrize("url", ["memory://bucket/nothing", "memory://bucket/nothing/*.png", "unheard://of/it"])
def test_urls_of_nothing_are_one_sentence(url, memory, tmp_path):
    (problem,) = restore(options(tmp_path / "out", url)).problems
    assert url.partition("*")[0] in problem and problem.endswith(".") and "\n" not in problem


def test_a_store_of_an_unknown_kind_is_one_sentence(folder):
    with pytest.raises(ValueError, match=r"unheard://of/it.*unheard"):
        restore(options("unheard://of/it", folder))


# ---- a Ray cluster

LOST = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from restoration.restorer import Facts

class Lost:
    "Enlarges by repeating; the first process that is asked dies."

    @dataclass(frozen=True)
    class Options:
        scale: int = 2
        "Output pixels per input pixel and side."

    @classmethod
    def from_pretrained(cls, *, device="cpu", dtype=None):
        return cls()

    def facts(self, options):
        return Facts("lost", options.scale)

    def output_size(self, height, width, options):
        return height * options.scale, width * options.scale

    def bands(self, image, options, *, finish=None, observers=(), progress=None):
        killed = Path(__file__).with_name("killed")
        if Path(__file__).with_name("armed").exists() and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield finish(image.repeat_interleave(options.scale, dim=2).repeat_interleave(options.scale, dim=3))
"""


def command(*words: object) -> list[str]:
    code = "from scripts.main import start; start('restore')"
    return [sys.executable, "-c", code, *map(str, words)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def test_actors_give_the_bytes_of_one_process_though_one_is_killed(folder, tmp_path):
    pytest.importorskip("ray", reason="Ray is in the extra ray")
    (tmp_path / "lost.py").write_text(LOST)
    system = ["--system", f"{tmp_path}/lost.py:Lost", "--device", "cpu"]
    assert subprocess.run(command(folder, "--out", tmp_path / "one", *system), cwd=PROJECT).returncode == 2
    (tmp_path / "armed").touch()
    words = command(folder, "--out", tmp_path / "two", *system, "--engine", "ray", "--actors", "2")
    done = subprocess.run(words, cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert (tmp_path / "killed").exists()
    assert results(tmp_path / "two") == results(tmp_path / "one") and len(results(tmp_path / "two")) == 4
    assert [name for name, row in rows(tmp_path / "two").items() if row.problem] == ["bad.png"]
    assert done.stderr.count("bad.png") == 1


@pytest.mark.slow
def test_a_cluster_whose_driver_is_killed_goes_on(tmp_path):
    pytest.importorskip("ray", reason="Ray is in the extra ray")
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(picture(number, (60, 50)))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    out, given = tmp_path / "out", ["--source", SOURCE, "--device", "cpu"]
    words = command(tmp_path / "in", "--out", out, *given, "--engine", "ray", "--actors", "2")
    driver = subprocess.Popen(words, cwd=PROJECT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    finished = killed_at(driver, out, 8)
    assert len(finished) < 40
    assert subprocess.run(words, cwd=PROJECT, env=ENVIRONMENT).returncode == 2
    restore(options(tmp_path / "straight", tmp_path / "in"))
    assert results(out) == results(tmp_path / "straight") and len(results(out)) == 40
    kept = sum((out / name).stat().st_mtime_ns == when for name, when in finished.items())
    assert kept >= len(finished) - 2 * 16  # what two actors held in their hands
    assert len(rows(out)) == 41
