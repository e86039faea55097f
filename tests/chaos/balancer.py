"""Clients of several replicas, with a trivial proxy before them: in turn, to those that last said they are ready.

Nobody tries anything twice: what fails is counted.
"""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx

#: How often replicas are asked whether they are ready.
LOOK_S = 0.1
CHAT = "/v1/chat/completions"


@dataclass
class Tally:
    requests: int = 0
    streams: int = 0
    #: What was told instead of an answer, or that nothing was.
    failures: list[str] = field(default_factory=list)
    #: How long each of the shortest answers took.
    seconds: list[float] = field(default_factory=list)


class Proxy(Protocol):
    def pick(self) -> str:
        """Who is asked next."""


class Only:
    """There is one, whatever it says of itself."""

    def __init__(self, url: str) -> None:
        self._url = url

    def pick(self) -> str:
        return self._url


class Balancer:
    """Knows who is ready."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls, self._turn = urls, itertools.count()
        self._ready: list[str] = []

    def pick(self) -> str:
        return self._ready[next(self._turn) % len(self._ready)]

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=5) as http:
            await self._look(http)
            task = asyncio.create_task(self._look_on(http))
            yield
            task.cancel()

    async def _look_on(self, http: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look(http)

    async def _look(self, http: httpx.AsyncClient) -> None:
        self._ready = [url for url in self._urls if await _is_ready(http, url)]


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


class Clients:
    """Ask until they are told to stop: mostly short answers, some long ones, half of them streamed."""

    def __init__(self, balancer: Proxy, contents: dict[str, str], dice: random.Random) -> None:
        """`contents`: what each model has to say."""
        self._balancer, self._contents, self._dice = balancer, contents, dice
        self.tally = Tally()
        #: Streams under way, by replica.
        self.streaming: Counter[str] = Counter()
        self._stop = asyncio.Event()

    async def ask(self, count: int) -> None:
        """So many clients, each one request after the other."""
        # A connection is used again only while the service is sure to keep it, which it does for 5 s.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        async with (
            httpx.AsyncClient(timeout=60, limits=limits) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(count):
                group.create_task(self._ask_on(http))

    def stop(self) -> None:
        self._stop.set()

    async def _ask_on(self, http: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            times = self._dice.choices([1, 20, 300], [80, 18, 2])[0]
            model = self._dice.choice(list(self._contents))
            stream = self._dice.random() < 0.5
            url = self._balancer.pick()
            self.tally.requests += 1
            self.tally.streams += stream
            began = time.monotonic()
            try:
                await self._one(http, url, model, times, stream=stream)
                if times == 1:
                    self.tally.seconds.append(time.monotonic() - began)
            except (httpx.HTTPError, AssertionError) as error:
                self.tally.failures.append(f"{type(error).__name__}: {error}"[:300])

    async def _one(
        self, http: httpx.AsyncClient, url: str, model: str, times: int, *, stream: bool
    ) -> None:
        said = [{"role": "user", "content": f"say it {times} times"}]
        body = {"model": model, "messages": said, "stream": stream}
        wanted = " ".join([f"{model}:", *[self._contents[model]] * times])
        if not stream:
            answer = await http.post(url + CHAT, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"] == wanted
            return
        self.streaming[url] += 1
        try:
            assert await streamed(http, url, body) == wanted
        finally:
            self.streaming[url] -= 1


async def streamed(http: httpx.AsyncClient, url: str, body: dict[str, object]) -> str:
    """What a stream says, which must end as such; raises AssertionError with the last event where it does not."""
    pieces, last = [], ""
    async with http.stream("POST", url + CHAT, json=body) as answer:
        if answer.status_code != 200:
            raise AssertionError((await answer.aread()).decode())
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                last = line.removeprefix("data: ")
                pieces.append(last)
    assert last == "[DONE]", last
    return "".join(map(_content, pieces[:-1]))


def _content(event: str) -> str:
    told = json.loads(event)
    return "".join(choice["delta"].get("content") or "" for choice in told["choices"])
