"""What tests of one ledger that several have open do with it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from adapters.ledger import Ledger, Topic
from tests.support.samples import BASE, adapter_directory, manifest, new_job, render


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listening(ledger: Ledger, topic: Topic) -> threading.Event:
    """An event that news of the topic set. That the first one begins to listen is news as well, and was heard."""
    heard = threading.Event()
    ledger.changes.follow(topic, heard.set)
    until(lambda: ledger.changes.told)
    until(heard.is_set)
    heard.clear()
    return heard


def publish(ledger: Ledger, home: Path, adapter: str = "support-bot", **options: bool) -> str:
    """Put an adapter's next version into the ledger, as a trainer does; its name."""
    ledger.jobs.submit(new_job(adapter), render=render)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=9)
    assert job is not None
    source = adapter_directory(home / "made" / job.id, content=job.id.encode())
    return ledger.registry.publish(job, source, manifest(job), **({"promote": True} | options)).name
