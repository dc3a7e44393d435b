"""Any server that speaks the OpenAI chat protocol, asked concurrently, with retries and time limits."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from reward_vlm.dialogue import Dialogue, Part, Video


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
    """Limit of one request."""
    tries: int = 3
    """Attempts per request, with growing pauses."""
    workers: int = 16
    """Requests under way at the same time."""
    pause_seconds: float = field(default=0.5)
    """Pause before the second attempt; it doubles each time."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The url of an endpoint must start with http:// or https://, got {self.url!r}.")
        if self.tries < 1 or self.workers < 1 or self.timeout_seconds <= 0:
            raise ValueError("tries, workers and timeout_seconds of an endpoint must be positive.")

    def complete(
        self, dialogues: Sequence[Dialogue], *, temperature: float = 0.0, max_tokens: int = 1024
    ) -> list[str | EndpointError]:
        """The reply to each dialogue, or the error that took its place; one failure does not stop the others."""
        if not dialogues:
            return []
        try:
            model = self.model or str(self._call("models", None)["data"][0]["id"])
        except EndpointError as error:
            return [error] * len(dialogues)
        except (KeyError, IndexError, TypeError):
            return [EndpointError(f"{self.url} names no model; name one.")] * len(dialogues)

        def ask(dialogue: Dialogue) -> str | EndpointError:
            body = {"model": model, "messages": openai_messages(dialogue), "temperature": temperature}
            try:
                reply = self._call("chat/completions", body | {"max_tokens": max_tokens})
                return str(reply["choices"][0]["message"]["content"] or "")
            except EndpointError as error:
                return error
            except (KeyError, IndexError, TypeError):
                return EndpointError(f"{self.url} sent a reply without choices.")

        with ThreadPoolExecutor(min(self.workers, len(dialogues))) as pool:
            return list(pool.map(ask, dialogues))

    def _call(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url.rstrip('/')}/{path}", data, headers)
        reason = ""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause_seconds * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                reason = f"it answered with status {error.code}"
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, ValueError) as error:  # connection, time limit, no JSON
                reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise EndpointError(f"{self.url} gave no reply: {reason}.")


def openai_messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The dialogue in the OpenAI chat format, pictures as PNG data addresses."""
    return [
        {"role": turn.role, "content": [block for part in turn.parts for block in _blocks(part)]}
        if turn.images or turn.videos
        else {"role": turn.role, "content": turn.text}
        for turn in dialogue.turns
    ]


def _blocks(part: Part) -> list[dict[str, Any]]:
    """Films are sent as their frames."""
    if isinstance(part, str):
        return [{"type": "text", "text": part}]
    if isinstance(part, Video):
        return [block for frame in part.frames for block in _blocks(frame)]
    buffer = io.BytesIO()
    part.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}]
