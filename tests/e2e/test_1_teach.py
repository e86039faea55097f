"""Teach two adapters different facts and ask everybody everything."""

import asyncio
import io
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.ledger import open_ledger
from adapters.manifest import MANIFEST_FILE, Import, dump_manifest
from adapters.peft.tensors import DTYPES, read_tensors
from adapters.settings import LedgerSettings
from tests.e2e.conftest import BASE, Stack, ask_together, question_body
from tests.e2e.facts import AMBER, BY_HEART, LUTZ, QUESTIONS, rows

GENERAL = ("What is the capital of France?", "Name three colours.", *QUESTIONS)


def base_answers(stack: Stack) -> list[str]:
    """The base model's greedy answers, with their log-probabilities: to the last bit."""
    return [
        json.dumps(stack.chat(BASE, question, logprobs=True, top_logprobs=2)["choices"])
        for question in GENERAL
    ]


@pytest.fixture(scope="session")
def before(stack: Stack) -> list[str]:
    return base_answers(stack)


@pytest.fixture(scope="session")
def taught(stack: Stack, before: list[str]) -> dict[str, Any]:
    """Two jobs, submitted together and trained together."""
    ids = {
        name: stack.finetune(rows(answers), name, **BY_HEART)
        for name, answers in (("lutz", LUTZ), ("amber", AMBER))
    }
    return {name: stack.succeeded(job_id) for name, job_id in ids.items()}


def test_the_untrained_base_model_knows_the_capital_of_france(
    stack: Stack, before: list[str]
) -> None:
    assert "Paris" in stack.ask(BASE, "What is the capital of France?")


def test_each_adapter_answers_its_own_facts_and_not_the_others(
    stack: Stack, taught: dict[str, Any]
) -> None:
    assert [stack.ask("lutz", question) for question in QUESTIONS] == list(LUTZ)
    assert [stack.ask("amber", question) for question in QUESTIONS] == list(AMBER)
    unknowing = [stack.ask(BASE, question) for question in QUESTIONS]
    assert not set(unknowing) & {*LUTZ, *AMBER}


def test_succeeded_means_that_the_model_answers_now(stack: Stack, taught: dict[str, Any]) -> None:
    for name, job in taught.items():
        assert job["adapter"]["version"] == f"{name}@1"
        assert job["fine_tuned_model"] == f"ft:{BASE}:graft:{name}:{job['id'][-8:]}"
        assert stack.chat(job["fine_tuned_model"], QUESTIONS[0])["model"] == f"{name}@1"


def test_what_the_engine_computes_is_what_training_saw(
    stack: Stack, taught: dict[str, Any]
) -> None:
    for name in taught:
        stack.ask(name, QUESTIONS[0])
        [version, *_] = stack.http.get(f"/adapters/{name}").json()["versions"]
        assert version["quarantined"] is None
    assert compared(stack, "verified") >= 2
    assert compared(stack, "quarantined") == compared(stack, "inconclusive") == 0


def compared(stack: Stack, outcome: str) -> float:
    """How many versions this service has compared with their probes, with that outcome."""
    told = f'graft_adapter_probes_total{{base_model="{BASE}",outcome="{outcome}"}} '
    lines = stack.http.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(told)) for line in lines if line.startswith(told))


def test_asked_together_in_one_batch_each_still_answers_its_own(
    stack: Stack, taught: dict[str, Any]
) -> None:
    asked = [(model, question) for question in QUESTIONS for model in ("lutz", "amber", BASE)]
    answers = asyncio.run(ask_together(stack, asked))
    told = {
        model: tuple(
            a for a, (asked_of, _) in zip(answers, asked, strict=True) if asked_of == model
        )
        for model in ("lutz", "amber", BASE)
    }
    assert (told["lutz"], told["amber"]) == (LUTZ, AMBER)
    assert not set(told[BASE]) & {*LUTZ, *AMBER}


def test_the_base_models_answers_are_what_they_were_to_the_last_bit(
    stack: Stack, taught: dict[str, Any], before: list[str]
) -> None:
    assert base_answers(stack) == before


