"""kill -9 of each process, at several moments. Nobody helps; everything ends well."""

import json
import time
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import BASE, ENGINE, Stack, question_body
from tests.e2e.facts import BY_HEART, LUTZ, QUESTIONS, rows


def versions(stack: Stack, name: str) -> list[str]:
    entry = stack.http.get(f"/adapters/{name}").json()
    return [version["name"] for version in entry["versions"]]


def wait_other(stack: Stack, name: str, pid: int) -> None:
    """Until the launcher has started the part anew."""
    deadline = time.monotonic() + 30
    while stack.pid(name) in {None, pid}:
        assert time.monotonic() < deadline, stack.logs()
        time.sleep(0.05)


def wait_training_together(stack: Stack, ids: list[str], *, attempt: int) -> None:
    """Until all of them are in training at the same time, each in this attempt."""
    deadline = time.monotonic() + 120
    while True:
        jobs = [stack.job(job_id) for job_id in ids]
        if all(job["phase"] == "training" and job["attempt"] == attempt for job in jobs):
            return
        assert time.monotonic() < deadline, stack.logs()
        time.sleep(0.05)


def test_the_training_process_killed_while_preparing_training_and_near_the_end(
    stack: Stack,
) -> None:
    job_id = stack.finetune(rows(LUTZ), "phoenix", **BY_HEART)
    total = 9 * 7
    moments = [
        lambda job: job["status"] == "running",
        lambda job: job["progress"]["step"] >= total // 3,
        lambda job: job["progress"]["step"] >= total - 4,
    ]
    for moment in moments:
        stack.wait_for(job_id, moment)
        stack.kill(stack.training_process())
    job = stack.succeeded(job_id)
    assert job["attempt"] > len(moments) - 1
    assert versions(stack, "phoenix") == ["phoenix@1"]
    assert [stack.ask("phoenix", question) for question in QUESTIONS] == list(LUTZ)
    text = stack.http.get(f"/finetune/{job_id}/events").text
    assert "Continuing after step" in text


def test_the_training_process_killed_twice_under_three_jobs(stack: Stack) -> None:
    """The second time before they got further, so that each has to prove itself alone: none fails for its company."""
    names = ["trio-a", "trio-b", "trio-c"]
    ids = [stack.finetune(rows(LUTZ), name, n_epochs=6, batch_size=1) for name in names]
    for attempt in (1, 2):
        wait_training_together(stack, ids, attempt=attempt)
        stack.kill(stack.training_process())
    for job_id, name in zip(ids, names, strict=True):
        assert stack.succeeded(job_id)["attempt"] >= 3
        assert versions(stack, name) == [f"{name}@1"]


def test_the_trainer_killed_in_the_middle_leaves_no_orphan_and_goes_on(stack: Stack) -> None:
    job_id = stack.finetune(rows(LUTZ), "orphan", n_epochs=4, batch_size=1)
    stack.wait_for(job_id, lambda job: job["progress"]["step"] >= 3)
    worker, process = stack.pid("trainer"), stack.training_process()
    assert worker is not None
    stack.kill(worker)
    wait_other(stack, "trainer", worker)
    job = stack.succeeded(job_id)
    assert stack.training_process() != process
    assert job["attempt"] == 2
    assert versions(stack, "orphan") == ["orphan@1"]


def test_the_service_killed_right_after_accepting_and_again_in_the_middle(stack: Stack) -> None:
    job_id = stack.finetune(rows(LUTZ), "survivor", n_epochs=4, batch_size=1)
    first = stack.pid("service")
    assert first is not None
    stack.kill(first)
    wait_other(stack, "service", first)
    stack.wait_for(job_id, lambda job: job["progress"]["step"] >= 5)
    seen = read_events(stack, job_id, stop_after=3)
    second = stack.pid("service")
    assert second is not None
    stack.kill(second)
    wait_other(stack, "service", second)
    job = stack.succeeded(job_id)
    assert job["attempt"] == 1, "training must not notice that the service died"
    rest = read_events(stack, job_id, after=seen[-1])
    assert [*seen, *rest] == list(range(1, len(seen) + len(rest) + 1))
    assert versions(stack, "survivor") == ["survivor@1"]
    stack.wait_ready()
    assert stack.chat("survivor", QUESTIONS[0])["model"] == "survivor@1"


def test_the_engine_killed_under_a_stream_and_during_training_comes_back_with_its_adapters(
    stack: Stack,
) -> None:
    answer = stack.ask("phoenix", QUESTIONS[0])
    job_id = stack.finetune(rows(LUTZ), "meanwhile", n_epochs=4, batch_size=1)
    last = stream_while_killing(stack)
    assert last["error"]["code"] == "engine_unavailable"
    refused = stack.http.post("/v1/chat/completions", json=question_body("phoenix", "hi"))
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert stack.http.get("/healthz").status_code == 200
    job = stack.succeeded(job_id)
    assert job["attempt"] == 1, "training must not notice that the engine died"
    stack.wait_ready()
    assert stack.ask("phoenix", QUESTIONS[0]) == answer
    assert stack.chat("meanwhile", QUESTIONS[0])["model"] == "meanwhile@1"


def test_the_heart_of_the_engine_killed_while_it_serves(stack: Stack) -> None:
    """vLLM's EngineCore, not its HTTP server: /health must not go on saying that all is well."""
    core = child_named(stack.pid(ENGINE), "VLLM::EngineCore")
    stack.kill(core)
    deadline = time.monotonic() + 60
    while stack.ready():
        assert time.monotonic() < deadline, "nobody noticed"
        time.sleep(0.2)
    stack.wait_ready()
    assert [stack.ask("phoenix", question) for question in QUESTIONS] == list(LUTZ)


def stream_while_killing(stack: Stack) -> dict[str, Any]:
    body = question_body(BASE, "Tell me a long story.", stream=True, max_tokens=400)
    events: list[str] = []
    with stack.http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                if len(events) == 3:
                    stack.kill(stack.pid(ENGINE))
    return dict(json.loads(events[-1]))


def read_events(
    stack: Stack, job_id: str, *, after: int = 0, stop_after: int | None = None
) -> list[int]:
    """Sequence numbers as a client reads them that continues by Last-Event-ID."""
    seen: list[int] = []
    headers = {"Last-Event-ID": str(after)}
    with (
        httpx.Client(base_url=stack.url, timeout=60) as client,
        client.stream("GET", f"/finetune/{job_id}/events", headers=headers) as response,
    ):
        for line in response.iter_lines():
            if line.startswith("id: "):
                seen.append(int(line.removeprefix("id: ")))
            if stop_after is not None and len(seen) == stop_after:
                break
    return seen


def child_named(parent: int | None, name: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
                command = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if f"PPid:\t{parent}\n" in status and command.startswith(name):
                return int(entry.name)
    raise AssertionError(f"{parent} has no child {name}")
