"""Rows to records and back. Storage words stay in here."""

from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row

from adapters.manifest import Manifest
from adapters.records import (
    DatasetSummary,
    Event,
    EventKind,
    File,
    Job,
    JobError,
    JobStatus,
    Phase,
    Progress,
    TrainingSpec,
    Version,
)
from adapters.weights import Checkpoint

_spec = TypeAdapter(TrainingSpec)
_progress = TypeAdapter(Progress)
_dataset = TypeAdapter(DatasetSummary)
_manifest = TypeAdapter(Manifest)


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


def to_file(row: Row[Any]) -> File:
    """A `files` row."""
    return File(**row._mapping)


def to_job(row: Row[Any]) -> Job:
    """A `jobs` row."""
    values = dict(row._mapping)
    values.pop("not_before")
    values.pop("last_event")
    return Job(
        **values
        | {
            "spec": _spec.validate_python(values["spec"]),
            "dataset": _dataset.validate_python(values["dataset"]),
            "progress": _progress.validate_python(values["progress"]),
            "status": JobStatus(values["status"]),
            "phase": Phase(values["phase"]),
            "error": JobError(**values["error"]) if values["error"] else None,
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
