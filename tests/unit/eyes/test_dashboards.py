"""Dashboards and alerts as they are committed: what they ask for exists, and is asked for as it should be."""

import json
import re
from pathlib import Path
from sysconfig import get_path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.tallies import Ending
from tests.support import fake_exposition
from tools.dashboards import DASHBOARDS, FOLDER, Dashboard, queries, rendered
from trainer.metrics import Instruments

ROOT = Path(__file__).parents[3]
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
_SUFFIXES |= {"summary": ("_count", "_sum"), "gauge": ("",)}
#: What Prometheus itself adds to whatever it scrapes, its client to whoever has it, and the rules make.
_ELSEWHERE = {"ALERTS", "scrape_samples_scraped", "process_start_time_seconds", "up"}
_METRIC = re.compile(r"\b(?:graft|vllm|process|scrape)[a-z0-9_:]*[a-z0-9](?=[{\[)]| |$)")


def names() -> dict[str, str]:
    """Every sample that the stack exposes, and what kind of metric it belongs to."""
    metrics = Metrics()
    metrics.by_adapter.of("bot").note(Ending("ok", seconds=1.0))
    found: dict[str, str] = {}
    registries: list[CollectorRegistry] = [metrics.registry, Instruments().registry]
    for registry in registries:
        for family in registry.collect():
            for suffix in _SUFFIXES[family.type]:
                found[family.name + suffix] = family.type
    found |= {f"{name}_total": "counter" for name in fake_exposition.COUNTERS}
    found |= dict.fromkeys(fake_exposition.GAUGES, "gauge")
    for name in fake_exposition.HISTOGRAMS:
        found |= {name + suffix: "histogram" for suffix in _SUFFIXES["histogram"]}
    return found


def expressions() -> dict[str, str]:
    """Of dashboards and rules, by where they are."""
    found = dict(queries())
    for file in sorted((ROOT / "helm/graft/files/alerts").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in group["rules"]}
    for dashboard in DASHBOARDS:
        found |= {f"{dashboard.uid}: {n}": q for n, q in dashboard.annotations.items()}
    return found


def recorded() -> set[str]:
    return {name for name in expressions() if name.startswith("graft:")}


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_the_committed_dashboard_is_the_generated_one(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.uid}.json").read_text() == rendered(dashboard), "make dashboards"


def test_nothing_else_is_committed_as_a_dashboard() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {one.uid for one in DASHBOARDS}


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    known = names().keys() | _ELSEWHERE | recorded()
    asked = {
        (where, name) for where, query in expressions().items() for name in _METRIC.findall(query)
    }
    assert len(asked) > 100
    assert {(where, name) for where, name in asked if name not in known} == set()


def test_counters_are_asked_for_their_growth_and_gauges_for_their_value() -> None:
    kinds = names()
    for where, query in expressions().items():
        for name in _METRIC.findall(query):
            kind = kinds.get(name)
            if kind is None:
                continue
            grows = re.search(rf"(rate|increase|changes)\({name}[{{\[]", query) is not None
            assert grows == (kind != "gauge"), f"{where}: {name} is a {kind}"


def test_what_the_fake_engine_says_vllm_says_too() -> None:
    folder = Path(get_path("purelib")) / "vllm/v1/metrics"  # unit tests cannot import it
    source = "".join(file.read_text() for file in folder.glob("*.py"))
    for name in fake_exposition.COUNTERS + fake_exposition.GAUGES + fake_exposition.HISTOGRAMS:
        assert f'"{name}"' in source, name


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda one: one.uid)
def test_a_dashboard_keeps_to_what_grafana_and_prometheus_ask_of_one(dashboard: Dashboard) -> None:
    content = json.loads(rendered(dashboard))
    variables = {one["name"]: one for one in content["templating"]["list"]}
    assert set(variables) == {"datasource", "job", "namespace", "base_model"}
    assert content["schemaVersion"] >= 39
    panels = [one for one in content["panels"] if one["type"] != "row"]
    assert len({one["id"] for one in content["panels"]}) == len(content["panels"])
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in content["panels"]]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert "$job" in target["expr"], panel["title"]
            windows = re.findall(r"rate\([^\[]*\[([^\]]+)\]", target["expr"])
            assert set(windows) <= {"$__rate_interval"}, panel["title"]


def test_every_alert_that_a_dashboard_names_has_a_runbook() -> None:
    headings = set(re.findall(r"^## (\S+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE))
    named = set(re.findall(r"runbook (\w+)", "".join(rendered(one) for one in DASHBOARDS)))
    assert named
    assert named <= headings
