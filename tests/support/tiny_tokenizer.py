"""A prepared base model's directory without the model: a tiny tokenizer, and what lies beside it. Needs no torch."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from adapters.manifest import BASE_CARD_FILE, dump_base_card
from tests.support.samples import BASE, card

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_speaker(
    directory: Path, *, model_id: str = BASE, template: str | None = CHATML, **config: Any
) -> None:
    """`config` goes into config.json. Bytes are tokens, so that lengths can be told by looking."""
    directory.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=259,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    (directory / BASE_CARD_FILE).write_text(dump_base_card(replace(card(model_id))))
