"""The chart as Helm renders it: once for each values file and Helm, side by side, and shared by all tests."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import helm, install

CHART = install.ROOT / "helm" / "graft"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
NAMES = [path.name.removesuffix("-values.yaml") for path in VALUES]
#: As long as Helm allows.
LONG_NAME = "a-release-with-a-name-as-long-as-helm-allows-it-to-be"
NAMESPACE = "somewhere"


@dataclass(frozen=True)
class Rendered:
    """What came of one values file."""

    name: str
    text: str

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        return [one for one in yaml.load_all(self.text, yaml.CSafeLoader) if one]

    def kind(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, end: str = "") -> dict[str, Any]:
        (found,) = [one for one in self.kind(kind) if one["metadata"]["name"].endswith(end)]
        return found

    @cached_property
    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """Every pod's spec, by the name of what makes it."""
        found = []
        for one in self.objects:
            spec = one if one["kind"] == "Pod" else one.get("spec", {}).get("template")
            if spec is not None and "containers" in spec.get("spec", {}):
                found.append((one["metadata"]["name"], spec["spec"]))
            if one["kind"] == "RayCluster":
                groups = [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]
                name = one["metadata"]["name"]
                found += [(name, group["template"]["spec"]) for group in groups]
        return found

    @cached_property
    def containers(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (f"{name}/{container['name']}", container)
            for name, pod in self.pods
            for container in [*pod.get("initContainers", []), *pod["containers"]]
        ]


def run(major: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(helm.binary(major)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def template(major: str, values: Path | None, *more: object, release: str = "g") -> str:
    """What `helm template` prints. Fails the test where Helm fails."""
    files = ["-f", values] if values else []
    done = run(major, "template", release, CHART, "-n", NAMESPACE, *files, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*sets: str, values: Path | None = None) -> str:
    """What Helm says to values that it does not take."""
    arguments = [part for one in sets for part in ("--set", one)]
    files = ["-f", values] if values else []
    done = run("4", "template", "g", CHART, *files, *arguments)
    assert done.returncode, f"{sets} were taken"
    return done.stderr


@pytest.fixture(scope="session")
def rendered() -> dict[str, Rendered]:
    """By the name of the values file, as Helm 4 renders it."""
    with ThreadPoolExecutor(4) as pool:
        texts = pool.map(lambda path: template("4", path), VALUES)
        return {name: Rendered(name, text) for name, text in zip(NAMES, texts, strict=True)}
