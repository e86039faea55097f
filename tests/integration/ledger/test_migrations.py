from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from adapters.db.connect import Database
from adapters.db.migrate import HEAD, migrate
from adapters.db.schema import metadata
from adapters.ledger import open_ledger
from adapters.settings import LedgerSettings

SCRIPTS = Path(__file__).parents[3] / "adapters" / "db" / "migrations"


def test_the_migrations_make_exactly_the_tables_of_the_schema(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/graft.db")
    migrate(database)
    with database.read() as tx:
        assert compare_metadata(MigrationContext.configure(tx), metadata) == []
    database.close()


def test_the_head_that_the_code_expects_is_the_newest_migration() -> None:
    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == HEAD


def test_what_is_live_when_its_history_begins_can_be_gone_back_to(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/graft.db")
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    with database.write() as tx:
        config.attributes["connection"] = tx
        command.upgrade(config, "0007")
        tx.exec_driver_sql(
            "INSERT INTO adapters (name, base_model, created_at, last_number, revision) VALUES ('bot', 'b', 0, 2, 1)"
        )
        tx.exec_driver_sql("INSERT INTO aliases (adapter, alias, number) VALUES ('bot', 'live', 2)")
    migrate(database)
    with database.read() as tx:
        rows = tx.exec_driver_sql("SELECT adapter, seq, number, undone FROM live_history").all()
        weights = tx.exec_driver_sql("SELECT weight FROM aliases").scalars().all()
    assert ([tuple(row) for row in rows], weights) == ([("bot", 1, 2, 0)], [0.0])
    database.close()


def test_processes_that_start_together_on_a_new_home_all_find_it_ready(tmp_path: Path) -> None:
    settings = LedgerSettings(home=tmp_path)
    with ThreadPoolExecutor(6) as pool:
        ledgers = list(pool.map(lambda _: open_ledger(settings), range(6)))
    for ledger in ledgers:
        assert ledger.jobs.list() == []
        ledger.close()
