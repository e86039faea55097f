"""The service in this process, without a socket: its own routes, a real ledger, no engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI
from starlette.testclient import TestClient

from adapters.settings import BaseModelSettings, LedgerSettings, QuotaSettings
from service.app import Configuration, create_app
from service.settings import EngineSettings, ServiceSettings, WebhookSettings

BASE = "tiny-base"


def ledger_settings(home: Path) -> LedgerSettings:
    return LedgerSettings(home=home, base_models=(BaseModelSettings(id=BASE, source="/nowhere"),))


@contextmanager
def answering(
    home: Path, *, quotas: QuotaSettings | None = None, **settings: object
) -> Iterator[TestClient]:
    """A client of the service on that home; no engine is up."""
    configuration = Configuration(
        ledger=ledger_settings(home),
        service=ServiceSettings(**{"allowed_hosts": ("graft",), **settings}),
        engine=EngineSettings(),
        webhooks=WebhookSettings(),
        quotas=quotas or QuotaSettings(),
    )
    with TestClient(create_app(configuration), base_url="http://graft/") as client:
        yield client


def sdk(client: TestClient, **options: object) -> OpenAI:
    """OpenAI's own SDK, which sends through that client."""
    return OpenAI(base_url="http://graft/v1", api_key="unused", http_client=client, **options)
