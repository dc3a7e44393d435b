"""The command `burnish`: help at every level, exit codes, progress, what is loaded and what must be installed."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import scripts
from scripts import benchmark, convert, evaluate, main, reconstruct, terminal, train
from scripts.terminal import Terminal
from vision.job import Event

PROJECT = Path(__file__).resolve().parents[2]
TABLES = {"train": train.RECIPES}
TABLES |= {"evaluate": evaluate.SYSTEMS, "benchmark": benchmark.SYSTEMS, "convert": convert.SYSTEMS}


def ends(capsys, work) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of what ends the process."""
    with pytest.raises(SystemExit) as stop:
        work()
    said = capsys.readouterr()
    return stop.value.code or 0, said.out, said.err


def burnish(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["burnish", *words])
    try:
        return ends(capsys, main.start)
    finally:
        gc.unfreeze()  # this process goes on


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_lists_the_commands(words, monkeypatch, capsys):
    code, out, _ = burnish(monkeypatch, capsys, *words)
    assert code == 0 and all(f"  {name} " in out for name in main.COMMANDS)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_every_command_has_help_with_examples(command, flag, monkeypatch, capsys):
    code, out, err = burnish(monkeypatch, capsys, command, flag)
    assert code == 0 and err == "" and f"usage: burnish {command}" in out
    assert f"burnish {command}" in out.replace(f"usage: burnish {command}", "")  # an example


@pytest.mark.parametrize(("command", "system"), [(name, system) for name, table in TABLES.items() for system in table])
def test_every_system_and_recipe_is_listed_and_has_help(command, system, monkeypatch, capsys):
    _, listed, _ = burnish(monkeypatch, capsys, command, "--help")
    assert system in listed
    recipes = TABLES[command][system] if command == "train" else {}
    for recipe in recipes:
        assert recipe in listed or len(recipes) == 1
        code, out, _ = burnish(monkeypatch, capsys, command, system, "--recipe", recipe, "--help")
        assert code == 0 and all(f"--recipe {name}" in out for name in recipes if len(recipes) > 1)
    code, out, _ = burnish(monkeypatch, capsys, command, system, "--help")
    assert code == 0 and f"usage: burnish {command} {system}" in out
    assert names_of_code(out) == []
    assert not re.search("burnish .* burnish [a-z]", out)  # every example has its own line


def names_of_code(help: str) -> list[str]:
    """What the options of a help say to those alone who read the code."""
    return re.findall(r"│.*(?:[Ss]ee `|`reward_vlm|`restoration|`vision|\.py\)).*", help)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "The first word must be a command (restore, edit, "),
        (["paint"], "got 'paint'"),
        (["train"], "The first word must be the system to train (iter, "),
        (
            ["train", "iter", "--recipe", "maxi"],
            f"--recipe must be one of {', '.join(train.RECIPES['iter'])} for iter, got maxi.",
        ),
        (["completion", "fish"], "Name one shell of bash, zsh, tcsh."),
    ],
)
def test_wrong_words_cost_one_sentence(words, sentence, monkeypatch, capsys):
    code, out, err = burnish(monkeypatch, capsys, *words)
    assert code == 2 and out == "" and sentence in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "config", "name"),
    [
        ("restore", "restoration/pretrained/iter-mini/photo/config.json", "steps"),
        ("edit", "vision/pretrained/pie-brain-mini/pie/config.json", "guidance_scale"),
        ("judge", "reward_vlm/pretrained/r1-mini/scenes/judge.json", "max_new_tokens"),
        ("answer", "reward_vlm/pretrained/scl-mini/corrector.json", "max_new_tokens"),
        ("evaluate pie", "vision/pretrained/pie-brain-mini/pie/config.json", "guidance_scale"),
    ],
)
def test_help_tells_what_the_weights_have_where_an_option_is_none(command, config, name, monkeypatch, capsys):
    from vision.config import read_json

    _, out, _ = burnish(monkeypatch, capsys, *command.split(), "--help")
    assert f"here {read_json(PROJECT / config)[name]})" in " ".join(out.replace("│", " ").split())
    assert names_of_code(out) == []


