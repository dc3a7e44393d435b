"""Judges of every kind behind one protocol: templates, readers, ratings, scalar heads, opening by what is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from reward_vlm import template_texts
from reward_vlm.audit import figures, probe
from reward_vlm.heads import HEAD, HeadJudge, logistic
from reward_vlm.judges import Query, higher, rated
from reward_vlm.open_judge import open_judge
from reward_vlm.points import PointJudge
from reward_vlm.r1.job import JudgeOptions, judge_question
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.r1.pictures import PictureJudge
from reward_vlm.templates import PAIRS, POINTS
from reward_vlm.tiny import builtin_chat
from reward_vlm.vlm import Reply

RED, BLUE, GREEN = (Image.new("RGB", (56, 56), colour) for colour in ("red", "blue", "green"))
PUBLISHED = {
    "UNIFIED": "13deca2722049d1f", "UNIFIED_PICTURES": "92238625a1bc6142", "UNIFIED_THINK": "9a097fb9d8066c39",
    "UNIFIED_THINK_PICTURES": "6c0e560cfc31b4f4", "UNIFIED_POINT": "d3d79a01d7625221",
    "UNIFIED_POINT_PICTURES": "407cdcf80affe762", "CRITIC_R1": "1ed9c5852c586486",
    "Q_INSIGHT_SYSTEM": "89e8be09d8ba0f37", "Q_INSIGHT": "989feae90619746e", "VISUAL_QUALITY": "da191c2b21c6fe1c",
}  # fmt: skip
"""Digests of the words as the authors' code sends them, with these fields; taken from their code itself."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_words_are_to_the_letter(name):
    assert hashlib.sha256(getattr(template_texts, name).encode()).hexdigest()[:16] == PUBLISHED[name]


