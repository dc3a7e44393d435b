"""Answers that rest on more than one try: verified samples, turns until one is verified, votes where tries disagree.

A verification here is a review: the model looks at its own answer again and names the option that it names now; an
answer whose review names the same one is verified. Every question begins with the plain, most probable answer, which is
the first of the tries; what is drawn beyond it is asked afresh, with no review in sight.

- `verify`: N samples, each verified; the majority of the verified ones decides, of all where none is. Source:
  Self-PRM, arXiv 2505.11227, section 5.
- `turns`: answer and verification in turns, until one is verified; else the last. Source: SPOC, arXiv 2506.06923.
- `effort`: a question is hard where its first answer and the same question with its options in another order disagree
  (auto), or where a review of the answer disagrees as well (review), or always (all); hard ones are asked N times more,
  in other orders, and the majority of all that was said decides. Source: MAgICoRe, arXiv 2409.12147, whose idea it is
  to spend more only where the cheap way is unsure; the signs of it are ours.
- `strategy`: of the first answer, a review of it and votes of all, the way that a choice learnt from earlier attempts
  picks (`reward_vlm.scl.ways`). Source: SMART, arXiv 2410.16128.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from reward_vlm.chat import Chat
from reward_vlm.data import Question
from reward_vlm.dialogue import Dialogue
from reward_vlm.scl.options import SCLOptions
from reward_vlm.scl.talk import Talk
from reward_vlm.scl.ways import FIRST, REVIEW, AnswerStrategy
from reward_vlm.verifier import self_verify
from reward_vlm.vlm import Reply, Sampling
from vision.refine import item_generators


@dataclass(frozen=True)
class Model:
    """How a corrector asks, reviews and reads."""

    chat: Chat
    """The model."""
    ask: Callable[[Talk, int | str | None], Dialogue]
    """The dialogue with the next request: None is the question, others are reviews."""
    read: Callable[[Talk, Dialogue, Reply], Talk]
    """The talk with the request and its reply appended."""
    sampling: Sampling
    """Of the first answer."""
    review: int | str
    """With which answers are verified."""
    batch_size: int
    """Dialogues that the model reads at once."""


@dataclass(frozen=True)
class Sample:
    """An answer, and what its verification says."""

    talk: Talk
    """With one answer."""
    verified: bool
    """Whether a review of it names the same option."""


def deliberate(model: Model, questions: Sequence[Question], options: SCLOptions) -> list[Talk]:
    """The talk about each question, by what the options ask for; its first answer is the plain one.

    The draws of a question depend on the seed and its place alone.
    """
    seeds = [options.seed + place for place in range(len(questions))]
    if options.verify:
        return [decided(pool) for pool in samples(model, questions, options.verify, seeds)]
    first = answers(model, [Talk(question) for question in questions], [None] * len(questions), model.sampling, seeds)
    if options.strategy is not None:
        return _picked(model, first, AnswerStrategy.from_pretrained(options.strategy), options, seeds)
    if options.turns:
        return _turns(model, first, options.turns, seeds)
    return _effort(model, first, options, seeds)


def samples(model: Model, questions: Sequence[Question], count: int, seeds: Sequence[int]) -> list[list[Sample]]:
    """`count` answers to each question, the plain one first, each with its verification."""
    first = answers(model, [Talk(question) for question in questions], [None] * len(questions), model.sampling, seeds)
    drawn = _fresh(model, questions, count - 1, seeds)
    pools = [[talk, *more] for talk, more in zip(first, drawn, strict=True)]
    flat = [talk for pool in pools for talk in pool]
    said = iter(_confirmed(model, flat, [seed for seed in seeds for _ in range(count)]))
    return [[Sample(talk, next(said)) for talk in pool] for pool in pools]


def decided(pool: Sequence[Sample]) -> Talk:
    """The talk of the answer that most verified samples give; of all samples where none is verified."""
    talks = [sample.talk for sample in pool]
    places = [place for place, talk in enumerate(talks) if talk.final.choice is not None]
    if not places:
        return _joined(talks, 0, False)
    choices = [talks[place].final.choice for place in places]
    marks = iter([pool[place].verified for place in places])
    kept = self_verify(choices, lambda _: next(marks))  # asked once per sample, in order
    return _joined(talks, places[choices.index(kept.answer)], not kept.fell_back)


def in_way(
    model: Model, first: Sequence[Talk], way: str, votes: int, options: SCLOptions, seeds: Sequence[int]
) -> list[Talk]:
    """What one of `WAYS` makes of first answers; `votes` is how often a question is asked again in the way of votes."""
    if way == FIRST:
        return list(first)
    if way == REVIEW:
        return answers(model, first, [model.review] * len(first), model.sampling, seeds)
    return _effort(model, first, replace(options, effort="all", votes=votes, strategy=None), seeds)


def _picked(
    model: Model, first: Sequence[Talk], strategy: AnswerStrategy, options: SCLOptions, seeds: Sequence[int]
) -> list[Talk]:
    """Every question in the way that the strategy picks for it."""
    model, ways, talks = replace(model, review=strategy.review), [strategy.pick(talk) for talk in first], list(first)
    for way in dict.fromkeys(ways):
        places = [place for place, picked in enumerate(ways) if picked == way]
        own = [first[place] for place in places], [seeds[place] for place in places]
        made = in_way(model, own[0], way, strategy.votes, options, own[1])
        for place, talk in zip(places, made, strict=True):
            talks[place] = talk
    return talks


def _turns(model: Model, first: Sequence[Talk], count: int, seeds: Sequence[int]) -> list[Talk]:
    pools = [[talk] for talk in first]
    sure = [False] * len(pools)
    for turn in range(count):
        waiting = [place for place, done in enumerate(sure) if not done]
        if turn and waiting:
            asked = [first[place].question for place in waiting]
            fresh = _fresh(model, asked, 1, [seeds[place] + turn * STRIDE for place in waiting])
            for place, (talk,) in zip(waiting, fresh, strict=True):
                pools[place].append(talk)
        marks = _confirmed(model, [pools[place][-1] for place in waiting], [seeds[place] for place in waiting])
        for place, mark in zip(waiting, marks, strict=True):
            sure[place] = mark
    return [_joined(pool, len(pool) - 1, done) for pool, done in zip(pools, sure, strict=True)]


def _effort(model: Model, first: Sequence[Talk], options: SCLOptions, seeds: Sequence[int]) -> list[Talk]:
    pools = [[talk] for talk in first]
    if options.effort == "review":
        for pool, again in zip(
            pools, answers(model, first, [model.review] * len(first), model.sampling, seeds), strict=True
        ):
            pool.append(again)
    if options.effort != "all":
        for pool, other in zip(pools, reordered(model, [talk.question for talk in first], 1, seeds), strict=True):
            pool += other
    hard = [
        place for place, pool in enumerate(pools) if len({talk.final.choice for talk in pool}) > 1 or len(pool) == 1
    ]
    asked, count = [first[place].question for place in hard], options.votes
    for place, more in zip(hard, reordered(model, asked, count, [seeds[p] + STRIDE for p in hard]), strict=True):
        pools[place] += more
    found = []
    for pool in pools:
        choices = [talk.final.choice for talk in pool]
        told = Counter(choice for choice in choices if choice is not None)
        best = told.most_common(1)[0][0] if told else None
        found.append(_joined(pool, choices.index(best), best is not None and told[best] > len(pool) / 2))
    return found


STRIDE = 1_000_003
"""Between the seeds of the draws of one question."""


def _joined(pool: Sequence[Talk], kept: int, settled: bool) -> Talk:
    """One talk of several tries, whose dialogue is that of the kept one."""
    tried = tuple(talk.final for talk in pool)
    return replace(pool[kept], question=pool[0].question, tried=tried, kept=kept, settled=settled)


def _fresh(model: Model, questions: Sequence[Question], count: int, seeds: Sequence[int]) -> list[list[Talk]]:
    """`count` samples of each question."""
    talks = [Talk(question) for question in questions for _ in range(count)]
    draws = [seed * STRIDE + number for seed in seeds for number in range(1, count + 1)]
    drawn = answers(model, talks, [None] * len(talks), replace(model.sampling, temperature=1.0), draws)
    return [drawn[start : start + count] for start in range(0, len(drawn), count)] if count else [[] for _ in questions]


def reordered(model: Model, questions: Sequence[Question], count: int, seeds: Sequence[int]) -> list[list[Talk]]:
    """`count` most probable answers to each question with its options in other orders, read as options of its own."""
    turned = [
        _turned(question, seed * STRIDE + number)
        for question, seed in zip(questions, seeds, strict=True)
        for number in range(count)
    ]
    talks = [Talk(question) for question, _ in turned]
    said = answers(model, talks, [None] * len(talks), model.sampling, [0] * len(talks))
    own = []
    for number, (talk, (_, letters)) in enumerate(zip(said, turned, strict=True)):
        choice = talk.final.choice
        answer = replace(talk.final, choice=letters.get(choice or "", choice if not letters else None))
        own.append(replace(talk, question=questions[number // count], tried=(answer,)))
    return [own[start : start + count] for start in range(0, len(own), count)]


def _turned(question: Question, seed: int) -> tuple[Question, dict[str, str]]:
    """The question with its texts behind other letters, and the letter of each in the question itself."""
    names, texts = [letter for letter, _ in question.options], [text for _, text in question.options]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    options = tuple((name, texts[place]) for name, place in zip(names, order, strict=True))
    return replace(question, options=options, answer=None), {
        name: names[place] for name, place in zip(names, order, strict=True)
    }


def _confirmed(model: Model, talks: Sequence[Talk], seeds: Sequence[int]) -> list[bool]:
    """Whether a review of each answer names the same option."""
    again = answers(model, talks, [model.review] * len(talks), model.sampling, seeds)
    return [talk.settled and talk.final.choice is not None for talk in again]


def answers(
    model: Model,
    talks: Sequence[Talk],
    requests: Sequence[int | str | None],
    sampling: Sampling,
    seeds: Sequence[int],
) -> list[Talk]:
    """The talks with one more request and its reply: None is the question, others are reviews; a seed for each."""
    if not talks:
        return []
    asked = [model.ask(talk, request) for talk, request in zip(talks, requests, strict=True)]
    generators = [item_generators(seed % 2**62, 1)[0] for seed in seeds]
    replies: list[Reply] = []
    for start in range(0, len(asked), model.batch_size):
        part = slice(start, start + model.batch_size)
        replies += model.chat.generate(asked[part], sampling, generators=generators[part])
    return [model.read(talk, dialogue, reply) for talk, dialogue, reply in zip(talks, asked, replies, strict=True)]
