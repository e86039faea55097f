"""An engine that speaks as vLLM does, over a real Unix socket, without a model.

It answers `<model>: <last user message>`, one token per word (fake_answers.py), so that a test can see who answered and
count chunks. It can die in the middle.
It obeys the same conformance suite as vLLM (tests/conformance/test_engine.py).
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support import fake_answers, fake_exposition

Body = dict[str, Any]
_MAX_MODEL_LEN = 2048
_ANSWERS = {
    "/v1/chat/completions": (fake_answers.chat, fake_answers.chat_events),
    "/v1/completions": (fake_answers.completion, fake_answers.completion_events),
    "/v1/responses": (fake_answers.response, fake_answers.response_events),
    "/v1/messages": (fake_answers.message, fake_answers.message_events),
    "/v1/messages/count_tokens": (fake_answers.counted, None),
    "/tokenize": (fake_answers.tokenized, None),
    "/detokenize": (fake_answers.detokenized, None),
}


class FakeEngine:
    """One fake vLLM server; `start` and `kill` as often as you like."""

    def __init__(self, socket: Path, model_id: str) -> None:
        self.socket = socket
        self.model_id = model_id
        self.adapters: dict[str, str] = {}
        #: Adapters in the order in which they were loaded, and all that were to be.
        self.loads: list[str] = []
        self.tries: list[str] = []
        self.most_loading = self._loading = 0
        self.bodies: list[Body] = []
        #: What came with each of them for whoever traces.
        self.traces: list[dict[str, str]] = []
        self.cancelled = 0
        self.running = 0
        self.most_running = 0
        #: What a test makes slow or wrong.
        self.load_seconds = 0.0
        self.token_seconds = 0.0
        self.refuse: set[str] = set()
        #: Seconds before a model's answers.
        self.slow: dict[str, float] = {}
        #: Adapters in whose place the base model answers, and those in whose place another directory's weights do.
        self.passes_over: set[str] = set()
        self.mixes_up: dict[str, Path] = {}
        #: Status of what it says of the log-probabilities of prompts, where that is an error.
        self.probes_fail: int | None = None
        #: Says nothing of them before it is set, if there is one.
        self.slow_probes: asyncio.Event | None = None
        #: Who was asked, and of how many prompts.
        self.probes: list[str] = []
        self.probed: list[int] = []
        self.version = "0.32.0"
        self.asked_for_version = 0
        #: It dies once, before it has sent so many events (0: before a whole answer), or with the next half sent.
        self.die_before_event: int | None = None
        self.die_in_event: int | None = None
        #: It ends a stream here as if that were all.
        self.ends_before_event: int | None = None
        #: Whether another process takes its place at once, which knows of no adapters.
        self.comes_back = False
        self.deaths = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        for path, (whole, events) in _ANSWERS.items():
            app.router.add_post(path, partial(self._answer, whole=whole, events=events))
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def kill(self) -> None:
        """Drop every connection and forget every adapter, as a process that is killed does."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._abort_connections(runner)
            await runner.cleanup()
        self.adapters.clear()

    def _abort_connections(self, runner: web.AppRunner | None = None) -> None:
        runner = runner or self._runner
        for connection in list(runner.server.connections) if runner else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _request: web.Request) -> web.Response:
        self.asked_for_version += 1
        return web.json_response({"version": self.version})

    async def _metrics(self, _request: web.Request) -> web.Response:
        answered = len(self.bodies)
        return web.Response(text=fake_exposition.text(self.model_id, answered, self.running))

    async def _models(self, _request: web.Request) -> web.Response:
        base = {"id": self.model_id, "parent": None}
        adapters = [{"id": name, "parent": self.model_id} for name in self.adapters]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], Path(body["lora_path"])
        self.tries.append(name)
        self._loading += 1
        self.most_loading = max(self.most_loading, self._loading)
        await asyncio.sleep(self.load_seconds)
        self._loading -= 1
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

    async def _answer(
        self,
        request: web.Request,
        whole: Callable[[Body], Body],
        events: Callable[[Body], Iterator[bytes]] | None,
    ) -> web.StreamResponse:
        body = await request.json()
        if "prompt_logprobs" in body:
            return await self._probe(body)
        self.bodies.append(body)
        names = ("traceparent", "tracestate")
        self.traces.append({k: request.headers[k] for k in names if k in request.headers})
        if body["model"] not in {self.model_id, *self.adapters}:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if not 0 <= body.get("temperature", 1) <= 2:
            return _error(400, "temperature must be in [0, 2]", param="temperature")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if body.get("stream") and events is not None:
                return await self._stream(request, events(body))
            slow = self.slow.get(body["model"], 0.0)
            await asyncio.sleep(self.token_seconds * len(fake_answers.tokens(body)) + slow)
            await self._perhaps_die(0)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return web.json_response(whole(body))

    async def _probe(self, body: Body) -> web.Response:
        model = body["model"]
        self.probes.append(model)
        self.probed.append(len(body["prompt"]))
        if self.slow_probes is not None:
            await self.slow_probes.wait()
        if model not in {self.model_id, *self.adapters}:
            return _error(404, f"The model `{model}` does not exist.")
        if max(map(len, body["prompt"])) > _MAX_MODEL_LEN:
            return _error(400, f"This model's maximum context length is {_MAX_MODEL_LEN} tokens.")
        if self.probes_fail is not None:
            return _error(self.probes_fail, "No such thing.")
        plain = model == self.model_id or model in self.passes_over
        weights = None if plain else self.mixes_up.get(model, Path(self.adapters.get(model, "")))
        return web.json_response(fake_answers.probed(body, weights))

    async def _stream(self, request: web.Request, events: Iterator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for number, event in enumerate(events):
            await self._perhaps_die(number)
            if number == self.ends_before_event:
                break
            await response.write(event if self.die_in_event != number else event[:9])
            await self._perhaps_die(number, inside=True)
            await asyncio.sleep(self.token_seconds)
        return response

    async def _perhaps_die(self, events: int, *, inside: bool = False) -> None:
        if events == (self.die_in_event if inside else self.die_before_event):
            self.die_before_event = self.die_in_event = None
            self.deaths += 1
            # A moment for what was written to arrive, as it would from a process of its own.
            await asyncio.sleep(0.01)
            self._abort_connections()
            if self.comes_back:
                self.adapters.clear()
                raise ConnectionResetError
            asyncio.get_running_loop().create_task(self.kill())
            await asyncio.sleep(60)


def _error(status: int, message: str, param: str | None = None) -> web.Response:
    body = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return web.json_response({"error": body}, status=status)
