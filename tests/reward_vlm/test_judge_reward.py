"""Judges as rewards elsewhere: TRL (a real run), two processes, and what verl and ms-swift call."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from reward_vlm.judge_reward import NEUTRAL, JudgeReward, Prompt, group_rewards
from reward_vlm.judges import higher, rated
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.rl import for_verl
from reward_vlm.rl.objective import stable_reinforce_loss, token_returns, whiten_and_filter
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.vlm import Reply

RED, BLUE = (Image.new("RGB", (56, 56), colour) for colour in ("red", "blue"))


class Rates:
    """Rates an answer by how often it says a letter, which the picture decides; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def batch(self, queries, options=None):
        self.asked += queries
        letters = ["b" if query.media and query.media[0] == BLUE else "a" for query in queries]
        return [
            rated([float(answer.count(letter)) for answer in query.answers], higher)
            for query, letter in zip(queries, letters, strict=True)
        ]


def test_answers_to_one_prompt_are_ranked_among_each_other():
    judge, logged = Rates(), {}
    reward = JudgeReward(judge)
    texts = ["aa", "a", "aa", "", "bb", "b", "x", "x"]
    found = reward(
        prompts=["q"] * 6 + ["r"] * 2,
        completions=[[{"role": "assistant", "content": f" {text} "}] for text in texts],
        images=[[RED]] * 4 + [[BLUE]] * 4,
        log_metric=logged.__setitem__, trainer_state=None, answer=[1] * 8,
    )  # fmt: skip
    assert found == [1.0, 0.5, 1.0, 0.0, 1.0, 0.0, NEUTRAL, NEUTRAL]
    assert sorted(len(query.answers) for query in judge.asked) == [2, 3]
    assert logged == {} and reward.__name__ == "judge"


def test_prompts_may_be_conversations_and_completions_may_be_cut_out():
    prompt = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]},
    ]
    judge = Rates()
    reward = JudgeReward(judge, read=lambda text: text.split("</think>")[-1])
    assert reward(["<think>aaa</think>", "a", "aa"], prompts=[prompt] * 3) == [0.0, 0.5, 1.0]
    assert judge.asked[0].question == "q"
    with pytest.raises(ValueError, match="neither prompts nor messages"):
        reward(["a"])


def test_one_sample_a_prompt_is_compared_with_a_reference():
    reward = JudgeReward(Rates(), reference="gold")
    assert reward(["aa", "", "a"], prompts=["q"] * 3, gold=["a", "a", "a"]) == [1.0, 0.0, NEUTRAL]
    with pytest.raises(ValueError, match="no column 'gold'"):
        reward(["aa"], prompts=["q"])


class Draws:
    """A chat whose reply depends on its generator."""

    def generate(self, dialogues, sampling=None, *, generators=None):
        said = [int(torch.randint(1, 3, (1,), generator=generator)) for generator in generators]
        return [Reply(f"<think></think><answer>{choice}</answer>", -1.0, 3, True) for choice in said]


def test_sampled_rewards_do_not_depend_on_what_else_is_judged():
    judge, options = R1Judge(Draws(), R1Config("plain", True, 9, None)), R1Options(votes=3, seed=5)
    groups = [(Prompt(f"q{n}"), ["a", "b", "c"]) for n in range(4)]
    whole = group_rewards(judge, groups, options)
    assert whole == group_rewards(
        judge, [(prompt, said[::-1]) for prompt, said in groups[:2]], options
    ) + group_rewards(judge, groups[2:], options)
    assert len({tuple(each.items()) for each in whole}) > 1
    counted = {}
    JudgeReward(judge)(["a", "b"], prompts=["q", "q"], log_metric=counted.__setitem__)
    assert counted["judge/readable"] == 1.0 and {"judge/says_first", "judge/agrees"} <= counted.keys()


