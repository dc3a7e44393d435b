"""Rows are read in the forms and files in which they are published, and refusals say what to change."""

from __future__ import annotations

import base64
import gzip
import io
import json

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from reward_vlm.benchmarks import VL_REWARDBENCH, benchmark_row
from reward_vlm.data import preference, read_rows
from reward_vlm.fields import open_picture
from reward_vlm.r1.options import R1Config
from reward_vlm.r1.rows import row_reader
from reward_vlm.scl.pairs import pair_row
from tests.vision.test_images import png_of

RED = Image.new("RGB", (8, 8), "red")


def png():
    buffer = io.BytesIO()
    RED.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    return tmp_path


def turn(role, text):
    return {"role": role, "content": text}


def blocks(role, text, *images):
    """Text after pictures, which are named or (None) lie in another field."""
    shown = [{"type": "image"} | ({} if image is None else {"image": image}) for image in images]
    return {"role": role, "content": [*shown, {"type": "text", "text": text}]}


def said(who, text):
    return {"from": who, "value": text}


GOOD, BAD = turn("assistant", "good"), turn("assistant", "bad")
PAIRS = {
    "own": {"prompt": "q", "chosen": "good", "rejected": "bad", "image": "0.png"},
    "scored": {"prompt": "q", "chosen": "good", "rejected": "bad", "images": ["0.png"], "score_chosen": 1.0},
    "tagged": {"prompt": "<image>\nq", "chosen": "good", "rejected": "bad", "image": "0.png"},
    "TRL": {"images": ["0.png"], "prompt": [blocks("user", "q", None)], "chosen": [blocks("assistant", "good")],
            "rejected": [blocks("assistant", "bad")]},
    "TRL, texts": {"images": ["0.png"], "prompt": [turn("user", "q")], "chosen": [GOOD], "rejected": [BAD]},
    "TRL, implicit prompt": {"images": ["0.png"], "chosen": [blocks("user", "q", None), GOOD],
                             "rejected": [blocks("user", "q", None), BAD]},
    "TRL, pictures in the prompt": {"prompt": [blocks("user", "q", "0.png")], "chosen": [GOOD], "rejected": [BAD]},
    "ms-swift": {"messages": [turn("user", "<image>q"), GOOD], "rejected_response": "bad", "images": ["0.png"]},
    "LLaMA-Factory": {"conversations": [said("human", "<image>q")], "chosen": said("gpt", "good"),
                      "rejected": said("gpt", "bad"), "images": ["0.png"]},
    "RLAIF-V": {"ds_name": "RLAIF-V", "image": {"bytes": png(), "path": "0.jpg"}, "question": "q", "chosen": "good",
                "rejected": "bad", "origin_dataset": "x", "origin_split": "{}", "idx": "0", "image_path": "0.jpg"},
}  # fmt: skip
JUDGED = {
    "VL-RewardBench": {"id": "a", "query": "q", "response": ["good", "bad"], "image": "0.png",
                       "human_ranking": [0, 1], "query_source": "POVID"},
    "Multimodal RewardBench": {"ID": "a", "Category": "vqa", "Text": "q", "Image": "0.png", "Output1": "bad",
                               "Output2": "good", "Better": "Output2"},
}  # fmt: skip


@pytest.mark.parametrize("form", PAIRS)
def test_published_preferences_train_correctors_and_judges(form, folder):
    pair = pair_row(PAIRS[form], folder)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "good", "bad")
    assert [open_picture(image) for image in pair.images] == [RED]
    found = preference(PAIRS[form], folder)
    assert found.question == "q" and found.answers[found.better - 1] == "good" and len(found.images) == 1
    assert row_reader(R1Config())(PAIRS[form], folder).answers == (f"<answer>{found.better}</answer>",)


@pytest.mark.parametrize("form", JUDGED)
def test_published_comparisons_are_read(form, folder):
    found = preference(JUDGED[form], folder)
    assert (found.question, found.answers[found.better - 1], found.id) == ("q", "good", "a")
    assert len(found.images) == 1


def test_the_official_rows_of_vl_rewardbench_are_read_with_the_better_answer_first(folder):
    row = JUDGED["VL-RewardBench"]
    for ranking, answers in (([0, 1], ["good", "bad"]), ([1, 0], ["bad", "good"])):
        found = benchmark_row(VL_REWARDBENCH)(row | {"human_ranking": ranking, "response": answers}, folder)
        assert (found.answers, found.better, found.question) == (("good", "bad"), 1, "q")


