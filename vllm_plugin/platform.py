"""vLLM's platform for CPUs, with our products for adapters."""

from vllm.platforms.cpu import CpuPlatform


class GraftCpuPlatform(CpuPlatform):
    """Everything is vLLM's own but one name."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "vllm_plugin.punica.GroupedPunica"
