"""Bad rows, for OpenAI's clients: the request is accepted, and its job has failed for that reason from the start."""

from dataclasses import replace

from adapters.datasets import DatasetReport
from adapters.errors import FileNotFound, InvalidDataset, InvalidHeldOut, InvalidValue
from adapters.ledger import FileShelf
from adapters.records import JobError, NewJob
from service.schemas.finetune import FinetuneOptions
from service.schemas.method import resolve_method

_PURPOSE = "fine-tune"


def require_files(files: FileShelf, options: FinetuneOptions) -> None:
    """Look whether the files are there and for training. This much is said at once. Raises InvalidDataset."""
    _require_file(files, options.training_file, InvalidDataset, "training_file")
    _require_file(files, options.validation_file, InvalidHeldOut, "validation_file")


def flaw_of(error: InvalidDataset | InvalidValue) -> InvalidDataset:
    """What is wrong with the rows, in OpenAI's words: two files of two kinds are a bad validation file."""
    if isinstance(error, InvalidDataset):
        return error
    return InvalidHeldOut(error.message, param="validation_file")


def misfit(options: FinetuneOptions, training: DatasetReport) -> InvalidDataset | None:
    """Good rows that are not for the method are bad rows, too."""
    try:
        resolve_method(options.method, "auto", compares=training.compares)
    except InvalidValue as error:
        return InvalidDataset(error.message, param="training_file")
    return None


def as_if_good(options: FinetuneOptions, training: DatasetReport) -> DatasetReport:
    """Rows that would do: what else the request asks for is checked also where its rows are bad."""
    compares = options.method == "dpo" or (
        options.method is None and (training.compares or options.beta != "auto")
    )
    return replace(training, compares=compares, rows=max(1, training.rows))


def failed(new: NewJob, options: FinetuneOptions, flaw: InvalidDataset) -> NewJob:
    """The job that has failed for it."""
    return replace(
        new,
        validation_file=options.validation_file,
        error=JobError(code=flaw.code, message=flaw.message, param=flaw.param),
        problems=tuple(flaw.details or ()),
    )


def _require_file(
    files: FileShelf, file_id: str | None, wrong: type[InvalidDataset], param: str
) -> None:
    if file_id is None:
        return
    try:
        purpose = files.get(file_id).purpose
    except FileNotFound as error:
        told = f"{error.message} Upload it first: POST /v1/files with the purpose '{_PURPOSE}'."
        raise wrong(told, param=param) from error
    if purpose != _PURPOSE:
        told = f"The file {file_id} has the purpose '{purpose}'; upload it with '{_PURPOSE}'."
        raise wrong(told, param=param)
