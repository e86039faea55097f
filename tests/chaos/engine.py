"""`python -m tests.chaos.engine SOCKET MODEL`: the fake engine as a process of its own, which says what it has loaded.

Its answer is the content of the files of the adapter that was asked: whoever gets another's can tell.
"""

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from aiohttp import web

from tests.chaos.toy import die_with_parent
from tests.support.fake_engine import Body, FakeEngine

_CONTENT = re.compile(rb'"content":\s*"([0-9a-f]+)"')


class TellingEngine(FakeEngine):
    async def _answer(
        self,
        request: web.Request,
        whole: Callable[[Body], Body],
        events: Callable[[Body], Iterator[bytes]] | None,
    ) -> web.StreamResponse:
        def told(body: Body) -> Body:
            return whole(body | {"messages": [{"role": "user", "content": self._content(body)}]})

        return await super()._answer(request, told, events)

    def _content(self, body: Body) -> str:
        path = self.adapters.get(body["model"])
        if path is None:
            return "nothing"
        found = _CONTENT.search((Path(path) / "adapter_model.safetensors").read_bytes())
        return found[1].decode() if found else "nothing"


async def main() -> None:
    die_with_parent()
    engine = TellingEngine(Path(sys.argv[1]), sys.argv[2])
    await engine.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
