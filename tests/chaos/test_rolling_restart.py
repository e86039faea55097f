"""R12: two replicas are restarted, one after the other, behind a client that only asks who is ready."""

import asyncio
from contextlib import ExitStack, closing
from pathlib import Path

import httpx

from adapters.ledger import open_ledger
from tests.chaos.balancer import CHAT, Balancer, Clients, streamed
from tests.chaos.machines import START_S, Common, Machine, publish
from tests.chaos.siege import until
from tests.chaos.sizes import Chaos
from tests.support.samples import BASE

#: How long a replica waits after it has said that it leaves: some looks of the balancer's, also on a busy machine.
HEARD_S = 1.5
#: Until one of them meets a stream.
MOST_RESTARTS = 12


async def test_replicas_are_restarted_one_after_the_other_and_no_request_fails(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """Streams that are under way when a replica is told to stop are no exception: all are shorter than its patience."""
    wanted, restarts, caught = chaos.of_size(ci=2_000, release=10_000), 0, 0
    with (
        chaos.experiment("R12", "rolling restart of two replicas, PostgreSQL and S3") as found,
        ExitStack() as stack,
    ):
        machines = [
            stack.enter_context(closing(Machine(tmp_path / name, shared))) for name in ("m1", "m2")
        ]
        for machine in machines:
            machine.open()
        ledger = stack.enter_context(closing(open_ledger(shared.settings(tmp_path / "desk"))))
        contents = dict(publish(ledger, tmp_path / "made", f"bot-{at}") for at in range(6))
        balancer = Balancer([machine.url for machine in machines])
        clients = Clients(balancer, contents, chaos.dice("R12"))
        async with balancer.looking(), asyncio.TaskGroup() as group:
            group.create_task(clients.ask(16))
            # Whether a stream is under way when a replica is told to stop is chance.
            while (
                clients.tally.requests < wanted
                or restarts < len(machines)
                or (not caught and restarts < MOST_RESTARTS)
            ):
                machine = machines[restarts % len(machines)]
                caught += await restart(machine, clients)
                restarts += 1
            clients.stop()
        tally = clients.tally
        assert tally.failures == []
        assert caught, "no stream was under way when a replica was told to stop"
        found.trials, found.unit = tally.requests, f"requests, {restarts} restarts"
        found.result = (
            f"0 failed; {tally.streams:,} were streams, and {caught} of them, "
            "under way at a replica that was told to stop, ended whole"
        )


async def restart(machine: Machine, clients: Clients) -> int:
    """As a cluster does. Returns how many streams were under way when the service was told to stop."""
    await asyncio.to_thread(machine.announce, HEARD_S)
    caught = clients.streaming[machine.url]
    await asyncio.to_thread(machine.stop, "service")
    assert clients.streaming[machine.url] == 0
    machine.start("service")
    await asyncio.to_thread(until, machine.is_ready, START_S)
    await asyncio.sleep(0.5)
    return caught


async def test_what_outlasts_the_patience_of_a_service_that_stops_is_told_so(
    chaos: Chaos, tmp_path: Path, shared: Common
) -> None:
    """A stream ends with an error event, and what is not streamed with a 503 that says when to come back."""
    each = chaos.of_size(ci=6, release=100)
    with (
        chaos.experiment("R12 too long", "requests longer than a stopping service waits") as found,
        closing(Machine(tmp_path / "m1", shared, service={"drain_seconds": 1})) as machine,
    ):
        machine.open()
        said = [{"role": "user", "content": "say it 3000 times" + " please" * 3000}]
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=60, limits=limits) as http:
            body = {"model": BASE, "messages": said}
            streams = [
                asyncio.create_task(streamed(http, machine.url, body | {"stream": True}))
                for _ in range(each)
            ]
            wholes = [
                asyncio.create_task(http.post(machine.url + CHAT, json=body)) for _ in range(each)
            ]
            await asyncio.sleep(1)
            await asyncio.to_thread(machine.stop, "service")
            for ended in await asyncio.gather(*streams, return_exceptions=True):
                assert isinstance(ended, AssertionError), ended
                assert "The service is being stopped" in str(ended)
            for answer in await asyncio.gather(*wholes):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json()["error"]["code"] == "engine_unavailable"
        found.trials, found.unit = 2 * each, "requests"
        found.result = f"{each} streams ended with an error event, {each} other requests with a 503"
