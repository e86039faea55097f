"""How much a scrape of a service with very many adapters comes to. What it takes is `bench scrape`'s to say."""

import asyncio
from pathlib import Path

from prometheus_client import generate_latest

from bench.scrape import ADAPTERS, busy_service
from service.metrics import Metrics
from service.tallies import Ending
from tests.support.in_process import answering

ALLOWED_BYTES = 200_000
ALLOWED_SERIES = 2000


def series_of(text: bytes) -> int:
    return sum(not line.startswith(b"#") for line in text.splitlines())


def test_a_thousand_adapters_with_traffic_each_make_a_bounded_scrape(tmp_path: Path) -> None:
    async def scrape() -> tuple[bytes, int]:
        async with busy_service(tmp_path) as state:
            return await state.scrape.own(), len(state.catalog.adapters)

    text, registered = asyncio.run(scrape())
    assert f"graft_adapters {float(ADAPTERS)}".encode() in text
    assert registered == ADAPTERS == 1000
    assert b'graft_adapter_requests_total{adapter="other"' in text
    assert len(text) < ALLOWED_BYTES
    assert 1000 < series_of(text) < ALLOWED_SERIES


def test_twenty_thousand_make_no_more_than_a_thousand() -> None:
    def asked(adapters: int) -> int:
        metrics = Metrics()
        for number in range(adapters):
            metrics.by_adapter.of(f"bot-{number}").note(Ending("ok", seconds=0.1))
        return series_of(generate_latest(metrics.registry))

    assert asked(20_000) == asked(1000) > asked(10)


def test_what_a_client_makes_up_is_no_label(tmp_path: Path) -> None:
    with answering(tmp_path) as http:
        for number in range(5):
            http.request(f"ODD{number}", "/v1/models")
            http.get(f"/nowhere/{number}")
        text = http.get("/metrics").text
    assert "ODD" not in text
    assert "nowhere" not in text
    assert 'method="other"' in text


def test_no_series_says_when_its_counter_was_made() -> None:
    metrics = Metrics()
    metrics.engines.restarts.labels("m").inc()
    text = generate_latest(metrics.registry)
    assert b"graft_engine_restarts_total{" in text
    assert b"_created" not in text
