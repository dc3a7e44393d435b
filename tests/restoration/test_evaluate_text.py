import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from restoration import evaluate_text
from restoration.evaluate_text import TextEvaluation, distance, page


def test_a_page_depends_on_its_generator_alone_and_says_what_is_drawn():
    good, said = page(np.random.default_rng(3), 120, 64)
    again, also = page(np.random.default_rng(3), 120, 64)
    other, differs = page(np.random.default_rng(4), 120, 64)
    assert good.shape == (3, 256, 480) and good.min() >= 0 and good.max() <= 1
    assert torch.equal(good, again) and said == also
    assert said != differs and not torch.equal(good, other)
    assert len(said) > 20 and " " not in said
    assert good.std() > 0.05  # ink on paper


@pytest.mark.parametrize(
    ("written", "read", "wrong"),
    [("letter", "letter", 0), ("letter", "lottor", 2), ("abc", "", 3), ("", "ab", 2), ("Invoice12", "nvoice112", 2)],
)
def test_distance_counts_insertions_deletions_and_exchanges(written, read, wrong):
    assert distance(written, read) == distance(read, written) == wrong


def test_pieces_of_a_line_are_read_from_left_to_right_whatever_their_order():
    def piece(x, y, text):
        return [[x, y], [x + 40, y], [x + 40, y + 20], [x, y + 20]], text, 1.0

    found = [piece(60, 43, "d"), piece(50, 2, "b"), piece(0, 0, "a"), piece(0, 40, "c")]
    assert [text for _, text, _ in evaluate_text._in_order(found)] == ["a", "b", "c", "d"]


def test_wrong_options_and_systems_cost_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="no degradation 'fog'"):
        TextEvaluation(tmp_path, degradations=("fog",))
    with pytest.raises(ValueError, match="at least 32 pixels"):
        TextEvaluation(tmp_path, width=8)
    with pytest.raises(ValueError, match="at least one system"):
        TextEvaluation(tmp_path, systems=())


def test_a_missing_package_and_an_unknown_system_cost_a_sentence_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs the package rapidocr-onnxruntime: pip install 'burnish\[ocr\]'"):
        evaluate_text.evaluate(TextEvaluation(tmp_path / "out", systems=("bicubic",)))
    with pytest.raises(ValueError, match="foggy"):
        evaluate_text.evaluate(TextEvaluation(tmp_path / "out", systems=("foggy",)))
    assert not (tmp_path / "out" / "run.json").exists()


def test_files_of_systems_of_one_name_are_kept_apart():
    systems = ["bicubic", "network:a/x.pth", "network:b/x.pth"]
    assert len({name.casefold() for name in evaluate_text._file_names(systems)}) == 3
    assert evaluate_text._file_names(systems[:2]) == ["bicubic", "x-pth"]


def test_sums_compare_each_page_with_the_first_system():
    def row(system, number, wrong):
        return {"degradation": "blind", "page": number, "system": system, "characters": 10, "wrong": wrong}

    rows = [row("bicubic", 0, 4), row("bicubic", 1, 2), row("iter", 0, 3), row("iter", 1, 5)]
    first, second = evaluate_text.table(rows, "bicubic")
    assert (first["wrong"], first["better"], first["worse"]) == (6, 0, 0)
    assert (second["wrong"], second["better"], second["worse"], second["share"]) == (8, 1, 1, 0.4)


def test_pages_are_read_and_counted_beside_the_first_system(tmp_path):
    pytest.importorskip("rapidocr_onnxruntime")
    options = TextEvaluation(tmp_path, systems=("bicubic",), pages=1, degradations=("bicubic",), pictures=True)
    evaluate_text.evaluate(options)
    rows = {row["system"]: row for row in json.loads((tmp_path / "text.json").read_text())}
    assert rows["written"]["share"] < 0.1
    assert rows["written"]["characters"] == rows["bicubic"]["characters"]
    assert rows["bicubic"]["better"] == rows["bicubic"]["worse"] == 0
    assert len(list((tmp_path / "pages").glob("*.png"))) == 2


@pytest.fixture
def counted(monkeypatch):
    """A reader that needs no package: it reads every third letter of no page, and counts how often it reads."""
    calls = []

    def read(picture):
        calls.append(float(picture.mean()))
        if len(calls) == limit[0]:
            raise KeyboardInterrupt
        return f"{calls[-1]:.6f}"

    limit = [0]
    monkeypatch.setattr(evaluate_text, "reader", lambda: read)
    return calls, limit


def test_a_measurement_that_was_killed_goes_on_with_the_pages_that_are_missing(tmp_path, counted):
    calls, limit = counted
    straight, broken = (
        TextEvaluation(tmp_path / name, systems=("bicubic",), pages=3, degradations=("bicubic",), width=64, height=32)
        for name in ("straight", "broken")
    )
    evaluate_text.evaluate(straight)
    assert len(calls) == 6
    limit[0] = 6 + 4  # the second reading of the second page
    with pytest.raises(KeyboardInterrupt):
        evaluate_text.evaluate(broken)
    assert sorted(path.name for path in (broken.out / "pages").iterdir()) == ["bicubic_00.json"]
    evaluate_text.evaluate(broken)
    assert len(calls) == 6 + 4 + 4  # the first page is not read again
    for name in ("pages.json", "text.json", "pages/bicubic_02.json"):
        assert (broken.out / name).read_text() == (straight.out / name).read_text()
    evaluate_text.evaluate(broken)
    assert len(calls) == 14


def test_more_pages_are_added_and_another_seed_measures_all_anew(tmp_path, counted):
    calls, _ = counted
    options = TextEvaluation(tmp_path, systems=("bicubic",), pages=1, degradations=("bicubic",), width=64, height=32)
    evaluate_text.evaluate(options)
    evaluate_text.evaluate(replace(options, pages=2, degradations=("bicubic", "blind")))
    assert len(calls) == 2 + 6
    rows = json.loads((tmp_path / "pages.json").read_text())
    assert [(row["degradation"], row["page"]) for row in rows[::2]] == [
        ("bicubic", 0), ("bicubic", 1), ("blind", 0), ("blind", 1)
    ]  # fmt: skip
    evaluate_text.evaluate(replace(options, seed=1))
    assert len(calls) == 10
