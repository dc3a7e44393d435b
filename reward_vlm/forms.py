"""Published forms of rows, as the fields that this project's readers know.

| form | fields |
|---|---|
| TRL, with or without `prompt` | prompt, chosen, rejected as lists of {role, content}; images |
| ms-swift | messages, rejected_response; images |
| LLaMA-Factory | conversations, chosen, rejected as {from, value}; images |
| RLAIF-V and alike | question, chosen, rejected; image |
| VL-RewardBench | query, response, human_ranking; image |
| Multimodal RewardBench | Text, Output1, Output2, Better; Image |
| LLaVA-Critic | conversations: what a judge is asked, and its reply; image |
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from reward_vlm.fields import named_pictures

TAG = "<image>"
"""How LLaVA, ms-swift and LLaMA-Factory write where a picture stands."""
CHOSEN = re.compile(
    r"better response is:?\s{0,9}\W{0,9}response ([12])\b|response ([12]) is (?:\w+ )?better", re.IGNORECASE
)
READ = "prompt chosen rejected type made_by query response human_ranking ID Category Text Image Output1 Output2 Better"
"""Fields that `preference_form` has turned into others."""


def pair_form(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of preferences {prompt, chosen, rejected, image | images, ...}, whatever its form was.

    Raises:
        ValueError: it has several turns, or pictures that it does not name where it should.
    """
    found: dict[str, Any] = dict(data)
    asked_in = ""
    if "rejected_response" in data:
        *asked, last = messages_of(data, asked_in := "messages")
        found |= {
            "prompt": _question(asked),
            "chosen": _said([last], "messages"),
            "rejected": data["rejected_response"],
        }
    elif "conversations" in data:
        found["prompt"] = _question(messages_of(data, asked_in := "conversations"))
    elif isinstance(data.get("prompt"), list):
        found["prompt"] = _question(messages_of(data, asked_in := "prompt"))
    elif "prompt" not in data and isinstance(data.get("chosen"), list):
        *asked, _ = messages_of(data, asked_in := "chosen")
        found["prompt"] = _question(asked)
        if messages_of(data, "rejected")[:-1] != asked:
            raise ValueError("chosen and rejected must begin with the same turns.")
    elif "prompt" not in data and "question" in data:
        found["prompt"] = data["question"]
    for name in ("chosen", "rejected"):
        value = found.get(name)
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list):
            found[name] = _said(messages_of({name: value}, name)[-1:], name)
    for name in ("messages", "conversations", "rejected_response", "question"):
        found.pop(name, None)
    return without_tags(found | _shown(data, asked_in), "prompt")


