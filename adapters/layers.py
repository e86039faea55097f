"""The linear layers of a base model with their sizes: what the tensors of an adapter must fit.

Written by the trainer beside the card, when it prepares the model. Not on the card itself: every version's manifest
carries that, and a large model has a thousand layers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

LAYERS_FILE = "graft-layers.json"

#: Outputs and inputs of each linear layer inside the decoder, by its module path.
LinearLayers: TypeAlias = Mapping[str, tuple[int, int]]

_layers = TypeAdapter(dict[str, tuple[int, int]])


def read_layers(directory: Path) -> LinearLayers | None:
    """The layers of a prepared base model; None while it is not ready."""
    try:
        return _layers.validate_json((directory / LAYERS_FILE).read_bytes())
    except FileNotFoundError:
        return None


def dump_layers(layers: LinearLayers) -> str:
    """The layers as JSON."""
    return _layers.dump_json(dict(layers)).decode()
