"""Any server that speaks the OpenAI chat protocol, asked concurrently, with retries and time limits.

Nothing that a server does ends the batch: each dialogue gets its reply or the reason why there is none, in the server's
own words where it has some. The key goes to the named host alone: redirects are not followed.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from reward_vlm.dialogue import Dialogue, Part, Video
from reward_vlm.guard import broken
from vision.config import one_line

LONGEST_REPLY = 1 << 26
"""Bytes; a server that sends more is not read to the end."""


class EndpointError(ValueError):
    """The server did not give a reply; the message says why, without the key."""


@dataclass(frozen=True)
class Endpoint:
    """A chat server. The key comes from the environment and is never stored, printed or logged."""

    url: str
    """Address of the API, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of the model; None asks for the server's first one."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; unset or empty: no key is sent."""
    timeout_seconds: float = 60.0
    """Limit of one request, from the connection to the last byte of the reply."""
    tries: int = 3
    """Attempts per request, with growing pauses."""
    workers: int = 16
    """Requests under way at the same time."""
    pause_seconds: float = field(default=0.5)
    """Pause before the second attempt; it doubles each time. A server that names a longer one (Retry-After) gets it."""
    longest_pause_seconds: float = 120.0
    """A server that asks to wait longer than this is given up."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The url of an endpoint must start with http:// or https://, got {shown(self.url)!r}.")
        if "@" in self.url:
            raise ValueError(
                f"The url of an endpoint must not hold a name and password ({shown(self.url)}); the key is read from "
                f"the environment variable {self.key_variable}."
            )
        try:
            named = urlsplit(self.url).hostname and urlsplit(self.url).port != 0
        except ValueError:
            named = False
        if not named or re.search(r"[\s\x00-\x1f\x7f?#]", self.url):
            raise ValueError(
                f"The url of an endpoint must name a host, a port that exists and a path, got {shown(self.url)!r}."
            )
        if self.tries < 1 or self.workers < 1 or self.timeout_seconds <= 0:
            raise ValueError("tries, workers and timeout_seconds of an endpoint must be positive.")

    def complete(
        self, dialogues: Sequence[Dialogue], *, temperature: float = 0.0, max_tokens: int = 1024
    ) -> list[str | EndpointError]:
        """The reply to each dialogue, or the error that took its place; one failure does not stop the others."""
        if not dialogues:
            return []
        try:
            model = self.model or self._first_model()
        except EndpointError as error:
            return [error] * len(dialogues)

        def ask(dialogue: Dialogue) -> str | EndpointError:
            body = {"model": model, "messages": openai_messages(dialogue), "temperature": temperature}
            try:
                reply = self._call("chat/completions", body | {"max_tokens": max_tokens})
                return _text(reply["choices"][0]["message"]["content"])
            except EndpointError as error:
                return error
            except (KeyError, IndexError, TypeError):
                said = _own_words(reply)
                return EndpointError(f"{shown(self.url)} sent a reply without choices{said and f': {said}'}.")

        with ThreadPoolExecutor(min(self.workers, len(dialogues))) as pool:
            return list(pool.map(ask, dialogues))

    def _first_model(self) -> str:
        """The first model that the server lists."""
        try:
            return str(self._call("models", None)["data"][0]["id"])
        except EndpointError as error:
            raise EndpointError(f"{str(error).rstrip('.')} to the question for its models; name the model.") from None
        except (KeyError, IndexError, TypeError):
            raise EndpointError(f"{shown(self.url)} lists no model; name one.") from None

    def _call(self, path: str, body: Any) -> Any:
        """The JSON value that the server sends, after retries.

        Raises:
            EndpointError: it sends none, or refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url.rstrip('/')}/{path}", data, {"Content-Type": "application/json"})
        if key := os.environ.get(self.key_variable, "").strip():
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        for attempt in range(self.tries):
            pause = self.pause_seconds * 2**attempt
            try:
                return self._once(request)
            except urllib.error.HTTPError as error:
                reason = f"it answered with status {error.code}{self._detail(error)}"
                asked = _retry_after(error.headers)
                pause = max(pause, asked)
                if asked > self.longest_pause_seconds:
                    reason += f", and asks to wait {asked:.0f} seconds"
                if asked > self.longest_pause_seconds or (error.code < 500 and error.code not in (408, 425, 429)):
                    break
            except (OSError, ValueError, HTTPException, RecursionError) as error:  # connection, time limit, no JSON
                reason = one_line(str(getattr(error, "reason", error))) or type(error).__name__
            if attempt + 1 < self.tries:
                time.sleep(pause)
        raise EndpointError(f"{shown(self.url)} gave no reply: {_without_keys(reason, key)}.")

    def _once(self, request: urllib.request.Request) -> Any:
        deadline = _Deadline(self.timeout_seconds)
        try:
            with deadline.opener().open(request, timeout=self.timeout_seconds) as response:
                content = response.read(LONGEST_REPLY + 1)
                missing = response.length
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) or not deadline.passed:
                raise
            raise TimeoutError("timed out") from error
        finally:
            deadline.cancel()
        if deadline.passed:  # a reply without a length ends early, without an error
            raise TimeoutError("timed out")
        if len(content) > LONGEST_REPLY:
            raise ValueError(f"the reply has more than {LONGEST_REPLY} bytes")
        if missing:
            raise ValueError(f"the reply ended {missing} bytes early")
        try:
            return json.loads(content)
        except RecursionError:
            raise ValueError("the reply is nested too deeply") from None

    @staticmethod
    def _detail(error: urllib.error.HTTPError) -> str:
        """What the server says about a refusal, with a leading comma or colon; empty when it says nothing."""
        if 300 <= error.code < 400:
            return f" and sends on to {shown(str(error.headers.get('Location')))}, which is not followed; name that url"
        try:
            said = _own_words(json.loads(error.read(1 << 16)))
        except (OSError, ValueError, HTTPException, RecursionError):
            said = ""
        return said and f": {said}"


