"""A server may do what it likes: every dialogue gets a reply or a sentence, in time; the key stays where it belongs."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reward_vlm.dialogue import Dialogue
from reward_vlm.endpoint import Endpoint, EndpointError

KEY = "secret-key-123"
ASKED = [Dialogue().user("q")]


def good(content="1"):
    return json.dumps({"data": [{"id": "m"}], "choices": [{"message": {"content": content}}]}).encode()


@contextmanager
def serving(answer, host="127.0.0.1"):
    """A server whose every request is answered by `answer(handler, number of the request)`; its headers are kept."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(dict(self.headers))
            answer(self, len(seen))

        do_GET = do_POST

        def log_message(self, *arguments):
            return

    running = ThreadingHTTPServer((host, 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{running.server_port}/v1", seen
    finally:
        running.shutdown()
        running.server_close()


def send(handler, status, body, length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def quick(url, **options):
    return Endpoint(url, **{"model": "m", "timeout_seconds": 5.0, "tries": 1, "pause_seconds": 0.0} | options)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("model", ["m", None])
def test_the_key_does_not_follow_a_redirect(status, model, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(lambda handler, _: send(handler, 200, good()), "localhost") as (other, stolen):
        with serving(lambda handler, _: send(handler, status, b"", Location=f"{other}?key=x")) as (url, seen):
            reply = quick(url, model=model).complete(ASKED)[0]
    assert seen[0]["Authorization"] == f"Bearer {KEY}" and stolen == []
    assert f"status {status} and sends on to {other}, which is not followed" in str(reply)


BROKEN = {
    "cut off": lambda handler: send(handler, 200, good(), length=10_000),
    "no JSON": lambda handler: send(handler, 200, good()[:-9]),
    "nested": lambda handler: send(handler, 200, b"[" * 100_000),
    "web page": lambda handler: send(handler, 200, b"<html>"),
    "list": lambda handler: send(handler, 200, b"[]"),
    "text": lambda handler: send(handler, 200, b'"oops"'),
    "number": lambda handler: send(handler, 200, b"3"),
    "no choices": lambda handler: send(handler, 200, b'{"choices": []}'),
    "message of a wrong kind": lambda handler: send(handler, 200, b'{"choices": [{"message": 3}]}'),
    "latin-1": lambda handler: send(handler, 200, b'{"choices": [{"message": {"content": "caf\xe9"}}]}'),
    "no HTTP": lambda handler: handler.wfile.write(b"hello\r\n\r\n"),
    "nothing": lambda handler: handler.connection.close(),
    "odd length": lambda handler: send(handler, 200, b"", length="many"),
    "odd status": lambda handler: send(handler, 299, b""),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("model", ["m", None])
def test_one_broken_reply_does_not_end_the_batch(kind, model):
    def answer(handler, number):
        BROKEN[kind](handler) if number == (2 if model is None else 1) else send(handler, 200, good())

    with serving(answer) as (url, _):
        replies = quick(url, model=model, workers=1).complete(ASKED * 3)
    assert isinstance(replies[0], EndpointError) and replies[1:] == ["1", "1"]
    assert "\n" not in str(replies[0])


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_list_of_models_is_a_sentence(kind):
    with serving(lambda handler, _: BROKEN[kind](handler)) as (url, _):
        replies = quick(url, model=None).complete(ASKED * 2)
    assert [type(reply) for reply in replies] == [EndpointError] * 2 and "model" in str(replies[0])


def test_the_servers_own_words_are_told_without_the_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    bodies = [
        {"error": {"message": f"maximum context length is 4096,\nnot for {KEY} or sk-other"}},
        {"error": f"maximum context length is 4096 {KEY}"},
        {"detail": "maximum context length is 4096"},
        {"object": "error", "message": "maximum context length is 4096"},
    ]
    with serving(lambda handler, n: send(handler, 400, json.dumps(bodies[n - 1]).encode())) as (url, seen):
        replies = [str(quick(url, tries=3).complete(ASKED)[0]) for _ in bodies]
    assert all("status 400: maximum context length is 4096" in reply for reply in replies)
    assert not any(KEY in reply or "sk-other" in reply for reply in replies) and len(seen) == len(bodies)
    with serving(lambda handler, _: send(handler, 200, b'{"error": {"message": "overloaded"}}')) as (url, _):
        assert str(quick(url).complete(ASKED)[0]).endswith("without choices: overloaded.")


def test_a_server_that_asks_to_wait_is_waited_for(monkeypatch):
    pauses = []
    monkeypatch.setattr("reward_vlm.endpoint.time.sleep", pauses.append)

    def limited(handler, number):
        send(handler, 429, b"{}", Retry_After="7") if number % 2 else send(handler, 200, good())

    with serving(limited) as (url, _):
        assert quick(url, tries=2).complete(ASKED) == ["1"]
    assert pauses == [7.0]
    with serving(lambda handler, _: send(handler, 429, b"{}", Retry_After="3600")) as (url, seen):
        assert "asks to wait 3600 seconds" in str(quick(url, tries=3).complete(ASKED)[0])
    assert len(seen) == 1 and pauses == [7.0]
    for odd in ("soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 400):
        with serving(lambda handler, n, odd=odd: send(handler, 503, b"", Retry_After=odd)) as (url, seen):
            assert isinstance(quick(url, tries=2).complete(ASKED)[0], EndpointError)
        assert len(seen) == 2


@pytest.mark.parametrize("part", ["headers", "body", "body without a length"])
def test_the_limit_is_on_the_whole_call(part):
    let_go = threading.Event()

    def drip(handler, number):
        if part == "body":
            send(handler, 200, b"", length=10_000)
        elif part == "body without a length":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        else:
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
        try:
            while not let_go.wait(0.05):
                handler.wfile.write(b" ")
        except OSError:  # the client has gone
            return

    with serving(drip) as (url, _):
        started = time.monotonic()
        reply = quick(url, timeout_seconds=0.3).complete(ASKED)[0]
        took = time.monotonic() - started
        let_go.set()
    assert "timed out" in str(reply) and took < 120


def test_parts_and_odd_signs_of_a_reply_are_text():
    contents = [[{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}], None, "\ud800"]
    with serving(lambda handler, n: send(handler, 200, good(contents[n - 1]))) as (url, _):
        assert [quick(url).complete(ASKED)[0] for _ in contents] == ["ab", "", "?"]


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost/v1", "ftp://user:hunter2@localhost", "http://localhost:99999/v1?key=hunter2",
        "http://localhost/v1?key=hunter2", "http:///v1", "http://a b/v1", "http://[::1/v1", "http://u:hunter2@[::1/v1",
    ],
)  # fmt: skip
def test_passwords_in_addresses_are_refused_and_not_printed(url):
    with pytest.raises(ValueError, match="url of an endpoint must") as refused:
        Endpoint(url)
    assert "hunter2" not in str(refused.value)
