"""`python -m trainer`: train the jobs of every base model until told to stop.

`python -m trainer prepare` only fetches and converts the base models, then exits.
"""

import argparse
import fcntl
import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from prometheus_client import start_http_server

from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.ledger import Ledger, open_ledger
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings, QueueSettings, TelemetrySettings
from adapters.traces import Tracer, open_tracer
from trainer.child import WarmProcess
from trainer.metrics import Instruments, Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.storage import keep_counting
from trainer.traces import JobTraces
from trainer.worker import Worker

log = logging.getLogger(__name__)

_LONGEST_NAME = 128


def main() -> None:
    """Parse the command line and do as it says."""
    keep_private()
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("action", nargs="?", choices=["run", "prepare"], default="run")
    action = parser.parse_args().action
    try:
        telemetry = TelemetrySettings()
        configure(LogSettings(), traced=telemetry.on)
        if action == "prepare":
            command = [sys.executable, "-m", "trainer.warm", "--prepare"]
            sys.exit(subprocess.call(command))  # noqa: S603  our own module
        _run(LedgerSettings(), TrainerSettings(), telemetry)
    except GraftError as error:
        sys.exit(f"graft: {error}")


def _run(
    ledger_settings: LedgerSettings, settings: TrainerSettings, telemetry: TelemetrySettings
) -> None:
    ledger_settings.run_dir.mkdir(parents=True, exist_ok=True)
    lock = _only_one(ledger_settings.run_dir / "trainer.lock")
    instruments, tracer = Instruments(), open_tracer(telemetry, "graft-trainer")
    if ledger_settings.store is not None:
        instruments.store.expect()
    ledger = open_ledger(ledger_settings, queue=QueueSettings(), watch=instruments.store)
    if settings.metrics_port:
        start_http_server(
            settings.metrics_port, settings.metrics_host, registry=instruments.registry
        )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    workers = _workers(ledger, ledger_settings, settings, instruments, tracer)
    threads = [
        threading.Thread(target=_guarded, args=(worker, stop), name=str(index))
        for index, worker in enumerate(workers)
    ]
    # A daemon: nobody waits for a count of bytes.
    counting = keep_counting(ledger_settings, instruments, stop)
    threading.Thread(target=counting, daemon=True, name="storage").start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracer.close()
    ledger.close()
    os.close(lock)


def _workers(
    ledger: Ledger,
    ledger_settings: LedgerSettings,
    settings: TrainerSettings,
    instruments: Instruments,
    tracer: Tracer,
) -> list[Worker]:
    """One for each base model on each device."""
    devices = settings.device_names
    log.info("training on %s", ", ".join(devices))
    placements = {base_model: Placement() for base_model in ledger_settings.base_model_ids}
    return [
        Worker(
            ledger=ledger,
            process=WarmProcess(base_model, device),
            settings=settings,
            base_model=base_model,
            worker_id=worker_name(ledger_settings.home, base_model, device),
            work_dir=ledger_settings.work_dir,
            metrics=Metrics(instruments, base_model=base_model, device=device),
            placement=placement,
            traces=JobTraces(tracer),
        )
        for base_model, placement in placements.items()
        for device in devices
    ]


def worker_name(home: Path, base_model: str, device: str) -> str:
    """The same after a restart in this home, so that a worker can take back what it held; and nobody else's.

    At most 128 characters, as the ledger has room for.
    """
    name = f"{socket.gethostname()}:{home}:{base_model}:{device}"
    if len(name) <= _LONGEST_NAME:
        return name
    return name[:64] + hashlib.sha256(name.encode()).hexdigest()


def _guarded(worker: Worker, stop: threading.Event) -> None:
    # A worker that dies alone would leave a trainer that looks alive and trains nothing: all stop, visibly.
    try:
        worker.run(stop.is_set)
    finally:
        stop.set()


def _only_one(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"graft: another trainer works in this home already ({path} is locked).")
    return descriptor


if __name__ == "__main__":
    main()
