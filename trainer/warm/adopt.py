"""How a transformers model becomes a base model: frozen, its layers replaced, proven to compute what it computed.

Shapes: T tokens, N target positions, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.datasets.rendering import stop_tokens
from adapters.manifest import BaseModelCard, read_base_card
from trainer.warm.adapter import LinearShape, Siblings
from trainer.warm.at_once import Tables
from trainer.warm.attention import PACKED, register
from trainer.warm.batch import MicroBatch, Share
from trainer.warm.crew import Crew, Solo
from trainer.warm.frozen import AsTheyAre, Keeper, Quantization, keeper_for
from trainer.warm.lora import LinearGroup, LoraLinear, Routing
from trainer.warm.loss import Head
from trainer.warm.matmul import Matmul
from trainer.warm.model import BaseModel
from trainer.warm.narrow import LastFeedForward
from trainer.warm.native.library import Kernels
from trainer.warm.objective import CrossEntropy
from trainer.warm.rotary import take_rotary
from trainer.warm.rows import Row, Sample
from trainer.warm.shortcuts import take_shortcuts
from trainer.warm.siblings import find_siblings
from trainer.warm.unsupported import UnsupportedBaseModel

log = logging.getLogger(__name__)


def load(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    crew: Crew | None = None,
    kernels: Kernels | None = None,
) -> BaseModel:
    """Load a prepared base model and prove that the packed computation equals its own.

    Raises:
        UnsupportedBaseModel: the directory is not prepared, or the proof fails.
        InvalidValue: it cannot be quantised as asked.
    """
    card = read_base_card(directory)
    if card is None:
        raise UnsupportedBaseModel(f"{directory} has no base model card: prepare it first.")
    keeper = keeper_for(quantization, directory, device, dtype)
    alone = crew is None or crew.size == 1
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    if keeper.quantization is None and alone:  # else it may be larger than the device
        model = model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    held = Held(keeper, crew or Solo(), device if alone else None, kernels or Kernels())
    return adopt(model, tokenizer, card, held)


@dataclass(frozen=True, slots=True)
class Held:
    """How a base model is to be held in memory."""

    #: How to hold the weights of its linear layers.
    keeper: Keeper = field(default_factory=AsTheyAre)
    #: Who holds it.
    crew: Crew = field(default_factory=Solo)
    #: Where all of it is to lie in the end; None leaves it where it is, or to the crew.
    device: torch.device | None = None
    #: For products on a CPU; without one they are torch's.
    kernels: Kernels = field(default_factory=Kernels)


def adopt(model: Any, tokenizer: Any, card: BaseModelCard, held: Held | None = None) -> BaseModel:
    """Take over a transformers model: freeze it, replace its linear layers, switch its attention, spread it.

    Args:
        model: lies where its own logits can be computed.
        tokenizer: its tokenizer.
        card: of the model.
        held: as it is, by this process alone, unless said otherwise.
    """
    held = held or Held()
    keeper, crew, device = held.keeper, held.crew, held.device
    register()
    model.requires_grad_(requires_grad=False)
    lowrank, matmul = held.kernels.lowrank, Matmul(held.kernels.dense)
    routing = Routing(matmul=matmul, tables=None if lowrank is None else Tables(lowrank))
    layers = decoder_linears(model)
    if not layers:
        raise UnsupportedBaseModel(f"{type(model).__name__} has no nn.Linear layer to adapt.")
    with find_siblings(layers) as siblings:
        native_logits_TV = _native_logits(model)
    linears = _replace_linears(model, layers, siblings, routing, keeper)
    model.to(device or model.device)
    take_shortcuts(model.base_model)
    model.set_attn_implementation(PACKED)
    take_rotary(model.base_model)
    crew.spread(model)
    base = BaseModel(
        card=card,
        tokenizer=tokenizer,
        decoder=model.base_model,
        head=_head(model, matmul),
        linears=linears,
        siblings=tuple(siblings),
        routing=routing,
        last=LastFeedForward(model.base_model, routing),
        stop_tokens=_stop_tokens(model, tokenizer),
        device=model.device,
        dtype=model.dtype,
        keeper=keeper,
        crew=crew,
    )
    # Quantised logits are others; the computation has to be right all the same.
    with base.as_served():
        _prove(base, native_logits_TV)
    return base


def decoder_linears(model: Any) -> dict[str, nn.Linear]:
    """The linear layers inside the decoder by module path; never the output head."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _replace_linears(
    model: Any,
    layers: dict[str, nn.Linear],
    siblings: Sequence[Siblings],
    routing: Routing,
    keeper: Keeper,
) -> dict[str, LinearShape]:
    """In groups; a group is a submodule beside its first layer, so that it moves and is saved with it.

    One after the other, and what is replaced is let go: quantising needs memory for one group more than the model.
    """
    shapes: dict[str, LinearShape] = {}
    held = 0
    for names in siblings:
        group = LinearGroup(names, [layers.pop(name) for name in names], routing, keeper)
        held += group.frozen.held_bytes
        for index, name in enumerate(names):
            parent_path, _, child = name.rpartition(".")
            parent = model.get_submodule(parent_path)
            if index == 0:
                parent.add_module(f"graft_{child}_group", group)
            setattr(parent, child, LoraLinear(group, index))
        shapes |= group.shapes
    log.info("the weights of %d linear layers take %.1f MB", len(shapes), held / 1e6)
    order = [name for names in siblings for name in names]
    return {name: shapes[name] for name in order}


