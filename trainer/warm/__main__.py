"""`python -m trainer.warm BASE_ID --fd N [--device D]` trains; `… --prepare [BASE_ID]` only prepares.

N is a socket inherited from the worker. Standard output and error are logs. `--follow` is for further ranks, which the
process starts by itself (launch.py).
"""

import argparse
import logging
import os
import socket
import sys
from contextlib import ExitStack

import torch
from transformers.utils.logging import disable_progress_bar

from adapters.cores import computing_dir, cores
from adapters.errors import GraftError
from adapters.heap import keep_freed_memory
from adapters.logs import configure
from adapters.settings import LedgerSettings, LogSettings
from trainer.settings import TrainerSettings
from trainer.warm.adopt import load
from trainer.warm.base import prepare
from trainer.warm.launch import Place, die_with_parent, follow, lead
from trainer.warm.limits import limits_for
from trainer.warm.mailbox import Following, Mailbox, WorkerGone
from trainer.warm.native.library import Kernels, find_kernels
from trainer.warm.precision import choose_dtype
from trainer.warm.presence import Presence
from trainer.warm.process import WarmProcess
from trainer.warm.threads import threads_for
from trainer.warm.unsupported import UnsupportedBaseModel

log = logging.getLogger("trainer.warm")

#: Below the engine's: whoever waits for an answer comes first.
NICENESS = 10


def main(arguments: list[str]) -> int:
    """The exit status."""
    parsed = _parse(arguments)
    configure(LogSettings(), who=_whose(parsed.follow))
    disable_progress_bar()
    ledger, settings = LedgerSettings(), TrainerSettings()
    try:
        if parsed.prepare:
            for model_id in [parsed.base_id] if parsed.base_id else ledger.base_model_ids:
                print(prepare(ledger, model_id))
            return 0
        die_with_parent()
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
    parser.add_argument("--follow", type=Place.parse, help="where a further rank belongs")
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda:0 …; a GPU if there is one. One a rank, with commas",
    )
    parser.add_argument("--prepare", action="store_true", help="prepare base models, then exit")
    parsed = parser.parse_args(arguments)
    complete = parsed.base_id is not None and (parsed.fd is not None or parsed.follow is not None)
    if not parsed.prepare and not complete:
        parser.error("give BASE_ID and --fd, or --prepare")
    return parsed


def _whose(place: Place | None) -> str:
    return "" if place is None else f"rank {place.rank} "


def _run(ledger: LedgerSettings, settings: TrainerSettings, parsed: argparse.Namespace) -> None:
    place: Place | None = parsed.follow
    names: list[str] = parsed.device.split(",")
    device = _device(names[0])
    if device.type == "cpu":
        keep_freed_memory()
    with ExitStack() as stack:
        mailbox: Mailbox | Following
        if place is None:
            if device.type == "cpu":
                os.nice(NICENESS)  # the other ranks inherit it
            mailbox = Mailbox(stack.enter_context(socket.socket(fileno=parsed.fd)))
            prepare(ledger, parsed.base_id)
            crew = stack.enter_context(lead(names, parsed.base_id, device))
        else:
            mailbox = Following()
            crew = stack.enter_context(follow(place, device))
        dtype = choose_dtype(device, settings.dtype)
        directory = ledger.base_model_dir(parsed.base_id)
        kernels = find_kernels(ledger.compiled_dir) if device.type == "cpu" else Kernels()
        base = load(directory, device, dtype, settings.quantization, crew, kernels)
        limits = limits_for(
            device,
            settings.checkpoint_seconds,
            settings.token_budget,
            settings.checkpoint_export_seconds,
        )
        threads = threads_for(_threads(settings, crew.size), torch.set_num_threads)
        lock = computing_dir(ledger.run_dir) / f"{directory.name}.trainer"
        presence = Presence(lock if device.type == "cpu" else None)
        WarmProcess(base, mailbox, limits, threads, presence).run()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _threads(settings: TrainerSettings, ranks: int) -> int:
    """Of this rank. Several ranks divide the cores once and for all: each would take the others for strangers."""
    if settings.threads or ranks == 1:
        return settings.threads
    return max(1, cores() // ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
