"""Everything that can be killed is, while jobs of six tenants are trained and asked."""

import time
from contextlib import closing
from pathlib import Path

from tests.chaos.nursery import Nursery
from tests.chaos.siege import until
from tests.chaos.sizes import Chaos
from tests.chaos.town import ROWS, Asking, Town
from tests.support.postgres import Server

TENANTS = [f"tenant-{number}" for number in range(6)]


def test_nothing_is_lost_doubled_or_confused_while_everything_is_killed(
    chaos: Chaos, nursery: Nursery, tmp_path: Path, postgres: Server, database_url: str
) -> None:
    dice, each = chaos.dice("town"), chaos.of_size(ci=2, release=10)
    with (
        chaos.experiment(
            "all",
            "two services, two workers, an engine and PostgreSQL, killed at random; six tenants",
        ) as found,
        closing(Town(tmp_path, nursery, postgres, database_url)) as town,
    ):
        town.open()
        keys = {tenant: town.key_of(tenant) for tenant in TENANTS}
        asked: dict[str, str] = {}
        for number in range(each):
            for tenant in TENANTS:
                body = {"data": ROWS, "name": f"{tenant}-bot"}
                headers = {"Idempotency-Key": f"{tenant}-{number}"}
                told = town.ask(dice, keys[tenant], "POST", "/finetune", json=body, headers=headers)
                assert told.status_code == 202, told.text
                asked[told.json()["id"]] = tenant
        town.begin_work()
        client = Asking(town, keys, chaos.seed)
        client.start()
        for _ in range(chaos.of_size(ci=8, release=150)):
            time.sleep(dice.uniform(0.1, 0.6))
            town.strike(dice)
        until(lambda: town.ended, 120)
        client.stop.set()
        client.join()
        town.check(asked)
        for adapter in town.ledger.registry.list():
            for version in adapter.versions:
                client.ask(adapter.tenant, version)
        assert client.wrong == []
        unfair = town.unfairness()
        # With a handful of jobs one more or less is more than a fifth.
        assert unfair <= max(0.2, 1 / (each / 2))
        strikes = sum(town.killed.values())
        found.trials, found.unit = strikes, f"kills during {len(asked)} jobs"
        found.result = (
            f"0 lost, 0 doubled, {client.answers:,} answers and 0 of them from a wrong adapter, "
            f"shares within {unfair:.0%}"
        )
