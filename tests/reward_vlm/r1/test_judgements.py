"""Judgements are written by a server, kept when they agree with the label, and continued after a kill."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reward_vlm.data import preference, preference_json, read_rows, write_rows
from reward_vlm.endpoint import Endpoint, EndpointError
from reward_vlm.r1 import judgements
from reward_vlm.r1.judgements import JudgementWriting, train
from reward_vlm.r1.options import R1Config
from reward_vlm.scenes import scene_pairs


@pytest.fixture
def rows(tmp_path):
    pairs = [replace(pair, rationale=None) for pair in scene_pairs(4, 6)]
    write_rows(tmp_path / "pairs.jsonl", [preference_json(pair, tmp_path) for pair in pairs])
    return tmp_path / "pairs.jsonl"


class Writer(Endpoint):
    """Says 1 at first, then 2; replies about black grounds are never well formed."""

    def complete(self, dialogues, *, temperature=0.0, max_tokens=1024):
        asked.append(len(dialogues))
        digit = 1 if len(asked) % 2 else 2
        texts = [dialogue.turns[0].text for dialogue in dialogues]
        return [f"<think>so {digit}</think>{'x' * ('black' in t)}<answer>{digit}</answer>" for t in texts]


asked: list[int] = []


def test_rationales_difficulty_and_continuation(rows, tmp_path, monkeypatch):
    asked.clear()
    options = JudgementWriting(
        rows, tmp_path / "out" / "judged.jsonl", Writer("http://localhost/v1"), R1Config("plain"), chunk=3, tries=2
    )
    with monkeypatch.context() as patched:  # killed after the first chunk
        whole = judgements.write_judgements
        patched.setattr(judgements, "write_judgements", lambda *a: whole(*a) if len(asked) < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(options)
    with open(options.out, "a") as file:
        file.write('{"id": "cut o')
    judged, problems = read_rows(train(options), preference)
    assert not problems and len(judged) == 6
    assert sum(pair.better == 1 for pair in judged) == 3  # balanced
    for pair in judged:
        solvable = not any("black" in answer for answer in pair.answers)
        assert pair.difficulty == (pair.better if solvable else 0)
        assert pair.rationale == (f"so {pair.better}" if solvable else None)
    with pytest.raises(ValueError, match="begun with other options"):
        train(replace(options, tries=3))


def test_a_server_that_is_down_stops_the_writing(rows, tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", tries=1, timeout_seconds=1.0)
    with pytest.raises(EndpointError, match="gave no reply"):
        train(JudgementWriting(rows, tmp_path / "judged.jsonl", endpoint))
    assert not (tmp_path / "judged.jsonl").exists()
    assert json.loads((tmp_path / ".judged.jsonl.options.json").read_text())["tries"] == 3
