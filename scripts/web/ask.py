"""The tabs Judge and Answer: questions about a picture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from reward_vlm.judges import Judged, Vote
from reward_vlm.r1.job import JudgeOptions, judge_question
from reward_vlm.r1.options import R1Options
from reward_vlm.scl.corrector import Talk
from reward_vlm.scl.job import AnswerOptions, answer_question
from reward_vlm.scl.options import SCLOptions

from . import WebOptions
from .controls import HIDDEN, buttons, checked, follow, read, wire
from .forms import Form


def judge_tab(options: WebOptions) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown(
        "Which answer about a picture is better, and why. The judge that comes with the project knows rendered "
        "scenes of coloured shapes only."
    )
    with gr.Row(equal_height=False):
        with gr.Column():
            asked = _Asked.column("judge", "what is in the image ?", "answers", R1Options)
        with gr.Column():
            told = gr.Markdown(elem_id="judge-told")
            scores = gr.Dataframe(headers=["answer", "score"], label="Scores", elem_id="judge-scores")
            reasons = gr.Textbox(label="Reasoning", lines=6, elem_id="judge-reasons")
            votes = gr.Textbox(label="Every judgement", lines=8, elem_id="judge-votes")

    def results(given: Sequence[str], found: Judged | None) -> list[Any]:
        if found is None:
            return [None, "", ""]
        table = [[answer, round(score, 3)] for answer, score in zip(given, found.scores.tolist(), strict=True)]
        said = "\n\n".join(_judgement(given, vote) for vote in found.votes)
        return [table, found.reasoning, said]

    asked.wire(options, JudgeOptions, judge_question, [told, scores, reasons, votes], results)


def answer_tab(options: WebOptions) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown("Ask about a picture, and let the model review its answer. The small model knows rendered scenes only.")
    with gr.Row(equal_height=False):
        with gr.Column():
            asked = _Asked.column("answer", "what colour is the object ?", "choices", SCLOptions)
        with gr.Column():
            told = gr.Markdown(elem_id="answer-told")
            first = gr.Textbox(label="First answer", lines=2)
            final = gr.Textbox(label="Answer after review", lines=2, elem_id="answer-final")
            talk = gr.JSON(label="The whole dialogue")

    def results(given: Sequence[str], found: Talk | None) -> list[Any]:
        if found is None:
            return ["", "", None]
        words = [[part for part in turn.parts if isinstance(part, str)] for turn in found.dialogue.turns]
        turns = [{turn.role: " ".join(said)} for turn, said in zip(found.dialogue.turns, words, strict=True)]
        return [*(f"{found.read(answer)}\n{answer.text.strip()}" for answer in (found.first, found.final)), turns]

    asked.wire(options, AnswerOptions, answer_question, [told, first, final, talk], results)


@dataclass(frozen=True)
class _Asked:
    """A picture, a question, and the answers or choices that belong to it."""

    given: str
    """What the job calls them."""
    inputs: list[Any]
    """Components: picture, question, lines, and the form's."""
    form: Form
    """Further options."""
    buttons: tuple[gr.Button, gr.Button]
    """Run and stop."""

    @classmethod
    def column(cls, name: str, question: str, given: str, options: type) -> _Asked:
        """Its components; call it inside a column."""
        picture = gr.Image(type="filepath", label="Picture", elem_id=f"{name}-picture", sources=["upload"])
        text = gr.Textbox(label="Question", value=question)
        lines = gr.Textbox(label=f"{given.capitalize()}, one a line", lines=4, elem_id=f"{name}-{given}")
        with gr.Accordion("Options", open=False):
            form = Form(options, HIDDEN)
        return cls(given, [picture, text, lines, *form.inputs], form, buttons(name))

    def wire(
        self,
        options: WebOptions,
        job: Callable[..., Any],
        ask: Callable[..., Any],
        outputs: list[Any],
        results: Callable[[Sequence[str], Any], list[Any]],
    ) -> None:
        """Ask on one button, stop on the other; `results` makes the outputs behind the first, of lines and answer."""

        def work(stop: threading.Event, seen: str | None, question: str, text: str, *values: Any) -> Iterator[Any]:
            lines = lines_of(text)
            asked = {
                "question": question,
                "image": () if seen is None else (Path(seen),),
                self.given: lines,
                "options": read(self.form, values),
            }
            begun = [gr.skip()] * (len(outputs) - 1)
            given = checked(job, device=options.device, **asked)
            yield from follow(ask, given, options, stop, begun, partial(results, lines))

        wire(*self.buttons, work, self.inputs, outputs)


def _judgement(given: Sequence[str], vote: Vote) -> str:
    """What was shown in which order, what was found better, and the judge's words."""
    first, second = (given[shown] for shown in vote.pair)
    better = "could not be read" if vote.winner is None else given[vote.winner]
    return f"First: {first}\nSecond: {second}\nBetter: {better}\n{vote.reply.text.strip()}"


def lines_of(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
