"""LLaMA-Factory as its users start it: `llamafactory-cli train` with a file, a new process for every job."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.jobs import BATCH, EPOCHS, STEPS, Done, Submission
from bench.measure import Settings
from bench.rivals.client import quiet_environment, rival_python
from bench.workloads import ALPHA, LEARNING_RATE, MAX_GRAD_NORM, RANK, WEIGHT_DECAY

#: The dataset's name in dataset_info.json.
NAME = "rows"


def run_command(settings: Settings, model: Path, submitted: Submission, scratch: Path) -> Done:
    """From exec to exit. Serving what comes out is not part of it."""
    out = scratch / "out"
    write_dataset(scratch, submitted)
    config = scratch / "train.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(arguments(model, scratch, out), indent=2))
    command = [
        *quiet_environment(settings.threads),
        f"HF_DATASETS_CACHE={scratch / 'cache'}",
        str(rival_python(settings, "llamafactory").parent / "llamafactory-cli"),
        *("train", str(config)),
    ]
    began = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stdout[-2000:]
    assert (out / "adapter_model.safetensors").is_file(), done.stdout[-2000:]
    return _read(out, took)


def write_dataset(scratch: Path, submitted: Submission) -> None:
    """The rows, and the file that says how to read them."""
    lines = (json.dumps(row) for row in submitted.rows)
    (scratch / "rows.jsonl").write_text("\n".join(lines) + "\n")
    info = {
        "file_name": "rows.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    (scratch / "dataset_info.json").write_text(json.dumps({NAME: info}))


def arguments(model: Path, scratch: Path, out: Path) -> dict[str, Any]:
    """The same training; whatever is not named here is as it comes."""
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "model_name_or_path": str(model),
        "template": "smollm2",
        "dataset": NAME,
        "dataset_dir": str(scratch),
        "output_dir": str(out),
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_target": "all",
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "max_grad_norm": MAX_GRAD_NORM,
        "lr_scheduler_type": "cosine",
        "include_num_input_tokens_seen": "non_padding",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
    }


def _read(out: Path, took: float) -> Done:
    state = json.loads((out / "trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "grad_norm" in entry]
    assert len(steps) == STEPS, f"{len(steps)} steps instead of {STEPS}"
    results = json.loads((out / "all_results.json").read_text())
    return Done(
        seconds=took,
        training_seconds=results["train_runtime"],
        losses=tuple(step["loss"] for step in steps),
        grad_norms=tuple(step["grad_norm"] for step in steps),
        tokens=int(state["num_input_tokens_seen"]),
    )
