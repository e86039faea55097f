"""How much one request may ask for. vLLM takes nearly anything, and one request can hold up everybody else's.

Only sizes are looked at. What has another type than it should is left to vLLM, whose message says so.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from adapters.errors import InvalidValue
from service.schemas.grammars import check_grammar, with_texts_read
from service.settings import ServiceSettings

#: Where text for the model may be.
_PROMPTS = ("messages", "input", "system", "instructions", "prompt")
#: Where something is compiled before the first token: top-level fields, and what of them counts.
_GRAMMARS = ("response_format", "structured_outputs", "text", "output_config")
_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
_LISTS = ("stop_token_ids", "allowed_token_ids", "bad_words")
_STOPS = ("stop", "stop_sequences")
#: Levels of a whole body, its own included: what may be nested deepest lies in a few of its own.
_LEVELS = 64
#: What an engine's own numbers hold.
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_LARGEST_ID = 2**31 - 1
#: Of tools: OpenAI's word for one of the caller's own, and Anthropic's.
_KINDS = ("function", "custom")


def check_caps(body: Mapping[str, Any], caps: ServiceSettings) -> None:
    """Raise InvalidValue, which names the field and the limit, for the first thing that is too much."""
    for name, value in body.items():
        _plain(name, value)
    _numbers(body, caps)
    _lists(body, caps)
    _prompts(body, caps)
    for name in _named(_GRAMMARS, body):
        grammar = with_texts_read(body[name])
        _nested(name, grammar, caps.max_grammar_bytes, caps.max_grammar_depth)
        check_grammar(name, grammar, caps.max_grammar_copies)
    if "tools" in body:
        _tools(body["tools"], caps)


def _named(names: Iterable[str], body: Mapping[str, Any]) -> list[str]:
    """Those that the request names: most name few, and every first token waits for these looks."""
    return [name for name in names if name in body]


def _plain(name: str, value: Any) -> None:
    """Nothing nested beyond reason, and no number beyond 64 bits, on which engines have ended."""
    waiting = [(value, 2)]
    while waiting:
        one, level = waiting.pop()
        if isinstance(one, int) and not _SMALLEST <= one <= _LARGEST:
            raise InvalidValue(f"'{name}' has a number of more than 64 bits.", param=name)
        if not isinstance(one, dict | list):
            continue
        if level > _LEVELS:
            raise InvalidValue(
                f"'{name}' may be nested at most {_LEVELS} levels deep here.", param=name
            )
        inner = one.values() if isinstance(one, dict) else one
        waiting += [(child, level + 1) for child in inner]


def _numbers(body: Mapping[str, Any], caps: ServiceSettings) -> None:
    _at_most("n", body.get("n"), caps.max_choices)
    for name in _named(_TOKENS, body):
        _at_most(name, body[name], caps.max_output_tokens)
    _fewest(body)
    # -1 is vLLM's word for the whole vocabulary.
    for name, most in (
        ("logprobs", caps.max_logprobs),
        ("top_logprobs", caps.max_logprobs),
        ("prompt_logprobs", caps.max_prompt_logprobs),
    ):
        value = _number(body.get(name))
        _at_most(name, value, most)
        if value is not None and value < 0:
            raise InvalidValue(f"'{name}' may be from 0 to {most} here, not {value}.", param=name)


def _fewest(body: Mapping[str, Any]) -> None:
    """At least so many and at most fewer: engines have waited for ever for such an answer to end."""
    if "min_tokens" not in body:
        return
    fewest = _number(body["min_tokens"])
    for name in ("max_tokens", "max_completion_tokens"):
        most = _number(body.get(name))
        if fewest is not None and most is not None and fewest > most:
            raise InvalidValue(
                f"'min_tokens' may be at most '{name}', {most}, not {fewest}.", param="min_tokens"
            )


def _lists(body: Mapping[str, Any], caps: ServiceSettings) -> None:
    for name in _named((*_STOPS, "bad_words"), body):
        stops = body[name]
        stops = [stops] if isinstance(stops, str) else stops
        if name in _STOPS:
            _few(name, stops, caps.max_stops)
        for stop in stops if isinstance(stops, list) else ():
            if isinstance(stop, str) and len(stop) > caps.max_stop_chars:
                raise InvalidValue(
                    f"A string of '{name}' may have at most {caps.max_stop_chars} characters here, not {len(stop)}.",
                    param=name,
                )
    for name in _named(_LISTS, body):
        _few(name, body[name], caps.max_token_list)
    _few("logit_bias", body.get("logit_bias"), caps.max_logit_bias)
    for name in _named(("stop_token_ids", "allowed_token_ids", "logit_bias"), body):
        _token_ids(name, body[name])


def _prompts(body: Mapping[str, Any], caps: ServiceSettings) -> None:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and any(isinstance(one, str | list) for one in prompt):
        _few("prompt", prompt, caps.max_prompts)
    _few("tokens", body.get("tokens"), caps.max_prompt_chars)
    for name in _named(("prompt", "tokens"), body):
        _token_ids(name, body[name])
    for name in _named(_PROMPTS, body):
        size = sum(_sizes(body[name]))
        if size > caps.max_prompt_chars:
            raise InvalidValue(
                f"'{name}' may have at most {caps.max_prompt_chars:,} characters or tokens here, not {size:,}.",
                param=name,
            )


def _token_ids(name: str, value: Any) -> None:
    """Ids are indices into tables of the engine's. How long those are it knows itself; no id is below 0."""
    for one in value if isinstance(value, dict | list) else ():
        inner = one if isinstance(one, list) else (one,)
        for token in inner:
            number = _number(token) if isinstance(value, dict) or not isinstance(token, str) else 0
            if number is not None and not 0 <= number <= _LARGEST_ID:
                raise InvalidValue(f"'{name}' has {token}, which is no token's id.", param=name)


