"""What the fake engine answers, in the shapes that vLLM gives to each endpoint. Pure: the same request, the same bytes.

The text is `<model>: <last user message>`, a token a word. With `tools` it is a call of the first one instead, with a
JSON format an object that holds the text.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.loops import loops

Body = dict[str, Any]


def said(body: Body) -> str:
    """The last thing that the user said."""
    last = body.get("prompt", body.get("input", body.get("messages", "")))
    while isinstance(last, list):
        last = last[-1] if last else ""
        if isinstance(last, dict):
            last = last.get("content", last.get("text", ""))
    return str(last)


def words(body: Body) -> list[str]:
    """One that may say only one token says it again and again; where a loop is looked for, that ends it."""
    allowed = body.get("allowed_token_ids")
    spoken = [f"<{allowed[0]}>"] * body["max_tokens"] if allowed else _answer(body)
    return spoken[: _loop(body, spoken)]


def tokens(body: Body) -> list[str]:
    """What is sent, piece by piece."""
    if _wants_json(body):
        return ['{"answer"', ": ", json.dumps(" ".join(words(body))), "}"]
    made = words(body)
    return [made[0], *(f" {word}" for word in made[1:])]


def chat(body: Body) -> Body:
    message: Body = {"role": "assistant", "content": "".join(tokens(body))}
    reason = _reason(body)
    if _calls(body):
        message |= {"content": None, "tool_calls": [_call(body, _arguments(body))]}
        reason = "tool_calls"
    choice: Body = {"index": 0, "message": message, "finish_reason": reason}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [_logprob(body, token) for token in tokens(body)]}
    choices = [choice | {"index": index} for index in range(body.get("n", 1))]
    return _envelope(body, "chat.completion") | {"choices": choices, "usage": _usage(body)}


def chat_events(body: Body) -> Iterator[bytes]:
    def event(delta: Body, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, **more}
        return _data(_envelope(body, "chat.completion.chunk") | {"choices": [choice]})

    if _calls(body):
        yield event({"role": "assistant", "tool_calls": [_call(body, "")]})
        for piece in _arguments(body).partition(":"):
            yield event({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        yield event({}, "tool_calls")
    else:
        *others, last = tokens(body)
        for token in others:
            yield event({"content": token}, **_logprobs(body, token))
        yield event({"content": last}, _reason(body), **_logprobs(body, last))
    yield from _last(body, "chat.completion.chunk")


def completion(body: Body) -> Body:
    choice = {"index": 0, "text": "".join(tokens(body)), "finish_reason": _reason(body)}
    return _envelope(body, "text_completion") | {"choices": [choice], "usage": _usage(body)}


def probed(body: Body, weights: Path | None) -> Body:
    """What is said of the tokens of prompts that are token ids; `weights` is the adapter's directory."""

    def told(prompt: list[int]) -> list[Body | None]:
        thought = zip(prompt[1:], logprobs(prompt, weights), strict=True)
        return [None, *({str(token): {"logprob": one, "rank": 1}} for token, one in thought)]

    choices = [
        {"index": index, "text": "", "finish_reason": "length", "prompt_logprobs": told(prompt)}
        for index, prompt in enumerate(body["prompt"])
    ]
    return _envelope(body, "text_completion") | {"choices": choices, "usage": _usage(body)}


def logprobs(prompt: Sequence[int], weights: Path | None) -> list[float]:
    """What base model or adapter think of a prompt's tokens from the second one on: other weights, other thoughts."""
    base = [-2.0 - token % 7 / 10 for token in prompt[1:]]
    if weights is None:
        return base
    digest = hashlib.sha256((weights / "adapter_model.safetensors").read_bytes()).digest()
    moved = zip(base, itertools.cycle(digest), strict=False)
    return [one + 0.5 + byte / 256 for one, byte in moved]


def completion_events(body: Body) -> Iterator[bytes]:
    *others, last = tokens(body)
    for token, reason in [*((other, None) for other in others), (last, _reason(body))]:
        choice = {"index": 0, "text": token, "finish_reason": reason}
        yield _data(_envelope(body, "text_completion") | {"choices": [choice]})
    yield from _last(body, "text_completion")


def response(body: Body) -> Body:
    text = {"type": "output_text", "text": "".join(tokens(body)), "annotations": []}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
        "status": "completed",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": _usage_in_and_out(body) | {"total_tokens": sum(_usage_in_and_out(body).values())},
    }


