"""What must hold of every manifest that the chart can make, whatever the values."""

import json
import subprocess
import textwrap

import pytest
import yaml

from tests.integration.chart.conftest import (
    CHART,
    LONG_NAME,
    NAMES,
    NAMESPACE,
    VALUES,
    Rendered,
    run,
    template,
)
from tools import helm, install

CHECKER = install.ROOT / "tests" / "integration" / "chart" / "manifests.py"


@pytest.mark.parametrize("major", ["3", "4"])
def test_helm_finds_nothing_to_criticise(major):
    for values in VALUES:
        done = run(major, "lint", "--strict", CHART, "-f", values)
        assert done.returncode == 0, done.stdout + done.stderr


def test_both_helms_render_the_same_and_do_so_every_time(rendered):
    for name, values in zip(NAMES, VALUES, strict=True):
        once = [one for one in yaml.load_all(template("3", values), yaml.CSafeLoader) if one]
        assert sorted(map(repr, once)) == sorted(map(repr, rendered[name].objects)), name
    assert template("4", VALUES[0]) == rendered[NAMES[0]].text


def test_every_manifest_obeys_the_schemas_of_kubernetes_and_of_the_operators(rendered, tmp_path):
    for name, one in rendered.items():
        (tmp_path / f"{name}.yaml").write_text(one.text)
    command = [str(helm.PYTHON), str(CHECKER), *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["releases"] == [f"1.{minor}" for minor in range(29, 38)]
    ours = {"PodMonitor", "ScaledObject", "HTTPRoute", "Ingress", "NetworkPolicy", "StatefulSet"}
    ours |= {"RayCluster"}
    assert ours <= told["kinds"].keys()


def test_what_judges_manifests_knows_a_bad_one(tmp_path):
    bad = """
    {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {portz: []}}
    ---
    {apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: b},
     spec: {selector: {}, podMetricsEndpoints: [{intervall: 1s}]}}
    ---
    {apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: c},
     spec: {scaleTargetRef: {name: d}, triggers: prometheus}}
    ---
    {apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: e}, spec: {parents: []}}
    ---
    {apiVersion: ray.io/v1, kind: RayCluster, metadata: {name: f}, spec: {headGroups: [], headGroupSpec:
     {rayStartParams: {num-cpus: 0}, template: {spec: {containers: [{name: a, image: b, prots: []}]}}}}}
    """
    (tmp_path / "bad.yaml").write_text(textwrap.dedent(bad))
    command = [str(helm.PYTHON), str(CHECKER), str(tmp_path / "bad.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for name in ("Service a", "PodMonitor b", "ScaledObject c", "HTTPRoute e"):
        assert f": {name}" in done.stdout, done.stdout + done.stderr
    for flaw in ("headGroups is not a field", "num-cpus is not text", "'prots' was unexpected"):
        assert flaw in done.stdout, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_no_container_can_do_more_than_it_must(rendered, name):
    for where, container in rendered[name].containers:
        security = container["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] == 10001, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, where
    for where, pod in rendered[name].pods:
        # Ray's autoscaler, beside the head, asks for pods.
        asks = [one for one in pod["containers"] if one["name"] == "ray-head"]
        assert pod["automountServiceAccountToken"] is bool(asks and name == "ray"), where
        assert pod["enableServiceLinks"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume], where


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_named_by_a_version_or_a_digest(rendered, name):
    for where, container in rendered[name].containers:
        image = container["image"]
        assert "@sha256:" in image or ":" in image.rpartition("/")[2], where
        assert not image.endswith(":latest"), where


@pytest.mark.parametrize("name", NAMES)
def test_every_container_says_what_it_needs_and_gets_no_more(rendered, name):
    for where, container in rendered[name].containers:
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert {"cpu", "memory"} <= limits.keys(), where
        assert {"cpu", "memory"} <= requests.keys(), where
        assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu"), where


@pytest.mark.parametrize("name", NAMES)
def test_there_is_shared_memory_where_there_is_a_gpu_and_only_there(rendered, name):
    for where, pod in rendered[name].pods:
        sizes = {
            volume["name"]: volume["emptyDir"].get("sizeLimit")
            for volume in pod.get("volumes", [])
            if volume.get("emptyDir", {}).get("medium") == "Memory"
        }
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert ("/dev/shm" in mounts) == gpu, where
            assert not gpu or sizes[mounts["/dev/shm"]], where


@pytest.mark.parametrize("name", NAMES)
def test_every_server_is_probed(rendered, name):
    for where, container in rendered[name].containers:
        program = container["name"]
        if program in {"service", "trainer"}:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), where
        elif program.startswith("engine-"):
            assert {"startupProbe", "livenessProbe"} <= container.keys(), where


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_anywhere_but_behind_a_reference(rendered, name):
    assert rendered[name].kind("Secret") == []
    secret = ("KEY", "TOKEN", "SECRET", "PASSWORD", "DATABASE_URL")
    for where, container in rendered[name].containers:
        for variable in container.get("env", []):
            if any(word in variable["name"] for word in secret):
                assert "secretKeyRef" in variable.get("valueFrom", {}), f"{where}: {variable}"
        # Arguments are in `ps`, and in whatever looks at pods.
        told = " ".join([*container.get("command", []), *container.get("args", [])])
        assert "$(" not in told, where
        for variable in container.get("env", []):
            assert variable["name"] not in told, where


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_in_the_releases_namespace(rendered, name):
    for one in rendered[name].objects:
        assert one["metadata"]["namespace"] == NAMESPACE, one["metadata"]["name"]
    assert NAMESPACE not in "".join(
        path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("values", VALUES, ids=NAMES)
def test_no_name_or_label_is_too_long_where_the_releases_is_as_long_as_may_be(values):
    assert len(LONG_NAME) == 53
    long = Rendered("long", template("4", values, release=LONG_NAME))
    for one in long.objects:
        labels = one["metadata"]["labels"]
        # Pods of a StatefulSet carry its name and ten more characters in a label.
        most = 52 if one["kind"] in {"StatefulSet", "Deployment"} else 63
        assert len(one["metadata"]["name"]) <= most, one["metadata"]["name"]
        assert all(len(value) <= 63 for value in labels.values()), labels


def test_two_releases_with_long_names_alike_do_not_share_theirs():
    names = [
        {one["metadata"]["name"] for one in Rendered("", template("4", None, release=name)).objects}
        for name in (LONG_NAME, LONG_NAME[:-1] + "x")
    ]
    assert not names[0] & names[1]


def test_what_is_random_or_depends_on_the_clock_is_not_used():
    used = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    for word in ("randAlpha", "randNumeric", "genCA", "genSelfSigned", "uuidv4", "now ", "lookup "):
        assert word not in used


def test_the_values_of_the_last_release_still_render(rendered):
    # The first one: what is in ci/ now. A release keeps a copy of its values here from then on.
    kept = sorted((install.ROOT / "tests" / "integration" / "chart" / "released").glob("*.yaml"))
    assert kept
    for values in kept:
        assert template("4", values)


def test_the_chart_can_be_packaged(tmp_path):
    done = run("4", "package", CHART, "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["graft-0.1.0.tgz"]
