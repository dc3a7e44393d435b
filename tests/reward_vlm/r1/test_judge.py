"""Judging: orders, votes, ties, tournaments, batches, saving."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from reward_vlm.dialogue import Video
from reward_vlm.judges import Query
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.measures import counts, judge_pairs, summary
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.scenes import QUESTION, scene_pairs
from reward_vlm.vlm import Reply
from vision.refine import checkpoints, load_checkpoint

RED = Image.new("RGB", (56, 56), "red")


class Rule:
    """A chat that answers by a rule of the two answers it is shown, and counts what it is asked."""

    def __init__(self, rule):
        self.rule, self.prompts = rule, []

    def generate(self, dialogues, sampling=None, *, generators=None):
        replies = []
        for number, dialogue in enumerate(dialogues):
            text = dialogue.turns[0].text
            _, first, second = text.replace(" response 1 : ", "|").replace(" . response 2 : ", "|").split("|")
            said = self.rule(first, second.removesuffix(" ."), generators and generators[number])
            self.prompts.append((first, second.removesuffix(" .")))
            reply = said if isinstance(said, tuple) else (said, -1.0)
            replies.append(Reply(f"<think>because</think><answer>{reply[0]}</answer>", reply[1], 3, True))
        return replies


def judge(rule):
    return R1Judge(Rule(rule), R1Config("plain", True, 16, None))


def longer(first, second, _):
    return 1 if len(first) >= len(second) else 2


def test_both_orders_and_a_clear_winner():
    subject = judge(longer)
    found = subject(RED, "q", ["aa", "aaaa"])
    assert subject.chat.prompts == [("aa", "aaaa"), ("aaaa", "aa")]
    assert (found.choice, found.scores.tolist(), found.reasoning) == (1, [0.0, 1.0], "because")
    assert [vote.winner for vote in found.votes] == [1, 1]


def test_a_judge_that_always_says_1_has_no_say_in_both_orders():
    assert judge(lambda *_: 1)(RED, "q", ["a", "b"]).scores.tolist() == [0.5, 0.5]
    assert judge(lambda *_: 1)(RED, "q", ["a", "b"], R1Options(orders="given")).scores.tolist() == [1.0, 0.0]


def test_ties_go_to_the_more_probable_votes_then_to_the_first():
    said = {("a", "b"): (1, -9.0), ("b", "a"): (1, -2.0)}
    assert judge(lambda first, second, _: said[first, second])(None, "q", ["a", "b"]).choice == 1
    assert judge(lambda *_: (1, -2.0))(None, "q", ["a", "b"]).choice == 0


def test_unreadable_replies_do_not_count():
    found = judge(lambda first, *_: "?" if first == "a" else 1)(None, "q", ["a", "b"])
    assert (found.choice, found.scores.tolist()) == (1, [0.0, 1.0])
    nothing = judge(lambda *_: "both")(None, "q", ["a", "b"])
    assert (nothing.choice, nothing.scores.tolist(), len(nothing.votes)) == (None, [0.5, 0.5], 2)


def test_votes_draw_from_their_own_seeds_whatever_the_batch():
    def rule(first, second, generator):
        return int(torch.randint(1, 3, (1,), generator=generator))

    queries = [Query("q", ("a", "b")), Query("q", ("c", "d"))]
    options = [R1Options(votes=5, seed=3, batch_size=size) for size in (1, 3, 64)]
    results = [[found.scores.tolist() for found in judge(rule).batch(queries, choice)] for choice in options]
    assert results[0] == results[1] == results[2]
    assert results[0] != [found.scores.tolist() for found in judge(rule).batch(queries, R1Options(votes=5, seed=4))]


@pytest.mark.parametrize(("tournament", "comparisons"), [("round_robin", 10), ("knockout", 4)])
def test_tournaments_find_the_best_of_five(tournament, comparisons):
    subject = judge(longer)
    answers = ["aa", "aaaaa", "a", "aaaa", "aaa"]
    found = subject.batch([Query("q", tuple(answers)), Query("q", ("a", "aa"))], R1Options(tournament=tournament))
    assert [result.choice for result in found] == [1, 1]
    assert len(found[0].votes) == 2 * comparisons
    if tournament == "round_robin":
        assert found[0].scores.tolist() == [0.25, 1.0, 0.0, 0.75, 0.5]


def test_random_orders_come_from_the_seed():
    orders = set()
    for seed in range(8):
        subject = judge(longer)
        subject(None, "q", ["a", "b"], R1Options(orders="random", seed=seed))
        orders.update(subject.chat.prompts)
    assert orders == {("a", "b"), ("b", "a")}


def test_pictures_as_answers_are_shown_in_the_order_of_their_names():
    subject = judge(lambda *_: 1)
    blue, query = Image.new("RGB", (56, 56), "blue"), Query("q", (RED, Image.new("RGB", (56, 56), "blue")), (RED,))
    dialogue = subject.ask(query, (1, 0))
    assert dialogue.images == (RED, blue, RED)
    assert dialogue.turns[0].text == "q response 1 : image 2 . response 2 : image 3 ."


def test_templates_films_and_the_order_of_text_and_picture():
    config = R1Config("short", image_first=False)
    dialogue = R1Judge(Rule(longer), config).ask(Query("Why?", ("{a}", "b"), (Video((RED,)),)))
    text, film = dialogue.turns[0].parts
    assert "###### [Response 1]:\n{a}  \n" in text and isinstance(film, Video)


def test_a_small_real_judge_saves_loads_and_reads_films(tmp_path):
    subject = R1Judge.from_pretrained("builtin:tiny")
    subject.save_pretrained(tmp_path)
    loaded = R1Judge.from_pretrained(tmp_path)
    assert loaded.config == subject.config
    options = R1Options(max_new_tokens=4)
    first, second = (one(RED, QUESTION, ["a", "b"], options) for one in (subject, loaded))
    assert [vote.reply.text for vote in first.votes] == [vote.reply.text for vote in second.votes]
    assert len(subject(Video((RED, RED)), QUESTION, ["a", "b"], options).votes) == 2
    with pytest.raises(ValueError, match="needs the package vllm"):
        R1Judge.from_pretrained(tmp_path, engine="vllm")


def test_wrong_calls_are_sentences():
    with pytest.raises(ValueError, match="at least two answers, got 1"):
        judge(longer)(None, "q", ["a"])
    with pytest.raises(ValueError, match="votes at temperature 0"):
        R1Options(votes=3, temperature=0.0)
    with pytest.raises(ValueError, match="leave it out for the source"):
        R1Judge.from_pretrained("builtin:tiny", variant="scenes")


def test_a_judge_that_always_says_1_is_seen_through():
    pairs = scene_pairs(5, 40)
    row = summary(counts(judge_pairs(judge(lambda *_: 1), pairs)))
    assert (row["both_orders"], row["says_1"], row["better_first"], row["better_second"]) == (0.0, 1.0, 1.0, 0.0)
    assert 0.2 < row["accuracy"] < 0.8
    truth = {frozenset(pair.answers): pair.answers[pair.better - 1] for pair in pairs}
    clear = [pair for pair in pairs if truth[frozenset(pair.answers)] == pair.answers[pair.better - 1]]
    oracle = judge(lambda first, second, _: 1 if truth[frozenset((first, second))] == first else 2)
    row = summary(counts(judge_pairs(oracle, clear)))
    assert (row["accuracy"], row["both_orders"], row["says_1"]) == (1.0, 1.0, 0.5)


@pytest.mark.parametrize("tournament", ["knockout", "round_robin"])
def test_rounds_are_steps_and_a_resumed_tournament_ends_like_the_straight_one(tournament, tmp_path):
    options = R1Options(tournament=tournament, votes=3, seed=2)

    def rule(first, second, generator):
        return int(torch.randint(1, 3, (1,), generator=generator))

    answers, seen = ["a", "bb", "ccc", "dddd", "eeeee"], []
    straight = judge(rule)(RED, "q", answers, options, observers=[seen.append, checkpoints(tmp_path)])
    steps = list(judge(rule).steps(RED, "q", answers, options))
    assert [step.at for step in steps] == [step.at for step in seen] == ([1, 2, 3] if tournament == "knockout" else [1])
    assert steps[-1].state.votes[0] == straight.votes
    for step in steps:
        rest = [step, *judge(rule).steps(RED, "q", answers, options, resume=step)]
        assert rest[-1].state == steps[-1].state
    kept = load_checkpoint(tmp_path, like=steps[-1].state)
    assert kept.state == steps[-1].state
