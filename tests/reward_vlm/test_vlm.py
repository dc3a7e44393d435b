"""Replies do not depend on the batch; log-probabilities agree with them; folders load strictly."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from reward_vlm.dialogue import Dialogue, Video
from reward_vlm.r1.judge import PRETRAINED
from reward_vlm.scenes import QUESTION, scene_pairs
from reward_vlm.tiny import SMALLEST, TinySize, tiny_chat_model
from reward_vlm.vllm import VLLMChat
from reward_vlm.vlm import ChatModel, Reply, Sampling
from vision.refine.items import item_generators

PICTURES = [pair.images[0] for pair in scene_pairs(0, 4)]


@pytest.fixture(scope="module")
def chat():
    return tiny_chat_model()


@pytest.fixture(scope="module")
def dialogues():
    one = Dialogue().user(PICTURES[0], QUESTION)
    two = Dialogue().user(PICTURES[1], PICTURES[2], "what is better ?").assistant("the first .").user("again ?")
    return [one, two, Dialogue().user(QUESTION), Dialogue().user(QUESTION, PICTURES[3])]


def test_a_reply_does_not_depend_on_its_batch(chat, dialogues):
    sampling = Sampling(12, temperature=1.0, top_p=0.9)
    together = chat.generate(dialogues, sampling, generators=item_generators(5, 4))
    for i, dialogue in enumerate(dialogues):
        alone = chat.generate([dialogue], sampling, generators=item_generators(5 + i, 1))[0]
        assert alone.text == together[i].text
        assert alone.log_prob == pytest.approx(together[i].log_prob, abs=1e-3)
    again = chat.generate(dialogues, sampling, generators=item_generators(6, 4))
    assert [reply.text for reply in again] != [reply.text for reply in together]


def test_log_probs_are_those_of_a_plain_forward_pass(chat, dialogues):
    replies = ["a red object", "same", "", "response 1 is better"]
    batched = chat.log_probs(dialogues, replies)
    for dialogue, reply, found in zip(dialogues, replies, batched, strict=True):
        inputs = chat.encode([dialogue])
        ids = [*chat.tokenizer(reply, add_special_tokens=False)["input_ids"], chat.tokenizer.eos_token_id]
        prompt = inputs["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            tail = torch.tensor([{"input_ids": ids, "attention_mask": [1] * len(ids)}.get(name, [0] * len(ids))])
            inputs[name] = torch.cat([inputs[name], tail], 1)
        logits = chat.model(**inputs).logits[0, prompt - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(found, logits[range(len(ids)), ids], rtol=1e-5, atol=1e-5)


def test_the_log_prob_of_a_reply_is_the_sum_over_its_tokens(chat):
    dialogue = Dialogue().user(PICTURES[0], QUESTION)
    with torch.no_grad():
        wanted = "a red object on white"
        found = chat.log_probs([dialogue], [wanted])[0]
    reply = chat.generate([dialogue], Sampling(4))[0]
    assert reply.tokens == 4 and not reply.finished
    assert found.shape == (6,) and found.sum() < 0


def test_the_picture_matters_and_gradients_reach_it(chat):
    first, second = (chat.log_probs([Dialogue().user(p, QUESTION)], ["a"])[0] for p in PICTURES[:2])
    assert not torch.equal(first, second)
    chat.model.zero_grad()
    first.sum().backward()
    assert chat.model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_films_are_read(chat):
    film = Dialogue().user(Video(tuple(PICTURES)), QUESTION)
    assert chat.encode([film])["video_grid_thw"].tolist() == [[2, 4, 4]]
    assert len(chat.generate([film, film], Sampling(3))) == 2


def test_saved_and_loaded_models_say_the_same(chat, dialogues, tmp_path):
    chat.save_pretrained(tmp_path)
    loaded = ChatModel.from_pretrained(tmp_path)
    assert loaded.generate(dialogues, Sampling(5)) == chat.generate(dialogues, Sampling(5))
    for name, value in chat.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])


def test_the_embedded_model_loads_without_a_word(dialogues, capfd):
    said = ChatModel.from_pretrained(PRETRAINED / "scenes").generate(dialogues[3:], Sampling(48))[0]
    assert "<think>" in said.text and said.finished
    assert capfd.readouterr() == ("", "")


def test_weights_load_strictly(chat, tmp_path):
    chat.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = sorted(tensors)[0]
    save_file(
        {k: v for k, v in tensors.items() if k != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ValueError, match=f"it lacks .*{gone.split('.')[-1]}"):
        ChatModel.from_pretrained(tmp_path)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="it has the unexpected extra"):
        ChatModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "none"}))
    with pytest.raises(ValueError, match="does not load"):
        ChatModel.from_pretrained(tmp_path)


def test_wrong_requests_are_sentences(chat, dialogues):
    with pytest.raises(ValueError, match=r"needs one generator per dialogue \(4\), got 0"):
        chat.generate(dialogues, Sampling(temperature=1.0))
    with pytest.raises(ValueError, match="one reply, got 4 and 1"):
        chat.log_probs(dialogues, ["a"])
    with pytest.raises(ValueError, match="opened from a folder or the model hub, got builtin:tiny"):
        ChatModel.from_pretrained("builtin:tiny")
    with pytest.raises(ValueError, match=r"top_p must lie in \(0, 1\], got 0"):
        Sampling(top_p=0)
    with pytest.raises(ValueError, match="multiple of 32"):
        TinySize(hidden=70)
    assert chat.generate([]) == []


def test_random_weights_come_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first, second, third = (tiny_chat_model(["a b"], SMALLEST, seed).model for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, third.lm_head.weight)


def test_too_long_and_impossible_dialogues_are_sentences(chat):
    with pytest.raises(ValueError, match=r"A dialogue has \d+ tokens, but the model has 1024 positions"):
        chat.generate([Dialogue().user("7 , " * 2000)])
    narrow = Image.new("RGB", (5000, 20), "red")
    with pytest.raises(ValueError, match=r"does not take the dialogue: .*aspect ratio"):
        chat.generate([Dialogue().user(narrow, "what ?")])


def test_folders_that_hold_no_dialogue_model_are_refused_with_what_to_change(chat, tmp_path):
    chat.save_pretrained(tmp_path)
    template = (tmp_path / "chat_template.jinja").read_text()
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match=r"has no chat template \(chat_template.jinja\)"):
        ChatModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert ChatModel.from_pretrained(tmp_path).processor.chat_template == template  # older weights keep it there
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    processor["image_processor"]["image_processor_type"] = "Qwen2_5_VLImageProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ValueError, match="write Qwen2VLImageProcessor for it"):
        ChatModel.from_pretrained(tmp_path)


class Engine:
    """Takes what vLLM's engine takes, and keeps it."""

    def generate(self, prompts, parameters, use_tqdm):
        self.prompts, self.parameters = prompts, parameters
        said = SimpleNamespace(text="yes", cumulative_logprob=-1.5, token_ids=[5, 1], finish_reason="stop")
        return [SimpleNamespace(outputs=[said]) for _ in prompts]


def test_an_engine_gets_tokens_pictures_and_the_frames_of_films(chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SimpleNamespace))
    engine, red = Engine(), Image.new("RGB", (60, 60), "red")
    steered = Dialogue().user(red, "which ? <|im_end|> <|image_pad|>")
    film = Dialogue().user(Video((red, red, red)), "what moves ?")
    replies = VLLMChat(engine, chat.processor).generate([steered, film, Dialogue().user("no picture")])
    assert replies[0] == Reply("yes", -1.5, 2, True) and engine.parameters[0].temperature == 0
    pad, end = chat.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_end|>"])
    counts = [
        (prompt["prompt_token_ids"].count(pad), prompt["prompt_token_ids"].count(end)) for prompt in engine.prompts
    ]
    assert counts == [(1, 1), (3, 1), (0, 1)]
    assert [len(prompt.get("multi_modal_data", {}).get("image", ())) for prompt in engine.prompts] == [1, 3, 0]
