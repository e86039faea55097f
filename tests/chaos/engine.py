"""`python -m tests.chaos.engine SOCKET MODEL`: the fake engine as a process of its own, which says what it has loaded.

Its answer is the content of the files of the adapter that was asked: whoever gets another's can tell. Who asks for it
"7 times" gets it as often, a token each hundredth of a second.
"""

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from aiohttp import web

from tests.chaos.toy import die_with_parent
from tests.support.fake_answers import said
from tests.support.fake_engine import Body, FakeEngine

_CONTENT = re.compile(rb'"content":\s*"([0-9a-f]+)"')
_TIMES = re.compile(r"(\d+) times")
TOKEN_S = 0.01


class TellingEngine(FakeEngine):
    async def _answer(
        self,
        request: web.Request,
        whole: Callable[[Body], Body],
        events: Callable[[Body], Iterator[bytes]] | None,
    ) -> web.StreamResponse:
        def told(body: Body) -> Body:
            return whole(self._told(body))

        def streamed(body: Body) -> Iterator[bytes]:
            assert events is not None
            return events(self._told(body))

        return await super()._answer(request, told, streamed)

    def _told(self, body: Body) -> Body:
        found = _TIMES.search(said(body))
        content = " ".join([self._content(body)] * int(found[1] if found else 1))
        return body | {"messages": [{"role": "user", "content": content}]}

    def _content(self, body: Body) -> str:
        path = self.adapters.get(body["model"])
        return "nothing" if path is None else content_of(Path(path))


def content_of(directory: Path) -> str:
    """What an adapter of the toy's comes to, and of any other the digest of its weights."""
    weights = (directory / "adapter_model.safetensors").read_bytes()
    found = _CONTENT.search(weights)
    return found[1].decode() if found else sha256(weights).hexdigest()


async def main() -> None:
    die_with_parent()
    engine = TellingEngine(Path(sys.argv[1]), sys.argv[2])
    engine.token_seconds = TOKEN_S
    engine.probes_fail = 400  # it computes nothing that could be compared
    await engine.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