READ = {
    "unified": [
        ("1. Objects: Answer 1 is better. Overall, **Answer 2** is better.", 2),
        ("Image 1 is better.", 1), ("Answer 1 is better in colour. Both images are equally good.", None),
        ("Answer 3 is better", None), ("I like the first.", None),
    ],
    "unified_think": [
        ("<think>Total: Answer 1: 9 Answer 2: 8. Answer 2 is better</think>\n<answer>Answer 1 is better</answer>", 1),
        ("<answer>Image 2 is better</answer>", 2), ("<answer>Answer 1 is better than 2</answer>", None), ("", None),
    ],
    "critic_r1": [
        (r"<think>Answer 1 is better</think> \boxed{2}", 2), (r"\boxed{\text{Answer 1}}", 1),
        (r"\boxed{Answer 1}", 1),
        (r"\boxed{Answer 2 is better.}", 2), (r"\boxed{1} or \boxed{2}", None), (r"\boxed{3}", None),
        ("Overall Judgment: Answer 2 is better.", 2), (r"\boxed{7} Answer 2 is better", None),
    ],
    "unified_point": [("Good.\nFinal Score: 87.5", 87.5), ("Final Score: **60**", 60.0), ("Final Score: 101", None),
                      ("Final Score: 3\nFinal Score: 4", 4.0), ("87", None)],
    "unified_image": [("Final Score: 4", 4.0), ("Final Score: 6", None)],
    "q_insight": [('<think>x</think><answer>{"rating": 3.25}</answer>', 3.25),
                  ('<answer>{"rating": "4"}</answer>', 4.0),
                  ('<answer>```json\n{"rating": 2}\n```</answer>', 2.0), ('<answer>{"rating": 9}</answer>', None),
                  ("<answer>3.25</answer>", None), ('<answer>{"rating": true}</answer>', None),
                  ("<answer>[1]</answer>", None)],
    "visual_quality": [("<answer>3.27</answer>", 3.27), ("<answer>1</answer> no <answer> 5 </answer>", 5.0),
                       ("<answer>3 of 5</answer>", None), ("3.27", None), ("<answer>nan</answer>", None)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text", "said"), [(name, *case) for name, cases in READ.items() for case in cases])
def test_replies_are_read_strictly(name, text, said):
    assert {**PAIRS, **POINTS}[name].read(text) == said


@pytest.mark.parametrize("name", [*PAIRS, *POINTS])
def test_every_template_shows_what_it_can_and_refuses_the_rest(name):
    template = {**PAIRS, **POINTS}[name]
    texts = ["{answer2} a", "b"] if name in PAIRS else ["{answer2} a"]
    pictures = [RED, BLUE][: len(texts)]
    for shown, known in ((texts, template.texts is not None), (pictures, template.pictures or template.texts)):
        if (name == "unified_point" and shown is pictures) or known:
            text, media = template.show("why {question} ?", shown, (GREEN,))
            assert media[0] is GREEN and len(media) == (1 if shown is texts else 1 + len(shown))
            if "{question}" in (template.texts if shown is texts else template.pictures or template.texts):
                assert text.count("why {question} ?") == 1
            assert shown is not texts or text.count("{answer2} a") == 1
        else:
            with pytest.raises(ValueError, match="Judges like"):
                template.show("q", shown, ())


class Says:
    """A chat that says what a function makes of the dialogue."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def generate(self, dialogues, sampling=None, *, generators=None):
        self.asked += dialogues
        return [Reply(self.say(dialogue), -1.0, 3, True) for dialogue in dialogues]


def test_pairs_of_another_family_are_compared_by_its_words():
    chat = Says(lambda dialogue: "Image 2 is better." if dialogue.images[1] == BLUE else "Image 1 is better.")
    judge = R1Judge(chat, R1Config("unified"))
    found = judge.batch([Query("a caption", (RED, BLUE, GREEN))])[0]
    assert found.choice == 1 and found.scores.tolist() == [0.25, 1.0, 0.25]
    assert chat.asked[0].images == (RED, BLUE) and "Text Caption: [a caption]" in chat.asked[0].turns[0].text


def test_ratings_are_compared_and_what_cannot_be_read_has_none():
    said = {RED.tobytes(): "2.5", BLUE.tobytes(): "4.5", GREEN.tobytes(): "good"}
    chat = Says(lambda dialogue: f"<think>{said[dialogue.images[-1].tobytes()]}</think>"
                f"<answer>{said[dialogue.images[-1].tobytes()]}</answer>")  # fmt: skip
    judge = PointJudge(chat, POINTS["visual_quality"])
    found = judge.batch([Query("q", (RED, BLUE, GREEN)), Query("q", (GREEN, GREEN))], R1Options(votes=2))
    assert found[0].choice == 1 and found[0].scores.tolist() == [0.0, 1.0, 0.5] and found[0].reasoning == "4.5"
    assert found[0].ratings[:2].tolist() == [2.5, 4.5] and torch.isnan(found[0].ratings[2])
    assert found[1].choice is None and "could be read" in found[1].doubt
    assert rated([1.0, 1.0], higher).doubt.startswith("The judge rates the best answers alike")
    with pytest.raises(ValueError, match="nothing can be knocked out"):
        judge.batch([Query("q", (RED, BLUE))], R1Options(tournament="knockout"))
    insight = Says(lambda _: '<answer>{"rating": 3}</answer>')
    PointJudge(insight, POINTS["q_insight"]).batch([Query("q", (RED, BLUE))])
    system, user = insight.asked[0].turns
    assert system.role == "system" and isinstance(user.parts[0], str) and user.parts[1] == RED


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A tiny reward model in a folder, its head as TRL writes it."""
    folder, chat = tmp_path_factory.mktemp("head"), builtin_chat("tiny")
    width = chat.model.config.get_text_config().hidden_size
    HeadJudge(chat, torch.randn(width, generator=torch.Generator().manual_seed(0)), 0.25).save_pretrained(folder)
    return folder


def test_a_scalar_head_reads_the_last_token_of_question_and_answer_whatever_the_batch(head):
    judge = open_judge(head)
    assert isinstance(judge, HeadJudge) and set(load_file(head / HEAD)) == {
        "v_head.summary.weight",
        "v_head.summary.bias",
    }
    query = Query("what is in the image ?", ("a red object on white", "a blue one", RED), (RED,))
    whole = judge.batch([query, Query("who ?", ("x", "y"))])
    alone = judge.batch([query], R1Options(batch_size=1))[0]
    assert torch.allclose(whole[0].ratings, alone.ratings, atol=1e-4)
    processor, model = judge.chat.processor, judge.chat.model
    messages = judge.ask(query, "a blue one").messages()
    text = processor.apply_chat_template(messages, tokenize=False)
    inputs = processor(text=[text], images=[RED], return_tensors="pt")
    with torch.no_grad():
        last = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    weight, bias = load_file(head / HEAD)["v_head.summary.weight"][0], 0.25
    assert torch.allclose(alone.ratings[1], last @ weight + bias, atol=1e-4)
    one, two, three = alone.ratings.tolist()
    assert alone.scores[0] == pytest.approx((logistic(one, two) + logistic(one, three)) / 2, abs=1e-6)
    assert logistic(800, 0) == 1 and logistic(0, 0) == 0.5


def test_a_head_is_written_whole_or_stays_as_it_was(head, tmp_path, monkeypatch):
    judge, saved = open_judge(head), (head / HEAD).read_bytes()
    (tmp_path / HEAD).write_bytes(saved)
    monkeypatch.setattr(type(judge.chat), "save_pretrained", lambda self, folder: None)

    def torn(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("reward_vlm.heads.save_file", torn)
    with pytest.raises(ValueError, match=r"Cannot write .*value_head"):
        judge.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [HEAD] and (tmp_path / HEAD).read_bytes() == saved


def test_heads_and_options_that_do_not_fit_cost_a_sentence(head, tmp_path):
    with pytest.raises(ValueError, match="one number per answer; leave out votes"):
        open_judge(head).batch([Query("q", ("a", "b"))], R1Options(votes=3))
    with pytest.raises(ValueError, match=r"has no value_head\.safetensors"):
        HeadJudge.from_pretrained("builtin:tiny")
    for tensors, sentence in (
        ({"v.weight": torch.ones(1, 7)}, "reads 7 numbers, the model gives 64"),
        ({"v.weight": torch.ones(2, 7)}, r"must hold one weight \(1, width\) and at most a bias \(1,\), got v.weight"),
        ({"v.weight": torch.ones(1, 7), "rest": torch.ones(1)}, "must hold one weight"),
    ):
        for path in head.iterdir():
            if path.name != HEAD and not (tmp_path / path.name).exists():
                (tmp_path / path.name).symlink_to(path)
        save_file(tensors, tmp_path / HEAD)
        with pytest.raises(ValueError, match=sentence):
            open_judge(tmp_path)


def test_a_command_asks_any_kind_of_judge(head):
    found = judge_question(JudgeOptions(question="q", answers=("a", "b"), source=str(head)))
    assert found.ratings is not None and found.choice in (0, 1) and found.votes == ()
    asked = JudgeOptions(question="q", answers=("a", "b"), source="builtin:tiny", template="unified_think",
                         options=R1Options(max_new_tokens=2))  # fmt: skip
    with pytest.raises(ValueError, match=r"A dialogue has \d+ tokens"):  # the published words, spelled letter by letter
        judge_question(asked)
    assert isinstance(open_judge("builtin:tiny", "q_insight"), PointJudge)
    with pytest.raises(ValueError, match="name them"):
        JudgeOptions(question="q", answers=("a", "b"), template="unified")
    with pytest.raises(ValueError, match="name weights that rate"):
        open_judge(None, "q_insight")


def test_the_protocol_is_enough_for_windows_and_audits(head):
    chat = Says(lambda dialogue: f"<answer>{1 + dialogue.images[-1].getpixel((0, 0))[0] / 100:.2f}</answer>")
    rates = PointJudge(chat, POINTS["visual_quality"])
    found = PictureJudge(rates, windows=2)([RED.resize((120, 120)), BLUE.resize((120, 120))])
    assert found.choice == 0 and found.ratings.tolist() == pytest.approx([3.55, 1.0])
    record = probe(open_judge(head), [Query("q", ("a", "b"), (RED,))], ["why ?"])
    assert json.loads(json.dumps(record)) == record and record[0]["twice"] == [None, None]
    assert figures(record).agrees == 1.0
