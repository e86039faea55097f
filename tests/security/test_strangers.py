"""Addresses inside, words of a shell, pages of other sites, other programs' routes: nothing of it goes anywhere."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from adapters.webhooks import ENDINGS
from service.webhooks.guard import Guard
from service.webhooks.post import Postman
from tests.security.house import House, living
from tests.support.receiver import Receiver
from tests.support.samples import BASE
from trainer.child import WarmProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]

# ---- addresses

HOSTS = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "127.255.255.254",
    "0.0.0.0",
    "0",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:a9fe:a9fe]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "10.0.0.1",
    "0xa000001",
    "172.16.0.1",
    "192.168.1.1",
    "192.168.257",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "127\u30020\u30020\u30021",
)
URLS = (
    *(f"https://{host}/hook" for host in HOSTS),
    *(f"https://{host}:8443/hook" for host in HOSTS[:8]),
    "http://example.com/hook",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1#@example.com/",
    "https://127.0.0.1\\@example.com/",
    "https://[::1]%25lo/",
    "https:///hook",
    "https://",
    "//127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "ftp://127.0.0.1/",
    "unix:///run/x.sock",
    "javascript:alert(1)",
    "https://127.0.0.1\r\nX: y/",
    "https://127.0.0.1 /",
    "https://127.0.0.1:0x50/",
    "https://127.0.0.1:99999/",
)


async def test_no_webhook_leads_inside_however_its_address_is_spelt(house: House) -> None:
    assert len(URLS) > 60
    for url in URLS:
        answer = await house.ask("POST", "/v1/webhook_endpoints", {"url": url})
        await house.refused(answer, 400)
        job = {"name": "x", "data": ROWS, "webhook": {"url": url}}
        await house.refused(await house.ask("POST", "/finetune", job), 400)
    listed = await house.ask("GET", "/v1/webhook_endpoints")
    assert listed.json()["data"] == []


async def test_a_name_that_means_another_address_at_the_second_look_is_not_called() -> None:
    receiver = Receiver()
    await receiver.start()
    answers = [["93.184.215.14"], ["127.0.0.1"]]
    guard = Guard(allow_private=False, resolver=lambda _host, _port: answers.pop(0))
    postman = Postman(guard, timeout=5)
    url = f"https://rebinding.example:{receiver.port}/hook"
    guard.check(url)  # as when the endpoint is made
    outcome = await postman.post(url, b"{}", {})
    assert outcome.status is None
    assert "not a public address" in str(outcome.error)
    assert (answers, receiver.calls) == ([], [])
    postman.close()
    await receiver.stop()


async def test_one_look_decides_and_what_was_looked_at_is_what_is_called() -> None:
    """A resolver that would answer otherwise a moment later is not asked again."""
    receiver, asked = Receiver(), []
    await receiver.start()

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    postman = Postman(Guard(allow_private=True, resolver=resolver), timeout=5)
    outcome = await postman.post(f"http://two.example:{receiver.port}/hook", b"{}", {})
    assert (outcome.status, asked, len(receiver.calls)) == (204, ["two.example"], 1)
    postman.close()
    await receiver.stop()


async def test_a_redirect_to_the_inside_is_not_followed() -> None:
    inside, outside = Receiver(), Receiver()
    await inside.start()
    await outside.start()
    postman = Postman(Guard(allow_private=True), timeout=5)
    for status in (301, 302, 303, 307, 308):
        outside.answers, outside.location = [status], inside.url
        outcome = await postman.post(outside.url, b"{}", {})
        assert "redirects are not followed" in str(outcome.error)
    assert inside.calls == []
    postman.close()
    await inside.stop()
    await outside.stop()


# ---- shells

COMMANDS = (
    "$(touch {0})",
    "`touch {0}`",
    "; touch {0}",
    "| touch {0}",
    "&& touch {0}",
    "\ntouch {0}\n",
    "' ; touch {0} ; '",
    '" ; touch {0} ; "',
    "$((1)); touch {0} #",
    "--output={0}",
    "-o{0}",
    "%0atouch {0}",
    "@{0}",
    "> {0}",
)


async def test_words_of_a_shell_in_a_job_reach_no_shell(house: House, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    job = {"data": ROWS, "name": "plain"}
    places: list[tuple[str, Any]] = [
        ("name", None),
        ("base_model", None),
        ("continue_from", None),
        ("training_file", None),
        ("validation_file", None),
        ("priority", None),
        ("gate", None),
        ("method", None),
        ("learning_rate", None),
        ("seed", None),
        ("metadata", lambda text: {"key": text}),
        ("metadata", lambda text: {text[:60]: "value"}),
        ("lora", lambda text: {"target_modules": [text]}),
        ("integrations", lambda text: [{"type": text}]),
        ("webhook", lambda text: {"url": f"https://example.invalid/{text}"}),
        ("data", lambda text: [{"input": text, "target": text}] * 3),
    ]
    taken = 0
    for command in COMMANDS:
        text = command.format(owned)
        for field, wrap in places:
            asked = job | {field: wrap(text) if wrap else text}
            answer = await house.ask("POST", "/finetune", asked)
            assert answer.status < 500, answer.body
            if answer.status < 300:
                taken += 1
            else:
                house.discreet(answer)
    assert taken > len(COMMANDS)
    assert not owned.exists()
    # What the trainer starts is told nothing of a job: it hears of them on a socket, as JSON.
    process = WarmProcess(BASE, "cpu")
    assert process._arguments == [BASE, "--device", "cpu"]


# ---- other programs' routes

#: What vLLM 0.32 serves, or has served, on the same port as its OpenAI routes, and neighbours of ours on theirs.
_NAMES = (
    "/abort_requests /api/2.0/mlflow/experiments/list /api/jobs/ /classify /cohere/v2/chat /collective_rpc "
    "/fault_tolerance/apply /fault_tolerance/status /finish_weight_update /generate /generative_scoring "
    "/get_world_size /health /inference/v1/generate /init_weight_transfer_engine /invocations /is_paused "
    "/is_scaling_elastic_ep /is_sleeping /kv_event_sources /load /pause /ping /pooling /release_kv_cache_memory "
    "/rerank /reset_encoder_cache /reset_mm_cache /reset_prefix_cache /resume /scale_elastic_ep /score "
    "/server_info /shutdown_weight_transfer_engine /sleep /start_draft_weight_update /start_profile "
    "/start_weight_update /stop_profile /tokenizer_info /update_weight_version /update_weights "
    "/v1/audio/transcriptions /v1/audio/translations /v1/chat/completions/batch /v1/chat/completions/derender "
    "/v1/chat/completions/render /v1/completions/derender /v1/completions/render /v1/embeddings "
    "/v1/load_lora_adapter /v1/messages/render /v1/realtime /v1/rerank /v1/responses/render /v1/responses/resp_1 "
    "/v1/responses/resp_1/cancel /v1/score /v1/systemone /v1/unload_lora_adapter /v2/embed /v2/rerank /version "
    "/wake_up /weight_checker /weight_info"
)
ROUTES = _NAMES.split()
#: Of vLLM's, what is offered here too, behind the gate and through our own checks.
OURS = {
    "/detokenize",
    "/metrics",
    "/tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/responses",
}


async def test_nothing_of_an_engines_own_app_is_reachable(house: House) -> None:
    body = {"model": BASE, "lora_name": "x", "lora_path": "/etc", "input": "x", "method": "x"}
    before = (len(house.engine.bodies), list(house.engine.tries), dict(house.engine.adapters))
    for path in ROUTES:
        for spelt in (
            path,
            f"/{path}",
            f"{path}/",
            f"/v1{path}",
            f"/tokenize/..{path}",
            path.upper(),
        ):
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
                unknown = await house.ask(method, spelt, body)
                assert unknown.status in {404, 405}, (method, spelt)
                nobody = await house.ask(method, spelt, body, key=None)
                assert nobody.status == 401, (method, spelt)
    after = (len(house.engine.bodies), list(house.engine.tries), dict(house.engine.adapters))
    assert before == after


async def test_the_list_of_an_engines_routes_is_whole() -> None:
    """Held against vLLM's own sources, so that a new release's routes are asked for as well."""
    try:
        spec = find_spec("vllm")
    except ValueError:  # kept out on purpose, tests/support/light.py
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    found: set[str] = set()
    for source in (Path(spec.origin).parent / "entrypoints").rglob("*.py"):
        text = source.read_text()
        found |= set(re.findall(r"@router\.[a-z_]+\(\s*\"(/[^\"]*)\"", text))
    assert len(found) > 40
    known = {*ROUTES, *OURS}
    assert {path.replace("{response_id}", "resp_1") for path in found} <= known


# ---- other sites' pages


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", None, 200),
        ("localhost", "http://localhost:3000", 200),
        ("[::1]:8000", None, 200),
        ("LOCALHOST:8000", None, 200),
        ("127.0.0.2", "http://127.0.0.1:8000", 200),
        ("evil.example", None, 421),
        ("evil.example:8000", "http://evil.example:8000", 421),
        ("127.0.0.1:8000", "http://evil.example", 421),
        ("127.0.0.1:8000", "null", 421),
        ("127.0.0.1.evil.example", None, 421),
        ("localhost.evil.example", None, 421),
        ("127.0.0.1@evil.example", None, 421),
        ("", None, 421),
        ("[", None, 421),
    ],
)
async def test_without_keys_only_this_machine_is_answered_and_no_page_of_another_site(
    unlocked: House, host: str, origin: str | None, status: int
) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/x")):
        body = {"model": BASE, "messages": []}
        answer = await unlocked.ask(method, path, body, key=None, headers=headers)
        assert (answer.status == 421) == (status == 421)
        if status == 421:
            await unlocked.refused(answer, 421)
            assert answer.json()["error"]["code"] == "unknown_host"
    assert (await unlocked.ask("GET", "/healthz", key=None, headers=headers)).status == 200


async def test_with_keys_any_name_will_do_unless_some_are_named(
    house: House, tmp_path: Path
) -> None:
    asked = await house.ask(
        "GET", "/v1/models", headers={"host": "graft.example", "origin": "null"}
    )
    assert asked.status == 200
    async with living(tmp_path, allowed_hosts=("graft", "graft.example")) as named:
        for host, status in (("Graft.Example:443", 200), ("127.0.0.1", 421), ("evil", 421)):
            answer = await named.ask("GET", "/v1/models", headers={"host": host})
            assert answer.status == status


async def test_no_page_of_another_site_is_allowed_to_read_an_answer(house: House) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for method in ("OPTIONS", "GET"):
        answer = await house.ask(method, "/v1/models", headers=headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "set-cookie" not in answer.headers


async def test_a_test_event_goes_only_where_a_guard_has_looked(house: House) -> None:
    made = await house.ask(
        "POST", "/v1/webhook_endpoints", {"url": "https://1.1.1.1/x", "event_types": [ENDINGS[0]]}
    )
    assert made.status == 200
    changed = await house.ask(
        "POST", f"/v1/webhook_endpoints/{made.json()['id']}", {"url": "https://127.0.0.1/x"}
    )
    await house.refused(changed, 400)
    await house.ask("DELETE", f"/v1/webhook_endpoints/{made.json()['id']}")
