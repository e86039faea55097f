"""A home folder with a base model that is ready, as far as the service looks at it."""

from pathlib import Path

from adapters.layers import LAYERS_FILE, LinearLayers, dump_layers
from adapters.manifest import BASE_CARD_FILE, dump_base_card
from adapters.settings import LedgerSettings
from tests.support.peft_adapters import LAYERS
from tests.support.samples import BASE, card


def prepare_base(
    settings: LedgerSettings, model_id: str = BASE, layers: LinearLayers = LAYERS
) -> Path:
    directory = settings.base_model_dir(model_id)
    directory.mkdir(parents=True)
    (directory / LAYERS_FILE).write_text(dump_layers(layers))
    (directory / BASE_CARD_FILE).write_text(dump_base_card(card(model_id)))
    return directory
