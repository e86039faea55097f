"""The story of one fine-tuning request: data checked, options resolved, job durable. What follows is the trainer's."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.datasets import DatasetReport, check_dataset, file_report, require_valid
from adapters.errors import (
    AdapterNotFound,
    FileNotFound,
    InvalidDataset,
    InvalidHeldOut,
    InvalidRequest,
    InvalidValue,
    NotServable,
)
from adapters.ledger import Ledger
from adapters.manifest import BaseModelCard
from adapters.names import check_adapter_name, is_checkpoint, new_id
from adapters.records import (
    DatasetSummary,
    IdempotencyKey,
    Job,
    JobError,
    LoraSpec,
    NewJob,
    QueueLoad,
    Reply,
    Sending,
    TrainingSpec,
)
from adapters.weights import Weights
from service.schemas.finetune import FinetuneOptions, training_spec
from service.schemas.jobs import wire_job
from service.schemas.limits import WireLimits
from service.schemas.method import METHODS, resolve_method
from service.settings import EngineSettings

_NOTHING_THERE = (
    "No training data: send rows in 'data', a file in the form field 'data', or 'training_file'."
)

_PURPOSE = "fine-tune"


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
    #: Asked for as OpenAI's clients do: answered 200, and bad rows fail the job instead of the request.
    openai: bool = False
    #: How often the client has sent it before, by its own count; None where it does not count.
    retries: int | None = None
    arrived_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Data:
    """What was found in the rows."""

    training: DatasetReport
    held_out: DatasetReport | None


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
        most_waiting: int,
    ) -> None:
        self._ledger = ledger
        self._engine = engine
        self._base_models = base_models
        self._card_of = card_of
        self._most_waiting = most_waiting

    def accept(self, request: FinetuneRequest) -> Reply:
        """Check everything, then queue the job; when this returns, the job is durable.

        Raises:
            InvalidDataset: rows that cannot be trained on, each with its line, field and reason. To OpenAI's clients it
                speaks of a wrong file id; where rows are bad, their job has failed.
            InvalidRequest: no data, or more than one source of it.
            InvalidValue: an option out of range.
            NotServable: the engine could not serve such an adapter.
            AdapterNotFound: `continue_from` names nothing.
            FileNotFound: no such `training_file`.
            IdempotencyKeyReused: the key came with another request before.
            QueueFull: as many jobs wait as may wait.
        """
        sending = _sending(request)
        if sending is not None and (job := self._ledger.jobs.find_sent(sending)) is not None:
            return _accepted(job, self._ledger.jobs.position(job))
        data, flaw = self._see(request)
        key = _key(request, data)
        if key is not None and (reply := self._ledger.jobs.find_reply(key)) is not None:
            return reply
        decision = self.decide(
            request.options, data if flaw is None else _as_if_good(data, request.options)
        )
        if flaw is None:  # again when it is queued; here before its files are kept
            self._ledger.jobs.require_room(self._most_waiting)
        new = self._new_job(request, data, decision)
        return self._ledger.jobs.submit(
            new if flaw is None else _failed(new, flaw),
            key=key,
            sending=sending,
            most_waiting=self._most_waiting,
            render=_accepted if request.openai else self._render,
        )

    def look_at(self, request: FinetuneRequest) -> Data:
        """Check the rows. Raises InvalidDataset, InvalidRequest, InvalidValue, FileNotFound; see `accept`."""
        data = self._read(request)
        _require_good(data)
        _require_one_kind(request.options, data)
        return data

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

    def limits(self) -> dict[str, WireLimits]:
        """What may be asked for of each base model, and how busy it is."""
        loads = {load.base_model: load for load in self._ledger.jobs.loads()}
        return {
            model_id: self._limits(model_id, loads.get(model_id)) for model_id in self._base_models
        }

    def _limits(self, base_model: str, load: QueueLoad | None) -> WireLimits:
        card = self._card_of(base_model)
        queued = load.queued if load else 0
        return WireLimits(
            max_total_jobs=self._most_waiting,
            max_concurrent_jobs=None,
            active_jobs=load.running if load else 0,
            queued_jobs=queued,
            max_lora_rank=self._engine.max_lora_rank,
            max_seq_length=self._longest(base_model),
            methods=list(METHODS),
            target_modules=list(card.linear_modules) if card else None,
            min_examples=1,
            # A job that nobody is before starts at once: it is taken in beside those that are training.
            estimated_wait_seconds=load.soonest_end if load and queued else 0.0,
        )

    def _new_job(self, request: FinetuneRequest, data: Data, decision: Decision) -> NewJob:
        options, report = request.options, data.training
        job_id = new_id("ftjob-")
        name = check_adapter_name(
            options.name or f"adapter-{job_id[-8:].lower()}", base_models=self._base_models
        )
        return NewJob(
            id=job_id,
            adapter=name,
            base_model=decision.base_model,
            training_file=self._keep(request.data, options.training_file, report),
            validation_file=(
                self._keep(request.validation, options.validation_file, data.held_out)
                if data.held_out
                else None
            ),
            spec=decision.spec,
            integrations=tuple(options.integrations or ()),
            dataset=DatasetSummary(
                format=str(report.format or "unknown"),
                rows=report.rows,
                duplicates=report.duplicates,
                ignored_fields=report.ignored_fields,
                digest=report.digest,
            ),
            metadata=options.metadata,
        )

    def _parent(self, name: str | None) -> Weights | None:
        """The version or checkpoint to continue, looked up once: what an alias means later is another matter."""
        if name is None:
            return None
        try:
            if is_checkpoint(name):
                return self._ledger.checkpoints.find(name)
            return self._ledger.registry.resolve(name)
        except AdapterNotFound as error:
            raise AdapterNotFound(error.message, param="continue_from") from error

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

    def _see(self, request: FinetuneRequest) -> tuple[Data, InvalidDataset | None]:
        """The rows, and what is wrong with them where that is for the job to say. Raises as `look_at`."""
        if not request.openai:
            return self.look_at(request), None
        self._require_file(request.options.training_file, InvalidDataset, "training_file")
        self._require_file(request.options.validation_file, InvalidHeldOut, "validation_file")
        data = self._read(request)
        try:
            _require_good(data)
        except InvalidDataset as flaw:
            return data, flaw
        return data, _misfit(request.options, data)

    def _require_file(self, file_id: str | None, wrong: type[InvalidDataset], param: str) -> None:
        """Look whether the file is there and for training; what is in it, is another question."""
        if file_id is None:
            return
        try:
            purpose = self._ledger.files.get(file_id).purpose
        except FileNotFound as error:
            raise wrong(
                f"{error.message} Upload it first: POST /v1/files with the purpose '{_PURPOSE}'.",
                param=param,
            ) from error
        if purpose != _PURPOSE:
            raise wrong(
                f"The file {file_id} has the purpose '{purpose}'; upload it with '{_PURPOSE}'.",
                param=param,
            )

    def _read(self, request: FinetuneRequest) -> Data:
        options = request.options
        if (request.data is None) == (options.training_file is None):
            why = (
                _NOTHING_THERE
                if options.training_file is None
                else "Send either 'data' or 'training_file', not both."
            )
            raise InvalidRequest(why, param="data")
        report = self._report(request.data, options.training_file)
        if request.validation is None and options.validation_file is None:
            return Data(report, None)
        return Data(report, self._report(request.validation, options.validation_file))

    def _report(self, upload: Upload | None, file_id: str | None) -> DatasetReport:
        return check_dataset(upload.path if upload else self._ledger.files.path(str(file_id)))

    def _keep(self, upload: Upload | None, file_id: str | None, report: DatasetReport) -> str:
        if upload is None:
            assert file_id is not None
            return file_id
        kept = self._ledger.files.add(
            upload.path,
            filename=upload.filename,
            purpose=_PURPOSE,
            report=file_report(report),
        )
        return kept.id

    def _render(self, job: Job, position: int | None) -> Reply:
        body = wire_job(job, position=position, now=time.time()).model_dump_json()
        return Reply(status=202, body=body, location=f"/finetune/{job.id}")


def _accepted(job: Job, position: int | None) -> Reply:
    """As OpenAI answers."""
    return Reply(
        status=200, body=wire_job(job, position=position, now=time.time()).model_dump_json()
    )


def _require_good(data: Data) -> None:
    require_valid(data.training)
    if data.held_out is not None:
        require_valid(data.held_out, held_out=True)


def _require_one_kind(options: FinetuneOptions, data: Data) -> None:
    if data.held_out is not None and data.held_out.compares != data.training.compares:
        one, other = ("", " not") if data.training.compares else (" not", "")
        raise InvalidValue(
            f"The training rows do{one} compare two replies, and the validation rows do{other}. "
            "Both must be of one kind.",
            param="validation_data" if options.validation_file is None else "validation_file",
        )


def _misfit(options: FinetuneOptions, data: Data) -> InvalidDataset | None:
    """To OpenAI's clients, rows that are not for the method are bad rows, and so are two files of two kinds."""
    try:
        _require_one_kind(options, data)
    except InvalidValue as error:
        return InvalidHeldOut(error.message, param=error.param)
    try:
        resolve_method(options.method, "auto", compares=data.training.compares)
    except InvalidValue as error:
        return InvalidDataset(error.message, param="training_file")
    return None


def _as_if_good(data: Data, options: FinetuneOptions) -> Data:
    """Rows that would do: what else the request asks for is checked also where its rows are bad."""
    compares = options.method == "dpo" or (
        options.method is None and (data.training.compares or options.beta != "auto")
    )
    rows = max(1, data.training.rows)
    return Data(replace(data.training, compares=compares, rows=rows), data.held_out)


def _failed(new: NewJob, flaw: InvalidDataset) -> NewJob:
    error = JobError(code=flaw.code, message=flaw.message, param=flaw.param)
    return replace(new, error=error, problems=tuple(flaw.details or ()))


def _sending(request: FinetuneRequest) -> Sending | None:
    """OpenAI's SDK repeats a POST without a key; it does say how often it has sent it."""
    if request.retries is None or request.idempotency_key is not None:
        return None
    meant = json.dumps(request.options.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(meant.encode()).hexdigest()
    return Sending(digest=digest, retries=request.retries, arrived_at=request.arrived_at)


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
    where = "jobs" if request.openai else "finetune"
    return IdempotencyKey(key=f"{where}:{request.idempotency_key[:255]}", request_digest=digest)
