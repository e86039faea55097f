"""Base models on disk: from wherever the configuration says, to a directory that trainer and engine both read.

<home>/models/<id>/    plain transformers files, graft-layers.json and graft-base.json, whose presence means "ready"
"""

import fcntl
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from adapters.durable import clear_aside, new_directory, write_text
from adapters.errors import InvalidValue, ModelNotFound
from adapters.layers import LAYERS_FILE, LinearLayers, dump_layers
from adapters.manifest import BASE_CARD_FILE, BaseModelCard, dump_base_card, read_base_card
from adapters.settings import LedgerSettings
from trainer.warm.adapter import suffixes
from trainer.warm.adopt import decoder_linears

log = logging.getLogger(__name__)

PACKAGE = "package:"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
#: What is fetched from the hub: everything that describes the model, and weights that cannot run code.
FROM_HUB = [*WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt"]
DIGEST_CHUNK = 2**24


def prepare(settings: LedgerSettings, model_id: str) -> BaseModelCard:
    """Make the base model ready on disk, unless it is. Processes that ask at the same time do it once.

    Raises:
        ModelNotFound: no base model of that id is configured.
        InvalidValue: its source leads nowhere, or to something that is not a causal language model.
        OSError: reading, downloading or writing failed.
    """
    source = _source(settings, model_id)
    directory = settings.base_model_dir(model_id)
    with _locked(directory.with_name(f"{directory.name}.lock")):
        card = read_base_card(directory)
        if card is None:
            log.info("preparing base model %s from %s", model_id, source)
            clear_aside(directory)  # a whole model, where a process was killed here
            with new_directory(directory) as aside:
                _fill(source)(aside)
                card = describe(aside, model_id)
                (aside / LAYERS_FILE).write_text(dump_layers(measure(aside)))
                (aside / BASE_CARD_FILE).write_text(dump_base_card(card))
        elif not (directory / LAYERS_FILE).exists():  # prepared by an earlier release
            write_text(directory / LAYERS_FILE, dump_layers(measure(directory)))
    return card


def _source(settings: LedgerSettings, model_id: str) -> str:
    for model in settings.base_models:
        if model.id == model_id:
            return model.source
    known = ", ".join(settings.base_model_ids)
    raise ModelNotFound(f"No base model '{model_id}' is configured. There are: {known}.")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """An advisory lock that the kernel gives back when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(source: str) -> Callable[[Path], None]:
    """What writes the model's files into a directory."""
    if source.startswith(PACKAGE):
        gguf = gguf_in_package(source.removeprefix(PACKAGE))
        return lambda target: convert_gguf(gguf, target)
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return lambda target: convert_gguf(path, target)
    if path.is_dir():
        return lambda target: copy_model(path, target)
    return lambda target: copy_model(
        Path(snapshot_download(source, allow_patterns=FROM_HUB)), target
    )


def gguf_in_package(name: str) -> Path:
    """The one GGUF file among an installed distribution's files; the package itself is never imported.

    Raises:
        InvalidValue: the distribution is not installed, or has no GGUF file, or several.
    """
    try:
        files = distribution(name).files or []
    except PackageNotFoundError as error:
        raise InvalidValue(f"Package '{name}' is not installed: pip install {name}.") from error
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise InvalidValue(f"Package '{name}' has {len(found)} GGUF files; exactly one is needed.")
    return Path(str(found[0].locate()))


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise once, to float32: training needs it on a CPU, and the engine then serves the very same numbers."""
    if not gguf.is_file():
        raise InvalidValue(f"{gguf} does not exist.")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def copy_model(origin: Path, target: Path) -> None:
    """Take over a transformers directory; files are hard-linked where the file system allows it.

    Raises:
        InvalidValue: it has no config.json or no safetensors weights.
    """
    if not (origin / "config.json").is_file() or not list(origin.glob("*.safetensors")):
        raise InvalidValue(f"{origin} has no config.json with *.safetensors weights.")
    for file in origin.iterdir():
        if (
            file.is_file()
            and file.name not in {BASE_CARD_FILE, LAYERS_FILE}
            and file.suffix not in {".bin", ".pt"}
        ):
            _link_or_copy(file.resolve(), target / file.name)


def _link_or_copy(origin: Path, target: Path) -> None:
    try:
        target.hardlink_to(origin)
    except OSError:
        shutil.copyfile(origin, target)


def describe(directory: Path, model_id: str) -> BaseModelCard:
    """The card of the model that lies in a directory. Reads every byte of its weights once, for the digest."""
    model = _skeleton(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    weights = sorted(path for pattern in WEIGHTS for path in directory.glob(pattern))
    template = tokenizer.chat_template
    return BaseModelCard(
        id=model_id,
        digest=_digest([directory / "config.json", *weights]),
        chat_template_digest=hashlib.sha256((template or "").encode()).hexdigest(),
        tokenizer_digest=_digest(
            [path for path in [directory / "tokenizer.json"] if path.exists()]
        ),
        architecture=type(model).__name__,
        max_seq_length=model.config.max_position_embeddings,
        linear_modules=suffixes(decoder_linears(model)),
    )


def measure(directory: Path) -> LinearLayers:
    """The linear layers inside the decoder of the model that lies in a directory. Reads no weights."""
    linears = decoder_linears(_skeleton(directory))
    return {name: (one.out_features, one.in_features) for name, one in linears.items()}


def _skeleton(directory: Path) -> Any:
    """The model without its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))


def _digest(files: list[Path]) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(DIGEST_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
