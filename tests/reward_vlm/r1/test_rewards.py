"""Rewards, and judges of consistency that may be down, slow or talkative."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint, EndpointError
from reward_vlm.r1.rewards import (
    AskedConsistency,
    JudgementReward,
    endpoint_judge,
    rule_consistency,
    total_reward,
)

RIGHT = "<think>so response 2 is better .</think><answer>2</answer>"
INCONSISTENT = "<think>so response 1 is better .</think><answer>2</answer>"
WRONG = "<think>so response 1 is better .</think><answer>1</answer>"
TRUTH = [["<answer>2</answer>"]]


@pytest.fixture
def server():
    """A chat server on this machine whose replies the test chooses; yields (address, requests, replies)."""
    requests, replies = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send({"data": [{"id": "judge-model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((body, self.headers.get("Authorization")))
            status, said, seconds = replies.pop(0) if replies else (200, "1", 0.0)
            time.sleep(seconds)
            self.send({"choices": [{"message": {"content": said}}]}, status)

        def send(self, content, status=200):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            return

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", requests, replies
    running.shutdown()
    running.server_close()


def quick(url, **options):
    return Endpoint(url, **{"timeout_seconds": 0.3, "tries": 2, "pause_seconds": 0.01} | options)


def test_totals_of_the_table():
    assert [total_reward(1, 1, c) for c in (1, 0, -1)] == [2.0, 1.5, 1.0]
    assert total_reward(1, 0, 1) == 0.5 and total_reward(0, 1, 1) == 1.5


def test_parts_are_logged_and_the_judge_is_asked_about_right_answers_only():
    asked, logged = [], {}

    def judge(texts):
        asked.extend(texts)
        return [1] * len(texts)

    rewards = JudgementReward(judge)(
        [RIGHT, WRONG, "<answer>2</answer>"], answer=TRUTH * 3, log_metric=logged.__setitem__, trainer_state=None
    )
    assert rewards == [2.0, 0.5, 1.5]
    assert asked == [RIGHT, "<answer>2</answer>"]
    assert logged == {"rewards/format": 2 / 3, "rewards/result": 2 / 3, "rewards/consistency": 1.0}


def test_rule_judge_and_the_papers_values():
    assert rule_consistency([RIGHT, INCONSISTENT, "", "<answer>2</answer>"]) == [1, -1, -1, -1]
    assert JudgementReward()([INCONSISTENT], answer=TRUTH) == [1.0]
    assert JudgementReward(signed=False)([INCONSISTENT], answer=TRUTH) == [1.5]
    chat = [[{"role": "assistant", "content": RIGHT}]]
    assert JudgementReward()(chat, answer=TRUTH) == [2.0]


def test_a_judge_that_says_nothing_is_asked_three_times():
    asked = []

    def ask(prompts):
        asked.append(len(prompts))
        return ["1", "hm", "0"][: len(prompts)] if len(asked) == 1 else ["hm"] * len(prompts)

    assert AskedConsistency(ask)([RIGHT, RIGHT, RIGHT]) == [1, 0, -1]
    assert asked == [3, 1, 1]


def test_an_endpoint_is_asked_concurrently_with_its_key(server, monkeypatch):
    url, requests, replies = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    replies.extend([(200, "1", 0.15)] * 8)
    started = time.monotonic()
    assert endpoint_judge(quick(url), print)([RIGHT] * 8) == [1] * 8
    assert time.monotonic() - started < 0.15 * 8
    body, authorization = requests[0]
    assert authorization == "Bearer secret-key"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge-model", 0.1, 4096)
    assert "response 2 is better" in body["messages"][0]["content"]


def test_a_server_error_is_tried_again_and_a_refusal_is_not(server):
    url, requests, replies = server
    replies.extend([(500, "", 0), (200, "1", 0)])
    assert endpoint_judge(quick(url), print)([RIGHT]) == [1]
    replies.append((401, "", 0))
    assert quick(url).complete([Dialogue().user("q")])[0].args[0].endswith("it answered with status 401.")
    assert len(requests) == 3


def test_a_judge_that_is_down_or_slow_counts_zero_and_says_so(server, monkeypatch):
    url, _, replies = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    said = []
    replies.extend([(200, "1", 0.6)] * 2)
    reward = JudgementReward(endpoint_judge(quick(url), said.append))
    assert reward([RIGHT, WRONG], answer=TRUTH * 2) == [1.5, 0.5]
    gone = JudgementReward(endpoint_judge(quick("http://127.0.0.1:9/v1"), said.append))
    assert gone([RIGHT], answer=TRUTH) == [1.5]
    assert len(said) == 2 and all("No consistency for 1 of 1 answers, which count 0" in line for line in said)
    assert "timed out" in said[0] and not any("secret" in line for line in said)


def test_pictures_are_sent_to_endpoints(server):
    url, requests, _ = server
    replies = quick(url, model="m").complete([Dialogue().user(Image.new("RGB", (4, 4)), "q"), Dialogue().user("q")])
    assert replies == ["1", "1"]
    kinds = [
        [block["type"] for block in body["messages"][0]["content"]]
        for body, _ in requests
        if isinstance(body["messages"][0]["content"], list)
    ]
    assert kinds == [["image_url", "text"]]


def test_strange_servers_are_errors_not_crashes(server):
    url, _, _ = server
    assert isinstance(quick(f"{url}/chat").complete([Dialogue().user("q")])[0], (str, EndpointError))
    with pytest.raises(ValueError, match="must start with http"):
        Endpoint("localhost:8000")