def response_events(body: Body) -> Iterator[bytes]:
    begun = response(body) | {"status": "in_progress", "output": [], "usage": None}
    yield _named("response.created", {"response": begun, "sequence_number": 0})
    [item] = response(body)["output"]
    item |= {"status": "in_progress", "content": []}
    added = {"item": item, "output_index": 0, "sequence_number": 1}
    yield _named("response.output_item.added", added)
    part = {"type": "output_text", "text": "", "annotations": []}
    begins = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "part": part}
    yield _named("response.content_part.added", begins | {"sequence_number": 2})
    for number, token in enumerate(tokens(body), 3):
        delta = {
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": token,
            "logprobs": [],
            "sequence_number": number,
        }
        yield _named("response.output_text.delta", delta)
    done = {"response": response(body), "sequence_number": len(tokens(body)) + 3}
    yield _named("response.completed", done)


def message(body: Body) -> Body:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "".join(tokens(body))}],
        "model": body["model"],
        "stop_reason": "end_turn",
        "usage": _usage_in_and_out(body),
    }


def message_events(body: Body) -> Iterator[bytes]:
    begun = message(body) | {"content": [], "stop_reason": None}
    yield _named("message_start", {"message": begun})
    block = {"type": "text", "text": ""}
    yield _named("content_block_start", {"index": 0, "content_block": block})
    for token in tokens(body):
        delta = {"type": "text_delta", "text": token}
        yield _named("content_block_delta", {"index": 0, "delta": delta})
    yield _named("content_block_stop", {"index": 0})
    ended = {"delta": {"stop_reason": "end_turn"}, "usage": _usage_in_and_out(body)}
    yield _named("message_delta", ended)
    yield _named("message_stop", {})


def counted(body: Body) -> Body:
    return {"input_tokens": len(said(body).split())}


def tokenized(body: Body) -> Body:
    """A token's id is its length."""
    found = [len(word) for word in said(body).split()]
    return {"count": len(found), "max_model_len": 2048, "tokens": found, "token_strs": None}


def detokenized(body: Body) -> Body:
    return {"prompt": " ".join("x" * length for length in body["tokens"])}


def _answer(body: Body) -> list[str]:
    return f"{body['model']}: {said(body)}".split(" ")


def _loop(body: Body, spoken: list[str]) -> int | None:
    """After how many tokens it loops, if that is looked for."""
    detection = body.get("repetition_detection")
    lengths = range(1, len(spoken) + 1) if detection else ()
    return next((length for length in lengths if loops(spoken[:length], **detection)), None)


def _reason(body: Body) -> str:
    return "stop" if _loop(body, words(body)) is None else "repetition"


def _envelope(body: Body, kind: str) -> Body:
    return {"id": "answer-1", "object": kind, "created": 0, "model": body["model"]}


def _last(body: Body, kind: str) -> Iterator[bytes]:
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _data(_envelope(body, kind) | {"choices": [], "usage": _usage(body)})
    yield b"data: [DONE]\n\n"


def _usage(body: Body) -> Body:
    read, written = _usage_in_and_out(body).values()
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _usage_in_and_out(body: Body) -> dict[str, int]:
    return {"input_tokens": len(said(body).split()), "output_tokens": len(tokens(body))}


def _calls(body: Body) -> bool:
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def _call(body: Body, arguments: str) -> Body:
    function = {"name": body["tools"][0]["function"]["name"], "arguments": arguments}
    return {"index": 0, "id": "call-1", "type": "function", "function": function}


def _arguments(body: Body) -> str:
    return json.dumps({"said": said(body)})


def _wants_json(body: Body) -> bool:
    return (body.get("response_format") or {}).get("type") in {"json_object", "json_schema"}


def _logprobs(body: Body, token: str) -> Body:
    return {"logprobs": {"content": [_logprob(body, token)]}} if body.get("logprobs") else {}


def _logprob(body: Body, token: str) -> Body:
    one = {"token": token, "logprob": -0.25, "bytes": list(token.encode())}
    top = [one | {"logprob": -0.25 * (k + 1)} for k in range(body.get("top_logprobs", 0))]
    return one | {"top_logprobs": top}


def _data(chunk: Body) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def _named(kind: str, data: Body) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()
