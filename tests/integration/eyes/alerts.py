"""What makes each alert fire, and what looks much like it and does not. A sample a minute, in promtool's notation."""

from dataclasses import dataclass

B = 'base_model="m"'


@dataclass(frozen=True)
class Case:
    """Series that make an alert fire at `at`, and series that leave it quiet then. `notation` by series."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "30m"


def _rate(per_minute: float, minutes: int = 60) -> str:
    return f"0+{per_minute}x{minutes}"


def _completions(ok: float, bad: float, minutes: int) -> dict[str, str]:
    name = f'graft_completions_total{{{B},kind="adapter",outcome='
    return {
        name + '"ok"}': _rate(ok, minutes),
        name + '"engine_error"}': _rate(bad, minutes),
        # Clients' own mistakes count neither way.
        name + '"client_error"}': _rate(50, minutes),
    }


def _buckets(name: str, within: float, beyond: float, bound: str) -> dict[str, str]:
    """A histogram of which so many a minute are within the bound, and so many more are not."""
    return {
        f'{name}_bucket{{{B},le="{bound}"}}': _rate(within),
        f'{name}_bucket{{{B},le="120.0"}}': _rate(within + beyond),
        f'{name}_bucket{{{B},le="+Inf"}}': _rate(within + beyond),
    }


CASES = {
    "GraftTargetDown": Case(
        fires={"up": "0x60"}, quiet={'graft_build_info{component="service"}': "1x60"}
    ),
    "GraftEngineDown": Case(
        fires={f"graft_engine_up{{{B}}}": "1x20 0x40"},
        # One replica of two still has it.
        quiet={
            f'graft_engine_up{{{B},pod="a"}}': "0x60",
            f'graft_engine_up{{{B},pod="b"}}': "1x60",
        },
    ),
    "GraftEngineStale": Case(
        fires={f"graft_engine_last_answer_timestamp_seconds{{{B}}}": "0x60"},
        quiet={f"graft_engine_last_answer_timestamp_seconds{{{B}}}": "0+60x60"},
    ),
    "GraftEngineCanaryStale": Case(
        fires={
            f"graft_engine_last_token_timestamp_seconds{{{B}}}": "0+60x10 600x50",
            f"graft_engine_up{{{B}}}": "1x60",
        },
        # One that is down is another alert's; and one replica may have nobody who asks.
        quiet={
            f'graft_engine_last_token_timestamp_seconds{{{B},pod="a"}}': "0x60",
            f'graft_engine_last_token_timestamp_seconds{{{B},pod="b"}}': "0+60x60",
            f'graft_engine_up{{{B},pod="a"}}': "1x60",
            'graft_engine_last_token_timestamp_seconds{base_model="n"}': "0x60",
            'graft_engine_up{base_model="n"}': "0x60",
        },
    ),
    "GraftEngineSilent": Case(
        fires={
            f"vllm:num_requests_running{{{B}}}": "3x60",
            f"vllm:generation_tokens_total{{{B}}}": "0+9x15 135x45",
        },
        quiet={
            f"vllm:num_requests_running{{{B}}}": "3x60",
            f"vllm:generation_tokens_total{{{B}}}": "0+9x60",
        },
    ),
    "GraftEngineCrashLoop": Case(
        fires={f"graft_engine_restarts_total{{{B}}}": "0x5 1x5 2x5 3x5 4x40"},
        quiet={f"graft_engine_restarts_total{{{B}}}": "0x10 1x50"},
    ),
    "GraftAvailabilityBurnFast": Case(
        fires=_completions(98, 2, 60), quiet=_completions(9995, 5, 60)
    ),
    "GraftAvailabilityBurnSlow": Case(
        fires=_completions(997, 3, 120), quiet=_completions(99_950, 50, 120), at="110m"
    ),
    "GraftFirstTokenSlow": Case(
        fires=_buckets("graft_time_to_first_token_seconds", 80, 20, "1.0"),
        quiet=_buckets("graft_time_to_first_token_seconds", 99, 1, "1.0"),
    ),
    "GraftRequestBacklog": Case(
        fires={f"graft_requests_waiting{{{B}}}": "40x60"},
        # A wave that is worked off between two looks.
        quiet={f"graft_requests_waiting{{{B}}}": "900 0 900 0 900 0 900 0 900 0 900 0x40"},
        at="11m",
    ),
    "GraftKVCacheSaturated": Case(
        fires={
            f"vllm:kv_cache_usage_perc{{{B}}}": "0.99x60",
            f"vllm:num_preemptions_total{{{B}}}": "0+1x60",
        },
        quiet={
            f"vllm:kv_cache_usage_perc{{{B}}}": "0.99x60",
            f"vllm:num_preemptions_total{{{B}}}": "7x60",
        },
    ),
    "GraftDatabaseDown": Case(
        fires={"graft_db_up": "1x20 0x40"}, quiet={"graft_db_up": "1x20 0 1x40"}
    ),
    "GraftObjectStoreErrors": Case(
        fires={
            'graft_object_store_requests_total{operation="get",outcome="error"}': _rate(5),
            'graft_object_store_requests_total{operation="get",outcome="ok"}': _rate(20),
        },
        # One in twenty; and a handful of requests of which half fail, once.
        quiet={
            'graft_object_store_requests_total{job="a",operation="get",outcome="error"}': _rate(5),
            'graft_object_store_requests_total{job="a",operation="get",outcome="ok"}': _rate(95),
            'graft_object_store_requests_total{job="b",operation="put",outcome="error"}': "0x28 2x30",
            'graft_object_store_requests_total{job="b",operation="put",outcome="ok"}': "0x28 2x30",
        },
    ),
    "GraftWebhooksFailing": Case(
        fires={
            'graft_webhook_deliveries_total{outcome="failed"}': _rate(6, 120),
            'graft_webhook_deliveries_total{outcome="ok"}': _rate(1, 120),
        },
        quiet={
            'graft_webhook_deliveries_total{outcome="failed"}': _rate(1, 120),
            'graft_webhook_deliveries_total{outcome="ok"}': _rate(6, 120),
        },
        at="100m",
    ),
    "GraftCardinalityHigh": Case(
        fires={'scrape_samples_scraped{job="graft"}': "20000x60"},
        quiet={
            'scrape_samples_scraped{job="graft"}': "1500x60",
            'scrape_samples_scraped{job="node"}': "20000x60",
        },
    ),
    "GraftAdapterLoadFailing": Case(
        fires={f"graft_adapter_load_failures_total{{{B}}}": "0x18 1x42"},
        quiet={f"graft_adapter_load_failures_total{{{B}}}": "4x60"},
    ),
    "GraftAdapterThrash": Case(
        fires={
            f"graft_adapter_evictions_total{{{B}}}": _rate(50),
            f'graft_completions_total{{{B},kind="adapter",outcome="ok"}}': _rate(100),
        },
        quiet={
            f"graft_adapter_evictions_total{{{B}}}": _rate(10),
            f'graft_completions_total{{{B},kind="adapter",outcome="ok"}}': _rate(100),
        },
    ),
    "GraftAdapterActivationSlow": Case(
        fires=_buckets("graft_adapter_activation_seconds", 5, 5, "30.0"),
        quiet=_buckets("graft_adapter_activation_seconds", 10, 0, "30.0"),
    ),
    "GraftTrainerDown": Case(
        fires={
            f"graft_queue_jobs{{{B}}}": "2x60",
            f"graft_training_slots{{{B}}}": "0x60",
        },
        quiet={
            f"graft_queue_jobs{{{B}}}": "0x60",
            f"graft_training_slots{{{B}}}": "0x60",
        },
    ),
    "GraftTrainingQueueStuck": Case(
        fires={
            f"graft_queue_oldest_seconds{{{B}}}": "0+60x90",
            f'graft_job_attempts_total{{{B},reason="first"}}': "5x90",
        },
        # It has waited as long, behind others.
        quiet={
            f"graft_queue_oldest_seconds{{{B}}}": "0+60x90",
            f'graft_job_attempts_total{{{B},reason="first"}}': "0+1x90",
        },
        at="60m",
    ),
    "GraftWorkerHeartbeatLost": Case(
        fires={f'graft_worker_heartbeat_timestamp_seconds{{{B},device="cpu"}}': "0+60x20 1200x40"},
        quiet={f'graft_worker_heartbeat_timestamp_seconds{{{B},device="cpu"}}': "0+60x60"},
    ),
    "GraftTrainingProcessDying": Case(
        fires={f"graft_training_process_deaths_total{{{B}}}": "0x5 1x5 2x5 3x5 4x40"},
        quiet={f"graft_training_process_deaths_total{{{B}}}": "0x20 1x40"},
    ),
    "GraftJobsLost": Case(
        fires={f"graft_job_losses_total{{{B}}}": "0x5 3x5 6x50"},
        quiet={f"graft_job_losses_total{{{B}}}": "0x5 1x55"},
    ),
    "GraftJobFailuresSystem": Case(
        fires={f'graft_jobs_finished_total{{{B},outcome="failed_system"}}': "0x10 1x50"},
        quiet={f'graft_jobs_finished_total{{{B},outcome="failed_user"}}': "0+1x60"},
    ),
    "GraftTrainingNonFinite": Case(
        fires={f"graft_training_nonfinite_total{{{B}}}": "0x10 2x5 4x50"},
        quiet={f"graft_training_nonfinite_total{{{B}}}": "0x10 1x50"},
    ),
    "GraftTrainingStalled": Case(
        fires={
            f'graft_worker_jobs{{{B},device="cpu"}}': "2x90",
            f"graft_training_steps_total{{{B}}}": "0+9x20 180x70",
        },
        # Nothing is stepped where nothing is held.
        quiet={
            f'graft_worker_jobs{{{B},device="cpu"}}': "0x90",
            f"graft_training_steps_total{{{B}}}": "0+9x20 180x70",
        },
        at="60m",
    ),
    "GraftTrainingMemoryShort": Case(
        fires={f"graft_training_out_of_memory_total{{{B}}}": "0+1x60"},
        quiet={f"graft_training_out_of_memory_total{{{B}}}": "0x10 3x50"},
    ),
    "GraftCheckpointStale": Case(
        fires={'graft_training_checkpoint_timestamp_seconds{job_id="j"}': "0x60"},
        quiet={'graft_training_checkpoint_timestamp_seconds{job_id="j"}': "0+60x60"},
    ),
    "GraftStorageFillingUp": Case(
        fires={"graft_storage_free_bytes": "30000-200x60"},
        quiet={"graft_storage_free_bytes": "30000-20x60"},
        at="50m",
    ),
    "GraftStorageFull": Case(
        fires={"graft_storage_free_bytes": "3x60", "graft_storage_size_bytes": "100x60"},
        quiet={"graft_storage_free_bytes": "30x60", "graft_storage_size_bytes": "100x60"},
    ),
}
