"""Every field that vLLM 0.32 takes, by class of request: passed on, dropped or refused, and none by accident."""

import pytest

from adapters.errors import InvalidValue, UnknownField
from service.schemas.endpoints import (
    CHAT,
    COMPLETIONS,
    COUNT_TOKENS,
    DETOKENIZE,
    MESSAGES,
    RESPONSES,
    TOKENIZE,
    Endpoint,
)
from service.schemas.sampling import IGNORED, OURS, REFUSED, TEMPLATE_ARGUMENTS, check_fields

#: Names as they stand in vLLM's request classes.
FIELDS = {
    "ChatCompletionRequest": (
        CHAT,
        (
            "add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt "
            "chat_template chat_template_kwargs continue_final_message documents ec_transfer_params "
            "echo frequency_penalty ignore_eos include_reasoning include_stop_str_in_output "
            "kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs "
            "max_completion_tokens max_tokens media_io_kwargs messages min_p min_tokens mm_payload "
            "mm_processor_kwargs model n parallel_tool_calls presence_penalty priority prompt_logprobs "
            "reasoning_effort repetition_detection repetition_penalty request_id response_format "
            "return_mm_kwargs return_prompt_text return_token_ids return_token_offsets "
            "return_tokens_as_token_ids routed_experts_prompt_start seed session_id skip_special_tokens "
            "spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options "
            "structured_outputs temperature thinking_token_budget tool_choice tools top_k top_logprobs "
            "top_p truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs watermarking"
        ),
    ),
    "CompletionRequest": (
        COMPLETIONS,
        (
            "add_special_tokens allowed_token_ids bad_words cache_salt ec_transfer_params echo "
            "frequency_penalty ignore_eos include_stop_str_in_output kv_transfer_params length_penalty "
            "logit_bias logprob_token_ids logprobs max_tokens min_p min_tokens mm_payload model n "
            "presence_penalty priority prompt prompt_embeds prompt_logprobs repetition_detection "
            "repetition_penalty request_id response_format return_mm_kwargs return_token_ids "
            "return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start seed "
            "session_id skip_special_tokens spaces_between_special_tokens stop stop_token_ids stream "
            "stream_interval stream_options structured_outputs suffix temperature thinking_token_budget "
            "top_k top_p truncate_prompt_tokens truncation_side use_beam_search user vllm_xargs "
            "watermarking"
        ),
    ),
    "ResponsesRequest": (
        RESPONSES,
        (
            "background cache_salt chat_template_kwargs ec_transfer_params enable_response_messages "
            "frequency_penalty ignore_eos include include_reasoning include_stop_str_in_output input "
            "instructions kv_transfer_params logit_bias max_output_tokens max_tool_calls "
            "media_io_kwargs metadata min_p mm_payload mm_processor_kwargs model parallel_tool_calls "
            "presence_penalty previous_input_messages previous_response_id priority prompt "
            "prompt_cache_key reasoning repetition_penalty request_id return_mm_kwargs seed "
            "service_tier session_id skip_special_tokens stop stop_token_ids store stream "
            "structured_outputs temperature text tool_choice tools top_k top_logprobs top_p truncation "
            "user vllm_xargs watermarking"
        ),
    ),
    "AnthropicMessagesRequest": (
        MESSAGES,
        (
            "cache_salt chat_template_kwargs ec_transfer_params kv_transfer_params max_tokens messages "
            "metadata mm_payload model output_config return_mm_kwargs stop_sequences stream system "
            "temperature thinking tool_choice tools top_k top_p vllm_xargs watermarking"
        ),
    ),
    "AnthropicCountTokensRequest": (
        COUNT_TOKENS,
        "chat_template_kwargs messages model output_config system thinking tool_choice tools",
    ),
    "TokenizeCompletionRequest": (
        TOKENIZE,
        "add_special_tokens model prompt return_token_strs",
    ),
    "TokenizeChatRequest": (
        TOKENIZE,
        (
            "add_generation_prompt add_special_tokens chat_template chat_template_kwargs "
            "continue_final_message media_io_kwargs messages mm_processor_kwargs model "
            "return_token_strs tools"
        ),
    ),
    "DetokenizeRequest": (
        DETOKENIZE,
        "model tokens",
    ),
}

EACH = [(endpoint, field) for endpoint, fields in FIELDS.values() for field in fields.split()]
#: What must not pass, whatever the endpoint.
DANGEROUS = [
    "background",
    "cache_salt",
    "chat_template",
    "documents",
    "ec_transfer_params",
    "kv_transfer_params",
    "logprob_token_ids",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "previous_input_messages",
    "previous_response_id",
    "priority",
    "prompt_embeds",
    "request_id",
    "session_id",
    "use_beam_search",
    "vllm_xargs",
]


@pytest.mark.parametrize(("endpoint", "field"), EACH, ids=lambda it: getattr(it, "path", it))
def test_every_field_of_the_engines_has_been_decided_on(endpoint: Endpoint, field: str) -> None:
    decided = [field in endpoint.fields, field in IGNORED, field in REFUSED]
    if (endpoint, field) == (RESPONSES, "prompt"):
        # The id of a prompt that OpenAI has stored. On the others it is a text.
        assert decided == [False, False, False]
        return
    assert sum(decided) == 1, f"{field} of {endpoint.path}"


def test_what_is_passed_on_exists() -> None:
    for endpoint in {endpoint for endpoint, _ in FIELDS.values()}:
        known = {field for one, field in EACH if one == endpoint}
        assert endpoint.fields - OURS <= known
        assert not OURS & known


@pytest.mark.parametrize("field", DANGEROUS)
def test_what_reaches_into_the_engine_never_passes(field: str) -> None:
    for endpoint, _ in FIELDS.values():
        with pytest.raises(InvalidValue) as caught:
            check_fields({"model": "m", field: {"x": 1}}, endpoint.fields)
        assert caught.value.param == field
        assert field not in check_fields({"model": "m", field: None}, endpoint.fields)


@pytest.mark.parametrize("field", sorted(IGNORED))
def test_what_speaks_of_a_vendors_platform_is_taken_and_dropped(field: str) -> None:
    for endpoint, _ in FIELDS.values():
        assert check_fields({"model": "m", field: "x"}, endpoint.fields) == {"model": "m"}


def test_a_name_that_nobody_knows_is_an_error_on_every_path() -> None:
    for endpoint, _ in FIELDS.values():
        with pytest.raises(UnknownField) as caught:
            check_fields({"model": "m", "modle": "n"}, endpoint.fields)
        assert "'model'" in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        {"tokenize": True},
        {"chat_template": "{% for i in range(10**9) %}{% endfor %}"},
        {"messages": []},
        {"enable_thinking": "yes"},
        {"reasoning_effort": {"nested": []}},
        "enable_thinking",
        [],
    ],
)
def test_a_template_is_told_nothing_but_what_is_on_the_list(given: object) -> None:
    for endpoint in (CHAT, RESPONSES, MESSAGES, COUNT_TOKENS, TOKENIZE):
        with pytest.raises(InvalidValue) as caught:
            check_fields({"chat_template_kwargs": given}, endpoint.fields)
        assert caught.value.param == "chat_template_kwargs"


def test_what_is_on_the_list_passes() -> None:
    given = {"enable_thinking": False, "thinking": True, "reasoning_effort": "low"}
    assert set(given) == set(TEMPLATE_ARGUMENTS)
    kept = check_fields({"chat_template_kwargs": given}, CHAT.fields)
    assert kept == {"chat_template_kwargs": given}
