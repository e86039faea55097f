"""Every error that graft raises on purpose, and the HTTP status each one answers with.

GraftError                      500  internal_error
├── InvalidRequest              400  invalid_request
│   ├── UnknownField            400  unknown_field
│   ├── InvalidValue            400  invalid_value
│   ├── InvalidDataset          400  invalid_training_file   (details: one entry per bad row)
│   │   └── InvalidHeldOut      400  invalid_validation_file
│   ├── UnsupportedMethod       400  unsupported_method
│   ├── NotServable             400  not_servable
│   ├── ModelQuarantined        400  model_quarantined
│   ├── InvalidAdapter          400  invalid_adapter         (details: code and message of each flaw)
│   ├── JobNotCancellable       400  job_not_cancellable
│   ├── JobNotPausable          400  job_not_pausable
│   ├── JobNotResumable         400  job_not_resumable
│   ├── AdapterNameConflict     400  adapter_name_conflict
│   ├── FileInUse               400  file_in_use
│   ├── UploadNotPending        400  upload_not_pending
│   └── EndpointUnreachable     400  webhook_unreachable
├── Unauthenticated             401  invalid_api_key
├── Forbidden                   403  missing_scope
│   └── AdapterReadOnly         403  adapter_read_only
├── NotFound                    404  not_found
│   ├── ModelNotFound           404  model_not_found
│   ├── AdapterNotFound         404  adapter_not_found
│   ├── JobNotFound             404  job_not_found
│   ├── FileNotFound            404  file_not_found
│   ├── UploadNotFound          404  upload_not_found
│   ├── EndpointNotFound        404  webhook_endpoint_not_found
│   ├── DeliveryNotFound        404  webhook_delivery_not_found
│   └── KeyNotFound             404  api_key_not_found
├── AliasMoved                  409  alias_moved             (retry: no)
├── IdempotencyInProgress       409  idempotency_in_progress (retry_after; retry: yes)
├── PayloadTooLarge             413  file_too_large
├── UnsupportedMediaType        415  unsupported_media_type
├── Misdirected                 421  unknown_host
├── IdempotencyKeyReused        422  idempotency_key_reused
├── Overloaded                  429  rate_limit_exceeded     (retry_after)
│   ├── QueueFull               429  queue_full              (retry_after)
│   └── OverQuota               429  insufficient_quota      (retry: no)
├── Unavailable                 503  engine_unavailable      (retry_after)
│   ├── StorageFull             507  storage_full            (retry_after; retry: no)
│   └── StoreUnavailable        503  store_unavailable       (retry_after)
├── LeaseLost                   500  lease_lost              a worker's write came too late; never on the wire
├── ArtifactCorrupt             500  artifact_corrupt        (retry: no)
└── EngineFault                 502  engine_error            the engine answered with something we did not expect

To add one: subclass the nearest category, set `code` (and `status` where it differs), add the line above.
Every error takes keyword-only context and survives pickling, because it may cross a process.
OpenAI's SDK sends a request again on 408, 409, 429 and 5xx, and on nothing else. Where that is wrong for an error, it
says so in `retry`: no for what would go the same way once more, yes for what will go better.
The status and type of each follow OpenAI's error codes: 400 and not 409 or 422 for what a client got wrong,
since their SDK retries a 409 like a 5xx.
"""

from difflib import get_close_matches
from typing import ClassVar, Self, TypeAlias

Details: TypeAlias = list[dict[str, object]]
_LONGEST_NAME = 200


class GraftError(Exception):
    """Something went wrong inside graft. Carries everything the wire needs to say so."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    #: Whether to send the request again, where the status alone would tell a client wrongly.
    retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: Details | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = details
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.param, self.details, self.retry_after))


def _rebuild(
    cls: type[GraftError],
    message: str,
    param: str | None,
    details: Details | None,
    retry_after: float | None,
) -> GraftError:
    return cls(message, param=param, details=details, retry_after=retry_after)


class InvalidRequest(GraftError):
    """The client asked for something that cannot be done as asked."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class UnknownField(InvalidRequest):
    """A name that this endpoint does not know; the message suggests the nearest one it does."""

    code = "unknown_field"

    @classmethod
    def named(cls, name: str, known: list[str], *, where: str) -> Self:
        """Build the error for `name`, suggesting the closest of `known` names."""
        # Who sends megabytes as a name has not mistyped one, and comparing them would take seconds.
        name = name[:_LONGEST_NAME]
        close = get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(sorted(known))}."
        return cls(f"Unknown field '{name}' in {where}.{hint}", param=name)


class Misdirected(GraftError):
    """The request asks for a host that this server is not, or comes from a web page of another site."""

    status = 421
    type = "invalid_request_error"
    code = "unknown_host"