def preference_form(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row {question, answers, better, image | images, ...}, whatever its form was.

    Where a form tells the better answer apart (chosen, rejected), the order of the two is drawn from their texts, so
    that the better ones do not all stand first.

    Raises:
        ValueError: the form's own fields do not hold what they should.
    """
    found = dict(data)
    if "human_ranking" in data:
        ranks, answers = data["human_ranking"], data.get("response")
        if not isinstance(ranks, Sequence) or sorted(ranks, key=str) != [0, 1]:
            raise ValueError(f"human_ranking must be [0, 1] or [1, 0], got {ranks!r}.")
        found |= {"question": data.get("query"), "answers": answers, "better": 1 + list(ranks).index(0)}
    elif "Better" in data:
        if data["Better"] not in ("Output1", "Output2"):
            raise ValueError(f'Better must be "Output1" or "Output2", got {data["Better"]!r}.')
        found |= {"id": data.get("ID", ""), "question": data.get("Text"), "image": data.get("Image")}
        found |= {"answers": [data.get("Output1"), data.get("Output2")], "better": int(data["Better"][-1])}
        found["category"] = data.get("Category") or ""
    elif "answers" not in data and ("chosen" in data or "rejected_response" in data):
        pair = dict(pair_form(data))
        better, worse = pair.get("chosen"), pair.get("rejected")
        second = zlib.crc32(f"{pair.get('prompt')}\n{better}\n{worse}".encode("utf-8", "replace")) % 2
        found = pair | {"question": pair.get("prompt"), "answers": [worse, better] if second else [better, worse]}
        found["better"] = 1 + second
    else:
        return without_tags(found, "question")
    return without_tags({name: value for name, value in found.items() if name not in READ.split()}, "question")


def judgement_form(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A judge's prompt with its reply (LLaVA-Critic) as {message, answer, image | images}.

    Raises:
        ValueError: the reply chooses none of two responses.
    """
    *asked, last = messages_of(data, "conversations")
    said = _said([last], "conversations")
    match = CHOSEN.search(said)
    if match is None:
        raise ValueError(f"the reply chooses no response (1 or 2), so it is no comparison of two: {said[:60]!r}.")
    text = without_tags({**data, "text": _question(asked)}, "text")["text"]
    found = {"message": [{"role": "user", "content": text}], "answer": [f"<answer>{match[1] or match[2]}</answer>"]}
    found |= {name: data[name] for name in ("id", "image", "images") if name in data}
    return found | _shown(data, "conversations")


def messages_of(data: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """The messages in a field, {role, content} or {from, value}, as roles and texts; image blocks are left out.

    Raises:
        ValueError: it holds no messages, or blocks other than text and images.
    """
    value = data.get(name)
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, Mapping) for each in value):
        raise ValueError(f"{name} must be a list of messages {{role, content}}, got {value!r}.")
    return [{"role": _role(each), "content": _content(each, name)} for each in value]


def without_tags(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The row, whose text `name` does not begin or end with a tag for each of its pictures any more.

    Raises:
        ValueError: it begins or ends with tags, but not as many as it has pictures.
    """
    text = data.get(name)
    if not isinstance(text, str) or (not text.strip().startswith(TAG) and not text.strip().endswith(TAG)):
        return data
    count = len(named_pictures(data))
    if text.count(TAG) != count:
        raise ValueError(f"{name} names {text.count(TAG)} pictures ({TAG}), but the row holds {count} (image, images).")
    rest = text.strip()
    while rest.startswith(TAG):
        rest = rest.removeprefix(TAG).lstrip()
    while rest.endswith(TAG):
        rest = rest.removesuffix(TAG).rstrip()
    return {**data, name: rest}


def _shown(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """{images} of the image blocks in the messages of a field, where the row has no other field for its pictures.

    Raises:
        ValueError: it has one, with another number of pictures; or a block names none.
    """
    contents = [message.get("content") for message in data.get(name, ())]
    lists = [content for content in contents if isinstance(content, (list, tuple))]
    blocks = [block for content in lists for block in content if block["type"] == "image"]
    if not blocks:
        return {}
    held = named_pictures(data)
    named = [block.get("image") or block.get("path") or block.get("url") for block in blocks]
    if len(held) == len(blocks):
        return {}
    if held or None in named:
        raise ValueError(f"{name} shows {len(blocks)} pictures, but the row holds {len(held)} (image, images).")
    return {"image": None, "images": named}


def _question(messages: Sequence[Mapping[str, str]]) -> str:
    """The one question of a prompt."""
    if len(messages) != 1 or messages[0]["role"] != "user":
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise ValueError(f"a prompt must be one turn of the user, got the turns {roles}; join their texts in one.")
    return messages[0]["content"]


def _said(messages: Sequence[Mapping[str, str]], name: str) -> str:
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError(f"{name} must end with a turn of the assistant.")
    return messages[-1]["content"]


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role", message.get("from"))
    return {"human": "user", "gpt": "assistant"}.get(str(role), str(role))


def _content(message: Mapping[str, Any], name: str) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, (list, tuple)) else [content]
    if not all(isinstance(block, Mapping) and block.get("type") in ("text", "image") for block in blocks):
        raise ValueError(f"a message of {name} must be a text or blocks of type text and image, got {content!r}.")
    return "".join(str(block.get("text") or "") for block in blocks if block["type"] == "text")
