"""`python -m service.engine.canary MODEL`: whether the engine still generates, found out by one token.

For the liveness probe of an engine's container. vLLM's `/health` answers 200 while the core behind it is dead or hangs
(CVE-2026-114051), so only a generation says that it lives.
"""

import argparse
import asyncio
import sys

from adapters.errors import GraftError
from adapters.settings import LedgerSettings
from service.engine.client import VllmEngine
from service.engine.singing import sing


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


if __name__ == "__main__":
    main()
