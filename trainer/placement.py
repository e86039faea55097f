"""Where the next job goes, among the workers of one base model: to the one that has the fewest."""

import threading


class Placement:
    """How many jobs each worker has that could take one more. Shared by their threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: dict[str, int] = {}

    def open(self, worker_id: str, load: int) -> None:
        """The worker has so many jobs, and could take one more."""
        with self._lock:
            self._loads[worker_id] = load

    def close(self, worker_id: str) -> None:
        """The worker takes nothing now: not ready, full, or busy with a suspect. Nobody waits for it."""
        with self._lock:
            self._loads.pop(worker_id, None)

    def least(self, worker_id: str) -> bool:
        """Whether no other open worker has fewer jobs than this open one."""
        with self._lock:
            return self._loads.get(worker_id) == min(self._loads.values(), default=None)
