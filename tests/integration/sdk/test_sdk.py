"""Three versions of OpenAI's SDK, synchronous and asynchronous, against the real service; a test plays the trainer."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from adapters.ledger import open_ledger
from service.settings import WebhookSettings
from tests.integration.sdk import scenarios
from tests.integration.sdk.player import Player
from tests.integration.service.conftest import BASE, ledger_settings, serving, until
from tests.support.fake_engine import FakeEngine
from tests.support.samples import new_job, render
from tools.sdks import WANTED, interpreter

NEWEST = "newest"
VERSIONS = [NEWEST, *WANTED]
#: A scenario listens on this machine.
OPEN = WebhookSettings(allow_private=True, poll_seconds=0.02)


@asynccontextmanager
async def house(home: Path) -> AsyncIterator[str]:
    """The service's base URL; jobs are trained while it is open."""
    settings = ledger_settings(home)
    engine = FakeEngine(settings.engine_socket(BASE), BASE)
    await engine.start()
    ledger = open_ledger(settings)
    player = Player(ledger, BASE, home / "made")
    async with serving(home, webhooks=OPEN, engine_wait_seconds=5) as (client, url):

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(ready)
        playing = asyncio.create_task(player.play())
        yield f"{url}/v1"
        player.stop()
        await playing
    ledger.close()
    await engine.kill()


@pytest.fixture(scope="module")
def played() -> dict[tuple[str, str], dict[str, object]]:
    """What each SDK has found, played once a module."""
    return {}


@pytest.mark.parametrize("scenario", [one.__name__ for one in scenarios.SCENARIOS])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_sdk_is_served(version, mode, scenario, played, tmp_path):
    if (version, mode) not in played:
        played[version, mode] = await play(version, mode, tmp_path)
    told = played[version, mode]
    expected = openai.__version__ if version == NEWEST else version
    assert told["version"] == expected
    problem = told["found"][scenario]
    assert problem is None, problem


async def play(version: str, mode: str, folder: Path) -> dict[str, object]:
    own = folder / "scenarios"
    own.mkdir()
    queue_many(folder / "home", 250)
    async with house(folder / "home") as base_url:
        process = await asyncio.create_subprocess_exec(
            python_of(version),
            scenarios.__file__,
            base_url,
            mode,
            str(own),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def python_of(version: str) -> str:
    """The interpreter that has this SDK."""
    return sys.executable if version == NEWEST else str(interpreter(version))


def queue_many(home: Path, count: int) -> None:
    """Jobs that wait for a base model which nobody trains."""
    home.mkdir()
    ledger = open_ledger(ledger_settings(home))
    for number in range(count):
        ledger.jobs.submit(new_job(f"crowd-{number}", "another-base"), render=render)
    ledger.close()
