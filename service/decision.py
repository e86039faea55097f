"""What exactly a job computes: whose weights it starts from, on which base model, every "auto" a number, servable."""

from collections.abc import Callable
from dataclasses import dataclass

from adapters.datasets import DatasetReport
from adapters.errors import AdapterNotFound, AdapterReadOnly, InvalidValue, NotServable
from adapters.ledger import Ledger
from adapters.manifest import BaseModelCard
from adapters.names import is_checkpoint
from adapters.sharing import Use
from adapters.spec import LoraSpec, TrainingSpec
from adapters.weights import Weights
from service.schemas.caps import check_caps
from service.schemas.finetune import FinetuneOptions, training_spec
from service.settings import EngineSettings, ServiceSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """What a job computes, every "auto" resolved."""

    base_model: str
    spec: TrainingSpec


class Decider:
    """Decides. Sync: it asks the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        engine: EngineSettings,
        *,
        base_models: list[str],
        card_of: Callable[[str], BaseModelCard | None],
        caps: ServiceSettings,
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._base_models = base_models
        self._card_of = card_of
        self._caps = caps

    def decide(self, options: FinetuneOptions, report: DatasetReport) -> Decision:
        """What a job on these rows would compute.

        Raises:
            InvalidValue: an option out of range.
            NotServable: the engine could not serve such an adapter.
            AdapterNotFound: `continue_from` names nothing.
            AdapterReadOnly: it names what somebody shares, but not to be continued.
        """
        parent = self._parent(options.continue_from)
        base_model = self._base_model(options.base_model, parent)
        spec = training_spec(
            options,
            parent=parent,
            compares=report.compares,
            rows=report.rows - report.duplicates,
            max_seq_length=self._longest(base_model),
        )
        self._check_servable(base_model, spec.lora)
        # Defaults that ask for more than a request may would fail every request to the version.
        check_caps(spec.sampling, self._caps)
        return Decision(base_model, spec)

    def _parent(self, name: str | None) -> Weights | None:
        """The version or checkpoint to continue, looked up once: what an alias means later is another matter."""
        if name is None:
            return None
        try:
            if is_checkpoint(name):
                return self._ledger.checkpoints.find(name)
            return self._ledger.registry.resolve(name, Use.CONTINUE)
        except (AdapterNotFound, AdapterReadOnly) as error:
            raise type(error)(error.message, param="continue_from") from error

    def _base_model(self, asked: str | None, parent: Weights | None) -> str:
        if parent is not None:
            return self._base_model_of(parent, asked)
        if asked is None:
            return self._base_models[0]
        if asked not in self._base_models:
            raise InvalidValue(
                f"'{asked}' is not a base model of this server: {', '.join(self._base_models)}. "
                "To continue an adapter, name it in 'continue_from'.",
                param="base_model",
            )
        return asked

    def _base_model_of(self, parent: Weights, asked: str | None) -> str:
        if parent.base_model not in self._base_models:
            raise InvalidValue(
                f"{parent.name} belongs to the base model '{parent.base_model}', which this server is not "
                "configured for.",
                param="continue_from",
            )
        if asked not in {None, parent.base_model}:
            raise InvalidValue(
                f"{parent.name} belongs to the base model '{parent.base_model}' and cannot be continued on "
                f"'{asked}'. Leave base_model out.",
                param="base_model",
            )
        return parent.base_model

    def _check_servable(self, base_model: str, lora: LoraSpec) -> None:
        if lora.rank > self._engine.max_lora_rank:
            raise NotServable(
                f"lora.rank may be at most {self._engine.max_lora_rank} on this server, not {lora.rank}: the engine could "
                "not serve it. Whoever runs it can raise engine.max_lora_rank.",
                param="lora.rank",
            )
        card = self._card_of(base_model)
        if card is None or lora.target_modules == LoraSpec().target_modules:
            return
        unknown = sorted(set(lora.target_modules) - set(card.linear_modules))
        if unknown or not lora.target_modules:
            raise NotServable(
                f"lora.target_modules: {base_model} has no {', '.join(unknown) or 'such list'}; "
                f'choose from {", ".join(card.linear_modules)}, or "all-linear".',
                param="lora.target_modules",
            )

    def _longest(self, base_model: str) -> int:
        card = self._card_of(base_model)
        served = self._engine.max_model_len
        return min(served, card.max_seq_length) if card else served
