"""Training on pairs: the reference's recipe, guards that fire, and killed runs that end with the same weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.data import write_rows
from reward_vlm.dialogue import Dialogue
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.options import DPO, LoRA, SCLConfig, SCLTraining
from reward_vlm.scl.pairs import Pair, pair_json
from reward_vlm.scl.prompts import ask
from reward_vlm.scl.scene_questions import scene_item, scene_reply
from reward_vlm.scl.train import WithAnswers, arguments, check_trained, first_gradient, freeze, pair_set, train
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.training import configured
from scripts import train as script
from tests.reward_vlm.kills import killed_after_row, logged
from vision.checkpoints import begin_run

CONFIG = SCLConfig("plain", max_new_tokens=7)
FULL = LoRA(rank=0)


def scene_pair(index):
    question, scene = scene_item(1, index)
    wrong = "B" if question.answer == "A" else "A"
    chosen, rejected = (scene_reply(question, scene, letter) for letter in (question.answer, wrong))
    return Pair(question.id, question.source, ask(question, "plain"), chosen, rejected, 2, question.images)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    SCLCorrector(tiny_chat_model(), CONFIG).save_pretrained(folder / "start")
    write_rows(folder / "pairs.jsonl", [pair_json(scene_pair(index), folder) for index in range(8)])
    return folder


def options(files, folder, **dpo):
    recipe = {"epochs": 1, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "lora": FULL} | dpo
    return SCLTraining(files / "pairs.jsonl", DPO(**recipe), folder=folder, start=str(files / "start"), save_every=2)


def weights(folder):
    return load_file(folder / "model.safetensors")


def changed(first, second):
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_the_defaults_are_the_reference_recipe(tmp_path):
    from trl import DPOConfig

    config = DPOConfig(**arguments(SCLTraining(tmp_path / "pairs.jsonl", folder=tmp_path)))
    expected = {
        "beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [0.9, 0.1], "learning_rate": 5e-5,
        "num_train_epochs": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 16,
        "warmup_steps": 0.03, "weight_decay": 0.1, "max_grad_norm": 0.5, "seed": 42, "max_length": None,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "label_smoothing": 0.0,
        "disable_dropout": False, "precompute_ref_log_probs": False,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.lr_scheduler_type == "cosine"
    assert (LoRA().rank, LoRA().alpha, LoRA().dropout) == (8, 32, 0.05)


def test_adapters_are_in_the_language_part_alone_and_are_merged(files, tmp_path):
    result = train(options(files, tmp_path, lora=LoRA()))
    touched = changed(weights(files / "start"), weights(result))
    assert touched and all(name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) for name in touched)
    assert not any("visual" in name for name in touched)
    assert SCLCorrector.from_pretrained(result).config == CONFIG
    assert train(options(files, tmp_path, lora=LoRA())) == result  # finished: nothing is done again
    with pytest.raises(ValueError, match="was begun with other options or data"):
        train(options(files, tmp_path))


def test_the_first_loss_is_what_the_recipe_says_and_the_image_encoder_stays(files, tmp_path):
    said = []
    result = train(options(files, tmp_path, batch_size=8, epochs=3), log=said.append)
    chat = SCLCorrector.from_pretrained(files / "start").chat
    pairs = [scene_pair(index) for index in range(8)]
    asked = [Dialogue().user(*pair.images, pair.prompt) for pair in pairs]
    end = "<|im_end|>\n"  # what the template prints after an answer is learnt as well
    chat.guarded.tokens = lambda text: chat.tokenizer(text, add_special_tokens=False)["input_ids"]  # as the token it is
    found = chat.log_probs(asked, [pair.chosen + end for pair in pairs])
    supervised = -float(torch.cat([row[:-1] for row in found]).mean().detach())
    first, _, third = losses(tmp_path)  # the first update has a rate of 0
    assert first == pytest.approx(0.9 * math.log(2) + 0.1 * supervised, rel=1e-5)
    assert third < first
    touched = changed(weights(files / "start"), weights(result))
    assert touched and not any("visual" in name for name in touched)
    assert sum("8 pairs; of 8: prompt and answer at most" in line for line in said) == 1


@pytest.mark.parametrize("lora", [FULL, LoRA()], ids=["all weights", "adapters"])
def test_a_killed_training_ends_with_the_same_weights(files, tmp_path, monkeypatch, lora):
    straight = train(options(files, tmp_path / "straight", lora=lora))
    with killed_after_row(monkeypatch, 3):
        train(options(files, tmp_path / "killed", lora=lora))
    assert (tmp_path / "killed" / "checkpoint-2").exists() and not (tmp_path / "killed" / "weights").exists()
    resumed = train(options(files, tmp_path / "killed", lora=lora))
    assert not changed(weights(straight), weights(resumed))
    assert logged(tmp_path / "killed") == logged(tmp_path / "straight")
    assert changed(weights(straight), weights(files / "start"))


def test_answers_that_are_cut_off_are_refused(files, tmp_path):
    (tmp_path / "more.json").write_text('{"max_length": 28}')
    with pytest.raises(ValueError, match=r"The chosen answer to 'what .*' has no tokens to learn from; a max_length"):
        train(replace(options(files, tmp_path / "run"), trl=tmp_path / "more.json"))


def test_a_batch_without_rejected_tokens_is_refused():
    batch = {"completion_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]])}
    rows = [{"prompt": [{"role": "user", "content": f"question {number}"}]} for number in range(2)]
    with pytest.raises(ValueError, match="The rejected answer to 'question 1'"):
        WithAnswers(lambda _: batch)(rows)
    batch["completion_mask"][3, 0] = 1
    assert WithAnswers(lambda _: batch)(rows) is batch


def test_a_first_update_without_gradient_ends_the_run(files, tmp_path):
    with pytest.raises(ValueError, match="The gradient of the first update is zero, so nothing would be learnt"):
        train(options(files, tmp_path, loss_weights=(0.0, 0.0)))
    assert not (tmp_path / "weights").exists()
    with pytest.raises(ValueError, match="The gradient of the first update is nan"):
        first_gradient().on_log(None, None, None, {"grad_norm": float("nan")})
    first_gradient().on_log(None, None, None, {"loss": 1.0})


def test_adapters_outside_the_language_part_are_refused_unless_allowed(files, tmp_path):
    everywhere = LoRA(modules=r".*\.(q_proj|k_proj|v_proj|qkv)")
    with pytest.raises(ValueError, match=r"2 of \d+ trained tensors lie outside the language part \(first: .*visual"):
        train(options(files, tmp_path / "refused", lora=everywhere))
    result = train(options(files, tmp_path / "allowed", lora=everywhere, parts="all"))
    assert any("visual" in name for name in changed(weights(files / "start"), weights(result)))
    chat = SCLCorrector.from_pretrained(files / "start").chat
    with pytest.raises(ValueError, match="lie outside the language part"):
        check_trained(chat.model, "language")
    freeze(chat.model, "language")
    check_trained(chat.model, "language")
    chat.model.requires_grad_(False)
    with pytest.raises(ValueError, match="No parameter would be trained"):
        check_trained(chat.model, "language")


def test_pairs_longer_than_the_model_are_refused(files, tmp_path):
    row = json.loads((files / "pairs.jsonl").read_text().splitlines()[0]) | {"prompt": "red " * 1100}
    write_rows(files / "long.jsonl", [row])
    with pytest.raises(ValueError, match=r"Pair 1-0 has 11\d\d tokens, but the model has 1024 positions"):
        train(replace(options(files, tmp_path), pairs=files / "long.jsonl"))


def test_bad_pairs_are_named_and_may_be_left_out(files, tmp_path):
    lines = (files / "pairs.jsonl").read_text().splitlines()
    same = json.loads(lines[0]) | {"rejected": json.loads(lines[0])["chosen"]}
    lost = json.loads(lines[0]) | {"images": ["lost.png"]}
    path = files / "bad.jsonl"
    path.write_text("\n".join([json.dumps(same), *lines[:2], json.dumps(lost), "{"]))
    with pytest.raises(ValueError, match=r"bad.jsonl line 1: chosen and rejected must be .* line 4: .* line 5: "):
        train(replace(options(files, tmp_path / "bad"), pairs=path))
    said = []
    train(replace(options(files, tmp_path / "skip"), pairs=path, skip_bad=True), log=said.append)
    assert [line.split(": ")[0] for line in said if "line" in line] == ["left out"] * 3
    (files / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no pairs: no answer changed between right and wrong"):
        train(replace(options(files, tmp_path / "none"), pairs=files / "none.jsonl"))


def test_the_control_exchanges_the_answers():
    pairs = [scene_pair(0)]
    row, swapped = pair_set(pairs)[0], pair_set(pairs, swap=True)[0]
    assert row["chosen"] == swapped["rejected"] != row["rejected"] == swapped["chosen"]
    assert row["chosen"][0]["content"][0]["text"] == pairs[0].chosen
    assert [block["type"] for block in row["prompt"][0]["content"]] == ["image", "text"]
    assert row["images"][0].size == (56, 56)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DPO(beta=0), "beta must be above 0, got 0"),
        (lambda: DPO(accumulate=0), "accumulate must be at least 1, got 0"),
        (lambda: DPO(loss_weights=(1.0,)), "one weight, got 2 losses and 1 weights"),
        (lambda: LoRA(rank=-1), "rank must be at least 0, got -1"),
        (lambda: LoRA(dropout=1.0), r"dropout must lie in \[0, 1\), got 1.0"),
        (lambda: SCLTraining("pairs", save_every=0), "save_every must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_sentences(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pairs", "x", "--dpo.beta", "0"], "beta must be above 0, got 0.0."),
        (["--recipe", "rounds", "--questions", "x", "--held-out", "y", "--rounds", "0"], "must be at least 1, got 0"),
        (["--recipe", "mini", "--seeds"], "seeds must name at least one run."),
        (["--recipe", "fog"], "for scl, got fog."),
    ],
)
def test_wrong_command_lines_are_sentences(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse(["scl", *arguments])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("further", "sentence"),
    [
        ({"learning_rat": 1.0}, "DPOConfig has no argument 'learning_rat' (--trl); perhaps you meant learning_rate."),
        ({"use_vllm": True}, "DPOConfig has no argument 'use_vllm' (--trl)"),
        ([1], "further.json must hold"),
    ],
)
def test_further_arguments_that_cannot_be_are_one_sentence_through_the_command(files, tmp_path, further, sentence):
    (tmp_path / "further.json").write_text(json.dumps(further))
    words = ["--pairs", str(files / "pairs.jsonl"), "--start", str(files / "start"), "--folder", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        script.main(*script.parse(["scl", *words, "--trl", str(tmp_path / "further.json")]), lambda event: None)


def test_finished_weights_of_other_options_or_pairs_are_refused(files, tmp_path):
    chosen = options(files, tmp_path)
    begin_run(tmp_path, chosen, data=("pairs", "start", "trl"))
    (tmp_path / "weights").mkdir()
    assert train(chosen) == train(chosen) == tmp_path / "weights"
    with pytest.raises(ValueError, match="begun with other options or data: seed"):
        train(replace(chosen, seed=chosen.seed + 1))
    other = tmp_path / "other.jsonl"
    other.write_text("{}")
    with pytest.raises(ValueError, match=r"begun with other options or data: pairs"):
        train(replace(chosen, pairs=other))


def test_trackers_are_told_to_trl_and_refused_where_they_are_not_there(tmp_path):
    from trl import DPOConfig

    chosen = arguments(SCLTraining(pairs=tmp_path / "pairs.jsonl", folder=tmp_path, trackers=("nowhere",)))
    assert chosen["report_to"] == ["nowhere"]
    with pytest.raises(ValueError, match=r"There is no tracker 'nowhere' here .*; pip install nowhere"):
        configured(DPOConfig, chosen)
