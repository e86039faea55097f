"""`adapter_config.json`: what it asks for, and whether an engine would do just that.

vLLM 0.32 reads some of PEFT's options, refuses some, and passes over all that it does not know. So an option that we do
not know is refused here, unless it is off.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.peft.flaws import Findings, Flaw, refusal
from adapters.peft.strict import parse

_REQUIRED = ("r", "lora_alpha", "target_modules")
#: Other initial values change the base model when PEFT loads the adapter; an engine does not.
_INITIALISATIONS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
#: Read below, or without meaning once the adapter is trained.
_KNOWN = frozenset(
    {
        *_REQUIRED,
        *("peft_type", "task_type", "base_model_name_or_path", "revision", "auto_mapping"),
        *("inference_mode", "lora_dropout", "use_rslora", "init_lora_weights", "peft_version"),
        *("rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "megatron_core", "qalora_group_size", "runtime_config"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    }
)
#: Options that are refused with a word of their own, and what to do instead.
_REFUSED = {
    "use_dora": (Flaw.DORA, "DoRA scales whole columns of the base model, and the engine would not. Train plain LoRA."),
    "bias": (Flaw.BIAS, "The engine would not apply trained biases. Train with bias='none'."),
    "lora_bias": (Flaw.BIAS, "The engine would not apply biases of LoRA layers. Train without lora_bias."),
    "modules_to_save": (
        Flaw.FULL_MODULES,
        "Whole modules beside the LoRA layers would not be served. Train without modules_to_save.",
    ),
    "trainable_token_indices": (
        Flaw.FULL_MODULES,
        "Trained token embeddings would not be served. Train without trainable_token_indices.",
    ),
    "fan_in_fan_out": (
        Flaw.UNSUPPORTED_OPTION,
        "fan_in_fan_out is for base models that keep their weights transposed, which this one does not. Train without it.",
    ),
}  # fmt: skip
_FLAGS = ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")
_TASKS = frozenset({None, "CAUSAL_LM"})
#: PEFT takes regular expressions here; those of strangers are never run. These are module paths, and ends of them.
_PATTERN = re.compile(r"\^?[A-Za-z0-9_.\-]{1,256}")
#: Where code may be said to be: PEFT writes these by itself.
_MODULES = {
    "auto_mapping": re.compile(r"transformers(\.[A-Za-z0-9_]{1,64}){0,8}"),
    "megatron_core": re.compile(r"megatron\.core"),
}
_LARGEST_RANK = 1 << 20
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """A value of `rank_pattern`, and which one it is, counted from 0."""

    at: int
    rank: int


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of the file matters for serving."""

    rank: int
    alpha: float
    #: A regular expression of PEFT's is not looked at: the tensors tell which layers there are.
    target_modules: tuple[str, ...] | None
    excluded: tuple[str, ...]
    #: Numbers of the decoder blocks; None for all.
    blocks: frozenset[int] | None
    rslora: bool
    rank_pattern: Mapping[str, Rank]
    #: Keys of `alpha_pattern`: layers that are scaled differently.
    alpha_pattern: tuple[str, ...]
    #: What the adapter calls its base model.
    base_model: str | None

    @property
    def highest_rank(self) -> int:
        """The largest rank of any layer."""
        return max([self.rank, *(one.rank for one in self.rank_pattern.values())])

    def rank_of(self, layer: str) -> int:
        """The rank of the layer at that module path."""
        found = [at for key in (*ends_of(layer), f"^{layer}") if (at := self.rank_pattern.get(key))]
        # As in PEFT and vLLM, the key that comes first counts.
        return min(found).rank if found else self.rank


def read_config(path: Path, findings: Findings) -> AdapterConfig:
    """The configuration; what is wrong with it goes to `findings`.

    Raises:
        InvalidAdapter: it cannot be understood at all.
    """
    try:
        raw = parse(path.read_bytes())
    except ValueError as error:
        raise refusal(
            Flaw.CONFIG_UNREADABLE, f"adapter_config.json cannot be read: {error}."
        ) from error
    _check_kind(raw)
    _check_options(raw, findings)
    config = AdapterConfig(
        rank=_rank(raw["r"]),
        alpha=_alpha(raw["lora_alpha"], "lora_alpha"),
        target_modules=_targets(raw["target_modules"]),
        excluded=_names(raw.get("exclude_modules"), "exclude_modules"),
        blocks=_blocks(raw.get("layers_to_transform")),
        rslora=bool(raw.get("use_rslora")),
        rank_pattern=_ranks(raw.get("rank_pattern")),
        alpha_pattern=_scaled(raw.get("alpha_pattern")),
        base_model=_base_model(raw.get("base_model_name_or_path")),
    )
    findings.settle()  # another kind of adapter has other tensors: nothing would be gained by going on
    return config


