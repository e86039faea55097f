"""The stories of looking before one leaps: what is in the data, what training would see, what a job would come to.

Nothing is kept. What has to be computed in tokens, the tokenizer process computes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapters.datasets import DatasetReport, check_dataset
from adapters.errors import (
    Details,
    GraftError,
    InvalidDataset,
    InvalidValue,
    Overloaded,
    Unavailable,
)
from adapters.ledger import Ledger
from adapters.manifest import BaseModelCard
from adapters.records import Priority
from service.advice import about_length, about_rows, uncounted
from service.decision import Decision
from service.estimate import Grounds, estimate
from service.finetune import Data, FinetuneRequest, Intake, unlike_rows
from service.footprint import available_memory, read_footprint
from service.schemas.looking import (
    WireEstimate,
    WirePreview,
    WireReport,
    WireTokens,
    WireWarning,
    wire_preview,
    wire_report,
    wire_tokens,
)
from service.schemas.method import resolve_method
from service.tokens.messages import Count, Counted, Preview, Show
from service.tokens.process import Tokens

#: Rows that are counted, and seconds that it may take; more rows are estimated from these.
MOST_ROWS, MOST_SECONDS = 2000, 20.0
#: Tokens of a row that a preview shows.
MOST_TOKENS = 4096
#: Of all base models, newest first: enough for what is recent.
_RECENT_JOBS = 200
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a lookout can see of the machine and its base models."""

    directory_of: Callable[[str], Path]
    card_of: Callable[[str], BaseModelCard | None]
    #: Whether training is likely to run on a GPU, of whose memory the service knows nothing.
    gpu: bool


@dataclass(slots=True)
class InTokens:
    """What rows come to in tokens, and what is wrong with them there."""

    counted: WireTokens | None = None
    errors: Details = field(default_factory=list)
    warnings: list[WireWarning] = field(default_factory=list)


