"""One token, to see whether an engine generates at all."""

import asyncio
import json
from http import HTTPStatus

from service.engine.protocol import Engine


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
    if reply.status != HTTPStatus.OK:
        return f"The engine of '{model}' answered {reply.status}: {text[:200].decode(errors='replace')}"
    return ""