def _check_kind(raw: dict[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise refusal(
            Flaw.NOT_LORA,
            f"peft_type is {kind!r:.80}. Adapters of type 'LORA' are served, and no others.",
        )
    missing = [name for name in _REQUIRED if name not in raw]
    if missing:
        raise refusal(
            Flaw.CONFIG_UNREADABLE, f"adapter_config.json does not say {' and '.join(missing)}."
        )


def _check_options(raw: dict[str, Any], findings: Findings) -> None:
    task = raw.get("task_type")
    if task not in list(_TASKS):
        findings.add(
            Flaw.WRONG_TASK, f"task_type is {task!r:.80}; adapters of language models are served."
        )
    for name in _FLAGS:
        if not isinstance(raw.get(name) or False, bool):
            findings.add(
                Flaw.OPTION_INVALID, f"{name} must be true or false, not {raw[name]!r:.80}."
            )
    _check_initialisation(raw.get("init_lora_weights"), findings)
    _check_code(raw, findings)
    for name, value in raw.items():
        if _off(name, value) or name in _KNOWN:
            continue
        flaw, advice = _REFUSED.get(
            name,
            (Flaw.UNSUPPORTED_OPTION, "No engine here is known to heed that. Train without it."),
        )
        findings.add(flaw, f"{name!r:.80} is {value!r:.80}. {advice}")


def _check_code(raw: dict[str, Any], findings: Findings) -> None:
    """No engine imports the modules that are named here, but PEFT does, where somebody loads what was downloaded."""
    mapping = raw.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    named = {"auto_mapping": library, "megatron_core": raw.get("megatron_core")}
    for name, module in named.items():
        if module and not (isinstance(module, str) and _MODULES[name].fullmatch(module)):
            findings.add(
                Flaw.UNSUPPORTED_OPTION,
                f"{name} names {module!r:.80}, code that PEFT would run. Train without it, or take it out.",
            )


def _off(name: str, value: Any) -> bool:
    if name == "bias":  # the engine takes this word for it, and no other
        return bool(value == "none")
    return not value


def _check_initialisation(init: Any, findings: Findings) -> None:
    if isinstance(init, str) and init.lower() not in _INITIALISATIONS:
        findings.add(
            Flaw.INITIALISATION,
            f"init_lora_weights is {init!r:.80}, which changes the base model too; the engine's is as it was. Convert the "
            "adapter with path_initial_model_for_weight_conversion of PEFT's save_pretrained.",
        )
    elif init is not None and not isinstance(init, bool | str):
        findings.add(
            Flaw.OPTION_INVALID,
            f"init_lora_weights must be a word, true or false, not {init!r:.80}.",
        )


def _rank(value: Any, name: str = "r") -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST_RANK:
        raise refusal(
            Flaw.RANK_INVALID, f"{name} must be a whole number above 0, not {value!r:.80}."
        )
    return value


def _alpha(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-6 < value < 1e9:  # noqa: PLR2004  beyond all use
        raise refusal(
            Flaw.ALPHA_INVALID,
            f"{name} must be a number from 0.000001 to 1000000000, not {value!r:.80}.",
        )
    return float(value)


def _targets(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str) and value:
        return None
    names = _names(value, "target_modules", Flaw.TARGETS_INVALID)
    if not names:
        raise refusal(
            Flaw.TARGETS_INVALID, "target_modules is empty: the adapter would change nothing."
        )
    return names


def _names(value: Any, name: str, flaw: Flaw = Flaw.OPTION_INVALID) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise refusal(flaw, f"{name} must be a list of names, not {value!r:.80}.")
    return tuple(value)


def _blocks(value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(one) is int for one in numbers):
        raise refusal(
            Flaw.OPTION_INVALID,
            f"layers_to_transform must be numbers of layers, not {value!r:.80}.",
        )
    return frozenset(numbers) or None


def _ranks(value: Any) -> dict[str, Rank]:
    pairs = enumerate(_pattern(value, "rank"))
    return {key: Rank(at, _rank(one, f"rank_pattern[{key!r}]")) for at, (key, one) in pairs}


def _scaled(value: Any) -> tuple[str, ...]:
    pairs = _pattern(value, "alpha")
    for key, one in pairs:
        _alpha(one, f"alpha_pattern[{key!r}]")
    return tuple(key for key, _ in pairs)


def _pattern(value: Any, name: str) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise refusal(Flaw.PATTERN_INVALID, f"{name}_pattern must be an object, not {value!r:.80}.")
    for key in value:
        if not _PATTERN.fullmatch(key):
            raise refusal(
                Flaw.PATTERN_INVALID,
                f"{name}_pattern has the key {key!r:.80}. Spell out module paths, or ends of them, without regular "
                "expressions.",
            )
    return list(value.items())


def _base_model(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isprintable() or len(value) > _LONGEST_NAME:
        raise refusal(
            Flaw.OPTION_INVALID, f"base_model_name_or_path must be a name, not {value!r:.80}."
        )
    return value


def ends_of(layer: str) -> list[str]:
    """A module path and what it ends in: `model.layers.0.mlp.up_proj`, `layers.0.mlp.up_proj` … `up_proj`."""
    parts = layer.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]
