"""The queue as those see it who wait in it, and the trainers who say how many they take."""

from collections.abc import Sequence

from adapters.clock import Clock
from adapters.db import queue, standing, use
from adapters.db.connect import Database
from adapters.db.tenancy import owner
from adapters.demand import Place, QueueLoad, Room
from adapters.errors import InvalidValue
from adapters.records import Job, JobStatus, Priority
from adapters.settings import QueueSettings


class QueueBoard:
    """Places, expected starts, room."""

    def __init__(self, database: Database, clock: Clock, rules: QueueSettings) -> None:
        self._db, self._clock, self._rules = database, clock, rules

    def places(self, jobs: Sequence[Job]) -> dict[str, Place]:
        """Where those of the jobs that wait stand, by id."""
        waiting = {job.base_model for job in jobs if job.status is JobStatus.QUEUED}
        found: dict[str, Place] = {}
        if waiting:
            with self._db.read() as tx:
                now = self._clock()
                for base_model in waiting:
                    found |= standing.places(tx, base_model, now, self._rules)
        return {job.id: found[job.id] for job in jobs if job.id in found}

    def busy(self, base_model: str) -> tuple[Sequence[Job], dict[str, Place]]:
        """The jobs of a base model that run or wait, oldest first, and where those that wait stand, by id in order."""
        with self._db.read() as tx:
            now = self._clock()
            jobs = standing.list_busy(tx, base_model)
            return jobs, standing.places(tx, base_model, now, self._rules)

    def loads(self) -> Sequence[QueueLoad]:
        """What there is to do and who is there to do it, for each base model that has either."""
        with self._db.read() as tx:
            return queue.measure_loads(tx, self._clock())

    def wait(self, base_model: str, *, priority: Priority) -> float | None:
        """Seconds until a job that came now would start; None where nobody can tell."""
        with self._db.read() as tx:
            return standing.wait_of_another(
                tx,
                base_model,
                tenant=owner(tx),
                priority=priority,
                now=self._clock(),
                rules=self._rules,
            )

    def room(self) -> Room:
        """How many more jobs of a tenant may wait."""
        with self._db.read() as tx:
            return standing.room_of(tx, owner(tx), self._clock(), self._rules)

    def require_room(self, most_waiting: int) -> None:
        """Look whether one more job of a tenant may wait. Raises QueueFull, OverQuota."""
        with self._db.read() as tx:
            standing.require_room(
                tx, owner(tx), most_waiting=most_waiting, now=self._clock(), rules=self._rules
            )

    @property
    def highest_priority(self) -> Priority:
        """The highest that a job may ask for."""
        return Priority(self._rules.highest_priority)

    def require_priority(self, priority: Priority) -> None:
        """Look whether a job may be so urgent. Raises InvalidValue."""
        highest = self.highest_priority
        if priority.rank > highest.rank:
            raise InvalidValue(
                f"priority may be at most '{highest}' here, not '{priority}'.", param="priority"
            )

    def attend(self, worker: str, *, base_model: str, slots: int, lease_seconds: float) -> None:
        """Say that a worker is there, for so long, and how many jobs it trains at a time."""
        with self._db.write() as tx:
            now = self._clock()
            until = now + lease_seconds
            use.attend(tx, worker, base_model=base_model, slots=slots, until=until, now=now)

    def leave(self, worker: str) -> None:
        """Say that a worker trains nothing any more."""
        with self._db.write() as tx:
            use.leave(tx, worker)
