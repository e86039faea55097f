"""Grafana's dashboards, from code: `python -m tools.dashboards` writes helm/graft/files/dashboards/*.json.

A dashboard as JSON is five hundred lines of places and defaults around twenty queries. Here are the queries, what they
mean, and their units; everything else is the same for all of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "helm/graft/files/dashboards"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: What every query is narrowed to. Adapters and jobs are not variables: there may be thousands.
_SCOPE = 'job=~"$job",namespace=~"$namespace"'
_MODEL = f'{_SCOPE},base_model=~"$base_model"'
_WIDE, _HIGH, _IN_A_ROW = 8, 8, 3


@dataclass(frozen=True)
class Panel:
    """A graph: queries by legend."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels, most urgent first."""

    uid: str
    title: str
    about: str
    rows: dict[str, list[Panel]]
    annotations: dict[str, str] = field(default_factory=dict)


def rate(name: str, by: str = "", labels: str = _MODEL) -> str:
    """Per second, summed over replicas."""
    return f"sum by ({by}) (rate({name}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, name: str, by: str = "base_model") -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, {rate(name + '_bucket', by + ', le')})"


def quantiles(name: str) -> dict[str, str]:
    """Median and tail, by base model."""
    return {
        "{{base_model}} median": quantile(0.5, name),
        "{{base_model}} 95 %": quantile(0.95, name),
    }


def top(count: int, expression: str) -> str:
    """Only the largest."""
    return f"topk({count}, {expression})"


def of(name: str, labels: str = _MODEL) -> str:
    """A gauge as it is."""
    return f"{name}{{{labels}}}"


_FAILED = _MODEL + ',outcome=~"engine_error|overloaded"'
_OURS = _MODEL + ',outcome=~"ok|engine_error|overloaded"'
_BASE = "{{base_model}}"

