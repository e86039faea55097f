"""How processes log: lines for people, or one JSON object a line for machines. Neither says what users say.

A request's or a job's facts ride along: whoever handles it notes them once, and every line written meanwhile has them.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from adapters.settings import LogSettings
from adapters.traces import trace_id_of_job

_PLAIN = "%(asctime)s %(levelname)s {}%(name)s: %(message)s"
_JOB = re.compile(r"\bftjob-\w+")
_facts: ContextVar[dict[str, str | int | float] | None] = ContextVar("facts", default=None)


def configure(settings: LogSettings, *, who: str = "", traced: bool = False) -> None:
    """Log to standard error from here on, as the settings say. Once, by the process's `__main__`.

    `who` tells this process from others like it; `traced` says that jobs have traces.
    """
    handler = logging.StreamHandler()
    json_wanted = settings.format == "json"
    plain = logging.Formatter(_PLAIN.format(who))
    handler.setFormatter(JsonFormatter(who, traced=traced) if json_wanted else plain)
    logging.basicConfig(handlers=[handler], level=logging.INFO)


@contextmanager
def about(**facts: str | float) -> Iterator[None]:
    """What is logged inside the context is about this, and what `note` adds to it."""
    token = _facts.set(dict(facts))
    try:
        yield
    finally:
        _facts.reset(token)


def note(**facts: str | float) -> None:
    """Add to what the innermost `about` says; nothing where there is none."""
    known = _facts.get()
    if known is not None:
        known.update(facts)


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, `exception` if any, and the facts.

    A line that names a job has its id as `job_id`, so that a job's lines are found in the trainer's log too, which is
    about many at a time; and its `trace_id` where jobs are `traced`, unless the line is about a request with one of its
    own.
    """

    def __init__(self, who: str = "", *, traced: bool = False) -> None:
        super().__init__()
        self._who = who.strip()
        self._traced = traced

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        told: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if (named := _JOB.search(message)) is not None:
            told["job_id"] = named[0]
            if self._traced:
                told["trace_id"] = trace_id_of_job(named[0])
        if self._who:
            told["process"] = self._who
        told |= _facts.get() or {}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)
