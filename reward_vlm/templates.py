"""How judges of several families are asked, and how their replies are read: one `Template` each, by name.

A template of pairs shows two answers and reads which is better; one of points shows one answer and reads its rating.
Readers are strict and never raise: what is not said clearly is None. A published model is asked in its own words
(`reward_vlm.template_texts`, `reward_vlm.r1.prompts`); nothing else about it is assumed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reward_vlm import template_texts as texts
from reward_vlm.parse import NUMBER, answers, choice, first_answer
from reward_vlm.r1.prompts import TEMPLATES as R1_TEMPLATES
from reward_vlm.r1.prompts import fill

Pair = Literal["short", "long", "plain", "unified", "unified_think", "critic_r1"]
"""Templates of judges that compare."""
Point = Literal["unified_point", "unified_image", "q_insight", "visual_quality"]
"""Templates of judges that rate."""
BETTER = re.compile(r"\b(?:response|answer|image) ([12])(?:\W{0,3}) is better\b|\bequally good\b", re.IGNORECASE)
BOXED = re.compile(
    r"\\boxed\{\s*(?:\\text\{)?\s*(?:(?:answer|response)\s*)?([12])\s*(?:is better)?\s*\.?\s*\}", re.IGNORECASE
)
FINAL = re.compile(rf"final score\W{{0,9}}({NUMBER.pattern})", re.IGNORECASE)


@dataclass(frozen=True)
class Template:
    """One way to ask a judge."""

    source: str
    """Weights that are asked so, as the model hub names them."""
    texts: str | None
    """Words about answers that are texts; None: such answers are not judged."""
    pictures: str | None
    """Words about answers that are pictures, which stand behind the question's own; None: answers that are pictures are
    called by their numbers in the words for texts, where there are any."""
    read: Callable[[str], Any]
    """What a reply says: 1 or 2, or a rating; None where it says neither."""
    system: str | None = None
    """Turn of the system in front."""
    image_first: bool = True
    """Pictures stand before the text."""
    max_new_tokens: int = 4096
    """Longest reply."""
    best: float = 1.0
    """The highest rating; of pairs, nothing."""

    def show(self, question: str, shown: Sequence[Any], media: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        """The text and the pictures of a request about one answer or two.

        Raises:
            ValueError: answers of this kind are not judged.
        """
        names = ("answer",) if len(shown) == 1 else ("answer1", "answer2")
        if all(isinstance(answer, str) for answer in shown):
            if self.texts is None:
                raise ValueError(f"Judges like {self.source} look at pictures; take another one for texts.")
            return fill(self.texts, question=question, **dict(zip(names, shown, strict=True))), tuple(media)
        if self.pictures is not None:
            return fill(self.pictures, question=question), (*media, *shown)
        if self.texts is None:
            raise ValueError(f"Judges like {self.source} read texts; take another one for pictures.")
        called = {name: f"image {len(media) + number}" for number, name in enumerate(names, 1)}
        return fill(self.texts, question=question, **called), (*media, *shown)


def stated(text: str) -> int | None:
    """The answer that the last "Answer 1 is better" (response, image) of a text names; None for "equally good"."""
    found = list(BETTER.finditer(text))
    return int(found[-1][1]) if found and found[-1][1] else None


def boxed(text: str) -> int | None:
    r"""The answer in \boxed{...} (1, Answer 1, Answer 1 is better); without any, as `stated`."""
    inside = {int(match[1]) for match in BOXED.finditer(text)}
    if inside or "\\boxed{" in text:
        return inside.pop() if len(inside) == 1 and text.count("\\boxed{") == len(list(BOXED.finditer(text))) else None
    return stated(text)


def final_score(low: float, high: float) -> Callable[[str], float | None]:
    """Reads the number behind the last "Final Score:" where it lies in the scale."""

    def read(text: str) -> float | None:
        found = FINAL.findall(text)
        return _within(found[-1], low, high) if found else None

    return read


def json_rating(text: str) -> float | None:
    """The "rating" of the JSON object in the first answer tag, in [1, 5]."""
    try:
        value = json.loads((first_answer(text) or "").removeprefix("```json").strip("`\n "))
    except (ValueError, RecursionError):
        return None
    rating = value.get("rating") if isinstance(value, dict) else None
    return _within(str(rating), 1, 5) if isinstance(rating, (int, float, str)) else None


def tagged_number(text: str) -> float | None:
    """The number that the last answer tag holds alone, in [1, 5]."""
    found = list(answers(text))
    return _within(found[-1].strip(), 1, 5) if found else None


def _within(text: str, low: float, high: float) -> float | None:
    number = float(text) if NUMBER.fullmatch(text) else None
    return number if number is not None and low <= number <= high else None


PAIRS: dict[str, Template] = {
    **{name: Template("yifanzhang114/R1-Reward", text, None, choice) for name, text in R1_TEMPLATES.items()},
    "unified": Template("CodeGoat24/UnifiedReward-qwen-7b", texts.UNIFIED, texts.UNIFIED_PICTURES, stated),
    "unified_think": Template(
        "CodeGoat24/UnifiedReward-Think-qwen-7b", texts.UNIFIED_THINK, texts.UNIFIED_THINK_PICTURES, choice
    ),
    "critic_r1": Template("lmms-lab/LLaVA-Critic-R1-7B", texts.CRITIC_R1, None, boxed),
}
"""Templates that show two answers."""
POINTS: dict[str, Template] = {
    "unified_point": Template(
        "CodeGoat24/UnifiedReward-qwen-7b", texts.UNIFIED_POINT, None, final_score(0, 100), best=100
    ),
    "unified_image": Template(
        "CodeGoat24/UnifiedReward-qwen-7b", None, texts.UNIFIED_POINT_PICTURES, final_score(1, 5), best=5
    ),
    "q_insight": Template(
        "ByteDance/Q-Insight", None, texts.Q_INSIGHT, json_rating, texts.Q_INSIGHT_SYSTEM, False, 1024, 5
    ),
    "visual_quality": Template(
        "TianheWu/VisualQuality-R1-7B", None, texts.VISUAL_QUALITY, tagged_number, max_new_tokens=2048, best=5
    ),
}
"""Templates that show one answer."""