SERVING = Dashboard(
    uid="graft-serving",
    title="graft: serving",
    about="Requests to base models and adapters, and the engines that answer them.",
    annotations={
        "engine went away": 'changes(graft_engine_restarts_total{job=~"$job",namespace=~"$namespace"}[1m]) > 0',
        "another build": 'changes(process_start_time_seconds{job=~"$job",namespace=~"$namespace"}[2m]) > 0',
    },
    rows={
        "Requests, errors, duration": [
            Panel(
                "Completions",
                "Requests a second, by how they ended.",
                "reqps",
                {"{{outcome}}": rate("graft_completions_total", "outcome")},
            ),
            Panel(
                "Failed through no fault of the client",
                "Of all that were not the client's own mistakes; 0.1 % may.",
                "percentunit",
                {
                    _BASE: f"({rate('graft_completions_total', 'base_model', _FAILED)} or 0 * "
                    f"{rate('graft_completions_total', 'base_model', _OURS)}) / "
                    f"({rate('graft_completions_total', 'base_model', _OURS)} > 0)"
                },
            ),
            Panel(
                "Time to first token",
                "Of streams, from the request to the first event, waiting included.",
                "s",
                quantiles("graft_time_to_first_token_seconds"),
            ),
            Panel(
                "Whole requests",
                "Until the last byte. By kind, so that what adapters cost beside the base model shows.",
                "s",
                {
                    "{{base_model}} {{kind}} 95 %": quantile(
                        0.95, "graft_completion_duration_seconds", "base_model, kind"
                    )
                },
            ),
            Panel(
                "Tokens",
                "A second, of prompts and generated.",
                "short",
                {"{{base_model}} {{kind}}": rate("graft_tokens_total", "base_model, kind")},
            ),
            Panel(
                "Sent once more",
                "Requests a second that met an engine's death before their first byte.",
                "reqps",
                {_BASE: rate("graft_completion_retries_total", "base_model")},
            ),
        ],
        "Saturation": [
            Panel(
                "Waiting for a place",
                "In the fair queue in front of each engine.",
                "short",
                {_BASE: f"sum by (base_model) ({of('graft_requests_waiting')})"},
            ),
            Panel(
                "How long they wait",
                "Of the requests that got a place.",
                "s",
                quantiles("graft_queue_wait_seconds"),
            ),
            Panel(
                "In the engine",
                "As vLLM says: running, and waiting inside of it.",
                "short",
                {
                    "{{base_model}} running": f"sum by (base_model) ({of('vllm:num_requests_running')})",
                    "{{base_model}} waiting": f"sum by (base_model) ({of('vllm:num_requests_waiting')})",
                },
            ),
            Panel(
                "KV cache in use",
                "Full for long, with preemptions, means that work is done twice.",
                "percentunit",
                {_BASE: f"max by (base_model) ({of('vllm:kv_cache_usage_perc')})"},
            ),
            Panel(
                "Preemptions",
                "Requests a second that the engine threw out to make room.",
                "reqps",
                {_BASE: rate("vllm:num_preemptions_total", "base_model")},
            ),
            Panel(
                "Found in the prefix cache",
                "Of the prompt tokens that were looked up.",
                "percentunit",
                {
                    _BASE: f"{rate('vllm:prefix_cache_hits_total', 'base_model')} / "
                    f"({rate('vllm:prefix_cache_queries_total', 'base_model')} > 0)"
                },
            ),
        ],
        "Engines": [
            Panel(
                "Up",
                "1 while the engine answers; runbook GraftEngineDown.",
                "bool_on_off",
                {_BASE: f"min by (base_model) ({of('graft_engine_up')})"},
            ),
            Panel(
                "Went away",
                "Times in an hour.",
                "short",
                {_BASE: f"sum by (base_model) (increase({of('graft_engine_restarts_total')}[1h]))"},
            ),
            Panel(
                "Between two tokens",
                "As vLLM measures it.",
                "s",
                quantiles("vllm:inter_token_latency_seconds"),
            ),
            Panel(
                "Last token",
                "Seconds since a replica saw the engine generate, for somebody or as a canary; runbook GraftEngineCanaryStale.",
                "s",
                {
                    _BASE: f"time() - max by (base_model) ({of('graft_engine_last_token_timestamp_seconds')})"
                },
            ),
            Panel(
                "Last answer",
                "Seconds since the engine answered for its health.",
                "s",
                {
                    _BASE: f"time() - max by (base_model) ({of('graft_engine_last_answer_timestamp_seconds')})"
                },
            ),
        ],
        "HTTP": [
            Panel(
                "Requests by status",
                "All routes together.",
                "reqps",
                {"{{status}}": rate("graft_http_requests_total", "status", _SCOPE)},
            ),
            Panel(
                "Slowest routes",
                "95 % of requests are quicker; streams count until their last byte.",
                "s",
                {
                    "{{method}} {{route}}": top(
                        10,
                        "histogram_quantile(0.95, "
                        + rate(
                            "graft_http_request_duration_seconds_bucket",
                            "route, method, le",
                            _SCOPE,
                        )
                        + ")",
                    )
                },
            ),
            Panel(
                "Database",
                "1 while the ledger's database answers.",
                "bool_on_off",
                {"answers": f"min({of('graft_db_up', _SCOPE)})"},
            ),
        ],
        "Bucket": [
            Panel(
                "Requests to the bucket",
                "A second, of services and trainers, by what they ask; each further try counts.",
                "reqps",
                {"{{operation}}": rate("graft_object_store_requests_total", "operation", _SCOPE)},
            ),
            Panel(
                "Failed tries",
                "A second; runbook GraftObjectStoreErrors.",
                "reqps",
                {
                    "{{job}} {{operation}}": rate(
                        "graft_object_store_requests_total",
                        "job, operation",
                        _SCOPE + ',outcome="error"',
                    )
                },
            ),
            Panel(
                "How long the bucket takes",
                "95 % of the tries take less.",
                "s",
                {
                    "{{operation}} 95 %": "histogram_quantile(0.95, "
                    + rate(
                        "graft_object_store_request_duration_seconds_bucket",
                        "operation, le",
                        _SCOPE,
                    )
                    + ")"
                },
            ),
            Panel(
                "Bytes to and from the bucket",
                "A second: sent (put), brought (get).",
                "Bps",
                {"{{operation}}": rate("graft_object_store_bytes_total", "operation", _SCOPE)},
            ),
        ],
    },
)

