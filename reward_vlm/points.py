"""PointJudge: a model that rates each answer alone, such as the quality of a picture; answers are compared by ratings.

One reply per answer instead of one per pair and order: n instead of n (n - 1), and no position bias. With several votes
the mean of those that could be read counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reward_vlm.chat import Chat
from reward_vlm.dialogue import Dialogue, Part
from reward_vlm.judges import Judged, Query, higher, rated
from reward_vlm.parse import reasoning
from reward_vlm.r1.options import R1Options
from reward_vlm.templates import Template
from reward_vlm.vlm import Reply, Sampling
from vision.refine import item_generators


@dataclass(frozen=True)
class PointJudge:
    """A chat model that rates."""

    chat: Chat
    """The model."""
    template: Template
    """How it is asked and read, one of `reward_vlm.templates.POINTS`."""

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """Ratings of all answers, and what they come to. The orders of the options mean nothing here.

        Raises:
            ValueError: answers are of a kind that the template does not show, or a knockout is asked for.
        """
        options = options or R1Options()
        if options.tournament == "knockout":
            raise ValueError("This judge rates each answer alone, so that nothing can be knocked out.")
        replies = iter(self._ask([(query, answer) for query in queries for answer in query.answers], options))
        found = []
        for query in queries:
            said = [next(replies) for _ in query.answers]
            ratings = [_mean([self.template.read(reply.text) for reply in votes]) for votes in said]
            best = max(range(len(said)), key=lambda index: (not math.isnan(ratings[index]), ratings[index]))
            found.append(rated(ratings, higher, reasoning(said[best][0].text)))
        return found

    def ask(self, query: Query, answer: Part) -> Dialogue:
        """The request to rate one answer."""
        text, pictures = self.template.show(query.question, [answer], query.media)
        start = Dialogue() if self.template.system is None else Dialogue().system(self.template.system)
        return start.user(*((*pictures, text) if self.template.image_first else (text, *pictures)))

    def _ask(self, shown: Sequence[tuple[Query, Part]], options: R1Options) -> list[list[Reply]]:
        """The votes on every answer."""
        temperature = (0.0 if options.votes == 1 else 1.0) if options.temperature is None else options.temperature
        sampling = Sampling(options.max_new_tokens or self.template.max_new_tokens, temperature, options.top_p)
        asked = [pair for pair in shown for _ in range(options.votes)]
        generators = item_generators(options.seed, len(asked))
        replies: list[Reply] = []
        for start in range(0, len(asked), options.batch_size):
            part = asked[start : start + options.batch_size]
            dialogues = [self.ask(query, answer) for query, answer in part]
            replies += self.chat.generate(dialogues, sampling, generators=generators[start : start + len(part)])
        return [replies[start : start + options.votes] for start in range(0, len(replies), options.votes)]


def _mean(ratings: Sequence[float | None]) -> float:
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if known else math.nan
