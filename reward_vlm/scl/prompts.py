"""What a model is asked: the question with its options, then one review after another.

Styles:
- "full" (ours): the options, one per line, then the request to explain and to mark the answer;
- "construction" and "evaluation": the two scripts of the published code to the letter. They differ in the character
  before
  the request (a space, a line break) and, for ScienceQA, before the options; the layout of the options depends on the
  data set (`Question.source`), and MMStar and RealWorldQA hold them in the question's text;
- "plain": the question and its options and nothing else, for small models that were taught to answer so.

Source: ivy3h/SCL, data construction and inference; the reviews are the prompts CP, VP-1, VP-2 and VP-3 of the paper.
"""

from __future__ import annotations

from typing import Literal

from reward_vlm.data import Question

Style = Literal["full", "construction", "evaluation", "plain"]

REVIEWS = (
    "Review your previous answer and find problems with your answer. Based on the problems you found, improve your "
    "answer.",
    "Review your previous answer and ensure that all relevant aspects of the image have been considered. Are there any "
    "elements or details that you missed? Based on your review, improve your answer.",
    "Review your contextual understanding of the image. Have you correctly interpreted the overall context and purpose "
    "of the scene? Based on your review, improve your answer.",
    "Review your answer and ensure that your understanding of the image is comprehensive and detailed. Are there any "
    "aspects of the scene that you have omitted or misinterpreted? Based on your review, improve your answer.",
)
"""By number: 0 critical (CP), 1 comprehensive details (VP-1), 2 contextual understanding (VP-2), 3 scene analysis
(VP-3)."""
EXPLAIN = "Explain your reasoning step-by-step."


def ask(question: Question, style: Style = "full") -> str:
    """The first turn: the question, its options, and what the answer should look like."""
    if style == "plain":
        return question.question + _sentence_options(question)
    if style == "full":
        listed = "".join(f"\n{letter}. {text}" for letter, text in question.options)
        return f"{question.question}{listed}\n{EXPLAIN}{answer_format(question)}"
    before = " " if style == "construction" else "\n"
    return f"{question.question}{published_options(question, style)}{before}{EXPLAIN}{answer_format(question)}"


def review(prompt: int | str, question: Question, style: Style = "full") -> str:
    """A turn that asks the model to look at its answer again.

    Args:
        prompt: a number from 0 to 3, see `REVIEWS`, or a text of one's own. The published code sends an empty text when
        it is
            given any other number.
        question: what it is about; it decides about the example in the format of the answer.

    Raises:
        ValueError: there is no review of this number.
    """
    text = review_text(prompt)
    return text if style == "plain" else f"{text} {EXPLAIN}{answer_format(question)}"


def review_text(prompt: int | str) -> str:
    """The review of a number, or the text itself.

    Raises:
        ValueError: there is no review of this number.
    """
    if isinstance(prompt, str):
        return prompt
    if not 0 <= prompt < len(REVIEWS):
        raise ValueError(f"A review must be a number from 0 to {len(REVIEWS) - 1} or a text, got {prompt}.")
    return REVIEWS[prompt]


def answer_format(question: Question) -> str:
    """The request to mark the answer, with a leading space; its example is 0 where options are numbered, else A."""
    letter = "0" if question.source == "ScienceQA" or (question.options and question.options[0][0] == "0") else "A"
    return (
        f" Your final answer should be put between two ##, like ## {letter} ## (if your final answer is {letter}), "
        "at the end of your response."
    )


def published_options(question: Question, style: Literal["construction", "evaluation"] = "evaluation") -> str:
    """The options as the published code lays them out for the question's data set; those it does not know: as
    MMBench's.

    Options without a text are left out of MMBench's; MMTBench's are always four, "nan" where one is missing.
    """
    lines = "\n".join(f"{letter}. {text}" for letter, text in question.options)
    match question.source:
        case "MMStar" | "RealWorldQA":
            return ""
        case "ScienceQA":
            return lines if style == "construction" else f"\n{lines}"
        case "MMEvalPro":
            return lines
        case "SEEDBench":
            return "".join(f" {letter}. {text}." for letter, text in question.options)
        case "MMTBench":
            return "".join(f" {letter}. {dict(question.options).get(letter, 'nan')}." for letter in "ABCD")
        case _:
            return _sentence_options(question)


def _sentence_options(question: Question) -> str:
    return "".join(f" {letter}. {text}" for letter, text in question.options if text)
