"""The server of a judge: everything that is asked is answered once and rightly, and what must be refused is."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint
from reward_vlm.judges import higher, rated
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Config, R1Options
from reward_vlm.serve import ServeOptions, application, serve
from reward_vlm.vlm import Reply

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is in the extra serve")
pytest.importorskip("starlette", reason="starlette is in the extra serve")
RED = Image.new("RGB", (56, 56), "red")


class Slow:
    """A judge that prefers the longer answer, takes its time, and remembers its batches."""

    def __init__(self, seconds=0.01):
        self.seconds, self.batches = seconds, []

    def batch(self, queries, options=None):
        time.sleep(self.seconds)
        self.batches.append(len(queries))
        if any(query.question == "bad" for query in queries):
            raise ValueError("this question cannot be read.")
        if any(query.question == "broken" for query in queries):
            raise RuntimeError("the device is gone")
        return [rated([float(len(answer)) for answer in query.answers], higher, query.question) for query in queries]


class Echo:
    """A chat that says how many pictures it saw and what it was asked last."""

    def generate(self, dialogues, sampling=None, *, generators=None):
        time.sleep(0.01)
        drawn = [int(torch.randint(1000, (1,), generator=generator)) for generator in generators]
        said = [f"{len(each.images)} {each.turns[-1].text}" for each in dialogues]
        if sampling.temperature:
            said = [f"{text} {draw}" for text, draw in zip(said, drawn, strict=True)]
        return [Reply(text, -1.0, 3, True) for text in said]


@contextmanager
def serving(judge, token="", **changes):
    """A running server; gives its address and what takes the requests."""
    options = ServeOptions(**changes)
    made = application(judge, options, token)
    server = uvicorn.Server(uvicorn.Config(made, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", made.state.desk
    finally:
        server.should_exit = True
        thread.join()


def post(address, body, **headers):
    """Status and JSON of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
    return send(request)


def send(request):
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        said = error.read()
        return error.code, json.loads(said) if said.startswith(b"{") else said.decode()


def data_address(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_200_requests_at_once_are_all_answered_together_and_each_with_its_own():
    judge = Slow()
    with serving(judge, together=32) as (address, _):
        asked = [{"question": f"q{n}", "answers": ["x" * (1 + n % 3), "x" * (1 + (n + 1) % 3)]} for n in range(200)]
        with ThreadPoolExecutor(200) as pool:
            found = list(pool.map(lambda body: post(f"{address}/score", body), asked))
        assert [status for status, _ in found] == [200] * 200
        for body, (_, told) in zip(asked, found, strict=True):
            first, second = map(len, body["answers"])
            assert told["reasoning"] == body["question"] and told["ratings"] == [first, second]
            assert told["choice"] == int(second > first)
            assert told["scores"] == [float(first > second), float(second > first)]
        assert sum(judge.batches) == 200 and 1 < max(judge.batches) <= 32 and len(judge.batches) < 100
        _, health = send(urllib.request.Request(f"{address}/health"))
        assert health["answered"] == 200 and health["refused"] == health["waiting"] == 0
        assert health["largest_batch"] == max(judge.batches) and health["judge"]["judged"] == 200


def test_this_projects_client_of_chat_servers_is_served():
    judge = R1Judge(Echo(), R1Config("plain", True, 9, None))
    with serving(judge, source="some/judge") as (address, _):
        dialogues = [Dialogue().user(f"say {n}") if n % 2 else Dialogue().user(RED, f"see {n}") for n in range(40)]
        replies = Endpoint(f"{address}/v1", workers=40).complete(dialogues)
        assert replies == [f"0 say {n}" if n % 2 else f"1 see {n}" for n in range(40)]
        body = {"messages": [{"role": "user", "content": "x"}], "temperature": 1.0, "seed": 7, "max_tokens": 5}
        first, second = (post(f"{address}/v1/chat/completions", body)[1] for _ in range(2))
        assert first["choices"] == second["choices"] and first["model"] == "some/judge"
        assert first["choices"][0]["finish_reason"] == "stop" and first["usage"]["completion_tokens"] == 3
        other = post(f"{address}/v1/chat/completions", {**body, "seed": 8})[1]
        assert other["choices"] != first["choices"]
        assert send(urllib.request.Request(f"{address}/v1/models"))[1]["data"][0]["id"] == "some/judge"


def test_one_that_is_refused_costs_its_own_answer_alone():
    with serving(Slow(0.05)) as (address, _):
        asked = [{"question": "bad" if n == 3 else f"q{n}", "answers": ["a", "bb"]} for n in range(12)]
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda body: post(f"{address}/score", body), asked))
        assert [status for status, _ in found] == [400 if n == 3 else 200 for n in range(12)]
        assert found[3][1]["error"]["message"] == "this question cannot be read."
        status, told = post(f"{address}/score", {"question": "broken", "answers": ["a", "b"]})
        assert status == 500 and "device is gone" not in json.dumps(told)
        assert post(f"{address}/score", {"question": "q", "answers": ["a", "b"]})[0] == 200  # and it goes on