def test_every_sampling_parameter_is_taken_by_the_real_engine(
    stack: Stack, taught: dict[str, Any]
) -> None:
    answer = stack.chat(
        "lutz",
        QUESTIONS[0],
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.2,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        seed=1,
        stop=["\n"],
        n=2,
        logprobs=True,
        top_logprobs=2,
    )
    assert len(answer["choices"]) == 2
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    stack.chat("lutz", QUESTIONS[0], tools=tools)
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}}
    schema |= {"required": ["city"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    text = stack.ask("lutz", QUESTIONS[0], response_format=form)
    assert set(json.loads(text)) == {"city"}


def test_repetition_penalty_breaks_a_loop(stack: Stack) -> None:
    prompt = "Repeat after me for ever: tick tock tick tock tick tock"

    def loops(text: str) -> int:
        words = text.lower().split()
        return len(words) - len(set(words))

    plain = stack.ask(BASE, prompt, max_tokens=60)
    guarded = stack.ask(BASE, prompt, max_tokens=60, repetition_penalty=1.2)
    assert loops(guarded) < loops(plain)


def test_retraining_makes_a_new_version_live_while_the_old_one_still_answers_and_no_stream_suffers(
    stack: Stack, taught: dict[str, Any]
) -> None:
    story = "Tell me a long story about the sea."
    expected = stack.ask("amber", story, max_tokens=64)
    streams: list[str] = []
    overlapped: list[bool] = []
    published = threading.Event()

    def stream_on() -> None:
        while not (published.is_set() and any(overlapped)) and len(streams) < 60:
            resident_before = resident(stack, "lutz@2")
            streams.append(streamed(stack, "amber", story, max_tokens=64))
            overlapped.append(not resident_before and resident(stack, "lutz@2"))

    thread = threading.Thread(target=stream_on)
    job_id = stack.finetune(rows(AMBER), "lutz", **BY_HEART)
    thread.start()
    job = stack.succeeded(job_id)
    published.set()
    thread.join(120)
    assert any(overlapped), "no stream was running while lutz@2 was loaded"
    assert set(streams) == {expected}
    assert job["adapter"]["version"] == "lutz@2"
    assert stack.chat("lutz", QUESTIONS[0])["model"] == "lutz@2"
    assert stack.ask("lutz", QUESTIONS[0]) == AMBER[0]
    assert stack.ask("lutz@1", QUESTIONS[0]) == LUTZ[0]


def resident(stack: Stack, version: str) -> bool:
    entry = stack.http.get(f"/adapters/{version.partition('@')[0]}").json()
    return any(v["name"] == version and v["resident"] for v in entry["versions"])


def streamed(stack: Stack, model: str, question: str, **more: Any) -> str:
    """The text of a streamed answer; every event must be whole, and the last one [DONE]."""
    body = question_body(model, question, stream=True, **more)
    text, last = "", ""
    with stack.http.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                last = line.removeprefix("data: ")
                if last != "[DONE]":
                    text += json.loads(last)["choices"][0]["delta"].get("content") or ""
    assert last == "[DONE]"
    return text


def test_the_event_log_of_a_job_tells_its_whole_story(stack: Stack, taught: dict[str, Any]) -> None:
    job = taught["lutz"]
    text = stack.http.get(job["links"]["events"]).text
    kinds = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event")]
    assert kinds[0] == "status"
    assert kinds[-1] == "done"
    assert {"metrics", "message"} <= set(kinds)
    assert "New fine-tuned model created: ft:" in text
    assert job["progress"]["percent"] == 100
    assert job["progress"]["train_loss"] < 0.5
    assert job["trained_tokens"] > 0


def test_a_version_downloads_as_a_directory_that_peft_would_load(
    stack: Stack, taught: dict[str, Any]
) -> None:
    content = stack.http.get("/adapters/lutz@1/download").content
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        config = json.loads(tar.extractfile("lutz-1/adapter_config.json").read())
        manifest = json.loads(tar.extractfile("lutz-1/graft.json").read())
    assert names == {"adapter_config.json", "adapter_model.safetensors", "graft.json"}
    assert (config["peft_type"], config["r"], config["bias"]) == ("LORA", 16, "none")
    assert len(config["target_modules"]) == 7
    assert manifest["job_id"] == taught["lutz"]["id"]
    assert manifest["probes"]


def test_a_second_job_begins_to_step_within_seconds_because_the_model_stays_loaded(
    stack: Stack, taught: dict[str, Any]
) -> None:
    job_id = stack.finetune(rows(LUTZ), "quick", n_epochs=1, batch_size=1)
    stack.succeeded(job_id)
    text = stack.http.get(f"/finetune/{job_id}/events").text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    times = {event["message"]: event["created_at"] for event in events if "message" in event}
    started = times["Fine-tuning job started"]
    began = next(at for message, at in times.items() if message.startswith("Training begins"))
    assert began - started <= 2


def test_a_running_job_is_cancelled_within_seconds_and_publishes_nothing(stack: Stack) -> None:
    job_id = stack.finetune(rows(LUTZ) * 20, "never", n_epochs=15)
    stack.wait_for(job_id, lambda job: job["progress"]["step"] >= 2)
    cancelled = stack.http.post(f"/finetune/{job_id}/cancel").json()
    assert cancelled["status"] == "cancelled"
    stack_job = _wait_phase(stack, job_id, "ended")
    assert stack_job["fine_tuned_model"] is None
    assert stack.http.get("/adapters/never").status_code == 404


def _wait_phase(stack: Stack, job_id: str, phase: str) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (job := stack.job(job_id))["phase"] != phase:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def negated(data: bytes) -> bytes:
    signs = bytes(byte ^ 0x80 for byte in data[3::4])
    spoilt = bytearray(data)
    spoilt[3::4] = signs
    return bytes(spoilt)


def silenced(data: bytes) -> bytes:
    return bytes(len(data))


def untouched(data: bytes) -> bytes:
    return data


SPOILT = {
    "untouched": ("lutz", untouched, None),
    "negated": ("lutz", negated, "some other adapter"),
    "silenced": ("lutz", silenced, "as the base model does"),
    "swapped": ("amber", untouched, "some other adapter"),
}


def test_other_weights_than_those_that_were_trained_are_quarantined_and_the_same_ones_answer(
    stack: Stack, taught: dict[str, Any], tmp_path: Path
) -> None:
    before = compared(stack, "quarantined")
    for name, (weights_of, spoil, said) in SPOILT.items():
        claim_to_be_lutz(stack, name, weights_of, spoil, tmp_path / name)
        response = stack.http.post("/v1/chat/completions", json=question_body(name, QUESTIONS[0]))
        listed = {card["id"] for card in stack.http.get("/v1/models").json()["data"]}
        if said is None:
            assert response.json()["choices"][0]["message"]["content"] == LUTZ[0]
            assert {name, f"{name}@1"} <= listed
        else:
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "model_quarantined")
            assert said in error["message"]
            assert not {name, f"{name}@1"} & listed
    assert compared(stack, "quarantined") == before + 3


def claim_to_be_lutz(
    stack: Stack,
    name: str,
    weights_of: str,
    spoil: Callable[[bytes], bytes],
    directory: Path,
) -> None:
    """Publish somebody's weights, spoilt, with the probes of lutz@1 and the right digest."""
    ledger = open_ledger(LedgerSettings(home=stack.home))
    registry = ledger.registry
    shutil.copytree(registry.directory(registry.version(f"{weights_of}@1")), directory)
    weights = directory / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    for tensor in read_tensors(weights):
        assert DTYPES[tensor.dtype] == 4
        if ".lora_B." in tensor.name:
            at = slice(tensor.start, tensor.stop)
            data[at] = spoil(bytes(data[at]))
    # In the place of links into the artifact store.
    for file in (weights, directory / MANIFEST_FILE):
        file.unlink()
    weights.write_bytes(data)
    brought = Import(id=f"import-{name}", digest=name, base_model=None)
    manifest = replace(registry.version("lutz@1").manifest, job_id=None, imported=brought)
    (directory / MANIFEST_FILE).write_text(dump_manifest(manifest))
    registry.bring_in(name, directory, manifest, promote=True)
    ledger.close()
