"""SCL against the published scripts and against TRL: extraction, prompts, runs of construction and inference, losses of
preference training and their gradients, recorded training runs.

Every case, option and number is read from the JSON files, so that another folder of the same schema runs unchanged.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reward_vlm.data import Question
from reward_vlm.dialogue import Dialogue
from reward_vlm.scl import published
from reward_vlm.scl.corrector import SCLCorrector
from reward_vlm.scl.extract import construction, evaluation, recorded
from reward_vlm.scl.options import DPO, LoRA, SCLTraining
from reward_vlm.scl.pairs import Pair, count, record_of, to_pair
from reward_vlm.scl.prompts import REVIEWS, answer_format, published_options, review
from reward_vlm.scl.sources import benchmark_question
from reward_vlm.scl.train import make_trainer
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.vlm import ChatModel, Reply, Sampling
from tests.parity.conftest import golden_root

ROOT = golden_root() / "scl"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="no reference values of SCL")
SCRIPTS = {"data_construction.py": "construction", "inference.py": "evaluation"}


@cache
def facts(name: str) -> Any:
    return json.loads((ROOT / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, key: str) -> list[Any]:
    return facts(name)[key] if (ROOT / f"{name}.json").exists() else []


@pytest.mark.parametrize("case", cases("extract_answer", "cases"), ids=lambda case: repr(case["response"])[:40])
def test_extraction(case):
    text = case["response"]
    assert construction(text) == case["construction"]
    assert evaluation(text) == case["inference"]
    assert recorded(text) == case["inference_recorded"]


@pytest.mark.parametrize("case", cases("prompts", "options"), ids=lambda case: case["dataset"])
def test_options(case):
    question = benchmark_question(case["dataset"], case["row"], 0, published=True)
    for key, script in {"construction_options": "construction", "inference_options": "evaluation"}.items():
        if key in case:
            assert published_options(question, script) == case[key]


def review_of(number: Any) -> int | str:
    """What the published code reviews with: a number that it does not know is an empty text."""
    known = str(number).isdigit() and int(number) < len(REVIEWS)
    return int(number) if known else ""


@pytest.mark.parametrize("number", cases("prompts", "review"))
def test_reviews(number):
    question = Question("", "q", (("A", "a"), ("B", "b")), "A")
    sent = review(review_of(number), question, "evaluation")
    assert sent.removesuffix(answer_format(question)) == facts("prompts")["review"][number]


class Script:
    """A chat that gives the replies of a run in their order and keeps what it was sent."""

    def __init__(self, replies: Sequence[str]):
        self.replies, self.sent = iter(replies), []

    def generate(self, dialogues: Sequence[Dialogue], sampling: Sampling | None = None, *, generators=None):
        self.sent += [(dialogue, sampling) for dialogue in dialogues]
        return [Reply(next(self.replies), 0.0, 1, True) for _ in dialogues]


def name_of(run: dict[str, Any]) -> str:
    return f"{run['script']}-{run['dataset']}-{run['model']}-{run['prompt_id']}"


@pytest.mark.parametrize("run", cases("pairs", "runs"), ids=name_of)
def test_runs(run, tmp_path):
    script, chat = SCRIPTS[run["script"]], Script(run["replies"])
    config, options = published.asked_as_published(run["model"], script, review_of(run["prompt_id"]))
    asked = re.search(r"_(\d+)\.jsonl$", run.get("output_file", ""))
    rows = run["rows"] if asked is None else run["rows"][: int(asked[1])]
    picture = (Image.new("RGB", (8, 8)),)
    questions = [benchmark_question(run["dataset"], row, n, picture, published=True) for n, row in enumerate(rows)]
    records = [record_of(talk) for talk in SCLCorrector(chat, config).batch(questions, options)]

    for turn, (dialogue, sampling) in zip(run["turns"], chat.sent, strict=False):
        check_turn(turn, dialogue, sampling)
    assert len(run["turns"]) <= len(chat.sent) == 2 * len(rows)

    found = count(records)
    if script == "construction":
        pairs = [pair for record in records if (pair := to_pair(record, "bare")) is not None]
        path = published.write_preferences(pairs, tmp_path, run["model"], run["dataset"], run["prompt_id"])
        assert json.loads(path.read_text(encoding="utf-8")) == run["preference_rows"]
        assert path.name == f"Preference_Data_{run['model']}_{run['dataset']}_{run['prompt_id']}.jsonl"
        assert found.wrong_right == run["count_wrong_to_right"]
        assert found.right_wrong == run["count_right_to_wrong"]
        files = {published.image_name(question.id) for question in questions}  # of a triplet's three, one stays
        assert sorted(files) == sorted(run["image_files"])
    else:
        lines = [published.evaluation_record(index, record) for index, record in enumerate(records)]
        assert [{key: line[key] for key in kept} for line, kept in zip(lines, run["records"], strict=True)] == (
            run["records"]
        )
        if run.get("first_record_full"):
            assert list(lines[0].items()) == list(run["first_record_full"].items())  # the order of its keys as well
        name = published.evaluation_file(run["model"], run["dataset"], run["prompt_id"], int(asked[1]))
        assert name == run["output_file"]
        assert found.first_accuracy == pytest.approx(run["accuracy_first"], rel=1e-12)
        assert found.final_accuracy == pytest.approx(run["accuracy_second"], rel=1e-12)
        assert found.total == run["total"]


def check_turn(turn: dict[str, Any], dialogue: Dialogue, sampling: Sampling) -> None:
    """What a model of the published code was given is what ours was sent."""
    texts = dialogue.texts()
    if "messages" in turn:
        assert texts == turn["messages"]
    else:
        marker = "<ImageHere> "  # how one model is told where the picture stands; templates do that here
        history = [[said.removeprefix(marker) for said in pair] for pair in turn.get("history") or []]
        before = [[texts[n]["content"], texts[n + 1]["content"]] for n in range(0, len(texts) - 1, 2)]
        assert texts[-1]["content"] == turn["query"].removeprefix(marker)
        assert before == history
    if "n_images" in turn:
        assert len(dialogue.images) == turn["n_images"]
    else:
        assert len(dialogue.images) == len(dialogue.turns[0].images) == 1
    if "temperature" in turn:
        assert sampling.temperature == turn["temperature"]
    if "max_new_tokens" in turn:
        assert sampling.max_new_tokens == turn["max_new_tokens"]


QUIET = {
    "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    "dataloader_pin_memory": False, "logging_steps": 1, "disable_tqdm": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """A small model, its twin as reference and one pair for TRL's trainer; the given numbers replace what they say."""
    from datasets import Dataset

    chat = tiny_chat_model()
    chat.model.train()
    row = {"images": [Image.new("RGB", (56, 56))], "prompt": [{"role": "user", "content": "q"}]}
    row |= {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    return chat, copy.deepcopy(chat.model), Dataset.from_list([row])


@pytest.mark.parametrize("case", cases("dpo_loss", "cases"), ids=lambda case: str(case["config"]))
def test_losses_and_gradients(case, small, tmp_path):
    """TRL's loss as it is; it takes token log-probabilities from the model, which a stand-in gives here."""
    from trl import DPOConfig, DPOTrainer

    chat, twin, rows = small
    names = {"f_alpha": "f_alpha_divergence_coef"}
    settings = {**facts("dpo_loss")["defaults"], **case["config"]}
    settings = {names.get(name, name): value for name, value in settings.items() if value != "all 1"}
    trainer = DPOTrainer(
        chat.model, twin, DPOConfig(str(tmp_path), **QUIET, **settings), None, rows, processing_class=chat.processor
    )
    given = load_file(ROOT / "dpo_loss.safetensors")
    policy, mask = given["policy_token_logps"].requires_grad_(), given["completion_mask"]

    def says(log_probs):
        zeros = torch.zeros_like(given["policy_token_logps"])
        sums = given["policy_log_sum_sq_probs"]
        return lambda **_: SimpleNamespace(
            log_probs=log_probs, log_sum_sq_probs=sums, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
        )

    trainer.ref_model = says(given["ref_token_logps"])
    inputs = {"input_ids": torch.zeros_like(mask).long(), "attention_mask": given["attention_mask"]}
    loss = trainer.compute_loss(says(policy), inputs | {"completion_mask": mask})
    loss.backward()
    prefix = f"case{case['case']:02d}"
    # float32 sums in another order of another release of torch
    torch.testing.assert_close(loss.detach().reshape(-1), given[f"{prefix}.loss"].reshape(-1), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(policy.grad, given[f"{prefix}.grad"], rtol=1e-5, atol=1e-7)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-6)
    for name, value in case["metrics"].items():
        (measured,) = trainer._metrics["train"][name]
        assert measured == pytest.approx(value, rel=1e-5, abs=1e-7), name


def recordings() -> list[Path]:
    found = sorted(ROOT.glob("*.json"))
    return [path for path in found if {"model_class", "training", "steps"} <= json.loads(path.read_text()).keys()]


def plain_trainer(chat: ChatModel, rows: list[dict[str, Any]], pictures: list[Any], chosen: Any, folder: Path) -> Any:
    """TRL's trainer as the recording used it."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    data = Dataset.from_list([{**row, "images": [image]} for row, image in zip(rows, pictures, strict=True)])
    config = DPOConfig(str(folder), **QUIET, **chosen)
    return DPOTrainer(chat.model, copy.deepcopy(chat.model), config, None, data, processing_class=chat.processor)


def own_trainer(chat: ChatModel, rows: list[dict[str, Any]], pictures: list[Any], chosen: Any, folder: Path) -> Any:
    """The trainer of our recipe with all weights in training and the recording's arguments on top."""
    recorded_with = {
        "loss_type": ["sigmoid"], "loss_weights": None, "lr_scheduler_type": "linear", "warmup_steps": 0,
        "weight_decay": 0.0, "max_grad_norm": 1.0, "gradient_accumulation_steps": 1, "disable_dropout": True,
    }  # fmt: skip
    (folder / "trl.json").write_text(json.dumps(QUIET | recorded_with | chosen))
    pairs = [
        Pair("", "", *(row[name][0]["content"] for name in ("prompt", "chosen", "rejected")), 2, (image,))
        for row, image in zip(rows, pictures, strict=True)
    ]
    chat.save_pretrained(folder / "start")
    dpo = DPO(lora=LoRA(rank=0), parts="all")
    options = SCLTraining(Path("pairs"), dpo, folder=folder, seed=chosen["seed"], trl=folder / "trl.json")
    return make_trainer(chat, folder / "start", pairs, options, lambda line: None)


@pytest.mark.parametrize("make", [plain_trainer, own_trainer])
@pytest.mark.parametrize("path", recordings(), ids=lambda path: path.stem)
def test_recorded_training(path, make, tmp_path):
    """From the stored weights, rows and options: the same batches, losses, metrics and final weights.

    Bit for bit on the machine and versions that recorded it; elsewhere within the file's tolerance.
    """
    told, tensors = json.loads(path.read_text(encoding="utf-8")), load_file(path.with_suffix(".safetensors"))
    chat = rebuild(told, path.parent)
    chat.model.load_state_dict({name[5:]: value for name, value in tensors.items() if name.startswith("init.")})
    pictures = [Image.fromarray(tensors[f"image{n}"].numpy()) for n in range(len(told["rows"]))]
    chosen = {name: value for name, value in told["training"].items() if name not in ("optimizer", "reference")}
    trainer = make(chat, told["rows"], pictures, chosen, tmp_path)
    batches, collate = [], trainer.data_collator

    def kept(examples):
        batches.append(collate(examples))
        return batches[-1]

    together = collate([trainer.train_dataset[n] for n in range(len(pictures))])
    log_probs = torch.stack(trainer.compute_ref_log_probs(trainer.ref_model, together), 1)
    torch.testing.assert_close(log_probs, tensors["init_logps"], rtol=1e-5, atol=1e-4)  # padded to another length
    trainer.data_collator = kept
    trainer.train()
    stored = [name for name in tensors if re.match(r"step\d+\.", name)]
    assert stored
    for name in stored:
        step, key = name.split(".", 1)
        assert torch.equal(batches[int(step[4:])][key], tensors[name]), name
    logged = [log for log in trainer.state.log_history if "loss" in log]
    for log, expected in zip(logged, told["steps"], strict=True):
        for name, value in expected.items():
            assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (expected["step"], name)
    weights = trainer.model.state_dict()
    for name, value in tensors.items():
        if name.startswith("final."):
            torch.testing.assert_close(weights[name[6:]], value, rtol=0, atol=1e-5)


def rebuild(told: dict[str, Any], folder: Path) -> ChatModel:
    """The model and the processor that a recording describes."""
    import transformers

    kind = getattr(transformers, told["model_class"])
    model = kind(kind.config_class.from_dict(told["config"]))
    config = model.config
    markers = {"image_token": "image_token_id", "video_token": "video_token_id"}
    markers |= {"vision_bos_token": "vision_start_token_id", "vision_eos_token": "vision_end_token_id"}
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / told["tokenizer_file"]))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / told["tokenizer_file"]),
        pad_token=told["pad_token"],
        eos_token=told["eos_token"],
        extra_special_tokens={
            name: plain.convert_ids_to_tokens(getattr(config, field))
            for name, field in markers.items()
            if getattr(config, field, None) is not None
        },
    )
    make = getattr(transformers, told["processor_class"])
    parts = {"image_processor": getattr(transformers, told["image_processor_class"])(**told["image_processor"])}
    if "video_processor" in inspect.signature(make.__init__).parameters:
        parts["video_processor"] = transformers.Qwen2VLVideoProcessor(**told.get("video_processor", {}))
    extra = told.get("processor_extra", {})
    return ChatModel(model, make(tokenizer=tokenizer, chat_template=told["chat_template"], **parts, **extra))
