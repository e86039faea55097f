"""What vLLM 0.32 says of itself at `/metrics`, cut down to one series of each kind; and what else its process says."""

#: Family, kind, its samples' suffixes. Names are vLLM's; tests/unit/eyes compares them with its source.
COUNTERS = (
    "vllm:prompt_tokens",
    "vllm:generation_tokens",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:num_preemptions",
    "vllm:request_success",
)
HISTOGRAMS = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
)
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


def text(model: str, answered: int, running: int) -> str:
    """After so many answers."""
    labels = f'engine="0",model_name="{model}"'
    lines = []
    for name in COUNTERS:
        lines += [f"# HELP {name}_total Of the fake.", f"# TYPE {name}_total counter"]
        lines += [f"{name}_total{{{labels}}} {8.0 * answered}"]
        lines += [f"# HELP {name}_created Of the fake.", f"# TYPE {name}_created gauge"]
        lines += [f"{name}_created{{{labels}}} 1.7e+09"]
    for name in HISTOGRAMS:
        lines += [f"# HELP {name} Of the fake.", f"# TYPE {name} histogram"]
        lines += [
            f'{name}_bucket{{{labels},le="{bound}"}} {float(answered)}' for bound in ("0.1", "+Inf")
        ]
        lines += [f"{name}_count{{{labels}}} {float(answered)}"]
        lines += [f"{name}_sum{{{labels}}} {answered / 20}"]
    for name in GAUGES:
        lines += [f"# HELP {name} Of the fake.", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{labels}}} {float(running)}"]
    lines += ["# HELP vllm:lora_requests_info Sets.", "# TYPE vllm:lora_requests_info gauge"]
    lines += ['vllm:lora_requests_info{max_lora="4",running_lora_adapters="a@1,b@1"} 1.7e+09']
    lines += ["# HELP process_open_fds Its own.", "# TYPE process_open_fds gauge"]
    lines += ["process_open_fds 9.0"]
    return "".join(f"{line}\n" for line in lines)
