"""The door to Ray: the one module that imports it, and only when it is asked to."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import InvalidValue, Unavailable
from trainer.ray.actor import Trainer
from trainer.ray.protocol import PREFIX, Order, State
from trainer.settings import RaySettings

log = logging.getLogger(__name__)

#: How long a trainer may take to say how it is before it counts as one of whom nothing was heard.
_ANSWER_S = 2.0
#: Calls that a trainer answers at a time; none of them takes long.
_CALLS = 4


@dataclass(slots=True)
class _Handle:
    """A trainer, and what it was asked last and has not answered yet."""

    actor: Any
    asked: Any = None


class RayCluster:
    """A cluster of Ray, in which a trainer is a named, detached actor that is restarted for ever.

    Args:
        ranks: how many GPUs a trainer has where nothing else is said.
        mark: of the ledger.
        make: the class of the actors; for tests.
    """

    def __init__(
        self, settings: RaySettings, *, ranks: int, mark: str, make: type[Any] = Trainer
    ) -> None:
        self._ray = load()
        self._settings, self._mark = settings, mark
        self._actor_class = self._ray.remote(make)
        self._handles: dict[str, _Handle] = {}
        self._gpus = settings.gpus_per_trainer
        if self._gpus is None:
            self._gpus = ranks if self._ray.cluster_resources().get("GPU", 0) else 0

    def devices(self) -> int:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if self._gpus:
            return sum(int(node.get("GPU", 0)) // self._gpus for node in nodes)
        return sum(node.get("CPU", 0) >= max(self._settings.cpus_per_trainer, 1) for node in nodes)

    def trainers(self) -> Mapping[str, State]:
        for name in self._ray.util.list_named_actors():
            if name.startswith(PREFIX) and name not in self._handles:
                self._find(name)
        for handle in self._handles.values():
            if handle.asked is None:
                handle.asked = handle.actor.report.remote()
        asked = [handle.asked for handle in self._handles.values()]
        if not asked:
            return {}
        answered, _ = self._ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S)
        return {
            name: self._read(name, handle) if handle.asked in answered else State.WAITING
            for name, handle in self._handles.items()
        }

    def place(self, name: str) -> None:
        order = Order(
            name=name,
            mark=self._mark,
            gpu=bool(self._gpus),
            forsaken_seconds=self._settings.forsaken_seconds,
        )
        options = {
            "name": name,
            "get_if_exists": True,
            "lifetime": "detached",  # so that a driver that is started again disturbs nobody
            "max_restarts": -1,
            "max_concurrency": _CALLS,
            "num_gpus": self._gpus,
            "num_cpus": self._settings.cpus_per_trainer,
            "scheduling_strategy": "SPREAD",
        }
        self._handles[name] = _Handle(self._actor_class.options(**options).remote(order, leave))

    def drain(self, name: str) -> None:
        if handle := self._handles.get(name):
            handle.actor.drain.remote()

    def remove(self, name: str) -> None:
        if handle := self._handles.pop(name, None):
            self._ray.kill(handle.actor, no_restart=True)

    def _find(self, name: str) -> None:
        try:
            self._handles[name] = _Handle(self._ray.get_actor(name))
        except ValueError:
            return  # it has ended since it was listed

    def _read(self, name: str, handle: _Handle) -> State:
        errors = self._ray.exceptions
        answer, handle.asked = handle.asked, None
        try:
            return State(self._ray.get(answer))
        except errors.ActorUnavailableError:
            return State.WAITING
        except errors.RayError as error:
            log.error("%s has ended for good: %s", name, error)  # noqa: TRY400  Ray's message has a traceback
            return State.BROKEN


def load() -> Any:
    """Ray.

    Raises:
        InvalidValue: it is not installed.
    """
    try:
        import ray  # noqa: PLC0415  hundreds of megabytes that few want
    except ImportError as error:
        raise InvalidValue(
            f"Trainers are to be placed by Ray, which is not installed: pip install 'graft[ray]' ({error})."
        ) from error
    return ray


def connect(settings: RaySettings, *, namespace: str, folder: Path, **more: Any) -> None:
    """Connect this process to the cluster at `settings.address`, or start one here, with its things in the folder.

    Before that, `trainer.settings.prepare_for_ray`. What else is given is handed to `ray.init`; tests do.

    Raises:
        InvalidValue: Ray is not installed.
        Unavailable: no cluster answers there, or none could be started.
    """
    ray = load()
    where: dict[str, Any] = {"address": settings.address}
    if not settings.address:
        where = {
            "address": "local",
            "include_dashboard": False,
            "_temp_dir": str(folder),
        }
    try:
        ray.init(namespace=namespace, configure_logging=False, **where, **more)
    except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        place = settings.address or "on this machine"
        raise Unavailable(f"There is no Ray cluster {place}: {error}") from error


def disconnect() -> None:
    """Leave the cluster; one that was started here ends."""
    load().shutdown()


def leave() -> None:
    """Called in an actor: end it, and Ray does not start it again."""
    ray = load()
    ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
