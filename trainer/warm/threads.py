"""How many CPU threads a pass may use: all cores while nobody else wants them, half of them otherwise.

Two processes that want the same core do not get half of it each: threads that wait for each other at the end of every
product make both many times slower than one thread would be. So training steps aside for whoever else is at work, the
engine that answers people above all.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from adapters.cores import cores, training_share

#: Seconds between two looks.
INTERVAL = 0.25
#: Of one core, used by others: more than this is work, less is housekeeping.
BUSY = 0.3
#: Looks in a row that must be quiet before the other cores are taken.
QUIET_LOOKS = 3


class Threads:
    """Watches the machine's use and says how many threads to use.

    Args:
        least: threads while others work.
        most: threads while nobody does.
        others: CPU seconds that everybody else on the machine has used so far; None where nobody knows.
        use: told how many threads to use.
        clock: in seconds.
    """

    def __init__(
        self,
        least: int,
        most: int,
        *,
        others: Callable[[], float | None],
        use: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._least, self._most = least, most
        self._others, self._clock, self._use = others, clock, use
        self._seen = others()
        self._looked_at = clock()
        self._quiet = 0
        self.count = least
        use(least)

    def look(self) -> None:
        """Adapt, if the last look was long enough ago. Called in the middle of passes."""
        now = self._clock()
        if self._least == self._most or now - self._looked_at < INTERVAL:
            return
        seen = self._others()
        if seen is None or self._seen is None:
            return
        elapsed = now - self._looked_at
        busy = (seen - self._seen) / elapsed
        self._seen, self._looked_at = seen, now
        # Nobody looks while nothing is trained: the first look after that tells of all the time before.
        self._quiet = 0 if busy > BUSY else self._quiet + int(elapsed / INTERVAL)
        count = self._most if self._quiet >= QUIET_LOOKS else self._least
        if count != self.count:
            self.count = count
            self._use(count)


def threads_for(fixed: int, use: Callable[[int], None]) -> Threads:
    """For this machine; `fixed` above 0 means so many, always (results are then the same bit for bit)."""
    all_cores = cores()
    least, most = (fixed, fixed) if fixed else (training_share(all_cores), all_cores)
    return Threads(least, most, others=others_cpu_seconds, use=use)


def others_cpu_seconds() -> float | None:
    """From /proc/stat (proc(5)), less this process's own; None elsewhere than on Linux."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (int(field) for field in fields)
    all_of_them = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return all_of_them - own.user - own.system
