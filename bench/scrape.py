"""What Prometheus costs a service with very many adapters: while a scrape is made, no token is passed on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from fastapi.routing import APIRoute

from adapters.ledger import CheckpointShelf, Registry, open_ledger
from adapters.settings import BaseModelSettings, LedgerSettings
from bench.measure import Settings, interleave, seconds
from bench.resolve import BASE, Changes, adapter
from bench.table import Row, Table
from service.app import Configuration, create_app
from service.catalog import Catalog
from service.engine.client import VllmEngine
from service.engines import EngineHost, Engines
from service.limits import Limits
from service.metrics import Metrics
from service.prover import Prover
from service.residency import Residency
from service.scrape import Scrape
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from service.tallies import Ending

ADAPTERS = 1000
FEW = 10
_OUTCOMES = ("ok", "ok", "ok", "client_error", "cancelled")
_STATUSES = (200, 404)


@dataclass(frozen=True, slots=True)
class Busy:
    """As much of a service as a scrape looks at, with all that its instruments can be told."""

    scrape: Scrape
    catalog: Catalog


def run(settings: Settings) -> Table:
    """Against ourselves with few adapters: the figure is to be the same however many there are."""
    with asyncio.Runner() as runner, TemporaryDirectory() as folder:
        contexts = [busy_service(Path(folder) / str(size), size) for size in (ADAPTERS, FEW)]
        many, few = [runner.run(context.__aenter__()) for context in contexts]

        def milliseconds(busy: Busy) -> float:
            return 1e3 * seconds(lambda: runner.run(busy.scrape.own()))

        try:
            length = len(runner.run(many.scrape.own()))
            pairs = interleave(
                settings.rounds, lambda: milliseconds(many), lambda: milliseconds(few)
            )
        finally:
            for context in contexts:
                runner.run(context.__aexit__(None, None, None))
    return Table(
        name="scrape",
        what=(
            f"milliseconds of one `GET /metrics`, without HTTP: the ledger's counts (SQLite), the disk, and everything "
            f"as text. {ADAPTERS} adapters with requests each, every route asked with two outcomes, "
            f"{length:,} bytes. The peer has {FEW} adapters"
        ),
        rows=[
            Row(
                name=f"{ADAPTERS} adapters; peer: ours with {FEW}",
                unit="ms",
                better="lower",
                ours=[mine for mine, _ in pairs],
                peer=[other for _, other in pairs],
            )
        ],
    )


@asynccontextmanager
async def busy_service(home: Path, adapters: int = ADAPTERS) -> AsyncIterator[Busy]:
    """A service that so many adapters have been asked of, and every route."""
    ledger_settings = LedgerSettings(
        home=home, base_models=(BaseModelSettings(id=BASE, source="/nowhere"),)
    )
    ledger = open_ledger(ledger_settings)
    names = [f"adapter-of-usual-length-{number}" for number in range(adapters)]
    catalog = Catalog(
        cast(Registry, Changes([adapter(name) for name in names])),
        [BASE],
        cast(CheckpointShelf, None),
    )
    await catalog.refresh()
    metrics = Metrics()
    metrics.expect(BASE)
    engine = VllmEngine(home / "nobody.sock", BASE)
    prover = Prover(
        engine,
        ledger.verdicts,
        number_format=lambda: "float32",
        base_model_dir=lambda _: home,
        metrics=metrics,
    )
    residency = Residency(
        engine, capacity=16, directory_of=lambda _: home, prover=prover, metrics=metrics
    )
    limits = Limits(
        ledger, EngineSettings(), base_models=[BASE], card_of=lambda _: None, most_waiting=1
    )
    hosts = {BASE: EngineHost(BASE, engine, residency, metrics=metrics)}
    hosts[BASE].mark_down()
    _ask_everybody(metrics, names)
    _ask_everything(metrics, ledger_settings)
    yield Busy(Scrape(ledger, limits, catalog, Engines(hosts), metrics, home), catalog)
    await engine.close()
    ledger.close()


def _ask_everybody(metrics: Metrics, names: list[str]) -> None:
    for number in range(5 * len(names)):
        ending = Ending(
            _OUTCOMES[number % len(_OUTCOMES)],
            seconds=number % 7,
            first_token_seconds=0.1,
            prompt_tokens=100,
            completion_tokens=200,
        )
        metrics.answers.note(BASE, "adapter", ending)
        metrics.answers.note(BASE, "base", ending)
        # In the order of one adapter after the other, so that all outcomes meet every one of them.
        metrics.by_adapter.of(names[number // 5]).note(ending)


def _ask_everything(metrics: Metrics, ledger: LedgerSettings) -> None:
    app = create_app(Configuration(ledger, ServiceSettings(), EngineSettings(), WebhookSettings()))
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        for method in route.methods:
            for status in _STATUSES:
                metrics.http.note(route.path, method, status, seconds=0.1)
