"""`python -m trainer`: train the jobs of every base model until told to stop.

`python -m trainer prepare` only fetches and converts the base models, then exits.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.heap import share_arenas
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings, TelemetrySettings
from adapters.traces import open_tracer
from trainer.settings import TrainerSettings
from trainer.shift import Shift, only_one, serve_metrics, short_name


def main() -> None:
    """Parse the command line and do as it says."""
    keep_private()
    share_arenas()
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
    lock = only_one(ledger_settings.run_dir / "trainer.lock")

    def name(base_model: str, device: str) -> str:
        return worker_name(ledger_settings.home, base_model, device)

    tracer = open_tracer(telemetry, "graft-trainer")
    shift = Shift(ledger_settings, settings, name=name, tracer=tracer)
    serve_metrics(shift.instruments.registry, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: shift.stop())
    shift.start()
    shift.join()
    tracer.close()
    os.close(lock)


def worker_name(home: Path, base_model: str, device: str) -> str:
    """The same after a restart in this home, so that a worker can take back what it held; and nobody else's."""
    return short_name(f"{socket.gethostname()}:{home}:{base_model}:{device}")


if __name__ == "__main__":
    main()
