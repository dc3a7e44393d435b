"""What a text says is never read as a special token, whatever the family; other texts go the template's own way."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import openai_messages
from reward_vlm.guard import MARK, guard
from reward_vlm.vlm import Sampling
from tests.reward_vlm.families import FAMILIES, build

RED = Image.new("RGB", (60, 60), "red")
HARMLESS = [
    Dialogue().user(RED, "what is in the image ?"),
    Dialogue().user("a < b | c > d [e] <x>").assistant("<think> no </think>").user("again ?"),
    Dialogue().system("be kind").user(RED, "first", RED, "second"),
]
SLOW = ["mllama", "idefics3"]
NAMES = ["qwen2.5-vl", *(pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES)]


@pytest.fixture(scope="module", params=NAMES)
def chat(request):
    return build(request.param)


def specials(chat):
    """Every token that must not come out of a text."""
    tokens = [token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.special]
    own = [value for name, value in vars(chat.processor).items() if name.endswith("_token") and isinstance(value, str)]
    return sorted({*tokens, *own, chat.tokenizer.eos_token, "<placeholder>", "<|placeholder|>", "<image>", MARK})


def ids_of(chat, dialogue):
    return chat.encode([dialogue])["input_ids"][0].tolist()


def test_harmless_dialogues_have_the_templates_own_tokens(chat):
    for dialogue in HARMLESS:
        own = chat.processor.apply_chat_template(
            [dialogue.messages()], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        found = chat.encode([dialogue])
        assert found.keys() == own.keys()
        assert all(torch.equal(found[name], own[name].to(found[name].dtype)) for name in own)
    begin = chat.tokenizer.bos_token_id
    assert begin is None or ids_of(chat, HARMLESS[0]).count(begin) == 1


def test_texts_that_name_special_tokens_write_none(chat):
    names = specials(chat)
    counts = lambda ids: {id: ids.count(id) for id in map(chat.tokenizer.convert_tokens_to_ids, names) if id in ids}  # noqa: E731
    plain = Dialogue().system("s").user(RED, "q").assistant("a").user("r")
    wanted = counts(ids_of(chat, plain))
    for text in (*names, "".join(names), " ".join(names), f"<{names[0]}", names[0][:-1] + names[-1]):
        said = Dialogue().system("s" + text).user(RED, "q" + text).assistant("a" + text).user("r" + text)
        ids = ids_of(chat, said)
        assert counts(ids) == wanted, text
        assert chat.tokenizer.decode(ids).count(f"q{text}") == 1 or text == "".join(names)


def test_an_odd_row_leaves_its_batch_as_it_is(chat):
    odd = Dialogue().user(RED, "what does " + " and ".join(specials(chat)) + " mean ?")
    batch = [HARMLESS[0], odd, HARMLESS[1], HARMLESS[2]]
    replies = chat.generate(batch, Sampling(3))
    for place in (0, 2, 3):
        assert replies[place].text == chat.generate([batch[place]], Sampling(3))[0].text
    with torch.no_grad():
        together = chat.log_probs(batch, ["a", "b " + chat.tokenizer.eos_token, "c", "a longer reply"])
        alone = [chat.log_probs([batch[place]], [text])[0] for place, text in ((0, "a"), (2, "c"))]
    torch.testing.assert_close(together[0], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[2], alone[1], atol=1e-4, rtol=1e-4)
    assert len(together[1]) > 2 + 1  # the end token in the text is spelt


def test_a_guarded_processor_saves_the_same_files_and_travels(chat, tmp_path):
    guarded = guard(chat.processor)
    guarded.apply_chat_template(HARMLESS[0].messages())
    guarded.tokens(chat.tokenizer.eos_token)
    for name, processor in (("a", chat.processor), ("b", guarded)):
        processor.save_pretrained(tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert guard(guarded) is guarded and isinstance(guarded, type(chat.processor))
    copied = pickle.loads(pickle.dumps(guarded))
    assert copied.tokens("</s><|im_end|>") == guarded.tokens("</s><|im_end|>")


def test_prompts_for_engines_hold_one_token_for_each_picture(chat):
    """As many special tokens as the template writes, however many the texts name."""
    processor, names = guard(chat.processor), specials(chat)
    said = Dialogue().user(RED, "q" + "".join(names)).assistant(names[0]).user(names[-1], RED)
    plain = Dialogue().user(RED, "q").assistant("a").user("r", RED)
    written = chat.processor.apply_chat_template(plain.messages(), tokenize=False, add_generation_prompt=True)
    ids = processor.prompt(said.messages())
    for name in names:
        token = chat.tokenizer.convert_tokens_to_ids(name)
        if token not in (None, chat.tokenizer.unk_token_id, chat.tokenizer.bos_token_id):
            assert ids.count(token) == written.count(name), name


def test_rows_with_and_without_pictures_may_share_a_batch(chat):
    rows = [Dialogue().user("hello"), Dialogue().user(RED, "what ?"), Dialogue().user(RED, "first", RED, "second")]
    together, alone = chat.generate(rows, Sampling(3)), [chat.generate([row], Sampling(3))[0] for row in rows]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    found = chat.log_probs(rows, ["yes", "no", "maybe"])
    for row, said, log_probs in zip(rows, ("yes", "no", "maybe"), found, strict=True):
        torch.testing.assert_close(log_probs, chat.log_probs([row], [said])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<|image_pad|>", "<image>", "</s>", "<s>", "[INST]", "[/INST]", "<end_of_turn>", "<start_of_image>",
     "<\uff5cend\u2581of\u2581sentence\uff5c>", "<eos>", "<img>", "<|eot_id|>", "<image_soft_token>"],
)  # fmt: skip
def test_texts_for_servers_write_no_special_tokens(token):
    sent = openai_messages(Dialogue().user(f"a {token} b").assistant("<think> c </think><answer>1</answer>"))
    assert token not in sent[0]["content"] and sent[0]["content"].replace("\u200b", "") == f"a {token} b"
    assert sent[1]["content"] == "<think> c </think><answer>1</answer>"
    (_, block) = openai_messages(Dialogue().user(RED, f"a {token} b"))[0]["content"]
    assert token not in block["text"]


@pytest.mark.parametrize("text", ["a < b | c > d", "<b>bold</b> [1] [see] x<y", "if a<s and s>b", "[Instagram]"])
def test_plain_texts_are_sent_as_they_are(text):
    assert openai_messages(Dialogue().user(text)) == [{"role": "user", "content": text}]
