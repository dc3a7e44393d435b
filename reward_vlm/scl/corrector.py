"""SCLCorrector: a model answers a multiple-choice question about a picture, then reviews its own answer.

The loop is a fold of one move over a schedule: the question, then the reviews. The move appends the next request to the
dialogue, lets the model reply, and appends the reply. No one tells the model the right answer.

Differences from the published code: the default prompt and the strict reading of answers are ours
(`reward_vlm.scl.prompts`, `reward_vlm.scl.extract`; both of the published code's are there), replies are not sampled
unless asked for (the published code samples at 0.7), a judge or votes may decide whether a review is taken, and rounds
may end when an answer is confirmed. Source: arXiv 2410.04055, sections 3.1 and 4.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from reward_vlm.chat import WithChat
from reward_vlm.data import Question
from reward_vlm.dialogue import Dialogue
from reward_vlm.judges import Judge, Query
from reward_vlm.scl.deliberate import Model, deliberate
from reward_vlm.scl.extract import extract
from reward_vlm.scl.options import CONFIG, SCLConfig, SCLOptions
from reward_vlm.scl.prompts import ask, review
from reward_vlm.scl.talk import Answer, Talk
from reward_vlm.tiny import builtin_chat
from reward_vlm.vlm import ChatModel, Reply, Sampling
from vision import hub
from vision.config import load_config
from vision.images import ImageLike
from vision.refine import Observers, PerItem, Step, drain, item_generators, observed, refine_steps

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "scl-mini"
Comparison = Judge | Callable[[Query], Sequence[float] | Tensor]
"""Says how good two answers to a question are: a judge, or one score each, higher is better."""


@dataclass(frozen=True)
class Talks:
    """A batch of them with their random numbers."""

    talks: PerItem[Talk]
    """One per question."""
    generators: PerItem[torch.Generator]
    """One per question, for sampling."""


Shown = ImageLike | Sequence[ImageLike] | None
"""A picture (path, PIL, array, tensor), several, or none."""
Choices = Sequence[str] | Mapping[str, str]
"""Texts of the options, or by their letters."""
Request = int | str | None
"""None: the question; a number or a text: a review."""
Watchers = Observers[Talks, Request]


@dataclass
class SCLCorrector(WithChat):
    """A vision-language model that answers and reviews its answers."""

    config_name: ClassVar[str] = CONFIG
    config: SCLConfig = field(default_factory=SCLConfig)
    """How it was taught to be asked."""
    judge: Comparison | None = None
    """Decides with `accept="better"`."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        judge: Comparison | None = None,
    ) -> SCLCorrector:
        """Load a corrector.

        Args:
            source: folder or hub name of any vision-language model, `builtin:tiny`, or None for the embedded default.
                Weights without a `corrector.json` get the default configuration.
            revision: of a hub source.
            judge: see `SCLOptions.accept`.

        Raises:
            FileNotFoundError: the source looks like a path and does not exist.
            ValueError: the source is not understood, or its weights do not fit.
        """
        found = hub.find(source, default=PRETRAINED, revision=revision)
        if found.kind == "builtin":
            return cls(builtin_chat(found.name).to(device, dtype), SCLConfig("plain", max_new_tokens=32), judge)
        assert found.path is not None
        path = found.path / CONFIG
        config = load_config(SCLConfig, path) if path.exists() else SCLConfig()
        chat = ChatModel.from_pretrained(found.path, device=device, dtype=dtype, max_pixels=config.max_pixels)
        return cls(chat, config, judge)

    def __call__(
        self,
        image: Shown,
        question: str | Question,
        choices: Choices = (),
        options: SCLOptions | None = None,
        *,
        observers: Watchers = (),
    ) -> Talk:
        """Answer one question and review the answer.

        Args:
            image: a picture (path, PIL, array, tensor), several of them, or None. A string is a path.
            question: what is asked; a `Question` holds its own pictures and choices.
            choices: the answers to choose from: texts (lettered A, B, ...) or {letter: text}. Leave them out when the
                question's text holds them.
            options: see `SCLOptions`.
            observers: called with every step.

        Returns:
            `first` and `final` answers with their chosen options, every answer that was `tried`, and the `dialogue`.
        """
        return self.batch([multiple_choice(image, question, choices)], options, observers=observers)[0]

    def steps(
        self,
        image: Shown,
        question: str | Question,
        choices: Choices = (),
        options: SCLOptions | None = None,
        *,
        observers: Watchers = (),
        resume: Step[Talks, Request] | None = None,
    ) -> Iterator[Step[Talks, Request]]:
        """Iterate over the answers to one question; `step.state.talks[0]` is the dialogue so far.

        Args:
            image, question, choices, options, observers: as in `__call__`.
            resume: go on after this step of an earlier run.
        """
        questions = [multiple_choice(image, question, choices)]
        yield from observed(self._answers(questions, options or SCLOptions(), resume), observers)

    def batch(
        self,
        questions: Sequence[Question],
        options: SCLOptions | None = None,
        *,
        drafts: Sequence[Answer] | None = None,
        observers: Watchers = (),
    ) -> list[Talk]:
        """Answer and review many questions; the model reads `batch_size` of them at once.

        Args:
            drafts: first answers of another model, one per question: they are reviewed in the place of own ones.

        Raises:
            ValueError: there is not one draft per question, or nothing that reviews them.
        """
        options = options or SCLOptions()
        if drafts is not None:
            check_drafts(replace(options, reviews=self.schedule(options)[1:]))
            if len(drafts) != len(questions):
                raise ValueError(f"Every question needs its draft, got {len(drafts)} for {len(questions)} questions.")
        if options.deliberates:
            return deliberate(self.asking(options), questions, options)
        talks: list[Talk] = []
        for start in range(0, len(questions), options.batch_size):
            part = slice(start, start + options.batch_size)
            own = replace(options, seed=options.seed + start)
            given = None if drafts is None else drafts[part]
            talks += drain(self._answers(questions[part], own, drafts=given), observers).state.talks
        return talks

    def _drafted(self, question: Question, draft: Answer) -> Talk:
        """The talk in which the draft was the first answer to the question as this model is asked it."""
        return Talk(question, self.ask(Talk(question), None).assistant(draft.text), (draft,))

    def _answers(
        self,
        questions: Sequence[Question],
        options: SCLOptions,
        resume: Step[Talks, Request] | None = None,
        drafts: Sequence[Answer] | None = None,
    ) -> Iterator[Step[Talks, Request]]:
        """The loop: ask, append the reply, accept, stop."""
        if options.deliberates:
            raise ValueError("verify, turns, effort and strategy have no steps of reviews; call the corrector itself.")
        if options.accept == "better" and self.judge is None:
            raise ValueError('accept="better" needs a judge; give the corrector one (an R1Judge or any function).')
        sampling = Sampling(options.max_new_tokens or self.config.max_new_tokens, options.temperature, options.top_p)

        def propose(state: Talks, at: Request) -> Talks:
            asked = [self.ask(talk, at) for talk in state.talks]
            replies = self.chat.generate(asked, sampling, generators=state.generators)
            answered = map(self._answered, state.talks, asked, replies)
            return Talks(PerItem(answered), state.generators)

        def keep_better(step: Step[Talks, Request]) -> Talks:
            if step.at is None:
                return step.candidate
            old, new = step.state.talks, step.candidate.talks
            if options.votes:
                taken = self._outvotes(old, new, step.candidate.generators, options.votes, sampling)
            else:
                taken = self._prefers(old, new)
            kept = [
                talk if better else replace(before, tried=talk.tried, settled=talk.settled)
                for better, before, talk in zip(taken, old, new, strict=True)
            ]
            return Talks(PerItem(kept), step.candidate.generators)

        def settled(step: Step[Talks, Request]) -> Tensor:
            return torch.tensor([talk.settled for talk in step.state.talks])

        talks = map(Talk, questions) if drafts is None else map(self._drafted, questions, drafts)
        start = Talks(PerItem(talks), item_generators(options.seed, len(questions)))
        return refine_steps(
            start,
            propose,
            self.schedule(options)[0 if drafts is None else 1 :],
            accept=keep_better if options.accept == "better" or options.votes else None,
            stop=settled if options.stop_when_unchanged else None,
            drop_finished=options.stop_when_unchanged,
            resume=resume,
        )

    def asking(self, options: SCLOptions) -> Model:
        """What deliberation needs of this corrector; answers are verified with the first of the reviews.

        Raises:
            ValueError: there is no review to verify with.
        """
        reviews = self.schedule(options)[1:]
        if not reviews and options.effort not in ("auto", "all") and options.strategy is None:
            raise ValueError("Answers are verified by a review; name one (--reviews 0).")
        sampling = Sampling(options.max_new_tokens or self.config.max_new_tokens, options.temperature, options.top_p)
        review = reviews[0] if reviews and reviews[0] is not None else 0
        return Model(self.chat, self.ask, self._answered, sampling, review, options.batch_size)

    def schedule(self, options: SCLOptions) -> tuple[Request, ...]:
        """The requests of a dialogue, in order: None is the question, the others are reviews."""
        reviews = self.config.reviews if options.reviews is None else options.reviews
        return (None, *reviews * options.rounds)

    def ask(self, talk: Talk, at: Request) -> Dialogue:
        """The dialogue with the next request: the question, or a review."""
        question, style = talk.question, self.config.style
        text = ask(question, style) if at is None else review(at, question, style)
        pictures = question.media() if at is None or self.config.image_each_turn else []
        return talk.dialogue.user(*pictures, text)

    def _answered(self, talk: Talk, asked: Dialogue, reply: Reply) -> Talk:
        letters = [letter for letter, _ in talk.question.options]
        choice = extract(reply.text, self.config.extract, letters)
        answer, tried, same = Answer(reply.text, choice, reply), talk.tried, False
        if tried:
            same = choice == talk.final.choice and (choice is not None or reply.text == talk.final.text)
        return Talk(talk.question, asked.assistant(reply.text), (*tried, answer), len(tried), same)

    def _outvotes(
        self,
        old: Sequence[Talk],
        new: Sequence[Talk],
        generators: Sequence[torch.Generator],
        votes: int,
        sampling: Sampling,
    ) -> list[bool]:
        """Whether the new option gets more votes than the old one, of fresh answers to the plain question; an option
        that did not change, or takes the place of none, is taken without votes."""
        taken = [a.final.choice is None or a.final.choice == b.final.choice for a, b in zip(old, new, strict=True)]
        disputed = [i for i, b in enumerate(new) if not taken[i] and b.final.choice is not None]
        if not disputed:
            return taken
        asked = [self.ask(Talk(new[i].question), None) for i in disputed for _ in range(votes)]
        seeds = [int(torch.randint(2**31, (1,), generator=generators[i])) for i in disputed]
        draws = PerItem(one for seed in seeds for one in item_generators(seed, votes))
        replies = self.chat.generate(asked, replace(sampling, temperature=1.0), generators=draws)
        for number, i in enumerate(disputed):
            letters = [letter for letter, _ in new[i].question.options]
            said = replies[number * votes : (number + 1) * votes]
            counted = [extract(reply.text, self.config.extract, letters) for reply in said]
            taken[i] = counted.count(new[i].final.choice) > counted.count(old[i].final.choice)
        return taken

    def _prefers(self, old: Sequence[Talk], new: Sequence[Talk]) -> list[bool]:
        """Whether the judge prefers the new answer to the one that stands; a tie keeps the old one."""
        assert self.judge is not None
        queries = [
            Query(ask(b.question, "plain"), (a.final.text, b.final.text), tuple(b.question.media()))
            for a, b in zip(old, new, strict=True)
        ]
        if callable(batch := getattr(self.judge, "batch", None)):
            scores = [judged.scores for judged in batch(queries)]
        else:
            scores = [self.judge(query) for query in queries]
        return [bool(after > before) for before, after in scores]


