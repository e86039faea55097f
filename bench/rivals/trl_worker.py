"""`SFTTrainer` of TRL on command. Runs in `.rivals/trl`.

As it comes: gradient checkpointing, padded batches, logits in chunks of the target tokens. Tuned: no checkpointing, and
no padding. Both in float32, since bfloat16, TRL's default, is slower on a CPU and would compute other losses.
"""

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from bench.rivals.orders import Order
from bench.rivals.serving import StepClock, serve


def train(order: Order, clock: StepClock) -> None:
    """One job. Loading the model anew is not on the clock."""
    model = AutoModelForCausalLM.from_pretrained(order.model, dtype=torch.float32)
    trainer = SFTTrainer(
        model=PeftModel.from_pretrained(model, order.adapter, is_trainable=True),
        args=_config(order),
        train_dataset=Dataset.from_dict({"input_ids": order.rows, "labels": order.labels}),
        processing_class=AutoTokenizer.from_pretrained(order.model),
        callbacks=[clock],
    )
    trainer.train()


def _config(order: Order) -> SFTConfig:
    tuned = {"gradient_checkpointing": False, "padding_free": True, "max_length": None}
    return SFTConfig(
        output_dir=order.scratch,
        per_device_train_batch_size=len(order.rows),
        max_steps=order.total_steps,
        learning_rate=order.learning_rate,
        weight_decay=order.weight_decay,
        max_grad_norm=order.max_grad_norm,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(tuned if order.tuned else {}),
    )


if __name__ == "__main__":
    serve(train)
