"""Every command of the documentation and of the commands' own help is run, on small inputs under the names it gives.

A command runs as it stands; `SMALLER` adds options that make it short, and what cannot run on a bare machine stands in
`NOT_RUN` with the reason. Lines of shell that are no command of ours are checked by what they name.
"""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from scripts import terminal
from tests.documented import PROJECT, Line, burnish_lines, shell_lines, snippets
from tests.documented_inputs import WEIGHTS, write_inputs

OBJECT = "--volume-steps 28 --refine none --grid-size 24 --view-size 32 --texture-size 32 --max-faces 200"
SMALLER = {
    r"burnish restore .*--system pasd": "--steps 1",
    r"burnish restore .*--best-of": "--best-of 2",
    r"burnish edit .*--trajectories": "--frames 1 --steps 2 --trajectories 2",
    r"burnish edit": "--frames 1 --steps 2",
    r"burnish reconstruct .*--keep-topology": "--texture-steps 1 --view-size 32 --texture-size 32 --film none",
    r"burnish reconstruct": f"{OBJECT} --film none",
    r"burnish evaluate (iter|pasd)": "--crop 48 --peers animevideov3",
    r"burnish evaluate r1-restorations": "--crop 64 --windows 1 --seeds 2",
    r"burnish evaluate scl .*(votes|rank-reviews)": "--rows test.jsonl",
    r"burnish evaluate scl .*--drafts": "--limit 3",
    r"burnish evaluate verifier": "--limit 3",
    r"burnish judge --audit": "--max-new-tokens 2",
    r"burnish benchmark effort": "--largest 128",
    r"burnish benchmark harm": "--size 64 --kinds blind --seeds 2",
    r"burnish benchmark judge-reward": "--taught 1 --updates 1 --prompts 2 --samples 2 --tests 2",
    r"burnish benchmark restorers": "--cuts 1 --size 64 --kinds blind --systems none iter:clean@1",
    r"burnish prompts": "--limit 4 --search-rounds 1 --mutations 1",
    r"burnish benchmark pie": "--steps 4 --rounds 1 --source builtin:tiny",
    r"burnish train r1 --stage": "--steps 1 --batch-size 2 --accumulate 1 --max-new-tokens 4",
    r"burnish train scl --recipe splice": "--revisions 'no .'",  # the stand-in for org/name says little
    r"burnish train scl --recipe strategy": "--limit 40 --held-out-limit 2 --asking.votes 2",
    r"burnish train scl --recipe lessons": "--updates.epochs 1 --updates.accumulate 1 --updates.lora.rank 0",
    r"burnish train scl --pairs": "--dpo.epochs 1 --dpo.batch-size 2 --dpo.accumulate 1 --dpo.lora.rank 0",
}
"""Beginning of a line (a regular expression) -> options that make it short; the first that fits."""
NOT_RUN = {
    r"burnish web": "serves until it is interrupted; tests/scripts/test_web.py opens the page",
    r"burnish serve": "serves until it is interrupted; tests/reward_vlm/test_serve.py asks it",
    r".*(restorers .*--keep|(train|evaluate) judge |judge:runs)": "teaches a judge; tests/restoration/test_judge.py",
    r"burnish (benchmark restorers .*--scale 1|train selector --full)": "a trace of your own at full size",
    r".*--engine ray": "starts a Ray cluster; tests/restoration/test_restore_at_scale.py starts one",
    r"burnish restore shards": "reads shards of your own; tests/restoration/test_restore_at_scale.py makes some",
    r".*one-step:": "needs converted weights; tests/restoration/one_step makes small ones",
    r"burnish edit .*--pipeline": "needs a pipeline of diffusers; tests/scripts/test_edit_pipeline.py makes small ones",
    r"burnish convert": "needs the authors' checkpoints; tests/scripts/test_convert.py converts small ones",
    r"burnish train iter --recipe mini": "needs 21 photographs of two Debian packages, and trains for an hour",
    r"burnish (train iter --recipe sharpen|evaluate sharpened)": "needs samples; restoration/iter/test_sharpen.py",
    r"burnish prompts (pasd|pie)": "networks of the real size; tests/scripts/test_prompts.py searches in small",
    r"burnish .*@runs/": "takes what a search for prompts writes; tests/scripts/test_prompts.py does",
    r"burnish edit .*--look-ahead": "an hour of edits; tests/vision/edit/test_look_ahead.py looks ahead in small",
    r"burnish train iter --stage": "the published network is large; see tests/restoration/iter/test_train.py",
    r"burnish judge .*--template (q_insight|unified_think)": "long prompts of larger models; see tests/reward_vlm",
    r"burnish train r1 --recipe judgements": "needs a served model; tests/reward_vlm/r1/test_judgements.py serves one",
    r"burnish train r1 --recipe mini-restoration": "needs the photographs; tests/reward_vlm/r1 trains it in small",
    r"burnish train scl --recipe rounds": "trains for minutes; tests/reward_vlm/scl/test_rounds.py has small rounds",
    r"burnish train (r1|scl) --recipe mini": "trains for minutes; tests/reward_vlm trains them in small",
    r"burnish benchmark restorers --hr photos --out": "run once, before what reads its result",
    r"burnish benchmark restorers .*network:": "names a network of yours; tests/restoration/test_networks.py makes one",
    r"burnish benchmark harm .*--measured": "takes what four measurements write; tests/restoration/test_judge.py does",
    r"burnish benchmark gtr": "times real sizes; tests/recon3d/test_evaluate.py times small ones",
    r"burnish benchmark pasd": "networks of the real size; tests/scripts/test_benchmark_pasd.py has small ones",
    r"burnish benchmark r1": "trains for half an hour; tests/reward_vlm/r1/test_benchmark.py runs it in small",
    r"burnish evaluate gtr": "compares 100,000 points of every surface; tests/recon3d/test_evaluate.py has fewer",
    r"burnish evaluate text": "reads with a package of its own; tests/restoration/test_evaluate_text.py reads a page",
    r"burnish evaluate pie": "needs volumes of brains; tests/vision/edit has small ones",
    r"burnish train r1 --stage rl": "rounds of TRL's trainer; tests/reward_vlm/r1/test_train.py and test_strategies.py",
}
"""Beginning of a line (a regular expression) -> why it is parsed only (tests/test_docs.py)."""
MEASURED = "burnish benchmark restorers --hr photos --out runs/restorers"
"""Makes what `evaluate selector` and `train selector` read, and so is run with the inputs."""
SNIPPETS_NOT_RUN = {
    "for at in schedule:": "the loop in words",
    "class MyRestorer": "tests/test_readme.py restores with it",
    'load_views("PICTURES")': "fits an object for a minute; the commands above do it in small",
}
"""Part of a Python block -> why it is not run."""