def check_drafts(options: SCLOptions) -> None:
    """
    Raises:
        ValueError: with these options the drafts of another model would not be reviewed.
    """
    if options.deliberates:
        raise ValueError("verify, turns, effort and strategy begin with own answers; leave them out to review drafts.")
    if options.reviews == ():
        raise ValueError("Drafts are to be reviewed; name a review (--reviews 0).")


def multiple_choice(
    image: Shown,
    question: str | Question,
    choices: Choices = (),
) -> Question:
    """A question without a known answer, as pictures, text and choices; a `Question` is returned as it is.

    Raises:
        ValueError: there is one choice alone, there are more than letters, one is empty or there twice, or a `Question`
            comes with more of them.
    """
    if isinstance(question, Question):
        if image is not None or choices:
            raise ValueError("A Question holds its own pictures and choices; give None for the image, and no choices.")
        return question
    if isinstance(choices, Mapping):
        options = tuple(choices.items())
    else:
        if len(choices) > 26:
            raise ValueError(f"Choices without letters of their own can be at most 26, got {len(choices)}.")
        options = tuple(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", choices, strict=False))
    if len(options) == 1:
        raise ValueError("A question needs two or more choices, or none when its text holds them; got one.")
    texts = [text for _, text in options]
    if any(not text.strip() or texts.count(text) > 1 for text in texts):
        raise ValueError(f"Choices are texts that differ, got {', '.join(map(repr, texts))}.")
    media: Any = () if image is None else image
    given = media if isinstance(media, (list, tuple)) else (media,)
    shown = Dialogue().user(*(Path(each) if isinstance(each, str) else each for each in given))
    return Question("", question, options, None, shown.images)
