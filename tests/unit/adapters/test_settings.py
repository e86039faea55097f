from pathlib import Path

import pytest

from adapters.bucket.client import Bucket
from adapters.errors import InvalidValue, UnknownField
from adapters.settings import (
    DEMO_MODEL,
    LedgerSettings,
    LogSettings,
    QueueSettings,
    Quota,
    QuotaSettings,
    StoreSettings,
    TelemetrySettings,
)
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from trainer.settings import TrainerSettings

SECTIONS = (
    LedgerSettings,
    QuotaSettings,
    ServiceSettings,
    WebhookSettings,
    EngineSettings,
    TrainerSettings,
    LogSettings,
    TelemetrySettings,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    return tmp_path / "graft.yaml"


def test_nothing_needs_to_be_configured(config: Path) -> None:
    settings = LedgerSettings()
    assert settings.home == config.parent
    assert settings.base_model_ids == [DEMO_MODEL]
    assert settings.database == f"sqlite:///{config.parent}/graft.db"


def test_the_file_sets_what_the_environment_and_arguments_leave_open(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        "service: {port: 1, host: 127.0.0.2, max_running: 7}\ntrainer: {threads: 3}\n"
    )
    monkeypatch.setenv("GRAFT_SERVICE_HOST", "127.0.0.3")
    monkeypatch.setenv("GRAFT_SERVICE_PORT", "2")
    settings = ServiceSettings(port=3)
    assert (settings.port, settings.host, settings.max_running) == (3, "127.0.0.3", 7)
    assert TrainerSettings().threads == 3


def test_base_models_come_from_the_file(config: Path) -> None:
    config.write_text("ledger: {base_models: [{id: org/m, source: /models/m}]}")
    settings = LedgerSettings()
    assert settings.base_model_ids == ["org/m"]
    assert settings.base_model_dir("org/m") == config.parent / "models" / "org--m"


def test_a_base_model_may_have_sampling_defaults_within_their_ranges(config: Path) -> None:
    model = "ledger: {base_models: [{id: m, source: a, sampling: {%s}}]}"
    config.write_text(model % "temperature: 0.5, preset: anti-repetition")
    [one] = LedgerSettings().base_models
    assert one.sampling.given == {"temperature": 0.5, "preset": "anti-repetition"}
    for wrong in ("temperature: 3", "preset: loud", "tmeperature: 1"):
        config.write_text(model % wrong)
        with pytest.raises(InvalidValue, match=wrong.partition(":")[0]):
            LedgerSettings()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_name_that_no_section_knows_is_refused(section: type, config: Path) -> None:
    config.write_text(f"{section.section}: {{no_such_setting: 1}}")
    with pytest.raises(InvalidValue, match="no_such_setting"):
        section()


def test_a_misspelt_section_is_named(config: Path) -> None:
    config.write_text("trianer: {threads: 1}")
    with pytest.raises(UnknownField, match="'trainer'"):
        LedgerSettings()


@pytest.mark.parametrize("text", ["a: [", "- 1", "service: 3"])
def test_a_file_that_is_not_a_mapping_of_sections_is_refused(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises((InvalidValue, UnknownField)):
        ServiceSettings()


def test_a_value_out_of_range_says_where_and_why(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_SERVICE_PORT", "99999")
    with pytest.raises(InvalidValue, match="port"):
        ServiceSettings()


def test_two_base_models_of_one_id_are_refused(config: Path) -> None:
    config.write_text("ledger: {base_models: [{id: m, source: a}, {id: m, source: b}]}")
    with pytest.raises(InvalidValue, match="each id once"):
        LedgerSettings()


def test_a_tenants_quota_is_its_own_where_it_says_something_and_everybodys_elsewhere(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        "quotas:\n  default: {stored_bytes: 100, requests_per_minute: 60}\n  tenants:\n    acme: {max_queued: 3}\n"
    )
    quotas = QuotaSettings()
    assert quotas.of("acme") == Quota(stored_bytes=100, requests_per_minute=60, max_queued=3)
    assert quotas.of("other") == Quota(stored_bytes=100, requests_per_minute=60)
    rules = QueueSettings(max_queued=7, highest_priority="normal")
    own = quotas.rules_of("acme", rules)
    assert (own.max_queued, own.highest_priority) == (3, "normal")
    assert quotas.rules_of("other", rules) == rules
    monkeypatch.setenv("GRAFT_QUOTAS_TENANTS", '{"acme": {"highest_priority": "low"}}')
    assert QuotaSettings().rules_of("acme", rules).highest_priority == "low"


@pytest.mark.parametrize(
    "quota", [{"stored_byte": 1}, {"stored_bytes": -1}, {"requests_per_minute": 0}]
)
def test_a_quota_that_makes_no_sense_is_refused(quota: dict[str, int]) -> None:
    with pytest.raises(InvalidValue, match=r"section 'quotas', tenants\.acme"):
        QuotaSettings(tenants={"acme": quota})


def test_the_bucket_is_asked_with_the_usual_variables_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert LedgerSettings().store is None
    monkeypatch.setenv("GRAFT_STORE_URL", "s3://grafts/production")
    monkeypatch.setenv("GRAFT_STORE_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    settings = LedgerSettings()
    store = settings.store
    assert store is not None
    assert (store.access_key_id, store.region) == ("me", "eu-west-1")
    assert store.secret_access_key.get_secret_value() == "s3cr3t"
    for shown in (repr(settings), str(settings), repr(store), str(store)):
        assert "s3cr3t" not in shown
        assert "t0ken" not in shown


@pytest.mark.parametrize(
    "url", ["grafts", "https://grafts", "s3://", "s3://key@grafts", "s3://a?b"]
)
def test_a_store_that_is_no_bucket_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidValue, match="s3://bucket/prefix"):
        Bucket(StoreSettings(url=url))
