"""Who waits for news is told when a change is committed.

PostgreSQL tells: NOTIFY in the changing transaction, LISTEN in the processes that wait. SQLite has no such thing: who
commits rings a bell (bells.py), and it can be asked in microseconds whether anybody has committed anything. To be told
only means to look earlier: a message may be lost with its connection, so everybody looks from time to time too.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from adapters.db.bells import Bells

log = logging.getLogger(__name__)

#: How often those who are told of news look for themselves, in seconds.
BEHIND_S = 1.0
_RECONNECT_S = 1.0
#: How long `close` waits for the thread at most, nearly.
_LISTEN_S = 0.2
#: How often a process looks at SQLite where no bell rings.
_WATCH_S = 0.05
#: How long it rests after news: what comes meanwhile is one piece of news.
_REST_S = 0.02


class Topic(StrEnum):
    """What there may be news of; the channel's name."""

    #: What can be served: versions, aliases, checkpoints.
    SERVED = "graft_served"
    #: A job waits that did not.
    QUEUED = "graft_queued"
    #: Somebody is to be told something by a webhook.
    ANNOUNCED = "graft_announced"
    #: A job has come to another status. Of each line in its log only those are told who are told of every commit.
    LOGGED = "graft_logged"


def notify(tx: Connection, topic: Topic) -> None:
    """Tell everybody who waits for it, when and if the transaction commits.

    Transactions that notify are committed one after another by the server, so only what is rare does.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(select(func.pg_notify(topic.value, "")))


class Changes(Protocol):
    """News of what other processes have committed."""

    @property
    def told(self) -> bool:
        """Whether one is told of news now. Otherwise one has to look as often as one wants to know."""

    @property
    def told_of_commits(self) -> bool:
        """Whether one is told of every commit now, whatever it was about."""

    def follow(self, topic: Topic, wake: Callable[[], object]) -> Callable[[], None]:
        """Have `wake` called, from a thread of its own, when there may be news; also when `told` has changed.

        Returns what ends that.
        """

    def close(self) -> None:
        """Stop."""


def changes_of(engine: Engine, bells: Bells) -> Changes:
    """News from that database. The bells are rung by who commits to SQLite."""
    return Listening(engine) if engine.dialect.name == "postgresql" else Watching(engine, bells)


class _Telling(ABC):
    """One connection that has the news, from the moment at which the first one follows; made anew when it is lost."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._followers: list[tuple[Topic, Callable[[], object]]] = []
        self._told = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def told(self) -> bool:
        """Whether the connection stands."""
        return self._told

    @property
    @abstractmethod
    def told_of_commits(self) -> bool:
        """See Changes."""

    def follow(self, topic: Topic, wake: Callable[[], object]) -> Callable[[], None]:
        """Have `wake` called for the topic."""
        follower = (topic, wake)
        with self._lock:
            self._followers.append(follower)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
                self._thread.start()

        def leave() -> None:
            with self._lock:
                self._followers.remove(follower)

        return leave

    def close(self) -> None:
        """Have no more news."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    @abstractmethod
    def _attend(self, connection: Any) -> None:
        """Tell what there is on the driver's own connection, until closed or it is lost."""

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with closing(self._connection()) as connection:
                    self._attend(connection)
            except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
                log.warning("news are not told for now: %s", str(error).partition("\n")[0])
            finally:
                self._turn(told=False)
            self._closing.wait(_RECONNECT_S)

    def _connection(self) -> Any:
        """The driver's own connection, which does not count among those of the pool."""
        pooled = self._engine.raw_connection()
        connection: Any = pooled.driver_connection
        pooled.detach()
        return connection

    def _turn(self, *, told: bool) -> None:
        """What was missed meanwhile is news as well."""
        self._told = told
        for topic in Topic:
            self._wake(topic)

    def _wake(self, topic: Topic) -> None:
        with self._lock:  # so that nobody is called who has left
            for followed, wake in self._followers:
                if followed is topic:
                    wake()


class Listening(_Telling):
    """PostgreSQL's channels."""

    #: What happens often is not told: see `notify`.
    told_of_commits = False

    def _attend(self, connection: Any) -> None:
        connection.autocommit = True
        for topic in Topic:
            connection.execute(f"LISTEN {topic.value}")
        self._turn(told=True)
        while not self._closing.is_set():
            # A list: the wait is over with the first message, and takes along what has come with it.
            for notice in list(connection.notifies(timeout=_LISTEN_S, stop_after=1)):
                with suppress(ValueError):
                    self._wake(Topic(notice.channel))


class Watching(_Telling):
    """SQLite's number of the last commit of anybody else: what it was about, it does not say.

    8 µs a look (a query of ours is 1 ms). https://www.sqlite.org/pragma.html#pragma_data_version
    """

    def __init__(self, engine: Engine, bells: Bells) -> None:
        super().__init__(engine)
        self._bells = bells

    @property
    def told_of_commits(self) -> bool:
        """See Changes."""
        return self.told

    def _attend(self, connection: Any) -> None:
        with ExitStack() as stack:
            wait = self._waiting(stack)
            seen = _commits(connection)
            self._turn(told=True)
            while not self._closing.is_set():
                wait(_WATCH_S)
                if (now := _commits(connection)) != seen:
                    seen = now
                    for topic in Topic:
                        self._wake(topic)
                    self._closing.wait(_REST_S)

    def _waiting(self, stack: ExitStack) -> Callable[[float], object]:
        """What returns when there may be news, or after so many seconds."""
        try:
            return stack.enter_context(self._bells.hung()).wait
        except OSError as error:
            log.info("no bell can be hung, news come up to %.2f s later: %s", _WATCH_S, error)
            return self._closing.wait


def _commits(connection: Any) -> int:
    """A number that is another one after each commit on any other connection."""
    (number,) = connection.execute("PRAGMA data_version").fetchone()
    return int(number)
