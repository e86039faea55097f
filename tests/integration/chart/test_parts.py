"""What the parts of the chart are for, one by one."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.integration.chart.conftest import CHART, NAMES, Rendered, refused, run, template


def variables(container):
    return {one["name"]: one.get("value") for one in container.get("env", [])}


def container(rendered, name):
    (found,) = [one for where, one in rendered.containers if where.endswith(f"/{name}")]
    return found


def test_a_server_pod_has_an_engine_for_each_base_model_beside_the_service(rendered):
    pod = rendered["many-gpus"].one("Deployment")["spec"]["template"]["spec"]
    assert [one["name"] for one in pod["containers"]] == ["service", "engine-0", "engine-1"]
    assert pod["containers"][1]["command"][-1] == "house/small"


def test_an_engine_can_be_reached_from_its_pod_alone(rendered):
    pod = rendered["many-gpus"].one("Deployment")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["run"] == {"name": "run", "emptyDir": {}}
    for one in pod["containers"][1:]:
        assert "ports" not in one
        assert {"name": "run", "mountPath": "/data/run"} in one["volumeMounts"]


def test_an_engine_may_only_read_the_home_and_knows_no_secret(rendered):
    for name in NAMES:
        for where, one in rendered[name].containers:
            if "/engine-" in where:
                home = next(mount for mount in one["volumeMounts"] if mount["name"] == "home")
                assert home["readOnly"] is True
                assert not [variable for variable in one["env"] if "valueFrom" in variable]


def test_an_engines_liveness_is_a_token_within_a_bound(rendered):
    engine = container(rendered["defaults"], "engine-0")
    probe = engine["livenessProbe"]
    assert probe["exec"]["command"][:3] == ["python", "-m", "service.engine.canary"]
    bound = int(probe["exec"]["command"][-1])
    assert bound < probe["timeoutSeconds"]


def test_a_model_may_take_half_an_hour_to_load(rendered):
    probe = container(rendered["defaults"], "engine-0")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 1800


def test_the_grace_is_what_getting_around_and_the_longest_request_take_and_half_as_much_again(
    rendered,
):
    pod = rendered["many-gpus"].one("Deployment")["spec"]["template"]["spec"]
    configured = yaml.safe_load(
        rendered["many-gpus"].one("ConfigMap", "-config")["data"]["graft.yaml"]
    )
    assert configured["service"]["drain_seconds"] == 360  # 300 and a fifth
    assert pod["terminationGracePeriodSeconds"] == 563  # (15 + 360) * 1.5
    told = container(rendered["many-gpus"], "service")["lifecycle"]["preStop"]["exec"]["command"]
    assert told == ["python", "-m", "service.drain", "--wait", "15"]
    engine = container(rendered["many-gpus"], "engine-0")["lifecycle"]["preStop"]["exec"]["command"]
    assert engine == ["python", "-m", "service.drain", "--engine"]


def test_the_configuration_is_one_that_the_processes_take(rendered, monkeypatch, tmp_path):
    from adapters.settings import LedgerSettings, QueueSettings, TelemetrySettings
    from service.settings import EngineSettings, ServiceSettings, WebhookSettings
    from trainer.settings import TrainerSettings

    for name in NAMES:
        file = tmp_path / f"{name}.yaml"
        file.write_text(rendered[name].one("ConfigMap", "-config")["data"]["graft.yaml"])
        monkeypatch.setenv("GRAFT_CONFIG", str(file))
        read = [
            settings()
            for settings in (
                QueueSettings,
                WebhookSettings,
                EngineSettings,
                TrainerSettings,
                TelemetrySettings,
            )
        ]
        assert len(read) == 5
        assert ServiceSettings().host == "0.0.0.0"
        assert ServiceSettings().auth is True
        assert LedgerSettings().home == Path("/data")


def test_the_schema_is_that_of_the_settings():
    from tools import values_schema

    assert values_schema.TARGET.read_text() == values_schema.text(), (
        "a setting has come or gone: python -m tools.values_schema"
    )


TYPOS = [
    "image.tag=1",
    "images.service.tags=1",
    "images.servcie.tag=1",
    "baseModels[0].id=a,baseModels[0].source=b,baseModels[0].sauce=c",
    "baseModels[0].id=a",
    "modelDownload.enable=true",
    "config.services.port=1",
    "config.service.max_runing=1",
    "config.engine.max_lora=1",
    "config.trainer.thread=1",
    "config.service.host=::",
    "database.url=postgresql://u:p@h/d",
    "database.type=mysql",
    "storage.kind=pvc",
    "storage.pvc.sise=1Gi",
    "storage.pvc.size=lots",
    "storage.bucket.secretKey=abc",
    "server.replica=2",
    "server.replicas=two",
    "server.resources.limit.cpu=1",
    "server.strategy.maxSurges=1",
    "server.drain.propagation=1",
    "server.autoscaling.kind=vpa",
    "server.podDisruptionBudget.minAvailable=1",
    "engine.gpus=1",
    "engine.gpu.number=1",
    "engine.canary.timeout=1",
    "trainer.grace=1",
    "trainer.tolerations[0].keys=a",
    "service.port=http",
    "service.ports=80",
    "ingress.hosts[0]=a",
    "httpRoute.parents=a",
    "serviceAccount.created=true",
    "networkPolicy.client=a",
    "monitoring.podMonitor.secret=a",
    "migration.enabled=false",
    "telemetry.otlp=a",
    "tests.key=graft-abc",
    "replicaCount=2",
]


@pytest.mark.parametrize("typo", TYPOS)
def test_a_misspelt_or_unknown_value_is_refused(typo):
    assert "schema" in refused(typo)


@pytest.mark.parametrize(
    ("sets", "advice"),
    [
        (["server.replicas=2"], "database.type=postgresql"),
        (["trainer.replicas=2"], "database.type=postgresql"),
        (
            ["server.autoscaling.enabled=true", "server.autoscaling.prometheus=http://p"],
            "database.type=postgresql",
        ),
        (["storage.type=bucket", "storage.bucket.url=s3://a/b"], "database.existingSecret"),
        (["database.type=postgresql"], "database.existingSecret"),
        (
            ["database.type=postgresql", "database.existingSecret=d", "server.replicas=2"],
            "ReadWriteMany",
        ),
        (
            ["database.type=postgresql", "database.existingSecret=d", "storage.type=bucket"],
            "storage.bucket.url",
        ),
        (["monitoring.podMonitor.enabled=true"], "open_metrics"),
        (["server.autoscaling.enabled=true", "server.autoscaling.max=1"], "prometheus"),
        (["ingress.enabled=true"], "ingress.host"),
        (["httpRoute.enabled=true"], "parentRefs"),
        (["images.engine.tag=latest"], "latest"),
    ],
)
def test_what_would_not_work_is_refused_with_the_way_out(sets, advice):
    assert advice in refused(*sets)


def test_one_server_on_sqlite_is_replaced_and_never_doubled(rendered):
    assert rendered["defaults"].one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    beside = rendered["defaults"].one("StatefulSet")["spec"]["template"]["spec"]["affinity"]
    assert "podAffinity" in beside
    rolling = rendered["many-gpus"].one("Deployment")["spec"]["strategy"]
    assert rolling["rollingUpdate"] == {"maxSurge": "25%", "maxUnavailable": 0}


def test_what_is_scaled_by_others_is_not_given_a_number(rendered):
    for name in ("many-gpus", "hpa"):
        assert "replicas" not in rendered[name].one("Deployment")["spec"]
        assert "replicas" not in rendered[name].one("StatefulSet")["spec"]
    assert len(rendered["many-gpus"].kind("ScaledObject")) == 2
    assert len(rendered["hpa"].kind("HorizontalPodAutoscaler")) == 2


def test_scaling_asks_for_metrics_that_the_service_has(rendered):
    from service.metrics import Metrics

    known = {metric.name for metric in Metrics().registry.collect()}
    for one in rendered["many-gpus"].kind("ScaledObject"):
        query = one["spec"]["triggers"][0]["metadata"]["query"]
        assert set(re.findall(r"graft_\w+", query)) <= known, query


def test_by_default_nobody_reaches_anybody(rendered):
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered["defaults"].kind("NetworkPolicy")
    }
    deny = policies["g-graft-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    every = {**deny["podSelector"]["matchLabels"]}
    for name, pod in rendered["many-gpus"].pods:
        assert name
        assert pod
    for one in rendered["many-gpus"].objects:
        labels = one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels")
        if labels:
            assert every.items() <= labels.items()


def test_a_trainer_speaks_to_names_database_and_bucket_only(rendered):
    trainer = rendered["bucket-identity"].one("NetworkPolicy", "-trainer")["spec"]
    assert "ingress" not in trainer
    ports = [port["port"] for rule in trainer["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5432, 443]
    assert "ipBlock" not in repr(trainer)


def test_traces_go_to_the_collector_that_is_named_and_nowhere_else(rendered):
    def told(name):
        return yaml.safe_load(rendered[name].one("ConfigMap", "-config")["data"]["graft.yaml"])

    def ports(name, whose):
        policy = rendered[name].one("NetworkPolicy", whose)["spec"]
        return [port["port"] for rule in policy["egress"] for port in rule["ports"]]

    endpoint = "http://otel-collector.monitoring:4318"
    assert told("monitored")["telemetry"] == {"otlp_endpoint": endpoint, "sample_ratio": 0.1}
    assert "telemetry" not in told("defaults")
    for whose in ("-server", "-trainer"):
        assert ports("monitored", whose) == [53, 53, 4318]
        assert ports("defaults", whose) == [53, 53]


def test_models_come_from_the_hub_only_where_that_is_said(rendered):
    assert variables(container(rendered["defaults"], "trainer"))["HF_HUB_OFFLINE"] == "1"
    one_gpu = variables(container(rendered["one-gpu"], "trainer"))
    assert "HF_HUB_OFFLINE" not in one_gpu
    assert "HF_TOKEN" in one_gpu
    assert "ipBlock" in repr(rendered["one-gpu"].one("NetworkPolicy", "-trainer"))
    # The service itself never asks the hub.
    assert variables(container(rendered["one-gpu"], "service"))["HF_HUB_OFFLINE"] == "1"


def test_the_database_is_migrated_before_the_release_changes(rendered):
    job = rendered["many-gpus"].one("Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert only["command"] == ["python", "-m", "adapters", "migrate"]
    # It runs before anything else of the release is there.
    pod = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in pod
    assert all("emptyDir" in volume for volume in pod["volumes"])
    assert rendered["defaults"].kind("Job") == []


def test_pods_are_replaced_when_the_configuration_changes():
    def checksum(*more):
        one = Rendered("", template("4", None, *more)).one("Deployment")
        return one["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum() == checksum("--set", "server.podLabels.a=b")
    assert checksum() != checksum("--set", "config.engine.max_loras=5")


def test_every_selector_finds_the_pods_that_it_means(rendered):
    for name in NAMES:
        labels = [
            one["spec"]["template"]["metadata"]["labels"]
            for one in rendered[name].objects
            if "template" in one.get("spec", {})
        ]
        labels += [
            group["template"]["metadata"]["labels"]
            for one in rendered[name].kind("RayCluster")
            for group in [one["spec"]["headGroupSpec"], *one["spec"]["workerGroupSpecs"]]
        ]
        selectors = [one["spec"]["selector"] for one in rendered[name].kind("Service")]
        selectors += [
            one["spec"]["selector"]["matchLabels"]
            for kind in ("PodDisruptionBudget", "PodMonitor")
            for one in rendered[name].kind(kind)
        ]
        for selector in selectors:
            assert sum(selector.items() <= one.items() for one in labels) == 1, selector


def test_every_reference_to_an_object_of_the_chart_leads_to_one(rendered):
    for name in NAMES:
        maps = {one["metadata"]["name"] for one in rendered[name].kind("ConfigMap")}
        claims = {one["metadata"]["name"] for one in rendered[name].kind("PersistentVolumeClaim")}
        for where, pod in rendered[name].pods:
            for volume in pod.get("volumes", []):
                if "configMap" in volume:
                    assert volume["configMap"]["name"] in maps, where
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                assert claim is None or claim in claims or name == "existing-claim", where
            named = {volume["name"] for volume in pod.get("volumes", [])} | {"home"}
            for one in [*pod.get("initContainers", []), *pod["containers"]]:
                assert {mount["name"] for mount in one["volumeMounts"]} <= named, where


def test_adapters_outlive_the_release(rendered):
    claim = rendered["defaults"].one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_helm_test_asks_what_it_has_a_key_for(rendered):
    def asked(name):
        pods = [one for one in rendered[name].kind("Pod") if one["metadata"]["annotations"]]
        return [pod["spec"]["containers"][0]["command"][2] for pod in pods]

    assert asked("defaults") == ["health"]
    assert sorted(asked("many-gpus")) == ["chat", "finetune", "health", "models"]


def test_the_notes_say_how_to_make_the_first_key(tmp_path):
    # `helm install --dry-run` wants a cluster, and `helm template` leaves notes out: they are put into an object.
    chart = tmp_path / "graft"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes")
    (chart / "templates" / "notes.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {notes: "
        '{{ tpl (.Files.Get "notes") . | quote }}}}'
    )
    done = run("3", "template", "g", chart, "-n", "here", "--show-only", "templates/notes.yaml")
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["data"]["notes"]
    assert "kubectl -n here exec deployment/g-graft-server -c service" in notes
    assert "python -m service.keys create --tenant default --scope infer --scope tune" in notes


def test_alerts_and_dashboards_are_taken_from_files_whatever_there_is(tmp_path):
    chart = tmp_path / "graft"
    shutil.copytree(CHART, chart)
    for folder in ("alerts", "dashboards"):
        shutil.rmtree(chart / "files" / folder, ignore_errors=True)
    monitored = CHART / "ci" / "monitored-values.yaml"

    def kinds():
        done = run("4", "template", "g", chart, "-f", monitored)
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    assert not [one for one in kinds() if one["kind"] == "PrometheusRule"]
    for folder in ("alerts", "dashboards"):
        (chart / "files" / folder).mkdir()
    rule = '- {alert: A, expr: up == 0, annotations: {summary: "{{ $labels.pod }}"}}'
    (chart / "files" / "alerts" / "a.yaml").write_text(f"groups:\n- name: a\n  rules:\n  {rule}\n")
    (chart / "files" / "dashboards" / "training_jobs.json").write_text('{"title": "{{x}}"}')
    found = kinds()
    (rules,) = [one for one in found if one["kind"] == "PrometheusRule"]
    assert rules["spec"]["groups"][0]["rules"][0]["annotations"]["summary"] == "{{ $labels.pod }}"
    (board,) = [one for one in found if "grafana_dashboard" in one["metadata"]["labels"]]
    assert board["data"]["training_jobs.json"].strip() == '{"title": "{{x}}"}'
