"""Trainers that Ray places: what the chart says of its cluster."""

import re

import pytest
import yaml

from tests.integration.chart.conftest import CHART, refused
from tools import ray_env

VALUES = CHART / "ci" / "ray-values.yaml"
TOKEN = {"secretKeyRef": {"name": "graft-ray", "key": "token"}}


def settings(rendered, name):
    config = rendered[name].one("ConfigMap", "-config")["data"]["graft.yaml"]
    return yaml.safe_load(config)["trainer"]["ray"]


def test_there_is_a_cluster_instead_of_the_trainers_pods_and_what_scales_them(rendered):
    one = rendered["ray"]
    assert one.kind("StatefulSet") == []
    assert one.kind("ScaledObject") == []
    assert one.one("RayCluster")["spec"]["enableInTreeAutoscaling"] is True
    budgets = [budget["metadata"]["name"] for budget in one.kind("PodDisruptionBudget")]
    assert budgets == ["g-graft-server"]
    assert rendered["defaults"].kind("RayCluster") == []


def test_a_pod_has_room_for_as_many_trainers_as_its_gpus_make(rendered):
    (group,) = rendered["ray"].one("RayCluster")["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 6)
    assert group["rayStartParams"]["num-cpus"] == "2"
    told = settings(rendered, "ray")
    assert (told["gpus_per_trainer"], told["cpus_per_trainer"]) == (2, 1)
    assert (told["min_trainers"], told["max_trainers"], told["jobs_per_trainer"]) == (0, 12, 4)


def test_without_gpus_each_pod_is_a_trainer(rendered):
    (group,) = rendered["ray-shared"].one("RayCluster")["spec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    told = settings(rendered, "ray-shared")
    assert (told["min_trainers"], told["max_trainers"], told["gpus_per_trainer"]) == (2, 2, 0)


@pytest.mark.parametrize("name", ["ray", "ray-shared"])
def test_whoever_is_in_the_cluster_has_its_token_and_there_is_no_dashboard(rendered, name):
    one = rendered[name]
    spec = one.one("RayCluster")["spec"]
    assert spec["headGroupSpec"]["rayStartParams"]["include-dashboard"] == "false"
    inside = [
        c for _, c in one.containers if c["name"] in {"ray-head", "ray-worker", "node", "placer"}
    ]
    assert len(inside) == 4
    if name == "ray":
        inside.append(spec["autoscalerOptions"])
    for container in inside:
        variables = {entry["name"]: entry for entry in container["env"]}
        assert variables["RAY_AUTH_MODE"]["value"] == "token"
        assert variables["RAY_AUTH_TOKEN"]["valueFrom"] == TOKEN


@pytest.mark.parametrize("name", ["ray", "ray-shared"])
def test_only_those_in_the_cluster_reach_it(rendered, name):
    policy = rendered[name].one("NetworkPolicy", "-ray")["spec"]
    (rule,) = policy["ingress"]
    assert rule == {"from": [{"podSelector": policy["podSelector"]}]}
    (within,) = policy["podSelector"]["matchExpressions"]
    assert within["values"] == ["ray-head", "trainer", "placer"]
    heads = [
        one for one in rendered[name].kind("NetworkPolicy") if "ray-head" in one["metadata"]["name"]
    ]
    assert len(heads) == (name == "ray"), "the API server, where the autoscaler asks it"


def test_every_trainer_of_a_pod_is_asked_for_its_metrics(rendered):
    (monitor,) = [
        m for m in rendered["ray"].kind("PodMonitor") if m["metadata"]["name"].endswith("-trainer")
    ]
    assert [e["port"] for e in monitor["spec"]["podMetricsEndpoints"]] == ["metrics", "metrics-1"]
    (worker,) = [c for _, c in rendered["ray"].containers if c["name"] == "ray-worker"]
    assert {p["name"]: p["containerPort"] for p in worker["ports"]} == {
        "metrics": 9101,
        "metrics-1": 9102,
    }


def test_the_cluster_is_of_the_ray_that_is_in_the_image(rendered):
    (locked,) = re.findall(r"^ray==(\S+)", ray_env.LOCK.read_text(), re.MULTILINE)
    assert rendered["ray"].one("RayCluster")["spec"]["rayVersion"] == locked


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("trainer.ray.existingSecret=", "trainer.ray.existingSecret"),
        ("database.type=sqlite", "set database.type=postgresql"),
        ("trainer.gpu.count=1", "config.trainer.ranks is larger than trainer.gpu.count"),
        ("trainer.placement=slurm", "placement"),
        ("config.trainer.ray.address=x", "ray"),
    ],
)
def test_what_would_not_work_or_be_open_to_all_is_refused(given, told):
    assert told in refused(given, values=VALUES)


def test_a_volume_of_one_node_is_refused():
    given = ["storage.type=pvc", "storage.pvc.accessMode=ReadWriteOnce"]
    given.append("trainer.autoscaling.enabled=false")  # one trainer
    assert "trainer.placement is ray" in refused(*given, values=VALUES)
