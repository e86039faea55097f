"""What engines were found to compute of versions: remembered once for each engine, and quarantines for good."""

from adapters.clock import Clock
from adapters.db import events as event_rows, registry, verdicts as rows
from adapters.db.connect import Conflict, Database
from adapters.db.revision import hold_revision
from adapters.errors import AdapterNotFound
from adapters.proof import Outcome, Verdict
from adapters.records import EventKind, NewEvent, Version
from adapters.weights import Weights


class Verdicts:
    """By the digest of the files: a checkpoint with a version's files shares its verdict."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def find(self, weights: Weights, *, engine: str) -> Verdict | None:
        """A quarantine, whichever engine led to it; else what that engine was found to compute, if it was looked at."""
        with self._db.read() as tx:
            return rows.find_verdict(tx, weights.digest, engine)

    def note(self, weights: Weights, verdict: Verdict, *, engine: str) -> Verdict:
        """Record a verdict; returns the one that holds, which may be an earlier one.

        With a quarantine, in the same transaction, every cache of what can be served is told, and so are the logs of
        the jobs that have made these files.
        """
        try:
            with self._db.write() as tx:
                hold_revision(tx)
                known = rows.find_verdict(tx, weights.digest, engine)
                if known is not None:
                    return known
                now = self._clock()
                rows.add_verdict(tx, weights.digest, engine, verdict, now)
                if verdict.outcome is Outcome.QUARANTINED:
                    for version in rows.touch_versions(tx, weights.digest):
                        if version.job_id is not None:
                            told = [_quarantined(version, verdict)]
                            event_rows.append_events(tx, version.job_id, told, now)
        except Conflict:  # another service has looked in the same moment
            with self._db.read() as tx:
                return rows.find_verdict(tx, weights.digest, engine) or verdict
        return verdict

    def recheck(self, name: str, number: int) -> None:
        """Forget what engines were found to compute of a version, a quarantine too: the next load is looked at again.

        Raises:
            AdapterNotFound: there is no such version.
        """
        with self._db.write() as tx:
            hold_revision(tx)
            version = registry.get_adapter(tx, name).version(number)
            if version is None:
                raise AdapterNotFound(f"There is no version {name}@{number}.", param="version")
            rows.forget_verdicts(tx, version.digest)
            rows.touch_versions(tx, version.digest)


def _quarantined(version: Version, verdict: Verdict) -> NewEvent:
    return NewEvent(
        kind=EventKind.ERROR,
        level="error",
        message=f"{version.name} is quarantined and no longer answers: {verdict.reason}",
        data={"kind": "quarantined", "version": version.name, "reason": verdict.reason},
    )
