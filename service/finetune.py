"""The story of one fine-tuning request: data checked, options resolved, job durable. What follows is the trainer's."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from adapters.datasets import DatasetReport, check_dataset, file_report, require_valid
from adapters.demand import Place, Sending
from adapters.errors import (
    InvalidDataset,
    InvalidRequest,
    InvalidValue,
)
from adapters.ledger import Ledger
from adapters.names import check_adapter_name, new_id
from adapters.records import (
    DatasetSummary,
    IdempotencyKey,
    Job,
    NewJob,
    Priority,
    Reply,
)
from adapters.traces import current, place_of_job
from service.decision import Decider, Decision
from service.flaws import as_if_good, failed, flaw_of, misfit, require_files
from service.repeats import Answering
from service.schemas.finetune import FinetuneOptions
from service.schemas.jobs import wire_job
from service.schemas.looking import Asides
from service.webhooks.endpoints import job_endpoint
from service.webhooks.guard import Guard

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
    #: Asked for as OpenAI's clients do: answered 200, and bad rows fail the job instead of the request.
    openai: bool = False
    #: How often the client has sent it before, by its own count; None where it does not count.
    retries: int | None = None
    arrived_at: float = 0.0
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
            format=str(report.format or "unknown"),
            rows=report.rows,
            duplicates=report.duplicates,
            ignored_fields=report.ignored_fields,
            digest=report.digest,
        )


class Intake:
    """Takes fine-tuning requests in. Sync: it reads files and writes the ledger; routes call it in a thread."""

    def __init__(
        self,
        ledger: Ledger,
        decider: Decider,
        *,
        base_models: list[str],
        most_waiting: int,
        guard: Guard,
    ) -> None:
        self._ledger = ledger
        self._decider = decider
        self._base_models = base_models
        self._most_waiting = most_waiting
        self._guard = guard
        self._answering = Answering()

    def accept(self, request: FinetuneRequest) -> Reply:
        """Check everything, then queue the job; when this returns, the job is durable.

        Raises:
            InvalidDataset: rows that cannot be trained on, each with its line, field and reason. To OpenAI's clients it
                speaks of a wrong file id; where rows are bad, their job has failed.
            InvalidRequest: no data, or more than one source of it.
            InvalidValue: an option out of range, or a webhook that may not be called.
            NotServable: the engine could not serve such an adapter.
            AdapterNotFound: `continue_from` names nothing.
            FileNotFound: no such `training_file`.
            IdempotencyInProgress: the first request with the key is still being answered.
            IdempotencyKeyReused: the key came with another request before.
            QueueFull: as many jobs wait as may wait.
            OverQuota: as many of the tenant's wait as may, or it keeps as many bytes as it may.
        """
        with self._answering.alone(_key_of(request)):
            return self._accept(request)

    def _accept(self, request: FinetuneRequest) -> Reply:
        sending = _sending(request)
        if sending is not None and (job := self._ledger.jobs.find_sent(sending)) is not None:
            return _render(job, self._ledger.queue.places([job]).get(job.id), openai=True)
        data, flaw = self._see(request)
        key = _key(request, data)
        if key is not None and (reply := self._ledger.jobs.find_reply(key)) is not None:
            return reply
        new = self._new(request, data, flaw)
        secret = _made_secret(request.options, new)
        reply = self._ledger.jobs.submit(
            new,
            key=key,
            sending=sending,
            most_waiting=self._most_waiting,
            render=partial(_render, secret=secret, openai=request.openai),
        )
        if not reply.replayed:
            current().note({"graft.job.id": new.id})
            current().link(place_of_job(new.id))
        return reply

    def look_at(self, request: FinetuneRequest) -> Data:
        """Check the rows. Raises InvalidDataset, InvalidRequest, InvalidValue, FileNotFound; see `accept`."""
        report = _checked(self.training_file(request))
        return Data(report, self._validation_data(request, compares=report.compares))

    def decide(self, options: FinetuneOptions, data: Data) -> Decision:
        """What exactly a job would compute. Raises InvalidValue, NotServable, AdapterNotFound; see `accept`."""
        self._ledger.queue.require_priority(Priority(options.priority))
        return self._decider.decide(options, data.training)

    def check_name(self, name: str | None, base_model: str) -> None:
        """Whether an adapter of that base model may be called that. Raises InvalidValue."""
        if name is not None:
            check_adapter_name(name, base_models=self._base_models)
            self._ledger.jobs.require_owner(name, base_model)

    def _new(self, request: FinetuneRequest, data: Data, flaw: InvalidDataset | None) -> NewJob:
        options = request.options
        if flaw is None:
            decision = self.decide(options, data)
            # Looked at again when it is queued; here before its files are kept.
            self._ledger.queue.require_room(self._most_waiting)
            # For what the job will make, however small. What it makes is kept in any case.
            self._ledger.storage.require_room(more=1)
            return self._new_job(request, data, decision)
        decision = self.decide(options, Data(as_if_good(options, data.training), None))
        return failed(self._new_job(request, data, decision), options, flaw)

    def _new_job(self, request: FinetuneRequest, data: Data, decision: Decision) -> NewJob:
        options = request.options
        job_id = new_id("ftjob-")
        name = check_adapter_name(
            options.name or f"adapter-{job_id[-8:].lower()}", base_models=self._base_models
        )
        webhook = job_endpoint(options.webhook, self._guard) if options.webhook else None
        return NewJob(
            id=job_id,
            adapter=name,
            base_model=decision.base_model,
            training_file=self._keep(request.data, options.training_file, data.training),
            validation_file=(
                self._keep(request.validation, options.validation_file, data.held_out)
                if data.held_out
                else None
            ),
            spec=decision.spec,
            integrations=tuple(options.integrations or ()),
            dataset=data.summary,
            metadata=options.metadata,
            webhook=webhook,
            priority=Priority(options.priority),
        )

    def _see(self, request: FinetuneRequest) -> tuple[Data, InvalidDataset | None]:
        """The rows, and what is wrong with them where that is for the job to say. Raises as `look_at`."""
        if not request.openai:
            return self.look_at(request), None
        require_files(self._ledger.files, request.options)
        try:
            data = self.look_at(request)
        except (InvalidDataset, InvalidValue) as error:
            # Read once more for the summary: bad files are few, and `look_at` stays what it is.
            path = self._ledger.files.path(str(request.options.training_file))
            return Data(check_dataset(path), None), flaw_of(error)
        return data, misfit(request.options, data.training)

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
        report = _checked(path, held_out=True)
        if report.compares != compares:
            raise unlike_rows(request, compares=compares)
        return report

    def _path(self, upload: Upload | None, file_id: str | None) -> Path:
        return upload.path if upload else self._ledger.files.path(str(file_id))

    def _keep(self, upload: Upload | None, file_id: str | None, report: DatasetReport) -> str:
        if upload is None:
            assert file_id is not None
            return file_id
        kept = self._ledger.files.add(
            upload.path,
            filename=upload.filename,
            purpose="fine-tune",
            report=file_report(report),
        )
        return kept.id


def _render(job: Job, place: Place | None, *, secret: str | None = None, openai: bool) -> Reply:
    """The answer, as OpenAI gives it or as ours; with the webhook's secret where nobody knows it yet."""
    body = wire_job(job, place=place, now=time.time()).model_dump(mode="json")
    if secret is not None:
        body["webhook"]["signing_secret"] = secret
    if openai:
        return Reply(status=200, body=json.dumps(body))
    return Reply(status=202, body=json.dumps(body), location=f"/finetune/{job.id}")


