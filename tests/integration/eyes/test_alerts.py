"""Every alert rule, on promtool: it fires on what it is for, and on nothing that looks much like it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.eyes.alerts import CASES, Case
from tools import prometheus

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "helm/graft/files/alerts").glob("*.yaml"))
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for file in FILES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def promtool(*arguments: str) -> str:
    binaries = prometheus.binaries()
    assert binaries is not None, "make prometheus"
    done = subprocess.run(
        [binaries / "promtool", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    headings = re.findall(r"^## (\S+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(RULES)
    for name, rule in RULES.items():
        assert rule["for"], name
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        assert all(rule["annotations"][what] for what in ("summary", "description")), name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


def test_every_alert_has_a_case_that_fires_and_one_that_does_not(tmp_path: Path) -> None:
    assert sorted(CASES) == sorted(RULES)
    cases = [
        _test(name, case, series, fires=fires)
        for name, case in CASES.items()
        for series, fires in ((case.fires, True), (case.quiet, False))
    ]
    assert "SUCCESS" in _run(tmp_path, cases)


def test_a_case_that_expects_the_opposite_fails(tmp_path: Path) -> None:
    case = CASES["GraftDatabaseDown"]
    for series, fires in ((case.fires, False), (case.quiet, True)):
        with pytest.raises(AssertionError, match="FAILED"):
            _run(tmp_path, [_test("GraftDatabaseDown", case, series, fires=fires)])


def test_what_an_alert_says_names_what_it_is_about(tmp_path: Path) -> None:
    case = CASES["GraftEngineCrashLoop"]
    test = _test("GraftEngineCrashLoop", case, case.fires, fires=True)
    rule = RULES["GraftEngineCrashLoop"]
    told = {
        **rule["annotations"],
        "summary": "The engine of m goes away again and again",
        "description": "4 times in half an hour.",
    }
    alert = {"exp_labels": {**rule["labels"], "base_model": "m"}, "exp_annotations": told}
    test["alert_rule_test"] = [
        {"eval_time": case.at, "alertname": "GraftEngineCrashLoop", "exp_alerts": [alert]}
    ]
    assert "SUCCESS" in _run(tmp_path, [test])


def _run(folder: Path, cases: list[dict[str, Any]]) -> str:
    file = folder / "cases.yaml"
    content = {
        "rule_files": [str(file) for file in FILES],
        "evaluation_interval": "1m",
        "tests": cases,
    }
    file.write_text(yaml.safe_dump(content))
    return promtool("test", "rules", str(file))


def _test(name: str, case: Case, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    samples = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": case.at, "exp_samples": samples}],
    }
