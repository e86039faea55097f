"""The fields of a completion request: what is passed on, what is taken and dropped, what is refused.

Values are vLLM's to judge (its ranges are its own, and its messages name the field); names are ours, because vLLM
ignores a misspelt one and the caller wonders why `repetiton_penalty` does nothing.
"""

from typing import Any

from adapters.errors import InvalidValue, UnknownField

_SAMPLING = {
    "allowed_token_ids",
    "bad_words",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "prompt_logprobs",
    "repetition_detection",
    "repetition_penalty",
    "response_format",
    "return_token_ids",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
    "truncate_prompt_tokens",
    "user",
}

#: Ours; service/defaults.py turns them into some of the above.
_OURS = {"preset", "repetition_guard"}

CHAT_FIELDS = frozenset(
    _SAMPLING
    | _OURS
    | {
        "add_generation_prompt",
        "continue_final_message",
        "echo",
        "include_reasoning",
        "max_completion_tokens",
        "messages",
        "model",
        "parallel_tool_calls",
        "reasoning_effort",
        "thinking_token_budget",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
COMPLETION_FIELDS = frozenset(
    _SAMPLING | _OURS | {"add_special_tokens", "echo", "model", "prompt", "suffix"}
)

#: OpenAI's fields about their own platform: harmless, without a meaning here, sent by existing code.
IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "verbosity"}
)

#: vLLM takes these, but they reach into the engine or past its template.
REFUSED = frozenset(
    {
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "ec_transfer_params",
        "kv_transfer_params",
        "mm_processor_kwargs",
        "priority",
        "prompt_embeds",
        "request_id",
        "session_id",
        "vllm_xargs",
    }
)


def check_fields(
    body: dict[str, Any], known: frozenset[str], *, max_choices: int
) -> dict[str, Any]:
    """The fields of the body that go on to the engine.

    Raises:
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a field that is not available here, or more choices than are allowed.
    """
    kept = {}
    for name, value in body.items():
        if name in known:
            kept[name] = value
        elif name in REFUSED:
            raise InvalidValue(f"'{name}' is not available on this server.", param=name)
        elif name not in IGNORED:
            raise UnknownField.named(name, sorted(known), where="the request")
    _check_choices(kept.get("n"), max_choices)
    return kept


def _check_choices(n: Any, most: int) -> None:
    if isinstance(n, int) and n > most:
        raise InvalidValue(f"'n' may be at most {most} here, not {n}.", param="n")
