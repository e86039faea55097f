"""`python -m trainer.warm BASE_ID --fd N [--device D]` trains; `… --prepare [BASE_ID]` only prepares.

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
from trainer.warm.heap import keep_freed_memory
from trainer.warm.limits import limits_for
from trainer.warm.mailbox import Mailbox, WorkerGone
from trainer.warm.model import UnsupportedBaseModel, load
from trainer.warm.precision import choose_dtype
from trainer.warm.process import WarmProcess
from trainer.warm.threads import threads_for

log = logging.getLogger("trainer.warm")

#: Below the engine's: whoever waits for an answer comes first.
NICENESS = 10
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
        _run(ledger, settings, parsed)
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
    parser.add_argument("--device", default="auto", help="cpu, cuda:0 …; a GPU if there is one")
    parser.add_argument("--prepare", action="store_true", help="prepare base models, then exit")
    parsed = parser.parse_args(arguments)
    if not parsed.prepare and (parsed.base_id is None or parsed.fd is None):
        parser.error("give BASE_ID and --fd, or --prepare")
    return parsed


def _run(ledger: LedgerSettings, settings: TrainerSettings, parsed: argparse.Namespace) -> None:
    device, model_id = _device(parsed.device), parsed.base_id
    if device.type == "cpu":
        os.nice(NICENESS)
        keep_freed_memory()
    with socket.socket(fileno=parsed.fd) as connection:
        prepare(ledger, model_id)
        dtype = choose_dtype(device, settings.dtype)
        base = load(ledger.base_model_dir(model_id), device, dtype, settings.quantization)
        limits = limits_for(device, settings.checkpoint_seconds, settings.token_budget)
        WarmProcess(
            base, Mailbox(connection), limits, threads_for(settings.threads, torch.set_num_threads)
        ).run()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _die_with_worker() -> None:
    """Have the kernel kill us when the worker dies, however busy we are. Linux only; elsewhere the socket tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
