"""Files and uploads on the wire: OpenAI's objects, with what was found in a training file."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapters.errors import InvalidValue
from adapters.files import File, FileReport, Part, RowProblem, Upload, UploadStatus
from service.schemas.pages import Listed, Page

Purpose = Literal["fine-tune", "batch", "user_data", "evals", "assistants", "vision"]

_DAY_S = 24 * 3600


def _storable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be one line of text without control characters")
    return name


FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
_FILENAME: TypeAdapter[str] = TypeAdapter(FileName)


class ExpiresAfter(BaseModel):
    """How long a file is to live."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * _DAY_S)


class FileOptions(BaseModel):
    """`POST /v1/files`, less the file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadOptions(BaseModel):
    """`POST /v1/uploads`."""

    model_config = ConfigDict(extra="forbid")

    bytes: int = Field(ge=1)
    filename: FileName
    mime_type: FileName
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class Completion(BaseModel):
    """`POST /v1/uploads/{id}/complete`."""

    model_config = ConfigDict(extra="forbid")

    part_ids: list[str] = Field(min_length=1)
    md5: str | None = Field(None, pattern="^[0-9a-fA-F]{32}$")


class WireRowProblem(BaseModel):
    """One bad row."""

    line: int
    field: str | None
    code: str
    message: str


class WireReport(BaseModel):
    """What was found in a training file. `errors` are the first few of `total_errors`."""

    valid: bool
    format: str | None
    rows: int
    duplicates: int
    ignored_fields: list[str]
    errors: list[WireRowProblem]
    total_errors: int


class WireFile(Listed):
    """OpenAI's `file`."""

    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed", "error"]
    status_details: str | None
    validation_report: WireReport | None


class WireFileList(Page[WireFile]):
    """A page of files."""


class WireUpload(BaseModel):
    """OpenAI's `upload`."""

    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    mime_type: str
    purpose: str
    status: UploadStatus
    file: WireFile | None


class WirePart(BaseModel):
    """OpenAI's `upload.part`."""

    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str


def check_filename(name: str, *, param: str) -> str:
    """The name. Raises InvalidValue where it cannot be kept."""
    try:
        return _FILENAME.validate_python(name)
    except ValidationError as error:
        raise InvalidValue(f"The file's name: {error.errors()[0]['msg']}.", param=param) from error


def lifetime(purpose: Purpose, expires_after: ExpiresAfter | None) -> float | None:
    """Seconds that a file is to live. As at OpenAI, files for batches live 30 days unless told otherwise."""
    if expires_after is not None:
        return float(expires_after.seconds)
    return 30.0 * _DAY_S if purpose == "batch" else None


def wire_file(file: File) -> WireFile:
    """The file as clients see it. It is checked before it is kept, so that it is never merely `uploaded`."""
    report = file.report
    bad = report is not None and not report.valid
    return WireFile(
        id=file.id,
        object="file",
        bytes=file.bytes,
        created_at=int(file.created_at),
        expires_at=int(file.expires_at) if file.expires_at is not None else None,
        filename=file.filename,
        purpose=file.purpose,
        status="error" if bad else "processed",
        status_details=_told(report) if report is not None and bad else None,
        validation_report=_report(report) if report is not None else None,
    )


def wire_upload(upload: Upload) -> WireUpload:
    """The upload as clients see it."""
    return WireUpload(
        id=upload.id,
        object="upload",
        bytes=upload.bytes,
        created_at=int(upload.created_at),
        expires_at=int(upload.expires_at),
        filename=upload.filename,
        mime_type=upload.mime_type,
        purpose=upload.purpose,
        status=upload.status,
        file=wire_file(upload.file) if upload.file is not None else None,
    )


def wire_part(part: Part) -> WirePart:
    """The part as clients see it."""
    return WirePart(
        id=part.id,
        object="upload.part",
        created_at=int(part.created_at),
        upload_id=part.upload_id,
    )


def _report(report: FileReport) -> WireReport:
    return WireReport(
        valid=report.valid,
        format=report.format,
        rows=report.rows,
        duplicates=report.duplicates,
        ignored_fields=list(report.ignored_fields),
        errors=[_problem(problem) for problem in report.problems],
        total_errors=report.total_problems,
    )


def _problem(problem: RowProblem) -> WireRowProblem:
    return WireRowProblem(
        line=problem.line, field=problem.field, code=problem.code, message=problem.message
    )


def _told(report: FileReport) -> str:
    count = "1 problem" if report.total_problems == 1 else f"{report.total_problems} problems"
    first = f" {report.problems[0].message}" if report.problems else ""
    return f"The file cannot be trained on; it has {count}.{first}"
