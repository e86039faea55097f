"""A Ray cluster of a head and two nodes, and the driver that places a trainer in it: `python -m tests.chaos.ray_town`.

Words on standard input are answered by a line each: `kill` kills the node that the trainer is on, by SIGKILL, and adds
another; `where` tells the node that it is on. The trainer is the real one, on the real ledger; what it supervises is
the toy of toy.py.
"""

import secrets
import shutil
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings
from tests.chaos.ray_toy import ToyTrainer
from trainer.ray.__main__ import open_jobs
from trainer.ray.cluster import RayCluster, connect, disconnect
from trainer.ray.driver import Driver
from trainer.ray.protocol import mark_of
from trainer.ray.size import Size
from trainer.settings import RaySettings, prepare_for_ray

NAME = "trainer-0"
_MEMORY = 80 << 20
#: Of starting a node, on a machine that has much else to do.
_TRIES = 3


class Town:
    """Head and nodes, and a driver at work."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        told = {"include_dashboard": False, "temp_dir": str(folder), "num_cpus": 0}
        self._cluster = Cluster(
            initialize_head=True, head_node_args={**told, "object_store_memory": _MEMORY}
        )
        self._nodes: list[Any] = [self._add() for _ in range(2)]
        settings = RaySettings(address=self._cluster.address, max_trainers=1, gpus_per_trainer=0)
        connect(settings, namespace="town", folder=folder)
        ledger = LedgerSettings()
        self._ledger = open_ledger(ledger)
        self._trainers = RayCluster(settings, ranks=1, mark=mark_of(ledger), make=ToyTrainer)
        self._driver = Driver(
            self._trainers,
            Size(settings),
            jobs=lambda: open_jobs(self._ledger),
            drain_seconds=10,
        )
        self._stop = threading.Event()
        # A daemon: should the town end with an error, it ends, and whoever waits for its answer hears of it.
        self._turning = threading.Thread(target=self._turn, daemon=True)
        self._turning.start()

    def where(self) -> str:
        """The node that the trainer is on; waits until there is one that says so."""
        import ray

        while True:
            try:
                return str(ray.get(ray.get_actor(NAME).node.remote(), timeout=30))
            except (ray.exceptions.RayError, ValueError):
                time.sleep(0.1)

    def kill(self) -> str:
        """The node that was killed."""
        there = self.where()
        (node,) = [node for node in self._nodes if node.node_id == there]
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._add())
        return there

    def end(self) -> None:
        self._stop.set()
        self._turning.join()
        self._driver.drain_all()
        disconnect()
        self._cluster.shutdown()
        self._ledger.close()

    def _add(self) -> Any:
        for _ in range(_TRIES - 1):
            # A bare Exception is all that Ray raises. A node ends when its metrics agent takes too long to start.
            with suppress(Exception):
                return self._cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)
        return self._cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)

    def _turn(self) -> None:
        while not self._stop.wait(0.5):
            self._driver.turn()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="graft-ray-"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    prepare_for_ray(token)
    try:
        town = Town(folder)
        answer("ready")
        for line in sys.stdin:
            answer({"kill": town.kill, "where": town.where}[line.strip()]())
        town.end()
        answer("ended")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answer(told: str) -> None:
    sys.stdout.write(f"> {told}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
