"""The story of a file that somebody brings, in one piece or in parts: checked, kept once, durable."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

from adapters.artifacts import digest_file
from adapters.datasets import check_dataset, file_report
from adapters.errors import PayloadTooLarge
from adapters.files import File, FileReport, NewFile, NewUpload, Part, Upload
from adapters.ledger import Ledger
from adapters.records import IdempotencyKey, Reply
from service.repeats import Answering, Repetition
from service.schemas.files import (
    Completion,
    FileOptions,
    UploadOptions,
    lifetime,
    wire_file,
    wire_upload,
)

_TRAINING = "fine-tune"


class Filing:
    """Takes files in. Sync: it reads files and writes the ledger; routes call it in a thread."""

    def __init__(self, ledger: Ledger, *, max_assembled_bytes: int) -> None:
        self._ledger = ledger
        self._max_assembled_bytes = max_assembled_bytes
        self._guard = Lock()
        self._answering = Answering()
        self._turns: WeakValueDictionary[str, Lock] = WeakValueDictionary()

    def keep(
        self, path: Path, filename: str, options: FileOptions, repetition: Repetition
    ) -> Reply:
        """Keep a file, whose bytes are moved. One that cannot be trained on is kept too, and says so.

        Raises:
            IdempotencyInProgress: the first request with the key is still being answered.
            IdempotencyKeyReused: the key came with another request before.
        """
        with self._answering.alone(_name("files", repetition)):
            return self._keep(path, filename, options, repetition)

    def _keep(
        self, path: Path, filename: str, options: FileOptions, repetition: Repetition
    ) -> Reply:
        digest = digest_file(path)
        meant = options.model_dump(mode="json") | {"filename": filename, "digest": digest}
        key = _key("files", repetition, meant)
        if key is not None and (reply := self._ledger.files.find_reply(key)) is not None:
            return reply
        new = NewFile(
            filename=filename,
            purpose=options.purpose,
            bytes=path.stat().st_size,
            digest=digest,
            expires_after=lifetime(options.purpose, options.expires_after),
            report=_judge(path, options.purpose),
        )
        return self._ledger.files.submit(
            path, new, key=key, retried=repetition.told_by_count, render=_file_reply
        )

    def begin(self, options: UploadOptions, repetition: Repetition) -> Reply:
        """Begin an upload.

        Raises:
            PayloadTooLarge: the file would be.
            IdempotencyInProgress: the first request with the key is still being answered.
            IdempotencyKeyReused: the key came with another request before.
        """
        if options.bytes > self._max_assembled_bytes:
            raise PayloadTooLarge(
                f"An upload may have at most {self._max_assembled_bytes:,} bytes here.",
                param="bytes",
            )
        new = NewUpload(
            bytes=options.bytes,
            filename=options.filename,
            mime_type=options.mime_type,
            purpose=options.purpose,
            expires_after=lifetime(options.purpose, options.expires_after),
        )
        with self._answering.alone(_name("uploads", repetition)):
            return self._ledger.uploads.create(
                new,
                key=_key("uploads", repetition, options.model_dump(mode="json")),
                retried=repetition.told_by_count,
                render=_upload_reply,
            )

    def add_part(self, upload_id: str, path: Path) -> Part:
        """Keep a part, whose bytes are moved. Raises UploadNotFound, UploadNotPending, InvalidValue."""
        return self._ledger.uploads.add_part(upload_id, path)

    def complete(self, upload_id: str, completion: Completion) -> Upload:
        """Make the parts a file. Raises UploadNotFound, UploadNotPending, InvalidValue.

        Gigabytes of rows take longer than a client waits. Its next try waits for the first to end, and is answered
        as that was; by itself it would only do the same work beside it.
        """
        with self._turn(upload_id):
            purpose = self._ledger.uploads.get(upload_id).purpose
            return self._ledger.uploads.complete(
                upload_id,
                completion.part_ids,
                md5=completion.md5,
                judge=lambda path: _judge(path, purpose),
            )

    def _turn(self, upload_id: str) -> Lock:
        with self._guard:
            return self._turns.setdefault(upload_id, Lock())


def _judge(path: Path, purpose: str) -> FileReport | None:
    return file_report(check_dataset(path)) if purpose == _TRAINING else None


def _file_reply(file: File) -> Reply:
    return Reply(status=200, body=wire_file(file).model_dump_json())


def _upload_reply(upload: Upload) -> Reply:
    return Reply(status=200, body=wire_upload(upload).model_dump_json())


def _name(kind: str, repetition: Repetition) -> str | None:
    return repetition.key and f"{kind}:{repetition.key}"


def _key(kind: str, repetition: Repetition, meant: Mapping[str, object]) -> IdempotencyKey | None:
    key = _name(kind, repetition)
    if key is None:
        return None
    # Over what was meant and not over the bytes sent: a multipart boundary differs each time.
    digest = hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()
    return IdempotencyKey(key=key, request_digest=digest)
