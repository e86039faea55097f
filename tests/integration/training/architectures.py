"""Tiny random models of other architectures than the Llama in tiny.py, in memory."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.manifest import BaseModelCard
from tests.integration.training.tiny import precise, tiny_tokenizer
from trainer.warm.adopt import adopt
from trainer.warm.model import BaseModel

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
}


def random_model(architecture: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """The same weights for the same arguments. float64 is float64 all through."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **(SMALL | changes))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight_ in model.named_parameters():
            if weight_.ndim > 1 or name.endswith("bias"):
                weight_.copy_(0.2 * torch.randn(weight_.shape))
    model = model.to(dtype).eval()
    return precise(model) if dtype == torch.float64 else model


def random_base(architecture: str, dtype: torch.dtype = torch.float64, **changes: Any) -> BaseModel:
    model = random_model(architecture, dtype, **changes)
    card = BaseModelCard(
        id=architecture,
        digest="d",
        chat_template_digest="c",
        tokenizer_digest="t",
        architecture=type(model).__name__,
        max_seq_length=256,
        linear_modules=("q_proj",),
    )
    return adopt(model, tiny_tokenizer(), card)
