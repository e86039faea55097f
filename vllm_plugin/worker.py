"""vLLM's worker for CPUs, which computes with the threads that there are cores for."""

from pathlib import Path
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from vllm_plugin.threads import Threads

#: vLLM's worker puts something in its place that only warns, since it may have bound threads to cores.
_use_threads = torch.set_num_threads


class GraftCpuWorker(CPUWorker):
    """Facts of release 0.32: `vllm/v1/worker/cpu_worker.py`. `service/engine/start.py` says the `additional_config`."""

    def init_device(self) -> None:
        super().init_device()
        told = self.vllm_config.additional_config["graft"]
        self._threads = Threads(
            Path(told["computing"]),
            told["name"],
            most=told["threads"],
            few=told["threads_beside_others"],
            use=_use_threads,
        )
        self._threads.choose()  # for what is computed at the start

    def execute_model(self, *args: Any, **options: Any) -> Any:
        """One step of the engine, without choosing tokens."""
        with self._threads.computing():
            return super().execute_model(*args, **options)
