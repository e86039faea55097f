"""Somebody who listens to webhooks: a real HTTP server that writes down what it gets and answers as it is told."""

import asyncio
import ssl
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Call:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers` are given one after another, the last one for ever. 0 means never."""

    answers: list[int] = field(default_factory=lambda: [204])
    calls: list[Call] = field(default_factory=list)
    seconds: float = 0.0
    location: str = ""
    port: int = 0
    at_once: int = 0
    most_at_once: int = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def _answer(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await request.read()
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.calls.append(Call(request.path_qs, headers, body))
            status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await asyncio.sleep(60 if status == 0 else self.seconds)
        finally:
            self.at_once -= 1
        headers = {"Location": self.location} if self.location else {}
        return web.Response(status=status, headers=headers, text="x" * 100_000)