ADAPTERS = Dashboard(
    uid="graft-adapters",
    title="graft: adapters",
    about="Adapters: who is asked, what it costs, what is held, loaded and thrown out.",
    annotations={
        "a version went live": "changes(graft_adapter_activation_seconds_count"
        '{job=~"$job",namespace=~"$namespace"}[1m]) > 0',
    },
    rows={
        "Use": [
            Panel(
                "Most asked",
                "Requests a second. Adapters that are used less share `other`.",
                "reqps",
                {"{{adapter}}": top(10, rate("graft_adapter_requests_total", "adapter", _SCOPE))},
            ),
            Panel(
                "Most tokens",
                "A second, prompts and answers together.",
                "short",
                {"{{adapter}}": top(10, rate("graft_adapter_tokens_total", "adapter", _SCOPE))},
            ),
            Panel(
                "Failing",
                "Requests a second that did not end well, the client's own mistakes included.",
                "reqps",
                {
                    "{{adapter}} {{outcome}}": top(
                        10,
                        rate(
                            "graft_adapter_requests_total",
                            "adapter, outcome",
                            _SCOPE + ',outcome!="ok"',
                        ),
                    )
                },
            ),
            Panel(
                "Slowest",
                "Mean seconds of a request.",
                "s",
                {
                    "{{adapter}}": top(
                        10,
                        rate("graft_adapter_request_duration_seconds_sum", "adapter", _SCOPE)
                        + " / ("
                        + rate("graft_adapter_request_duration_seconds_count", "adapter", _SCOPE)
                        + " > 0)",
                    )
                },
            ),
            Panel(
                "Latest first tokens",
                "Mean seconds to a stream's first event.",
                "s",
                {
                    "{{adapter}}": top(
                        10,
                        rate("graft_adapter_time_to_first_token_seconds_sum", "adapter", _SCOPE)
                        + " / ("
                        + rate("graft_adapter_time_to_first_token_seconds_count", "adapter", _SCOPE)
                        + " > 0)",
                    )
                },
            ),
            Panel(
                "What adapters cost",
                "Time to first token of adapters beside that of base models, 95 %.",
                "s",
                {
                    "{{base_model}} {{kind}}": quantile(
                        0.95, "graft_time_to_first_token_seconds", "base_model, kind"
                    )
                },
            ),
        ],
        "In the engines": [
            Panel(
                "Held",
                "Versions that engines hold, and how many they may.",
                "short",
                {
                    "{{base_model}} held": f"max by (base_model) ({of('graft_adapters_resident')})",
                    "{{base_model}} at most": f"max by (base_model) ({of('graft_adapters_capacity')})",
                },
            ),
            Panel(
                "Registered",
                "Adapters that can be asked.",
                "short",
                {"registered": f"max({of('graft_adapters', _SCOPE)})"},
            ),
            Panel(
                "Cold requests",
                "A second: their version was not in the engine.",
                "reqps",
                {_BASE: rate("graft_adapter_cold_requests_total", "base_model")},
            ),
            Panel(
                "Loads",
                "A second; each stalls everybody's streams for as long as it takes.",
                "ops",
                {_BASE: rate("graft_adapter_load_duration_seconds_count", "base_model")},
            ),
            Panel(
                "How long a load takes",
                "From files to the engine.",
                "s",
                quantiles("graft_adapter_load_duration_seconds"),
            ),
            Panel(
                "Thrown out",
                "Versions a second that made room for others; runbook GraftAdapterThrash.",
                "ops",
                {_BASE: rate("graft_adapter_evictions_total", "base_model")},
            ),
            Panel(
                "Refused",
                "Loads in an hour that the engine refused; runbook GraftAdapterLoadFailing.",
                "short",
                {
                    _BASE: f"sum by (base_model) (increase({of('graft_adapter_load_failures_total')}[1h]))"
                },
            ),
        ],
        "New versions": [
            Panel(
                "From publication to the engine",
                "How long until a new version answers without a wait.",
                "s",
                quantiles("graft_adapter_activation_seconds"),
            ),
            Panel(
                "Brought from elsewhere",
                "Imports in an hour, by how they ended.",
                "short",
                {
                    "{{outcome}}": f"sum by (outcome) (increase({of('graft_adapter_imports_total', _SCOPE)}[1h]))"
                },
            ),
            Panel(
                "The gate",
                "New versions in a day, by what their gate said.",
                "short",
                {"{{result}}": f"sum by (result) (increase({of('graft_gate_results_total')}[1d]))"},
            ),
        ],
    },
)

