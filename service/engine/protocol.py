"""What the service needs of an engine. vLLM is one; `tests/support/fake_engine.py` is another."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(slots=True)
class EngineReply:
    """An answer that is still arriving. `body` yields bytes as the engine sends them, unparsed."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]


class Engine(Protocol):
    """One running base model.

    Eight methods, all of HTTP's making: that is vLLM's one stable surface (docs/adr/0004-vllm-behind-one-seam.md).
    Names given to `load` are used once and for all: a name never comes back with other weights, because the engine's
    prefix cache is keyed by it.
    """

    async def healthy(self) -> bool:
        """Whether it answers."""

    async def load(self, name: str, directory: Path) -> None:
        """Register an adapter. Raises EngineFault when the engine refuses it, Unavailable when it is not there."""

    async def unload(self, name: str) -> None:
        """Forget an adapter; unknown ones are no error. Raises Unavailable."""

    async def loaded(self) -> frozenset[str]:
        """Names of the registered adapters. Raises Unavailable."""

    async def build(self) -> str:
        """Which release of which engine it is. Raises Unavailable."""

    async def logprobs(
        self, model: str, prompts: Sequence[Sequence[int]]
    ) -> list[list[float]] | None:
        """What a model thinks of each token of some prompts from the second one on, in nats; one request.

        None where the engine does not take such prompts. Raises EngineFault, and Unavailable, also where the engine
        does not know the model (any more).
        """

    async def metrics(self) -> str:
        """What it says of itself, in Prometheus's text format. Raises Unavailable."""

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str] = ...
    ) -> AbstractAsyncContextManager[EngineReply]:
        """Send a request; leaving the context cancels what has not been generated. Raises Unavailable.

        `headers` say whose part it is, for whoever traces: W3C's `traceparent` and `tracestate`.
        """