WORKER = """
import json, sys
import torch.distributed as dist
from tests.reward_vlm.test_judge_reward import Rates, RED, BLUE
from reward_vlm.judge_reward import JudgeReward
rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
texts, prompts = ["a", "aa", "", "aaa", "b", "bb", "x", "x"], ["q"] * 4 + ["r"] * 2 + ["s"] * 2
images = [[RED]] * 4 + [[BLUE]] * 4
judge, mine = Rates(), slice(rank * 8 // world, (rank + 1) * 8 // world)
if world == 2:  # a group lies in both processes
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    texts, prompts, images = ([row[n] for n in order] for row in (texts, prompts, images))
found = JudgeReward(judge)(texts[mine], prompts=prompts[mine], images=images[mine])
print(json.dumps([[texts[mine][n], found[n]] for n in range(len(found))] + [len(judge.asked)]))
"""


def test_two_processes_earn_what_one_does(tmp_path):
    """Groups that lie in both are judged once, by one of them."""
    project = Path(__file__).parents[2]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), "2", str(tmp_path / "meet")],
            cwd=project,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [json.loads(process.communicate(timeout=600)[0]) for process in running]
    both = sorted(map(tuple, told[0][:-1] + told[1][:-1]))
    alone = JudgeReward(Rates())(
        ["a", "aa", "", "aaa", "b", "bb", "x", "x"],
        prompts=["q"] * 4 + ["r"] * 2 + ["s"] * 2,
        images=[[RED]] * 4 + [[BLUE]] * 4,
    )
    assert both == sorted(zip(["a", "aa", "", "aaa", "b", "bb", "x", "x"], alone, strict=True))
    assert told[0][-1] + told[1][-1] == 2


