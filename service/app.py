"""The service's composition root: every part is made here, once, and handed on."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from adapters.files import MAX_PART_BYTES
from adapters.ledger import Ledger, open_ledger
from adapters.manifest import BaseModelCard, read_base_card
from adapters.settings import (
    LedgerSettings,
    QueueSettings,
    Quota,
    QuotaSettings,
    TelemetrySettings,
)
from adapters.traces import Tracer, open_tracer
from service.admission import Admission
from service.background import followed
from service.catalog import Catalog
from service.decision import Decider
from service.drain import is_leaving, present
from service.engines import Engines
from service.errors import install_error_handlers
from service.filing import Filing
from service.finetune import Intake
from service.fleet import EngineFactory, Fleet, seats_of
from service.generate import Generator
from service.importing import BaseModels, Importer
from service.incoming import incoming_folder
from service.keys.access import open_paths
from service.keys.gate import Gate
from service.keys.hosts import Hosts
from service.keys.ring import KeyRing
from service.limits import Limits
from service.looking import Lookout, Surroundings
from service.metrics import Metrics
from service.middleware import BodyLimit, LastResort, RequestIds, Traces, Watch
from service.openapi import publish
from service.rates import Rates
from service.routes import (
    adapters,
    aliases,
    checkpoints,
    completions,
    files,
    finetune,
    health,
    importing,
    jobs,
    keys,
    looking,
    models,
    pausing,
    queue,
    results,
    shares,
    uploads,
    usage,
    webhooks,
)
from service.scrape import Scrape
from service.settings import EngineSettings, ServiceSettings, WebhookSettings, has_nvidia_gpu
from service.shadow import Shadows
from service.state import ServiceState, Views
from service.tokens.process import TokenProcess, Tokens
from service.underway import Underway
from service.webhooks.courier import Courier
from service.webhooks.endpoints import Endpoints
from service.webhooks.guard import Guard
from service.webhooks.post import Postman


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of everything that the service touches."""

    ledger: LedgerSettings
    service: ServiceSettings
    engine: EngineSettings
    webhooks: WebhookSettings
    queue: QueueSettings = field(default_factory=QueueSettings)
    quotas: QuotaSettings = field(default_factory=QuotaSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)


@dataclass(frozen=True, slots=True)
class Parts:
    """What holds something open, made first and closed last."""

    ledger: Ledger
    engines: Engines
    metrics: Metrics
    guard: Guard
    courier: Courier
    tokens: Tokens
    shadows: Shadows


@dataclass(frozen=True, slots=True)
class Common:
    """What holds nothing open, and all tenants have in common."""

    catalog: Catalog
    admissions: Mapping[str, Admission]
    decider: Callable[[Ledger], Decider]
    card_of: Callable[[str], BaseModelCard | None]
    incoming: Path


_UPLOADS = (
    "/adapters",
    "/v1/adapters",
    "/finetune",
    "/v1/finetune",
    "/v1/files",
    "/datasets/validate",
    "/v1/datasets/validate",
    "/v1/fine_tuning/estimate",
    "/v1/fine_tuning/preview",
)
_PARTS = re.compile("/v1/uploads/[^/]+/parts")
#: What a form takes beside the bytes that it carries.
_FORM_BYTES = 1 << 20


