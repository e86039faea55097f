"""Which key is sent, and what `graft keys` makes of its words. Keys: tests/integration/service/test_keys.py."""

import pytest

from cli.settings import child_environment, read_settings


@pytest.mark.parametrize(
    ("graft_key", "openai_key", "sent"),
    [
        ("graft-a", "graft-b", "graft-a"),
        ("", "graft-b", "graft-b"),
        ("", "sk-somebody-elses", "graft"),
        ("", "", "graft"),
    ],
)
def test_a_key_of_ours_is_sent_and_nobody_elses(
    monkeypatch: pytest.MonkeyPatch, graft_key: str, openai_key: str, sent: str
) -> None:
    monkeypatch.setenv("GRAFT_API_KEY", graft_key)
    monkeypatch.setenv("OPENAI_API_KEY", openai_key)
    settings = read_settings()
    assert settings.api_key == sent
    assert repr(settings) == "Settings()"


@pytest.mark.parametrize("length", ["30", "d", "0d", "-1d", "1.5h", "30 d", "1y"])
def test_a_length_of_time_that_is_none_makes_no_key(run, length: str) -> None:
    refused = run("keys", "create", "--tenant", "acme", "--expires", length)
    assert refused.exit_code == 2


def test_what_is_started_is_told_whether_to_ask_for_keys() -> None:
    assert child_environment(auth=True)["GRAFT_SERVICE_AUTH"] == "True"
    assert "GRAFT_SERVICE_AUTH" not in child_environment()
