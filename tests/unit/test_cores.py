"""Machines made of files, as Linux shows them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.cores import computing_dir, cores, memory_is_one


def machine(root: Path, *, siblings: dict[int, str], nodes: dict[int, int] | None = None) -> Path:
    for cpu, shared in siblings.items():
        of_cpu = root / "sys" / "devices" / "system" / "cpu" / f"cpu{cpu}"
        (of_cpu / "topology").mkdir(parents=True)
        (of_cpu / "topology" / "thread_siblings_list").write_text(f"{shared}\n")
        (of_cpu / f"node{(nodes or {}).get(cpu, 0)}").mkdir()
    return root


def group(root: Path, membership: str, **files: str) -> None:
    """Files are named by their path below where control groups are mounted, with __ for each slash."""
    (root / "proc" / "self").mkdir(parents=True, exist_ok=True)
    (root / "proc" / "self" / "cgroup").write_text(membership)
    for name, content in files.items():
        file = root / "sys" / "fs" / "cgroup" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


EIGHT = {cpu: str(cpu) for cpu in range(8)}
FOUR_TWICE = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}


def test_each_core_counts_once(tmp_path: Path) -> None:
    assert cores(range(8), machine(tmp_path, siblings=EIGHT)) == 8


def test_two_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    assert cores(range(8), machine(tmp_path, siblings=FOUR_TWICE)) == 4


def test_cores_on_which_the_process_may_not_run_do_not_count(tmp_path: Path) -> None:
    machine(tmp_path, siblings=FOUR_TWICE)
    assert cores({1, 5}, tmp_path) == 1
    assert cores({0, 1, 2}, tmp_path) == 3


def test_a_machine_that_tells_nothing_has_what_python_knows_of(tmp_path: Path) -> None:
    assert cores(range(6), tmp_path) == 6
    assert memory_is_one(range(6), tmp_path)


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 8), ("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("?", 8)],
)
def test_a_container_has_what_its_quota_pays_for(tmp_path: Path, limit: str, count: int) -> None:
    machine(tmp_path, siblings=EIGHT)
    group(tmp_path, "0::/\n")
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True)
    (tmp_path / "sys" / "fs" / "cgroup" / "cpu.max").write_text(limit)
    assert cores(range(8), tmp_path) == count


def test_the_tightest_group_above_decides(tmp_path: Path) -> None:
    machine(tmp_path, siblings=EIGHT)
    group(
        tmp_path,
        "0::/kubepods/pod7/box\n",
        **{
            "kubepods__pod7__box__cpu.max": "max 100000",
            "kubepods__pod7__cpu.max": "300000 100000",
            "kubepods__cpu.max": "700000 100000",
        },
    )
    assert cores(range(8), tmp_path) == 3


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("500000", 5)])
def test_the_older_control_groups_are_read_too(tmp_path: Path, quota: str, count: int) -> None:
    machine(tmp_path, siblings=EIGHT)
    group(
        tmp_path,
        # The path is the host's; what is mounted begins with the container's own group.
        "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n",
        **{"cpu__cpu.cfs_quota_us": quota, "cpu__cpu.cfs_period_us": "100000"},
    )
    assert cores(range(8), tmp_path) == count


def test_memory_is_one_where_all_cores_that_count_are_of_one_node(tmp_path: Path) -> None:
    machine(tmp_path, siblings=EIGHT, nodes={cpu: cpu // 4 for cpu in range(8)})
    assert not memory_is_one(range(8), tmp_path)
    assert memory_is_one({4, 5}, tmp_path)


def test_processes_that_see_each_other_have_a_folder_together(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from adapters.cores import computing_dir\n"
        "print(computing_dir(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(computing_dir(tmp_path))
    assert computing_dir(tmp_path).is_relative_to(tmp_path / "computing")


def test_this_machine_has_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