def test_a_run_of_trl_raises_what_the_judge_measures(tmp_path):
    """A tiny network with random weights learns to say what the judge likes, by nothing but its rankings."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    chat = tiny_chat_model()
    message = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
    arguments = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=16, num_generations=8, max_completion_length=8,
        max_steps=12, learning_rate=2e-2, logging_steps=1, beta=0.0, use_cpu=True, bf16=False, seed=0, report_to=[],
        gradient_checkpointing=False, dataloader_pin_memory=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    judge = Rates()
    trainer = GRPOTrainer(
        model=chat.model, processing_class=chat.processor, reward_funcs=[JudgeReward(judge)], args=arguments,
        train_dataset=Dataset.from_list([{"prompt": message}] * 48),
    )  # fmt: skip
    trainer.train()
    liked = [sum(answer.count("a") for answer in query.answers) / len(query.answers) for query in judge.asked]
    assert sum(liked[-2:]) > 3 * sum(liked[:2])
    assert any("rewards/judge/mean" in row for row in trainer.state.log_history)


VERL = "old_log_prob log_prob advantages response_mask loss_agg_mode config rollout_is_weights".split()


def numbers():
    generator = torch.Generator().manual_seed(0)
    new, old, gains = (torch.randn(3, 5, generator=generator) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    new[1, 4] = torch.nan  # in the padding
    return new, old, gains, mask


def test_verls_policy_loss_is_the_methods():
    assert list(inspect.signature(for_verl.policy_loss).parameters) == VERL
    new, old, gains, mask = numbers()
    new[0, 0] = old[0, 0] + 90.0  # exp of it is infinite
    new = new.requires_grad_()
    config = types.SimpleNamespace(clip_ratio=0.3, global_batch_info={"dp_size": 2, "global_batch_size": 6})
    loss, told = for_verl.policy_loss(
        old_log_prob=old, log_prob=new, advantages=gains, response_mask=mask, loss_agg_mode="seq-mean-token-mean",
        config=config, rollout_is_weights=None,
    )  # fmt: skip
    assert torch.equal(loss, stable_reinforce_loss(new, old, gains, mask, epsilon=0.3))
    loss.backward()
    assert new.grad[mask.bool()].isfinite().all() and (new.grad[~mask.bool()] == 0).all()
    assert set(told) == {"actor/pg_clipfrac", "actor/ppo_kl"} and 0 <= told["actor/pg_clipfrac"] <= 1
    tokens, _ = for_verl.policy_loss(old, new, gains, mask, "token-mean", {"clip_ratio": 0.2})
    lengths = mask.sum(1)
    each = torch.stack(
        [stable_reinforce_loss(new[n : n + 1], old[n : n + 1], gains[n : n + 1], mask[n : n + 1]) for n in range(3)]
    )
    assert torch.allclose(tokens, (each * lengths).sum() / lengths.sum())
    with pytest.raises(ValueError, match="seq-mean-token-mean or token-mean, got 'seq-mean-token-sum'"):
        for_verl.policy_loss(old, new, gains, mask, "seq-mean-token-sum")


def test_verls_advantages_are_the_methods():
    _, _, _, mask = numbers()
    kl, rewards = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([2.0, 0.5, 2.0])
    tokens = torch.where(mask.bool(), -0.1 * kl, torch.nan)
    for row, length in enumerate(mask.sum(1).tolist()):
        tokens[row, length - 1] += rewards[row]
    config = types.SimpleNamespace(gamma=0.9)
    found, returns = for_verl.advantages(
        token_level_rewards=tokens, response_mask=mask, config=config, index=["a", "a", "b"]
    )
    expected = token_returns(rewards, kl, mask, beta=0.1, gamma=0.9)
    assert torch.allclose(returns, expected)
    assert torch.allclose(found, whiten_and_filter(expected, mask).advantages)


def test_verl_registers_both_by_name(monkeypatch):
    with pytest.raises(ValueError, match="needs the package verl"):
        for_verl.register()
    known, algos = {}, types.ModuleType("core_algos")
    for kind in ("adv_est", "policy_loss"):
        setattr(
            algos, f"register_{kind}", lambda name, kind=kind: lambda function: known.setdefault((kind, name), function)
        )
    package = types.ModuleType("verl.trainer.ppo")
    package.core_algos = algos
    for name in ("verl", "verl.trainer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo", package)
    for_verl.register()
    assert known == {
        ("adv_est", "stable_reinforce"): for_verl.advantages, ("policy_loss", "stable_reinforce"): for_verl.policy_loss
    }  # fmt: skip


def test_verls_scores_rank_the_answers_to_each_question(monkeypatch):
    monkeypatch.setattr(for_verl, "open_judge", lambda *_, **__: Rates())
    infos = [{"question": "q", "image": RED}] * 3 + [{"question": "q", "images": [BLUE]}] * 2
    found = for_verl.compute_score(
        data_sources=["x"] * 5, solution_strs=["a", "aa ", "", "b", ""], ground_truths=[None] * 5, extra_infos=infos,
        source="scripted",
    )  # fmt: skip
    assert [score["score"] for score in found] == [0.5, 1.0, 0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="extra_info needs the question"):
        for_verl.compute_score(["x"], ["a"], [None], [{}], source="scripted")


def test_swifts_plugin_registers_a_reward_that_ranks(monkeypatch):
    monkeypatch.setattr("reward_vlm.rl.for_swift.open_judge", lambda *_, **__: Rates())
    package, rewards = types.ModuleType("swift"), types.ModuleType("swift.rewards")
    rewards.orms = {}
    monkeypatch.setitem(sys.modules, "swift", package)
    monkeypatch.setitem(sys.modules, "swift.rewards", rewards)
    importlib.import_module("reward_vlm.rl.swift_plugin")
    made = rewards.orms["burnish_judge"](args=None)
    rows = [[{"role": "user", "content": "<image>q"}, {"role": "assistant", "content": text}] for text in ("a", "")]
    assert made(["a", ""], messages=rows, images=[[{"path": None, "bytes": png(RED)}]] * 2, solution=["", ""]) == [
        1.0,
        0.0,
    ]
    assert made.reward.judge.asked[0].question == "q"


def png(picture):
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