def test_the_same_option_means_the_same_in_every_command():
    from recon3d.job import ReconstructOptions
    from restoration.iter.options import ITEROptions
    from restoration.job import RestoreOptions
    from reward_vlm.r1.job import JudgeOptions
    from reward_vlm.scl.job import AnswerOptions
    from vision.edit.job import EditOptions

    commands, meanings = (RestoreOptions, EditOptions, ReconstructOptions, JudgeOptions, AnswerOptions), {}
    for options in (*commands, ITEROptions):
        for field in fields(options):
            if field.name in ("source", "device", "dtype", "seed", "background", "threshold", "overwrite"):
                meanings.setdefault(field.name, set()).add((str(field.type), field.default))
    assert len(meanings) == 7 and {name: len(told) for name, told in meanings.items() if len(told) > 1} == {}


def test_completion_knows_commands_systems_and_options(monkeypatch, capsys):
    code, out, _ = burnish(monkeypatch, capsys, "completion", "bash")
    assert code == 0 and all(word in out for word in ("restore", "evaluate", "r1-restorations", "best-of", "stage"))


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (None, 0, ""),
        (ValueError("this cannot\nbe used"), 2, "this cannot be used"),
        (OSError(28, "No space left on device", "a.png"), 2, "a.png: No space left on device."),
        (FloatingPointError("loss is not finite"), 2, "loss is not finite"),
        (MemoryError(), 2, "There is not enough memory."),
        (ModuleNotFoundError("no", name="trl.trainer"), 2, "pip install 'burnish[train]'"),
        (KeyboardInterrupt(), 130, "Stopped; the same command goes on where it was."),
    ],
)
def test_every_end_has_its_code_and_one_sentence(error, code, sentence, capsys):
    def work():
        if error is not None:
            raise error

    ended, _, err = ends(capsys, lambda: terminal.run(work))
    assert ended == code and sentence in err and err.count("\n") == (error is not None)


