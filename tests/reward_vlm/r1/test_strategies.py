"""Strategies of reinforcement inside the trainer and the rounds: spans, oversampling, guidance, curriculum, resets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward_vlm.data import preference_json, write_rows
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Training, StableReinforce
from reward_vlm.r1.rewards import JudgementReward, total_reward
from reward_vlm.r1.rounds import Policy, Rounds, check_rounds
from reward_vlm.r1.rows import judgement_row, training_set
from reward_vlm.r1.train import train
from reward_vlm.rl.rollouts import SelectedRollouts
from reward_vlm.rl.spans import token_spans
from reward_vlm.scenes import scene_pairs
from reward_vlm.tiny import tiny_chat_model
from reward_vlm.vlm import ChatModel

CONFIG = R1Config("plain", True, 24, None)
GOOD = "<think>response 1 is better .</think><answer>1</answer>"
WRONG = "<think>response 2 is better .</think><answer>2</answer>"
TORN = "<think>response 2 is better .</think><answer>1</answer>"
MESSY = "response 1 is better . <answer>1</answer>"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    R1Judge(tiny_chat_model(), CONFIG).save_pretrained(folder / "start")
    return folder / "start"


# Parts and spans


def test_parts_of_rewards_sum_to_the_whole_and_nothing_is_asked_twice():
    asked = []

    def consistency(texts):
        asked.extend(texts)
        return [-1 if "2 is better" in text else 1 for text in texts]

    reward, answers = JudgementReward(consistency), [["<answer>1</answer>"]] * 4
    texts = [GOOD, WRONG, TORN, MESSY]
    parts = reward.parts(texts, answers)
    assert [(p.format, p.result, p.consistency) for p in parts] == [(1, 1, 1), (1, 0, 0), (1, 1, -1), (0, 1, 1)]
    assert reward(texts[1:3], answers[1:3]) == [total_reward(1, 0, 0), total_reward(1, 1, -1)]
    assert asked == [GOOD, TORN, MESSY]


def test_tokens_between_tags_are_found_in_every_row():
    tokenizer = tiny_chat_model().processor.tokenizer
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (GOOD, MESSY, "red", "<think></think>")]
    ids = torch.full((4, 40), tokenizer.pad_token_id)
    mask = torch.zeros(4, 40)
    for place, row in enumerate(rows):
        ids[place, 1 : len(row) + 1] = torch.tensor(row)  # not from the first token on
        mask[place, 1 : len(row) + 1] = 1
    spans = token_spans(ids, mask, ["think", "answer"], tokenizer.decode)
    assert tokenizer.decode(ids[0][spans["think"][0]]).strip() == "response 1 is better ."
    assert tokenizer.decode(ids[0][spans["answer"][0]]).strip() == "1"
    assert tokenizer.decode(ids[1][spans["answer"][1]]).strip() == "1"
    assert not spans["think"][1:].any() and not spans["answer"][2:].any()


# In the trainer


def trainer(start, folder, samples=4, guides=None, **settings):
    from reward_vlm.r1.trainer import StableReinforceConfig, StableReinforceTrainer

    chat = ChatModel.from_pretrained(start)
    rows = [judgement_row(pair, CONFIG) for pair in scene_pairs(7, 4)]
    arguments = StableReinforceConfig(
        output_dir=str(folder), per_device_train_batch_size=8, num_generations=samples, max_completion_length=24,
        max_steps=1, beta=0.1, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
        dataloader_pin_memory=False, save_strategy="no", disable_tqdm=True, **settings,
    )  # fmt: skip
    made = Scripted.of(StableReinforceTrainer)(
        model=chat.model, processing_class=chat.processor, reward_funcs=[JudgementReward()], args=arguments,
        train_dataset=training_set(rows, targets=False, guides=guides),
    )  # fmt: skip
    made.model.train()
    made.drawn = []
    return made, rows


class Scripted:
    """A trainer that says what a script tells, and takes down what it was asked."""

    @staticmethod
    def of(trainer_class):
        from trl import GRPOTrainer

        class Says(trainer_class):
            def script(self, place):
                return "red"

            def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *rest, **named):
                begun = self._beginnings
                plain, GRPOTrainer._generate_single_turn = GRPOTrainer._generate_single_turn, self._say
                try:
                    return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *rest, **named)
                finally:
                    GRPOTrainer._generate_single_turn = plain
                    self.drawn.append((len(prompt_ids), self.num_generations, begun is not None))

            def _say(self, prompt_ids, *rest, **named):
                said = []
                for place in range(len(prompt_ids)):
                    ids = self._tokenizer(self.script(place), add_special_tokens=False)["input_ids"]
                    said.append([*ids, self._tokenizer.eos_token_id])
                return said, None

        return Says


def right(row):
    """A judgement that chooses rightly, and one that does not."""
    digit = row.answers[0][8]
    other = "2" if digit == "1" else "1"
    return GOOD.replace("1", digit), GOOD.replace("1", other)


def inputs(made, rows, samples):
    return [made.train_dataset[place] for place in range(len(rows)) for _ in range(samples)]


def texts(made, batch):
    mask = batch["completion_mask"].bool()
    return [made._tokenizer.decode(ids[real], skip_special_tokens=True) for ids, real in
            zip(batch["completion_ids"], mask, strict=True)]  # fmt: skip


def test_of_twice_as_many_judgements_the_well_formed_of_the_right_are_kept(start, tmp_path):
    made, rows = trainer(start, tmp_path, samples=2, oversample=2)

    def script(place):
        good, bad = right(rows[place // 4])
        return [good.replace("<think>", ""), bad, good, bad][place % 4]

    made.script = script
    batch = made._generate_and_score_completions(inputs(made, rows, 2))
    assert made.drawn == [(16, 4, False)] and made.num_generations == 2
    kept = texts(made, batch)
    assert len(kept) == 8
    for place, row in enumerate(rows):
        good, bad = right(row)
        assert sorted(kept[2 * place : 2 * place + 2]) == sorted([good, bad])
    # pictures and prompts stay with their judgements
    plain, _ = trainer(start, tmp_path / "plain", samples=2)
    plain.script = lambda place: right(rows[place // 2])[place % 2]
    assert torch.equal(batch["prompt_ids"], plain._generate_and_score_completions(inputs(plain, rows, 2))["prompt_ids"])
    assert batch["image_grid_thw"].shape[0] == 8


def test_help_comes_where_all_judgements_fail_and_is_learnt_from_the_plain_prompt(start, tmp_path):
    pairs = scene_pairs(7, 4)
    guides = {row.id: row.target for row in (judgement_row(pair, CONFIG) for pair in pairs)}
    made, rows = trainer(start, tmp_path, samples=2, guides=guides)

    def script(place):
        if made._beginnings is not None:  # ends the whole, and spoils what is begun in part
            return " red" if len(made._beginnings[0]) < len(made._tokenizer(guides[rows[0].id])["input_ids"]) else ""
        good, bad = right(rows[place // 2])
        return good if place // 2 == 3 else bad

    made.script = script
    batch = made._generate_and_score_completions(inputs(made, rows, 2))
    assert made.drawn == [(8, 2, False), (3, 1, True)]
    kept = texts(made, batch)
    for place in range(3):
        assert kept[2 * place] == right(rows[place])[1] and kept[2 * place + 1].strip() == guides[rows[place].id]
    assert kept[6:] == [right(rows[3])[0]] * 2
    assert made._rewards.view(4, 2)[:, 1].tolist() == [2.0] * 4
    plain, _ = trainer(start, tmp_path / "plain", samples=2)
    assert torch.equal(batch["prompt_ids"], plain._generate_and_score_completions(inputs(plain, rows, 2))["prompt_ids"])


def test_without_failures_or_guides_nothing_is_drawn_again(start, tmp_path):
    made, rows = trainer(start, tmp_path, samples=2, guides={"unknown": GOOD})
    made._generate_and_score_completions(inputs(made, rows, 2))
    assert made.drawn == [(8, 2, False)]


def test_groups_that_a_process_holds_in_parts_are_refused(start, tmp_path):
    made, rows = trainer(start, tmp_path, samples=4, oversample=2)
    with pytest.raises(ValueError, match="no whole groups of 4"):
        made._generate_and_score_completions(inputs(made, rows[:3], 2))


def test_a_torn_judgement_is_an_outlier_of_its_span_and_not_in_the_middle(start, tmp_path):
    """Of 32 judgements two are wrong, and one names the right answer but reasons for the other one. As a whole it lies
    inside the filter's bounds and is unlearnt, digit and form with it; by spans bad reasoning is left out, and its
    digit is praised with the others, or left out with it."""

    def script(place):
        good, bad = right(rows[place // 8])
        if place == 5:  # the reasoning of the wrong one, the answer of the right one
            return bad.partition("</think>")[0] + "</think>" + good.partition("</think>")[2]
        return bad if place in (9, 20) else good

    found = {}
    arms = {
        "whole": [],
        "spans": ["think=consistency", "answer=result"],
        "both": ["think=consistency", "answer=consistency"],
    }
    for name, spans in arms.items():
        made, rows = trainer(start, tmp_path / name, samples=4, spans=spans)
        made.script = script
        batch = made._generate_and_score_completions(inputs(made, rows, 8))
        mask = batch["completion_mask"].bool()
        places = token_spans(batch["completion_ids"], mask, ["think", "answer"], made._tokenizer.decode)
        found[name] = batch["advantages"]
    whole, parts = found["whole"], found["spans"]
    good = [row for row in range(32) if row not in (5, 9, 20)]
    torch.testing.assert_close(whole[5][mask[5]], torch.full((int(mask[5].sum()),), -2.21), rtol=0, atol=0.02)
    assert (whole[[9, 20]] == 0).all() and (whole[good][mask[good]] > 0.3).all()
    assert (parts[[5, 9, 20]][places["think"][[5, 9, 20]]] == 0).all()
    assert (parts[[9, 20]][places["answer"][[9, 20]]] == 0).all()
    for span, value in (("think", 0.32), ("answer", 0.26)):
        earned = parts[good][places[span][good]]
        torch.testing.assert_close(earned, torch.full_like(earned, value), rtol=0, atol=0.01)
    torch.testing.assert_close(parts[5][places["answer"][5]], torch.tensor([0.26]), rtol=0, atol=0.01)
    rest = mask & ~places["think"] & ~places["answer"]
    assert (parts[rest].abs() < 1e-3).all()  # all have the form
    digits = found["both"].where(places["answer"], 0.0).sum(1)  # blamed for what was reasoned, and left out with it
    assert (digits[[5, 9, 20]] == 0).all()
    torch.testing.assert_close(digits[good], torch.full((29,), 0.32), rtol=0, atol=0.01)


def test_a_span_that_earns_the_same_everywhere_is_not_taught_its_divergence(start, tmp_path):
    """All judgements have the form; what the policy has moved from its reference would be whitened to size 1."""
    found = {}
    for skip in (False, True):
        made, rows = trainer(start, tmp_path / str(skip), spans=["think=consistency", "answer=result"], skip_equal=skip)
        made.script = lambda place, rows=rows: right(rows[place // 4])[place % 2]
        with torch.no_grad():
            for value in made.ref_model.parameters():
                value.mul_(1.1)
        batch = made._generate_and_score_completions(inputs(made, rows, 4))
        mask = batch["completion_mask"].bool()
        places = token_spans(batch["completion_ids"], mask, ["think", "answer"], made._tokenizer.decode)
        form = mask & ~places["think"] & ~places["answer"]
        found[skip] = batch["advantages"], form, mask
    whole, form, mask = found[False]
    taught = found[True][0]
    assert whole[form].abs().max() > 0.5 and (taught[form] == 0).all()
    assert torch.equal(taught[mask & ~form], whole[mask & ~form])


def test_sentences_earn_what_they_add_to_the_chance_of_the_right_digit(start, tmp_path):
    """The slow way: of each judgement and sentence alone, the model's own probability of the digit after it."""
    made, rows = trainer(start, tmp_path, samples=2, progress=2.0)
    said = ["<think>red . response 1 is better .</think><answer>1</answer>", "red", "<think>blue", WRONG]
    made.script = lambda place: said[place % 4]
    made.ref_model.load_state_dict(made.model.state_dict())
    given = inputs(made, rows, 2)
    batch = made._generate_and_score_completions(given)
    encode, decode = made._tokenizer, made._tokenizer.decode
    mask = batch["completion_mask"].bool()
    found = made._step_rewards(batch, mask)
    prover = lambda chance: 1 - (1 - chance) ** 4  # noqa: E731
    for place in (0, 3, 4):
        chances, ids = [], batch["completion_ids"][place][mask[place]].tolist()
        text = decode(ids, skip_special_tokens=True)
        ends = [spot + 1 for spot in range(len(text)) if text[spot] == "." and "</think>" in text[spot:]]
        for end in [len("<think>"), *ends]:
            tail = encode(text[:end] + "</think><answer>" + rows[place // 2].answers[0][8], add_special_tokens=False)
            line = torch.tensor([[*batch["prompt_ids"][place][batch["prompt_mask"][place].bool()], *tail["input_ids"]]])
            pictures = given[place]["images"]
            shown = made.processing_class.image_processor(images=pictures, return_tensors="pt")
            types = line.new_zeros(line.shape)
            types[line == made.model.config.image_token_id] = 1
            logits = made.model(
                input_ids=line, attention_mask=torch.ones_like(line), mm_token_type_ids=types, **shown
            ).logits  # fmt: skip
            chances.append(float(logits[0, -2].softmax(-1)[line[0, -1]]))
        gains = [2 * (prover(after) - prover(before)) for before, after in itertools.pairwise(chances)]
        earned = found[place][found[place] != 0]
        torch.testing.assert_close(earned, torch.tensor(gains), rtol=1e-3, atol=1e-5)
    assert (found[[1, 2, 5, 6]] == 0).all()  # no reasoning, or none that ends
    plain, _ = trainer(start, tmp_path / "plain", samples=2)
    plain.script = made.script
    assert not torch.equal(plain._generate_and_score_completions(given)["advantages"], batch["advantages"])


class FakeEngine:
    """What TRL's generator over vLLM promises: as many replies as prompts, of which `num_generations` in a row are the
    same, with the log-probability of every token."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, profiler):
        for first in range(0, len(prompts), num_generations):
            assert all(ids == prompts[first] for ids in prompts[first : first + num_generations])
        assert len(images) == len(prompts)
        said = [self.say(place, prompts, num_generations) for place in range(len(prompts))]
        self.asked.append((len(prompts), num_generations))
        return prompts, said, [[[-0.5]] * len(ids) for ids in said], None


def test_vllm_draws_more_than_is_kept_and_goes_on_with_what_an_expert_began(start, tmp_path):
    guides = {row.id: row.target for row in (judgement_row(pair, CONFIG) for pair in scene_pairs(7, 4))}
    made, rows = trainer(start, tmp_path, samples=2, guides=guides, oversample=2)
    encode, end = made._tokenizer, made._tokenizer.eos_token_id

    def say(place, prompts, num_generations):
        if num_generations == 1:  # begun: ends at once
            return [end]
        good, bad = right(rows[place // 4])
        return [*encode(bad if place < 4 or place % 2 else good, add_special_tokens=False)["input_ids"], end]

    made.use_vllm, made._last_loaded_step, made.vllm_generation = True, -1, FakeEngine(say)
    made.vllm_importance_sampling_mode = "token_truncate"
    made._generate_single_turn = lambda *given: SelectedRollouts._generate_single_turn(made, *given)
    batch = made._generate_and_score_completions(inputs(made, rows, 2))
    assert made.vllm_generation.asked == [(16, 4), (1, 1)]
    kept = texts(made, batch)
    assert kept[1].strip() == guides[rows[0].id] and sorted(kept[2:4]) == sorted(right(rows[1]))
    ratio, mask = batch["importance_sampling_ratio"], batch["completion_mask"].bool()
    begun = len(encode(guides[rows[0].id], add_special_tokens=False)["input_ids"])
    assert ratio.shape == mask.shape and (ratio[1, :begun] == 1).all()  # nobody drew these
    assert (ratio[2:][mask[2:]] != 1).any() and ratio.isfinite().all()


# In the rounds


@pytest.fixture(scope="module")
def files(start):
    folder = start.parent
    pairs = scene_pairs(1, 12)
    write_rows(folder / "guide.jsonl", [preference_json(pair, folder) for pair in pairs])
    write_rows(folder / "rows.jsonl", [preference_json(replace(pair, rationale=None), folder) for pair in pairs])
    write_rows(folder / "held.jsonl", [preference_json(pair, folder) for pair in scene_pairs(98, 2)])
    return folder


def options(files, folder, **changes):
    aim = StableReinforce(samples=2, beta=0.1, skip_equal=False)
    given = {
        "rows": files / "rows.jsonl", "held_out": files / "held.jsonl", "start": str(files / "start"), "folder": folder,
        "stage": "rl", "steps": 2, "rounds": 2, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3, "warmup": 0.0,
        "schedule": "constant", "objective": aim, "max_new_tokens": 6, "tolerance": 1.0,
    }  # fmt: skip
    return R1Training(**given | changes)


class Killed(Exception):
    """Stands for a kill."""


def test_all_strategies_together_survive_a_kill(files, tmp_path):
    chosen = options(
        files, tmp_path / "straight", oversample=2, spans=("think=consistency", "answer=result"), curriculum="adaptive",
        guide=files / "guide.jsonl", reset="on-stall", rounds=4,
    )  # fmt: skip
    said = []
    straight = train(chosen, log=said.append)
    assert any("12 of 12 prompts have a guide" in line for line in said)
    assert any("reference is the policy as it is" in line for line in said)  # a random judge does not get better

    def kill(line):
        if line.startswith("round 4/4"):
            raise Killed

    with pytest.raises(Killed):
        train(replace(chosen, folder=tmp_path / "killed"), log=kill)
    resumed = train(replace(chosen, folder=tmp_path / "killed"))
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first | second)


def test_a_stall_takes_the_policy_as_reference_and_clears_the_moments(files, tmp_path):
    rows = [judgement_row(pair, CONFIG) for pair in scene_pairs(1, 4)]
    rounds = Rounds(files / "start", rows, scene_pairs(98, 2), options(files, tmp_path, reset="on-stall"), print)
    for value in rounds.chat.model.parameters():
        value.grad = torch.ones_like(value)
    rounds.optimizer.step()
    rounds._begin_anew((0.5, 0.6, 0.6), 4)
    assert rounds.reference == files / "start" and rounds.optimizer.state
    rounds._begin_anew((0.5, 0.6, 0.6, 0.6), 5)
    assert not rounds.optimizer.state
    kept = R1Judge.from_pretrained(rounds.reference).chat.model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in rounds.chat.model.state_dict().items())
    again = Rounds(files / "start", rows, scene_pairs(98, 2), options(files, tmp_path, reset="on-stall"), print)
    again._begin_anew((0.5, 0.6, 0.6, 0.6, 0.7), 6)  # a resumed run finds it
    assert again.reference == rounds.reference


def test_a_curriculum_shows_every_row_once_and_measures_the_next_batch_alone(files, tmp_path):
    rows = [judgement_row(pair, CONFIG) for pair in scene_pairs(1, 12)]
    rounds = Rounds(files / "start", rows, scene_pairs(98, 2), options(files, tmp_path, curriculum="adaptive"), print)
    measured = []

    def rates(some, number):
        measured.append(len(some))
        return [int(row.id.rsplit("-", 1)[-1]) % 5 / 5 if "-" in row.id else 0.5 for row in some]

    rounds._solve_rates = rates
    shown = [[row.id for row in rounds.select(number, 6)] for number in (1, 2)]
    assert measured == [12, 6] and len({*shown[0], *shown[1]}) == 12
    assert [row.id for row in rounds.select(2, 6)] == shown[1] and measured == [12, 6, 6]
    assert len(rounds.select(2, 9)) == 9 and {row.id for row in rounds.select(2, 9)} == set(shown[1])
    assert Policy({}, {}).accuracies == ()


def test_adapters_learn_with_every_strategy_of_one_round(files, tmp_path):
    chosen = options(
        files, tmp_path / "lora", oversample=2, spans=("think=consistency", "answer=result"),
        guide=files / "guide.jsonl", rounds=1, lora_rank=2,
    )  # fmt: skip
    weights, first = (load_file(folder / "model.safetensors") for folder in (train(chosen), files / "start"))
    changed = {name for name in first if not torch.equal(first[name], weights[name])}
    assert weights.keys() == first.keys() and changed and not any("visual" in name for name in changed)


def test_rounds_are_refused_where_weights_are_shared_out_or_vllm_samples(files, tmp_path, monkeypatch):
    chosen = options(files, tmp_path, curriculum="adaptive", reset="on-stall")
    (tmp_path / "vllm.json").write_text('{"use_vllm": true}')
    with pytest.raises(ValueError, match="vLLM's engine can be made once; leave --rounds out"):
        check_rounds(replace(chosen, trl=tmp_path / "vllm.json"))
    check_rounds(replace(chosen, trl=tmp_path / "vllm.json", rounds=1, curriculum=None, reset=None))
    for name in ("DEEPSPEED", "FSDP"):
        with monkeypatch.context() as patch:
            patch.setenv(f"ACCELERATE_USE_{name}", "true")
            with pytest.raises(ValueError, match="DeepSpeed and FSDP share them out; leave --rounds out"):
                train(replace(chosen, folder=tmp_path / name))
    check_rounds(chosen)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"oversample": 1}, "oversample must be at least 2"),
        ({"oversample": 2, "objective": StableReinforce(samples=1)}, "at least 2 samples per prompt"),
        ({"guide": Path("g"), "objective": StableReinforce(samples=1)}, "guide needs at least 2 samples per prompt"),
        ({"spans": ("think",)}, "spans are think=PART and answer=PART"),
        ({"spans": ("speak=result",)}, "got 'speak=result'"),
        ({"spans": ()}, "spans are think=PART"),
        ({"progress": 0.0}, "progress must be above 0, got 0.0"),
        ({"progress": 1.0, "spans": ("think=consistency",)}, "two ways to reward the parts"),
        ({"curriculum": "adaptive", "rounds": 1}, "curriculum is about rounds"),
        ({"reset": "on-stall", "rounds": 1}, "reset is about rounds"),
        ({"curriculum": "adaptive", "select": "hard"}, "leave --select out"),
        ({"stage": "sft", "rounds": 1, "oversample": 2}, "oversample belongs to reinforcement"),
    ],
)
def test_options_that_do_not_go_together_are_told(files, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        options(files, tmp_path, **changes)


def test_a_guide_for_other_answers_is_refused(files, tmp_path):
    pairs = [replace(p, answers=p.answers[::-1], better=3 - p.better) for p in scene_pairs(1, 12)]
    write_rows(files / "swapped.jsonl", [preference_json(pair, files) for pair in pairs])
    with pytest.raises(ValueError, match="give it the same order"):
        train(options(files, tmp_path / "a", guide=files / "swapped.jsonl"))
    write_rows(files / "twice.jsonl", [preference_json(replace(p, id="x"), files) for p in pairs])
    with pytest.raises(ValueError, match=r"The id 'x' stands twice in .*twice\.jsonl"):
        train(options(files, tmp_path / "c", guide=files / "twice.jsonl"))
    write_rows(files / "other.jsonl", [preference_json(replace(p, id=f"x{p.id}"), files) for p in pairs])
    with pytest.raises(ValueError, match="has no rationale for any id"):
        train(options(files, tmp_path / "b", guide=files / "other.jsonl"))


def test_an_objective_that_cannot_be_is_refused():
    for wrong in ({"epsilon": 1.0}, {"epsilon": 0.0}):  # the logarithm of 1 - epsilon stopped a run
        with pytest.raises(ValueError, match=r"epsilon must lie in \(0, 1\), got"):
            StableReinforce(**wrong)
    with pytest.raises(ValueError, match="samples and rollout_updates must be at least 1, got 0 and 2"):
        StableReinforce(samples=0)