def test_better_answers_of_forms_that_tell_them_apart_stand_in_both_places(folder):
    rows = [PAIRS["own"] | {"prompt": str(number)} for number in range(40)]
    places = [preference(row, folder).better for row in rows]
    assert places == [preference(row, folder).better for row in rows] and 10 < places.count(1) < 30


def test_a_critics_judgements_are_prompts_with_answers(folder):
    row = {"id": "1", "image": "0.png", "conversations": [said("human", "<image>\nWhich ?")]}
    row["conversations"].append(said("gpt", "The better response is Response 2."))
    found = row_reader(R1Config())(row, folder)
    assert found.answers == ("<answer>2</answer>",) and found.dialogue().turns[0].text == "Which ?"
    row["conversations"][1] = said("gpt", "Score: 86")
    with pytest.raises(ValueError, match="the reply chooses no response"):
        row_reader(R1Config())(row, folder)


def published(image):
    content = [{"type": "text", "text": "t"}, {"type": "image", "image": "/nowhere/0.jpg"}]
    return {"question": "q", "message": json.dumps([turn("user", content)]), "answer": ["<answer>1</answer>"]} | image


def test_pictures_of_judgements_come_in_every_shape(folder):
    encoded = base64.b64encode(png()).decode()
    for value in (png(), encoded, f"data:image/png;base64,{encoded}", {"bytes": png(), "path": None}, "0.png",
                  {"bytes": None, "path": "0.png"}, (folder / "0.png").as_uri()):  # fmt: skip
        assert row_reader(R1Config())(published({"image": value}), folder).dialogue().images == (RED,)
    local = json.dumps([turn("user", [{"type": "image", "image": (folder / "0.png").as_uri()}])])
    assert row_reader(R1Config())({"message": local, "answer": "1"}, folder).dialogue().images == (RED,)


def write(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text("\ufeff" + json.dumps({"data": rows} if path.stem == "held" else rows, indent=2))
    elif path.suffix == ".jsonl":
        encoding = "utf-16" if path.name == "wide.jsonl" else "utf-8"
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding)
    elif path.name == "saved":
        from datasets import Dataset

        Dataset.from_list(rows).save_to_disk(str(path))
    else:
        path.mkdir()
        write(path / "b.parquet", rows[2:])
        write(path / "a.jsonl", rows[:2])
    return path


@pytest.mark.parametrize(
    "name", ["rows.parquet", "rows.json", "held.json", "rows.jsonl", "wide.jsonl", "saved", "files"]
)
def test_rows_come_from_every_kind_of_file(name, folder):
    encoded = base64.b64encode(png()).decode()
    rows = [PAIRS["own"] | {"id": str(number), "image": f"data:image/png;base64,{encoded}"} for number in range(3)]
    found, problems = read_rows(write(folder / name, rows), pair_row)
    assert [row.id for row in found] == ["0", "1", "2"] and problems == []
    rows[1]["chosen"] = ""
    target = folder / "other" / name
    target.parent.mkdir()
    found, problems = read_rows(write(target, rows), pair_row, skip_bad=True)
    assert [row.id for row in found] == ["0", "2"]
    place = {"rows.jsonl": "line 3", "wide.jsonl": "line 3", "files": "a.jsonl line 3"}.get(name, "row 2")
    assert len(problems) == 1 and f"{target} {place}: chosen" in problems[0]


def test_pictures_with_bytes_of_a_saved_data_set_are_not_decoded_twice(folder):
    from datasets import Dataset, Features, Value
    from datasets import Image as Pictures

    features = Features({"question": Value("string"), "chosen": Value("string"), "rejected": Value("string"),
                         "image": Pictures()})  # fmt: skip
    rows = {"question": ["q"], "chosen": ["a"], "rejected": ["b"], "image": [RED]}
    data = Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(folder / "saved"))
    data.to_parquet(str(folder / "rows.parquet"))
    for name in ("saved", "rows.parquet"):
        assert read_rows(folder / name, preference)[0][0].media() == [RED]


