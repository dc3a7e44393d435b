"""Is a judge worth asking? Probes of any judge, and the figures that they come to.

Every pair of answers is judged in both orders: as it is, with black pictures, with the question of another pair, an
answer beside itself, and an answer beside the same said twice. A judge that looks, reads and compares changes its mind
about the second and third, and not with the order. `probe` asks, `figures` counts; what was asked is one JSON record a
pair, so that figures can be counted again without the judge. `Watched` counts what a judge decides in the work itself.

The published code shows the better answer first and never asks any of this; r1_reward 6.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import PIL.Image

from reward_vlm.dialogue import Part, Video
from reward_vlm.judges import Judge, Judged, Query, Vote, winner_of
from reward_vlm.r1.options import R1Options
from vision.job import Job
from vision.report import wilson

Record = Mapping[str, Any]
"""What a judge said about one pair: {probe: [choice when shown in order, choice when exchanged], length, better}."""
PROBES = ("plain", "black", "question", "twice", "padded")
"""plain: the pair itself; black: its pictures are black; question: another question; twice: an answer beside itself,
of either; padded: the first answer beside the same said twice."""
ALIKE = 0.75
"""A judge that decides the same in more pairs than this, with certainty, does not look (or read)."""


def probe(
    judge: Judge, queries: Sequence[Query], others: Sequence[str | None], options: R1Options | None = None
) -> list[dict[str, Any]]:
    """Ask a judge everything about pairs of answers.

    Args:
        queries: with two answers each.
        others: for each, a question that it does not ask, or None where there is none.
        options: see `R1Options`; orders are always both.

    Returns:
        One record per pair: of every probe the answers (0, 1, or None where nothing was chosen) in both orders. Those
        of "twice" are places, 0 the first. A probe that means nothing for a pair is None.
    """
    options = replace(options or R1Options(), orders="given")
    asked = [_probes(query, other) for query, other in zip(queries, others, strict=True)]
    flat = [shown for probes in asked for pair in probes.values() for shown in pair]
    said = iter(judge.batch(flat, options))
    found = []
    for query, probes in zip(queries, asked, strict=True):
        record: dict[str, Any] = dict.fromkeys(PROBES)
        for name in probes:
            first, second = (_chosen(next(said)) for _ in range(2))
            exchanged = None if second is None else 1 - second
            record[name] = [first, second if name == "twice" else exchanged]
        texts = [answer for answer in query.answers if isinstance(answer, str)]
        found.append(record | {"length": [len(text) for text in texts] or None})
    return found


def other_questions(questions: Sequence[str]) -> list[str | None]:
    """For each question the next one that differs from it, cyclically; None where all are the same."""
    total = len(questions)
    return [
        next((questions[(place + n) % total] for n in range(1, total) if questions[(place + n) % total] != asked), None)
        for place, asked in enumerate(questions)
    ]


def _probes(query: Query, other: str | None) -> dict[str, tuple[Query, Query]]:
    """The probes of a pair by name, each in the order as given and in the other."""
    first, second = query.answers
    probes = {"plain": query, "twice": replace(query, answers=(first, first))}
    if query.media:
        probes["black"] = replace(query, media=tuple(map(_black, query.media)))
    if other is not None:
        probes["question"] = replace(query, question=other)
    if isinstance(first, str):
        probes["padded"] = replace(query, answers=(first, f"{first} {first}"))
    pairs = {name: (asked, replace(asked, answers=asked.answers[::-1])) for name, asked in probes.items()}
    return pairs | {"twice": (probes["twice"], replace(query, answers=(second, second)))}


def _black(part: Part) -> Part:
    """A picture or a film of the same size without anything in it."""
    if isinstance(part, Video):
        return Video(tuple(PIL.Image.new("RGB", frame.size) for frame in part.frames))
    return part if isinstance(part, str) else PIL.Image.new("RGB", part.size)


def _chosen(judged: Judged) -> int | None:
    return None if judged.choice is None or judged.tied else judged.choice


@dataclass(frozen=True)
class Figures:
    """Whether a judge is worth asking. Shares are of what could be read; a share of nothing is None."""

    pairs: int
    """Pairs of answers."""
    readable: float
    """Share of the replies about the pairs that choose an answer."""
    says_first: float | None
    """Of these, the share that chooses the answer shown first; 0.5 for a judge without position bias."""
    agrees: float | None
    """Share of the pairs about which both orders choose the same answer, of those where both choose one."""
    accuracy: float | None = None
    """Share of the replies that choose the better answer, where it is known; one that cannot be read is wrong."""
    black_accuracy: float | None = None
    """The same with black pictures; 0.5 for a judge that needs to see."""
    black_same: float | None = None
    """Share of the pairs with the same choice when the pictures are black."""
    question_same: float | None = None
    """Share of the pairs with the same choice when another question is asked."""
    twice_first: float | None = None
    """An answer beside itself: share that chooses the one shown first."""
    longer: float | None = None
    """Share of the choices that fall on the longer of two texts."""
    longer_better: float | None = None
    """Share of the pairs whose longer text is the better one, where it is known."""
    padded: float | None = None
    """Share of the choices that fall on the text that says the same twice."""
    against: tuple[str, ...] = ()
    """Sentences about why it should not decide anything."""
    notes: tuple[str, ...] = ()
    """Sentences about what it is swayed by."""

    @property
    def worth_asking(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against


def figures(records: Sequence[Record]) -> Figures:
    """What probes come to. A share counts for or against a judge where its 95 % interval (Wilson) says so; both orders
    of a pair are one trial.

    Args:
        records: see `probe`; each may have `better`, the index of the better answer.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("An audit needs at least one pair of answers.")
    plain = [record["plain"] for record in records]
    said = [(choice, place) for pair in plain for place, choice in enumerate(pair) if choice is not None]
    agree = [pair[0] == pair[1] for pair in plain if None not in pair]
    known = [record for record in records if record.get("better") is not None]
    black = [record for record in known if record["black"] is not None]
    lengths = [record for record in records if record["length"] and len(set(record["length"])) > 1]
    longer = [(record, record["length"].index(max(record["length"]))) for record in lengths]
    found = Figures(
        len(records),
        len(said) / (2 * len(records)),
        _share(choice == place for choice, place in said),
        _share(agree),
        _right(known, "plain"),
        _right(black, "black"),
        _share(_same(records, "black")),
        _share(_same(records, "question")),
        _share(place == 0 for record in records for place in record["twice"] if place is not None),
        _share(choice == place for record, place in longer for choice in record["plain"] if choice is not None),
        _share(record["better"] == place for record, place in longer if record.get("better") is not None),
        _share(c == 1 for record in records if record["padded"] for c in record["padded"] if c is not None),
    )
    counted = {
        "agree": len(agree), "known": len(known), "black": len(black), "same": len(_same(records, "black")),
        "question": len(_same(records, "question")), "longer": len(lengths),
        "padded": sum(bool(record["padded"]) for record in records),
    }  # fmt: skip
    return replace(found, against=tuple(_against(found, counted)), notes=tuple(_notes(found, counted)))