class Lookout:
    """Looks at requests that could be jobs, and takes none in."""

    def __init__(
        self, intake: Intake, ledger: Ledger, tokens: Tokens, surroundings: Surroundings
    ) -> None:
        self._intake, self._ledger, self._tokens = intake, ledger, tokens
        self._around = surroundings

    async def validate(self, request: FinetuneRequest) -> WireReport:
        """What is in the data, good or bad.

        Raises:
            InvalidRequest: no data, or more than one source of it.
            FileNotFound: no such `training_file` or `validation_file`.
            InvalidValue, NotServable, AdapterNotFound: an option that no data could make good.
        """
        path = await asyncio.to_thread(self._intake.training_file, request)
        held_out = await asyncio.to_thread(self._intake.validation_file, request)
        report = await asyncio.to_thread(check_dataset, path)
        errors, warnings = _misfits(request, report), list(about_rows(report))
        decision, tokens = None, InTokens()
        if report.valid and not errors:
            decision = await asyncio.to_thread(
                self._intake.decide, request.options, Data(report, None)
            )
            tokens = await self._in_tokens(path, report, decision, some=True)
        validation = None
        if held_out is not None:
            unlike = unlike_rows(request, compares=report.compares)
            validation = await self._report_on_validation(held_out, report, decision, unlike)
        return wire_report(
            report,
            errors=errors + tokens.errors,
            warnings=warnings + tokens.warnings,
            tokens=tokens.counted,
            validation=validation,
        )

    async def estimate(self, request: FinetuneRequest) -> WireEstimate:
        """What the job would come to. Raises what `Intake.accept` does, also for what would fail the job later."""
        data, decision = await asyncio.to_thread(self._decide, request)
        path = await asyncio.to_thread(self._intake.training_file, request)
        counted, reason = None, ""
        try:
            counted = await self._count(path, decision)
            _require_some(counted)
        except Unavailable as error:
            reason = error.message
        grounds = await asyncio.to_thread(self._grounds, request, decision, counted, reason)
        return estimate(data, decision, grounds)

    async def preview(self, request: FinetuneRequest) -> WirePreview:
        """The first rows as training sees them.

        Raises:
            InvalidDataset, InvalidRequest, InvalidValue, FileNotFound: as `estimate`.
            Unavailable: the base model's tokenizer is not at hand.
        """
        _, decision = await asyncio.to_thread(self._decide, request)
        longest = self._longest(decision)
        preview = await self._tokens.ask(
            Show(
                directory=self._directory(decision),
                data=await asyncio.to_thread(self._intake.training_file, request),
                max_seq_length=longest,
                rows=request.aside.n,
                most_tokens=MOST_TOKENS,
            )
        )
        assert isinstance(preview, Preview)
        kind = decision.spec.method.kind
        return wire_preview(decision.base_model, kind, longest, preview)

    def _decide(self, request: FinetuneRequest) -> tuple[Data, Decision]:
        data = self._intake.look_at(request)
        decision = self._intake.decide(request.options, data)
        self._intake.check_name(request.options.name, decision.base_model)
        return data, decision

    async def _in_tokens(
        self, path: Path, report: DatasetReport, decision: Decision, *, some: bool
    ) -> InTokens:
        """Good rows, counted. With `some`, it is an error if none of them fits."""
        found = InTokens()
        try:
            counted = await self._count(path, decision)
            found.counted = _told(counted, report, self._longest(decision))
            found.warnings += about_length(found.counted.too_long, found.counted.max_seq_length)
            if some:
                _require_some(counted)
        except InvalidDataset as error:
            found.errors = error.details or [_detail(error)]
        except (Overloaded, Unavailable) as error:
            found.warnings.append(uncounted(error.message))
        return found

    async def _count(self, path: Path, decision: Decision) -> Counted:
        counted = await self._tokens.ask(
            Count(
                directory=self._directory(decision),
                data=path,
                max_seq_length=self._longest(decision),
                most_rows=MOST_ROWS,
                most_seconds=MOST_SECONDS,
            )
        )
        assert isinstance(counted, Counted)
        return counted

    def _directory(self, decision: Decision) -> Path:
        if self._around.card_of(decision.base_model) is None:
            raise Unavailable(
                f"The base model '{decision.base_model}' is not prepared yet; the trainer does that when it starts.",
                retry_after=_RETRY_AFTER_S,
            )
        return self._around.directory_of(decision.base_model)

    def _longest(self, decision: Decision) -> int:
        """As the trainer bounds it: what a model cannot read is too long whatever the job allows."""
        card = self._around.card_of(decision.base_model)
        asked = decision.spec.max_seq_length
        return min(asked, card.max_seq_length) if card else asked

    def _grounds(
        self, request: FinetuneRequest, decision: Decision, counted: Counted | None, reason: str
    ) -> Grounds:
        card = self._around.card_of(decision.base_model)
        directory = self._around.directory_of(decision.base_model)
        recent = self._ledger.jobs.list(limit=_RECENT_JOBS)
        return Grounds(
            counted=counted,
            uncounted=reason,
            max_seq_length=self._longest(decision),
            jobs=[job for job in recent if job.base_model == decision.base_model],
            footprint=read_footprint(directory, card.linear_modules) if card else None,
            gpu=self._around.gpu,
            available=None if self._around.gpu else available_memory(),
            queue_wait=self._ledger.queue.wait(
                decision.base_model,
                priority=Priority(request.options.priority),
            ),
        )

    async def _report_on_validation(
        self,
        path: Path,
        training: DatasetReport,
        decision: Decision | None,
        unlike: InvalidValue,
    ) -> WireReport:
        """`decision` is what the training rows have led to, where they are good; `unlike` for rows of another kind."""
        report = await asyncio.to_thread(check_dataset, path)
        alike = report.compares == training.compares or None in {report.format, training.format}
        errors = [] if alike else [_detail(unlike)]
        tokens = InTokens()
        if decision is not None and report.valid and not errors:
            tokens = await self._in_tokens(path, report, decision, some=False)
        return wire_report(
            report,
            errors=errors + tokens.errors,
            warnings=tokens.warnings,
            tokens=tokens.counted,
        )


def _told(counted: Counted, report: DatasetReport, max_seq_length: int) -> WireTokens:
    return wire_tokens(counted, rows=report.rows - report.duplicates, max_seq_length=max_seq_length)


def _require_some(counted: Counted) -> None:
    """What the trainer would say, and fail the job."""
    if counted.complete and counted.too_long == counted.rows:
        raise InvalidDataset(
            f"No row is left to train on: {counted.too_long} are longer than max_seq_length.",
            param="max_seq_length",
        )


def _misfits(request: FinetuneRequest, report: DatasetReport) -> Details:
    """Rows that are good, and not for the method that was asked for."""
    if report.format is None:
        return []
    options = request.options
    try:
        resolve_method(options.method, options.beta, compares=report.compares)
    except InvalidValue as error:
        return [_detail(error)]
    return []


def _detail(error: GraftError) -> dict[str, object]:
    """The request's own fault among the rows': line 0 speaks of the file as a whole."""
    return {"line": 0, "field": error.param, "code": error.code, "message": error.message}
