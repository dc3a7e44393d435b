"""Requests that arrive one by one, answered together: a queue with a limit in front of a function of batches.

One batch is under way at a time, in a thread of its own. While it is, requests gather; the next batch takes the oldest
one and those that can be answered with it. What cannot be answered together is tried one by one, so that a request that
is refused costs its own answer alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

Run = Callable[[Hashable, Sequence[Any]], Sequence[Any]]
"""Answers to items that share a key, in order; raises ValueError or OSError where it refuses."""


class Full(Exception):
    """So many requests wait that no more are taken."""


@dataclass(eq=False)
class _Waiting:
    key: Hashable
    item: Any
    answer: asyncio.Future[Any]


class Batcher:
    """Answers items in batches.

    Args:
        run: answers several items of one key.
        size: items in a batch, at most.
        waiting: items that may wait, at most.
    """

    def __init__(self, run: Run, size: int, waiting: int):
        self.run, self.size, self.waiting = run, size, waiting
        self.queue: list[_Waiting] = []
        self.arrived = asyncio.Event()
        self.batches: list[int] = []
        """Sizes of the batches so far."""

    async def ask(self, key: Hashable, item: Any) -> Any:
        """The answer to an item. One whose caller has gone, or waited too long, is not worked on any more.

        Raises:
            Full: too many wait.
            ValueError, OSError: it is refused.
        """
        if len(self.queue) >= self.waiting:
            raise Full
        one = _Waiting(key, item, asyncio.get_running_loop().create_future())
        self.queue.append(one)
        self.arrived.set()
        try:
            return await one.answer
        finally:
            if one in self.queue:
                self.queue.remove(one)

    async def work(self) -> None:
        """Answer what arrives, for ever."""
        while True:
            await self.arrived.wait()
            batch = self._next()
            if not batch:
                self.arrived.clear()
                continue
            self.batches.append(len(batch))
            for one, answer in zip(batch, await self._answers(batch), strict=True):
                if one.answer.done():  # its caller has gone
                    continue
                if isinstance(answer, BaseException):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _next(self) -> list[_Waiting]:
        """The oldest item that somebody waits for, and others of its key; they leave the queue."""
        first = next((one for one in self.queue if not one.answer.done()), None)
        if first is None:
            self.queue.clear()
            return []
        batch = [one for one in self.queue if one.key == first.key and not one.answer.done()][: self.size]
        self.queue = [one for one in self.queue if one not in batch]
        return batch

    async def _answers(self, batch: Sequence[_Waiting]) -> list[Any]:
        """An answer, or the exception in its place, for each."""
        work = asyncio.to_thread(self.run, batch[0].key, [one.item for one in batch])
        (answers,) = await asyncio.gather(work, return_exceptions=True)
        if not isinstance(answers, BaseException):
            return list(answers)
        if len(batch) == 1 or not isinstance(answers, (ValueError, OSError)):
            return [answers] * len(batch)
        return [answer for one in batch for answer in await self._answers([one])]
