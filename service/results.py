"""What a job has measured, step by step, and the CSV file that OpenAI's clients fetch of it.

The file is made of the log whenever somebody asks for it. A second copy would have to be written in the transaction
that settles the job, kept, and deleted; this one cannot differ from the log, is there exactly when the job has
succeeded, and costs one pass over the job's events.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final

from adapters.errors import FileNotFound, JobNotFound
from adapters.ledger import JobQueue
from adapters.records import (
    Event,
    EventKind,
    Job,
    JobStatus,
)
from service.schemas.jobs import RESULT_FILE, result_file_id

_PAGE: Final = 1000
#: OpenAI's header.
_HEADER: Final = (
    "step",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
)


@dataclass(frozen=True, slots=True)
class Point:
    """What is known of a step; None where it was not measured."""

    step: int
    epoch: float | None = None
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    base_valid_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None


_MEANS: Final = ("train_loss", "train_mean_token_accuracy")
_MEASURED: Final = tuple(name for name in Point.__dataclass_fields__ if name != "step")


def read_points(jobs: JobQueue, job_id: str) -> list[Point]:
    """Everything that a job has measured, by step."""
    return points(_log(jobs, job_id))


def points(events: Iterable[Event]) -> list[Point]:
    """The steps of a log, without those beyond the checkpoint that a later attempt started from."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        data = event.data or {}
        if event.kind is EventKind.STATUS and "resumed_from_step" in data:
            start = data["resumed_from_step"] or 0
            found = {step: point for step, point in found.items() if step <= start}
        elif event.kind is EventKind.METRICS and isinstance(data.get("step"), int):
            known = {name: data[name] for name in _MEASURED if data.get(name) is not None}
            found.setdefault(data["step"], {}).update(known)
    return [Point(step, **found[step]) for step in sorted(found)]


def thin(series: Sequence[Point], most: int) -> list[Point]:
    """At most that many points, each for as many steps that follow each other.

    A point has the last of its steps, the means of what training measures of a step's rows, and the last of everything
    else: an evaluation is a measurement of its own, and no mean of two.
    """
    size = -(-len(series) // most)
    if size <= 1:
        return list(series)
    return [_merge(series[start : start + size]) for start in range(0, len(series), size)]


def result_csv(series: Iterable[Point]) -> bytes:
    """The result file, as it is: not base64, in which OpenAI's own comes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(
        (
            point.step,
            point.train_loss,
            point.train_mean_token_accuracy,
            point.valid_loss,
            point.valid_mean_token_accuracy,
        )
        for point in series
    )
    return text.getvalue().encode()


def read_result(jobs: JobQueue, file_id: str) -> tuple[dict[str, Any], bytes]:
    """A result file as `/v1/files` shows it, and its content. Raises FileNotFound."""
    try:
        job = jobs.get("ftjob-" + file_id.removeprefix(RESULT_FILE))
    except JobNotFound as error:
        raise _no_file(file_id) from error
    if job.status is not JobStatus.SUCCEEDED:
        raise _no_file(file_id)
    content = result_csv(read_points(jobs, job.id))
    return _wire(job, len(content)), content


def _wire(job: Job, size: int) -> dict[str, Any]:
    return {
        "id": result_file_id(job.id),
        "object": "file",
        "bytes": size,
        "created_at": int(job.finished_at or job.created_at),
        "filename": "step_metrics.csv",
        "purpose": "fine-tune-results",
        "status": "processed",
    }


def _no_file(file_id: str) -> FileNotFound:
    return FileNotFound(f"No file has the id '{file_id}'.", param="file_id")


def _log(jobs: JobQueue, job_id: str) -> Iterator[Event]:
    after = 0
    while page := jobs.events(job_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].seq


def _merge(group: Sequence[Point]) -> Point:
    merged: dict[str, Any] = {}
    for point in group:
        merged |= {name: value for name, value in asdict(point).items() if value is not None}
    for name in _MEANS:
        values = [value for point in group if (value := getattr(point, name)) is not None]
        merged |= {name: fmean(values)} if values else {}
    return Point(**merged)
