"""The trainer that Ray keeps alive, but for what its workers supervise: the toy of toy.py, in a process of its own."""

import socket
import subprocess
import sys

from tests.chaos.toy import Toy, die_with_parent
from tests.support.samples import BASE
from trainer.child import TrainingProcess, WarmProcess
from trainer.ray.actor import Trainer

STEP_S = 0.3


class ToyProgram(WarmProcess):
    """`WarmProcess`, but for the program at the other end."""

    def start(self) -> None:
        self._reap()
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", "tests.chaos.ray_toy", str(number)]
            self._process = subprocess.Popen(command, pass_fds=[number])
        self._socket, self._unread = ours, b""


class ToyTrainer(Trainer):
    """With the toy, and it tells where it is."""

    def make_process(self, base_model: str, device: str) -> TrainingProcess:
        return ToyProgram(base_model, device)

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


def main() -> None:
    die_with_parent()
    Toy(socket.socket(fileno=int(sys.argv[1])), BASE, STEP_S).run()


if __name__ == "__main__":
    main()