class _Deadline:
    """A limit on a whole request: at its end the connection is cut, wherever it waits."""

    def __init__(self, seconds: float):
        self.end, self.timers = time.monotonic() + seconds, []

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.end

    def cancel(self) -> None:
        for timer in self.timers:
            timer.cancel()

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens addresses within the limit, and follows no redirects."""
        watch = self._watch

        def limited(base: type[HTTPConnection]) -> type[HTTPConnection]:
            class Connection(base):  # type: ignore[valid-type, misc]
                def connect(self) -> None:
                    super().connect()
                    watch(self.sock)

            return Connection

        class Plain(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(limited(HTTPConnection), request)

        class Encrypted(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> Any:
                return self.do_open(limited(HTTPSConnection), request)

        return urllib.request.build_opener(Plain, Encrypted, _NoRedirects)

    def _watch(self, connection: socket.socket) -> None:
        def cut() -> None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                return

        timer = threading.Timer(max(self.end - time.monotonic(), 0), cut)
        timer.daemon = True
        self.timers.append(timer)
        timer.start()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes an error of a redirect."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def shown(url: str) -> str:
    """An address as it may be printed: without names, passwords and what follows a question mark."""
    url = re.split(r"[?#]", one_line(url))[0]
    return re.sub(r"^([^/]*//)?[^/]*@", r"\1", url)


def _without_keys(text: str, key: str) -> str:
    text = text.replace(key, "[key]") if key else text
    return re.sub(r"\bsk-[\w-]+|\b(?i:bearer)\s+[\w.~+/-]+=*", "[key]", text)


def _own_words(reply: Any) -> str:
    """The sentence in a server's error: {"error": {"message": ...}} and its usual variants; empty without one."""
    while isinstance(reply, Mapping):
        reply = next((reply[name] for name in ("error", "message", "detail", "msg") if reply.get(name)), "")
    return one_line(reply)[:500].rstrip(".") if isinstance(reply, str) else ""


def _retry_after(headers: Any) -> float:
    """Seconds that the server asks to wait: a number or a date; 0 when it does not ask."""
    value = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _text(content: Any) -> str:
    """The text of a reply, which is a string, a list of parts, or null."""
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, Mapping) else part for part in content]
        content = "".join(part for part in parts if isinstance(part, str))
    return str(content or "").encode("utf-8", "replace").decode()  # lone surrogates could not be written


def openai_messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The dialogue in the OpenAI chat format, pictures as PNG data addresses; texts as `broken` leaves them."""
    return [
        {"role": turn.role, "content": [block for part in turn.parts for block in _blocks(part)]}
        if turn.images or turn.videos
        else {"role": turn.role, "content": broken(turn.text)}
        for turn in dialogue.turns
    ]


def _blocks(part: Part) -> list[dict[str, Any]]:
    """Films are sent as their frames."""
    if isinstance(part, str):
        return [{"type": "text", "text": broken(part)}]
    if isinstance(part, Video):
        return [block for frame in part.frames for block in _blocks(frame)]
    buffer = io.BytesIO()
    part.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}]
