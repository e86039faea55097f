"""Webhooks on the wire: what may be asked for, endpoints as OpenAI shows them, and the body of a call."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import InvalidValue, UnknownField
from adapters.names import FineTunedName
from adapters.webhooks import (
    ENDINGS,
    Announcement,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Happening,
    JobNews,
    secret_hint,
)
from service.schemas.fields import from_json
from service.schemas.pages import Listed, Page

EventTypes = Annotated[list[Happening], Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class WebhookOptions(BaseModel):
    """`webhook` of a job."""

    model_config = ConfigDict(extra="forbid")

    url: str
    #: Made where it is not given.
    secret: str | None = Field(None, repr=False)
    events: EventTypes = list(ENDINGS)


class EndpointOptions(BaseModel):
    """`POST /v1/webhook_endpoints`."""

    model_config = ConfigDict(extra="forbid")

    url: str
    #: The URL's host where it is not given.
    name: Name | None = None
    event_types: EventTypes = list(ENDINGS)


class EndpointChange(BaseModel):
    """`POST /v1/webhook_endpoints/{id}`."""

    model_config = ConfigDict(extra="forbid")

    url: str | None = None
    name: Name | None = None
    event_types: EventTypes | None = None
    enabled: bool | None = None


class RotationOptions(BaseModel):
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`."""

    model_config = ConfigDict(extra="forbid")

    keep_old_secret_active_for_24_hours: bool = False


class TestOptions(BaseModel):
    """`POST /v1/webhook_endpoints/{id}/test`."""

    model_config = ConfigDict(extra="forbid")

    event_type: Happening


class WireEndpoint(Listed):
    """OpenAI's `webhook_endpoint`, and how it fares."""

    object: Literal["webhook_endpoint"]
    name: str
    url: str
    event_types: list[Happening]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    enabled: bool
    disabled_reason: str | None
    #: Where it belongs to one job.
    job_id: str | None


class WireEndpointWithSecret(WireEndpoint):
    """The answer to creation and rotation, the only ones that show the secret."""

    signing_secret: str = Field(repr=False)


class WireDelivery(Listed):
    """An entry of an endpoint's log."""

    object: Literal["webhook_endpoint.delivery"]
    webhook_endpoint_id: str
    event_id: str
    event_type: Happening
    job_id: str
    status: DeliveryStatus
    attempts: int
    created_at: int
    #: Of a pending one.
    next_attempt_at: int | None
    last_attempt_at: int | None
    last_status_code: int | None
    last_error: str | None


class WireEndpointList(Page[WireEndpoint]):
    """A page of endpoints, newest first."""


class WireDeliveryList(Page[WireDelivery]):
    """A page of an endpoint's log, newest first."""


Options = TypeVar("Options", bound=BaseModel)


def webhook_from(value: Any) -> Any:
    """`webhook` in its long form; a form field holds that as JSON text. Raises ValueError."""
    value = from_json(value)
    return {"url": value} if isinstance(value, str) else value


def parse(model: type[Options], body: Mapping[str, Any], *, where: str) -> Options:
    """The options of a request.

    Raises:
        UnknownField: a name that does not exist; the message suggests the nearest.
        InvalidValue: a value that is missing or will not do.
    """
    for name in body.keys() - model.model_fields.keys():
        raise UnknownField.named(name, list(model.model_fields), where=where)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise InvalidValue(f"{field} is required.", param=field) from error
        raise InvalidValue(f"{field}: {first['msg']}.", param=field) from error


def wire_endpoint(endpoint: Endpoint) -> WireEndpoint:
    """The endpoint as clients see it."""
    return WireEndpoint(**_endpoint(endpoint))


def wire_endpoint_with_secret(endpoint: Endpoint) -> WireEndpointWithSecret:
    """The endpoint with its secret: for whoever has just made or rotated it."""
    return WireEndpointWithSecret(**_endpoint(endpoint), signing_secret=endpoint.secret)


def wire_delivery(delivery: Delivery) -> WireDelivery:
    """The delivery as clients see it."""
    last, told = delivery.last_attempt_at, delivery.announcement
    waits = delivery.status is DeliveryStatus.PENDING
    return WireDelivery(
        id=delivery.id,
        object="webhook_endpoint.delivery",
        webhook_endpoint_id=delivery.endpoint_id,
        event_id=told.id,
        event_type=told.type,
        job_id=told.news.job_id,
        status=delivery.status,
        attempts=delivery.attempts,
        created_at=int(told.created_at),
        next_attempt_at=int(delivery.due_at) if waits else None,
        last_attempt_at=int(last) if last is not None else None,
        last_status_code=delivery.last_status,
        last_error=delivery.last_error,
    )


def event_body(announcement: Announcement) -> bytes:
    """The body of a call: OpenAI's webhook event, with more in `data`. The same bytes at every attempt."""
    news = announcement.news
    data: dict[str, Any] = {
        "id": news.job_id,
        "status": news.status,
        "fine_tuned_model": _made(news) if news.fine_tuned_model else None,
        "adapter": {"name": news.adapter, "base_model": news.base_model},
        "error": news.error,
    }
    if news.step is not None:
        data["step"] = news.step
    event = {
        "object": "event",
        "id": announcement.id,
        "type": announcement.type.value,
        "created_at": int(announcement.created_at),
        "data": data,
    }
    return json.dumps(event).encode()


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "created_at": int(endpoint.created_at),
        "updated_at": int(endpoint.updated_at),
        "signing_secret_hint": secret_hint(endpoint.secret),
        "enabled": endpoint.disabled_at is None,
        "disabled_reason": endpoint.disabled_reason,
        "job_id": endpoint.job_id,
    }


def _made(news: JobNews) -> str:
    """As the job object names it."""
    made = FineTunedName.of_job(news.job_id, base_model=news.base_model, adapter=news.adapter)
    return str(made)
