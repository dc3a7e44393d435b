"""Jobs: what is done, whose file it is, names of results, interruptions, and what a user is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vision.job import Job, Outcome, Unusable, choose_device, keep_to
from vision.signals import Signals, check_signals


@dataclass(frozen=True)
class Options:
    out: Path
    strength: int = 1
    title: str = ""


class Copies:
    """A job that writes every input `strength` times into its result; `.png` in the names is all that is a picture."""

    def __init__(self, folder: Path):
        self.out, self.made, self.events = folder / "out", [], []
        self.weights = folder / "weights"
        self.weights.write_text("weights")

    def __call__(self, *named, suffix=".png", extra=(), fail=None, **changes) -> Outcome:
        overwrite = changes.pop("overwrite", False)
        out = changes.pop("out", self.out)
        options = Options(out, **changes)
        self.events, self.made = [], []
        files = [self.weights]
        job = Job(out, options, neutral=["title"], files=files, show=self.events.append, overwrite=overwrite)
        for item in job.items(named, suffix):
            with job.attempt(item):
                if item.done():
                    continue
                with item.results() as folder:
                    names = [item.name] if suffix else [f"{item.name}/{n}.png" for n in range(options.strength)]
                    for name in [*names, *extra]:
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        (folder / name).write_bytes(item.input.read_bytes() * options.strength)
                    if fail is not None:
                        raise fail
                    item.tell(size=options.strength)
                self.made.append(item.name)
        return job.finish("images", source=None)

    def told(self, kind: str) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]


@pytest.fixture
def copies(tmp_path) -> Copies:
    return Copies(tmp_path)


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def there(out: Path) -> list[str]:
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in files if not path.parts[0].startswith("."))


def hidden(out: Path) -> list[str]:
    """Whatever is neither a result nor a record."""
    return [path.name for path in (out / ".done").rglob("*") if path.parent != out / ".done" or path.suffix != ".json"]


def test_what_is_done_is_not_repeated(tmp_path, copies):
    fill(tmp_path / "in", "a.png", "b.png")
    assert copies(tmp_path / "in").code == 0 and copies.made == ["a.png", "b.png"]
    assert there(copies.out) == ["a.png", "b.png", "run.json"] and hidden(copies.out) == []
    outcome = copies(tmp_path / "in", title="a neutral option")
    assert copies.made == [] and all(facts["was_done"] and facts["size"] == 1 for facts in outcome.items.values())
    (closing,) = copies.told("result")
    assert closing.startswith(f"{copies.out}: 2 images (2 done before)")
    run = json.loads((copies.out / "run.json").read_text())
    assert run["options"]["strength"] == 1 and sorted(run["images"]) == ["a.png", "b.png"] and run["problems"] == []


def test_changed_inputs_options_weights_and_results_are_done_again(tmp_path, copies):
    fill(tmp_path / "in", "a.png", "b.png", "c.png")
    copies(tmp_path / "in")
    (tmp_path / "in" / "a.png").write_text("another picture")
    (copies.out / "b.png").unlink()
    copies(tmp_path / "in")
    assert copies.made == ["a.png", "b.png"]
    copies.weights.write_text("trained further under the same name")
    copies(tmp_path / "in")
    assert copies.made == ["a.png", "b.png", "c.png"]
    copies(tmp_path / "in", strength=2)
    assert copies.made == ["a.png", "b.png", "c.png"]
    copies(tmp_path / "in", strength=1)
    assert copies.made == ["a.png", "b.png", "c.png"] and (copies.out / "b.png").read_text() == "b.png"


@pytest.mark.parametrize("content", ["", "[]", '{"key": 3}', '{"origin"', "[" * 100_000])
def test_a_damaged_record_counts_as_not_done(tmp_path, copies, content):
    fill(tmp_path / "in", "a.png")
    copies(tmp_path / "in")
    (record,) = (copies.out / ".done").glob("*.json")
    record.write_text(content)
    assert copies(tmp_path / "in").code == 0 and copies.made == ["a.png"]
    copies(tmp_path / "in")
    assert copies.made == []


def test_a_result_that_somebody_changed_is_made_again_and_the_changed_one_is_kept(tmp_path, copies):
    fill(tmp_path / "in", "a.png")
    copies(tmp_path / "in")
    (copies.out / "a.png").write_text("retouched by hand")
    assert copies(tmp_path / "in").code == 0 and (copies.out / "a.png").read_text() == "a.png"
    (note,) = copies.told("note")
    (kept,) = (copies.out / ".done" / "changed").rglob("a.png")
    assert kept.read_text() == "retouched by hand" and str(kept) in note


def test_files_of_others_are_not_replaced(tmp_path, copies):
    fill(tmp_path / "in", "a.png", "b.png")
    fill(copies.out, "a.png").joinpath("a.png").write_text("the user's own")
    assert copies(tmp_path / "in").code == 2 and copies.made == ["b.png"]
    assert (copies.out / "a.png").read_text() == "the user's own"
    (told,) = copies.told("refused")
    assert "a.png is there already and was not made by this job" in told and "--overwrite" in told
    assert copies(tmp_path / "in", overwrite=True).code == 0 and (copies.out / "a.png").read_text() == "a.png"


def test_results_of_another_input_of_the_same_name_are_not_replaced(tmp_path, copies):
    for day in ("one", "two"):
        fill(tmp_path / day, "a.png").joinpath("a.png").write_text(day)
    copies(tmp_path / "one")
    assert copies(tmp_path / "two").code == 2 and (copies.out / "a.png").read_text() == "one"
    assert (
        f"was made from {tmp_path / 'one' / 'a.png'}, not from {tmp_path / 'two' / 'a.png'}"
        in copies.told("refused")[0]
    )
    (tmp_path / "two" / "a.png").write_text("one")  # a copy of the same picture: its result is there
    assert copies(tmp_path / "two").code == 0 and copies.made == []
    (tmp_path / "two" / "a.png").write_text("two")
    assert copies(tmp_path / "two", overwrite=True).code == 0 and (copies.out / "a.png").read_text() == "two"


def test_further_files_of_a_result_are_not_replaced_either(tmp_path, copies):
    fill(tmp_path / "in", "a.png")
    fill(copies.out, "more/a.txt")
    assert copies(tmp_path / "in", extra=["more/a.txt"]).code == 2
    assert there(copies.out) == ["more/a.txt", "run.json"] and hidden(copies.out) == []


def test_a_folder_of_results_holds_those_of_the_last_run_only(tmp_path, copies):
    fill(tmp_path / "in", "a.png", "b.jpg")
    copies(tmp_path / "in", suffix="", strength=3)
    fill(copies.out, "a/note.txt")
    copies(tmp_path / "in", suffix="", strength=2)
    names = ["a/0.png", "a/1.png", "a/note.txt", "b_jpg/0.png", "b_jpg/1.png", "run.json"]
    assert there(copies.out) == names and (copies.out / "a" / "1.png").read_text() == "a.png" * 2
    (copies.out / "a" / "1.png").unlink()
    copies(tmp_path / "in", suffix="", strength=2)
    assert copies.made == ["a"] and there(copies.out) == names


@pytest.mark.parametrize("error", [ValueError("cannot"), OSError("cannot"), MemoryError(), KeyboardInterrupt()])
def test_what_fails_leaves_the_earlier_result_and_nothing_else(tmp_path, copies, error):
    fill(tmp_path / "in", "a.png")
    copies(tmp_path / "in")
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            copies(tmp_path / "in", strength=2, fail=error)
    else:
        assert copies(tmp_path / "in", strength=2, fail=error).code == 2
    assert (copies.out / "a.png").read_text() == "a.png" and hidden(copies.out) == []
    copies(tmp_path / "in")
    assert copies.made == []


def killed_at(operation: int, work) -> bool:
    """Do the work in a process that dies at its n-th operation on files; whether it came to that."""
    child = os.fork()
    if not child:
        count = 0

        def watch(event, arguments):
            nonlocal count
            writes = event == "open" and str(arguments[1])[0] in "wax"
            if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                count += 1
                if count == operation:
                    os._exit(9)

        sys.addaudithook(watch)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("suffix", [".png", ""])
def test_a_kill_at_any_moment_leaves_true_records(tmp_path, copies, suffix):
    fill(tmp_path / "in", "a.png", "b.png")
    copies(tmp_path / "in", suffix=suffix, strength=3)
    names = there(copies.out)
    before = {name: (copies.out / name).read_bytes() for name in names if name != "run.json"}
    operation = 1
    while killed_at(operation, lambda: copies(tmp_path / "in", suffix=suffix, strength=2)):
        assert copies(tmp_path / "in", suffix=suffix, strength=3).code == 0
        assert there(copies.out) == names and hidden(copies.out) == [], operation
        assert all((copies.out / name).read_bytes() == content for name, content in before.items()), operation
        operation += 1
    assert operation > 20


def test_names_of_results_depend_on_their_own_input_alone(tmp_path, copies):
    fill(tmp_path / "in", "x.jpg")
    copies(tmp_path / "in")
    alone = there(copies.out)
    fill(tmp_path / "in", "x.png", "x.webp")
    assert copies(tmp_path / "in").code == 0 and copies.made == ["x.png", "x_webp.png"]
    assert alone == ["run.json", "x_jpg.png"] and set(alone) < set(there(copies.out))


def test_sub_folders_are_done_and_kept_apart(tmp_path, copies):
    fill(tmp_path / "in", "a.png", "one/a.png", "two/deep/a.png", ".hidden/a.png", "two/.a.png")
    assert copies(tmp_path / "in").code == 0
    assert there(copies.out) == ["a.png", "one/a.png", "run.json", "two/deep/a.png"]


def test_several_folders_keep_their_names(tmp_path, copies):
    fill(tmp_path, "one/a.png", "two/a.png", "two/deep/b.png", "c.png")
    assert copies(tmp_path / "one", tmp_path / "two", tmp_path / "c.png").code == 0
    assert there(copies.out) == ["c.png", "one/a.png", "run.json", "two/a.png", "two/deep/b.png"]
    fill(tmp_path, "one/new.png")  # what is done stays where it is
    assert copies(tmp_path / "two", tmp_path / "one" / ".." / "one", tmp_path / "c.png").code == 0
    assert copies.made == ["one/new.png"]
    assert copies(tmp_path / "one", tmp_path / ("x" * 300), out=tmp_path / "long").code == 2
    copies(tmp_path / "one", tmp_path / "one", out=tmp_path / "alone")
    assert there(tmp_path / "alone") == ["a.png", "new.png", "run.json"]


def test_equal_names_that_nothing_tells_apart_are_refused_with_the_way_out(tmp_path, copies):
    fill(tmp_path, "one/a.png", "two/a.png", "x/one/a.png")
    for named in (("one/a.png", "two/a.png"), ("one", "x/one")):
        assert copies(*(tmp_path / name for name in named)).code == 2 and len(copies.told("refused")) == 1
        assert "would both become" in copies.told("refused")[0]
        assert "Rename one, or name the folders that they lie in, or one above both" in copies.told("refused")[0]
    assert copies(tmp_path / "one", tmp_path / "two", out=tmp_path / "apart").code == 0


def test_own_results_are_no_inputs(tmp_path, copies):
    here = fill(tmp_path / "in", "x.jpg", "s/y.jpg")
    for _ in range(3):
        assert copies(here, out=here, extra=[]).code == 0
    assert there(here) == ["run.json", "s/y.jpg", "s/y_jpg.png", "x.jpg", "x_jpg.png"]
    copies(here)  # into another folder: results of the first are among the inputs only when they are asked for
    inside = here / "restored"
    copies(here, out=inside)
    copies(here, out=inside)
    assert not (inside / "restored").exists()
    copies(here, out=tmp_path / "third")
    assert not (tmp_path / "third" / "restored").exists()
    assert any("restored holds results of an earlier run" in note for note in copies.told("note"))


def test_an_input_is_never_replaced_by_a_result(tmp_path, copies):
    here = fill(tmp_path / "in", "x_jpg.png", "x.jpg")
    assert copies(here / "x_jpg.png", out=here).code == 2
    assert "x_jpg.png would be overwritten by its result" in copies.told("refused")[0]
    assert copies(here, out=here, overwrite=True).code == 2
    assert (here / "x_jpg.png").read_text() == "x_jpg.png" and (here / "x.jpg").read_text() == "x.jpg"
    assert "x_jpg.png would be overwritten by the result of" in " ".join(copies.told("refused"))


def test_links_are_pictures_of_their_own_and_loops_cost_one_sentence(tmp_path, copies):
    folder = fill(tmp_path / "in", "a.png", "real/b.png")
    (folder / "link.png").symlink_to("a.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "linked").symlink_to("real")
    assert copies(folder).code == 2
    assert there(copies.out) == ["a.png", "link.png", "real/b.png", "run.json"]
    assert len(copies.told("refused")) == 2 and "linked is a link to a folder" in copies.told("note")[0]


def test_a_picture_that_is_named_twice_counts_once(tmp_path, copies):
    folder = fill(tmp_path / "in", "a.png", "b.png")
    (folder / "list.txt").write_text("a.png\n\n# a comment\nb.png\n")
    assert copies(folder / "list.txt", folder / "b.png", folder / ".." / "in").code == 0
    assert copies.made == ["a.png", "b.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_every_editor_are_read(tmp_path, copies, encoding):
    folder = fill(tmp_path / "in", "a b.png", "#1.png", "s/ä.png")
    (folder / "LIST.TXT").write_bytes('"a b.png"\r\n#1.png\r\n# a comment\r\ns/ä.png\r\n'.encode(encoding))
    assert copies(folder / "LIST.TXT").code == 0 and copies.made == ["#1.png", "a b.png", "s/ä.png"]


def test_lists_of_windows_are_read(tmp_path, copies):
    folder = fill(tmp_path / "in", "s/a.png", "b\\c.png", "b/c.png")
    (folder / "list.txt").write_text("s\\a.png\nb\\c.png\n")  # a file that is called so is meant itself
    assert copies(folder / "list.txt").code == 0 and copies.made == ["b\\c.png", "s/a.png"]


def test_patterns_are_unfolded(tmp_path, copies):
    folder = fill(tmp_path / "in", "a.png", "b.png", "c.jpg", "[d].png")
    assert copies(str(folder / "*.png")).code == 0 and copies.made == ["[d].png", "a.png", "b.png"]
    copies(folder / "[d].png")
    assert len(copies.events) == 1  # a file of that very name is no pattern


def test_what_is_left_out_is_told(tmp_path, copies):
    folder = fill(tmp_path / "in", "a.png", "b.xyz", "s/c.xyz", "notes", ".hidden")
    assert copies(folder).code == 0
    assert copies.told("note") == [f"{folder}: files of other kinds were left out (2 .xyz, 1 without ending)."]
    assert copies(fill(tmp_path / "none", "b.xyz")).code == 2 and "names no images" in copies.told("refused")[0]


def test_long_names_are_possible_or_refused_before_the_work(tmp_path, copies):
    name = "n" * 251
    folder = fill(tmp_path / "in", f"{name}.png", f"{name}.jpg")
    assert copies(folder).code == 2 and copies.made == [f"{name}.png"]
    assert "a name of 259 bytes, more than 255" in copies.told("refused")[0]


def test_names_with_control_signs_are_safe_to_print(tmp_path, copies):
    folder = fill(tmp_path / "in", "\x1b[31mred\x1b[0m\nline.gif")
    copies(folder, fail=ValueError(f"{folder}/\x1b[31mred\x1b[0m\nline.gif cannot be used."))
    told = copies.told("refused")[0]
    assert told.isprintable() and told.count("red") == 1 and "\\x1b[31mred" in told


def test_weights_that_cannot_be_used_end_the_job(tmp_path, copies):
    def load():
        raise ValueError("these are no weights")

    fill(tmp_path, "a.png")
    job = Job(copies.out, Options(copies.out))
    (item,) = job.items([tmp_path / "a.png"], ".png")
    with pytest.raises(Unusable, match="no weights"), job.attempt(item):
        job.needs(load)
    assert job.problems == [] and not copies.out.exists()


def test_a_result_that_grows_keeps_to_what_it_was_begun_with(tmp_path):
    keep_to(tmp_path / "begun.json", {"seed": 0, "images": ("a", "b"), "rate": 0.1})
    keep_to(tmp_path / "begun.json", {"seed": 0, "images": ("a", "b"), "rate": 0.1})
    with pytest.raises(ValueError, match=r"begun with other options or data: seed \(0, now 9\)\. Name another place"):
        keep_to(tmp_path / "begun.json", {"seed": 9, "images": ("a", "b"), "rate": 0.1})


def test_devices():
    assert choose_device("cpu").type == "cpu" and choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="There is no device 'quantum'"):
        choose_device("quantum")
    with pytest.raises(ValueError, match="There is no CUDA device here"):
        choose_device("cuda:99")


def test_an_interrupt_that_a_library_lost_is_not_reported_as_a_bad_input(tmp_path):
    job = Job(tmp_path / "out", Options(tmp_path / "out"))
    with Signals() as signals, pytest.raises(KeyboardInterrupt), job.attempt(tmp_path / "a.png"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            check_signals()
        except KeyboardInterrupt:
            raise ValueError("could not be read") from None
    assert signals.code == 143 and job.problems == []
    check_signals()  # nothing is left of it outside


WRITER = """
import sys, time
from vision.files import atomic_path
with atomic_path(sys.argv[1]) as part:
    with open(part, "w") as file:
        for sign in sys.argv[2] * 20:
            file.write(sign); file.flush(); time.sleep(0.005)