TRAINING = Dashboard(
    uid="graft-training",
    title="graft: training",
    about="Jobs: those that wait, those that run, how they end, and those who train them.",
    annotations={
        "a training process died": "changes(graft_training_process_deaths_total"
        '{job=~"$job",namespace=~"$namespace"}[1m]) > 0',
    },
    rows={
        "Queue": [
            Panel(
                "Waiting",
                "Jobs by base model. Every replica says the same, hence the largest.",
                "short",
                {_BASE: f"max by (base_model) ({of('graft_queue_jobs')})"},
            ),
            Panel(
                "The oldest has waited for",
                "Since its submission; runbook GraftTrainingQueueStuck.",
                "s",
                {_BASE: f"max by (base_model) ({of('graft_queue_oldest_seconds')})"},
            ),
            Panel(
                "Jobs by status",
                "All that the ledger knows.",
                "short",
                {"{{status}}": f"max by (status) ({of('graft_jobs', _SCOPE)})"},
            ),
            Panel(
                "From submission to the first step",
                "Queue, preparation and all.",
                "s",
                quantiles("graft_job_first_step_seconds"),
            ),
            Panel(
                "Until taken up",
                "Of that, the queue.",
                "s",
                quantiles("graft_job_queue_wait_seconds"),
            ),
            Panel(
                "Submitted",
                "Jobs in an hour.",
                "short",
                {"submitted": f"sum(increase({of('graft_jobs_submitted_total', _SCOPE)}[1h]))"},
            ),
        ],
        "Ends": [
            Panel(
                "Ended",
                "Jobs in an hour by outcome; `failed_system` is ours to mend.",
                "short",
                {
                    "{{outcome}}": f"sum by (outcome) (increase({of('graft_jobs_finished_total')}[1h]))"
                },
            ),
            Panel(
                "How long jobs train",
                "All attempts together.",
                "s",
                quantiles("graft_job_duration_seconds"),
            ),
            Panel(
                "Taken up",
                "In an hour: for the first time, again after a loss, or after a pause.",
                "short",
                {"{{reason}}": f"sum by (reason) (increase({of('graft_job_attempts_total')}[1h]))"},
            ),
            Panel(
                "Lost, and refused writes",
                "In an hour: jobs that went back to the queue, writes of attempts that no longer held theirs.",
                "short",
                {
                    "lost": f"sum(increase({of('graft_job_losses_total')}[1h]))",
                    "refused": f"sum(increase({of('graft_job_fenced_writes_total')}[1h]))",
                },
            ),
        ],
        "Running": [
            Panel(
                "Tokens",
                "A second, of all jobs of a base model.",
                "short",
                {_BASE: rate("graft_training_tokens_total", "base_model")},
            ),
            Panel(
                "Steps",
                "Optimizer steps a second.",
                "ops",
                {_BASE: rate("graft_training_steps_total", "base_model")},
            ),
            Panel(
                "Loss",
                "Training loss of running jobs.",
                "short",
                {"{{job_id}}": top(20, of("graft_training_loss", _SCOPE))},
            ),
            Panel(
                "Norm of the gradient",
                "Before clipping.",
                "short",
                {"{{job_id}}": top(20, of("graft_training_grad_norm", _SCOPE))},
            ),
            Panel(
                "Progress",
                "How far running jobs are.",
                "percentunit",
                {"{{job_id}}": top(20, of("graft_training_progress_ratio", _SCOPE))},
            ),
            Panel(
                "Age of checkpoints",
                "What would be trained again after a crash; runbook GraftCheckpointStale.",
                "s",
                {
                    "{{job_id}}": top(
                        20, f"time() - {of('graft_training_checkpoint_timestamp_seconds', _SCOPE)}"
                    )
                },
            ),
        ],
        "Those who train": [
            Panel(
                "Held and free",
                "Jobs in hand, and how many there may be.",
                "short",
                {
                    "{{base_model}} held": f"sum by (base_model) ({of('graft_worker_jobs')})",
                    "{{base_model}} at most": f"max by (base_model) ({of('graft_training_slots')})",
                },
            ),
            Panel(
                "Last sign of life",
                "Since a worker renewed its leases; runbook GraftWorkerHeartbeatLost.",
                "s",
                {
                    "{{base_model}} {{device}}": f"time() - {of('graft_worker_heartbeat_timestamp_seconds')}"
                },
            ),
            Panel(
                "Deaths and tight memory",
                "In an hour: training processes that died, passes that did not fit.",
                "short",
                {
                    "deaths": f"sum(increase({of('graft_training_process_deaths_total')}[1h]))",
                    "did not fit": f"sum(increase({of('graft_training_out_of_memory_total')}[1h]))",
                },
            ),
            Panel(
                "Writing checkpoints",
                "Seconds of one.",
                "s",
                quantiles("graft_checkpoint_write_seconds"),
            ),
            Panel(
                "Disk",
                "Of the home folder: what is left, and what lies there.",
                "bytes",
                {
                    "free": f"min({of('graft_storage_free_bytes', _SCOPE)})",
                    "{{kind}}": f"max by (kind) ({of('graft_storage_bytes', _SCOPE)})",
                },
            ),
        ],
    },
)

