"""Dataclasses survive JSON, and refuse what does not fit in one sentence."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from vision.config import EMPTY, PathOrURL, Positional, cli, from_dict, load_config, reworded, save_config, to_dict


@dataclass(frozen=True)
class TileOptions:
    """Nested options."""

    size: int = 64
    """Side."""
    margins: tuple[int, int] = (1, 2)
    """Two numbers."""


@dataclass(frozen=True)
class SomeOptions:
    """Options of all kinds."""

    out: Path
    """A folder."""
    seeds: tuple[int, ...] = (0,)
    """Seeds."""
    start: float | None = None
    """A number or none."""
    mode: Literal["fast", "slow"] = "fast"
    """A choice."""
    strength: float = 0.5
    """Lies in (0, 1]."""
    compare: bool = False
    """A flag whose sentence is so long that it goes on in a
    second line of the source."""
    name: str | int = "a"
    """Two types."""
    table: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Named numbers."""
    tiles: TileOptions = field(default_factory=TileOptions)
    """Nested."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {self.strength}.")


FULL = SomeOptions(Path("a/b"), (1, 2, 3), 2.0, "slow", 1.0, True, 7, {"x": (1.0, 2.0)}, TileOptions(32, (3, 4)))


@pytest.mark.parametrize("config", [FULL, SomeOptions(Path("x"))])
def test_json_round_trip_gives_an_equal_config(config, tmp_path):
    assert from_dict(SomeOptions, json.loads(json.dumps(to_dict(config)))) == config
    save_config(config, tmp_path / "deep" / "config.json")
    assert load_config(SomeOptions, tmp_path / "deep" / "config.json") == config
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": 1}, "has no field 'colour'; known fields: out, seeds"),
        ({"seeds": None}, r"SomeOptions.seeds must be .*tuple.*, got None"),
        ({"seeds": [1, "2"]}, r"SomeOptions.seeds\[1\] must be int, got '2'"),
        ({"mode": "quick"}, "must be one of 'fast', 'slow', got 'quick'"),
        ({"compare": 1}, "SomeOptions.compare must be bool, got 1"),
        ({"strength": 1.5}, r"strength must lie in \(0, 1\], got 1.5"),
        ({"strength": True}, "SomeOptions.strength must be float, got True"),
        ({"tiles": {"size": 1}}, "SomeOptions.tiles lacks the field 'margins'"),
        ({"tiles": {"size": 1, "margins": [1]}}, "SomeOptions.tiles.margins must have 2 items, got 1"),
        ({"tiles": 3}, "SomeOptions.tiles must be a JSON object, got 3"),
    ],
)
def test_wrong_json_is_refused_with_its_place(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(SomeOptions, {**to_dict(FULL), **change})


def test_missing_key_is_named():
    data = to_dict(FULL)
    del data["mode"]
    with pytest.raises(ValueError, match="SomeOptions lacks the field 'mode'"):
        from_dict(SomeOptions, data)


def test_whole_numbers_are_floats_where_floats_are_wanted():
    loaded = from_dict(SomeOptions, {**to_dict(FULL), "strength": 1, "start": 3})
    assert type(loaded.strength) is float and type(loaded.start) is float


def test_files_of_other_classes_and_other_content_are_refused(tmp_path):
    path = tmp_path / "config.json"
    save_config(TileOptions(), path)
    with pytest.raises(ValueError, match="was saved from TileOptions, but SomeOptions was asked for"):
        load_config(SomeOptions, path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        load_config(SomeOptions, path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file"):
        load_config(SomeOptions, path)
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.json; weights have one"):
        load_config(SomeOptions, tmp_path / "none.json")


def test_values_without_json_form_are_refused():
    with pytest.raises(TypeError, match="out holds a object, which has no JSON form"):
        to_dict(replace(FULL, out=object()))


def test_command_line_fills_options():
    args = ["--out", "x", "--seeds", "1", "2", "--start", "None", "--tiles.size", "9", "--compare"]
    assert cli(SomeOptions, args=args) == SomeOptions(Path("x"), (1, 2), None, compare=True, tiles=TileOptions(size=9))


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--out", "x", "--strength", "1.5"], "strength must lie in (0, 1], got 1.5."),
        (["--out", "x", "--strenth", "0.5"], "--strenth"),
        (["--out", "x", "--mode", "quick"], "quick"),
        (["--out", "x", "--strength", "strong"], "strong"),
        ([], "--out"),
    ],
)
def test_wrong_command_lines_end_in_one_sentence_and_code_2(args, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        cli(SomeOptions, prog="some.py", args=args)
    written = capsys.readouterr()
    assert stop.value.code == 2
    assert sentence in written.err and written.err.count("\n") == 1
    assert not written.out and "─" not in written.err


@dataclass(frozen=True)
class Words:
    """Options of many kinds."""

    inputs: Positional[tuple[Path, ...]]
    """Paths."""
    share: float | None = None
    """A number, or none."""
    count: int = 1
    """A whole number."""
    frames: int | Literal["all"] | None = None
    """A whole number, or all."""
    window: tuple[float, float] | None = None
    """Two numbers."""
    slices: tuple[int, ...] = ()
    """Whole numbers."""
    out: Path | None = None
    """A path."""
    place: PathOrURL | None = None
    """A path or an address."""


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--share 0,5", "--share takes None or a number, got '0,5'"),
        ("--count 1.5", "--count takes a whole number, got '1.5'"),
        ("--frames some", "--frames takes None or a whole number or all, got 'some'"),
        ("--window 1", "--window takes None or 2 numbers, got '1'"),
        ("--window 1 x", "--window takes None or 2 numbers, got '1 x'"),
        ("--slices 1 x", "--slices cannot take all of '1 x'"),
        ("--out ''", f"--out: {EMPTY}"),
        ("--place ''", f"--place: {EMPTY}"),
        ("a.png ''", f"The command line: {EMPTY}"),
    ],
)
def test_words_that_are_no_value_are_told_for_people(args, sentence, capsys):
    with pytest.raises(SystemExit):
        cli(Words, prog="some.py", args=shlex.split(args))
    assert capsys.readouterr().err == f"{sentence} (--help lists the options).\n"


@dataclass(frozen=True)
class Seeded:
    """Options with a seed, and with options that have one."""

    seed: int = 0
    """Of the job."""
    inner: NestedSeed = field(default_factory=lambda: NestedSeed())
    """Further options."""


@dataclass(frozen=True)
class NestedSeed:
    """Options with a seed."""

    seed: int | None = None
    """Of a part."""


@pytest.mark.parametrize("name", ["--seed", "--inner.seed"])
@pytest.mark.parametrize(("seed", "right"), [(-1, False), (0, True), (2**32 - 1, True), (2**32, False)])
def test_seeds_are_what_generators_take(name, seed, right, capsys):
    if right:
        made = cli(Seeded, args=[name, str(seed)])
        assert seed in (made.seed, made.inner.seed)
        torch.Generator().manual_seed((seed << 32) + 2**31)  # as data are drawn
        return
    with pytest.raises(SystemExit):
        cli(Seeded, args=[name, str(seed)])
    assert capsys.readouterr().err == f"seed must lie in [0, 4294967295], got {seed}.\n"


@pytest.mark.parametrize("words", ["--share nan", "--window 0 nan"])
def test_what_is_no_number_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        cli(Words, args=words.split())
    assert capsys.readouterr().err == f"{words.split()[0].strip('-')} must be a number, got nan.\n"


def test_paths_and_addresses_come_as_what_they_are():
    made = cli(Words, args=["a.png", ".", "--out", "None", "--place", "s3://bucket/a"])
    assert made == Words((Path("a.png"), Path()), place="s3://bucket/a")


def test_help_shows_the_docstrings(capsys):
    with pytest.raises(SystemExit) as stop:
        cli(SomeOptions, prog="some.py", args=["--help"])
    assert stop.value.code == 0
    assert "Lies in (0, 1]." in capsys.readouterr().out


def test_help_ends_lines_where_the_terminal_does_and_leaves_the_dataclass_alone(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    before = dict(SomeOptions.__annotations__)
    with pytest.raises(SystemExit):
        cli(SomeOptions, args=["--help"])
    assert "so long that it goes on in a second line of the source." in capsys.readouterr().out
    assert SomeOptions.__annotations__ == before


@dataclass(frozen=True)
class Worded:
    """Options whose words were others."""

    padding: Literal["published", "minimal"] = reworded({"official": "published"}, "published")
    """How to pad."""


def test_values_of_older_files_are_read_by_their_names_of_today():
    for old, new in (("official", "published"), ("published", "published"), ("minimal", "minimal")):
        assert from_dict(Worded, {"padding": old}).padding == new
    assert to_dict(Worded())["padding"] == "published"
    with pytest.raises(ValueError, match="padding"):
        from_dict(Worded, {"padding": "offical"})
