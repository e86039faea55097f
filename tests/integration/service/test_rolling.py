"""What Kubernetes is told by a service that is to be stopped, and by an engine that has died or hangs."""

import asyncio
import os
import subprocess
import sys

import httpx

from adapters.settings import LedgerSettings
from service.drain import leave
from service.engine.client import VllmEngine
from service.engine.singing import sing
from tests.integration.service.conftest import BASE, Running


def environment(home):
    models = f'[{{"id": "{BASE}", "source": "/nowhere"}}]'
    return {**os.environ, "GRAFT_HOME": str(home), "GRAFT_BASE_MODELS": models}  # noqa: TID251


async def test_a_service_that_leaves_is_not_ready_and_answers_all_the_same(service: Running):
    leave(service.home / "run", 0)
    told = await service.http.get("/readyz")
    assert (told.status_code, told.json()["status"]) == (503, "leaving")
    assert (await service.http.get("/healthz")).status_code == 200
    body = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}]}
    assert (await service.http.post("/v1/chat/completions", json=body)).status_code == 200


async def test_the_canary_asks_the_base_model_for_one_token(service: Running):
    engine = VllmEngine(service.engine.socket, BASE)
    assert await sing(engine, BASE, 10) == ""
    assert service.engine.bodies[-1]["max_tokens"] == 1
    await engine.close()


async def test_an_engine_that_hangs_is_found_out_though_it_is_healthy(service: Running):
    engine = VllmEngine(service.engine.socket, BASE)
    service.engine.token_seconds = 30
    assert await engine.healthy()
    assert "generated nothing within 0.2 s" in await sing(engine, BASE, 0.2)
    await engine.close()


async def test_the_probe_of_a_dead_engine_fails_and_of_a_living_one_does_not(service: Running):
    async def probe():
        command = [sys.executable, "-m", "service.engine.canary", BASE, "--timeout", "10"]
        process = await asyncio.create_subprocess_exec(
            *command, env=environment(service.home), stderr=subprocess.PIPE
        )
        _, said = await process.communicate()
        return process.returncode, said.decode()

    assert await probe() == (0, "")
    await service.engine.kill()
    code, said = await probe()
    assert code == 1
    assert "went away" in said


def test_the_database_can_be_migrated_by_a_process_that_does_nothing_else(tmp_path):
    command = [sys.executable, "-m", "adapters", "migrate"]
    for _ in range(2):
        done = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert LedgerSettings(home=tmp_path).database.endswith("graft.db")
    assert (tmp_path / "graft.db").is_file()


async def test_a_connection_outlasts_the_pause_after_which_clients_give_theirs_up(
    service: Running,
) -> None:
    """httpx, and with it OpenAI's SDK, uses a connection again for five seconds. Were it closed here as soon, a request
    would now and then meet the end of it."""
    longer = httpx.Limits(keepalive_expiry=60)
    async with httpx.AsyncClient(base_url=service.url, limits=longer) as client:
        first = await from_where(client)
        await asyncio.sleep(5.5)
        assert await from_where(client) == first


async def from_where(client: httpx.AsyncClient) -> object:
    """This end of the connection that a request takes."""
    told = await client.get("/healthz")
    return told.extensions["network_stream"].get_extra_info("client_addr")
