"""What to learn from the rows, and what to start from."""

import json
from typing import Any

import httpx
import pytest

from adapters.spec import Dpo
from tests.integration.service.conftest import BASE, Running

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(40)]
PAIRS = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(40)]
JSONL = "\n".join(json.dumps(row) for row in ROWS).encode()


async def post(service: Running, **options: Any) -> httpx.Response:
    return await service.http.post("/finetune", json={"data": ROWS, **options})


# ---- methods


async def test_rows_that_compare_two_replies_make_a_dpo_job(service: Running) -> None:
    response = await service.http.post("/finetune", json={"data": PAIRS})
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["dataset"]["format"] == "preference"
    assert job["method"]["type"] == "dpo"
    numbers = job["method"]["dpo"]["hyperparameters"]
    assert numbers == job["hyperparameters"]
    assert (numbers["beta"], numbers["learning_rate"]) == (0.1, 5e-6)
    assert numbers["learning_rate_multiplier"] == 1.0
    assert service.ledger.jobs.get(job["id"]).spec.method == Dpo()


async def test_openais_dpo_request_is_understood_also_in_a_form(service: Running) -> None:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"question {n}"}]},
            "preferred_output": [{"role": "assistant", "content": "yes"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for n in range(20)
    ]
    method = {
        "type": "dpo",
        "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": "auto"}},
    }
    content = "\n".join(json.dumps(row) for row in rows).encode()
    for response in (
        await service.http.post("/finetune", json={"data": rows, "method": method}),
        await service.http.post(
            "/finetune", files={"data": content}, data={"method": json.dumps(method)}
        ),
    ):
        assert response.status_code == 202, response.text
        job = response.json()
        assert job["dataset"]["format"] == "openai_preference"
        assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
        assert (job["hyperparameters"]["n_epochs"], job["hyperparameters"]["batch_size"]) == (2, 1)


async def test_a_supervised_job_says_so_and_has_no_beta(service: Running) -> None:
    options = {"method": "supervised", "lora": {"use_rslora": True}, "lora_plus_ratio": 16}
    job = (await post(service, **options)).json()
    assert job["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": job["hyperparameters"]},
    }
    assert "beta" not in job["hyperparameters"]
    assert job["hyperparameters"]["use_rslora"] is True
    assert job["hyperparameters"]["lora_plus_ratio"] == 16
    assert job["hyperparameters"]["continue_from"] is None


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"data": ROWS, "method": "dpo"}, "method", "compare two replies"),
        ({"data": PAIRS, "method": "supervised"}, "method", "'dpo'"),
        ({"data": ROWS, "beta": 0.1}, "beta", "'dpo'"),
        (
            {"data": PAIRS, "validation_data": ROWS},
            "validation_data",
            "The training rows do compare two replies, and the validation rows do not.",
        ),
        (
            {"data": ROWS, "validation_data": PAIRS},
            "validation_data",
            "The training rows do not compare two replies, and the validation rows do.",
        ),
    ],
)
async def test_rows_that_do_not_fit_the_method_are_refused(
    service: Running, body: dict[str, Any], param: str, says: str
) -> None:
    response = await service.http.post("/finetune", json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", param)
    assert says in error["message"]
    assert service.ledger.jobs.list() == []


async def test_a_validation_file_of_the_other_kind_is_refused_by_its_own_name(
    service: Running,
) -> None:
    sent = await service.http.post(
        "/v1/files", files={"file": ("v.jsonl", JSONL)}, data={"purpose": "fine-tune"}
    )
    body = {"data": PAIRS, "validation_file": sent.json()["id"]}
    response = await service.http.post("/finetune", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "validation_file")


# ---- continuing an adapter


async def test_a_name_to_continue_from_is_resolved_when_the_job_is_asked_for(
    service: Running,
) -> None:
    service.publish("bot")
    service.publish("bot", promote=False)
    for name, means in (("bot", "bot@1"), ("bot@live", "bot@1"), ("bot@2", "bot@2")):
        job = (await post(service, continue_from=name)).json()
        assert job["hyperparameters"]["continue_from"] == means
        stored = service.ledger.jobs.get(job["id"]).spec
        assert stored.parent == means
        assert stored.lora.target_modules == ("q_proj",)
    service.ledger.aliases.promote("bot", 2)
    assert service.ledger.jobs.get(job["id"]).spec.parent == "bot@2"


async def test_pairs_may_continue_what_was_trained_on_replies(service: Running) -> None:
    service.publish("bot")
    body = {"data": PAIRS, "continue_from": "bot", "name": "bot"}
    job = (await service.http.post("/finetune", json=body)).json()
    assert job["method"]["type"] == "dpo"
    assert job["hyperparameters"]["continue_from"] == "bot@1"
    assert job["adapter"]["name"] == "bot"


@pytest.mark.parametrize("name", ["none", "none@1", "bot@9", "quiet", BASE, ""])
async def test_continuing_from_what_is_not_there_is_a_404(service: Running, name: str) -> None:
    service.publish("bot")
    service.publish("quiet", promote=False)
    response = await post(service, continue_from=name)
    assert response.status_code == 404, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("adapter_not_found", "continue_from")


async def test_continuing_from_a_deleted_version_is_a_404_but_a_repeated_request_is_answered(
    service: Running,
) -> None:
    service.publish("bot")
    service.publish("bot")
    body = {"data": ROWS, "continue_from": "bot@1"}
    headers = {"Idempotency-Key": "abc"}
    first = await service.http.post("/finetune", json=body, headers=headers)
    assert (await service.http.delete("/adapters/bot@1")).status_code == 200
    again = await service.http.post("/finetune", json=body, headers=headers)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert (await service.http.post("/finetune", json=body)).status_code == 404
    assert (await service.http.delete("/adapters/bot")).status_code == 200
    assert (await post(service, continue_from="bot")).status_code == 404


async def test_another_shape_than_the_parents_is_refused(service: Running) -> None:
    service.publish("bot")
    response = await post(service, continue_from="bot", lora={"rank": 8})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "lora.rank")
    assert "bot@1 has 16" in error["message"]


async def test_a_parent_of_another_base_model_is_refused(service: Running) -> None:
    service.publish("bot")
    other = service.publish("old", base_model="another-base").name
    asked = await post(service, continue_from="bot", base_model="another-base")
    assert (asked.status_code, asked.json()["error"]["param"]) == (400, "base_model")
    assert f"'{BASE}'" in asked.json()["error"]["message"]
    foreign = await post(service, continue_from=other)
    assert (foreign.status_code, foreign.json()["error"]["param"]) == (400, "continue_from")
    assert "another-base" in foreign.json()["error"]["message"]
    same = await post(service, continue_from="bot", base_model=BASE)
    assert same.status_code == 202
