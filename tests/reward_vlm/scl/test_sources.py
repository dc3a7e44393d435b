"""Reading published benchmarks from files in the forms in which they come."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from reward_vlm.scl import sources
from reward_vlm.scl.prompts import published_options
from reward_vlm.scl.sources import BENCHMARKS, benchmark_question, read_benchmark

ROWS = {
    "MMStar": {"index": 7, "question": "What? A: a cat, B: a dog", "answer": "B"},
    "MMBench": {"index": 3, "question": "What?", "A": "a cat", "B": "a dog", "C": "nan", "D": None, "answer": "B"},
    "SEEDBench": {
        "question_id": "s1", "question": "What?", "answer": "D",
        "choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d",
    },
    "ScienceQA": {"question": "What?", "choices": ["a cat", "a dog"], "answer": 1},
    "MMEvalPro": {"triplet_id": "t", "question": "What?", "choices": list("vwxyz"), "answer": "E"},
    "RealWorldQA": {"question": "What?\nA. x\nB. y\nPlease answer directly with the letter.", "answer": "A"},
    "AI2D": {"question": "What?", "options": ["a cat", "a dog"], "answer": "1"},
    "MMMU": {
        "id": "m", "question": "What in <image 1>?", "options": "['a cat', 'a dog']", "answer": "B",
        "question_type": "multiple-choice",
    },
}  # fmt: skip


def picture(colour, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(stream, kind)
    return stream.getvalue()


def saved(folder, name, row, colours):
    """A parquet file with one row for each colour, as the hub has them."""
    from datasets import Dataset, Features, List, disable_progress_bars
    from datasets import Image as Pictures

    disable_progress_bars()
    images = [{"bytes": picture(colour), "path": None} for colour in colours]
    columns = {field: [value] * len(colours) for field, value in row.items()}
    field = "image_1" if name == "MMMU" else "image"
    kind = List(Pictures()) if name == "SEEDBench" else Pictures()
    columns[field] = [[image, image] for image in images] if name == "SEEDBench" else images
    plain = Dataset.from_dict({key: value for key, value in columns.items() if key != field})
    data = Dataset.from_dict(columns, features=Features({**plain.features, field: kind}))
    folder.mkdir(exist_ok=True)
    data.to_parquet(str(folder / f"{BENCHMARKS[name].split}-00000-of-00001.parquet"))
    return data


@pytest.mark.parametrize("name", ROWS)
def test_every_set_of_the_hub(name, tmp_path):
    saved(tmp_path / "set", name, ROWS[name], ["red", "blue"])
    found, problems = read_benchmark(name, tmp_path / "set", pictures=tmp_path / "pictures")
    assert not problems and len(found) == 2
    for asked, colour in zip(found, [(255, 0, 0), (0, 0, 255)], strict=True):
        (image,) = asked.media()
        assert image.getpixel((0, 0)) == colour and asked.source == name
    row, first = ROWS[name], found[0]
    texts = row.get("choices", {"AI2D": ["a cat", "a dog"], "MMMU": ["a cat", "a dog"]}.get(name))
    texts = texts or {"MMBench": ["a cat", "a dog"], "SEEDBench": list("abcd")}.get(name, [])
    letters = "01" if name == "ScienceQA" else "ABCDE"
    assert first.options == tuple(zip(letters, texts, strict=False))
    assert first.answer == {"AI2D": "B"}.get(name, str(row["answer"]))
    ids = {"ScienceQA": "0", "RealWorldQA": "0", "AI2D": "0", "MMEvalPro": "t-0", "MMMU": "m", "SEEDBench": "s1"}
    assert first.id == ids.get(name, str(row.get("index")))
    limited, _ = read_benchmark(name, tmp_path / "set", pictures=tmp_path / "pictures", limit=1)
    assert limited == found[:1]


def test_saved_sets_and_their_splits(tmp_path):
    from datasets import DatasetDict

    data = saved(tmp_path / "set", "MMBench", ROWS["MMBench"], ["red"])
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"dev": data, "other": data}).save_to_disk(str(tmp_path / "two"))
    sources = [tmp_path / "one", tmp_path / "two", next((tmp_path / "set").iterdir()), tmp_path / "set"]
    found = [read_benchmark("MMBench", source, pictures=tmp_path / "p")[0] for source in sources]
    assert all(each == found[0] and len(each) == 1 for each in found)
    assert read_benchmark("MMBench", tmp_path / "two", split="other", pictures=tmp_path / "p")[0] == found[0]
    with pytest.raises(ValueError, match=r"no \.parquet file whose name begins with test"):
        read_benchmark("MMBench", tmp_path / "set", split="test", pictures=tmp_path / "p")


def test_a_table_with_pictures_as_text_and_its_bad_rows(tmp_path):
    text = base64.b64encode(picture("red", "JPEG")).decode()
    lines = [f"5\tPick\tp\tNone\t\tx\tC\t{text}", f"6\tPick\tp\tq\t\t\tB\t{text[:80]}", f"7\tPick\tp\tq\t\t\tD\t{text}"]
    lines += ["8\tPick\tp\tq\t\t\tA\t", f"9\tPick\tp\tq\t\t\tA\t{text}"]
    table = tmp_path / "set.tsv"
    table.write_text("index\tquestion\tA\tB\tC\tE\tanswer\timage\n" + "\n".join(lines).replace("\tx\tC\t", "\tx\tE\t"))
    with pytest.raises(ValueError, match=r"MMTBench row 2: .* MMTBench row 3: answer must be one of A, B, got 'D'"):
        read_benchmark("MMTBench", table, pictures=tmp_path / "p")
    found, problems = read_benchmark("MMTBench", table, pictures=tmp_path / "p", skip_bad=True)
    assert [asked.id for asked in found] == ["5", "9"] and len(problems) == 3
    assert found[0].options == (("A", "p"), ("B", "None"), ("E", "x")) and found[0].answer == "E"
    assert sorted(path.suffix for path in (tmp_path / "p" / "MMTBench").iterdir()) == [".jpeg", ".jpeg"]
    assert published_options(found[0]) == " A. p. B. None. C. nan. D. nan."


def test_open_questions_are_not_asked(tmp_path):
    saved(tmp_path / "set", "MMMU", ROWS["MMMU"] | {"question_type": "open"}, ["red"])
    assert read_benchmark("MMMU", tmp_path / "set", pictures=tmp_path / "p") == ([], [])


def test_as_the_release_has_them():
    own, published = (benchmark_question("MMBench", ROWS["MMBench"], 0, published=flag) for flag in (False, True))
    assert own.options == (("A", "a cat"), ("B", "a dog"))
    assert published_options(published) == " A. a cat B. a dog C. nan"
    assert benchmark_question("MMEvalPro", ROWS["MMEvalPro"], 4, published=True).id == "t"
    texts = [benchmark_question("RealWorldQA", ROWS["RealWorldQA"], 0, published=flag).question for flag in (0, 1)]
    assert texts == ["What?\nA. x\nB. y", ROWS["RealWorldQA"]["question"]]


def test_what_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    cases = [("Nothing", None, "There is no benchmark 'Nothing'"), ("MMTBench", None, "comes as a file; name it")]
    cases += [
        ("MMBench", tmp_path / "none.tsv", "Cannot read .*none.tsv"),
        ("MMBench", "/none", "no such file or folder"),
    ]
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    for name, source, sentence in [*cases, ("MMBench", tmp_path / "bad.parquet", "Cannot read .*bad.parquet")]:
        with pytest.raises(ValueError, match=sentence):
            read_benchmark(name, source, pictures=tmp_path / "p")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package datasets"):
        read_benchmark("MMBench", pictures=tmp_path / "p")