class InvalidValue(InvalidRequest):
    """A known field with a value outside its range."""

    code = "invalid_value"


class InvalidDataset(InvalidRequest):
    """Rows that cannot be trained on; `details` lists line, field, code and message of each."""

    code = "invalid_training_file"


class InvalidHeldOut(InvalidDataset):
    """The same of the rows that are held out."""

    code = "invalid_validation_file"


class UnsupportedMethod(InvalidRequest):
    """A method of OpenAI's that is not trained here."""

    code = "unsupported_method"


class NotServable(InvalidRequest):
    """An adapter of this shape could be trained, but the engine could not serve it."""

    code = "not_servable"


class InvalidAdapter(InvalidRequest):
    """An adapter that somebody brings and that cannot be served; `details` lists code and message of each flaw."""

    code = "invalid_adapter"


class ModelQuarantined(InvalidRequest):
    """The engine was found to compute something else of the version than training saw."""

    code = "model_quarantined"


class JobNotCancellable(InvalidRequest):
    """The job has already ended."""

    code = "job_not_cancellable"


class JobNotPausable(InvalidRequest):
    """The job has already ended."""

    code = "job_not_pausable"


class JobNotResumable(InvalidRequest):
    """The job is not paused."""

    code = "job_not_resumable"


class AdapterNameConflict(InvalidRequest):
    """The name is another tenant's."""

    code = "adapter_name_conflict"


class FileInUse(InvalidRequest):
    """A live job still needs the file."""

    code = "file_in_use"


class UploadNotPending(InvalidRequest):
    """The upload has been completed or cancelled, or has expired."""

    code = "upload_not_pending"


class EndpointUnreachable(InvalidRequest):
    """A webhook endpoint did not answer, or may not be asked."""

    code = "webhook_unreachable"


class Unauthenticated(GraftError):
    """No key, or none that is good."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(GraftError):
    """The key is good, but not for this."""

    status = 403
    type = "permission_error"
    code = "missing_scope"


class AdapterReadOnly(Forbidden):
    """The adapter is another tenant's, who shares it, but not for this."""

    code = "adapter_read_only"


class NotFound(GraftError):
    """Nothing of that name."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """`model` is neither a base model nor an adapter."""

    code = "model_not_found"


class AdapterNotFound(NotFound):
    """No adapter, or no version of it, has that name."""

    code = "adapter_not_found"


class JobNotFound(NotFound):
    """No fine-tuning job has that id."""

    code = "job_not_found"


class FileNotFound(NotFound):
    """No file has that id."""

    code = "file_not_found"


class UploadNotFound(NotFound):
    """No upload has that id."""

    code = "upload_not_found"


class EndpointNotFound(NotFound):
    """No webhook endpoint has that id."""

    code = "webhook_endpoint_not_found"


class DeliveryNotFound(NotFound):
    """The webhook endpoint has no delivery of that id."""

    code = "webhook_delivery_not_found"


class KeyNotFound(NotFound):
    """No API key has that id."""

    code = "api_key_not_found"


class PayloadTooLarge(GraftError):
    """The body is larger than the service takes."""

    status = 413
    type = "invalid_request_error"
    code = "file_too_large"


class UnsupportedMediaType(GraftError):
    """Neither JSON nor a multipart form."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class AliasMoved(GraftError):
    """The alias does not point where its caller expected: somebody else was first."""

    status = 409
    type = "invalid_request_error"
    code = "alias_moved"
    retry = False


class IdempotencyInProgress(GraftError):
    """The first request with this key is still being answered."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_in_progress"
    retry = True


class IdempotencyKeyReused(GraftError):
    """The key was used before with a different body."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class Overloaded(GraftError):
    """Bounded queues are full."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class QueueFull(Overloaded):
    """As many jobs wait as may wait."""

    code = "queue_full"


class OverQuota(Overloaded):
    """The tenant has taken all that it may take. Waiting does not help, or not soon."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    retry = False


class Unavailable(GraftError):
    """A part that this request needs is starting or restarting."""

    status = 503
    code = "engine_unavailable"


class StorageFull(Unavailable):
    """The disk of the database or of the files is full: the request has changed nothing."""

    status = 507
    code = "storage_full"
    retry = False


class StoreUnavailable(Unavailable):
    """The bucket does not answer, or not as it should."""

    code = "store_unavailable"


class LeaseLost(GraftError):
    """The job belongs to a later attempt, or has ended: the writer must stop."""

    code = "lease_lost"


class ArtifactCorrupt(GraftError):
    """Stored bytes do not match their digest."""

    code = "artifact_corrupt"
    retry = False


class EngineFault(GraftError):
    """The engine refused or failed a call that should have worked."""

    status = 502
    code = "engine_error"
