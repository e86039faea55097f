"""The entry point `vllm.platform_plugins`."""

from vllm.platforms import cpu_platform_plugin

_THEIRS, _OURS = "vllm.platforms.cpu.CpuPlatform", "vllm_plugin.platform.GraftCpuPlatform"


def platform() -> str | None:
    """The name of our platform where vLLM would take its own for CPUs, None where it would take another one.

    vLLM asks every plugin, in each of its processes. On AMD processors with zentorch it has a platform of its own
    again (vllm/platforms/zen_cpu.py), which is left to it.
    """
    return _OURS if cpu_platform_plugin() == _THEIRS else None
