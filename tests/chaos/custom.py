"""Customers of a service for as long as it lasts: a bit of everything that is asked of one, mistakes too."""

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Sequence

import httpx

from tests.chaos.balancer import CHAT
from tests.chaos.town import ROWS
from tests.support.samples import BASE

_JSONL = b'{"input": "one", "target": "two"}\n' * 50
#: So many adapters are kept; before another one is trained, the oldest is deleted.
_KEPT = 6
#: Between two jobs.
_PAUSE_S = 0.5


class Custom:
    """Closed loops of requests, spread over the services."""

    def __init__(self, urls: Sequence[str], dice: random.Random) -> None:
        self._urls, self._dice = urls, dice
        self._adapters: deque[str] = deque()
        #: Answers by what was asked and their status.
        self.answers: Counter[tuple[str, int]] = Counter()
        self.jobs = 0
        self._stop = asyncio.Event()
        self._ways = {
            self._chat: 60,
            self._leave: 6,
            self._err: 6,
            self._look: 12,
            self._file: 6,
        }

    async def come(self, count: int) -> None:
        """So many at a time, and one who has adapters trained."""
        async with httpx.AsyncClient(timeout=60) as http, asyncio.TaskGroup() as group:
            group.create_task(self._train(http))
            for _ in range(count):
                group.create_task(self._go_on(http))

    def stop(self) -> None:
        self._stop.set()

    def unforeseen(self) -> dict[tuple[str, int], int]:
        """Answers that nobody should get: whoever makes no mistake gets 200."""
        right = {"err": {400, 404}, "train": {200, 202}}
        return {
            (asked, status): count
            for (asked, status), count in self.answers.items()
            if status not in right.get(asked, {200})
        }

    async def _go_on(self, http: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            way = self._dice.choices(list(self._ways), list(self._ways.values()))[0]
            await way(http, self._dice.choice(self._urls))

    def _note(self, asked: str, answer: httpx.Response) -> httpx.Response:
        self.answers[asked, answer.status_code] += 1
        return answer

    def _question(self, times: int, *, stream: bool) -> dict[str, object]:
        # The oldest may be deleted in this moment.
        model = self._dice.choice([BASE, *list(self._adapters)[1:]])
        said = [{"role": "user", "content": f"say it {times} times"}]
        return {"model": model, "messages": said, "stream": stream}

    async def _chat(self, http: httpx.AsyncClient, url: str) -> None:
        body = self._question(self._dice.choice([1, 2, 8]), stream=self._dice.random() < 0.5)
        self._note("chat", await http.post(url + CHAT, json=body))

    async def _leave(self, http: httpx.AsyncClient, url: str) -> None:
        """In the middle of a stream."""
        async with http.stream("POST", url + CHAT, json=self._question(50, stream=True)) as told:
            self._note("leave", told)
            async for _ in told.aiter_lines():
                if self._dice.random() < 0.3:
                    return

    async def _err(self, http: httpx.AsyncClient, url: str) -> None:
        body = self._dice.choice([b"{", b'{"model": "nobody", "messages": []}', b"[1]"])
        self._note("err", await http.post(url + CHAT, content=body))
        self._note("err", await http.get(f"{url}/v1/files/file-none"))

    async def _look(self, http: httpx.AsyncClient, url: str) -> None:
        paths = ["/v1/models", "/metrics", "/finetune", "/v1/fine_tuning/jobs", "/adapters"]
        self._note("look", await http.get(url + self._dice.choice(paths)))

    async def _file(self, http: httpx.AsyncClient, url: str) -> None:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("t.jsonl", _JSONL)}}
        kept = self._note("file", await http.post(f"{url}/v1/files", **form))
        at = f"{url}/v1/files/{kept.json()['id']}"
        self._note("file", await http.get(f"{at}/content"))
        self._note("file", await http.delete(at))

    async def _train(self, http: httpx.AsyncClient) -> None:
        """A new adapter, of a name that there has never been, and the oldest one goes."""
        for number in itertools.count():
            if self._stop.is_set():
                return
            url, name = self._dice.choice(self._urls), f"soaked-{number}"
            asked = await http.post(f"{url}/finetune", json={"data": ROWS, "name": name})
            told = self._note("train", asked).json()
            while told["status"] not in {"succeeded", "failed", "cancelled"}:
                await asyncio.sleep(0.2)
                told = self._note("train", await http.get(f"{url}/finetune/{told['id']}")).json()
            assert told["status"] == "succeeded", told
            self.jobs += 1
            self._adapters.append(name)
            if len(self._adapters) > _KEPT:
                await asyncio.sleep(_PAUSE_S)  # whoever has just asked it is answered by now
                oldest = self._adapters.popleft()
                self._note("train", await http.delete(f"{url}/adapters/{oldest}"))
            await asyncio.sleep(_PAUSE_S)