def _against(found: Figures, counted: Mapping[str, int]) -> Iterable[str]:
    if _most(found.readable, found.pairs) < 0.9:
        yield f"Only {found.readable:.0%} of its replies choose an answer."
    if found.agrees is None:
        yield "It never chose in both orders of a pair."
    elif _least(found.agrees, counted["agree"]) <= 0.5:
        yield (
            f"Shown in the other order, it keeps its choice in {found.agrees:.0%} of {counted['agree']} pairs, which "
            f"is not surely more than a coin's half; it chooses what is shown first in {found.says_first:.0%}."
        )
    if found.accuracy is not None and _least(found.accuracy, counted["known"]) <= 0.5:
        yield f"It is right in {found.accuracy:.0%} of {counted['known']} pairs, which may be chance."
    if found.black_accuracy is not None and found.accuracy is not None:
        if _most(found.black_accuracy, counted["black"]) >= found.accuracy > 0.5:
            yield f"With black pictures it is right in {found.black_accuracy:.0%}, so it does not need to see."
    elif found.black_same is not None and _least(found.black_same, counted["same"]) > ALIKE:
        yield f"With black pictures it chooses the same in {found.black_same:.0%}, so it hardly looks."


def _notes(found: Figures, counted: Mapping[str, int]) -> Iterable[str]:
    if found.question_same is not None and _least(found.question_same, counted["question"]) > ALIKE:
        yield f"Asked another question it chooses the same in {found.question_same:.0%}: it hardly reads it."
    if found.longer is not None and found.longer_better is not None:
        if _least(found.longer, counted["longer"]) > found.longer_better:
            yield f"It chooses the longer text in {found.longer:.0%}, and it is better in {found.longer_better:.0%}."
    if found.padded is not None and _least(found.padded, counted["padded"]) > 0.5:
        yield f"Of an answer and the same said twice it chooses the latter in {found.padded:.0%}."


