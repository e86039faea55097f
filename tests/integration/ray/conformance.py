"""The suite of every cluster, on Ray: `python -m tests.integration.ray.conformance`, with Ray on the path.

A process of its own, since Ray takes over signals, output and exit of the one that it is loaded into. Prints the name
of each check as it begins, and last what was wrong, if anything was.
"""

import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.conformance import cluster_suite
from tests.support.ray_actors import Idler
from trainer.ray.cluster import RayCluster, connect, disconnect
from trainer.ray.protocol import State
from trainer.settings import RaySettings, prepare_for_ray


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="graft-ray-"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    prepare_for_ray(token)
    try:
        run(folder)
    finally:
        disconnect()
        shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path) -> None:
    def another_look() -> RayCluster:
        return RayCluster(settings, ranks=1, mark="suite", make=Idler)

    # Two places on the machine's one node: each has a "GPU", which is whatever the node says that it has.
    settings = RaySettings(gpus_per_trainer=1, cpus_per_trainer=0)
    connect(settings, namespace="suite", folder=folder, num_gpus=2)
    for check in [*cluster_suite.SUITE, one_that_lets_itself_go_is_not_started_again]:
        print(check.__name__, flush=True)  # noqa: T201  a program of its own
        cluster = another_look()
        check(cluster)
        # Another that looks at the same cluster finds what is left by its name, and ends it.
        another = another_look()
        assert another.trainers().keys() == cluster.trainers().keys()
        for name in another.trainers():
            another.remove(name)
        cluster_suite.until(lambda: not another_look().trainers())


def one_that_lets_itself_go_is_not_started_again(cluster: RayCluster) -> None:
    cluster.place("trainer-quitter")
    cluster_suite.until(lambda: cluster.trainers().get("trainer-quitter") is State.BROKEN)
    time.sleep(1)
    assert cluster.trainers()["trainer-quitter"] is State.BROKEN
    cluster.remove("trainer-quitter")


if __name__ == "__main__":
    main()
    sys.exit(0)