OTHERS = {
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    'eval "$(burnish completion bash)"',
    "python docs/gallery.py",
}
"""What needs no check, or is checked elsewhere (tests/scripts/test_main.py: completion)."""


def first_fit(table: dict[str, str], line: str) -> str | None:
    return next((said for begins, said in table.items() if re.match(begins, line)), None)


def runnable() -> list[Line]:
    lines = {line.text.partition(" #")[0].strip(): line for line in burnish_lines() if line.whole}
    return [line for text, line in sorted(lines.items()) if first_fit(NOT_RUN, text) is None]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(f"{MEASURED} {first_fit(SMALLER, MEASURED)}")
    return folder


def laid_out(inputs: Path, folder: Path, command: str) -> None:
    """Links to the inputs, but not where the command writes; rows and weights of the one kind that it reads."""
    for path in inputs.iterdir():
        if path.name == "runs":
            (folder / "runs").mkdir()
            for below in path.iterdir():
                laid = folder / "runs" / below.name
                if not re.search(rf"--(out|folder) runs/{below.name}\b", command):
                    laid.symlink_to(below)
                elif f"runs/{below.name}/" in command:
                    laid.mkdir()
                    for inside in below.iterdir():
                        (laid / inside.name).symlink_to(inside)
        else:
            (folder / path.name).symlink_to(path)
    if "pasd" in command:
        (folder / "FOLDER").unlink()
        (folder / "FOLDER").symlink_to(WEIGHTS["pasd"])
    kind = "judge" if re.search(r"\b(judge|r1)\b", command) else "answer"
    (folder / "questions.jsonl").symlink_to(inputs / f"questions-{kind}.jsonl")
    (folder / "org").mkdir()
    (folder / "org" / "name").symlink_to(WEIGHTS[kind])


