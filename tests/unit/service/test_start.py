import json
from pathlib import Path

import pytest

from adapters.errors import InvalidValue
from adapters.settings import TelemetrySettings
from service.engine.client import UNUSED_CONNECTION_S
from service.engine.start import Launch, plan_launch
from service.settings import EngineSettings
from tests.support.samples import card


def launch(
    *, gpu: bool = False, telemetry: TelemetrySettings | None = None, **settings: object
) -> tuple[list[str], dict[str, str]]:
    launch = plan(gpu=gpu, telemetry=telemetry, **settings)
    return list(launch.command), dict(launch.environment)


def path(*, gpu: bool) -> tuple[str, ...]:
    return plan(gpu=gpu, telemetry=None).path


def plan(*, gpu: bool, telemetry: TelemetrySettings | None, **settings: object) -> Launch:
    return plan_launch(
        EngineSettings(**settings),
        card(),
        Path("/models/m"),
        Path("/run/m.sock"),
        gpu=gpu,
        computing=Path("/run/computing/here"),
        telemetry=telemetry,
    )


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_engine_listens_on_a_socket_that_only_this_machine_reaches() -> None:
    command, environment = launch()
    assert value(command, "--uds") == "/run/m.sock"
    assert not {"--host", "--port"} & set(command)
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_vllm_adds_no_sampling_defaults_of_its_own() -> None:
    assert value(launch()[0], "--generation-config") == "vllm"


def test_on_a_cpu_it_computes_in_float32_and_needs_no_compiler() -> None:
    command, environment = launch()
    assert value(command, "--dtype") == "float32"
    assert "--enforce-eager" in command
    assert environment["TORCH_COMPILE_DISABLE"] == "1"


def test_who_has_a_compiler_on_a_cpu_may_have_it_used() -> None:
    command, environment = launch(extra_args=("--no-enforce-eager",))
    assert command.index("--no-enforce-eager") > command.index("--enforce-eager")
    assert "TORCH_COMPILE_DISABLE" not in environment


def test_on_a_cpu_one_process_computes_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.start.cores", lambda: 6)
    monkeypatch.setattr("service.engine.start.memory_is_one", lambda: True)
    _, environment = launch()
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["OMP_NUM_THREADS"] == "6"


@pytest.mark.parametrize(("threads", "beside"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_beside_others_an_engine_takes_what_training_leaves(threads: int, beside: int) -> None:
    told = json.loads(value(launch(threads=threads)[0], "--additional-config"))["graft"]
    assert told == {
        "name": "m",
        "computing": "/run/computing/here",
        "threads": threads,
        "threads_beside_others": beside,
    }


def test_where_memory_is_divided_vllm_binds_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.start.memory_is_one", lambda: False)
    command, environment = launch()
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"} & set(environment)
    assert "--additional-config" not in command
    assert launch(threads=3)[1]["OMP_NUM_THREADS"] == "3"


def test_on_a_gpu_threads_are_vllms() -> None:
    _, environment = launch(gpu=True, threads=3)
    assert not {"VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"} & set(environment)


def test_on_a_gpu_the_model_decides() -> None:
    command, environment = launch(gpu=True)
    assert value(command, "--dtype") == "auto"
    assert "--enforce-eager" not in command
    assert not {"VLLM_CPU_KVCACHE_SPACE", "TORCH_COMPILE_DISABLE"} & set(environment)


def test_no_longer_context_is_asked_for_than_the_model_has() -> None:
    assert value(launch(max_model_len=999_999)[0], "--max-model-len") == "2048"


def test_only_what_adapters_here_may_change_is_made_ready_for_them() -> None:
    command, _ = launch()
    at = command.index("--lora-target-modules") + 1
    assert tuple(command[at : at + len(card().linear_modules)]) == card().linear_modules
    assert "lm_head" not in command


def test_no_adapter_is_given_at_the_start_where_one_bad_one_stops_all() -> None:
    assert "--lora-modules" not in launch(gpu=True)[0]


def test_on_a_cpu_the_base_models_id_means_an_adapter_of_zeros_with_a_place_of_its_own() -> None:
    command, _ = launch(max_loras=4, max_cpu_loras=32)
    bare = value(command, "--served-model-name")
    zeros = {"name": card().id, "path": "/run/m.zeros", "base_model_name": bare}
    assert bare != card().id
    assert json.loads(value(command, "--lora-modules")) == zeros
    assert (value(command, "--max-loras"), value(command, "--max-cpu-loras")) == ("5", "33")


def test_on_a_gpu_the_base_model_is_itself() -> None:
    command, _ = launch(gpu=True, max_loras=4, max_cpu_loras=32)
    assert value(command, "--served-model-name") == card().id
    assert (value(command, "--max-loras"), value(command, "--max-cpu-loras")) == ("4", "32")


def test_on_a_cpu_and_only_there_vllm_finds_our_plugin_and_nothing_else_beside_it() -> None:
    (found,) = path(gpu=False)
    names = {str(one.relative_to(found)) for one in Path(found).rglob("*") if one.is_file()}
    folder = "graft_vllm_plugin-1.dist-info"
    assert names == {f"{folder}/METADATA", f"{folder}/entry_points.txt"}
    assert path(gpu=True) == ()


def test_the_plugin_comes_before_what_the_path_of_python_was_and_all_else_is_handed_on() -> None:
    before = {"PYTHONPATH": "/srv/graft", "HOME": "/data"}
    launch = plan(gpu=False, telemetry=None)
    after = launch.environment_over(before)
    assert after["PYTHONPATH"].split(":") == [*launch.path, "/srv/graft"]
    assert after == {**before, **launch.environment, "PYTHONPATH": after["PYTHONPATH"]}
    assert plan(gpu=True, telemetry=None).environment_over({})["PYTHONPATH"] == ""


def test_what_the_operator_adds_comes_last_and_so_wins() -> None:
    command, _ = launch(extra_args=("--seed", "7"))
    assert command[-2:] == ["--seed", "7"]


@pytest.mark.parametrize("flag", ["--lora-modules", "--dtype=bfloat16", "--max_loras", "--uds"])
def test_what_the_service_must_know_as_well_is_no_argument_of_vllms_alone(flag: str) -> None:
    with pytest.raises(InvalidValue, match="extra_args"):
        launch(extra_args=("--seed", "7", flag))


def test_the_engine_looks_at_no_hub() -> None:
    _, environment = launch()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == environment["DO_NOT_TRACK"] == "1"


def test_the_engine_keeps_unused_connections_longer_than_who_asks_it() -> None:
    _, environment = launch()
    assert float(environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 2 * UNUSED_CONNECTION_S


def test_no_address_is_followed_to_another_and_no_expression_compiled_for_long() -> None:
    _, environment = launch()
    assert environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert 0 < int(environment["VLLM_REGEX_COMPILATION_TIMEOUT_S"]) <= 2


def test_the_engine_tells_the_collector_of_what_the_service_tells_of_and_begins_nothing() -> None:
    command, environment = launch(telemetry=TelemetrySettings(otlp_endpoint="http://c:4318"))
    assert value(command, "--otlp-traces-endpoint") == "http://c:4318/v1/traces"
    assert environment["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert environment["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    for without in (launch(), launch(telemetry=TelemetrySettings())):
        assert "--otlp-traces-endpoint" not in without[0]
        assert not [name for name in without[1] if name.startswith("OTEL")]
