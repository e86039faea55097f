"""An engine that speaks as vLLM does, over a real Unix socket, without a model.

It answers `<model>: <last user message>`, one token per word, so that a test can see who answered and count chunks.
It obeys the same conformance suite as vLLM (tests/conformance/test_engine.py).
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.loops import loops


class FakeEngine:
    """One fake vLLM server; `start` and `kill` as often as you like."""

    def __init__(self, socket: Path, model_id: str) -> None:
        self.socket = socket
        self.model_id = model_id
        self.adapters: dict[str, str] = {}
        self.loads: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.cancelled = 0
        self.running = 0
        #: What a test makes slow or wrong.
        self.load_seconds = 0.0
        self.token_seconds = 0.0
        self.refuse: set[str] = set()
        #: Seconds before a model's answers.
        self.slow: dict[str, float] = {}
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def kill(self) -> None:
        """Drop every connection and forget every adapter, as a process that is killed does."""
        if self._runner is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
        self._runner = None
        self.adapters.clear()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _request: web.Request) -> web.Response:
        names = [self.model_id, *self.adapters]
        return web.json_response({"object": "list", "data": [{"id": name} for name in names]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        await asyncio.sleep(self.load_seconds)
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if name in self.refuse or not (path / "adapter_config.json").exists():
            return _error(404 if name not in self.refuse else 500, f"Loading lora {name} failed")
        self.adapters[name] = str(path)
        self.loads.append(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        said = body["messages"][-1]["content"] if body.get("messages") else ""
        return await self._answer(request, body, said, "chat.completion")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._answer(request, body, body["prompt"], "text_completion")

    async def _answer(
        self, request: web.Request, body: dict[str, Any], said: str, kind: str
    ) -> web.StreamResponse:
        self.bodies.append(body)
        if body["model"] not in {self.model_id, *self.adapters}:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if not 0 <= body.get("temperature", 1) <= 2:
            return _error(400, "temperature must be in [0, 2]", param="temperature")
        words, reason = _until_it_loops(_words(body, said), body.get("repetition_detection"))
        self.running += 1
        try:
            if body.get("stream"):
                return await self._stream(request, body["model"], words, kind, reason)
            await asyncio.sleep(self.token_seconds * len(words) + self.slow.get(body["model"], 0.0))
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        text = " ".join(words)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice |= (
            {"message": {"role": "assistant", "content": text}}
            if kind == "chat.completion"
            else {"text": text}
        )
        return web.json_response({"object": kind, "model": body["model"], "choices": [choice]})

    async def _stream(
        self, request: web.Request, model: str, words: list[str], kind: str, reason: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for index, word in enumerate(words):
            text = word if index == 0 else f" {word}"
            choice = {"index": 0, "delta": {"content": text}, "text": text}
            chunk = {"object": f"{kind}.chunk", "model": model, "choices": [choice]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(self.token_seconds)
        if reason != "stop":
            last = {"index": 0, "delta": {}, "text": "", "finish_reason": reason}
            chunk = {"object": f"{kind}.chunk", "model": model, "choices": [last]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def _words(body: dict[str, Any], said: str) -> list[str]:
    """One that may say only one token says it until it is stopped."""
    allowed = body.get("allowed_token_ids")
    if allowed:
        return [f"<{allowed[0]}>"] * body["max_tokens"]
    return f"{body['model']}: {said}".split(" ")


def _until_it_loops(words: list[str], detection: dict[str, int] | None) -> tuple[list[str], str]:
    """The words up to where they loop, if that is looked for, and why they end."""
    for length in range(1, len(words) + 1) if detection else ():
        if loops(words[:length], **detection):
            return words[:length], "repetition"
    return words, "stop"


def _error(status: int, message: str, param: str | None = None) -> web.Response:
    body = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return web.json_response({"error": body}, status=status)
