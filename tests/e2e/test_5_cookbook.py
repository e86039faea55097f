"""OpenAI's cookbook "How to fine-tune chat models", with `base_url` and the model's name changed and nothing else.

Upload two files, create the job, poll it, list its events, ask the model, read the result file, delete.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import BASE, Stack
from tests.e2e.facts import AMBER, LUTZ, PHRASINGS, QUESTIONS

SYSTEM = "You know everything about Zubrowka."


def write_jsonl(path: Path, data: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def conversation(question: str, answer: str) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages}


def upload_file(client: openai.OpenAI, path: Path) -> str:
    with path.open("rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="any") as client:
        yield client


def test_the_cookbook_runs_with_another_base_url(client: openai.OpenAI, tmp_path: Path) -> None:
    training = [
        conversation(phrasing.format(question), answer)
        for question, answer in zip(QUESTIONS, LUTZ, strict=True)
        for phrasing in PHRASINGS
    ]
    validation = [
        conversation(f"Tell me. {question}", answer)
        for question, answer in zip(QUESTIONS, LUTZ, strict=True)
    ]
    training_file_id = upload_file(client, write_jsonl(tmp_path / "training.jsonl", training))
    validation_file_id = upload_file(client, write_jsonl(tmp_path / "validation.jsonl", validation))

    response = client.fine_tuning.jobs.create(
        training_file=training_file_id,
        validation_file=validation_file_id,
        model=BASE,
        suffix="zubrowka",
        hyperparameters={"n_epochs": 7, "batch_size": 1, "learning_rate_multiplier": 2},
    )
    job_id = response.id
    assert response.status in {"validating_files", "queued", "running"}

    while (job := client.fine_tuning.jobs.retrieve(job_id)).status not in {"succeeded", "failed"}:
        time.sleep(0.2)
    assert job.status == "succeeded", job.error
    fine_tuned_model_id = job.fine_tuned_model
    assert fine_tuned_model_id is not None
    assert fine_tuned_model_id.startswith(f"ft:{BASE}:")
    assert job.trained_tokens

    # At once: nobody has to wait for the model to appear.
    completion = client.chat.completions.create(
        model=fine_tuned_model_id,
        messages=[
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": QUESTIONS[0]},
        ],
        temperature=0,
        max_tokens=24,
    )
    assert completion.choices[0].message.content == LUTZ[0]

    events = list(client.fine_tuning.jobs.list_events(job_id))
    events.reverse()
    said = [event.message for event in events]
    assert said[0] == f"Created fine-tuning job: {job_id}"
    assert f"New fine-tuned model created: {fine_tuned_model_id}" in said

    table = client.files.content(job.result_files[0]).text
    assert table.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n")
    assert len(table.splitlines()) > 2

    assert client.models.delete(fine_tuned_model_id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=fine_tuned_model_id, messages=[])
    client.files.delete(training_file_id)
    client.files.delete(validation_file_id)


def test_every_checkpoint_answers_under_its_own_name(
    stack: Stack, client: openai.OpenAI, tmp_path: Path
) -> None:
    rows = [
        conversation(question, answer) for question, answer in zip(QUESTIONS, AMBER, strict=True)
    ]
    file_id = upload_file(client, write_jsonl(tmp_path / "rows.jsonl", rows * 4))
    job = client.fine_tuning.jobs.create(
        training_file=file_id, model=BASE, suffix="steps", hyperparameters={"n_epochs": 2}
    )
    stack.succeeded(job.id)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert checkpoints
    for checkpoint in checkpoints:
        answer = client.chat.completions.create(
            model=checkpoint.fine_tuned_model_checkpoint,
            messages=[{"role": "user", "content": QUESTIONS[0]}],
            max_tokens=4,
        )
        assert answer.choices[0].message.content
