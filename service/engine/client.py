"""How vLLM is spoken to: HTTP over a Unix socket. The one door at which aiohttp's exceptions become ours."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from adapters.errors import EngineFault, Unavailable
from service.engine.protocol import EngineReply
from service.errors import discreet

_HEALTH_TIMEOUT_S = 2.0
#: A load is a disk read inside the engine's loop; far above what it takes, far below for ever.
_LOAD_TIMEOUT_S = 120.0
#: Less than the engine keeps one that nobody uses (start.py).
UNUSED_CONNECTION_S = 15.0
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class VllmEngine:
    """vLLM's OpenAI server behind a Unix socket."""

    def __init__(self, socket: Path, model_id: str) -> None:
        self._socket = socket
        self._model_id = model_id
        self._session: aiohttp.ClientSession | None = None

    async def healthy(self) -> bool:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        try:
            async with self._http().get("http://engine/health", timeout=timeout) as response:
                return response.status == HTTPStatus.OK
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def load(self, name: str, directory: Path) -> None:
        status, text = await self._call(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)}
        )
        # 400 "already been loaded": somebody was here before; the name is never given to other weights.
        if status != HTTPStatus.OK and not (
            status == HTTPStatus.BAD_REQUEST and "already been loaded" in text
        ):
            raise EngineFault(f"The engine refused to load {name}: {_message(text)}")

    async def unload(self, name: str) -> None:
        status, text = await self._call("/v1/unload_lora_adapter", {"lora_name": name})
        if status not in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
            raise EngineFault(f"The engine refused to unload {name}: {_message(text)}")

    async def loaded(self) -> frozenset[str]:
        with _translated(self._model_id):
            timeout = aiohttp.ClientTimeout(total=_LOAD_TIMEOUT_S)
            async with self._http().get("http://engine/v1/models", timeout=timeout) as response:
                cards = (await response.json())["data"]
        # Base models have no parent. On a CPU the base model's id is an adapter's, too (zeros.py), and stays.
        adapters = (card["id"] for card in cards if card.get("parent"))
        return frozenset(name for name in adapters if name != self._model_id)

    async def build(self) -> str:
        with _translated(self._model_id):
            timeout = aiohttp.ClientTimeout(total=_LOAD_TIMEOUT_S)
            async with self._http().get("http://engine/version", timeout=timeout) as response:
                version = (await response.json())["version"]
        return f"vllm {version}"

    async def logprobs(
        self, model: str, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]] | None:
        # 0 alternatives: each entry has the prompt's own token. One token must be generated, and is thrown away.
        body = {"model": model, "prompt": prompts, "max_tokens": 1, "prompt_logprobs": 0}
        status, text = await self._call("/v1/completions", body)
        if status == HTTPStatus.NOT_FOUND:
            raise Unavailable(f"The engine has forgotten {model}. Try again.", retry_after=1)
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        try:
            choices = sorted(json.loads(text)["choices"], key=lambda choice: choice["index"])
            return [_of_prompt(*pair) for pair in zip(prompts, choices, strict=True)]
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFault(
                f"The engine did not say what {model} thinks of a prompt: {_message(text)}"
            ) from error

    async def metrics(self) -> str:
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        with _translated(self._model_id):
            async with self._http().get("http://engine/metrics", timeout=timeout) as response:
                return await response.text()

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] = _NO_HEADERS
    ) -> AsyncIterator[EngineReply]:
        headers = {"content-type": "application/json", **headers}
        with _translated(self._model_id):
            async with self._http().post(
                f"http://engine{path}", data=body, headers=headers
            ) as response:
                yield EngineReply(
                    status=response.status,
                    content_type=response.headers.get("content-type", "application/json"),
                    body=self._chunks(response),
                )

    async def close(self) -> None:
        """Close pooled connections."""
        if self._session is not None:
            await self._session.close()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        with _translated(self._model_id):
            async for chunk in response.content.iter_any():
                yield chunk

    async def _call(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=_LOAD_TIMEOUT_S)
        with _translated(self._model_id):
            async with self._http().post(
                f"http://engine{path}", json=body, timeout=timeout
            ) as response:
                return response.status, await response.text()

    def _http(self) -> aiohttp.ClientSession:
        # Made on first use: a session belongs to a running loop.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(
                    str(self._socket), limit=0, keepalive_timeout=UNUSED_CONNECTION_S
                ),
                # An engine sets none, and each request would ask which to send.
                cookie_jar=aiohttp.DummyCookieJar(),
                # No total: a long generation is no error. A silent socket is noticed by the engine's watch.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            )
        return self._session


@contextmanager
def _translated(model_id: str) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, ConnectionError, FileNotFoundError, TimeoutError) as error:
        raise Unavailable(
            f"The engine of '{model_id}' went away while working on this. Try again.", retry_after=5
        ) from error


def _of_prompt(prompt: Sequence[int], choice: dict[str, Any]) -> list[float]:
    """What vLLM says of a prompt's tokens; of the first there is nothing to say."""
    told = zip(prompt[1:], choice["prompt_logprobs"][1:], strict=True)
    return [float(entry[str(token)]["logprob"]) for token, entry in told]


def _message(text: str) -> str:
    try:
        return discreet(str(json.loads(text)["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return discreet(text[:500])
