"""Looking without training: an estimate and a preview, as a person reads them."""

import pytest

ESTIMATE = {
    "object": "fine_tuning.estimate",
    "model": "base",
    "method": "supervised",
    "steps": 1200,
    "steps_per_epoch": 400,
    "train_rows": 6400,
    "valid_rows": 300,
    "dropped_rows": 2,
    "tokens": 1_234_567,
    "trained_tokens": 234_567,
    "longest": 512,
    "sampled": True,
    "duration_seconds": 125.0,
    "tokens_per_second": 9876.5,
    "duration_basis": "measured",
    "memory": {
        "adapter_parameters": 4_884_480,
        "adapter_bytes": 78_151_680,
        "activation_bytes": 2**31,
        "base_bytes": 1,
        "available_bytes": None,
    },
    "fits": None,
    "queue_wait_seconds": 0.0,
    "hyperparameters": {"n_epochs": 3, "continue_from": None},
    "dataset": {"format": "messages", "rows": 6705, "duplicates": 3},
    "warnings": [{"code": "learning_rate_high", "message": "Too hot."}],
}
PATH = "POST /v1/fine_tuning/estimate"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"input": "a", "target": "b"}\n')
    return str(path)


def test_a_dry_run_shows_what_it_would_come_to_and_trains_nothing(graft, run, data):
    graft.answers[PATH] = ESTIMATE
    result = run("finetune", data, "--name", "bot", "--epochs", "3", "--dry-run")
    assert result.exit_code == 0, result.output
    for told in (
        "6,400 to train on, 300 held out, 2 too long and left out, 3 duplicates",
        "1,200 (3 epochs of 400)",
        "about 1,234,567",
        "about 2 min 05 s, at 9,876 tokens/s (as recent jobs reached)",
        "75 MiB for the adapter's 4,884,480 parameters, about 2.0 GiB while it computes",
        "Too hot.",
    ):
        assert told in result.output
    assert "continue_from" not in result.output
    assert [asked for asked, _, _ in graft.asked] == [PATH]
    assert graft.fields()["n_epochs"] == "3"


def test_what_nobody_knows_is_a_dash(graft, run, data):
    graft.answers[PATH] = {"model": "base", "steps": 7}
    result = run("finetune", data, "--dry-run")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(None, 1) for line in result.output.splitlines() if line.strip())
    assert (lines["time"].strip(), lines["fits"].strip(), lines["wait"].strip()) == ("-", "-", "-")


def test_a_preview_puts_what_is_trained_in_brackets(graft, run, data):
    row = {
        "line": 4,
        "side": "chosen",
        "tokens": ["<|im", "_start|>", "[dim]hi", "b", "on", "jour", "\n"],
        "trained_spans": [
            {"start": 3, "stop": 5, "weight": 1.0, "text": "bon"},
            {"start": 5, "stop": 6, "weight": 0.5, "text": "jour"},
        ],
        "num_tokens": 9,
        "num_trained_tokens": 3,
        "too_long": True,
        "truncated": True,
    }
    graft.answers["POST /v1/fine_tuning/preview"] = {"model": "base", "rows": [row]}
    result = run("preview", data, "-n", "2", "--base-model", "base")
    assert result.exit_code == 0, result.output
    assert (
        "line 4, chosen: 9 tokens, 3 trained; too long, and left out; the first 7" in result.output
    )
    assert "<|im_start|>[dim]hi⟦bon⟧⟦0.5:jour⟧" in result.output
    assert (graft.fields()["n"], graft.fields()["base_model"]) == ("2", "base")


def test_what_the_server_refuses_is_said(graft, run, data):
    error = {"message": "No row is left.", "code": "invalid_training_file"}
    for command, path in (
        (("finetune", data, "--dry-run"), PATH),
        (("preview", data), "POST /v1/fine_tuning/preview"),
    ):
        graft.answers[path] = (400, {"error": error})
        result = run(*command)
        assert result.exit_code == 1
        assert "No row is left." in result.output
