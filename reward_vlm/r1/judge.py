"""R1Judge: reason about two answers to a question about a picture, then choose; more than two in a tournament.

A judgement is a set of votes: K samples of each comparison, in one or both orders of the answers; the rules for ties
are those of `reward_vlm.judges`.

Differences from the published code: it judges each pair once, with the better answer always first, and reads anything
but "1" as the second; here the default looks at both orders, and unreadable replies do not count.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from reward_vlm.chat import WithChat, listed, spelled
from reward_vlm.dialogue import Dialogue, Video
from reward_vlm.judges import Judged, Query, Vote, as_query, tally, winner_of
from reward_vlm.r1.options import CONFIG, R1Config, R1Options
from reward_vlm.templates import PAIRS
from reward_vlm.tiny import builtin_chat
from reward_vlm.vlm import ChatModel, Sampling
from vision import hub
from vision.config import load_config, read_json
from vision.images import ImageLike
from vision.refine import Observers, PerItem, Step, drain, item_generators, observed, refine_steps

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "r1-mini"
"""Folder of the embedded judges: one sub-folder per variant."""
AUDIT = "audit.json"
"""Figures of an audit, beside the weights."""


@dataclass(frozen=True)
class Ballots:
    """A batch of questions while they are judged: the state of the loop."""

    standing: PerItem[tuple[int, ...]]
    """Indices of the answers that no other has beaten."""
    votes: PerItem[tuple[Vote, ...]]
    """Every reply so far."""


Watchers = Observers[Ballots, int]
Shown = ImageLike | Video | Sequence[ImageLike | Video] | None
"""What a question is about: a picture (path, PIL, array, tensor), a film, several of them, or None."""
Answers = Sequence[str | ImageLike]
"""Texts (strings), or pictures (paths as `pathlib.Path`, PIL, arrays, tensors); two or more."""


@dataclass
class R1Judge(WithChat):
    """A vision-language model as a judge of answers."""

    config_name: ClassVar[str] = CONFIG
    config: R1Config = field(default_factory=R1Config)
    """How it was taught to be asked."""
    audited: Mapping[str, Any] | None = None
    """The figures of an audit (`reward_vlm.audit`) that lies beside the weights as audit.json."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: Literal["scenes", "restoration"] | None = None,
        engine: Literal["transformers", "vllm"] = "transformers",
    ) -> R1Judge:
        """Load a judge.

        Args:
            source: folder, hub name (the published judge or any Qwen2.5-VL), `builtin:tiny`, or None for the embedded
                default. Weights without a `judge.json` get the published model's configuration.
            revision: of a hub source.
            variant: of the embedded default: scenes (also when None) or restoration.
            engine: "vllm" needs the package vllm and a GPU.

        Raises:
            FileNotFoundError: the source looks like a path and does not exist.
            ValueError: the source is not understood, its weights do not fit, or vllm is not installed.
        """
        if source is not None and variant is not None:
            raise ValueError(f"variant chooses among the embedded weights; leave it out for the source {source}.")
        found = hub.find(source, default=PRETRAINED / (variant or "scenes"), revision=revision)
        if found.kind == "builtin":
            return cls(builtin_chat(found.name).to(device, dtype), R1Config("plain", True, 64, None))
        assert found.path is not None
        path = found.path / CONFIG
        config = load_config(R1Config, path) if path.exists() else R1Config()
        audited = read_json(found.path / AUDIT) if (found.path / AUDIT).exists() else None
        if engine == "vllm":
            from reward_vlm.vllm import VLLMChat

            return cls(VLLMChat.from_folder(found.path, dtype, config.max_pixels), config, audited)
        chat = ChatModel.from_pretrained(found.path, device=device, dtype=dtype, max_pixels=config.max_pixels)
        return cls(chat, config, audited)

    def __call__(
        self,
        image: Shown,
        question: str,
        answers: Answers,
        options: R1Options | None = None,
        *,
        observers: Watchers = (),
    ) -> Judged:
        """Judge the answers to one question.

        Args:
            image: a picture (path, PIL, array, tensor), a film, several of them, or None. A string is a path here.
            question: what was asked.
            answers: two or more: texts (strings), or pictures (paths as `pathlib.Path`, PIL, arrays, tensors).
            options: see `R1Options`.
            observers: called with every round of the tournament.
        """
        return self.batch([as_query(image, question, answers)], options, observers=observers)[0]

    def steps(
        self,
        image: Shown,
        question: str,
        answers: Answers,
        options: R1Options | None = None,
        *,
        observers: Watchers = (),
        resume: Step[Ballots, int] | None = None,
    ) -> Iterator[Step[Ballots, int]]:
        """Iterate over the rounds of the tournament about one question; `step.state.votes[0]` are the votes so far.

        Args:
            image, question, answers, options, observers: as in `__call__`.
            resume: go on after this step of an earlier run.
        """
        steps = self._rounds([as_query(image, question, answers)], options or R1Options(), resume)
        yield from observed(steps, observers)

    def batch(
        self, queries: Sequence[Query], options: R1Options | None = None, *, observers: Watchers = ()
    ) -> list[Judged]:
        """Judge many questions; prompts of different questions are read together."""
        options = options or R1Options()
        state = drain(self._rounds(queries, options), observers).state
        champions = [left[0] if options.tournament == "knockout" else None for left in state.standing]
        return [
            tally(len(query.answers), cast, champion)
            for query, cast, champion in zip(queries, state.votes, champions, strict=True)
        ]

    def _rounds(
        self, queries: Sequence[Query], options: R1Options, resume: Step[Ballots, int] | None = None
    ) -> Iterator[Step[Ballots, int]]:
        """The loop: answers that stand meet, votes are cast, and winners meet winners until one is left.

        In a round robin there is one round, where every pair meets and nobody leaves.
        """
        knockout = options.tournament == "knockout"
        most = max((len(query.answers) for query in queries), default=2)

        def propose(state: Ballots, number: int) -> Ballots:
            meet = neighbours if knockout else every_pair
            pairs = [(q, pair) for q, left in enumerate(state.standing) for pair in meet(left)]
            votes, standing = list(state.votes), list(state.standing)
            for (q, pair), cast in zip(pairs, self._compare(queries, pairs, options), strict=True):
                votes[q] = (*votes[q], *cast)
                if knockout:  # the earlier answer survives an unreadable reply
                    winner = winner_of(cast)
                    loser = pair[1] if winner is None else sum(pair) - winner
                    standing[q] = tuple(answer for answer in standing[q] if answer != loser)
            return Ballots(PerItem(standing), PerItem(votes))

        start = Ballots(PerItem(tuple(range(len(query.answers))) for query in queries), PerItem([()] * len(queries)))
        return refine_steps(start, propose, range(1, (most - 1).bit_length() + 1 if knockout else 2), resume=resume)

    def _compare(
        self, queries: Sequence[Query], pairs: Sequence[tuple[int, tuple[int, int]]], options: R1Options
    ) -> list[list[Vote]]:
        """The votes on pairs (question, (answer, answer))."""
        temperature = options.temperature
        if temperature is None:
            temperature = 0.0 if options.votes == 1 else 1.0
        limit = options.max_new_tokens or self.config.max_new_tokens
        sampling = Sampling(limit, temperature, options.top_p)
        flips = torch.randint(2, (len(pairs),), generator=torch.Generator().manual_seed(options.seed)).tolist()
        shown: list[tuple[int, int, tuple[int, int]]] = []
        for number, (q, (a, b)) in enumerate(pairs):
            orders = {"both": [(a, b), (b, a)], "given": [(a, b)], "random": [(b, a) if flips[number] else (a, b)]}
            shown += [(number, q, order) for order in orders[options.orders] for _ in range(options.votes)]
        generators = item_generators(options.seed, len(shown))
        cast: list[list[Vote]] = [[] for _ in pairs]
        read = PAIRS[self.config.template].read
        for start in range(0, len(shown), options.batch_size):
            part = shown[start : start + options.batch_size]
            dialogues = [self.ask(queries[q], order) for _, q, order in part]
            replies = self.chat.generate(dialogues, sampling, generators=generators[start : start + len(part)])
            for (number, _, order), reply in zip(part, replies, strict=True):
                chosen = read(reply.text)
                cast[number].append(Vote(order, None if chosen is None else order[chosen - 1], reply))
        return cast

    def unknown(self, query: Query) -> str | None:
        """Why these weights cannot judge a question that they were not taught; None: nothing is known against it."""
        config, pictures = self.config, not isinstance(query.answers[0], str)
        if config.question is not None and query.question.strip() != config.question:
            return (
                f"These weights know one question, {config.question!r}, and cannot judge answers to "
                f"{query.question!r}; other weights can (--source)."
            )
        if config.answers == ("texts" if pictures else "pictures"):
            return f"These weights compare {config.answers}, not {'pictures' if pictures else 'texts'}."
        words = () if config.question is None or pictures else self._unknown_words(" ".join(map(str, query.answers)))
        if words:
            return (
                f"These weights never saw {listed(words)} and cannot judge such answers; they know sentences "
                "like those of their model card. Other weights can (--source)."
            )
        return None

    def _unknown_words(self, text: str) -> list[str]:
        return spelled(self.model.tokenizer, text) if isinstance(self.chat, ChatModel) else []

    def ask(self, query: Query, order: tuple[int, int] = (0, 1)) -> Dialogue:
        """The prompt that shows two answers of a question in this order."""
        return prompt(self.config, query, order)


def every_pair(standing: Sequence[int]) -> list[tuple[int, int]]:
    """Who meets in a round robin."""
    return list(itertools.combinations(standing, 2))


def neighbours(standing: Sequence[int]) -> list[tuple[int, int]]:
    """Who meets in a round of a knockout; without a partner, the last one goes on alone."""
    return list(zip(standing[::2], standing[1::2], strict=False))


def prompt(config: R1Config, query: Query, order: tuple[int, int] = (0, 1)) -> Dialogue:
    """What a judge of this configuration is sent about two answers of a question, in this order."""
    text, pictures = PAIRS[config.template].show(query.question, [query.answers[i] for i in order], query.media)
    return Dialogue().user(*((*pictures, text) if config.image_first else (text, *pictures)))
