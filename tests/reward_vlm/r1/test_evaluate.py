"""The evaluation of judges: both orders, the published numbers, resumption."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from reward_vlm.data import Preference, preference_json, write_rows
from reward_vlm.r1.evaluate import R1Evaluation, evaluate
from reward_vlm.r1.lmms_eval import METRICS, write_lmms_eval
from reward_vlm.r1.options import R1Options
from reward_vlm.scenes import scene_pairs


def test_the_evaluation_counts_both_orders_and_continues(tmp_path):
    pairs = scene_pairs(5, 6)
    write_rows(tmp_path / "pairs.jsonl", [preference_json(pair, tmp_path) for pair in pairs])
    options = R1Evaluation(
        out=tmp_path / "out",
        rows=tmp_path / "pairs.jsonl",
        source="builtin:tiny",
        options=R1Options(batch_size=4, max_new_tokens=3),
    )
    assert evaluate(options).code == 0
    table = json.loads((tmp_path / "out" / "categories.json").read_text())
    assert table[0]["pairs"] == 6 and table[0]["readable"] == 0 and table[0]["accuracy"] == 0
    assert Image.open(tmp_path / "out" / "categories.png").format == "PNG"
    judged = (tmp_path / "out" / "judged.jsonl").read_text().splitlines()
    assert len(judged) == 6 and len(json.loads(judged[0])["votes"]) == 2
    (tmp_path / "out" / "judged.jsonl").write_text("\n".join(judged[:4]) + "\n")
    assert evaluate(options).code == 0
    assert len((tmp_path / "out" / "judged.jsonl").read_text().splitlines()) == 6


def test_benchmark_files_as_published(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    row = {"prompt": "q", "chosen": "c", "rejected": "r", "image": "red.png"}
    write_rows(tmp_path / "vl.jsonl", [{"id": f"RLHF-V-{n}", **row} for n in range(2)] + [{"id": "mathverse_1", **row}])
    options = R1Evaluation(
        out=tmp_path / "out", benchmark="vl_rewardbench", rows=tmp_path / "vl.jsonl", published=True, rule="published",
        source="builtin:tiny", options=R1Options(batch_size=4, max_new_tokens=3),
    )  # fmt: skip
    assert evaluate(options).code == 0
    table = {row["category"]: row for row in json.loads((tmp_path / "out" / "categories.json").read_text())}
    assert table["all"]["samples"] == 3 and table["general"]["samples"] == 2 and table["reasoning"]["samples"] == 1
    predictions = [{"id": "RLHF-V-1", "rewards": [1, 0]}, {"id": "mmmu_2", "rewards": [0, 1]}]
    write_rows(tmp_path / "predictions.jsonl", predictions)
    counted = R1Evaluation(
        out=tmp_path / "counted", benchmark="vl_rewardbench", predictions=tmp_path / "predictions.jsonl"
    )
    assert evaluate(counted).code == 0
    table = {row["category"]: row for row in json.loads((tmp_path / "counted" / "categories.json").read_text())}
    assert table["hallucination"]["accuracy"] == 1 and table["all"]["accuracy"] == 0.5
    with pytest.raises(ValueError, match="needs its file of --rows"):
        R1Evaluation(out=tmp_path, benchmark="vl_rewardbench")


def test_shared_benchmarks_are_told_in_the_json_of_lmms_eval(tmp_path):
    Image.new("RGB", (60, 60), "red").save(tmp_path / "red.png")
    row = {"prompt": "q", "chosen": "good", "rejected": "bad", "image": "red.png"}
    ids = ["RLHF-V-1", "RLHF-V-2", "mathverse_1", "wildvision_1"]
    write_rows(tmp_path / "vl.jsonl", [{"id": id, **row} for id in ids])
    options = R1Evaluation(
        out=tmp_path / "out", benchmark="vl_rewardbench", rows=tmp_path / "vl.jsonl", source="builtin:tiny",
        options=R1Options(batch_size=4, max_new_tokens=3),
    )  # fmt: skip
    assert evaluate(options).code == 0
    (told,) = (tmp_path / "out" / "lmms_eval" / "builtin__tiny").glob("*_results.json")
    content = json.loads(told.read_text())
    judged = [json.loads(line) for line in (tmp_path / "out" / "judged.jsonl").read_text().splitlines()]
    share = [sum(vote["winner"] == 0 for vote in row["votes"]) / 2 for row in judged]
    expected = ((share[0] + share[1]) / 2 + share[2] + share[3]) / 3
    assert content["results"]["vl_rewardbench"]["vlreward_score,none"] == pytest.approx(expected)
    assert {"configs", "versions", "n-shot", "n-samples", "date", "task_hashes", "model_name"} <= content.keys()
    (log,) = told.parent.glob("*_samples_vl_rewardbench.jsonl")
    samples = [json.loads(line) for line in log.read_text().splitlines()]
    assert [sample["vlreward_score"]["category"] for sample in samples] == [
        "hallucination", "hallucination", "reasoning", "general"
    ]  # fmt: skip
    assert {"doc_id", "target", "filtered_resps", "doc_hash", "input"} <= samples[0].keys()


def test_lmms_eval_counts_groups_alike_and_unreadable_replies_as_wrong(tmp_path):
    def row(number: int, *winners: int | None) -> dict:
        return {"row": number, "votes": [{"winner": winner, "text": "t"} for winner in winners]}

    groups = ["hallucination", "hallucination", "reasoning"]
    pairs = [Preference(f"{n}", "q", ("a", "b"), 1 + n % 2, category=group) for n, group in enumerate(groups)]
    rows = [row(0, 0, None), row(1, 1, 1), row(2, 1, 0)]
    for task, expected in (("vl_rewardbench", (0.75 + 0.5) / 2), ("multimodal_rewardbench", 2 / 3)):
        told = write_lmms_eval(tmp_path, task, pairs, rows, model="org/name", options={}, seconds=1.0)
        (values,) = json.loads(told.read_text())["results"].values()
        assert values[f"{METRICS[task]},none"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="no pairs to count"):
        write_lmms_eval(tmp_path, task, pairs, [], model="org/name", options={}, seconds=1.0)
