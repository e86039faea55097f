"""R13, R14, R23: the service over HTTP, with the fake engine: clients that leave, too many, and one key 50 times."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.chaos.sizes import Chaos
from tests.integration.service.conftest import (
    BASE,
    Running,
    service as service,  # noqa: PLC0414  a fixture
    serving,
    until,
)

ROWS = [{"input": f"question {number}", "target": f"answer {number}"} for number in range(12)]


def question(words: int, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": " ".join(["word"] * words)}]
    return {"model": BASE, "messages": messages, **more}


async def test_clients_that_leave_in_the_middle_leave_nothing_behind(
    chaos: Chaos, service: Running
) -> None:
    """Half of them close their connection after some events of their stream."""
    dice, clients = chaos.dice("R13"), chaos.of_size(ci=200, release=20_000)
    at_once = asyncio.Semaphore(40)
    service.engine.token_seconds = 0.002

    async def one(leaves_after: int | None) -> None:
        body = question(20, stream=True)
        async with at_once, service.http.stream("POST", "/v1/chat/completions", json=body) as told:
            assert told.status_code == 200
            seen = 0
            async for line in told.aiter_lines():
                seen += line.startswith("data: ")
                if leaves_after is not None and seen > leaves_after:
                    return
            assert line == "" or line.endswith("[DONE]")

    with chaos.experiment("R13", "half of the clients leave in the middle of a stream") as found:
        leaving = [dice.randrange(15) if dice.random() < 0.5 else None for _ in range(clients)]
        await asyncio.gather(*map(one, leaving))

        async def idle() -> bool:
            return service.engine.running == 0

        await until(idle, timeout=5)
        told = (await service.http.get("/metrics")).text
        waiting = [
            line for line in told.splitlines() if line.startswith("graft_") and "waiting" in line
        ]
        assert all(float(line.rsplit(" ", 1)[1]) == 0 for line in waiting), waiting
        answer = await service.http.post("/v1/chat/completions", json=question(3))
        assert answer.status_code == 200
        found.trials, found.unit = clients, "clients"
        found.result = "0 requests left running in the engine within 5 s, and it answers"


async def test_five_times_too_many_requests_are_refused_politely_and_it_recovers(
    chaos: Chaos, tmp_path: Path, service: Running
) -> None:
    """Every client tries once. Who is refused is told when to come back; who was let in is answered whole."""
    rounds = chaos.of_size(ci=1, release=20)
    service.engine.token_seconds = 0.01
    with chaos.experiment(
        "R14", "five times as many requests at once as there is room for"
    ) as found:
        async with (
            serving(tmp_path, max_running=8, max_waiting=32, engine_wait_seconds=0.2) as (
                http,
                url,
            ),
            httpx.AsyncClient(
                base_url=url, timeout=30, limits=httpx.Limits(max_connections=None)
            ) as many,
        ):

            async def ready() -> bool:
                return (await http.get("/readyz")).status_code == 200

            await until(ready)
            refused = answered = 0
            for _ in range(rounds):
                asked = [many.post("/v1/chat/completions", json=question(10)) for _ in range(200)]
                for answer in await asyncio.gather(*asked):
                    if answer.status_code == 200:
                        assert answer.json()["choices"][0]["message"]["content"].endswith("word")
                        answered += 1
                    else:
                        assert answer.status_code in {429, 503}
                        assert int(answer.headers["retry-after"]) >= 1
                        refused += 1
                after = await http.post("/v1/chat/completions", json=question(3))
                assert after.status_code == 200, "it does not recover at once"
            assert refused
            assert answered >= 40 * rounds
        found.trials, found.unit = 200 * rounds, "requests"
        found.result = f"{refused:,} refused with Retry-After, {answered:,} answered, 0 others"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_one_idempotency_key_fifty_times_at_two_services_makes_one_job(
    database: str,
    chaos: Chaos,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if database == "postgres":
        monkeypatch.setenv("GRAFT_DATABASE_URL", request.getfixturevalue("database_url"))
    rounds = chaos.of_size(ci=2, release=20)
    with chaos.experiment(
        f"R23 {database}", f"one Idempotency-Key 50 times at once, at two services, {database}"
    ) as found:
        async with serving(tmp_path) as (one, _), serving(tmp_path) as (other, _):
            for number in range(rounds):
                body = {"data": ROWS, "name": f"bot-{number}"}
                headers = {"Idempotency-Key": f"key-{number}"}
                asked = [
                    client.post("/finetune", json=body, headers=headers)
                    for _ in range(25)
                    for client in (one, other)
                ]
                answers = await asyncio.gather(*asked)
                told = {answer.status_code for answer in answers}
                assert told <= {202, 409}, [answer.text for answer in answers][:3]
                assert all("retry-after" in a.headers for a in answers if a.status_code == 409)
                made = {answer.json()["id"] for answer in answers if answer.status_code == 202}
                again = await one.post("/finetune", json=body, headers=headers)
                assert {again.json()["id"]} == made
            listed = (await other.get("/finetune", params={"limit": 100})).json()["data"]
            assert len(listed) == rounds
        found.trials, found.unit = rounds, "rounds"
        found.result = f"{rounds} keys, {rounds} jobs"
