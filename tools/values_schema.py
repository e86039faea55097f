"""Writes helm/graft/values.schema.json: what values.yaml may say, with every unknown key refused.

The sections under `config` are those of graft.yaml, taken from the settings themselves, so that a misspelt setting is
found before anything is installed: `python -m tools.values_schema`, after a setting has come or gone.
"""

from __future__ import annotations

import json
from typing import Any

from adapters.settings import LogSettings, QueueSettings, QuotaSettings
from service.settings import EngineSettings, ServiceSettings, WebhookSettings
from tools import install
from trainer.settings import TrainerSettings

Schema = dict[str, Any]

TARGET = install.ROOT / "helm" / "graft" / "values.schema.json"
SECTIONS = [
    QueueSettings,
    QuotaSettings,
    ServiceSettings,
    WebhookSettings,
    EngineSettings,
    TrainerSettings,
    LogSettings,
]
#: What the chart itself decides about, and config may not.
DECIDED = {
    "service": {"host", "port", "auth", "drain_seconds"},
    "trainer": {"metrics_host", "metrics_port", "ray"},
}

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SOME: Schema = {"type": "integer", "minimum": 1}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
SIZE: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti)$"}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
#: Kubernetes' own types, which its API server checks.
FREE: Schema = {"type": "object"}
SHARE: Schema = {"oneOf": [COUNT, {"type": "string", "pattern": "^[0-9]+%$"}]}


def main() -> None:
    """Write the file."""
    TARGET.write_text(text())


def text() -> str:
    """What the file should say."""
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> Schema:
    """The whole of it."""
    top = record(
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        **{"global": FREE},
        images=images(),
        baseModels={"type": "array", "minItems": 1, "items": base_model()},
        modelDownload=record(enabled=FLAG, existingSecret=TEXT, secretKey=NAME),
        config=record(**{settings.section: section(settings) for settings in SECTIONS}),
        database=database(),
        storage=storage(),
        server=server(),
        engine=engine(),
        trainer=trainer(),
        service=record(
            type=choice("ClusterIP", "NodePort", "LoadBalancer"), port=PORT, annotations=STRINGS
        ),
        ingress=record(
            enabled=FLAG, className=TEXT, host=TEXT, tlsSecret=TEXT, annotations=STRINGS
        ),
        httpRoute=record(
            enabled=FLAG, parentRefs=listing(FREE), hostnames=listing(NAME), annotations=STRINGS
        ),
        serviceAccount=record(create=FLAG, name=TEXT, annotations=STRINGS),
        networkPolicy=record(
            enabled=FLAG, clients=listing(FREE), monitoring=listing(FREE), webhooks=FLAG
        ),
        monitoring=monitoring(),
        telemetry=record(
            endpoint=TEXT, sampleRatio={"type": "number", "minimum": 0, "maximum": 1}, port=PORT
        ),
        migration=record(resources=resources()),
        tests=record(existingSecret=TEXT, secretKey=NAME),
    )
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "graft", **top}


def record(**properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def listing(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def choice(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def resources() -> Schema:
    amounts = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
    return record(limits=amounts, requests=amounts)


def images() -> Schema:
    one = record(
        repository=NAME,
        tag=TEXT,
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    )
    return record(
        registry=TEXT,
        pullPolicy=choice("IfNotPresent", "Always", "Never"),
        pullSecrets=listing(NAME),
        service=one,
        trainer=one,
        engine=one,
    )


def base_model() -> Schema:
    found = record(
        id={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/-]*$", "maxLength": 128},
        source=NAME,
        resources=resources(),
    )
    return {**found, "required": ["id", "source"]}


def database() -> Schema:
    return record(
        type=choice("sqlite", "postgresql"), existingSecret=TEXT, secretKey=NAME, port=PORT
    )


def storage() -> Schema:
    pvc = record(
        existingClaim=TEXT,
        size=SIZE,
        storageClass=TEXT,
        accessMode=choice("ReadWriteOnce", "ReadWriteMany"),
        keep=FLAG,
    )
    bucket = record(url=TEXT, endpoint=TEXT, region=TEXT, existingSecret=TEXT, port=PORT)
    scratch = record(size=SIZE, storageClass=TEXT)
    return record(type=choice("pvc", "bucket"), pvc=pvc, bucket=bucket, scratch=scratch)


def placed(**more: Schema) -> Schema:
    """What both kinds of pods are told about where to run."""
    toleration = record(
        key=NAME,
        operator=choice("Exists", "Equal"),
        value=TEXT,
        effect=choice("NoSchedule", "PreferNoSchedule", "NoExecute"),
        tolerationSeconds=COUNT,
    )
    return record(
        replicas=SOME,
        resources=resources(),
        nodeSelector=STRINGS,
        tolerations=listing(toleration),
        affinity=FREE,
        topologySpread=record(
            enabled=FLAG,
            topologyKeys=listing(NAME),
            whenUnsatisfiable=choice("DoNotSchedule", "ScheduleAnyway"),
        ),
        runtimeClassName=TEXT,
        priorityClassName=TEXT,
        podAnnotations=STRINGS,
        podLabels=STRINGS,
        podDisruptionBudget=record(enabled=FLAG, maxUnavailable=SHARE),
        autoscaling=record(
            enabled=FLAG,
            kind=choice("keda", "hpa"),
            min=COUNT,
            max=SOME,
            threshold=SOME,
            prometheus=TEXT,
            cooldownSeconds=COUNT,
        ),
        **more,
    )


def server() -> Schema:
    return placed(
        strategy=record(maxSurge=SHARE, maxUnavailable=SHARE),
        drain=record(propagationSeconds=COUNT, maxRequestSeconds=SOME),
    )


def gpu() -> Schema:
    return record(count=COUNT, resourceName=NAME)


def engine() -> Schema:
    canary = record(periodSeconds=SOME, timeoutSeconds=SOME, failureThreshold=SOME)
    return record(resources=resources(), gpu=gpu(), shm=SIZE, startupSeconds=SOME, canary=canary)


def trainer() -> Schema:
    return placed(
        enabled=FLAG,
        placement=choice("kubernetes", "ray"),
        ray=record(existingSecret=TEXT, secretKey=NAME, resources=resources()),
        gpu=gpu(),
        shm=SIZE,
        graceSeconds=SOME,
    )


def monitoring() -> Schema:
    return record(
        podMonitor=record(
            enabled=FLAG,
            interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
            labels=STRINGS,
            existingSecret=TEXT,
            secretKey=NAME,
        ),
        rules=record(enabled=FLAG, labels=STRINGS),
        dashboards=record(enabled=FLAG, labels=STRINGS),
    )


def section(settings: Any) -> Schema:
    """A section of graft.yaml, without what the chart decides itself."""
    decided = DECIDED.get(settings.section, set())
    found = settings.model_json_schema()
    named = found.get("$defs", {})
    fields = {
        name: bare(told, named) for name, told in found["properties"].items() if name not in decided
    }
    return record(**fields)


def bare(told: Any, named: dict[str, Any]) -> Any:
    """A schema without titles and defaults, which are the settings' own to say, and with what it names by reference."""
    if isinstance(told, list):
        return [bare(item, named) for item in told]
    if not isinstance(told, dict):
        return told
    if "$ref" in told:
        return bare(named[told["$ref"].rpartition("/")[2]], named)
    return {
        name: bare(value, named)
        for name, value in told.items()
        if name not in {"title", "default", "format"}
    }


if __name__ == "__main__":
    main()
