"""Rows to records and back. Storage words stay in here."""

from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from adapters.files import File, FileReport, Part, Upload, UploadStatus
from adapters.manifest import Manifest
from adapters.records import (
    DatasetSummary,
    Event,
    EventKind,
    Job,
    JobError,
    JobStatus,
    Phase,
    Priority,
    Progress,
    Version,
)
from adapters.spec import TrainingSpec
from adapters.webhooks import (
    Announcement,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Happening,
    JobNews,
    JobWebhook,
)
from adapters.weights import Checkpoint

_spec = TypeAdapter(TrainingSpec)
_progress = TypeAdapter(Progress)
_dataset = TypeAdapter(DatasetSummary)
_manifest = TypeAdapter(Manifest)
_report = TypeAdapter(FileReport)
_news = TypeAdapter(JobNews)
_job_webhook = TypeAdapter(JobWebhook)


def dump_spec(spec: TrainingSpec) -> Any:
    """The spec as a JSON document."""
    return _spec.dump_python(spec, mode="json")


def dump_progress(progress: Progress) -> Any:
    """The progress as a JSON document."""
    return _progress.dump_python(progress, mode="json")


def dump_dataset(dataset: DatasetSummary) -> Any:
    """The summary as a JSON document."""
    return _dataset.dump_python(dataset, mode="json")


def dump_manifest(manifest: Manifest) -> Any:
    """The manifest as a JSON document."""
    return _manifest.dump_python(manifest, mode="json")


def dump_error(error: JobError) -> dict[str, Any]:
    """The error as a JSON document."""
    return {"code": error.code, "message": error.message, "param": error.param}


def dump_report(report: FileReport | None) -> Any:
    """The report as a JSON document."""
    return _report.dump_python(report, mode="json") if report is not None else None


def dump_news(news: JobNews) -> Any:
    """The news as a JSON document."""
    return _news.dump_python(news, mode="json")


def dump_job_webhook(webhook: JobWebhook) -> Any:
    """What is shown of a job's endpoint as a JSON document."""
    return _job_webhook.dump_python(webhook, mode="json")


def to_file(row: Row[Any]) -> File:
    """A `files` row."""
    values = dict(row._mapping)
    values.pop("tenant")
    report = values["report"]
    return File(**values | {"report": _report.validate_python(report) if report else None})


def to_upload(row: Row[Any], now: float, *, file: File | None) -> Upload:
    """An `uploads` row, and the file that it became. Whether a pending one has expired is a matter of the time."""
    values = dict(row._mapping)
    values.pop("file_id")
    values.pop("tenant")
    status, part_ids = UploadStatus(values["status"]), values["part_ids"]
    if status is UploadStatus.PENDING and values["expires_at"] <= now:
        status = UploadStatus.EXPIRED
    return Upload(
        **values
        | {
            "status": status,
            "part_ids": tuple(part_ids) if part_ids is not None else None,
            "file": file,
        }
    )


def to_part(row: Row[Any]) -> Part:
    """An `upload_parts` row."""
    return Part(**row._mapping)


def to_job(row: Row[Any]) -> Job:
    """A `jobs` row."""
    values = dict(row._mapping)
    values.pop("not_before")
    values.pop("last_event")
    values.pop("charged_at")
    return Job(
        **values
        | {
            "spec": _spec.validate_python(values["spec"]),
            "dataset": _dataset.validate_python(values["dataset"]),
            "progress": _progress.validate_python(values["progress"]),
            "status": JobStatus(values["status"]),
            "phase": Phase(values["phase"]),
            "priority": Priority(values["priority"]),
            "error": JobError(**values["error"]) if values["error"] else None,
            "integrations": tuple(values["integrations"] or ()),
            "webhook": _job_webhook.validate_python(values["webhook"])
            if values["webhook"]
            else None,
        }
    )


def to_event(row: Row[Any]) -> Event:
    """A `job_events` row."""
    values = dict(row._mapping)
    return Event(**values | {"kind": EventKind(values["kind"])})


def to_checkpoint(row: Row[Any]) -> Checkpoint:
    """A `checkpoints` row."""
    values = dict(row._mapping)
    values.pop("deleted_at")
    return Checkpoint(**values | {"manifest": _manifest.validate_python(values["manifest"])})


def to_version(row: Row[Any]) -> Version:
    """A `versions` row."""
    values = dict(row._mapping)
    values.pop("purged_at")
    return Version(**values | {"manifest": _manifest.validate_python(values["manifest"])})


def to_endpoint(row: Row[Any]) -> Endpoint:
    """A `webhook_endpoints` row."""
    values = dict(row._mapping)
    values.pop("deleted_at")
    values.pop("tenant")
    return Endpoint(
        **values | {"event_types": tuple(Happening(one) for one in values["event_types"])}
    )


def to_delivery(row: Row[Any]) -> Delivery:
    """A `webhook_deliveries` row."""
    values = dict(row._mapping)
    announcement = Announcement(
        id=values.pop("event_id"),
        type=Happening(values.pop("event_type")),
        created_at=values.pop("created_at"),
        news=_news.validate_python(values.pop("news")),
    )
    return Delivery(
        **values | {"announcement": announcement, "status": DeliveryStatus(values["status"])}
    )