def _made_secret(options: FinetuneOptions, new: NewJob) -> str | None:
    """The secret of the job's webhook, where the client does not know it yet. Told once, and never shown again."""
    if new.webhook is None or options.webhook is None or options.webhook.secret is not None:
        return None
    return new.webhook.secret


def _sending(request: FinetuneRequest) -> Sending | None:
    """OpenAI's SDK repeats a POST without a key; it does say how often it has sent it."""
    if request.retries is None or request.idempotency_key is not None:
        return None
    meant = json.dumps(request.options.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(meant.encode()).hexdigest()
    return Sending(digest=digest, retries=request.retries, arrived_at=request.arrived_at)


def unlike_rows(request: FinetuneRequest, *, compares: bool) -> InvalidValue:
    """The error for rows to hold out that are not of the kind of the training rows."""
    one, other = ("", " not") if compares else (" not", "")
    return InvalidValue(
        f"The training rows do{one} compare two replies, and the validation rows do{other}. "
        "Both must be of one kind.",
        param="validation_file" if request.validation is None else "validation_data",
    )


def _checked(path: Path, *, held_out: bool = False) -> DatasetReport:
    report = check_dataset(path)
    require_valid(report, held_out=held_out)
    return report


def _key_of(request: FinetuneRequest) -> str | None:
    where = "jobs" if request.openai else "finetune"
    return request.idempotency_key and f"{where}:{request.idempotency_key}"


def _key(request: FinetuneRequest, data: Data) -> IdempotencyKey | None:
    key = _key_of(request)
    if key is None:
        return None
    reports = [report for report in (data.training, data.held_out) if report is not None]
    # Over what was meant and not over the bytes sent: a multipart boundary differs each time.
    meant: Mapping[str, object] = {
        "options": request.options.model_dump(mode="json"),
        "data": [report.digest for report in reports],
    }
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
    return IdempotencyKey(key=key, request_digest=digest)
