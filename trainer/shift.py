"""All workers of one process: made together, started together, and one that fails stops all."""

import fcntl
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings, QueueSettings
from adapters.traces import Tracer
from trainer.child import TrainingProcess, WarmProcess
from trainer.metrics import Instruments, Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.storage import keep_counting
from trainer.traces import JobTraces
from trainer.worker import Worker

log = logging.getLogger(__name__)

_LONGEST_NAME = 128
#: From a base model and a device: a worker's name in the ledger, or its training process.
Namer = Callable[[str, str], str]
ProcessMaker = Callable[[str, str], TrainingProcess]


class Shift:
    """One worker for each base model on each device, each in a thread of its own."""

    def __init__(
        self,
        ledger_settings: LedgerSettings,
        settings: TrainerSettings,
        *,
        name: Namer,
        tracer: Tracer,
        make_process: ProcessMaker = WarmProcess,
    ) -> None:
        self._failed = False
        self._stop = threading.Event()
        self._tracer = tracer
        self.instruments = Instruments()
        if ledger_settings.store is not None:
            self.instruments.store.expect()
        self._ledger = open_ledger(
            ledger_settings, queue=QueueSettings(), watch=self.instruments.store
        )
        workers = self._workers(ledger_settings, settings, name, make_process)
        self._threads = [
            threading.Thread(target=self._guarded, args=(worker,), name=str(index))
            for index, worker in enumerate(workers)
        ]
        counting = keep_counting(ledger_settings, self.instruments, self._stop)
        # A daemon: nobody waits for a count of bytes.
        self._counting = threading.Thread(target=counting, daemon=True, name="storage")

    def start(self) -> None:
        """Returns at once."""
        for thread in (self._counting, *self._threads):
            thread.start()

    def stop(self) -> None:
        """Have every worker write checkpoints, give its jobs back and end. Returns at once."""
        self._stop.set()

    def join(self) -> None:
        """Wait until every worker has ended."""
        for thread in self._threads:
            thread.join()
        self._ledger.close()

    @property
    def over(self) -> bool:
        """Whether every worker has ended."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def failed(self) -> bool:
        """Whether a worker ended that nobody had stopped."""
        return self._failed

    def _workers(
        self,
        ledger_settings: LedgerSettings,
        settings: TrainerSettings,
        name: Namer,
        make_process: ProcessMaker,
    ) -> list[Worker]:
        devices = settings.device_names
        log.info("training on %s", ", ".join(devices))
        placements = {base_model: Placement() for base_model in ledger_settings.base_model_ids}
        return [
            Worker(
                ledger=self._ledger,
                process=make_process(base_model, device),
                settings=settings,
                base_model=base_model,
                worker_id=name(base_model, device),
                work_dir=ledger_settings.work_dir,
                metrics=Metrics(self.instruments, base_model=base_model, device=device),
                placement=placement,
                traces=JobTraces(self._tracer),
            )
            for base_model, placement in placements.items()
            for device in devices
        ]

    def _guarded(self, worker: Worker) -> None:
        # A worker that dies alone would leave a trainer that looks alive and trains nothing: all stop, visibly.
        try:
            worker.run(self._stop.is_set)
        finally:
            self._failed = self._failed or not self._stop.is_set()
            self._stop.set()


def serve_metrics(
    registry: CollectorRegistry, settings: TrainerSettings, *, ports: int = 1
) -> None:
    """Let Prometheus ask on `metrics_port`, or on the first that is free of so many from there on. 0 means nowhere.

    Raises:
        OSError: none of them is free.
    """
    if not settings.metrics_port:
        return
    for port in range(settings.metrics_port, settings.metrics_port + ports):
        try:
            start_http_server(port, settings.metrics_host, registry=registry)
        except OSError:
            if port + 1 == settings.metrics_port + ports:
                raise
        else:
            return


def only_one(path: Path) -> int:
    """The descriptor of a lock that is held until this process ends. Ends it now where another holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"graft: another trainer works in this home already ({path} is locked).")
    return descriptor


def short_name(name: str) -> str:
    """A worker's name as the ledger has room for it: at most 128 characters, and different names stay different."""
    if len(name) <= _LONGEST_NAME:
        return name
    return name[:64] + hashlib.sha256(name.encode()).hexdigest()
