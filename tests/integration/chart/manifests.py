"""Checks manifests against the schemas of every Kubernetes that we support, and of the operators whose kinds we use.

`python manifests.py FILE...`, in the environment of tools/helm.py. Prints what is wrong, and last, as JSON, what
was looked at. kubernetes-validate only warns of kinds that it does not know, and the operators' models take fields that
they do not know: so each kind has one judge here, and what a model has left out is compared.
"""

import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import jsonschema
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from kubernetes_validate.utils import all_versions, major_minor, schema_contents
from referencing import Registry, Resource

RELEASES = [f"1.{minor}" for minor in range(29, 38)]
MODELS = {
    "PodMonitor": operator.PodMonitor,
    "PrometheusRule": operator.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
}


def main() -> None:
    flaws, kinds = [], Counter()
    seen = set()
    for path in sys.argv[1:]:
        with Path(path).open() as file:
            for one in yaml.load_all(file, yaml.CSafeLoader):
                text = json.dumps(one, sort_keys=True)
                if one is None or text in seen:
                    continue
                seen.add(text)
                kinds[one["kind"]] += 1
                flaws += [f"{path}: {flaw}" for flaw in judged(one)]
    print("\n".join(flaws))  # noqa: T201  a program of its own
    print(json.dumps({"releases": RELEASES, "kinds": kinds}))  # noqa: T201
    sys.exit(bool(flaws))


def judged(one):
    """What is wrong with a manifest."""
    name = f"{one['kind']} {one['metadata']['name']}"
    if one["kind"] == "HTTPRoute":
        return [f"{name}: {flaw}" for flaw in unknown(ROUTE, one)]
    if one["kind"] == "RayCluster":
        return [f"{name}: {flaw}" for flaw in [*unknown(RAY, one), *ray_flaws(one)]]
    if one["kind"] in MODELS:
        return [f"{name}: {flaw}" for flaw in model_flaws(MODELS[one["kind"]], one)]
    return [
        f"{name} ({release}): {error.message} at {list(error.path)}"
        for release in RELEASES
        for error in judge(release, one["kind"], one["apiVersion"]).iter_errors(one)
    ]


@cache
def judge(release, kind, api_version):
    """What kubernetes-validate does, with its own schemas, which it would read anew for each manifest."""
    group, _, version = api_version.rpartition("/")
    api = f"{group.partition('.')[0]}-{version}" if group else version
    schema = schema_contents(f"{folder(release)}/{kind.lower()}-{api}.json", release)
    registry = Resource.from_contents(schema) @ definitions(release)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def definitions(release):
    found = schema_contents(f"{folder(release)}/_definitions.json", release)
    return (Resource.from_contents(found) @ Registry()).crawl()


def folder(release):
    (version,) = {one for one in all_versions() if major_minor(one) == release}
    return f"kubernetes-json-schema/v{version}-local-strict"


def model_flaws(model, one):
    try:
        taken = model.model_validate(one)
    except ValueError as error:
        return [str(error)]
    return list(missing(one, taken.model_dump(by_alias=True, exclude_unset=True, mode="json"), ""))


def missing(given, taken, where):
    """Fields that the model has not taken: it does not know them."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for key, value in given.items():
            if key not in taken:
                yield f"{where}.{key} is not a field"
            else:
                yield from missing(value, taken[key], f"{where}.{key}")
    elif isinstance(given, list) and isinstance(taken, list):
        for number, (value, other) in enumerate(zip(given, taken, strict=True)):
            yield from missing(value, other, f"{where}[{number}]")


#: Gateway API has no models on the package index: what its specification knows of what we use.
ROUTE = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    ".spec": {"parentRefs", "hostnames", "rules"},
    ".spec.parentRefs[]": {"group", "kind", "namespace", "name", "sectionName", "port"},
    ".spec.rules[]": {"name", "matches", "filters", "backendRefs", "timeouts"},
    ".spec.rules[].matches[]": {"path", "headers", "queryParams", "method"},
    ".spec.rules[].matches[].path": {"type", "value"},
    ".spec.rules[].backendRefs[]": {
        "group",
        "kind",
        "namespace",
        "name",
        "port",
        "weight",
        "filters",
    },
}


#: Nor has KubeRay: what its types of ray.io/v1 know. Pods and containers in them are judged as Kubernetes' own.
_GROUP = {"template", "rayStartParams"}
RAY = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    ".spec": {
        *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling"),
        *("autoscalerOptions", "headServiceAnnotations", "suspend"),
    },
    ".spec.headGroupSpec": {*_GROUP, "serviceType", "headService", "enableIngress"},
    ".spec.workerGroupSpecs[]": {
        *(*_GROUP, "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts"),
        "scaleStrategy",
    },
    ".spec.autoscalerOptions": {
        *("resources", "image", "imagePullPolicy", "env", "envFrom", "volumeMounts"),
        *("securityContext", "idleTimeoutSeconds", "upscalingMode"),
    },
}
#: What is somebody else's to judge.
ELSEWHERE = {
    ".metadata",
    ".spec.headGroupSpec.headService",
    *(
        f".spec.{kind}.{part}"
        for kind in ("headGroupSpec", "workerGroupSpecs[]")
        for part in _GROUP
    ),
    *(f".spec.autoscalerOptions.{part}" for part in ("resources", "env", "envFrom")),
    *(f".spec.autoscalerOptions.{part}" for part in ("volumeMounts", "securityContext")),
}


def unknown(fields, one, where=""):
    """Fields that the specification does not know."""
    if isinstance(one, list):
        for item in one:
            yield from unknown(fields, item, f"{where}[]")
    elif isinstance(one, dict) and where.removesuffix("[]") not in ELSEWHERE:
        for key, value in one.items():
            if key not in fields.get(where, ()):
                yield f"{where}.{key} is not a field"
            yield from unknown(fields, value, f"{where}.{key}")


def ray_flaws(one):
    """Pods that no Kubernetes takes, and parameters that are not text."""
    spec = one["spec"]
    groups = [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]
    for group in groups:
        yield from (
            f"rayStartParams.{key} is not text"
            for key, value in group["rayStartParams"].items()
            if not isinstance(value, str)
        )
    pods = [group["template"] for group in groups]
    if options := spec.get("autoscalerOptions"):
        told = {
            k: v for k, v in options.items() if k not in {"idleTimeoutSeconds", "upscalingMode"}
        }
        pods.append({"spec": {"containers": [{"name": "autoscaler", **told}]}})
    for pod in pods:
        whole = {"apiVersion": "v1", "kind": "Pod", **pod}
        for release in RELEASES:
            for error in judge(release, "Pod", "v1").iter_errors(whole):
                yield f"({release}): {error.message} at {list(error.path)}"


if __name__ == "__main__":
    main()
