"""A judge behind HTTP: rankings, and the OpenAI chat protocol; what `burnish serve judge` runs.

    burnish serve judge --source org/name --device cuda
    curl -s localhost:8010/score -H "Content-Type: application/json" \\
        -d '{"question": "what is in the image ?", "answers": ["a red object on white", "a blue object on black"]}'

    POST /score                 {question, answers, images?} -> {scores, choice, ratings?, doubt?, reasoning}
    POST /v1/chat/completions   as OpenAI's, without streaming and tools; what the model itself says
    GET  /v1/models, /health    the model's name; what was asked so far, and what the judge was worth

Pictures are data addresses ("data:image/png;base64,..."); no address is fetched. Requests that arrive together are
answered together. The server listens on this machine alone unless a token is given (the environment variable
BURNISH_TOKEN, sent as "Authorization: Bearer ..."). Too large: 413; too many waiting: 503; too slow: 504; refused:
400, in a sentence.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from reward_vlm.audit import Watched
from reward_vlm.batching import Batcher, Full
from reward_vlm.chat import Chat
from reward_vlm.dialogue import Dialogue, Part, from_messages
from reward_vlm.job import place
from reward_vlm.judges import Judge, Judged, Query
from reward_vlm.open_judge import open_judge
from reward_vlm.r1.judge import R1Judge
from reward_vlm.r1.options import R1Options
from reward_vlm.templates import Pair, Point
from reward_vlm.vlm import Reply, Sampling
from vision.config import UNNAMED, Dtype, one_line
from vision.hosts import is_own
from vision.images import BadImage, read_image
from vision.job import Event, Show, silent
from vision.refine import item_generators

TOKEN = "BURNISH_TOKEN"
"""Environment variable of the token: a command line can be read by others."""
LOCAL = ["127.0.0.1", "localhost", "::1", "[::1]"]


@dataclass(frozen=True)
class ServeOptions:
    """Serve a judge."""

    source: str | None = None
    """Weights: a folder, org/name on the model hub, or builtin:NAME; None takes those that come with the project."""
    variant: Literal["scenes", "restoration"] | None = None
    """Which of the weights that come with the project."""
    template: Pair | Point | None = None
    """How weights of another family are asked and read, see `reward_vlm.templates`."""
    host: str = "127.0.0.1"
    """Address to listen on; another one than this machine's own needs a token (BURNISH_TOKEN)."""
    port: int = 8010
    """Port to listen on."""
    device: str = "auto"
    """cpu, cuda, ...; auto takes a GPU when there is one."""
    dtype: Dtype = "float32"
    """Numbers that the model computes with; bfloat16 halves the memory of large ones."""
    max_megabytes: float = 16.0
    """Refuse larger requests."""
    max_pixels: int = 4_000_000
    """Refuse pictures with more pixels than this."""
    max_answers: int = 16
    """Refuse more answers to one question; every two are compared."""
    max_waiting: int = 512
    """Refuse requests while so many wait."""
    max_seconds: float = 300.0
    """Give up a request that takes longer."""
    together: int = 32
    """Requests that are answered together, at most."""
    options: Annotated[R1Options, UNNAMED] = field(default_factory=lambda: R1Options(batch_size=32))
    """How the judge is asked."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must lie in [0, 65535], got {self.port}.")
        for name in ("max_megabytes", "max_pixels", "max_waiting", "max_seconds", "together"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.max_answers < 2:
            raise ValueError(f"max_answers must be at least 2, got {self.max_answers}.")
        if self.source is not None and self.variant is not None:
            raise ValueError("--variant chooses among the weights that come with the project; leave out --source.")


def serve(options: ServeOptions, show: Show = silent) -> None:
    """Serve until the process is interrupted.

    Raises:
        ValueError: others could reach the server and there is no token, or the weights or packages are unusable.
    """
    token = os.environ.get(TOKEN, "")
    if not is_own(options.host) and not token:
        raise ValueError(f"On {options.host} others can reach the judge; set {TOKEN}, or listen on 127.0.0.1.")
    import uvicorn

    where = place(options.device, options.dtype)
    if options.variant is not None:
        judge: Judge = R1Judge.from_pretrained(variant=options.variant, **where)
    else:
        judge = open_judge(options.source, options.template, **where)
    address = f"http://{options.host}:{options.port}"
    show(Event("note", f"The judge answers on {address}/score and {address}/v1; end it with Ctrl-C."))
    uvicorn.run(
        application(judge, options, token), host=options.host, port=options.port, log_level="warning", access_log=False
    )


def application(judge: Judge, options: ServeOptions, token: str = "") -> Any:
    """The ASGI application.

    Args:
        token: who does not send it is refused; empty: nobody needs one.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    desk = Desk(judge, options, token)
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)] if is_own(options.host) else []
    routes = [
        Route("/score", desk.score, methods=["POST"]),
        Route("/v1/chat/completions", desk.chat, methods=["POST"]),
        Route("/v1/models", desk.models),
        Route("/health", desk.health),
    ]
    application = Starlette(routes=routes, middleware=middleware, lifespan=desk.open)
    application.state.desk = desk
    return application