def create_app(
    configuration: Configuration,
    *,
    connect: EngineFactory | None = None,
    tokens: Tokens | None = None,
) -> FastAPI:
    """The application.

    `connect` makes the engine of a base model; by default, vLLM on its socket. `tokens` says what rows come to in
    tokens; by default, a process that has the tokenizers.
    """
    settings = configuration.service
    metrics = _metrics(configuration)
    tracer = open_tracer(configuration.telemetry, "graft-service")
    underway = Underway()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, tracer.close)
            stack.enter_context(present(configuration.ledger.run_dir))
            ledger = await asyncio.to_thread(
                open_ledger,
                configuration.ledger,
                queue=configuration.queue,
                quotas=configuration.quotas,
                watch=metrics.store,
            )
            stack.callback(ledger.close)
            fleet = Fleet(configuration.ledger, configuration.engine, ledger, metrics, stack)
            hosts = fleet.hosts(configuration.ledger.base_model_ids, connect)
            guard = Guard(allow_private=configuration.webhooks.allow_private)
            postman = Postman(guard, timeout=configuration.webhooks.timeout_seconds)
            stack.callback(postman.close)
            courier = Courier(
                ledger.webhooks, ledger.changes, postman, configuration.webhooks, metrics=metrics
            )
            reader = tokens or TokenProcess(idle_seconds=settings.tokenizer_idle_seconds)
            stack.push_async_callback(reader.close)
            shadows = Shadows(most=settings.max_shadows, metrics=metrics)
            stack.push_async_callback(shadows.close)
            parts = Parts(ledger, Engines(hosts), metrics, guard, courier, reader, shadows)
            incoming = stack.enter_context(incoming_folder(configuration.ledger.home / "incoming"))
            common = _share(configuration, parts, incoming)
            views = Views(partial(_compose, configuration, parts, common))
            await stack.enter_async_context(followed(views.whole, settings, tracer))
            stack.push_async_callback(underway.end)
            yield {"service": views, "keys": KeyRing(ledger.keys)}

    app = FastAPI(
        title="graft",
        summary="POST a dataset, get back a model name that answers.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _dress(app, settings, metrics, tracer, underway)
    return app


def _metrics(configuration: Configuration) -> Metrics:
    metrics = Metrics(max_adapter_labels=configuration.service.max_adapter_labels)
    for base_model in configuration.ledger.base_model_ids:
        metrics.expect(base_model)
    if configuration.ledger.store is not None:
        metrics.store.expect()
    return metrics


def _dress(
    app: FastAPI, settings: ServiceSettings, metrics: Metrics, tracer: Tracer, underway: Underway
) -> None:
    """Its routes, what becomes of errors, and what holds for every request."""
    # Result files before other files: their ids begin with a prefix of their own.
    for module in (
        completions,
        models,
        finetune,
        looking,
        jobs,
        pausing,
        queue,
        checkpoints,
        adapters,
        aliases,
        shares,
        importing,
        results,
        files,
        uploads,
        webhooks,
        keys,
        usage,
        health,
    ):
        app.include_router(module.router)
    install_error_handlers(app)
    unlocked = open_paths(metrics=settings.open_metrics)
    publish(app, open_paths=unlocked if settings.auth else None)

    def limit_for(path: str) -> int:
        if _PARTS.fullmatch(path):
            return MAX_PART_BYTES + _FORM_BYTES
        return settings.max_upload_bytes if path in _UPLOADS else settings.max_body_bytes

    app.add_middleware(BodyLimit, limit_for=limit_for)
    app.add_middleware(Gate, keys=settings.auth, open_paths=unlocked)
    app.add_middleware(Hosts, names=settings.allowed_hosts, keys=settings.auth)
    app.add_middleware(LastResort)
    app.add_middleware(Watch, metrics=metrics, underway=underway)
    if tracer.on:
        app.add_middleware(Traces, tracer=tracer)
    app.add_middleware(RequestIds)


def _share(configuration: Configuration, parts: Parts, incoming: Path) -> Common:
    ledger, settings = parts.ledger, configuration.service
    base_models = configuration.ledger.base_model_ids
    seats = seats_of(configuration.service, configuration.engine)
    sampling = {model.id: model.sampling.given for model in configuration.ledger.base_models}

    def card_of(model_id: str) -> BaseModelCard | None:
        return read_base_card(configuration.ledger.base_model_dir(model_id))

    def admission(model_id: str) -> Admission:
        return Admission(model_id, settings, seats=seats, metrics=parts.metrics)

    return Common(
        catalog=Catalog(ledger.registry, base_models, ledger.checkpoints, sampling),
        admissions={model_id: admission(model_id) for model_id in base_models},
        decider=partial(
            Decider,
            engine=configuration.engine,
            base_models=base_models,
            card_of=card_of,
            caps=settings,
        ),
        card_of=card_of,
        incoming=incoming,
    )


def _compose(
    configuration: Configuration, parts: Parts, common: Common, tenant: str | None
) -> ServiceState:
    """The service as that tenant sees it; None sees everything."""
    ledger, catalog = parts.ledger, common.catalog
    if tenant is not None:
        ledger = ledger.of(tenant)
        catalog = catalog.of(tenant, ledger.checkpoints)
    settings, base_models = configuration.service, configuration.ledger.base_model_ids
    # Nobody asks a model in the view of everybody.
    rates = Rates(Quota() if tenant is None else configuration.quotas.of(tenant))
    intake = Intake(
        ledger,
        common.decider(ledger),
        base_models=base_models,
        most_waiting=settings.max_queued_jobs,
        guard=parts.guard,
    )
    limits = Limits(
        ledger,
        configuration.engine,
        base_models=base_models,
        card_of=common.card_of,
        most_waiting=settings.max_queued_jobs,
    )
    around = Surroundings(configuration.ledger.base_model_dir, common.card_of, gpu=has_nvidia_gpu())
    return ServiceState(
        ledger=ledger,
        catalog=catalog,
        engines=parts.engines,
        generator=Generator(
            settings=settings,
            catalog=catalog,
            engines=parts.engines,
            admissions=common.admissions,
            shadows=parts.shadows,
            metrics=parts.metrics,
            rates=rates,
        ),
        rates=rates,
        intake=intake,
        lookout=Lookout(intake, ledger, parts.tokens, around),
        limits=limits,
        importer=_importer(configuration, ledger, parts.metrics),
        filing=Filing(ledger, max_assembled_bytes=settings.max_assembled_bytes),
        metrics=parts.metrics,
        scrape=Scrape(
            ledger, limits, catalog, parts.engines, parts.metrics, configuration.ledger.home
        ),
        endpoints=Endpoints(ledger.webhooks, parts.guard, parts.courier),
        courier=parts.courier,
        incoming=common.incoming,
        leaving=partial(is_leaving, configuration.ledger.run_dir),
        openai_strict_status=settings.openai_strict_status,
    )


def _importer(configuration: Configuration, ledger: Ledger, metrics: Metrics) -> Importer:
    return Importer(
        ledger.registry,
        BaseModels(
            {model.id: model.source for model in configuration.ledger.base_models},
            configuration.ledger.base_model_dir,
        ),
        max_rank=configuration.engine.max_lora_rank,
        max_bytes=configuration.service.max_adapter_bytes,
        folders=configuration.service.import_folders,
        metrics=metrics,
    )
