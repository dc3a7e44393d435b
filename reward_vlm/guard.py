"""Processors for which a text is text: what it says is never read as a special token.

A text may hold the very characters of a token that ends a turn or stands for a picture. Chat templates write texts
and such tokens into one string, so that the tokenizer cannot tell them apart: an answer could close its own turn, and
one that names the picture's token would lack a picture. Here such characters are broken by a mark before the template
sees them. The mark is a token of a copy of the tokenizer and is taken out again afterwards: the model reads the same
characters, as ordinary tokens. Texts without such characters take the processor's own way.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import torch
from torch import Tensor

MARK = "\ue0b0\uf0b0\ue0b1"
"""Private characters, no text of people."""
EXPANSIONS = ("<placeholder>", "<|placeholder|>", "<image>", "<video>", "<audio>")
"""What processors write in passing while they make room for pictures."""

PER_TOKEN = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask"}
"""What processors give with an entry per token."""

TOKENS = re.compile(
    r"<(?=[|\uff5c][^<>\n]{1,60}[|\uff5c]>|/?s>|(?:bos|eos|pad|unk|eot|eod|mask|image|img|video|audio)>|/(?:img|image)>"
    r"|(?:start|end|begin)_of_\w{1,30}>|(?:image|video|audio)_(?:soft_)?(?:token|pad|\d+)>|fake_token_around_image>"
    r"|(?:unused|reserved)_?\d+>)|\[(?=/?(?:INST|SYS|IMG|IMG_BREAK|IMG_END|TOOL_CALLS|AVAILABLE_TOOLS|gMASK)\])",
    re.IGNORECASE,
)
"""The first character of what the families of models write their special tokens as."""
ZERO_WIDTH = "\u200b"


def broken(text: str) -> str:
    """The text for a server whose tokens are not known: what looks like a special token is broken by a space of no
    width after its first character."""
    return TOKENS.sub(rf"\g<0>{ZERO_WIDTH}", text)


def guard(processor: Any) -> Any:
    """The processor with a chat template and calls that never read texts of messages as special tokens.

    It shares its parts with the given one, and saves the same files.
    """
    if isinstance(processor, Guarded):
        return processor
    guarded, kind = copy.copy(processor), type(processor)
    guarded.__class__ = type(kind.__name__, (Guarded, kind), {"__module__": kind.__module__})
    guarded.plain = processor
    return guarded


class Guarded:
    """What `guard` adds to a processor's class."""

    plain: Any
    """The processor that is guarded."""

    def apply_chat_template(self, conversation: Any, *arguments: Any, **options: Any) -> Any:
        """As the processor's own, with the special tokens that texts name broken by a mark."""
        return super().apply_chat_template(self._marked(conversation), *arguments, **options)  # type: ignore[misc]

    def __call__(self, *arguments: Any, text: Any = None, **options: Any) -> Any:
        """As the processor's own, without the marks of `apply_chat_template`, and with one beginning token alone."""
        if isinstance(options.get("images"), list) and None in options["images"]:
            options["images"] = [each or [] for each in options["images"]]  # rows without pictures among others
        texts = [text] if isinstance(text, str) else list(text or ())
        begin = getattr(self.plain.tokenizer, "bos_token", None)
        if begin and texts and all(each.startswith(begin) for each in texts):
            options["add_special_tokens"] = False  # the template wrote it
        if not any(MARK in each for each in texts):
            return super().__call__(*arguments, text=text, **options)  # type: ignore[misc]
        batch = self._marking(*arguments, text=text, **options)
        keep = [[int(id) != self._mark_id for id in row] for row in batch["input_ids"]]
        side = options.get("padding_side") or self.plain.tokenizer.padding_side
        rows = {
            name: [list(compress(row, kept)) for row, kept in zip(batch[name], keep, strict=True)]
            for name in PER_TOKEN & batch.keys()
        }
        for name, left in rows.items():
            if isinstance(batch[name], Tensor):
                longest = max(sum(map(int, mask)) for mask in rows["attention_mask"])
                fill = self.plain.tokenizer.pad_token_id if name == "input_ids" else 0
                batch[name] = torch.stack([_of_length(longest, row, fill, side) for row in left])
            else:
                batch[name] = left
        return batch

    def tokens(self, text: str) -> list[int]:
        """A text's tokens, none of them special."""
        marked = self.mark(text)
        processor = self.plain if marked == text else self._marking
        ids = processor.tokenizer(marked, add_special_tokens=False)["input_ids"]
        return ids if marked == text else [id for id in ids if id != self._mark_id]

    def prompt(self, conversation: Any) -> list[int]:
        """The tokens of messages and of the opening of the model's own turn, with one token for each picture."""
        text = self.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        begin = getattr(self.plain.tokenizer, "bos_token", None)
        written = bool(begin) and text.startswith(begin)
        ids = self._marking.tokenizer(text, add_special_tokens=not written)["input_ids"]
        return [id for id in ids if id != self._mark_id]

    def mark(self, text: str) -> str:
        """The text with the mark inside of every special token that it names."""
        return self._special.sub(rf"\g<0>{MARK}", text)

    def save_pretrained(self, *arguments: Any, **options: Any) -> Any:
        """As the processor's own."""
        return self.plain.save_pretrained(*arguments, **options)

    def to_dict(self) -> dict[str, Any]:
        """As the processor's own."""
        return self.plain.to_dict()

    def __reduce__(self) -> tuple[Any, ...]:
        return guard, (self.plain,)

    def _marked(self, conversation: Any) -> Any:
        """Messages, or lists of them, with marks in their texts."""
        if isinstance(conversation, (list, tuple)):
            return [self._marked(each) for each in conversation]
        if not isinstance(conversation, Mapping):
            return conversation
        marked = dict(conversation)
        for name in marked.keys() & {"content", "text"}:
            value = marked[name]
            marked[name] = self.mark(value) if isinstance(value, str) else self._marked(value)
        return marked

    @cached_property
    def _marking(self) -> Any:
        """The plain processor with a tokenizer that knows the mark."""
        from tokenizers import AddedToken

        found = copy.copy(self.plain)
        found.tokenizer = copy.deepcopy(self.plain.tokenizer)
        found.tokenizer.add_tokens([AddedToken(MARK, special=True, normalized=False)], special_tokens=True)
        return found

    @cached_property
    def _mark_id(self) -> int:
        return self._marking.tokenizer.convert_tokens_to_ids(MARK)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """The first character of every special token, wherever one begins."""
        tokenizer = self.plain.tokenizer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        own = [str(value) for name, value in vars(self.plain).items() if name.endswith("_token") and value]
        names = {*added, *map(str, tokenizer.all_special_tokens), *own, *EXPANSIONS, MARK}
        parts = sorted(name for name in names if len(name) > 1)
        return re.compile("|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in parts))


def _of_length(length: int, row: Sequence[Any], fill: int, side: str) -> Tensor:
    """Entries of a row's tokens with more or less padding on its side."""
    entries = torch.stack([torch.as_tensor(entry) for entry in row])
    more = entries.new_full((max(length - len(entries), 0), *entries.shape[1:]), fill)
    return torch.cat([more, entries])[-length:] if side == "left" else torch.cat([entries, more])[:length]
