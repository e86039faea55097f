"""Whether an engine serves just what an adapter's files say: configuration, tensors and base model held side by side.

The last door before an engine. vLLM refuses some of what is wrong only when a request comes, and passes over the rest
with a line in its debug log: the answer is then the base model's.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adapters.layers import LinearLayers
from adapters.peft.config import AdapterConfig, ends_of, read_config
from adapters.peft.flaws import Findings, Flaw
from adapters.peft.tensors import Tensor, is_finite, is_zero, read_tensors
from adapters.peft.unpack import CONFIG, WEIGHTS

_PREFIX = "base_model.model."
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<layer>.+)\.lora_(?P<factor>[AB])\.weight")
_BLOCK = re.compile(r"\.(\d{1,6})\.")
#: Why a tensor that is no factor of a linear layer is none, by a part of its name; the first that fits.
_STRANGERS = (
    ("lora_magnitude_vector", Flaw.DORA, "It belongs to DoRA, and the engine would pass over it."),
    ("lora_embedding_", Flaw.FULL_MODULES, "LoRA of embeddings is not served. Leave embeddings out of target_modules."),
    ("embed_tokens", Flaw.FULL_MODULES, "Trained embeddings are not served. Train without them."),
    ("lm_head", Flaw.FULL_MODULES, "A trained output head is not served. Leave lm_head out."),
    ("modules_to_save", Flaw.FULL_MODULES, "Whole modules are not served. Train without modules_to_save."),
    ("bias", Flaw.BIAS, "Biases are not served. Train with bias='none'."),
    ("vera_", Flaw.NOT_LORA, "It belongs to VeRA. LoRA is served, and nothing else."),
    ("hada_", Flaw.NOT_LORA, "It belongs to LoHa. LoRA is served, and nothing else."),
)  # fmt: skip
_NEVER_LINEAR = frozenset({"embed_tokens", "lm_head"})


@dataclass(frozen=True, slots=True)
class BaseNames:
    """What a base model is called."""

    #: By us, and where its weights came from.
    known: tuple[str, ...]
    #: What the adapter may call it besides, since whoever brings it says so.
    vouched: str | None = None

    def include(self, name: str) -> bool:
        """Whether the name means this base model: the last part of a path or hub id counts."""
        return name == self.vouched or _tail(name) in {_tail(one) for one in self.known}


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of an adapter that may be served."""

    #: The largest of any layer.
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    rslora: bool
    #: Whether every layer of the base model with such a name has the same rank and scale: what training can continue.
    uniform: bool
    #: What the adapter calls its base model.
    base_model: str | None
    warnings: tuple[str, ...]


def check_adapter(
    directory: Path,
    *,
    layers: LinearLayers | None,
    max_rank: int,
    names: BaseNames | None = None,
) -> Checked:
    """Read every byte of an adapter and say what it is.

    Args:
        directory: with `adapter_config.json` and `adapter_model.safetensors`.
        layers: of the base model. Without them, what must fit them is not looked at.
        max_rank: the largest that the engine takes.
        names: of the base model. Without them, it is not asked what the adapter calls its base.

    Raises:
        InvalidAdapter: it must not be served. `details` has every flaw that was found.
        OSError: the files cannot be read.
    """
    findings = Findings()
    config = read_config(directory / CONFIG, findings)
    weights = directory / WEIGHTS
    tensors = read_tensors(weights)
    _check_rank(config, max_rank, findings)
    if names is not None:
        _check_base(config, names, findings)
    factors = _factors(tensors, findings)
    findings.settle()
    if layers is not None:
        _check_targets(config, layers, findings)
        _check_fit(factors, layers, findings)
    _check_agreement(config, factors, findings)
    _check_ranks(config, factors, findings)
    for tensor in tensors:
        if not is_finite(weights, tensor):
            findings.add(
                Flaw.NOT_FINITE,
                f"{tensor.name!r:.200} has numbers that are not finite, or as large as that. The training run "
                "diverged; take an earlier checkpoint.",
            )
    findings.settle()
    return Checked(
        rank=config.highest_rank,
        alpha=config.alpha,
        target_modules=tuple(dict.fromkeys(_end(layer) for layer in factors)),
        rslora=config.rslora,
        uniform=_uniform(config, factors, layers),
        base_model=config.base_model,
        warnings=tuple(_warnings(config, factors, weights)),
    )


def _check_rank(config: AdapterConfig, max_rank: int, findings: Findings) -> None:
    if config.highest_rank > max_rank:
        findings.add(
            Flaw.RANK_TOO_LARGE,
            f"The adapter has rank {config.highest_rank}, and this server takes at most {max_rank} "
            "(engine.max_lora_rank). Whoever runs it can raise that.",
        )


def _check_base(config: AdapterConfig, names: BaseNames, findings: Findings) -> None:
    told = config.base_model
    if told is not None and not names.include(told):
        findings.add(
            Flaw.WRONG_BASE_MODEL,
            f"The adapter says that it was trained on {told!r:.200}, not on {names.known[0]}. If that is the same model "
            "under another name, say so: send that name in 'trained_on'.",
        )


def _factors(tensors: Iterable[Tensor], findings: Findings) -> dict[str, dict[str, Tensor]]:
    """A and B of each layer, by its module path."""
    factors: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _KEY.fullmatch(tensor.name)
        if match is None or _end(match["layer"]) in _NEVER_LINEAR:
            findings.add(*_stranger(tensor.name))
        else:
            factors.setdefault(match["layer"], {})[match["factor"]] = tensor
    if not factors:
        findings.add(Flaw.NO_TENSORS, "There are no LoRA weights: the adapter changes nothing.")
    for layer, pair in factors.items():
        for factor in {"A", "B"} - pair.keys():
            findings.add(
                Flaw.FACTOR_MISSING,
                f"{layer:.200} has no lora_{factor}. The file is not whole; save the adapter again.",
            )
    return factors