class Refused(Exception):
    """A request is not answered: its status, and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Desk:
    """Takes requests, has them answered in batches, and sends the answers."""

    def __init__(self, judge: Judge, options: ServeOptions, token: str):
        self.judge, self.options, self.token = Watched(judge), options, token
        self.batcher = Batcher(self._answers, options.together, options.max_waiting)
        self.started, self.answered, self.refused = time.time(), 0, 0

    @contextlib.asynccontextmanager
    async def open(self, application: Any) -> AsyncIterator[None]:
        """While it is entered, batches are worked on."""
        working = asyncio.create_task(self.batcher.work())
        try:
            yield
        finally:
            working.cancel()

    async def score(self, request: Any) -> Any:
        """POST /score."""
        return await self._respond(request, self._score)

    async def chat(self, request: Any) -> Any:
        """POST /v1/chat/completions."""
        return await self._respond(request, self._chat)

    async def models(self, request: Any) -> Any:
        """GET /v1/models."""
        return await self._respond(request, self._models, body=False)

    async def health(self, request: Any) -> Any:
        """GET /health."""
        return await self._respond(request, self._health, body=False)

    async def _respond(self, request: Any, answer: Any, body: bool = True) -> Any:
        """The answer as JSON, or the refusal in OpenAI's form."""
        from starlette.responses import JSONResponse

        try:
            self._check(request)
            told = await self._read(request) if body else {}
            found = await asyncio.wait_for(answer(told), self.options.max_seconds)
        except Refused as error:
            status, sentence = error.status, str(error)
        except Full:
            status, sentence = 503, f"{self.options.max_waiting} requests wait already; try again later."
        except asyncio.TimeoutError:
            status, sentence = 504, f"No answer within {self.options.max_seconds:g} seconds."
        except (ValueError, OSError, TypeError) as error:
            status, sentence = 400, one_line(str(error))
        else:
            self.answered += body
            return JSONResponse(found)
        self.refused += 1
        headers = {"Retry-After": "1"} if status == 503 else {}
        return JSONResponse({"error": {"message": sentence, "code": status}}, status, headers)

    def _check(self, request: Any) -> None:
        origin = request.headers.get("origin")
        if origin is not None and origin.split("//")[-1] != request.headers.get("host"):
            raise Refused(403, "Pages of others are not answered.")
        if self.token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self.token.encode()):
                raise Refused(401, f"Send the token that the server was started with ({TOKEN}) as a bearer.")

    async def _read(self, request: Any) -> Mapping[str, Any]:
        """The JSON object of a request; reading stops where it is too large."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "A request is JSON: Content-Type: application/json.")
        data = await asyncio.wait_for(self._body(request), self.options.max_seconds)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "A request must be a JSON object.") from None
        if not isinstance(found, dict):
            raise Refused(400, "A request must be a JSON object.")
        return found

    async def _body(self, request: Any) -> bytes:
        limit, data = int(self.options.max_megabytes * 1e6), bytearray()
        async for part in request.stream():
            data += part
            if len(data) > limit:
                raise Refused(413, f"A request may have {self.options.max_megabytes:g} megabytes.")
        return bytes(data)

    async def _score(self, told: Mapping[str, Any]) -> dict[str, Any]:
        _only(told, ("question", "answers", "images"))
        query = await asyncio.to_thread(self._query, told)
        return scored(await self.batcher.ask("score", query))

    def _query(self, told: Mapping[str, Any]) -> Query:
        question, answers, images = told.get("question"), told.get("answers"), told.get("images") or []
        if not isinstance(question, str) or not isinstance(answers, list) or not isinstance(images, list):
            raise Refused(400, "A request needs question (a text), answers (a list), and may have images (a list).")
        if not 2 <= len(answers) <= self.options.max_answers:
            raise Refused(400, f"answers must be 2 to {self.options.max_answers}, got {len(answers)}.")
        shown = tuple(answer if isinstance(answer, str) else self._picture(answer) for answer in answers)
        query = Query(question, shown, tuple(self._picture({"image": image}) for image in images))
        unknown = getattr(self.judge.judge, "unknown", lambda query: None)
        if sentence := unknown(query):
            raise Refused(400, sentence)
        return query

    def _picture(self, told: Any) -> Part:
        """The picture of a data address, in {"image": address}."""
        address = told.get("image") if isinstance(told, dict) else None
        if isinstance(address, dict):
            address = address.get("url")
        if not isinstance(address, str) or not address.startswith("data:") or ";base64," not in address[:100]:
            raise Refused(400, "A picture is a data address (data:image/png;base64,...); nothing is fetched.")
        try:
            data = base64.b64decode(address.split(";base64,", 1)[1], validate=True)
            return read_image(data, "the picture", max_pixels=self.options.max_pixels).rgb
        except (binascii.Error, BadImage) as error:
            raise Refused(400, f"A picture cannot be read: {one_line(str(error))}") from error

    async def _chat(self, told: Mapping[str, Any]) -> dict[str, Any]:
        known = ("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "n",
                 "stream", "user")  # fmt: skip
        _only(told, known)
        if told.get("stream") or told.get("n", 1) != 1:
            raise Refused(400, "Replies are sent whole and one at a time; leave out stream and n.")
        if self._model is None:
            raise Refused(400, "This judge gives numbers and says nothing; ask /score.")
        most = told.get("max_completion_tokens", told.get("max_tokens")) or self.options.options.max_new_tokens or 1024
        sampling = Sampling(int(most), float(told.get("temperature") or 0.0), float(told.get("top_p") or 1.0))
        dialogue = await asyncio.to_thread(self._dialogue, told.get("messages"))
        reply: Reply = await self.batcher.ask(sampling, (dialogue, int(told.get("seed") or 0)))
        message = {"role": "assistant", "content": reply.text}
        return {
            "id": f"chat-{self.answered}", "object": "chat.completion", "created": int(time.time()),
            "model": self._name,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop" if reply.finished else "length"}],
            "usage": {"completion_tokens": reply.tokens},
        }  # fmt: skip

    def _dialogue(self, messages: Any) -> Dialogue:
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise Refused(400, "messages must be a list of {role, content}.")
        plain = []
        for message in messages:
            content = message.get("content")
            blocks = [self._block(block) for block in content] if isinstance(content, list) else content
            plain.append({"role": message.get("role"), "content": blocks})
        if plain[-1]["role"] != "user":
            raise Refused(400, "The last message must be the user's.")
        return from_messages(plain)

    def _block(self, block: Any) -> Any:
        if isinstance(block, dict) and block.get("type") == "image_url":
            return {"type": "image", "image": self._picture({"image": block.get("image_url")})}
        if isinstance(block, dict) and block.get("type") == "image":
            raise Refused(400, "A picture in a message is a block of type image_url.")
        return block

    async def _models(self, told: Mapping[str, Any]) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": self._name, "object": "model", "owned_by": "burnish"}]}

    async def _health(self, told: Mapping[str, Any]) -> dict[str, Any]:
        sizes = self.batcher.batches
        return {
            "seconds": round(time.time() - self.started, 1), "answered": self.answered, "refused": self.refused,
            "waiting": len(self.batcher.queue), "batches": len(sizes), "largest_batch": max(sizes, default=0),
            "judge": self.judge.figures(), "warning": self.judge.warning(),
            "audit": getattr(self.judge.judge, "audited", None),
        }  # fmt: skip

    @property
    def _name(self) -> str:
        return self.options.source or self.options.variant or "embedded"

    @property
    def _model(self) -> Chat | None:
        chat = getattr(self.judge.judge, "chat", None)
        return chat if hasattr(chat, "generate") and not hasattr(self.judge.judge, "weight") else None

    def _answers(self, key: Hashable, items: Sequence[Any]) -> Sequence[Any]:
        """A batch: questions to judge, or dialogues to go on with; in a thread."""
        if isinstance(key, Sampling):
            assert self._model is not None
            generators = [item_generators(seed, 1)[0] for _, seed in items]
            return self._model.generate([dialogue for dialogue, _ in items], key, generators=generators)
        chosen = self.options.options
        if chosen.votes > 1 or chosen.temperature or chosen.orders == "random":  # a question's draws are its own
            return [self.judge.batch([query], chosen)[0] for query in items]
        return self.judge.batch(items, chosen)


def scored(found: Judged) -> dict[str, Any]:
    """A judgement as JSON; choice and scores are null where nothing could be read."""
    told: dict[str, Any] = {"choice": found.choice, "scores": None if found.choice is None else found.scores.tolist()}
    if found.ratings is not None:
        told["ratings"] = [None if rating != rating else rating for rating in found.ratings.tolist()]
    return told | ({"doubt": found.doubt} if found.doubt else {}) | {"reasoning": found.reasoning}


def _only(told: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name in told if name not in known]
    if unknown:
        raise Refused(400, f"There is no field {unknown[0]!r}; known are {', '.join(known)}.")