"""


def test_two_processes_that_write_one_name_leave_one_whole_file(tmp_path):
    both = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "x", sign], cwd=Path(__file__).parents[2])
        for sign in ("a", "b")
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "x").read_text() in ("a" * 20, "b" * 20) and len(list(tmp_path.iterdir())) == 1


def test_what_another_process_finished_in_between_is_not_made_again(tmp_path):
    copies = Copies(tmp_path)
    picture = tmp_path / "a.png"
    picture.write_text("a")
    job = Job(copies.out, Options(copies.out), neutral=["title"], files=[copies.weights])
    (item,) = job.items((picture,), ".png")
    own = item.record.own

    def after_another() -> None:
        copies(picture)
        own()

    item.record.own = after_another
    assert item.done() and copies.made == ["a.png"] and hidden(copies.out) == []


def test_records_are_those_of_an_undisturbed_run_wherever_it_was_killed(tmp_path, monkeypatch):
    picture = fill(tmp_path / "in", "a.png") / "a.png"
    plain, straight = os.replace, Copies(tmp_path)
    straight(picture, suffix="", strength=3)
    (record,) = (straight.out / ".done").glob("*.json")
    for moved in range(1, 5):  # the record, then three files
        killed, count = Copies(tmp_path), 0
        killed.out = tmp_path / f"killed_{moved}"

        def replace(*names, moved=moved):
            nonlocal count
            count += 1
            if count == moved:
                raise KeyboardInterrupt
            plain(*names)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "replace", replace)
            killed(picture, suffix="", strength=3)
        killed(picture, suffix="", strength=3)
        told = [json.loads((out / ".done" / record.name).read_text()) for out in (straight.out, killed.out)]
        assert told[0]["files"] == told[1]["files"] and told[0]["earlier"] == told[1]["earlier"] == {}
        assert there(killed.out) == there(straight.out) and hidden(killed.out) == []


def test_a_result_that_fails_leaves_no_folder(tmp_path, copies):
    picture = fill(tmp_path / "in", "a.png") / "a.png"
    job = Job(copies.out, Options(copies.out))
    (item,) = job.items((picture,), ".png")
    with job.attempt(item):
        assert not item.done()
        raise ValueError("it cannot be read")
    assert not list(copies.out.rglob("*"))


def test_an_item_that_another_process_works_on_is_refused_and_left_alone(tmp_path):
    copies = Copies(tmp_path)
    picture = tmp_path / "a.png"
    picture.write_text("a")
    job = Job(copies.out, Options(copies.out), files=[copies.weights])
    (item,) = job.items((picture,), ".png")
    with item.results() as folder:
        assert copies(picture).problems[0].startswith(f"{picture}: Another process works on")
        (folder / "a.png").write_text("a")
    item.record.release()
    assert (copies.out / "a.png").read_text() == "a"
    assert sorted(path.name for path in copies.out.iterdir() if path.name != "run.json") == [".done", "a.png"]


def test_a_result_whose_folder_was_taken_away_meanwhile_is_refused_with_what_was_made_since(tmp_path, copies):
    fill(tmp_path, "in/a.png")
    job = Job(copies.out, Options(copies.out))
    (item,) = job.items([tmp_path / "in"], ".png")
    with (
        pytest.raises(ValueError, match=r"a\.png was taken away while this worked; start again"),
        item.results() as folder,
    ):
        shutil.rmtree(copies.out)
        fill(folder, item.name, "../later")  # as atomic_path does, which makes folders
    assert [path for path in copies.out.rglob("*") if path.is_file()] == []
    assert copies(tmp_path / "in").code == 0 and there(copies.out) == ["a.png", "run.json"]