DASHBOARDS = (SERVING, ADAPTERS, TRAINING)


def queries() -> list[tuple[str, str]]:
    """Every query with where it is: dashboard, panel and legend."""
    return [
        (f"{dashboard.uid}: {panel.title}: {legend}", query)
        for dashboard in DASHBOARDS
        for panels in dashboard.rows.values()
        for panel in panels
        for legend, query in panel.queries.items()
    ]


def rendered(dashboard: Dashboard) -> str:
    """As Grafana reads it."""
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["graft"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {
            "list": [_annotation(name, query) for name, query in dashboard.annotations.items()]
        },
        "links": [_link(other) for other in DASHBOARDS if other is not dashboard],
        "panels": _placed(dashboard.rows),
    }
    return json.dumps(content, indent=2) + "\n"


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}
    chosen = [
        ("job", "label_values(graft_build_info, job)"),
        ("namespace", 'label_values(graft_build_info{job=~"$job"}, namespace)'),
        ("base_model", 'label_values(graft_engine_up{job=~"$job"}, base_model)'),
    ]
    return [source, *(_variable(name, query) for name, query in chosen)]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # What has no such label has to be found too.
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _annotation(name: str, query: str) -> dict[str, Any]:
    return {"name": name, "datasource": _SOURCE, "expr": query, "enable": True, "step": "60s"}


def _link(other: Dashboard) -> dict[str, Any]:
    return {"title": other.title, "type": "link", "url": f"/d/{other.uid}", "keepTime": True}


def _placed(rows: dict[str, list[Panel]]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    top_edge = 0
    for title, panels in rows.items():
        at = {"x": 0, "y": top_edge, "w": 24, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": title, "gridPos": at})
        top_edge += 1
        for number, panel in enumerate(panels):
            line, column = divmod(number, _IN_A_ROW)
            at = {"x": column * _WIDE, "y": top_edge + line * _HIGH, "w": _WIDE, "h": _HIGH}
            placed.append(_panel(len(placed) + 1, panel, at))
        top_edge += -(-len(panels) // _IN_A_ROW) * _HIGH
    return placed


def _panel(number: int, panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query,
                "legendFormat": legend,
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(rendered(dashboard))


if __name__ == "__main__":
    main()
