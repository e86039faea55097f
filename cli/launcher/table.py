"""Which processes there are on one machine."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

from cli.launcher.child import ChildSpec

SERVICE, TRAINER, ENGINES = range(3)


class NoEngines(Exception):
    """`python -m service.engine --list` did not tell the base models."""


def base_models(environment: Mapping[str, str]) -> list[str]:
    """The ids of the configured base models; the first is the default.

    Raises:
        NoEngines: with what the process said.
    """
    command = [sys.executable, "-m", "service.engine", "--list"]
    listing = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    ids = listing.stdout.split()
    if listing.returncode or not ids:
        reason = listing.stderr.strip() or "it printed none"
        raise NoEngines(f"Cannot list the base models ({' '.join(command[1:])}): {reason}")
    return ids


def process_table(model_ids: Sequence[str]) -> list[ChildSpec]:
    """Service, trainer, and an engine for each base model.

    They start together and wait for each other by themselves. They stop from the outside in: first nobody is let in,
    then training is put down, and the engines, which hold no state, go last.
    """
    return [
        _python("service", SERVICE, "service"),
        _python("trainer", TRAINER, "trainer"),
        *(
            _python(engine_name(model_id), ENGINES, "service.engine", model_id)
            for model_id in model_ids
        ),
    ]


def engine_name(model_id: str) -> str:
    """In the table and as a file name."""
    return f"engine-{model_id.replace('/', '--')}"


def _python(name: str, stage: int, module: str, *arguments: str) -> ChildSpec:
    return ChildSpec(name=name, command=(sys.executable, "-m", module, *arguments), stage=stage)