def run(line: str) -> None:
    """As the program `burnish` does, in this process."""
    _, command, *words = shlex.split(line, comments=True)
    with pytest.raises(SystemExit) as ended:
        module = importlib.import_module(f"scripts.{command}")
        terminal.run(lambda: module.call(module.parse(words), terminal.Terminal()))
    assert ended.value.code in (0, None), line


@pytest.mark.parametrize("line", runnable(), ids=lambda line: f"{line.place}: {line.text}"[:110])
def test_commands_of_the_documentation_run(line, inputs, tmp_path, monkeypatch):
    laid_out(inputs, tmp_path, line.text)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line.text, comments=True)
    if words[1].startswith("-"):
        assert words[1:] == ["--help"]
        return
    run(f"{line.text.partition(' #')[0]} {first_fit(SMALLER, line.text) or ''}")
    if {"--help", "--dry-run"} & set(words):
        return
    for flag in ("--out", "--folder"):
        if flag in words:
            assert (tmp_path / words[words.index(flag) + 1]).exists(), f"{line.text} wrote nothing"


@pytest.mark.parametrize("place, code", snippets(), ids=lambda value: value.splitlines()[0][:60])
def test_snippets_of_the_documentation_run(place, code, inputs, tmp_path, monkeypatch):
    if any(part in code for part in SNIPPETS_NOT_RUN):
        return
    laid_out(inputs, tmp_path, "burnish judge")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("from burnish", "from scripts"), place, "exec"), {})


def test_what_is_not_run_is_still_there():
    lines, codes = [line.text for line in burnish_lines()], [code for _, code in snippets()]
    for begins in (*NOT_RUN, *SMALLER, MEASURED):
        assert any(re.match(begins, line) for line in lines), f"no line begins with {begins}"
    for why in NOT_RUN.values():
        assert all((PROJECT / path.rstrip(".")).exists() for path in re.findall(r"tests/[\w/.]+", why)), why
    for part in SNIPPETS_NOT_RUN:
        assert any(part in code for code in codes), f"no snippet has {part}"


def other_lines() -> list[Line]:
    return [line for line in shell_lines() if not line.text.startswith("burnish ") and line.whole]


@pytest.mark.parametrize("line", other_lines(), ids=lambda line: line.text[:70])
def test_other_lines_of_shell_name_what_exists(line):
    """Installing, activating and many processes are not for a test; their targets, extras and files are looked up."""
    words = shlex.split(line.text, comments=True)
    program, rest = words[0], words[1:]
    if program == "make":
        assert subprocess.run(["make", "-n", *rest], cwd=PROJECT, capture_output=True).returncode == 0
    elif program == "pip":
        extras = set(re.findall(r"[a-z]+", "".join(re.findall(r"\[(.*?)\]", line.text))))
        assert extras <= set(re.findall(r"^([a-z]+) = \[", (PROJECT / "pyproject.toml").read_text(), re.M)), line
    elif program == "accelerate":
        script = next(word for word in rest if word.endswith(".py"))
        parse = importlib.import_module(f"scripts.{Path(script).stem}").parse
        parse(rest[rest.index(script) + 1 :])
    elif program in ("python", ".venv/bin/python"):
        module = rest[1] if rest[0] == "-m" else "pytest"
        assert module in ("pytest", "build") or (PROJECT / f"{module.replace('.', '/')}.py").is_file(), line
        assert all((PROJECT / word).exists() for word in rest if word.endswith(".py")), line
    else:
        assert line.text in OTHERS, (
            f"{line.place} shows {line.text}, which nothing checks; write a check, or a text block"
        )
