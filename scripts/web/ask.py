"""The tabs Judge and Answer: questions about a picture."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from reward_vlm.r1.job import JudgeOptions, judge_question
from reward_vlm.r1.options import R1Options
from reward_vlm.scl.job import AnswerOptions, answer_question
from reward_vlm.scl.options import SCLOptions

from . import WebOptions
from .controls import HIDDEN, buttons, checked, read, say, wire
from .forms import Form
from .runs import watch

VOTES = ["shown first", "shown second", "better", "judgement"]
"""Of every judgement: both orders of a pair, as often as was asked."""


def judge_tab(options: WebOptions) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown(
        "Which answer about a picture is better, and why. The judge that comes with the project knows rendered "
        "scenes of coloured shapes only."
    )
    with gr.Row(equal_height=False):
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", elem_id="judge-picture", sources=["upload"])
            question = gr.Textbox(label="Question", value="what is in the image ?")
            answers = gr.Textbox(label="Answers, one a line", lines=3, elem_id="judge-answers")
            with gr.Accordion("Options", open=False):
                form = Form(R1Options, HIDDEN)
            run, stop = buttons("judge")
        with gr.Column():
            told = gr.Markdown(elem_id="judge-told")
            scores = gr.Dataframe(headers=["answer", "score"], label="Scores", elem_id="judge-scores")
            reasons = gr.Textbox(label="Reasoning", lines=6, elem_id="judge-reasons")
            votes = gr.Dataframe(headers=VOTES, label="Every judgement", elem_id="judge-votes", wrap=True)

    def work(stop: threading.Event, seen: str | None, asked: str, lines: str, *values: Any) -> Iterator[Any]:
        given = lines_of(lines)
        job = checked(
            JudgeOptions,
            question=asked,
            image=() if seen is None else (Path(seen),),
            answers=given,
            options=read(form, values),
            device=options.device,
        )
        for state in watch(
            lambda show: judge_question(job, show), 60 * options.max_minutes, stop, folder=options.folder
        ):
            if not state.over:
                yield say(state), *[gr.skip()] * 3
            elif state.value is None:
                yield say(state), None, "", None
            else:
                table = [
                    [answer, round(score, 3)] for answer, score in zip(given, state.value.scores.tolist(), strict=True)
                ]
                said = [
                    [*(given[shown] for shown in vote.pair), _answer(given, vote.winner), vote.reply.text]
                    for vote in state.value.votes
                ]
                yield say(state), table, state.value.reasoning, said

    wire(run, stop, work, [picture, question, answers, *form.inputs], [told, scores, reasons, votes])


def answer_tab(options: WebOptions) -> None:
    """Components and what they do; call it inside a tab."""
    gr.Markdown("Ask about a picture, and let the model review its answer. The small model knows rendered scenes only.")
    with gr.Row(equal_height=False):
        with gr.Column():
            picture = gr.Image(type="filepath", label="Picture", elem_id="answer-picture", sources=["upload"])
            question = gr.Textbox(label="Question", value="what colour is the object ?")
            choices = gr.Textbox(label="Choices, one a line", lines=4, elem_id="answer-choices")
            with gr.Accordion("Options", open=False):
                form = Form(SCLOptions, HIDDEN)
            run, stop = buttons("answer")
        with gr.Column():
            told = gr.Markdown(elem_id="answer-told")
            first = gr.Textbox(label="First answer")
            final = gr.Textbox(label="Answer after review", elem_id="answer-final")
            talk = gr.JSON(label="The whole dialogue")

    def work(stop: threading.Event, seen: str | None, asked: str, lines: str, *values: Any) -> Iterator[Any]:
        given = lines_of(lines)
        job = checked(
            AnswerOptions,
            question=asked,
            image=() if seen is None else (Path(seen),),
            choices=given,
            options=read(form, values),
            device=options.device,
        )
        for state in watch(
            lambda show: answer_question(job, show), 60 * options.max_minutes, stop, folder=options.folder
        ):
            if not state.over:
                yield say(state), gr.skip(), gr.skip(), gr.skip()
            elif state.value is None:
                yield say(state), "", "", None
            else:
                found = state.value
                words = [[part for part in turn.parts if isinstance(part, str)] for turn in found.dialogue.turns]
                turns = [{turn.role: " ".join(said)} for turn, said in zip(found.dialogue.turns, words, strict=True)]
                yield say(state), found.first.text, found.final.text, turns

    wire(run, stop, work, [picture, question, choices, *form.inputs], [told, first, final, talk])


def _answer(given: Sequence[str], winner: int | None) -> str:
    return "could not be read" if winner is None else given[winner]


def lines_of(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