@pytest.mark.parametrize("streams", [">/dev/null 2>/dev/full", ">&- 2>&-"])
def test_work_goes_on_where_nobody_can_be_told(tmp_path, streams):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "a.png")
    words = f"{tmp_path}/none.png {tmp_path}/a.png --out {tmp_path}/out --system bicubic"
    ended = subprocess.run(f"{sys.executable} scripts/restore.py {words} {streams}", shell=True, cwd=PROJECT)
    assert ended.returncode == 2 and (tmp_path / "out" / "a.png").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_makes_an_error_of_is_no_bad_input(number, code, capsys):
    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    ended, _, err = ends(capsys, lambda: terminal.run(work))
    assert ended == code and err == "Stopped; the same command goes on where it was.\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_leaves_results_and_records_and_nothing_else(number, code, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(40):
        noise = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / "in" / f"{index:02d}.png")
    out = tmp_path / "out"
    words = [PROJECT / "scripts/restore.py", tmp_path / "in", "--out", out, "--source", "builtin:tiny-mini"]
    process = subprocess.Popen([sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("*.png"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code and err.splitlines()[-1] == "Stopped; the same command goes on where it was."
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    results = {name for name in names if name.endswith(".png")}
    assert 2 <= len(results) < 40 and len(names) == 2 * len(results)  # with a record each


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.0)
    show = Terminal()
    show(Event("progress", "restoring", 1.5, 3))
    show(Event("note", "worth knowing"))
    show(Event("result", "out: 3 images", path=Path("out")))
    said = capsys.readouterr()
    assert said.err == "restoring: 1 of 3 (50%)\nworth knowing\n" and said.out == "out: 3 images\n"


def test_a_line_about_progress_is_said_once(capsys):
    show = Terminal()
    for done in (2.5, 3.0, 3, 3):
        show(Event("progress", "restoring", done, 3))
    show(Event("progress", "judging", 3, 3))
    assert capsys.readouterr().err == "restoring: 3 of 3 (100%)\njudging: 3 of 3 (100%)\n"


def test_garbage_is_collected_while_a_command_works_and_what_was_loaded_before_is_left_out(monkeypatch, capsys):
    seen = []

    def work(options, show):
        seen.append((options.device, gc.isenabled(), gc.get_freeze_count() > 10_000))

    monkeypatch.setattr(reconstruct, "call", work)
    assert burnish(monkeypatch, capsys, "reconstruct", "--out", "runs/object")[0] == 0
    assert seen == [("auto", True, True)]


def test_public_names_are_loaded_when_they_are_asked_for():
    code = "import sys, scripts, restoration; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT).stdout.split()
    assert {"scripts", "restoration"} <= set(loaded) and not {"torch", "numpy", "tyro", "PIL"} & set(loaded)
    for package in (scripts, importlib.import_module("restoration")):
        assert all(getattr(package, name) is not None for name in package.__all__) and package.__dir__()
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            package.nothing  # noqa: B018


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["burnish", *sys.argv[1:]]
from scripts.main import start
start()
"""
EXTRAS = (
    "accelerate bitsandbytes datasets diffusers fast_simplification imageio_ffmpeg lpips matplotlib open_clip peft "
    "rembg scipy skimage timm tokenizers torchvision transformers trimesh trl xatlas"
)


def without_extras(*words: object) -> subprocess.CompletedProcess:
    code = BLOCKED.replace("BLOCKED:", f"{EXTRAS.split()}:")
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, cwd=PROJECT)


def test_restoring_needs_only_what_is_always_installed(tmp_path):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    done = without_extras("restore", tmp_path / "a.png", "--out", tmp_path / "out", "--compare")
    assert done.returncode == 0, done.stderr
    told = done.stderr.splitlines()
    assert all(line.startswith("restoring: ") for line in told)  # a slow machine tells how far it is
    assert done.stdout.startswith(f"{tmp_path / 'out'}: 1 image")
    missing = without_extras("edit", "--out", tmp_path / "edit")
    assert missing.returncode == 2 and "pip install 'burnish[" in missing.stderr and missing.stderr.count("\n") == 1


def test_packages_that_some_commands_need_are_in_the_extras_that_are_told():
    project = (PROJECT / "pyproject.toml").read_text().partition("optional-dependencies]")[2]
    extras = dict(re.findall(r"^(\w+) = \[(.*?)\](?: *#[^\n]*)?$", project, re.M | re.S))

    def wanted(extra: str) -> str:
        inside = re.findall(r"burnish\[([\w,]+)\]", extras[extra])
        return extras[extra] + "".join(wanted(name) for names in inside for name in names.split(","))

    for package, extra in terminal.EXTRAS.items():
        name = {"skimage": "scikit-image", "open_clip": "open-clip-torch"}.get(package, package.replace("_", "-"))
        assert re.search(rf'"{name}(\[\w+\])?>=', wanted(extra)), package
    assert set(EXTRAS.split()) <= {*terminal.EXTRAS, "bitsandbytes", "timm", "tokenizers"}


@pytest.mark.parametrize("package", ["vision", "restoration", "recon3d", "reward_vlm", "scripts"])
def test_every_folder_of_code_is_a_package_that_is_installed(package):
    folders = {path.parent for path in (PROJECT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_warnings_of_this_project_are_sentences_and_those_of_others_are_not_shown(capsys):
    def work():
        warnings.warn_explicit("this is\nworth knowing", UserWarning, str(PROJECT / "vision" / "job.py"), 1)
        warnings.warn_explicit("deprecated", FutureWarning, json.__file__, 1)

    code, _, err = ends(capsys, lambda: terminal.run(work))
    assert code == 0 and err == "this is worth knowing\n"


def test_a_missing_option_is_named_without_its_help(monkeypatch, capsys):
    _, _, err = burnish(monkeypatch, capsys, "restore", "a.png")
    assert err == "--out must be given (--help lists the options).\n"


def test_what_a_terminal_would_obey_is_written_out(capsys):
    show = Terminal()
    for kind in ("note", "refused", "result"):
        show(Event(kind, "a\x1b[31mRED\x1b]0;title\x07\nb"))
    told = capsys.readouterr()
    assert told.err == "a\\x1b[31mRED\\x1b]0;title\\x07\nb\n" * 2 and told.out == "a\\x1b[31mRED\\x1b]0;title\\x07\nb\n"
