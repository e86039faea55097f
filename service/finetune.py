"""The story of one fine-tuning request: data checked, options resolved, job durable. What follows is the trainer's."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapters.datasets import DatasetReport, check_dataset, require_valid
from adapters.errors import AdapterNotFound, InvalidRequest, InvalidValue, NotServable
from adapters.ledger import Ledger
from adapters.manifest import BaseModelCard
from adapters.names import check_adapter_name, new_id
from adapters.records import (
    DatasetSummary,
    IdempotencyKey,
    Job,
    LoraSpec,
    NewJob,
    Reply,
    TrainingSpec,
    Version,
)
from service.schemas.finetune import FinetuneOptions, training_spec
from service.schemas.jobs import wire_job
from service.schemas.looking import Asides
from service.settings import EngineSettings

_NOTHING_THERE = (
    "No training data: send rows in 'data', a file in the form field 'data', or 'training_file'."
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with the request, now on local disk."""

    path: Path
    filename: str


@dataclass(frozen=True, slots=True)
class FinetuneRequest:
    """What a client asked for."""

    options: FinetuneOptions
    data: Upload | None
    validation: Upload | None
    idempotency_key: str | None
    aside: Asides = field(default_factory=Asides)


@dataclass(frozen=True, slots=True)
class Data:
    """What was found in the rows."""

    training: DatasetReport
    held_out: DatasetReport | None

    @property
    def summary(self) -> DatasetSummary:
        """Of the rows to train on, as a job keeps it."""
        report = self.training
        return DatasetSummary(
            format=str(report.format),
            rows=report.rows,
            duplicates=report.duplicates,
            ignored_fields=report.ignored_fields,
            digest=report.digest,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """What a job computes, every "auto" resolved."""

    base_model: str
    spec: TrainingSpec


class Intake:
    """Takes fine-tuning requests in. Sync: it reads files and writes the ledger; routes call it in a thread."""

    def __init__(
        self,
        ledger: Ledger,
        engine: EngineSettings,
        *,
        base_models: list[str],
        card_of: Callable[[str], BaseModelCard | None],
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._base_models = base_models
        self._card_of = card_of

    def accept(self, request: FinetuneRequest) -> Reply:
        """Check everything, then queue the job; when this returns, the job is durable.

        Raises:
            InvalidDataset: rows that cannot be trained on, each with its line, field and reason.
            InvalidRequest: no data, or more than one source of it.
            InvalidValue: an option out of range.
            NotServable: the engine could not serve such an adapter.
            AdapterNotFound: `continue_from` names nothing.
            FileNotFound: no such `training_file`.
            IdempotencyKeyReused: the key came with another request before.
        """
        data = self.look_at(request)
        key = _key(request, data)
        if key is not None and (reply := self._ledger.jobs.find_reply(key)) is not None:
            return reply
        new = self._new_job(request, data, self.decide(request.options, data))
        return self._ledger.jobs.submit(new, key=key, render=self._render)

    def look_at(self, request: FinetuneRequest) -> Data:
        """Check the rows. Raises InvalidDataset, InvalidRequest, InvalidValue, FileNotFound; see `accept`."""
        report = _checked(self.training_file(request))
        return Data(report, self._validation_data(request, compares=report.compares))

    def decide(self, options: FinetuneOptions, data: Data) -> Decision:
        """What exactly a job would compute. Raises InvalidValue, NotServable, AdapterNotFound; see `accept`."""
        report = data.training
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
        return Decision(base_model, spec)

    def check_name(self, name: str | None) -> None:
        """Whether an adapter may be called that. Raises InvalidValue."""
        if name is not None:
            check_adapter_name(name, base_models=self._base_models)

    def _new_job(self, request: FinetuneRequest, data: Data, decision: Decision) -> NewJob:
        options = request.options
        job_id = new_id("ftjob-")
        name = check_adapter_name(
            options.name or f"adapter-{job_id[-8:].lower()}", base_models=self._base_models
        )
        return NewJob(
            id=job_id,
            adapter=name,
            base_model=decision.base_model,
            training_file=self._keep(request.data, options.training_file),
            validation_file=(
                self._keep(request.validation, options.validation_file) if data.held_out else None
            ),
            spec=decision.spec,
            dataset=data.summary,
            metadata=options.metadata,
        )

    def _parent(self, name: str | None) -> Version | None:
        """The version to continue, looked up once: what an alias means later is another matter."""
        if name is None:
            return None
        try:
            return self._ledger.registry.resolve(name)
        except AdapterNotFound as error:
            raise AdapterNotFound(error.message, param="continue_from") from error

    def _base_model(self, asked: str | None, parent: Version | None) -> str:
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

    def _base_model_of(self, parent: Version, asked: str | None) -> str:
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
                f"lora.rank may be at most {self._engine.max_lora_rank} on this server, not {lora.rank}: "
                "the engine could not serve it.",
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

    def training_file(self, request: FinetuneRequest) -> Path:
        """Where the rows lie. Raises InvalidRequest, FileNotFound; see `accept`."""
        file_id = request.options.training_file
        if (request.data is None) == (file_id is None):
            why = (
                _NOTHING_THERE
                if file_id is None
                else "Send either 'data' or 'training_file', not both."
            )
            raise InvalidRequest(why, param="data")
        return self._path(request.data, file_id)

    def validation_file(self, request: FinetuneRequest) -> Path | None:
        """Where the rows to hold out lie, if any came. Raises FileNotFound."""
        file_id = request.options.validation_file
        if request.validation is None and file_id is None:
            return None
        return self._path(request.validation, file_id)

    def _validation_data(self, request: FinetuneRequest, *, compares: bool) -> DatasetReport | None:
        path = self.validation_file(request)
        if path is None:
            return None
        report = _checked(path)
        if report.compares != compares:
            raise unlike_rows(request, compares=compares)
        return report

    def _path(self, upload: Upload | None, file_id: str | None) -> Path:
        return upload.path if upload else self._ledger.files.path(str(file_id))

    def _keep(self, upload: Upload | None, file_id: str | None) -> str:
        if upload is None:
            assert file_id is not None
            return file_id
        return self._ledger.files.add(upload.path, filename=upload.filename, purpose="fine-tune").id

    def _render(self, job: Job, position: int) -> Reply:
        body = wire_job(job, position=position, now=time.time()).model_dump_json()
        return Reply(status=202, body=body, location=f"/finetune/{job.id}")


def unlike_rows(request: FinetuneRequest, *, compares: bool) -> InvalidValue:
    """The error for rows to hold out that are not of the kind of the training rows."""
    one, other = ("", " not") if compares else (" not", "")
    return InvalidValue(
        f"The training rows do{one} compare two replies, and the validation rows do{other}. "
        "Both must be of one kind.",
        param="validation_file" if request.validation is None else "validation_data",
    )


def _checked(path: Path) -> DatasetReport:
    report = check_dataset(path)
    require_valid(report)
    return report


def _key(request: FinetuneRequest, data: Data) -> IdempotencyKey | None:
    if request.idempotency_key is None:
        return None
    reports = [report for report in (data.training, data.held_out) if report is not None]
    # Over what was meant and not over the bytes sent: a multipart boundary differs each time.
    meant: Mapping[str, object] = {
        "options": request.options.model_dump(mode="json"),
        "data": [report.digest for report in reports],
    }
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
    return IdempotencyKey(key=f"finetune:{request.idempotency_key[:255]}", request_digest=digest)
