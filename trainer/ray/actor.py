"""What Ray keeps alive on a device: the workers that `python -m trainer` has too, and a way to have them stop.

Ray starts it again when it dies, on another node if need be, under the same name: so it takes back what it held, at
once. Where two of a name live for a while, since a node was only thought dead, the ledger's attempts keep them apart.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from adapters.durable import keep_private
from adapters.errors import InvalidValue
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings, TelemetrySettings
from adapters.traces import open_tracer
from trainer.child import TrainingProcess, WarmProcess
from trainer.ray.protocol import Order, State, mark_of
from trainer.settings import TrainerSettings
from trainer.shift import Shift, serve_metrics, short_name

log = logging.getLogger(__name__)

#: Trainers of one machine take the ports of their metrics one after the other.
_PORTS = 64
#: Ray starts what died at once, and for ever.
_BREATH_S = 2.0


class Trainer:
    """One for each device. It reads the configuration of the machine that it runs on.

    Args:
        order: who it is.
        leave: ends this process, and Ray does not start it again.

    Raises:
        InvalidValue: the configuration here is of another ledger, or no configuration.
        Unavailable: the ledger does not answer.
    """

    def __init__(self, order: Order, leave: Callable[[], None]) -> None:
        keep_private()
        telemetry = TelemetrySettings()
        configure(LogSettings(), who=order.name, traced=telemetry.on)
        self._tracer = open_tracer(telemetry, "graft-trainer")
        self._order, self._leave = order, leave
        self._heard_at = time.monotonic()
        self._shift = self._make_shift(_own_ledger(order), self._settings())
        self._shift.start()
        # A daemon, so that it keeps no process alive that is to end.
        threading.Thread(target=self._watch, daemon=True, name="watch").start()

    def report(self) -> str:
        """How it is, to somebody who wants it to be."""
        self._heard_at = time.monotonic()
        return State.DRAINED if self._shift.over else State.WORKING

    def drain(self) -> None:
        """Have its workers write checkpoints and give back their jobs. Returns at once."""
        self._shift.stop()

    def make_process(self, base_model: str, device: str) -> TrainingProcess:
        """What its workers supervise."""
        return WarmProcess(base_model, device)

    def _settings(self) -> TrainerSettings:
        # Ray has chosen the device and shows this process no other.
        devices = "auto" if self._order.gpu else ("cpu",)
        return TrainerSettings().model_copy(update={"devices": devices})

    def _make_shift(self, ledger: LedgerSettings, settings: TrainerSettings) -> Shift:
        def name(base_model: str, device: str) -> str:
            return short_name(f"ray:{self._order.name}:{base_model}:{device}")

        shift = Shift(
            ledger, settings, name=name, tracer=self._tracer, make_process=self.make_process
        )
        try:
            serve_metrics(shift.instruments.registry, settings, ports=_PORTS)
        except OSError as error:
            log.warning("nobody can ask for metrics here: %s", error)
        return shift

    def _watch(self) -> None:
        while not self._shift.failed:
            forsaken = time.monotonic() - self._heard_at > self._order.forsaken_seconds
            if forsaken:
                log.warning("nobody has spoken to this trainer for a while: it lets itself go")
                self._shift.stop()
                self._shift.join()
                self._tracer.close()
                self._leave()
                return
            time.sleep(min(1.0, self._order.forsaken_seconds / 4))
        time.sleep(_BREATH_S)
        os._exit(1)  # Ray takes it for a death, and starts it again


def _own_ledger(order: Order) -> LedgerSettings:
    ledger = LedgerSettings()
    if mark_of(ledger) != order.mark:
        raise InvalidValue(
            "The configuration of this node is of another ledger than the one that trainers are placed for: set "
            "GRAFT_HOME or GRAFT_CONFIG, and GRAFT_DATABASE_URL, where Ray is started. A SQLite file is one machine's."
        )
    return ledger
