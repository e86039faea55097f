"""Which processes there are on one machine."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from cli.launcher.child import ChildSpec

SERVICE, TRAINER, ENGINES = range(3)


class TrainerKind(StrEnum):
    """Who keeps trainers alive: this machine's launcher, or Ray."""

    LOCAL = "local"
    RAY = "ray"


_TRAINERS = {TrainerKind.LOCAL: "trainer", TrainerKind.RAY: "trainer.ray"}


class NotConfigured(Exception):
    """`python -m service.engine --describe` did not tell what to start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is configured, from the environment and the configuration file together."""

    home: Path
    host: str
    port: int
    #: Ids; the first is the default.
    base_models: tuple[str, ...]
    #: Whether requests need a key.
    auth: bool


def read_plan(environment: Mapping[str, str]) -> Plan:
    """Ask a process that may read the configuration; the command line imports none of that.

    Raises:
        NotConfigured: with what the process said.
    """
    command = [sys.executable, "-m", "service.engine", "--describe"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        found = json.loads(told.stdout)
        return Plan(
            Path(found["home"]),
            found["host"],
            found["port"],
            tuple(found["base_models"]),
            found["auth"],
        )
    except (ValueError, KeyError, TypeError):
        reason = told.stderr.strip() or "it printed nothing"
        raise NotConfigured(
            f"Cannot read the configuration ({' '.join(command[1:])}): {reason}"
        ) from None


def process_table(
    model_ids: Sequence[str], *, trainer: TrainerKind = TrainerKind.LOCAL
) -> list[ChildSpec]:
    """Service, trainer, and an engine for each base model. With Ray, the trainer is who has it place trainers.

    They start together and wait for each other by themselves. They stop from the outside in: first nobody is let in,
    then training is put down, and the engines, which hold no state, go last.
    """
    return [
        _python("service", SERVICE, "service"),
        _python("trainer", TRAINER, _TRAINERS[trainer]),
        *(
            _python(engine_name(model_id), ENGINES, "service.engine", model_id)
            for model_id in model_ids
        ),
    ]


def require(trainer: TrainerKind) -> None:
    """See that what it needs is installed: a process that lacks it would be started again for ever.

    Raises:
        NotConfigured: with what to install.
    """
    if trainer is TrainerKind.RAY and find_spec("ray") is None:
        raise NotConfigured("Ray is not installed: pip install 'graft[ray]'")


def engine_name(model_id: str) -> str:
    """In the table and as a file name."""
    return f"engine-{model_id.replace('/', '--')}"


def _python(name: str, stage: int, module: str, *arguments: str) -> ChildSpec:
    return ChildSpec(name=name, command=(sys.executable, "-m", module, *arguments), stage=stage)
