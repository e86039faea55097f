"""`python -m trainer.warm BASE_ID --fd N` trains; `python -m trainer.warm --prepare [BASE_ID]` only prepares.

N is a socket inherited from the worker. Standard output and error are logs.
"""

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys

import torch
from transformers.utils.logging import disable_progress_bar

from adapters.errors import GraftError
from adapters.settings import LedgerSettings
from trainer.settings import TrainerSettings
from trainer.warm.base import prepare
from trainer.warm.loop import Limits
from trainer.warm.mailbox import Mailbox, WorkerGone
from trainer.warm.memory import meter_for
from trainer.warm.model import UnsupportedBaseModel, load
from trainer.warm.precision import choose_dtype
from trainer.warm.process import WarmProcess
from trainer.warm.threads import threads_for

log = logging.getLogger("trainer.warm")

#: Below the engine's: whoever waits for an answer comes first.
NICENESS = 10
#: Beyond these, larger micro-batches were not faster.
TOKEN_BUDGET = {"cpu": 1024, "cuda": 32768}
#: From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """The exit status."""
    parsed = _parse(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    disable_progress_bar()
    ledger, settings = LedgerSettings(), TrainerSettings()
    try:
        if parsed.prepare:
            for model_id in [parsed.base_id] if parsed.base_id else ledger.base_model_ids:
                print(prepare(ledger, model_id))
            return 0
        _die_with_worker()
        _run(ledger, settings, parsed.base_id, parsed.fd)
    except WorkerGone as gone:
        log.warning("stopping: %s", gone)
        return 1
    except (GraftError, UnsupportedBaseModel) as error:
        log.error("%s", error)  # noqa: TRY400  the message says it all
        return 2
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.warm", description=__doc__)
    parser.add_argument("base_id", nargs="?", help="id of a configured base model")
    parser.add_argument("--fd", type=int, help="inherited socket to the worker")
    parser.add_argument("--prepare", action="store_true", help="prepare base models, then exit")
    parsed = parser.parse_args(arguments)
    if not parsed.prepare and (parsed.base_id is None or parsed.fd is None):
        parser.error("give BASE_ID and --fd, or --prepare")
    return parsed


def _run(ledger: LedgerSettings, settings: TrainerSettings, model_id: str, descriptor: int) -> None:
    device = _device(settings)
    if device.type == "cpu":
        os.nice(NICENESS)
    with socket.socket(fileno=descriptor) as connection:
        prepare(ledger, model_id)
        dtype = choose_dtype(device, settings.dtype)
        base = load(ledger.base_model_dir(model_id), device, dtype, settings.quantization)
        budget = settings.token_budget or TOKEN_BUDGET[device.type]
        limits = Limits(budget, settings.checkpoint_seconds, meter_for(device))
        WarmProcess(base, Mailbox(connection), limits, threads_for(settings.threads)).run()


def _device(settings: TrainerSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


def _die_with_worker() -> None:
    """Have the kernel kill us when the worker dies, however busy we are. Linux only; elsewhere the socket tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
