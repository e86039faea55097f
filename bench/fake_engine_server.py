"""`python -m bench.fake_engine_server SOCKET MODEL`: the tests' fake engine as a process of its own.

It ends with its standard input, and so with whoever started it, however that ends.
"""

import asyncio
import sys
from pathlib import Path

from tests.support.fake_engine import FakeEngine


async def serve(socket: Path, model_id: str) -> None:
    """Until standard input closes."""
    engine = FakeEngine(socket, model_id)
    await engine.start()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await engine.kill()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
