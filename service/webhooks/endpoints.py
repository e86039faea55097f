"""What a client does with endpoints: make, change, try out. Sync but for the trial; routes call it in a thread."""

import time
from collections.abc import Sequence

from adapters.errors import EndpointUnreachable
from adapters.ledger import Webhooks
from adapters.names import new_id
from adapters.webhooks import (
    Announcement,
    Endpoint,
    Happening,
    JobNews,
    NewEndpoint,
)
from service.schemas.webhooks import EndpointChange, EndpointOptions, WebhookOptions
from service.webhooks.courier import Courier
from service.webhooks.guard import Guard
from service.webhooks.sign import check_secret, new_secret

_STATUS = {
    Happening.SUCCEEDED: "succeeded",
    Happening.ADAPTER_READY: "succeeded",
    Happening.FAILED: "failed",
    Happening.CANCELLED: "cancelled",
    Happening.PAUSED: "paused",
}


class Endpoints:
    """Looks at what is asked for, then has the ledger do it."""

    def __init__(self, webhooks: Webhooks, guard: Guard, courier: Courier) -> None:
        self._webhooks, self._guard, self._courier = webhooks, guard, courier

    def create(self, asked: EndpointOptions) -> Endpoint:
        """Tell somebody of every job from now on. Raises InvalidValue where the URL may not be called."""
        host = self._guard.check(asked.url).host
        return self._webhooks.add(
            NewEndpoint(
                id=new_id("we_"),
                name=asked.name or host,
                url=asked.url,
                event_types=_once(asked.event_types),
                secret=new_secret(),
            )
        )

    def update(self, endpoint_id: str, asked: EndpointChange) -> Endpoint:
        """Change what is given. Raises EndpointNotFound, InvalidRequest, InvalidValue."""
        if asked.url is not None:
            self._guard.check(asked.url)
        return self._webhooks.update(
            endpoint_id,
            name=asked.name,
            url=asked.url,
            event_types=_once(asked.event_types) if asked.event_types else None,
            enabled=asked.enabled,
        )

    def rotate(self, endpoint_id: str, *, keep_old: bool) -> Endpoint:
        """Give an endpoint a fresh secret. Raises EndpointNotFound, InvalidRequest."""
        return self._webhooks.rotate(endpoint_id, new_secret(), keep_old=keep_old)

    async def test(self, endpoint: Endpoint, happening: Happening) -> int:
        """Send a sample now; returns the status that it was answered with.

        Raises:
            EndpointUnreachable: there was no answer.
        """
        outcome = await self._courier.send(endpoint, _sample(happening))
        if outcome.status is None:
            raise EndpointUnreachable(
                f"{endpoint.url} was not reached: {outcome.error}.", param="url"
            )
        return outcome.status


def job_endpoint(asked: WebhookOptions, guard: Guard) -> NewEndpoint:
    """The endpoint that a job brings along. Raises InvalidValue where the URL or the secret will not do."""
    host = guard.check(asked.url, param="webhook.url").host
    secret = asked.secret
    return NewEndpoint(
        id=new_id("we_"),
        name=host,
        url=asked.url,
        event_types=_once(asked.events),
        secret=new_secret() if secret is None else check_secret(secret, param="webhook.secret"),
    )


def _once(event_types: Sequence[Happening]) -> tuple[Happening, ...]:
    return tuple(dict.fromkeys(event_types))


def _sample(happening: Happening) -> Announcement:
    """Of a job that there is not."""
    status = _STATUS.get(happening, "running")
    made = status == "succeeded"
    return Announcement(
        id=new_id("evt_"),
        type=happening,
        created_at=time.time(),
        news=JobNews(
            job_id="ftjob-test",
            status=status,
            adapter="test",
            base_model="test",
            fine_tuned_model="test@1" if made else None,
            error={"code": "test", "message": "This is a test.", "param": None}
            if status == "failed"
            else None,
            step=1 if happening is Happening.CHECKPOINT_CREATED else None,
        ),
    )
