"""`python -m trainer.ray`: have Ray keep a trainer on every device of a cluster until told to stop."""

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.ledger import Ledger, open_ledger
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings, QueueSettings
from trainer.metrics.placed import Placed
from trainer.ray.cluster import RayCluster, connect, disconnect
from trainer.ray.driver import Driver
from trainer.ray.protocol import mark_of
from trainer.ray.size import Size
from trainer.settings import TrainerSettings, prepare_for_ray
from trainer.shift import only_one, serve_metrics

log = logging.getLogger(__name__)

_LOOK_S = 2.0


def main() -> None:
    """Do it."""
    keep_private()
    try:
        configure(LogSettings())
        ledger_settings = LedgerSettings()
        lock = only_one(ledger_settings.run_dir / "trainer.lock")
        # Paths of sockets must be short, so this cannot be in the home.
        folder = Path(tempfile.mkdtemp(prefix="graft-ray-"))
        try:
            _run(ledger_settings, TrainerSettings(), folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
    except GraftError as error:
        sys.exit(f"graft: {error}")


def _run(ledger_settings: LedgerSettings, settings: TrainerSettings, folder: Path) -> None:
    token = None if settings.ray.address else folder / "token"
    if token is not None:
        token.write_text(secrets.token_hex(32))
    prepare_for_ray(token)
    mark = mark_of(ledger_settings)
    ledger = open_ledger(ledger_settings, queue=QueueSettings())
    connect(settings.ray, namespace=settings.ray.namespace or f"graft-{mark}", folder=folder)
    try:
        cluster = RayCluster(settings.ray, ranks=settings.ranks, mark=mark)
        driver = Driver(
            cluster,
            Size(settings.ray),
            jobs=lambda: open_jobs(ledger),
            drain_seconds=settings.ray.drain_seconds,
        )
        _drive(driver, settings)
    finally:
        disconnect()
        ledger.close()


def _drive(driver: Driver, settings: TrainerSettings) -> None:
    placed = Placed()
    serve_metrics(placed.registry, settings)
    stop = threading.Event()
    # Only now: Ray has set its own when it was connected.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        told = driver.turn()
        placed.tell(told.wanted, list(told.states.values()))
        stop.wait(_LOOK_S)
    driver.drain_all()


def open_jobs(ledger: Ledger) -> int:
    """Those that wait or run, of every base model: each trainer takes any."""
    counted = ledger.jobs.count()
    return counted.get("queued", 0) + counted.get("running", 0)


if __name__ == "__main__":
    main()
