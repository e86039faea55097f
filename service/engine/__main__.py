"""`python -m service.engine MODEL`: wait until the base model is prepared, then become its vLLM server."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from adapters.cores import computing_dir
from adapters.durable import keep_private
from adapters.errors import GraftError
from adapters.layers import LinearLayers, read_layers
from adapters.manifest import BaseModelCard, read_base_card
from adapters.settings import LedgerSettings, TelemetrySettings
from service.engine.format import write_number_format
from service.engine.start import number_format, plan_launch, vllm_is_installed
from service.engine.zeros import write_zeros, zeros_dir
from service.settings import EngineSettings, ServiceSettings, has_nvidia_gpu

_POLL_S = 0.2


def main() -> None:
    """Parse the command line and do as it says."""
    keep_private()
    parser = argparse.ArgumentParser(prog="python -m service.engine", description=__doc__)
    parser.add_argument("model", nargs="?", help="id of the base model")
    parser.add_argument(
        "--describe", action="store_true", help="print what is configured, as JSON, and exit"
    )
    arguments = parser.parse_args()
    try:
        ledger = LedgerSettings()
        if arguments.describe:
            print(json.dumps(_describe(ledger, ServiceSettings())))
        else:
            _become_engine(arguments.model, ledger, EngineSettings())
    except GraftError as error:
        sys.exit(f"graft: {error}")


def _describe(ledger: LedgerSettings, service: ServiceSettings) -> dict[str, object]:
    """What the launcher wants to know, and this process tells fastest."""
    return {
        "home": str(ledger.home),
        "host": service.host,
        "port": service.port,
        "auth": service.auth,
        "base_models": ledger.base_model_ids,
    }


def _become_engine(model: str, ledger: LedgerSettings, settings: EngineSettings) -> None:
    if model not in ledger.base_model_ids:
        sys.exit(f"graft: no base model '{model}'; configured: {', '.join(ledger.base_model_ids)}")
    if not vllm_is_installed():
        sys.exit("graft: vLLM is not installed; run `make install`")
    # As the first process of a container it would not hear of SIGTERM otherwise. `exec` sets it back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory = ledger.base_model_dir(model)
    card, layers = _when_prepared(directory)
    socket = ledger.engine_socket(model)
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    gpu = has_nvidia_gpu()
    if not gpu:
        write_zeros(zeros_dir(socket), card, layers)
    write_number_format(socket, number_format(settings, gpu=gpu))
    launch = plan_launch(
        settings,
        card,
        directory,
        socket,
        gpu=gpu,
        computing=computing_dir(ledger.run_dir),
        telemetry=TelemetrySettings(),
    )
    environment = launch.environment_over(os.environ)  # noqa: TID251  handed on, not read
    environment.pop("GRAFT_DATABASE_URL", None)  # the engine has no business in the ledger
    os.execve(launch.command[0], launch.command, environment)  # noqa: S606  no shell wanted


def _when_prepared(directory: Path) -> tuple[BaseModelCard, LinearLayers]:
    """What is known of the base model, once the trainer has written it."""
    while (card := read_base_card(directory)) is None or (layers := read_layers(directory)) is None:
        time.sleep(_POLL_S)
    return card, layers


if __name__ == "__main__":
    main()
