"""`python -m service.engine.canary MODEL`: whether the engine still generates, found out by one token.

For the liveness probe of an engine's container. vLLM's `/health` answers 200 while the core behind it is dead or hangs
(CVE-2026-114051), so only a generation says that it lives.
"""

import argparse
import asyncio
import json
import sys

from adapters.errors import GraftError
from adapters.settings import LedgerSettings
from service.engine.client import VllmEngine
from service.engine.protocol import Engine

_OK = 200


def main() -> None:
    """Exit with 0 if the engine answered in time, with a sentence and 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m service.engine.canary", description=__doc__)
    parser.add_argument("model", help="id of the base model")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds that it may take")
    arguments = parser.parse_args()
    try:
        ledger = LedgerSettings()
        engine = VllmEngine(ledger.engine_socket(arguments.model), arguments.model)
        said = asyncio.run(_ask(engine, arguments.model, arguments.timeout))
    except GraftError as error:
        said = str(error)
    if said:
        sys.exit(f"graft: {said}")


async def _ask(engine: VllmEngine, model: str, timeout: float) -> str:  # noqa: ASYNC109  a bound, not a habit
    try:
        return await sing(engine, model, timeout)
    finally:
        await engine.close()


async def sing(engine: Engine, model: str, timeout: float) -> str:  # noqa: ASYNC109
    """Ask the base model for one token. Returns what is wrong, or nothing.

    Raises:
        Unavailable: the engine is not there.
    """
    body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        async with (
            asyncio.timeout(timeout),
            engine.post("/v1/completions", json.dumps(body).encode()) as reply,
        ):
            text = b"".join([chunk async for chunk in reply.body])
    except TimeoutError:
        return f"The engine of '{model}' generated nothing within {timeout:g} s."
    if reply.status != _OK:
        return f"The engine of '{model}' answered {reply.status}: {text[:200].decode(errors='replace')}"
    return ""


if __name__ == "__main__":
    main()
