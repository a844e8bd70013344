"""How long must a request to a provider wait so that requests and tokens a minute stay within the configured limits?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio

_WINDOW_S = 60.0


class MinuteWindow:
    """The requests of the last sixty seconds. Pure bookkeeping: the clock is an argument."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests = requests
        self._tokens = tokens
        self._sent: deque[tuple[float, int]] = deque()

    def wait_s(self, now_s: float, tokens: int) -> float:
        """Seconds until a request of so many tokens fits; 0 when it fits now.

        A request larger than the whole limit waits for an empty window: waiting longer would not make it fit.
        """
        while self._sent and self._sent[0][0] <= now_s - _WINDOW_S:
            self._sent.popleft()
        count, spent = len(self._sent), sum(size for _, size in self._sent)
        for sent_s, size in self._sent:
            if self._fits(count, spent, tokens):
                break
            count, spent = count - 1, spent - size
            wait_s = sent_s + _WINDOW_S - now_s
            if self._fits(count, spent, tokens):
                return wait_s
        return 0.0

    def record(self, now_s: float, tokens: int) -> None:
        """A request of so many tokens was sent."""
        self._sent.append((now_s, tokens))

    def _fits(self, count: int, spent: int, tokens: int) -> bool:
        if count == 0:
            return True
        return (self._requests is None or count < self._requests) and (self._tokens is None or spent + tokens <= self._tokens)


class Limiter:
    """Lets requests pass in the order of their arrival, each when the window has room for it."""

    def __init__(
        self,
        window: MinuteWindow,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._window = window
        self._clock = clock
        self._sleep = sleep
        self._turn = anyio.Lock()

    async def acquire(self, tokens: int) -> None:
        """Wait for room and take it."""
        async with self._turn:
            while (wait_s := self._window.wait_s(self._clock(), tokens)) > 0:
                await self._sleep(wait_s)
            self._window.record(self._clock(), tokens)