def _head(model: Any, matmul: Matmul) -> Head:
    """The output head with whatever the configuration says is done to logits."""
    output, config = model.get_output_embeddings(), model.config
    if getattr(output, "bias", None) is not None:
        raise UnsupportedBaseModel(f"{type(model).__name__} has an output head with a bias.")
    scale = 1.0
    if getattr(config, "logit_scale", None):  # Cohere multiplies
        scale *= config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite divides
        scale /= config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(output.weight, scale, softcap, matmul)


def _stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    return stop_tokens(getattr(model.generation_config, "eos_token_id", None), tokenizer)


#: Two rows of different length, the second of which must not see the first.
PROOF_ROWS = ((3, 5, 7, 11, 13), (5, 3, 2, 7, 7, 4, 9, 6, 8))


#: Of any one token. Far above rounding (1e-6 in float32, 1e-2 in bfloat16), far below a leak (0.4 and more where
#: layers are convolutional or recurrent, as measured on tiny models of nine architectures).
PROOF_BOUND = 0.1


def _native_logits(model: Any) -> Tensor:
    """What the untouched model makes of the proof rows, one by one, but for their last tokens [T, V].

    Those are only ever predicted (see batch.py).
    """
    with torch.no_grad():
        logits = [
            model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0]
            for row in PROOF_ROWS
        ]
    return torch.cat([own_TV[:-1] for own_TV in logits])


def _prove(base: BaseModel, native_TV: Tensor) -> None:
    """Refuse architectures that mix neighbouring rows (convolutions, recurrent states) or alter logits unknown to us.

    Costs four forward passes of a few tokens, once a process.
    """
    try:
        with torch.no_grad():
            whole = _proof_batch(base, [torch.ones(len(row)) for row in PROOF_ROWS])
            packed_TV = base.head.logits(base.hidden(whole))
            # Of the last token alone, so that what the last layer needs of others is others'.
            last = _proof_batch(
                base, [torch.arange(len(row)) == len(row) - 1 for row in PROOF_ROWS]
            )
            narrowed_NV = base.head.logits(base.predicting(last))
    except (
        TypeError,
        ValueError,
    ) as error:  # from our attention, or a model that takes no position_ids
        raise UnsupportedBaseModel(f"{base.card.architecture}: {error}") from error
    native_TV = native_TV.to(packed_TV.device)
    worst = _farthest(packed_TV, native_TV)
    log.info("packed logits differ from the model's own by %.1e at most", worst)
    if not worst < PROOF_BOUND:
        raise UnsupportedBaseModel(
            f"{base.card.architecture}: packed rows give other logits than the model itself "
            f"(relative error {worst:.2g})."
        )
    if not _farthest(narrowed_NV, native_TV[last.predicts_N]) < PROOF_BOUND:
        log.info("the last layer is computed for all tokens: it is not as others are")
        base.last.give_up()


def _proof_batch(base: BaseModel, weights: Sequence[Tensor]) -> MicroBatch:
    rows = [
        Row(torch.tensor(row), weights_T.float())
        for row, weights_T in zip(PROOF_ROWS, weights, strict=True)
    ]
    return base.assemble([Share([Sample((row,)) for row in rows], None, CrossEntropy())])


def _farthest(found_TV: Tensor, right_TV: Tensor) -> float:
    """The relative error of the worst token."""
    return float(((found_TV - right_TV).norm(dim=-1) / right_TV.norm(dim=-1)).max())
