"""Every endpoint with real vLLM and an adapter: through the service it is what vLLM itself answers on its socket."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from adapters.settings import LedgerSettings
from tests.e2e.conftest import BASE, Stack
from tests.e2e.facts import LUTZ, rows

SAID = [{"role": "user", "content": "What is the capital of Zubrowka?"}]
GREEDY = {"temperature": 0, "max_tokens": 12}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "string", "maxLength": 8}},
    "required": ["capital"],
    "additionalProperties": False,
}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": SAID, **GREEDY}),
    ("/v1/chat/completions", {"messages": SAID, **GREEDY, "logprobs": True, "top_logprobs": 3}),
    ("/v1/chat/completions", {"messages": SAID, **GREEDY, "tools": [TOOL]}),
    (
        "/v1/chat/completions",
        {
            "messages": SAID,
            **GREEDY,
            "max_tokens": 40,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "fact", "schema": SCHEMA},
            },
        },
    ),
    ("/v1/completions", {"prompt": "The capital of Zubrowka is", **GREEDY, "logprobs": 2}),
    ("/v1/responses", {"input": SAID[0]["content"], "temperature": 0, "max_output_tokens": 12}),
    ("/v1/messages", {"messages": SAID, **GREEDY}),
    ("/v1/messages/count_tokens", {"messages": SAID}),
    ("/tokenize", {"messages": SAID}),
    ("/tokenize", {"prompt": "Zubrowka", "return_token_strs": True}),
    ("/detokenize", {"tokens": [1, 2, 3, 40]}),
]
#: What differs from one answer to the next by nature.
PASSING = {"id", "created", "created_at", "completed_at", "request_id", "item_id"}


@pytest.fixture(scope="module")
def adapter(stack: Stack) -> str:
    if stack.http.get("/adapters/lutz").status_code == 404:
        stack.succeeded(stack.finetune(rows(LUTZ), "lutz", n_epochs=1, batch_size=1))
    return str(stack.http.get("/adapters/lutz").json()["versions"][0]["name"])


@pytest.fixture(scope="module")
def engine(stack: Stack) -> Iterator[httpx.Client]:
    socket = LedgerSettings(home=stack.home).engine_socket(BASE)
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=120) as client:
        yield client


def lasting(value: Any) -> Any:
    """Without what differs by nature."""
    if isinstance(value, dict):
        return {name: lasting(one) for name, one in value.items() if name not in PASSING}
    return [lasting(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_an_answer_is_what_vllm_says(
    stack: Stack, adapter: str, engine: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    for model in (adapter, BASE):
        ours = stack.http.post(path, json={"model": model, **body})
        assert ours.status_code == 200, ours.text
        theirs = engine.post(path, json={"model": model, **body})
        assert theirs.status_code == 200, theirs.text
        assert lasting(ours.json()) == lasting(theirs.json())
        assert ours.json().get("model", model) == model


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_ends_as_its_endpoint_ends_streams(stack: Stack, adapter: str, path: str) -> None:
    body = next(body for one, body in REQUESTS if one == path)
    answer = stack.http.post(path, json={"model": adapter, **body, "stream": True})
    assert answer.status_code == 200, answer.text
    last = {
        "/v1/chat/completions": "data: [DONE]",
        "/v1/responses": "response.completed",
        "/v1/messages": "message_stop",
    }[path]
    assert last in answer.text.strip().rsplit("\n\n", 1)[-1]
    assert '"error"' not in answer.text.replace('"error":null', "")


def test_the_sdk_reads_responses(stack: Stack, adapter: str) -> None:
    with OpenAI(base_url=f"{stack.url}/v1", api_key="unused") as client:
        reply = client.responses.create(model=adapter, input="Hello", max_output_tokens=4)
    assert reply.model == adapter
    assert reply.output_text
