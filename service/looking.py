"""The stories of looking before one leaps: what is in the data, and what a job would make of it. Nothing is kept."""

import asyncio

from adapters.datasets import DatasetReport, check_dataset
from adapters.errors import Details, GraftError, InvalidValue
from service.advice import about_rows
from service.finetune import FinetuneRequest, Intake, unlike_rows
from service.schemas.looking import WireReport, wire_report
from service.schemas.method import resolve_method


class Lookout:
    """Looks at requests that could be jobs, and takes none in."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def validate(self, request: FinetuneRequest) -> WireReport:
        """What is in the data, good or bad.

        Raises:
            InvalidRequest: no data, or more than one source of it.
            FileNotFound: no such `training_file` or `validation_file`.
        """
        return await asyncio.to_thread(self._report, request)

    def _report(self, request: FinetuneRequest) -> WireReport:
        report = check_dataset(self._intake.training_file(request))
        validation = self._report_on_validation(request, report)
        errors = _misfits(request, report)
        return wire_report(
            report, errors=errors, warnings=list(about_rows(report)), validation=validation
        )

    def _report_on_validation(
        self, request: FinetuneRequest, training: DatasetReport
    ) -> WireReport | None:
        path = self._intake.validation_file(request)
        if path is None:
            return None
        report = check_dataset(path)
        alike = report.compares == training.compares or None in {report.format, training.format}
        errors = [] if alike else [_detail(unlike_rows(request, compares=training.compares))]
        return wire_report(report, errors=errors, warnings=[])


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