def _least(share: float, trials: int) -> float:
    return wilson(share * trials, trials)[0] if trials else 0.0


def _most(share: float, trials: int) -> float:
    return wilson(share * trials, trials)[1] if trials else 1.0


def _share(marks: Iterable[bool]) -> float | None:
    marks = list(marks)
    return sum(marks) / len(marks) if marks else None


def _right(records: Sequence[Record], name: str) -> float | None:
    return _share(choice == record["better"] for record in records for choice in record[name])


def _same(records: Sequence[Record], name: str) -> list[bool]:
    """Of the pairs that both orders decide, and that were probed: whether the probe is decided alike."""
    clear = [record for record in records if record[name] is not None and None not in record["plain"]]
    clear = [record for record in clear if len(set(record["plain"])) == 1]
    return [record[name] == record["plain"] for record in clear]


@dataclass
class Watched:
    """A judge that counts what it decides: how much of that can be read, and what depends on the order."""

    judge: Judge
    """Is asked."""
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0), init=False)
    """Sums so far."""

    def batch(self, queries: Sequence[Query], options: R1Options | None = None) -> list[Judged]:
        """As the judge's own."""
        found = self.judge.batch(queries, options)
        unknown = getattr(self.judge, "unknown", lambda query: None)
        self.counted["outside"] += sum(unknown(query) is not None for query in queries)
        for judged in found:
            self.counted["judged"] += 1
            self.counted["undecided"] += judged.choice is None or judged.tied
            self.counted["votes"] += len(judged.votes)
            read = [vote for vote in judged.votes if vote.winner is not None]
            self.counted["read"] += len(read)
            self.counted["first"] += sum(vote.winner == vote.pair[0] for vote in read)
            for one, other in _orders(judged.votes):
                self.counted["both_orders"] += 1
                self.counted["agree"] += one == other
        return found

    def figures(self) -> dict[str, Any]:
        """For run.json: how many questions were judged, how many lie outside of what the weights were taught, how many
        were not decided; of the votes the shares that could be read, and that chose what was shown first; of the
        comparisons in both orders the share that agrees. A share of nothing is None."""
        n = self.counted

        def share(part: str, whole: str) -> float | None:
            return round(n[part] / n[whole], 4) if n[whole] else None

        return {
            "judged": n["judged"], "outside": n["outside"], "undecided": n["undecided"],
            "readable": share("read", "votes"), "says_first": share("first", "read"),
            "agrees": share("agree", "both_orders"),
        }  # fmt: skip

    def warning(self) -> str | None:
        """A sentence where what it decided is no better than a coin, or could not be read, or is nothing it knows."""
        n = self.counted
        if n["outside"]:
            return f"{n['outside']} of {n['judged']} decisions of the judge lie beyond what its weights know."
        if n["votes"] and _most(n["read"] / n["votes"], n["votes"]) < 0.9:
            return f"Only {n['read']} of {n['votes']} replies of the judge could be read."
        if n["both_orders"] >= FEW and _least(n["agree"] / n["both_orders"], n["both_orders"]) <= 0.5:
            return (
                f"The judge keeps its choice in {n['agree']} of {n['both_orders']} comparisons when the order is "
                "exchanged, which is not surely more than a coin does; `burnish judge --audit` tells more."
            )
        return None


def told(watched: Watched, job: Job) -> dict[str, Any]:
    """What run.json says of a judge that decided something: what it was worth in this work (in this run of it), and in
    an audit of its weights. A warning is noted too."""
    warning = watched.warning()
    if warning:
        job.note(warning)
    audited = getattr(watched.judge, "audited", None)
    return watched.figures() | ({"warning": warning} if warning else {}) | ({"audit": audited} if audited else {})


COUNTED = ("judged", "outside", "undecided", "votes", "read", "first", "both_orders", "agree")
FEW = 8
"""Comparisons in both orders below which nothing is said about a judge."""


def _orders(votes: Sequence[Vote]) -> Iterable[tuple[int, int]]:
    """The winners (in the order as first shown, in the other) of every two answers that were compared in both."""
    cast: dict[tuple[int, int], list[Vote]] = {}
    for vote in votes:
        cast.setdefault(vote.pair, []).append(vote)
    for pair, mine in cast.items():
        other = cast.get(pair[::-1])
        if other is not None and pair < pair[::-1]:
            one, two = winner_of(mine), winner_of(other)
            if one is not None and two is not None:
                yield one, two
