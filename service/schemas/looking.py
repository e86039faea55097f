"""What is answered to those who look before they leap: reports on data, estimates, previews."""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.datasets import DatasetReport
from adapters.errors import Details, InvalidValue
from service.schemas.jobs import WireDataset
from service.tokens.messages import Counted, Preview, Shown

#: The most rows of one preview.
MOST_ROWS = 20
#: The label of a token that does not count in the loss: torch's `ignore_index`.
CONTEXT = -100


class Asides(BaseModel):
    """Fields that say what to do with a request and are no part of what a job computes."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = False
    #: Rows of a preview.
    n: int = Field(5, ge=1, le=MOST_ROWS)


class WireWarning(BaseModel):
    """Something that would be done as asked, and is probably not what is wanted."""

    code: str
    message: str


class WireBar(BaseModel):
    """A bar of a histogram: how many rows have at most so many tokens, and more than the bar before."""

    up_to: int
    rows: int


class WireTokens(BaseModel):
    """The rows in tokens of the base model, duplicates left out."""

    #: Of one pass over all rows that fit. Scaled up where `sampled`.
    tokens: int
    trained_tokens: int
    #: Of the rows that were looked at.
    longest: int
    histogram: list[WireBar]
    max_seq_length: int
    #: Rows longer than that; training leaves them out.
    too_long: int
    #: Rows that were looked at, and whether they are not all.
    rows: int
    sampled: bool


class WireMemory(BaseModel):
    """What a job needs beside the base model, which is in memory already."""

    adapter_parameters: int
    #: Weights, gradients and the optimizer's two moments, in float32.
    adapter_bytes: int
    #: What a micro-batch keeps for its backward pass, about.
    activation_bytes: int
    #: Of the base model's own files.
    base_bytes: int
    #: What the machine could still give; null where it is a GPU's memory that counts.
    available_bytes: int | None


class WireEstimate(BaseModel):
    """What a job would come to. Nothing was queued and nothing kept."""

    object: Literal["fine_tuning.estimate"]
    model: str
    method: str
    steps: int
    steps_per_epoch: int
    train_rows: int
    valid_rows: int
    #: Rows longer than `max_seq_length`: left out, never cut. This and the figures in tokens are null where the base
    #: model's tokenizer is not at hand.
    dropped_rows: int | None
    #: Of all epochs.
    tokens: int | None
    trained_tokens: int | None
    tokens_per_epoch: int | None
    trained_tokens_per_epoch: int | None
    longest: int | None
    #: Whether the figures in tokens are of some of the rows, scaled up.
    sampled: bool
    duration_seconds: float | None
    tokens_per_second: float | None
    #: `measured` on recent jobs of this base model, or `assumed` from its size.
    duration_basis: Literal["measured", "assumed"] | None
    memory: WireMemory | None
    fits: bool | None
    queue_wait_seconds: float | None
    hyperparameters: dict[str, Any]
    dataset: WireDataset
    warnings: list[WireWarning]


class WireSpan(BaseModel):
    """A stretch of trained tokens."""

    start: int
    stop: int
    weight: float
    text: str


class WirePreviewRow(BaseModel):
    """One sequence as training sees it."""

    line: int
    #: Of a comparison.
    side: Literal["chosen", "rejected"] | None
    tokens: list[str]
    input_ids: list[int]
    #: The ids again, -100 where the token is context.
    labels: list[int]
    trained_spans: list[WireSpan]
    num_tokens: int
    num_trained_tokens: int
    #: Longer than `max_seq_length`, and so left out.
    too_long: bool
    #: Not all of its tokens are shown.
    truncated: bool


class WirePreview(BaseModel):
    """The first rows, token by token."""

    object: Literal["fine_tuning.preview"]
    model: str
    method: str
    max_seq_length: int
    rows: list[WirePreviewRow]


class WireReport(BaseModel):
    """What `POST /datasets/validate` found."""

    object: Literal["dataset.report"]
    valid: bool
    format: str | None
    #: What the rows are for; null where that cannot be told.
    method: str | None
    rows: int
    duplicates: int
    #: The first 20, as in `error.details` of `POST /finetune`.
    errors: Details
    error_count: int
    warnings: list[WireWarning]
    ignored_fields: list[str]
    #: SHA-256 of the bytes as they came; null where they could not be read that far.
    digest: str | None
    #: Null where the data is not valid, or the base model's tokenizer is not at hand.
    tokens: WireTokens | None
    #: Of the held-out rows that came with the request.
    validation: "WireReport | None"


def take_asides(fields: dict[str, Any], names: Collection[str]) -> Asides:
    """Take those of the names out of the fields, and check them.

    Raises:
        InvalidValue: one is out of range.
    """
    taken = {name: fields.pop(name) for name in names if name in fields}
    try:
        return Asides.model_validate(taken)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        message = f"{field}: {first['msg']} (got {first['input']!r:.80})."
        raise InvalidValue(message, param=field) from error


def wire_report(
    report: DatasetReport,
    *,
    errors: Details,
    warnings: list[WireWarning],
    tokens: WireTokens | None = None,
    validation: WireReport | None = None,
) -> WireReport:
    """The report on a file. `errors` are what is wrong beside the rows' own problems."""
    method = "dpo" if report.compares else "supervised"
    return WireReport(
        object="dataset.report",
        valid=report.valid and not errors and (validation is None or validation.valid),
        format=report.format,
        method=None if report.format is None else method,
        rows=report.rows,
        duplicates=report.duplicates,
        errors=[_detail(problem) for problem in report.problems] + errors,
        error_count=report.total_problems + len(errors),
        warnings=warnings,
        ignored_fields=list(report.ignored_fields),
        digest=report.digest,
        tokens=tokens,
        validation=validation,
    )


