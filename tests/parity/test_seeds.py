"""The strategies against tables of the published codes of eight papers.

A file's keys tell what it holds, so that any file of these schemas runs; one of an unknown schema fails. All
configuration is read from the files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.rl.duel import duel_loss
from reward_vlm.rl.selectors import downsample, error_penalty, format_penalty, mixed_groups
from reward_vlm.scl.balance import Answer, balance_score, mean_balance, select, select_to_size
from reward_vlm.writers.splices import Attempt, splice, worth_splicing
from tests.parity.conftest import golden_root
from vision.refine import Verdict
from vision.strategies.lookahead import exploitation, exploration, find_first_error, step_score, td_lookahead
from vision.strategies.need import gate_metrics
from vision.strategies.prompts import best_prompts, prompt_scores
from vision.strategies.routing import route
from vision.strategies.values import Candidate
from vision.strategies.voting import Evidence, below_mean, reward_scale

ROOT = golden_root() / "seeds"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no tables of the strategies")
EXACT = {"rel": 1e-12, "abs": 1e-14}
"""Sums of doubles in another order."""


# Routing (MAgICoRe)


def router(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "rounds", lambda: check_router(data)


def check_router(data: dict[str, Any]) -> None:
    questions, refined = data["questions"], iter(data["refined"])

    def cheap(question: dict[str, Any]) -> list[Candidate]:
        rows = zip(question["pred"], question["orm_scores"], question["prm_scores"], strict=True)
        return [Candidate(question["question"], row, "cheap") for row in rows]

    def expensive(question: dict[str, Any], solutions: Any) -> list[Candidate]:
        made = [next(refined) for _ in solutions]
        assert {row["question"] for row in made} == {question["question"]}
        return [Candidate(question["question"], read_solution(row["text"]), "refined") for row in made]

    def evaluate(candidate: Candidate) -> Verdict:
        answer, outcome, steps = candidate.value
        return Verdict(outcome, Evidence(answer, tuple(steps)))

    states = []
    end = route(
        questions, cheap, expensive, evaluate, rounds=data["rounds"], keep=data["k"],
        majorities=[question["majority"] for question in questions], published=True,
        observers=[lambda step: states.append(step.state)],
    )  # fmt: skip
    assert next(refined, None) is None and states[-1] == end
    scale = reward_scale(end.first)
    assert scale.mean == pytest.approx(data["normaliser"]["mean"], **EXACT)
    assert scale.deviation == pytest.approx(data["normaliser"]["std"], **EXACT)
    before = [end.first, *(state.current for state in states[:-1])]
    majorities = [question["majority"] for question in questions]
    below = [[below_mean(s, scale, m) for s, m in zip(pools, majorities, strict=True)] for pools in before]
    assert below == data["below_mean"]
    assert [list(state.hard) for state in states] == data["routes"]
    votes = {
        (number, question["question"]): vote
        for number, state in enumerate(states)
        for question, vote in zip(questions, state.votes, strict=True)
    }
    assert len(votes) == len(data["answers"])
    for row in data["answers"]:
        vote = votes[row["round"], row["question"]]
        assert vote.answer == row["answer"] and vote.weight == pytest.approx(row["weight"], **EXACT)


def read_solution(text: str) -> tuple[str | None, float, list[float]]:
    """Answer, outcome score and step scores, which are written inside the texts."""
    answers = re.findall(r"\((\w)\)", text)
    steps = [float(number) for number in re.search(r"prm=([-\d.,]+)", text)[1].split(",")]
    return answers[-1] if answers else None, float(re.search(r"orm=([-\d.]+)", text)[1]), steps if answers else [0.0]


# Down-sampling (GRPO-RoC)


def downsampling(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for number, run in enumerate(data["runs"]):
        yield str(number), lambda run=run: check_downsampling(run)


def check_downsampling(run: dict[str, Any]) -> None:
    config = run["config"]
    assert set(config) <= {"prompts", "per_prompt", "p", "mins", "keep", "err", "fmt"}, f"unknown settings: {config}"
    errors, forms = ([penalty(text) for text in run["text"]] for penalty in (error_penalty, format_penalty))
    counts_error, counts_form = (config.get(name, run.get(name, True)) for name in ("err", "fmt"))
    assert not counts_error or errors == run["error_penalty"]
    assert not counts_form or forms == run["format_penalty"]
    penalties = [counts_error * error + counts_form * form for error, form in zip(errors, forms, strict=True)]
    mixed = mixed_groups(run["group"], run["reward"])
    assert mixed == run["kept_after_equal_reward_filter"]
    groups: dict[str, list[int]] = {}
    for place in mixed:
        groups.setdefault(run["group"][place], []).append(place)
    kept = []
    for places in groups.values():
        chosen = downsample(
            [run["reward"][place] for place in places], [penalties[place] for place in places], config["keep"],
            min_negative=config["mins"][0], min_positive=config["mins"][1],
        )  # fmt: skip
        kept += [places[place] for place in chosen]
    assert sorted(kept) == run["kept_final"]


# Balance (B-STaR)

MARK = "# Answer\n\n"


def balance(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "direct", lambda: check_direct(data["direct"])
    pools = [read_pool(question) for question in data["pool"]]
    names = [re.search(r"# Question\n\n(.*?)\n", question["prompt"])[1] for question in data["pool"]]
    for row in data["selections"]:
        yield f"cap{row['cap']}-{row['threshold']}", lambda row=row: check_selection(pools, names, row)
    for row in data["target_runs"]:
        yield f"size{row['target_size']}", lambda row=row: check_target(pools, row)


def read_pool(question: dict[str, Any]) -> list[Answer]:
    """The sampled answers and the reference, which scores 1."""
    reference = question["sample_list"][0]["response"]
    wanted = reference.rsplit(MARK, 1)[-1]
    pool = []
    for sample in question["sample_list"]:
        if MARK not in sample["output"]:
            continue
        right = sample["output"].rsplit(MARK, 1)[-1] == wanted
        pool.append(Answer(sample["output"], right, right + min(sample["reward"]) / 5))
    return [*pool, Answer(reference, True, 1.0)]


def check_direct(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert balance_score(row["correct"], row["selected"]) == pytest.approx(row["balance"], **EXACT)


def check_selection(pools: list[list[Answer]], names: list[str], row: dict[str, Any]) -> None:
    selected = [select(pool, row["threshold"], row["cap"]) for pool in pools]
    assert sum(map(len, selected)) == row["n_selected"]
    found = [[name, answer.text] for name, answers in zip(names, selected, strict=True) for answer in answers]
    assert found[: len(row["per_query"])] == row["per_query"]  # long lists are cut in the file
    check_mean(selected, row["mean_balance"])


def check_mean(selected: list[list[Answer]], expected: float) -> None:
    """Of nothing the published code has no mean, and ours is 0."""
    assert mean_balance(selected) == pytest.approx(0.0 if math.isnan(expected) else expected, **EXACT)


def check_target(pools: list[list[Answer]], row: dict[str, Any]) -> None:
    selected = select_to_size(pools, row["threshold"], row["target_size"])
    check_mean(selected, row["mean_balance"])


# Gate (Proactive Agent)

NAMES = {
    "Recall": "recall", "Precision": "precision", "Accuracy": "accuracy", "False-Alarm": "false_alarm",
    "F1-Score": "f1", "Accept Rate": "accept_rate",
}  # fmt: skip


def gate(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for number, case in enumerate(data["cases"]):
        yield str(number), lambda case=case: check_gate(case)


def check_gate(case: dict[str, Any]) -> None:
    pairs = [pair for event in case["events"] for pair in zip(event["agent_response"], event["judgement"], strict=True)]
    found = gate_metrics([response for response, _ in pairs], [judgement for _, judgement in pairs])
    expected = dict(case["scores"])
    assert expected.pop("Total Events") == len(case["events"])
    assert set(expected) == set(NAMES)
    for name, value in expected.items():
        assert getattr(found, NAMES[name]) == pytest.approx(value, **EXACT), name


# Prompts (Prochemy)


def prompts(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "scores", lambda: check_prompts(data)


def check_prompts(data: dict[str, Any]) -> None:
    weighted = prompt_scores(data["passed"])
    assert weighted == pytest.approx([row["weighted"] for row in data["scores"]], **EXACT)
    assert prompt_scores(data["passed"], "share") == pytest.approx([row["pass_rate"] for row in data["scores"]])
    assert best_prompts(weighted) == data["best"]


# Look-ahead and search (ReARTeR)


def lookahead(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for name, check in (("td", check_td), ("search", check_search), ("q", check_q), ("u", check_u)):
        for number, row in enumerate(data[name]):
            yield f"{name}{number}", lambda check=check, row=row: check(row)


def check_td(row: dict[str, Any]) -> None:
    value = td_lookahead(row["values"], row["alpha"])
    assert value == pytest.approx(row["updated_first"], **EXACT)
    assert step_score(value) == pytest.approx(row["score"], **EXACT)


def check_search(row: dict[str, Any]) -> None:
    found = find_first_error(lambda n: 0.6 if n <= row["first_bad_step"] else 0.0, row["length"])
    assert list(found.looked_at) == row["evaluated_prefix_lengths"]
    assert list(found.expandable) == row["expandable"] and list(found.leaves) == row["leaves"]
    if row["first_bad_step"] < row["length"]:
        assert found.step == row["first_bad_step"]


def check_q(row: dict[str, Any]) -> None:
    assert exploitation(row["length"], row["mc"]) == pytest.approx(row["value"], **EXACT)


def check_u(row: dict[str, Any]) -> None:
    assert exploration(row["visits"], row["index"]) == pytest.approx(row["value"], **EXACT)


# Duel (SPC)


def losses(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    for case in data["cases"]:
        yield str(case["case"]), lambda case=case: check_loss(case, path)


def check_loss(case: dict[str, Any], path: Path) -> None:
    tensors, prefix = load_file(path.with_suffix(".safetensors")), f"case{case['case']}."
    given = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    logits = given["logits"].clone().requires_grad_()
    labels = given["labels"][:, 1:]
    mask = labels != -100

    def log_probs(values: torch.Tensor) -> torch.Tensor:
        return values[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]

    loss = duel_loss(
        log_probs(logits), log_probs(given["ref_logits"]), mask, given["rewards"], given["sft_mask"].bool(),
        weights=given["weights"], clip=case["clip"], coefficient=case["sft_coefficient"],
    )  # fmt: skip
    loss.backward()
    expected = torch.tensor(case["loss"])
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)  # float32
    torch.testing.assert_close(logits.grad, given["grad_logits"], rtol=1e-4, atol=1e-6)


# Splices (Agent-R)


def splices(data: dict[str, Any], path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "pairs", lambda: check_splices(data)


def check_splices(data: dict[str, Any]) -> None:
    ids: dict[int, int] = {}

    def node(row: dict[str, Any], root: bool = False) -> Attempt:
        children = tuple(node(child) for child in row["children"])
        action, observation = ("task", "") if root else (f"act a{row['id']}", f"o{row['id']}")
        made = Attempt(action, observation, row["value"], row["visits"], children, row["terminal"])
        ids[id(made)] = row["id"]
        return made

    def judge(path: Any) -> str:
        number = ids[id(path[-1])]
        return "uncertain" if number in data["uncertain"] else "bad" if number in data["bad"] else "good"

    found = {
        (tuple(ids[id(n)] for n in good), tuple(ids[id(n)] for n in bad)): splice(bad, good, judge, "<revision>")
        for good, bad in worth_splicing(node(data["tree"], root=True), data["alpha"], data["beta"])
    }
    expected = {(tuple(row["high"]), tuple(row["low"])): row["sequence"] for row in data["pairs"]}
    assert sorted(found) == sorted(expected)
    for pair, messages in found.items():
        told = [(turn["role"], turn["text"], bool(turn["trained"])) for turn in expected[pair]]
        assert [(message.role, message.text, message.trained) for message in messages] == told


# Which file holds what


@dataclass(frozen=True)
class Kind:
    """A schema: the keys that a file of it has, and its checks."""

    keys: frozenset[str]
    checks: Callable[[dict[str, Any], Path], Iterator[tuple[str, Callable[[], None]]]]


KINDS = (
    Kind(frozenset(("questions", "refined", "routes", "below_mean", "answers", "normaliser", "k", "rounds")), router),
    Kind(frozenset(("runs",)), downsampling),
    Kind(frozenset(("direct", "pool", "selections", "target_runs")), balance),
    Kind(frozenset(("passed", "scores", "best")), prompts),
    Kind(frozenset(("td", "search", "q", "u")), lookahead),
    Kind(frozenset(("alpha", "beta", "tree", "bad", "uncertain", "pairs")), splices),
    Kind(frozenset(("cases[].events", "cases[].scores")), gate),
    Kind(frozenset(("cases[].case", "cases[].clip", "cases[].sft_coefficient", "cases[].loss")), losses),
)


def keys_of(data: dict[str, Any]) -> frozenset[str]:
    """The keys of a file, those of its cases among them; the explanation left out."""
    keys = set(data) - {"about"}
    if "cases" in keys:
        keys.remove("cases")
        keys |= {f"cases[].{key}" for case in data["cases"] for key in case}
    return frozenset(keys)


def discovered() -> Iterator[Any]:
    for path in sorted(ROOT.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        kind = next((kind for kind in KINDS if kind.keys <= keys_of(data)), None)
        if kind is None:
            yield pytest.param(None, id=f"{path.stem}-unknown")
            continue
        for name, check in kind.checks(data, path):
            yield pytest.param(check, id=f"{path.stem}-{name}")


@pytest.mark.parametrize("check", discovered())
def test_a_table_of_the_published_code(check):
    assert check is not None, "no schema has the keys of this file"
    check()


def test_there_are_tables():
    assert list(ROOT.glob("*.json"))
