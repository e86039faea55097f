from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from adapters.db.connect import Database
from adapters.db.migrate import HEAD, migrate
from adapters.db.schema import metadata
from adapters.errors import AdapterReadOnly, InvalidValue
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings
from adapters.sharing import Share, Use
from tests.support.postgres import Server

SCRIPTS = Path(__file__).parents[3] / "adapters" / "db" / "migrations"


@pytest.fixture(params=["sqlite", "postgres"])
def new_settings(tmp_path: Path, request: pytest.FixtureRequest) -> LedgerSettings:
    postgres = request.param == "postgres"
    url = request.getfixturevalue("empty_database_url") if postgres else ""
    return LedgerSettings(home=tmp_path, database_url=url)


def test_the_migrations_make_exactly_the_tables_of_the_schema(new_settings: LedgerSettings) -> None:
    database = Database(new_settings.database)
    migrate(database)
    with database.read() as tx:
        assert compare_metadata(MigrationContext.configure(tx), metadata) == []
    database.close()


def test_the_head_that_the_code_expects_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == HEAD


def test_what_is_live_when_its_history_begins_can_be_gone_back_to(
    new_settings: LedgerSettings,
) -> None:
    database = Database(new_settings.database)
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with database.write() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0009")
        tx.exec_driver_sql(
            "INSERT INTO adapters (name, base_model, created_at, last_number, revision) VALUES ('bot', 'b', 0, 2, 1)"
        )
        tx.exec_driver_sql("INSERT INTO aliases (adapter, alias, number) VALUES ('bot', 'live', 2)")
    migrate(database)
    with database.read() as tx:
        rows = tx.exec_driver_sql("SELECT adapter, seq, number, undone FROM live_history").all()
        weights = tx.exec_driver_sql("SELECT weight FROM aliases").scalars().all()
    assert ([tuple(row) for row in rows], weights) == ([("bot", 1, 2, False)], [0.0])
    database.close()


def test_ledgers_that_are_opened_together_for_the_first_time_all_find_it_ready(
    new_settings: LedgerSettings,
) -> None:
    with ThreadPoolExecutor(6) as pool:
        ledgers = list(pool.map(lambda _: open_ledger(new_settings), range(6)))
    for ledger in ledgers:
        assert ledger.jobs.list() == []
        ledger.close()


def test_what_was_there_before_there_were_tenants_is_the_default_tenants(tmp_path: Path) -> None:
    settings = LedgerSettings(home=tmp_path)
    database, config = Database(settings.database), Config()
    config.set_main_option("script_location", str(SCRIPTS))
    row = "('file-1', 't.jsonl', 'fine-tune', 4, 'd', 0.0)"
    with database.write() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0007")
        tx.execute(
            text(
                f"INSERT INTO files (id, filename, purpose, bytes, digest, created_at) VALUES {row}"
            )
        )
    database.close()
    ledger = open_ledger(settings)
    assert ledger.of("default").files.get("file-1").bytes == 4
    assert ledger.of("acme").files.list() == []
    ledger.close()


def test_what_was_shared_by_a_flag_is_everybodys_to_ask_and_continue(
    new_settings: LedgerSettings,
) -> None:
    database, config = Database(new_settings.database), Config()
    config.set_main_option("script_location", str(SCRIPTS))
    columns = "name, base_model, created_at, last_number, revision, tenant, shared"
    with database.write() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0009")
        for name, shared in (("open", "true"), ("own", "false")):
            values = f"'{name}', 'base', 7.0, 0, 1, 'theirs', {shared}"
            tx.execute(text(f"INSERT INTO adapters ({columns}) VALUES ({values})"))
    database.close()
    ledger = open_ledger(new_settings)
    assert ledger.of("ours").registry.get("open", Use.CONTINUE).shares == (
        Share(tenant="*", may_continue=True, created_at=7.0),
    )
    with pytest.raises(AdapterReadOnly):
        ledger.of("ours").registry.get("open", Use.DOWNLOAD)
    assert [one.name for one in ledger.of("ours").registry.list()] == ["open"]
    assert [one.name for one in ledger.of("theirs").registry.list()] == ["open", "own"]
    ledger.close()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Server) -> None:
    postgres.execute(
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    database = Database(postgres.url("latin"))
    with pytest.raises(InvalidValue, match="LATIN1, and graft needs UTF8"):
        migrate(database)
    database.close()
    postgres.drop("latin")


def test_a_user_who_may_make_no_tables_is_told_so(postgres: Server) -> None:
    name = postgres.create(migrated=False)
    postgres.execute("CREATE ROLE reader LOGIN")
    database = Database(postgres.url(name).replace("graft@", "reader@"))
    with pytest.raises(InvalidValue, match="may not do what is needed: permission denied"):
        migrate(database)
    database.close()
    postgres.drop(name)
    postgres.execute("DROP ROLE reader")
