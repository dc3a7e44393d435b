"""What a text says is never read as a special token, whatever the family; other texts go the template's own way."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from reward_vlm.dialogue import Dialogue
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
