"""Everything that can be killed is, while jobs of six tenants are trained and asked."""

import random
import time
from contextlib import closing
from pathlib import Path

from adapters.errors import Unavailable
from tests.chaos.machines import Common
from tests.chaos.nursery import Nursery
from tests.chaos.sizes import Chaos, Outcome
from tests.chaos.town import Asking, Crew, Ordering, Town
from tests.support.postgres import Server

TENANTS = [f"tenant-{number}" for number in range(6)]
_WHAT = "two machines with service, engine and trainer, PostgreSQL and S3, killed at random; six tenants"


def test_nothing_is_lost_doubled_or_confused_while_everything_is_killed(
    chaos: Chaos,
    nursery: Nursery,
    tmp_path: Path,
    postgres: Server,
    shared: Common,
) -> None:
    crew = Crew(nursery, step_seconds=chaos.of_size(ci=50, release=400) / 1000)
    with (
        chaos.experiment("all", _WHAT) as found,
        closing(Town(tmp_path, shared, postgres, crew)) as town,
    ):
        besiege(town, chaos, found, pause=chaos.of_size(ci=1, release=2))


def besiege(town: Town, chaos: Chaos, found: Outcome, *, pause: float) -> None:
    """Strike until every job has ended; half of them are asked for meanwhile. `pause`: between strikes, on average."""
    dice, each = chaos.dice(found.id), chaos.of_size(ci=2, release=10)
    town.open()
    keys = {tenant: town.key_of(tenant) for tenant in TENANTS}
    ordering, asking = Ordering(town, keys, chaos.seed), Asking(town, keys, chaos.seed)
    ordering.order(range(each // 2))
    town.begin_work()
    ordering.begin(range(each // 2, each))
    asking.start()
    strike_until_all_have_ended(town, ordering, dice, pause)
    town.calm()
    asking.stop.set()
    asking.join()
    town.check(ordering.asked)
    for version in town.versions():
        asking.ask(ordering.asked[version.job_id], version)
    assert asking.wrong() == []
    unfair = town.unfairness()
    # With a handful of jobs one more or less is more than a fifth.
    assert unfair <= max(0.2, 1 / (each / 2))
    found.trials, found.unit = town.killed.total(), f"kills during {len(ordering.asked)} jobs"
    kinds = ", ".join(f"{count} of {name}" for name, count in sorted(town.killed.items()))
    found.result = (
        f"0 lost, 0 doubled, {len(asking.told):,} answers and 0 of them from a wrong adapter, "
        f"shares within {unfair:.0%} ({kinds})"
    )


def strike_until_all_have_ended(
    town: Town, ordering: Ordering, dice: random.Random, pause: float
) -> None:
    def over() -> bool:
        try:
            return not ordering.is_alive() and town.ended
        except Unavailable:  # PostgreSQL has just come back
            return False

    deadline = time.monotonic() + 1200
    while not over():
        assert time.monotonic() < deadline, "it never ends"
        time.sleep(dice.uniform(pause / 5, 2 * pause))
        town.strike(dice)