def wire_tokens(counted: Counted, *, rows: int, max_seq_length: int) -> WireTokens:
    """What was counted, scaled up to all the distinct rows there are."""
    scale = 1.0 if counted.complete else rows / counted.rows
    return WireTokens(
        tokens=round(counted.tokens * scale),
        trained_tokens=round(counted.trained_tokens * scale),
        longest=counted.longest,
        histogram=[WireBar(up_to=bar.up_to, rows=bar.rows) for bar in counted.histogram],
        max_seq_length=max_seq_length,
        too_long=round(counted.too_long * scale),
        rows=counted.rows,
        sampled=not counted.complete,
    )


def wire_preview(model: str, method: str, max_seq_length: int, preview: Preview) -> WirePreview:
    """Rows as training sees them."""
    return WirePreview(
        object="fine_tuning.preview",
        model=model,
        method=method,
        max_seq_length=max_seq_length,
        rows=[_preview_row(shown) for shown in preview.sequences],
    )


def _preview_row(shown: Shown) -> WirePreviewRow:
    labels = [CONTEXT] * len(shown.input_ids)
    for span in shown.spans:
        labels[span.start : span.stop] = shown.input_ids[span.start : span.stop]
    return WirePreviewRow(
        line=shown.line,
        side=shown.side,
        tokens=list(shown.tokens),
        input_ids=list(shown.input_ids),
        labels=labels,
        trained_spans=[
            WireSpan(start=span.start, stop=span.stop, weight=span.weight, text=span.text)
            for span in shown.spans
        ],
        num_tokens=shown.num_tokens,
        num_trained_tokens=shown.num_trained_tokens,
        too_long=shown.too_long,
        truncated=shown.num_tokens > len(shown.input_ids),
    )


def unreadable_report(details: Details) -> WireReport:
    """The report on rows of a JSON body that are none."""
    return WireReport(
        object="dataset.report",
        valid=False,
        format=None,
        method=None,
        rows=0,
        duplicates=0,
        errors=details,
        error_count=len(details),
        warnings=[],
        ignored_fields=[],
        digest=None,
        tokens=None,
        validation=None,
    )


def _detail(problem: Any) -> dict[str, object]:
    return {
        "line": problem.line,
        "field": problem.field,
        "code": problem.code,
        "message": problem.message,
    }