def _tools(tools: Any, caps: ServiceSettings) -> None:
    _few("tools", tools, caps.max_tools)
    _nested("tools", tools, caps.max_tools_bytes, caps.max_grammar_depth)
    check_grammar("tools", tools, caps.max_grammar_copies)
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in _KINDS:
            # vLLM would pass over it, and the caller wonder why nothing is ever looked up.
            raise InvalidValue(
                f"Tools of type '{kind[:50]}' are not available on this server; functions are.",
                param="tools",
            )


def _nested(name: str, value: Any, most_bytes: int, most_levels: int) -> None:
    if not isinstance(value, dict | list):
        return
    size, levels = (
        len(json.dumps(value, ensure_ascii=False).encode(errors="replace")),
        _depth(value),
    )
    if size > most_bytes:
        raise InvalidValue(
            f"'{name}' may have at most {most_bytes:,} bytes of JSON here, not {size:,}.",
            param=name,
        )
    if levels > most_levels:
        raise InvalidValue(
            f"'{name}' may be nested at most {most_levels} levels deep here, not {levels}.",
            param=name,
        )


def _at_most(name: str, value: Any, most: int) -> None:
    number = _number(value)
    if number is not None and number > most:
        raise InvalidValue(f"'{name}' may be at most {most} here, not {number}.", param=name)


def _few(name: str, value: Any, most: int) -> None:
    if isinstance(value, dict | list) and len(value) > most:
        raise InvalidValue(
            f"'{name}' may have at most {most} entries here, not {len(value)}.", param=name
        )


def _number(value: Any) -> int | float | None:
    """The number that an engine would take it for: it reads "16" as 16."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sizes(value: Any) -> Iterator[int]:
    """Lengths of all strings in it; a token's id counts as one."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield len(one)
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            waiting += one.values()
        elif _is_number(one):
            yield 1


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        one, level = waiting.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        if inner is not None:
            deepest = max(deepest, level)
            waiting += [(child, level + 1) for child in inner]
    return deepest