SLIPS = [
    (PAIRS["own"] | {"imgae": "0.png"}, "unknown field 'imgae'.* Is image meant"),
    (PAIRS["own"] | {"pictures": ["0.png"]}, "unknown field 'pictures'.* Leave it out"),
    (PAIRS["ms-swift"] | {"images": []}, "names 1 pictures .* holds 0"),
    (PAIRS["TRL"] | {"images": None}, "prompt shows 1 pictures, but the row holds 0"),
    (PAIRS["TRL"] | {"images": ["0.png"] * 2}, "prompt shows 1 pictures, but the row holds 2"),
    (PAIRS["TRL"] | {"prompt": [turn("system", "s"), turn("user", "q")]}, "got the turns system, user"),
    (PAIRS["TRL"] | {"prompt": []}, "list of messages"),
    (PAIRS["TRL"] | {"chosen": [turn("user", "x")]}, "must end with a turn of the assistant"),
    (PAIRS["TRL, implicit prompt"] | {"rejected": [turn("user", "other"), BAD]}, "begin with the same turns"),
    (PAIRS["TRL"] | {"prompt": [turn("user", [{"type": "audio"}])]}, "type text and image"),
    (PAIRS["own"] | {"image": "https://example.org/0.png"}, "download it first"),
    (PAIRS["own"] | {"image": "x" * 300 + ".png"}, "png"),
    (PAIRS["own"] | {"image": "data:image/png;base64,???"}, "base64 text is damaged"),
    (PAIRS["own"] | {"image": b"no picture"}, "is not an image"),
    (PAIRS["own"] | {"image": "/dev/zero"}, "no regular file"),
    (PAIRS["own"] | {"image": 3}, "named by its path, got 3"),
    (PAIRS["own"] | {"image": "a\0b"}, "null (byte|character)"),
]


@pytest.mark.parametrize("row, sentence", SLIPS, ids=[sentence[:20] for _, sentence in SLIPS])
def test_refusals_name_what_to_change(row, sentence, folder):
    with pytest.raises((ValueError, OSError), match=sentence):
        pair_row(row, folder)


BOMB = png_of((30_000, 30_000), 8, 2, bytes(100))


@pytest.mark.parametrize("value", [BOMB, base64.b64encode(BOMB).decode(), {"bytes": BOMB, "path": None}])
def test_a_picture_that_would_fill_the_memory_costs_its_row_alone(value, folder):
    rows = [PAIRS["own"], PAIRS["own"] | {"image": value}, PAIRS["own"]]
    make = iter(rows)
    write(folder / "rows.jsonl", [{"row": number} for number in range(3)])
    found, problems = read_rows(folder / "rows.jsonl", lambda _, base: pair_row(next(make), base), skip_bad=True)
    assert len(found) == 2 and "pixels, more than the limit" in problems[0]


def test_an_object_over_several_lines_is_one_sentence(folder):
    row, path = PAIRS["own"], folder / "rows.json"
    pretty = json.dumps(row, indent=2)
    for text in (pretty, pretty[:-9], f"{pretty}\n{pretty}", json.dumps({"version": 1, "data": [row]}, indent=2)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rows\.json holds an object over several lines; [^.]*\.$"):
            read_rows(path, pair_row, skip_bad=True)
    path.write_text(json.dumps({"data": [row, row]}))
    assert len(read_rows(path, pair_row)[0]) == 2
    path.write_text('{"prompt": \n' + json.dumps(row))  # a row that is cut off costs itself alone
    assert len(read_rows(path, pair_row, skip_bad=True)[0]) == 1


BROKEN = {
    "missing.jsonl": None, "cut.json": b'[{"prompt": "q"}, {"prom', "cut.parquet": b"PAR1" + b"\0" * 40,
    "packed.jsonl": gzip.compress(b"{}"), "half.jsonl": b"\xff\xfe{", "table.csv": b"a,b\n",
    "deep.json": b"[" * 100_000, "deep.jsonl": b'{"a":' * 100_000, "latin.jsonl": b'{"a": "\xff"}',
}  # fmt: skip


def test_pictures_are_found_as_windows_names_them(folder):
    (folder / "s").mkdir()
    Image.new("RGB", (60, 60)).save(folder / "s" / "a.png")
    rows = [
        {"question": "?", "answers": ["a", "b"], "better": 1, "image": name} for name in ("s\\a.png", ".\\s\\a.png")
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, _ = read_rows(folder / "rows.jsonl", preference)
    assert [len(row.images) for row in found] == [1, 1]


@pytest.mark.parametrize("ending", [".csv", ".TSV", ".xlsx"])
def test_a_table_costs_one_sentence(ending, folder):
    (folder / f"a{ending}").write_bytes(b"question,answer\nWhat?,red\n" if ending != ".xlsx" else b"PK\x03\x04")
    for skip in (False, True):
        with pytest.raises(ValueError, match=r"is a table \(\.\w+\), which is not read; save it as"):
            read_rows(folder / f"a{ending}", preference, skip_bad=skip)


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_read_are_sentences(name, folder):
    if BROKEN[name] is not None:
        (folder / name).write_bytes(BROKEN[name])
    with pytest.raises((ValueError, FileNotFoundError), match=name):
        read_rows(folder / name, pair_row)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no rows"):
        read_rows(folder / "empty", pair_row)