PAIR = {"question": "q", "answers": ["a", "b"]}


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"{", 400, "must be a JSON object"),
        (b"[1]", 400, "must be a JSON object"),
        (b'{"question": ' + b"[" * 20_000, 400, "must be a JSON object"),
        ({"question": "q"}, 400, "needs question"),
        ({**PAIR, "answers": ["a"]}, 400, "answers must be 2 to 16, got 1"),
        ({**PAIR, "answers": ["a"] * 17}, 400, "answers must be 2 to 16, got 17"),
        ({**PAIR, "answers": ["a", 3]}, 400, "A picture is a data address"),
        ({**PAIR, "more": 1}, 400, "There is no field 'more'"),
        ({**PAIR, "images": ["http://localhost/secret.png"]}, 400, "nothing is fetched"),
        ({**PAIR, "images": ["file:///etc/passwd"]}, 400, "nothing is fetched"),
        ({**PAIR, "images": ["data:image/png;base64,!!!"]}, 400, "cannot be read"),
        ({**PAIR, "images": ["data:image/png;base64,AAAA"]}, 400, "cannot be read"),
        ({**PAIR, "images": [data_address(Image.new("RGB", (80, 80)))]}, 400, "cannot be read"),
        ({**PAIR, "question": "x" * 60_000}, 413, "may have 0.05 megabytes"),
    ],
    ids=range(14),
)
def test_what_cannot_be_answered_is_refused_in_a_sentence(body, status, sentence, small):
    found, told = post(f"{small}/score", body)
    assert found == status and sentence in told["error"]["message"]


@pytest.fixture(scope="module")
def small():
    with serving(Slow(0), max_megabytes=0.05, max_pixels=6000) as (address, _):
        yield address


def test_chats_that_cannot_be_had_are_refused(small):
    said = {"messages": [{"role": "user", "content": "x"}]}
    remote = {"type": "image_url", "image_url": {"url": "http://x/y"}}
    with serving(R1Judge(Echo(), R1Config("plain", True, 9, None))) as (address, _):
        for changes, sentence in (
            ({"stream": True}, "whole and one at a time"), ({"n": 2}, "whole and one at a time"),
            ({"tools": []}, "no field 'tools'"), ({"messages": []}, "must be a list of"),
            ({"messages": [{"role": "user", "content": [remote]}]}, "nothing is fetched"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "must be the user's"),
            ({"messages": [{"role": "king", "content": "x"}, said["messages"][0]]}, "role must be one of"),
            ({"temperature": -1}, "temperature must be at least 0"),
            ({"max_tokens": "many"}, "many"),
        ):  # fmt: skip
            status, told = post(f"{address}/v1/chat/completions", said | changes)
            assert status == 400 and sentence in told["error"]["message"]
    assert "says nothing; ask /score" in post(f"{small}/v1/chat/completions", said)[1]["error"]["message"]


def test_strangers_are_refused():
    with serving(Slow(0), "secret") as (address, desk):
        assert post(f"{address}/score", PAIR)[0] == 401
        assert post(f"{address}/score", PAIR, Authorization="Bearer wrong")[0] == 401
        assert send(urllib.request.Request(f"{address}/health"))[0] == 401
        assert post(f"{address}/score", PAIR, Authorization="Bearer secret")[0] == 200
        assert desk.answered == 1
    with serving(Slow(0)) as (address, _):
        assert post(f"{address}/score", PAIR, Origin="http://evil.example")[0] == 403
        assert post(f"{address}/score", PAIR, Host="evil.example")[0] == 400
        assert post(f"{address}/score", PAIR, **{"Content-Type": "text/plain"})[0] == 415
        assert send(urllib.request.Request(f"{address}/score"))[0] == 405


def test_others_reach_it_with_a_token_alone(monkeypatch):
    monkeypatch.delenv("BURNISH_TOKEN", raising=False)
    with pytest.raises(ValueError, match="others can reach the judge; set BURNISH_TOKEN"):
        serve(ServeOptions(host="0.0.0.0"))
    with pytest.raises(ValueError, match="max_seconds must be above 0"):
        ServeOptions(max_seconds=0)


def test_too_many_and_too_slow_are_told_so_and_leave_nothing_behind():
    judge = Slow(0.6)
    with serving(judge, max_waiting=2, together=1) as (address, desk), ThreadPoolExecutor(12) as pool:
        statuses = [status for status, _ in pool.map(lambda _: post(f"{address}/score", PAIR), range(12))]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 2
    judge = Slow(1.0)
    with serving(judge, max_seconds=0.3, together=1) as (address, desk), ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: post(f"{address}/score", PAIR), range(4)))
        assert [status for status, _ in found] == [504] * 4 and "within 0.3 seconds" in found[0][1]["error"]["message"]
        assert desk.batcher.queue == []
    assert len(judge.batches) <= 2  # those that nobody waits for any more were not begun


def test_options_of_the_judge_reach_it():
    class Draws(Echo):
        def generate(self, dialogues, sampling=None, *, generators=None):
            said = [int(torch.randint(1, 3, (1,), generator=generator)) for generator in generators]
            return [Reply(f"<answer>{choice}</answer>", -1.0, 3, True) for choice in said]

    judge = R1Judge(Draws(), R1Config("plain", True, 9, None))
    with serving(judge, options=R1Options(votes=5)) as (address, _), ThreadPoolExecutor(8) as pool:
        found = [told for _, told in pool.map(lambda _: post(f"{address}/score", PAIR), range(8))]
    assert all(told == found[0] for told in found)
