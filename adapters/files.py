"""Files and uploads: what the ledger knows of bytes that people bring. Frozen and keyword-only, as in `records.py`.

An upload is a file that comes in parts. Times are Unix seconds (float); ids are OpenAI's: `file-`, `upload_`, `part_`.
"""

from dataclasses import dataclass
from enum import StrEnum

#: Largest part of an upload.
MAX_PART_BYTES = 64 << 20
#: An upload that has not been completed this long after its creation has expired.
UPLOAD_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """One bad row of a training file; `line` counts from 1, and 0 speaks of the file as a whole."""

    line: int
    field: str | None
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What was found in a training file when it arrived."""

    #: None where no row has a known format.
    format: str | None
    rows: int
    duplicates: int
    ignored_fields: tuple[str, ...]
    #: The first few.
    problems: tuple[RowProblem, ...]
    total_problems: int

    @property
    def valid(self) -> bool:
        """Whether the file can be trained on as it is."""
        return self.total_problems == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file as it is brought."""

    filename: str
    purpose: str
    bytes: int
    #: SHA-256 of its bytes, in hex.
    digest: str
    #: Seconds that it is to live; None means until somebody deletes it.
    expires_after: float | None = None
    report: FileReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it is kept; its bytes lie in the artifact store under its id."""

    id: str
    filename: str
    purpose: str
    bytes: int
    digest: str
    created_at: float
    #: From then on it is as if deleted, unless a job that has not ended needs it.
    expires_at: float | None = None
    report: FileReport | None = None


class UploadStatus(StrEnum):
    """The states of OpenAI's `upload`.

    pending -> completed | cancelled | expired
    """

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """An upload as it is announced."""

    bytes: int
    filename: str
    mime_type: str
    purpose: str
    #: Seconds that the file is to live, from the completion on.
    expires_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload as it is."""

    id: str
    bytes: int
    filename: str
    mime_type: str
    purpose: str
    expires_after: float | None
    status: UploadStatus
    created_at: float
    expires_at: float
    #: The parts that it was completed with, in their order; None before.
    part_ids: tuple[str, ...] | None = None
    #: What it became; None before, and once that file is gone.
    file: File | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of an upload. `digest` is the SHA-256 of its bytes, in hex."""

    id: str
    upload_id: str
    bytes: int
    digest: str
    created_at: float
