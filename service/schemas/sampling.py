"""The fields of a request to a model: what is passed on, what is taken and dropped, what is refused.

Names are ours to judge, because vLLM ignores a misspelt one and the caller wonders why `repetiton_penalty` does
nothing. Of values we look at sizes only (`caps.py`); ranges are vLLM's own, and its messages name the field. A test
holds the lists here against the fields of vLLM's requests.
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
    "return_tokens_as_token_ids",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_interval",
    "stream_options",
    "structured_outputs",
    "temperature",
    "thinking_token_budget",
    "top_k",
    "top_p",
    "truncate_prompt_tokens",
    "truncation_side",
    "user",
}
_TEMPLATE = {"add_generation_prompt", "chat_template_kwargs", "continue_final_message"}

#: Ours; service/defaults.py turns them into some of the above.
OURS = {"preset", "repetition_guard"}

CHAT_FIELDS = frozenset(
    _SAMPLING
    | OURS
    | _TEMPLATE
    | {
        "add_special_tokens",
        "echo",
        "include_reasoning",
        "max_completion_tokens",
        "messages",
        "model",
        "parallel_tool_calls",
        "reasoning_effort",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
COMPLETION_FIELDS = frozenset(
    _SAMPLING | OURS | {"add_special_tokens", "echo", "model", "prompt", "suffix"}
)
RESPONSE_FIELDS = frozenset(
    {
        "chat_template_kwargs",
        "frequency_penalty",
        "ignore_eos",
        "include",
        "include_reasoning",
        "include_stop_str_in_output",
        "input",
        "instructions",
        "logit_bias",
        "max_output_tokens",
        "max_tool_calls",
        "min_p",
        "model",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning",
        "repetition_penalty",
        "seed",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "stream",
        "structured_outputs",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "truncation",
        "user",
    }
)
_COUNTED_FIELDS = {
    "chat_template_kwargs",
    "messages",
    "model",
    "output_config",
    "system",
    "thinking",
    "tool_choice",
    "tools",
}
COUNT_FIELDS = frozenset(_COUNTED_FIELDS)
MESSAGE_FIELDS = frozenset(
    _COUNTED_FIELDS | {"max_tokens", "stop_sequences", "stream", "temperature", "top_k", "top_p"}
)
TOKENIZE_FIELDS = frozenset(
    _TEMPLATE | {"add_special_tokens", "messages", "model", "prompt", "return_token_strs", "tools"}
)
DETOKENIZE_FIELDS = frozenset({"model", "tokens"})

#: Fields about the vendor's own platform: harmless, without a meaning here, sent by existing code.
IGNORED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)

#: vLLM takes these, but they reach into the engine, past its template, or at what it keeps of others.
REFUSED = frozenset(
    {
        "background",
        "cache_salt",
        "chat_template",
        "documents",
        "ec_transfer_params",
        "enable_response_messages",
        "kv_transfer_params",
        "length_penalty",
        "logprob_token_ids",
        "media_io_kwargs",
        "mm_payload",
        "mm_processor_kwargs",
        "previous_input_messages",
        "previous_response_id",
        "priority",
        "prompt_embeds",
        "request_id",
        "return_mm_kwargs",
        "return_prompt_text",
        "return_token_offsets",
        "routed_experts_prompt_start",
        "session_id",
        "use_beam_search",
        "vllm_xargs",
        "watermarking",
    }
)
#: What a chat template may be told, and as what; anything else could name its own arguments, the messages among them.
TEMPLATE_ARGUMENTS = {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str}


def check_fields(body: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The fields of the body that go on to the engine. One that is null says nothing.

    Raises:
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a field that is not available here.
    """
    kept = {}
    for name, value in body.items():
        if name in known:
            kept[name] = value
        elif name in REFUSED:
            if value is not None and value is not False:
                raise InvalidValue(f"'{name}' is not available on this server.", param=name)
        elif name not in IGNORED:
            raise UnknownField.named(name, sorted(known), where="the request")
    _check_template_arguments(kept.get("chat_template_kwargs"))
    return kept


def _check_template_arguments(given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise InvalidValue(
            "'chat_template_kwargs' must be an object.", param="chat_template_kwargs"
        )
    for name, value in given.items():
        kind = TEMPLATE_ARGUMENTS.get(name)
        if kind is None:
            raise InvalidValue(
                f"'{name}' is not available in 'chat_template_kwargs' on this server; only "
                f"{', '.join(TEMPLATE_ARGUMENTS)} are.",
                param="chat_template_kwargs",
            )
        if not isinstance(value, kind):
            raise InvalidValue(
                f"'{name}' of 'chat_template_kwargs' must be a {kind.__name__}.",
                param="chat_template_kwargs",
            )
