"""Asks the service whether it answers, and which engines behind it do."""

import asyncio
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cli.launcher.report import Report
from cli.launcher.table import engine_name


@dataclass(slots=True)
class Readiness:
    """What was reported last, so that only changes are."""

    url: str
    report: Report
    #: Said once, the first time that everything is ready.
    welcome: str
    ready: dict[str, bool] = field(default_factory=dict)
    welcomed: bool = False

    async def watch(self, every: float = 0.5) -> None:
        """For ever. The question is asked in a thread: a service that hangs must not hang its supervisor."""
        began = time.monotonic()
        while True:
            answer = await asyncio.to_thread(ask, self.url)
            self.tell(answer, time.monotonic() - began)
            await asyncio.sleep(every if not self.welcomed else every * 4)

    def tell(self, answer: Mapping[str, bool], seconds: float) -> None:
        """Report what changed. While the service is away, nothing is known of the engines."""
        for name, ready in answer.items():
            if ready and not self.ready.get(name):
                where = f"at {self.url}" if name == "service" else f"after {seconds:.0f} s"
                self.report.ready(name, where)
            elif self.ready.get(name) and not ready:
                self.report.lost(name)
            self.ready[name] = ready
        if len(answer) > 1 and all(answer.values()) and not self.welcomed:
            self.welcomed = True
            self.report.hint(self.welcome)


def ask(url: str) -> dict[str, bool]:
    """`service` and, if it answers, each engine by its name in the table: is it ready?"""
    status, body = get(url, "/readyz")
    if status is None:
        return {"service": False}
    try:
        engines = json.loads(body)["engines"]
        return {"service": True} | {engine_name(key): told == "up" for key, told in engines.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"service": False}  # something else listens there


def get(url: str, path: str) -> tuple[int | None, bytes]:
    """Status and body of a GET; no status if there was no answer within two seconds."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()
