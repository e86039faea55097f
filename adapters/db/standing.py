"""Statements about the queue as those see it who wait: places, expected starts, and how much room there is."""

from statistics import median

from sqlalchemy import Connection, func, select

from adapters.db import use
from adapters.db.queue import order
from adapters.db.rows import to_job
from adapters.db.schema import jobs
from adapters.demand import Place, Room
from adapters.errors import OverQuota, QueueFull
from adapters.records import Job, JobStatus, Priority
from adapters.settings import QueueSettings
from adapters.turns import Waiting, starts

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
#: The newest jobs of a base model that say how long one takes.
_RECENT = 8
#: Seconds after which to ask again for a place among the waiting: at most, and where nobody can tell.
_LONGEST_WAIT_S, _UNKNOWN_WAIT_S = 600.0, 60.0


def places(
    tx: Connection, base_model: str, now: float, rules: QueueSettings, more: Waiting | None = None
) -> dict[str, Place]:
    """Where each waiting job of a base model stands, by id, in order; with one `more` as if it waited too."""
    waiting = order(tx, base_model, now, rules, more=more)
    expected = starts(
        len(waiting),
        ends=_ends(tx, base_model),
        slots=use.count_slots(tx, now).get(base_model),
        lasts=_usual_seconds(tx, base_model),
    )
    return {
        one.id: Place(position=number, starts_in=start)
        for number, (one, start) in enumerate(zip(waiting, expected, strict=True), start=1)
    }


def place_of(tx: Connection, job: Job, now: float, rules: QueueSettings) -> Place | None:
    """Where a job stands; None for one that does not wait."""
    if job.status is not JobStatus.QUEUED:
        return None
    return places(tx, job.base_model, now, rules)[job.id]


def wait_of_another(
    tx: Connection,
    base_model: str,
    *,
    tenant: str,
    priority: Priority,
    now: float,
    rules: QueueSettings,
) -> float | None:
    """Seconds until a job that came now would start. At once where nobody waits and no trainer has said otherwise."""
    another = Waiting(id="", tenant=tenant, priority=priority, created_at=now)
    found = places(tx, base_model, now, rules, more=another)
    if len(found) == 1 and base_model not in use.count_slots(tx, now):
        return 0.0
    return found[another.id].starts_in


def room_of(tx: Connection, tenant: str, now: float, rules: QueueSettings) -> Room:
    """How many more jobs of a tenant may wait."""
    waiting = _count(tx, tenant)
    return Room(
        limit=rules.max_queued,
        left=max(0, rules.max_queued - waiting),
        queued=waiting,
        next_in=_next_start(tx, tenant, now, rules) if waiting else 0.0,
    )


def require_room(
    tx: Connection, tenant: str, *, most_waiting: int, now: float, rules: QueueSettings
) -> None:
    """Look whether one more job of a tenant may wait: of its own, and of all together.

    Raises:
        OverQuota: as many of its own wait as may; with the seconds until one of those is likely to start.
        QueueFull: as many wait in all; with the seconds until one of them is likely to start.
    """
    for whose, most in ((tenant, rules.max_queued), (None, most_waiting)):
        waiting = _count(tx, whose)
        if waiting < most:
            continue
        start = _next_start(tx, whose, now, rules)
        seconds = _UNKNOWN_WAIT_S if start is None else min(_LONGEST_WAIT_S, max(1.0, start))
        when = (
            "at a time that nobody can tell yet" if start is None else f"in about {seconds:.0f} s"
        )
        raise (QueueFull if whose is None else OverQuota)(
            f"{waiting} {'jobs' if whose is None else 'of your jobs'} wait already, and at most {most} may. "
            f"A place is expected {when}; ask again in {seconds:.0f} s.",
            retry_after=seconds,
        )


def list_busy(tx: Connection, base_model: str) -> list[Job]:
    """The jobs of a base model that wait or run, oldest first."""
    query = (
        select(jobs)
        .where(jobs.c.base_model == base_model, jobs.c.status.in_([_QUEUED, _RUNNING]))
        .order_by(jobs.c.created_at, jobs.c.id)
    )
    return [to_job(row) for row in tx.execute(query)]


def _next_start(
    tx: Connection, tenant: str | None, now: float, rules: QueueSettings
) -> float | None:
    """Seconds until the first of those that wait starts, whatever its base model: a place is free then."""
    mine = [jobs.c.tenant == tenant] if tenant is not None else []
    waiting = select(jobs.c.id, jobs.c.base_model).where(jobs.c.status == _QUEUED, *mine)
    ids: dict[str, set[str]] = {}
    for row in tx.execute(waiting):
        ids.setdefault(row.base_model, set()).add(row.id)
    found = [
        place.starts_in
        for base_model, wanted in ids.items()
        for job_id, place in places(tx, base_model, now, rules).items()
        if job_id in wanted and place.starts_in is not None
    ]
    return min(found, default=None)


def _count(tx: Connection, tenant: str | None) -> int:
    mine = [jobs.c.tenant == tenant] if tenant is not None else []
    query = select(func.count()).select_from(jobs).where(jobs.c.status == _QUEUED, *mine)
    found: int = tx.execute(query).scalar_one()
    return found


def _ends(tx: Connection, base_model: str) -> list[float | None]:
    """Seconds until each job that runs ends, as far as it says."""
    eta = jobs.c.progress["eta_seconds"].as_float()
    running = select(eta).where(jobs.c.base_model == base_model, jobs.c.status == _RUNNING)
    return [row[0] for row in tx.execute(running)]


def _usual_seconds(tx: Connection, base_model: str) -> float | None:
    """How long a job is in training, by those that have succeeded last."""
    query = (
        select(jobs.c.ran_seconds)
        .where(
            jobs.c.status == JobStatus.SUCCEEDED.value,
            jobs.c.base_model == base_model,
            jobs.c.ran_seconds > 0,
        )
        .order_by(jobs.c.created_at.desc())
        .limit(_RECENT)
    )
    told = [row[0] for row in tx.execute(query)]
    return median(told) if told else None
