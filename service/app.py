"""The service's composition root: every part is made here, once, and handed on."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from adapters.ledger import Ledger, open_ledger
from adapters.manifest import BaseModelCard, read_base_card
from adapters.settings import LedgerSettings
from service.admission import Admission
from service.background import followed
from service.catalog import Catalog
from service.engine.client import VllmEngine
from service.engine.protocol import Engine
from service.engine.start import has_nvidia_gpu
from service.engines import EngineHost, Engines
from service.errors import install_error_handlers
from service.finetune import Intake
from service.generate import Generator
from service.looking import Lookout, Surroundings
from service.metrics import Metrics
from service.middleware import BodyLimit, LastResort, RequestIds, Watch
from service.residency import Residency
from service.routes import adapters, completions, files, finetune, health, looking, models
from service.settings import EngineSettings, ServiceSettings
from service.state import ServiceState
from service.tokens.process import TokenProcess, Tokens


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of everything that the service touches."""

    ledger: LedgerSettings
    service: ServiceSettings
    engine: EngineSettings


EngineFactory = Callable[[str], Engine]
_UPLOADS = (
    "/finetune",
    "/v1/finetune",
    "/v1/files",
    "/datasets/validate",
    "/v1/datasets/validate",
    "/v1/fine_tuning/estimate",
    "/v1/fine_tuning/preview",
)


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
    metrics = Metrics()
    settings = configuration.service

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            ledger = await asyncio.to_thread(open_ledger, configuration.ledger)
            stack.callback(ledger.close)
            hosts = _connect_engines(configuration, ledger, metrics, connect, stack)
            reader = tokens or TokenProcess(idle_seconds=settings.tokenizer_idle_seconds)
            stack.push_async_callback(reader.close)
            state = _compose(configuration, ledger, Engines(hosts), metrics, reader)
            await stack.enter_async_context(followed(state, settings))
            yield {"service": state}

    app = FastAPI(
        title="graft",
        summary="POST a dataset, get back a model name that answers.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for module in (completions, models, finetune, looking, adapters, files, health):
        app.include_router(module.router)
    install_error_handlers(app)

    def limit_for(path: str) -> int:
        return settings.max_upload_bytes if path in _UPLOADS else settings.max_body_bytes

    app.add_middleware(BodyLimit, limit_for=limit_for)
    app.add_middleware(LastResort)
    app.add_middleware(Watch, metrics=metrics)
    app.add_middleware(RequestIds)
    return app


def _connect_engines(
    configuration: Configuration,
    ledger: Ledger,
    metrics: Metrics,
    connect: EngineFactory | None,
    stack: AsyncExitStack,
) -> dict[str, EngineHost]:
    def vllm(model_id: str) -> Engine:
        engine = VllmEngine(configuration.ledger.engine_socket(model_id), model_id)
        stack.push_async_callback(engine.close)
        return engine

    def host(model_id: str) -> EngineHost:
        engine = (connect or vllm)(model_id)
        residency = Residency(
            engine,
            capacity=max(1, configuration.engine.max_cpu_loras // 2),
            directory_of=ledger.registry.directory,
            metrics=metrics,
        )
        return EngineHost(model_id, engine, residency, metrics=metrics)

    return {model_id: host(model_id) for model_id in configuration.ledger.base_model_ids}


def _compose(
    configuration: Configuration, ledger: Ledger, engines: Engines, metrics: Metrics, tokens: Tokens
) -> ServiceState:
    base_models = configuration.ledger.base_model_ids
    settings = configuration.service
    catalog = Catalog(ledger.registry, base_models)
    admissions = {
        model_id: Admission(
            model_id, running=settings.max_running, waiting=settings.max_waiting, metrics=metrics
        )
        for model_id in base_models
    }
    incoming = configuration.ledger.home / "incoming"
    # Uploads that a killed service was reading; their clients have been told nothing, so nothing is lost.
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)

    def card_of(model_id: str) -> BaseModelCard | None:
        return read_base_card(configuration.ledger.base_model_dir(model_id))

    intake = Intake(ledger, configuration.engine, base_models=base_models, card_of=card_of)
    around = Surroundings(configuration.ledger.base_model_dir, card_of, gpu=has_nvidia_gpu())
    return ServiceState(
        ledger=ledger,
        catalog=catalog,
        engines=engines,
        generator=Generator(
            settings=settings,
            catalog=catalog,
            engines=engines,
            admissions=admissions,
            metrics=metrics,
        ),
        intake=intake,
        lookout=Lookout(intake, ledger.jobs, tokens, around),
        metrics=metrics,
        incoming=incoming,
    )
