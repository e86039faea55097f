"""vLLM's platform for CPUs: with our products for adapters, threads that make room for others, steps that gather."""

from typing import Any

from vllm.platforms.cpu import CpuPlatform

_THEIRS, _OURS = "vllm.v1.worker.cpu_worker.CPUWorker", "vllm_plugin.worker.GraftCpuWorker"
_SCHEDULER = "vllm_plugin.scheduler.GatheringScheduler"


class GraftCpuPlatform(CpuPlatform):
    """Everything is vLLM's own but three names."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm_plugin.punica.GroupedPunica"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        super().check_and_update_config(vllm_config)
        if vllm_config.scheduler_config.scheduler_cls is None:
            vllm_config.scheduler_config.scheduler_cls = _SCHEDULER
        parallel = vllm_config.parallel_config
        # In a process of its own, vLLM's worker has threads that are bound to cores.
        together = parallel.distributed_executor_backend == "uni"
        if together and parallel.worker_cls == _THEIRS and "graft" in vllm_config.additional_config:
            parallel.worker_cls = _OURS
