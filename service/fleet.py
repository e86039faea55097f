"""The engines of all base models, each with what holds adapters in it and looks after it."""

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial

from adapters.layers import read_layers
from adapters.ledger import Ledger
from adapters.settings import LedgerSettings
from service.engine.client import VllmEngine
from service.engine.format import read_number_format
from service.engine.protocol import Engine
from service.engine.start import number_format
from service.engines import EngineHost
from service.inspection import Inspector
from service.loans import Loans
from service.metrics import Metrics
from service.prover import Prover
from service.residency import Residency
from service.settings import EngineSettings, ServiceSettings, has_nvidia_gpu

EngineFactory = Callable[[str], Engine]


class Fleet:
    """Makes the hosts of engines, which have the ledger and the settings in common."""

    def __init__(
        self,
        home: LedgerSettings,
        settings: EngineSettings,
        ledger: Ledger,
        metrics: Metrics,
        stack: AsyncExitStack,
    ) -> None:
        """What is opened is closed with `stack`."""
        self._home = home
        self._settings = settings
        self._ledger = ledger
        self._metrics = metrics
        self._stack = stack
        self._number_format = number_format(settings, gpu=has_nvidia_gpu())
        self._loans = Loans(ledger.registry.lend, home.lent_dir)
        self._inspector = Inspector(
            self._loans.directory,
            lambda model_id: read_layers(home.base_model_dir(model_id)),
            max_rank=settings.max_lora_rank,
        )

    def hosts(
        self, base_models: Iterable[str], connect: EngineFactory | None
    ) -> dict[str, EngineHost]:
        """One for each base model; `connect` in the place of a connection to vLLM."""
        return {model_id: self._host(model_id, connect or self._vllm) for model_id in base_models}

    def _vllm(self, model_id: str) -> Engine:
        engine = VllmEngine(self._home.engine_socket(model_id), model_id)
        self._stack.push_async_callback(engine.close)
        return engine

    def _host(self, model_id: str, connect: EngineFactory) -> EngineHost:
        engine = connect(model_id)
        prover = Prover(
            engine,
            self._ledger.verdicts,
            number_format=partial(
                read_number_format,
                self._home.engine_socket(model_id),
                otherwise=self._number_format,
            ),
            base_model_dir=self._home.base_model_dir,
            metrics=self._metrics,
        )
        residency = Residency(
            engine,
            capacity=capacity_of(self._settings),
            directory_of=self._inspector.directory,
            prover=prover,
            metrics=self._metrics,
            on_holding=partial(self._loans.keep_only, model_id),
        )
        return EngineHost(
            model_id, engine, residency, metrics=self._metrics, forget=self._inspector.forget
        )


def capacity_of(engine: EngineSettings) -> int:
    """How many versions an engine is given to hold; why half: service/residency.py."""
    return max(1, engine.max_cpu_loras // 2)


def seats_of(service: ServiceSettings, engine: EngineSettings) -> int:
    """How many versions may run at a time. All of them are pinned, so no more than are held."""
    return min(service.max_active_adapters or engine.max_loras, capacity_of(engine))
