"""A corpus of adapters that must never reach an engine, each with the reason it must be refused for."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from adapters.manifest import dump_manifest
from adapters.peft.flaws import Flaw
from tests.support.peft_adapters import (
    LAYERS,
    PREFIX,
    RANK,
    Adapter,
    Stored,
    add,
    good_adapter,
    key,
    packed,
    safetensors,
    taring,
    with_header,
)
from tests.support.samples import manifest, new_job

#: What the corpus is checked with.
MAX_RANK = 64
MAX_BYTES = 4 << 20
LAYER = "model.layers.1.self_attn.q_proj"
PICKLE = b"\x80\x04\x95cos\nsystem\n(S'touch /tmp/owned'\ntR."


#: What whoever brings an adapter with that flaw is told, among other things.
WORDS = {
    Flaw.NOT_AN_ARCHIVE: "tar",
    Flaw.ARCHIVE_DAMAGED: "archive",
    Flaw.TOO_LARGE: "than",
    Flaw.TOO_MANY_MEMBERS: "members",
    Flaw.UNSAFE_PATH: "path",
    Flaw.LINK: "link",
    Flaw.SPECIAL_MEMBER: "file",
    Flaw.DUPLICATE_MEMBER: "twice",
    Flaw.MISSING_FILE: "There is no adapter_",
    Flaw.SEVERAL_ADAPTERS: "several adapters",
    Flaw.PICKLE: "pickle",
    Flaw.CONFIG_UNREADABLE: "adapter_config.json",
    Flaw.OPTION_INVALID: "must be",
    Flaw.NOT_LORA: "LORA",
    Flaw.WRONG_TASK: "task_type",
    Flaw.RANK_INVALID: "whole number above 0",
    Flaw.RANK_TOO_LARGE: "engine.max_lora_rank",
    Flaw.ALPHA_INVALID: "alpha",
    Flaw.PATTERN_INVALID: "_pattern",
    Flaw.TARGETS_INVALID: "target_modules",
    Flaw.UNKNOWN_TARGET: "not a linear layer of the base model",
    Flaw.DORA: "DoRA",
    Flaw.BIAS: "bias",
    Flaw.FULL_MODULES: "served",
    Flaw.INITIALISATION: "init_lora_weights",
    Flaw.UNSUPPORTED_OPTION: "Train without it",
    Flaw.WRONG_BASE_MODEL: "trained_on",
    Flaw.WEIGHTS_UNREADABLE: "no safetensors file",
    Flaw.WEIGHTS_TRUNCATED: "cut short",
    Flaw.OFFSETS_INVALID: "Save the adapter again",
    Flaw.DTYPE: "F32, F16, BF16",
    Flaw.NO_TENSORS: "no LoRA weights",
    Flaw.UNKNOWN_TENSOR: "pass over",
    Flaw.UNKNOWN_LAYER: "no linear layer",
    Flaw.FACTOR_MISSING: "has no lora_",
    Flaw.SHAPE: "lora_",
    Flaw.RANK_MISMATCH: "by adapter_config.json it is",
    Flaw.NOT_FINITE: "not finite",
    Flaw.CONFIG_DISAGREES: "adapter_config.json",
}


def config(**changes: Any) -> Adapter:
    adapter = good_adapter()
    adapter.config |= changes
    return adapter


def lacking(name: str) -> Adapter:
    adapter = good_adapter()
    del adapter.config[name]
    return adapter


def tensor(name: str, *shape: int, **about: Any) -> Adapter:
    """One tensor more, or in the place of another."""
    adapter = good_adapter()
    adapter.tensors[name] = Stored(shape, **about)
    return adapter


def spoilt(factor: str, **about: Any) -> Adapter:
    """With another factor of one layer."""
    adapter = good_adapter()
    for name, value in about.items():
        setattr(adapter.layer(LAYER, factor), name, value)
    return adapter


def renamed(change: Callable[[str], str]) -> Adapter:
    adapter = good_adapter()
    adapter.tensors = {change(name): one for name, one in adapter.tensors.items()}
    return adapter


def without_tensor(name: str) -> Adapter:
    adapter = good_adapter()
    del adapter.tensors[name]
    return adapter


def raw_config(text: str | bytes) -> Adapter:
    adapter = good_adapter()
    adapter.raw_config = text.encode() if isinstance(text, str) else text
    return adapter


def raw_weights(data: bytes) -> Adapter:
    adapter = good_adapter()
    adapter.raw_weights = data
    return adapter


def with_headers(change: Callable[[dict[str, Any]], Any]) -> Adapter:
    """With a header of the weights that somebody has changed."""
    whole = good_adapter().weights()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    changed = change(header) or header
    return raw_weights(with_header(json.dumps(changed).encode(), whole[8 + length :]))


def described(**changes: Any) -> Adapter:
    return with_headers(lambda header: header[key(LAYER, "A")].update(changes))


def moved(by: int) -> Adapter:
    """With one tensor that lies elsewhere."""

    def change(header: dict[str, Any]) -> None:
        one = header[key(LAYER, "A")]
        one["data_offsets"] = [offset + by for offset in one["data_offsets"]]

    return with_headers(change)


def larger(factor: int) -> Adapter:
    layers = {
        layer: (outputs * factor, inputs * factor) for layer, (outputs, inputs) in LAYERS.items()
    }
    return good_adapter(layers=layers)


def beside(**files: bytes) -> Adapter:
    adapter = good_adapter()
    adapter.files = {name.replace("__", "."): data for name, data in files.items()}
    return adapter


def downloaded(**base: str) -> bytes:
    """The manifest of a version that another graft has trained, on a base model that is somehow different."""
    made = manifest(new_job())
    return dump_manifest(replace(made, base=replace(made.base, **base))).encode()


def without(*names: str, **files: bytes) -> Adapter:
    adapter = beside(**files)
    adapter.without = names
    return adapter


def doubled_key() -> Adapter:
    whole = good_adapter().weights()
    length = struct.unpack("<Q", whole[:8])[0]
    header = whole[8 : 8 + length].rstrip()
    name = json.dumps(key(LAYER, "A"))
    again = json.loads(header)[key(LAYER, "A")]
    return raw_weights(
        with_header(header[:-1] + f", {name}: {json.dumps(again)}}}".encode(), whole[8 + length :])
    )


def embedding() -> Adapter:
    adapter = good_adapter()
    adapter.tensors[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = Stored((RANK, 32))
    adapter.tensors[f"{PREFIX}model.embed_tokens.lora_embedding_B"] = Stored((8, RANK))
    return adapter


def output_head() -> Adapter:
    adapter = config(target_modules=["q_proj", "v_proj", "down_proj", "lm_head"])
    adapter.tensors[key("lm_head", "A")] = Stored((RANK, 8))
    adapter.tensors[key("lm_head", "B")] = Stored((32, RANK))
    return adapter


def other_layers() -> Adapter:
    layers = {name.replace("model.", "transformer."): shape for name, shape in LAYERS.items()}
    return good_adapter(layers=layers)


def deeper() -> Adapter:
    return good_adapter(
        layers=LAYERS
        | {"model.layers.2.self_attn.q_proj": LAYERS["model.layers.0.self_attn.q_proj"]}
    )


#: Folders by what is wrong with them.
FOLDERS: dict[str, tuple[Flaw, Callable[[], Adapter]]] = {
    # The configuration.
    "no config": (Flaw.MISSING_FILE, lambda: without("adapter_config.json")),
    "no weights": (Flaw.MISSING_FILE, lambda: without("adapter_model.safetensors")),
    "nothing": (
        Flaw.MISSING_FILE,
        lambda: without("adapter_config.json", "adapter_model.safetensors"),
    ),
    "pickled weights": (
        Flaw.PICKLE,
        lambda: without("adapter_model.safetensors", adapter_model__bin=PICKLE),
    ),
    "pickled weights beside the good ones": (
        Flaw.PICKLE,
        lambda: beside(adapter_model__bin=PICKLE),
    ),
    "weights of torch": (
        Flaw.PICKLE,
        lambda: without("adapter_model.safetensors", adapter_model__pt=PICKLE),
    ),
    "a pickle that is called safetensors": (Flaw.WEIGHTS_TRUNCATED, lambda: raw_weights(PICKLE)),
    "an empty config": (Flaw.CONFIG_UNREADABLE, lambda: raw_config("")),
    "a config that is a list": (Flaw.CONFIG_UNREADABLE, lambda: raw_config("[]")),
    "a config that is cut short": (Flaw.CONFIG_UNREADABLE, lambda: raw_config('{"r": 4,')),
    "a config in another encoding": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config('{"r": "é"}'.encode("latin-1")),
    ),
    "a config with a key twice": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config(json.dumps(good_adapter().config)[:-1] + ', "r": 8}'),
    ),
    "a config nested without end": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config('{"r":' * 50_000),
    ),
    "a config with NaN": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config(json.dumps(good_adapter().config | {"lora_alpha": float("nan")})),
    ),
    "a config of two megabytes": (Flaw.TOO_LARGE, lambda: config(revision="x" * (2 << 20))),
    "no rank": (Flaw.CONFIG_UNREADABLE, lambda: lacking("r")),
    "no alpha": (Flaw.CONFIG_UNREADABLE, lambda: lacking("lora_alpha")),
    "no targets": (Flaw.CONFIG_UNREADABLE, lambda: lacking("target_modules")),
    "no type": (Flaw.NOT_LORA, lambda: lacking("peft_type")),
    "VeRA": (Flaw.NOT_LORA, lambda: config(peft_type="VERA")),
    "IA3": (Flaw.NOT_LORA, lambda: config(peft_type="IA3")),
    "a type that is a list": (Flaw.NOT_LORA, lambda: config(peft_type=["LORA"])),
    "LoHa": (Flaw.NOT_LORA, lambda: config(peft_type="LOHA")),
    "AdaLoRA": (Flaw.NOT_LORA, lambda: config(peft_type="ADALORA")),
    "prompt tuning": (Flaw.NOT_LORA, lambda: config(peft_type="PROMPT_TUNING")),
    "a classifier": (Flaw.WRONG_TASK, lambda: config(task_type="SEQ_CLS")),
    "rank nought": (Flaw.RANK_INVALID, lambda: config(r=0)),
    "a negative rank": (Flaw.RANK_INVALID, lambda: config(r=-4)),
    "a rank that is text": (Flaw.RANK_INVALID, lambda: config(r="4")),
    "a rank that is a fraction": (Flaw.RANK_INVALID, lambda: config(r=4.5)),
    "a rank that is true": (Flaw.RANK_INVALID, lambda: config(r=True)),
    "a rank above the engine's": (Flaw.RANK_TOO_LARGE, lambda: good_adapter(rank=MAX_RANK + 1)),
    "a rank pattern above the engine's": (
        Flaw.RANK_TOO_LARGE,
        lambda: good_adapter(ranks={LAYER: MAX_RANK + 1}),
    ),
    "a rank pattern of nought": (Flaw.RANK_INVALID, lambda: config(rank_pattern={"q_proj": 0})),
    "a rank pattern that is a list": (Flaw.PATTERN_INVALID, lambda: config(rank_pattern=[4])),
    "a rank pattern that runs for ever": (
        Flaw.PATTERN_INVALID,
        lambda: config(rank_pattern={"(a+)+$": 4}),
    ),
    "a rank pattern that the tensors do not have": (
        Flaw.RANK_MISMATCH,
        lambda: config(rank_pattern={"q_proj": 8}),
    ),
    "a rank pattern with any character in it": (
        Flaw.PATTERN_INVALID,
        lambda: config(rank_pattern={"q.proj": 8}),
    ),
    "an alpha pattern with any character in it": (
        Flaw.PATTERN_INVALID,
        lambda: config(alpha_pattern={"q.proj": 1}),
    ),
    "a rank pattern of text": (Flaw.RANK_INVALID, lambda: config(rank_pattern={"q_proj": "8"})),
    "a rank pattern without a name": (Flaw.PATTERN_INVALID, lambda: config(rank_pattern={"": 4})),
    "a negative alpha": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha=-8)),
    "alpha as good as nought": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha=1e-300)),
    "alpha that is true": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha=True)),
    "alpha of four hundred digits": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha=10**400)),
    "alpha of five thousand digits": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config('{"lora_alpha": ' + "9" * 5000 + "}"),
    ),
    "a negative alpha of one layer": (
        Flaw.ALPHA_INVALID,
        lambda: config(alpha_pattern={"q_proj": -1}),
    ),
    "an alpha pattern that is an expression": (
        Flaw.PATTERN_INVALID,
        lambda: config(alpha_pattern={".*_proj": 1}),
    ),
    "alpha nought": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha=0)),
    "alpha that is text": (Flaw.ALPHA_INVALID, lambda: config(lora_alpha="16")),
    "alpha that is infinite": (Flaw.CONFIG_UNREADABLE, lambda: raw_config('{"lora_alpha": 1e999}')),
    "an alpha pattern of nothing": (
        Flaw.ALPHA_INVALID,
        lambda: config(alpha_pattern={"q_proj": None}),
    ),
    "empty targets": (Flaw.TARGETS_INVALID, lambda: config(target_modules=[])),
    "targets that are numbers": (Flaw.TARGETS_INVALID, lambda: config(target_modules=[1, 2])),
    "a target that the base has not": (
        Flaw.UNKNOWN_TARGET,
        lambda: config(target_modules=["q_proj", "v_proj", "down_proj", "c_attn"]),
    ),
    "weights for what is no target": (
        Flaw.CONFIG_DISAGREES,
        lambda: config(target_modules=["q_proj", "v_proj"]),
    ),
    "weights for what is excluded": (
        Flaw.CONFIG_DISAGREES,
        lambda: config(exclude_modules=["v_proj"]),
    ),
    "weights for another block": (Flaw.CONFIG_DISAGREES, lambda: config(layers_to_transform=[0])),
    "blocks that the base has not": (
        Flaw.CONFIG_DISAGREES,
        lambda: config(layers_to_transform=[99]),
    ),
    "blocks that are text": (Flaw.OPTION_INVALID, lambda: config(layers_to_transform=["0"])),
    "DoRA": (Flaw.DORA, lambda: config(use_dora=True)),
    "a flag that is text": (Flaw.OPTION_INVALID, lambda: config(use_rslora="false")),
    "trained biases": (Flaw.BIAS, lambda: config(bias="all")),
    "biases of LoRA layers only": (Flaw.BIAS, lambda: config(bias="lora_only")),
    "biases of which nothing is said": (Flaw.BIAS, lambda: config(bias=None)),
    "biases that are false": (Flaw.BIAS, lambda: config(bias=False)),
    "biases of LoRA": (Flaw.BIAS, lambda: config(lora_bias=True)),
    "whole modules": (Flaw.FULL_MODULES, lambda: config(modules_to_save=["lm_head"])),
    "trained tokens": (Flaw.FULL_MODULES, lambda: config(trainable_token_indices=[1, 2])),
    "PiSSA": (Flaw.INITIALISATION, lambda: config(init_lora_weights="pissa_niter_16")),
    "LoftQ": (Flaw.INITIALISATION, lambda: config(init_lora_weights="loftq")),
    "OLoRA": (Flaw.INITIALISATION, lambda: config(init_lora_weights="olora")),
    "aLoRA": (Flaw.UNSUPPORTED_OPTION, lambda: config(alora_invocation_tokens=[1, 2, 3])),
    "code of a stranger's": (
        Flaw.UNSUPPORTED_OPTION,
        lambda: config(auto_mapping={"base_model_class": "X", "parent_library": "evil.models"}),
    ),
    "code that is no name": (Flaw.UNSUPPORTED_OPTION, lambda: config(auto_mapping="evil")),
    "another Megatron": (Flaw.UNSUPPORTED_OPTION, lambda: config(megatron_core="evil.core")),
    "QALoRA": (Flaw.UNSUPPORTED_OPTION, lambda: config(use_qalora=True)),
    "repeated layers": (Flaw.UNSUPPORTED_OPTION, lambda: config(layer_replication=[[0, 1]])),
    "transposed weights": (Flaw.UNSUPPORTED_OPTION, lambda: config(fan_in_fan_out=True)),
    "parameters of experts": (
        Flaw.UNSUPPORTED_OPTION,
        lambda: config(target_parameters=["experts.down_proj"]),
    ),
    "blocks of a diagonal": (Flaw.UNSUPPORTED_OPTION, lambda: config(use_bdlora={"a": 1})),
    "tied weights": (Flaw.UNSUPPORTED_OPTION, lambda: config(ensure_weight_tying=True)),
    "an initialisation that is an object": (
        Flaw.OPTION_INVALID,
        lambda: config(init_lora_weights={"a": 1}),
    ),
    "an option that nobody knows": (Flaw.UNSUPPORTED_OPTION, lambda: config(use_magic=True)),
    "an option that only the engine knows": (
        Flaw.UNSUPPORTED_OPTION,
        lambda: config(vllm_lora_scaling_factor=9.0),
    ),
    "another base model": (
        Flaw.WRONG_BASE_MODEL,
        lambda: good_adapter(base_model="meta-llama/Llama-3.1-8B"),
    ),
    "a download whose base model had other weights": (
        Flaw.WRONG_BASE_MODEL,
        lambda: beside(graft__json=downloaded(digest="9" * 64)),
    ),
    "a download of which nothing can be read": (
        Flaw.CONFIG_UNREADABLE,
        lambda: beside(graft__json=b"{}"),
    ),
    "a download with an endless manifest": (
        Flaw.TOO_LARGE,
        lambda: beside(graft__json=downloaded() + b" " * (1 << 20)),
    ),
    "a base model that is a number": (
        Flaw.OPTION_INVALID,
        lambda: config(base_model_name_or_path=7),
    ),
    "a base model with half a surrogate pair": (
        Flaw.CONFIG_UNREADABLE,
        lambda: raw_config(
            json.dumps(good_adapter().config).replace('"tiny-base"', '"\\ud800tiny-base"')
        ),
    ),
    # The weights.
    "no bytes": (Flaw.WEIGHTS_TRUNCATED, lambda: raw_weights(b"")),
    "seven bytes": (Flaw.WEIGHTS_TRUNCATED, lambda: raw_weights(b"\0" * 7)),
    "a header of 2^63 bytes": (
        Flaw.WEIGHTS_TRUNCATED,
        lambda: raw_weights(struct.pack("<Q", 1 << 63) + b"{}"),
    ),
    "a header of a gigabyte": (
        Flaw.WEIGHTS_TRUNCATED,
        lambda: raw_weights(struct.pack("<Q", 1 << 30) + b"{}"),
    ),
    "a header longer than the file": (
        Flaw.WEIGHTS_TRUNCATED,
        lambda: raw_weights(struct.pack("<Q", 100) + b"{}"),
    ),
    "weights that are cut short": (
        Flaw.WEIGHTS_TRUNCATED,
        lambda: raw_weights(good_adapter().weights()[:-1]),
    ),
    "weights that go on": (
        Flaw.OFFSETS_INVALID,
        lambda: raw_weights(good_adapter().weights() + b"\0"),
    ),
    "a header that is no JSON": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: raw_weights(with_header(b"{'a': 1}", b"")),
    ),
    "a header that is a list": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: raw_weights(with_header(b"[]", b"")),
    ),
    "a header nested without end": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: raw_weights(with_header(b'{"a":' * 50_000, b"")),
    ),
    "a header with a tensor twice": (Flaw.WEIGHTS_UNREADABLE, doubled_key),
    "a header that begins with a space": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: raw_weights(with_header(b" {}", b"")),
    ),
    "metadata with half a surrogate pair": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: with_headers(lambda header: header.update(__metadata__={"format": "\ud800"})),
    ),
    "metadata that is no text": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: with_headers(lambda header: header.update(__metadata__={"format": 1})),
    ),
    "a tensor without a shape": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: with_headers(lambda header: header[key(LAYER, "A")].pop("shape") and None),
    ),
    "a tensor with a negative size": (Flaw.WEIGHTS_UNREADABLE, lambda: described(shape=[-4, -8])),
    "a tensor with a fraction of a size": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: described(shape=[4.0, 8]),
    ),
    "a tensor with negative offsets": (
        Flaw.WEIGHTS_UNREADABLE,
        lambda: described(data_offsets=[-8, 120]),
    ),
    "a tensor that ends before it begins": (
        Flaw.OFFSETS_INVALID,
        lambda: described(data_offsets=[128, 0]),
    ),
    "a tensor over another": (Flaw.OFFSETS_INVALID, lambda: moved(-8)),
    "a tensor behind the end": (Flaw.OFFSETS_INVALID, lambda: moved(1 << 40)),
    "a shape of more than the bytes": (Flaw.OFFSETS_INVALID, lambda: described(shape=[4, 1 << 60])),
    "a shape that overflows 64 bits": (
        Flaw.OFFSETS_INVALID,
        lambda: described(shape=[1 << 62, 1 << 62]),
    ),
    "whole numbers": (
        Flaw.DTYPE,
        lambda: tensor(key(LAYER, "A"), RANK, 8, dtype="I8", value=1),
    ),
    "eight bits": (Flaw.DTYPE, lambda: described(dtype="F8_E4M3")),
    "double precision": (Flaw.DTYPE, lambda: tensor(key(LAYER, "A"), RANK, 8, dtype="F64")),
    "a dtype of the future": (Flaw.DTYPE, lambda: described(dtype="F3_E1")),
    "no tensors": (Flaw.NO_TENSORS, lambda: raw_weights(safetensors({}))),
    "keys without PEFT's prefix": (
        Flaw.UNKNOWN_TENSOR,
        lambda: renamed(lambda name: name.removeprefix(PREFIX)),
    ),
    "keys with the adapter's name": (
        Flaw.UNKNOWN_TENSOR,
        lambda: renamed(lambda name: name.replace(".weight", ".default.weight")),
    ),
    "keys of diffusion models": (
        Flaw.UNKNOWN_TENSOR,
        lambda: renamed(lambda name: name.replace("lora_A", "lora_down")),
    ),
    "keys of a wrapped model": (
        Flaw.UNKNOWN_LAYER,
        lambda: renamed(lambda name: name.replace("model.layers", "language_model.layers")),
    ),
    "layers of another architecture": (Flaw.UNKNOWN_LAYER, other_layers),
    "a block too many": (Flaw.UNKNOWN_LAYER, deeper),
    "a negative block": (
        Flaw.UNKNOWN_LAYER,
        lambda: renamed(lambda name: name.replace("layers.1", "layers.-1")),
    ),
    "a block in two digits": (
        Flaw.UNKNOWN_LAYER,
        lambda: renamed(lambda name: name.replace("layers.1", "layers.01")),
    ),
    "a layer with a line break": (
        Flaw.UNKNOWN_TENSOR,
        lambda: renamed(lambda name: name.replace("layers.1", "layers.1\n")),
    ),
    "another width": (Flaw.SHAPE, lambda: larger(2)),
    "A turned round": (Flaw.SHAPE, lambda: spoilt("A", shape=(8, RANK))),
    "B turned round": (Flaw.SHAPE, lambda: spoilt("B", shape=(RANK, 8))),
    "a factor that is no matrix": (Flaw.SHAPE, lambda: spoilt("A", shape=(RANK * 8,))),
    "factors that do not fit each other": (
        Flaw.RANK_MISMATCH,
        lambda: spoilt("A", shape=(RANK + 1, 8)),
    ),
    "a rank that the config does not say": (
        Flaw.RANK_MISMATCH,
        lambda: config(r=RANK * 2),
    ),
    "no A": (Flaw.FACTOR_MISSING, lambda: without_tensor(key(LAYER, "A"))),
    "no B": (Flaw.FACTOR_MISSING, lambda: without_tensor(key(LAYER, "B"))),
    "magnitudes of DoRA": (
        Flaw.DORA,
        lambda: tensor(f"{PREFIX}{LAYER}.lora_magnitude_vector", 8),
    ),
    "a bias": (Flaw.BIAS, lambda: tensor(f"{PREFIX}{LAYER}.lora_B.bias", 8)),
    "an output head": (Flaw.FULL_MODULES, output_head),
    "LoRA of embeddings": (Flaw.FULL_MODULES, embedding),
    "whole embeddings": (
        Flaw.FULL_MODULES,
        lambda: tensor(f"{PREFIX}model.embed_tokens.weight", 32, 8),
    ),
    "a whole layer": (
        Flaw.UNKNOWN_TENSOR,
        lambda: tensor(f"{PREFIX}{LAYER}.base_layer.weight", 8, 8),
    ),
    "NaN": (Flaw.NOT_FINITE, lambda: spoilt("A", first=float("nan"))),
    "infinity": (Flaw.NOT_FINITE, lambda: spoilt("B", first=float("inf"))),
    "minus infinity in half precision": (
        Flaw.NOT_FINITE,
        lambda: spoilt("B", dtype="F16", first=float("-inf")),
    ),
    "NaN in bfloat16": (Flaw.NOT_FINITE, lambda: spoilt("A", dtype="BF16", first=float("nan"))),
}


def _tar(*members: tuple[str, bytes, dict[str, Any]]) -> bytes:
    """A good adapter, and further members."""
    target = io.BytesIO()
    with taring(target) as tar:
        for name, data in good_adapter().contents().items():
            add(tar, name, data)
        for name, data, about in members:
            add(tar, name, data, **about)
    return target.getvalue()


def _zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in good_adapter().contents().items():
            archive.writestr(name, data)
    return target.getvalue()


def _member_kind(kind: bytes) -> bytes:
    return _tar(("other", b"", {"type": kind}))


def _link(kind: bytes, target: str) -> bytes:
    return _tar(("adapter_model.safetensors", b"", {"type": kind, "linkname": target}))


def _huge_member() -> bytes:
    """A member that says it has 8 GiB, of which there are none."""
    info = tarfile.TarInfo("adapter_model.safetensors")
    info.size = 8 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024


def _bomb() -> bytes:
    """Sixteen megabytes of nothing, in sixteen kilobytes."""
    target = io.BytesIO()
    with taring(target) as tar:
        add(tar, "adapter_model.safetensors", bytes(16 << 20))
    return gzip.compress(target.getvalue())


def _long_pax() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "x" * (1 << 17))
    return target.getvalue()


def _crowd() -> bytes:
    return _tar(*((f"file-{number}", b"", {}) for number in range(1001)))


def _flipped() -> bytes:
    """A tar whose second header is damaged."""
    whole = bytearray(packed(good_adapter()))
    at = whole.index(b"adapter_model.safetensors")
    whole[at] ^= 1
    return bytes(whole)


def _two_folders() -> bytes:
    target = io.BytesIO()
    with taring(target) as tar:
        for folder in ("one", "two"):
            for name, data in good_adapter().contents().items():
                add(tar, f"{folder}/{name}", data)
    return target.getvalue()


#: Archives by what is wrong with them.
ARCHIVES: dict[str, tuple[Flaw, Callable[[], bytes]]] = {
    "nothing at all": (Flaw.ARCHIVE_DAMAGED, lambda: b""),
    "text": (Flaw.NOT_AN_ARCHIVE, lambda: b"my adapter" * 100),
    "a zip": (Flaw.NOT_AN_ARCHIVE, _zip),
    "the weights alone": (Flaw.NOT_AN_ARCHIVE, lambda: good_adapter().weights()),
    "a tar that is cut short": (
        Flaw.ARCHIVE_DAMAGED,
        lambda: packed(good_adapter())[:2000],
    ),
    "a tar.gz that is cut short": (
        Flaw.ARCHIVE_DAMAGED,
        lambda: packed(good_adapter(), zipped=True)[:-20],
    ),
    "a tar.gz with a wrong checksum": (
        Flaw.ARCHIVE_DAMAGED,
        lambda: packed(good_adapter(), zipped=True)[:-8] + b"\0" * 8,
    ),
    "a tar with a damaged header": (Flaw.ARCHIVE_DAMAGED, _flipped),
    "a way out": (Flaw.UNSAFE_PATH, lambda: _tar(("../../etc/passwd", b"root", {}))),
    "an absolute path": (Flaw.UNSAFE_PATH, lambda: _tar(("/etc/passwd", b"root", {}))),
    "a way out for Windows": (Flaw.UNSAFE_PATH, lambda: _tar(("..\\..\\boot.ini", b"", {}))),
    "a name with a line break": (Flaw.UNSAFE_PATH, lambda: _tar(("a\nb", b"", {}))),
    "weights that are a symbolic link": (
        Flaw.LINK,
        lambda: _link(tarfile.SYMTYPE, "/etc/passwd"),
    ),
    "weights that are a hard link": (Flaw.LINK, lambda: _link(tarfile.LNKTYPE, "/etc/passwd")),
    "a folder that is a link": (
        Flaw.LINK,
        lambda: _tar(("folder", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"})),
    ),
    "a character device": (Flaw.SPECIAL_MEMBER, lambda: _member_kind(tarfile.CHRTYPE)),
    "a block device": (Flaw.SPECIAL_MEMBER, lambda: _member_kind(tarfile.BLKTYPE)),
    "a pipe": (Flaw.SPECIAL_MEMBER, lambda: _member_kind(tarfile.FIFOTYPE)),
    "a sparse file": (Flaw.SPECIAL_MEMBER, lambda: _member_kind(tarfile.GNUTYPE_SPARSE)),
    "weights twice": (
        Flaw.DUPLICATE_MEMBER,
        lambda: _tar(("./adapter_model.safetensors", good_adapter().weights(), {})),
    ),
    "two adapters": (Flaw.SEVERAL_ADAPTERS, _two_folders),
    "too many members": (Flaw.TOO_MANY_MEMBERS, _crowd),
    "a member larger than the archive": (Flaw.ARCHIVE_DAMAGED, _huge_member),
    "a bomb": (Flaw.TOO_LARGE, _bomb),
    "a name of 128 KiB": (Flaw.ARCHIVE_DAMAGED, _long_pax),
}


def all_archives() -> dict[str, tuple[Flaw, Callable[[], bytes]]]:
    """The whole corpus as what somebody would send."""
    folders = {
        name: (flaw, lambda make=make: packed(make())) for name, (flaw, make) in FOLDERS.items()
    }
    return folders | ARCHIVES
