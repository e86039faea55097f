"""Two ranks in two processes, with the tiny model in pieces, that run one function after the other."""

import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.integration.training.tiny import make_base
from trainer.warm.native.library import Kernels
from trainer.warm.ranks import Ranks

PATIENCE = 60.0


class Pair:
    """Two ranks, with the kernels that there are."""

    def __init__(self, model_dir: Path, meeting: Path, kernels: Kernels) -> None:
        # Forked: importing torch and transformers anew takes longer than all tests. Nothing has started threads yet.
        context = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            arguments = (rank, theirs, model_dir, meeting, kernels)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(base, *arguments)` returns on each rank."""
        for end in self._ends:
            end.send_bytes(pickle.dumps((function, arguments)))
        results = []
        for end in self._ends:
            assert end.poll(PATIENCE), "a rank hangs"
            results.append(pickle.loads(end.recv_bytes()))
        return results

    def close(self) -> None:
        for end in self._ends:
            end.send_bytes(b"")
        for process in self._processes:
            process.join(5)
            process.kill()


def _serve(rank: int, end: Connection, model_dir: Path, meeting: Path, kernels: Kernels) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(meeting), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    base = make_base(model_dir, torch.float64, Ranks(torch.device("cpu")), kernels)
    while order := end.recv_bytes():
        function, arguments = pickle.loads(order)
        end.send_bytes(pickle.dumps(function(base, *arguments)))
    dist.destroy_process_group()
