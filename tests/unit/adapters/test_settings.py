from pathlib import Path

import pytest

from adapters.errors import InvalidValue, UnknownField
from adapters.settings import DEMO_MODEL, LedgerSettings, LogSettings
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from trainer.settings import TrainerSettings

SECTIONS = (
    LedgerSettings,
    ServiceSettings,
    WebhookSettings,
    EngineSettings,
    TrainerSettings,
    LogSettings,
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
