"""`graft usage`, and the commands that share adapters."""

import json

import pytest

from cli.commands.usage import size

USAGE = {
    "object": "usage",
    "tenant": "acme",
    "stored": {
        "bytes": 3 << 29,
        "limit": 10 << 30,
        "files": 1 << 30,
        "uploads": 0,
        "versions": 1 << 29,
        "checkpoints": 0,
    },
    "jobs": {"queued": 3, "limit": 20, "highest_priority": "normal"},
    "requests": {"limit_per_minute": 6000, "remaining": 5990, "reset_seconds": 0.1},
    "tokens": None,
}


def test_usage_says_what_is_used_of_what(graft, run):
    graft.answers["GET /v1/usage"] = USAGE
    output = run("usage").output
    for line in (
        "acme",
        "1.5 GiB of 10.0 GiB",
        "files 1.0 GiB, uploads 0 bytes, versions 512.0 MiB, checkpoints 0 bytes",
        "3 of 20",
        "normal",
        "5,990 left of 6,000 a minute",
        "any number a minute",
    ):
        assert line in output


def test_usage_without_bounds_says_so(graft, run):
    stored = USAGE["stored"] | {"limit": None}
    graft.answers["GET /v1/usage"] = USAGE | {"stored": stored, "requests": None}
    assert "1.5 GiB of any" in run("usage").output


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**50, "1024.0 TiB")]
)  # fmt: skip
def test_bytes_are_said_as_people_say_them(count, said):
    assert size(count) == said


def test_an_adapter_is_shared_and_no_longer(graft, run):
    share = {"object": "adapter.share", "tenant": "acme", "may_continue": True, "created_at": 0}
    graft.answers["POST /v1/adapters/bot/shares"] = (201, share)
    assert run("adapters", "share", "bot", "acme", "--continue").output == (
        "bot: acme may ask and continue\n"
    )
    assert json.loads(graft.asked[0][2]) == {
        "tenant": "acme",
        "may_continue": True,
        "may_download": False,
    }
    everybody = share | {"tenant": "*", "may_continue": False}
    graft.answers["GET /v1/adapters/bot/shares"] = {"object": "list", "data": [share, everybody]}
    assert (
        run("adapters", "shares", "bot").output == "acme may ask and continue\neverybody may ask\n"
    )
    gone = {"id": "*", "object": "adapter.share", "deleted": True}
    graft.answers["DELETE /v1/adapters/bot/shares/*"] = gone
    assert (
        run("adapters", "unshare", "bot", "*").output == "bot is no longer shared with everybody\n"
    )


def test_what_is_another_tenants_is_said_to_be(graft, run):
    adapter = {"object": "adapter", "name": "bot", "base_model": "base", "live": "bot@1"}
    adapter |= {"shared": True, "owner": "acme", "versions": [], "aliases": {}}
    graft.answers["GET /v1/adapters/bot"] = adapter
    assert "bot on base, live: bot@1, shared by acme" in run("adapters", "bot").output
