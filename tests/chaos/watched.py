"""`python -m tests.chaos.watched --port N`: the service, which also says how many asyncio tasks there are.

Memory, threads and open files of a process the kernel tells; of tasks only the process itself knows.
"""

import asyncio
import sys

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __main__ as service

TASKS = "/how-many-tasks"


class Counting:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == TASKS:
            await PlainTextResponse(str(len(asyncio.all_tasks())))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def main() -> None:
    """The service's own main, with something around its application."""
    run = uvicorn.run

    def counted(app: ASGIApp, **options: object) -> None:
        run(Counting(app), **options)

    uvicorn.run = counted
    service.main()


if __name__ == "__main__":
    sys.exit(main())