def _stranger(name: str) -> tuple[Flaw, str]:
    """What is wrong with a tensor that is no factor of a linear layer."""
    for part, flaw, advice in _STRANGERS:
        if part in name:
            return flaw, f"There is a tensor {name!r:.200}. {advice}"
    told = f"There is a tensor {name!r:.200}, which the engine would pass over."
    known = f"PEFT calls them {_PREFIX}<module path>.lora_A.weight and .lora_B.weight."
    return Flaw.UNKNOWN_TENSOR, f"{told} {known}"


def _check_agreement(config: AdapterConfig, factors: Iterable[str], findings: Findings) -> None:
    """Whether the layers are those that the configuration speaks of."""
    targets, excluded = frozenset(config.target_modules or ()), frozenset(config.excluded)
    seen: set[str] = set()
    for layer in factors:
        ends = ends_of(layer)
        seen.update(ends)
        meant = config.target_modules is None or not targets.isdisjoint(ends)
        if not meant or not excluded.isdisjoint(ends) or not _in_blocks(layer, config.blocks):
            findings.add(
                Flaw.CONFIG_DISAGREES,
                f"There are weights for {layer:.200}, which by adapter_config.json is not adapted.",
            )
    # A dot means any character to PEFT and to engines, and a dot to us: such a key could mean others too.
    for key in (*config.rank_pattern, *config.alpha_pattern):
        if "." in key and key.removeprefix("^") not in seen:
            findings.add(
                Flaw.PATTERN_INVALID,
                f"rank_pattern or alpha_pattern has the key {key!r:.80}, and no layer of that name is adapted.",
            )
    for target in sorted(targets - seen):
        findings.add(
            Flaw.CONFIG_DISAGREES,
            f"adapter_config.json names {target!r:.80} in target_modules, and there are no weights for it.",
        )


def _in_blocks(layer: str, blocks: frozenset[int] | None) -> bool:
    if blocks is None:
        return True
    number = _BLOCK.search(f".{layer}.")
    return number is not None and int(number[1]) in blocks


def _check_targets(config: AdapterConfig, layers: LinearLayers, findings: Findings) -> None:
    there = {end for layer in layers for end in ends_of(layer)}
    known = ", ".join(dict.fromkeys(_end(layer) for layer in layers))
    for target in sorted(frozenset(config.target_modules or ()) - there):
        findings.add(
            Flaw.UNKNOWN_TARGET,
            f"{target!r:.80} in target_modules is not a linear layer of the base model. There are: {known:.300}.",
        )


def _check_fit(
    factors: dict[str, dict[str, Tensor]], layers: LinearLayers, findings: Findings
) -> None:
    """Whether each layer is one of the base model's, and of its size."""
    for layer, pair in factors.items():
        if layer not in layers:
            findings.add(
                Flaw.UNKNOWN_LAYER,
                f"The base model has no linear layer {layer:.200}. The adapter was made for another one.",
            )
            continue
        outputs, inputs = layers[layer]
        for factor, axis, size in (("A", 1, inputs), ("B", 0, outputs)):
            shape = pair[factor].shape
            if len(shape) == 2 and shape[axis] != size:  # noqa: PLR2004  others are told of elsewhere
                findings.add(
                    Flaw.SHAPE,
                    f"lora_{factor} of {layer:.200} has the shape {list(shape)}, and the base model needs {size} "
                    f"where it has {shape[axis]}. The adapter was made for another one.",
                )


def _check_ranks(
    config: AdapterConfig, factors: dict[str, dict[str, Tensor]], findings: Findings
) -> None:
    for layer, pair in factors.items():
        rank = config.rank_of(layer)
        for factor, axis in (("A", 0), ("B", 1)):
            shape = pair[factor].shape
            if len(shape) != 2:  # noqa: PLR2004  a matrix
                findings.add(
                    Flaw.SHAPE, f"lora_{factor} of {layer:.200} is no matrix: {list(shape)}."
                )
            elif shape[axis] != rank:
                findings.add(
                    Flaw.RANK_MISMATCH,
                    f"lora_{factor} of {layer:.200} has rank {shape[axis]}; by adapter_config.json it is {rank}.",
                )


def _uniform(
    config: AdapterConfig, factors: dict[str, dict[str, Tensor]], layers: LinearLayers | None
) -> bool:
    ends = {_end(layer) for layer in factors}
    whole = layers is not None and factors.keys() == {
        layer for layer in layers if _end(layer) in ends
    }
    return whole and not config.rank_pattern and not config.alpha_pattern


def _warnings(
    config: AdapterConfig, factors: dict[str, dict[str, Tensor]], weights: Path
) -> Iterable[str]:
    if all(is_zero(weights, pair["B"]) for pair in factors.values()):
        yield "Every lora_B is zero: the adapter answers as the base model does. Was it saved before training?"
    if config.base_model is None:
        yield "The adapter does not say which base model it was trained on; only its sizes have been compared."


def _end(layer: str) -> str:
    return layer.rpartition(".")[2]


def _tail(name: str) -> str:
    """The last part of a path or hub id, however it is spelt."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return re.sub("[^a-z0-9]+", "-", last.lower()).strip("-")
