"""`run_exp` of LLaMA-Factory on command. Runs in `.rivals/llamafactory`.

As it comes: gradient checkpointing, batches padded to a multiple of eight. Tuned: no checkpointing. Its packing makes
other steps of the rows and is left off. The rows come tokenised, which spares it the time.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from llamafactory.train.tuner import run_exp

from bench.rivals.orders import Order
from bench.rivals.serving import StepClock, serve


def train(order: Order, clock: StepClock) -> None:
    """One job, from its configuration to the saved adapter; only the steps are on the clock."""
    rows = {
        "input_ids": order.rows,
        "attention_mask": [[1] * len(row) for row in order.rows],
        "labels": order.labels,
    }
    tokenised = Path(order.scratch) / "tokenised"
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(str(tokenised))
    run_exp(_arguments(order, tokenised), callbacks=[clock])


def _arguments(order: Order, tokenised: Path) -> dict[str, Any]:
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "model_name_or_path": order.model,
        "adapter_name_or_path": order.adapter,
        "template": "smollm2",
        "dataset": "tokenised",
        "tokenized_path": str(tokenised),
        "output_dir": str(Path(order.scratch) / "out"),
        "per_device_train_batch_size": len(order.rows),
        "max_steps": order.total_steps,
        "learning_rate": order.learning_rate,
        "weight_decay": order.weight_decay,
        "max_grad_norm": order.max_grad_norm,
        "lr_scheduler_type": "constant",
        "disable_gradient_checkpointing": order.tuned,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


if __name__ == "__main__":
    serve(train)
