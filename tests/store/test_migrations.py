"""The schema: as the code describes it, as the other side expects it, and how it gets there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import nancalacc
from nancalacc.errors import SchemaError
from nancalacc.sandbox.postgres import Postgres
from nancalacc.store.database import Database
from nancalacc.store.migrate import (
    VERSION_TABLE,
    alembic_config,
    expected_revision,
    require_current,
    upgrade,
)
from nancalacc.store.tables import metadata

REQUIRED, OPTIONAL = "NO", "YES"

ID = {"id": ("bigint", REQUIRED)}
TIMES = {"ctime": ("timestamp(0)", OPTIONAL), "mtime": ("timestamp(0)", REQUIRED)}
COMPANY = {"third_company_id": ("varchar(20)", REQUIRED), "platform_id": ("varchar(60)", REQUIRED)}
PERSON = {
    "uid": ("varchar(255)", REQUIRED), "def_did": ("varchar(255)", OPTIONAL),
    "def_did_order": ("integer", OPTIONAL), "account": ("varchar(255)", REQUIRED),
    "nick_name": ("varchar(255)", REQUIRED), "password": ("varchar(255)", OPTIONAL),
    "avatar": ("varchar(255)", OPTIONAL), "email": ("varchar(80)", OPTIONAL),
    "gender": ("varchar(60)", OPTIONAL), "title": ("varchar(255)", OPTIONAL),
    "work_place": ("varchar(255)", OPTIONAL), "leader": ("varchar(255)", OPTIONAL),
    "employer": ("varchar(255)", OPTIONAL), "employment_status": ("varchar(60)", REQUIRED),
    "employment_type": ("varchar(60)", OPTIONAL), "phone": ("varchar(200)", OPTIONAL),
    "telephone": ("varchar(200)", OPTIONAL), "source": ("varchar(20)", OPTIONAL),
    "custom_fields": ("varchar(5000)", OPTIONAL),
}  # fmt: skip
CHANGE = {
    "sync_type": ("varchar(20)", OPTIONAL), "update_type": ("varchar(20)", REQUIRED),
    "status": ("integer", OPTIONAL), "msg": ("varchar(2000)", OPTIONAL),
    "operator": ("varchar(100)", REQUIRED), "sync_time": ("timestamp(0)", OPTIONAL),
}  # fmt: skip
MEMBERSHIP = {
    "uid": ("varchar(255)", REQUIRED), "did": ("varchar(255)", REQUIRED),
    "order": ("integer", OPTIONAL), "main": ("integer", OPTIONAL),
}  # fmt: skip
TASK = {"task_id": ("varchar(20)", REQUIRED), "check_type": ("smallint", REQUIRED)}
RECORDED = {
    "created_at": ("timestamp", REQUIRED), "updated_at": ("timestamp", REQUIRED),
    "deleted_at": ("timestamp", OPTIONAL),
}  # fmt: skip

CONTRACT: dict[str, dict[str, tuple[str, str]]] = {
    "tb_company_cfg": {
        **ID, "third_company_id": ("varchar(20)", REQUIRED), "platform_ids": ("varchar(100)", REQUIRED),
        "company_id": ("varchar(20)", REQUIRED), "status": ("smallint", REQUIRED), **TIMES,
    },
    "tb_las_department": {
        **ID, **COMPANY, **TASK, **TIMES, "did": ("varchar(255)", REQUIRED),
        "pid": ("varchar(255)", OPTIONAL), "name": ("varchar(255)", REQUIRED),
        "order": ("integer", OPTIONAL), "source": ("varchar(20)", OPTIONAL),
        "type": ("varchar(255)", OPTIONAL),
    },
    "tb_las_user": {**ID, **COMPANY, **TASK, **PERSON, **TIMES},
    "tb_las_department_user": {
        **ID, **COMPANY, **TASK, **MEMBERSHIP, "ctime": ("timestamp(0)", REQUIRED),
    },
    "tb_las_department_increment": {
        **ID, **COMPANY, **CHANGE, **TIMES, "did": ("varchar(255)", REQUIRED),
        "pid": ("varchar(255)", OPTIONAL), "name": ("varchar(255)", REQUIRED), "order": ("integer", OPTIONAL),
        "source": ("varchar(20)", OPTIONAL), "type": ("varchar(255)", OPTIONAL),
    },
    "tb_las_user_increment": {**ID, **COMPANY, **PERSON, **CHANGE, **TIMES},
    "tb_las_department_user_increment": {
        **ID, **COMPANY, **MEMBERSHIP, **CHANGE, "ctime": ("timestamp(0)", REQUIRED),
        "mtime": ("timestamp(0)", REQUIRED), "dids": ("varchar(5000)", OPTIONAL),
    },
    "task": {
        **ID, "title": ("varchar(255)", REQUIRED), "description": ("text", OPTIONAL),
        "status": ("varchar(20)", REQUIRED), "created_at": ("timestamp(0)", REQUIRED),
        "updated_at": ("timestamp(0)", REQUIRED), "due_date": ("timestamp(0)", OPTIONAL),
        "start_date": ("timestamp(0)", OPTIONAL), "completed_at": ("timestamp(0)", OPTIONAL),
        "creator_id": ("bigint", REQUIRED), "progress": ("smallint", OPTIONAL),
        "estimated_time": ("integer", OPTIONAL), "actual_time": ("integer", OPTIONAL),
    },
    "saga_transactions": {
        **ID, **RECORDED, "transaction_id": ("varchar(64)", REQUIRED), "name": ("varchar(255)", REQUIRED),
        "status": ("varchar(20)", REQUIRED), "current_step": ("varchar(64)", OPTIONAL),
        "progress": ("integer", REQUIRED), "start_time": ("timestamp", REQUIRED),
        "end_time": ("timestamp", OPTIONAL),
    },
    "saga_steps": {
        **ID, **RECORDED, "step_id": ("varchar(64)", REQUIRED), "transaction_id": ("varchar(64)", REQUIRED),
        "step_name": ("varchar(255)", REQUIRED), "status": ("varchar(20)", REQUIRED),
        "action_data": ("jsonb", OPTIONAL), "compensate_data": ("jsonb", OPTIONAL),
        "error_message": ("text", OPTIONAL), "retry_count": ("integer", REQUIRED),
        "max_retries": ("integer", REQUIRED), "start_time": ("timestamp", OPTIONAL),
        "end_time": ("timestamp", OPTIONAL),
    },
    "saga_events": {
        **ID, "transaction_id": ("varchar(64)", REQUIRED), "step_id": ("varchar(64)", OPTIONAL),
        "event_type": ("varchar(50)", REQUIRED), "event_data": ("jsonb", OPTIONAL),
        "created_at": ("timestamp", REQUIRED), "deleted_at": ("timestamp", OPTIONAL),
    },
}  # fmt: skip
ADDED = {
    "saga_transactions": {
        "dag_id", "run_id", "third_company_id", "task_id", "definition", "params", "epoch", "error_message",
    },
    "saga_steps": {"position", "epoch", "attempt", "heartbeat_at", "worker"},
}  # fmt: skip
"""Columns that the design adds to the shared tables."""
UNIQUE = {
    ("tb_company_cfg", "third_company_id"),
    ("tb_company_cfg", "company_id"),
    ("tb_las_department", "did, task_id, third_company_id, platform_id"),
    ("tb_las_user", "uid, task_id, platform_id"),
    ("tb_las_user", "account, task_id, third_company_id"),
    ("tb_las_department_user", "uid, did, task_id, third_company_id, platform_id"),
    ("task", "title"),
    ("saga_transactions", "transaction_id"),
    ("saga_steps", "step_id"),
}
INDEXED = {
    ("tb_las_department", "pid, task_id, third_company_id, platform_id"),
    ("tb_las_department", "task_id, third_company_id"),
    ("tb_las_user", "task_id, third_company_id"),
    ("tb_las_department_user", "did, task_id"),
    ("tb_las_department_user", "uid, task_id"),
    ("tb_las_department_user", "task_id, third_company_id"),
    *((f"tb_las_{what}_increment", "sync_time, status, third_company_id")
      for what in ("department", "user", "department_user")),
    *((f"tb_las_{what}_increment", "mtime") for what in ("department", "user", "department_user")),
    ("tb_las_department_increment", "name"),
    ("tb_las_user_increment", "nick_name"),
    ("task", "status"), ("task", "title"),
    *(("saga_transactions", columns) for columns in ("start_time", "created_at", "deleted_at",
                                                     "status, created_at")),
    *(("saga_steps", columns) for columns in ("status", "start_time", "deleted_at", "transaction_id, status",
                                              "transaction_id, start_time")),
    *(("saga_events", columns) for columns in ("step_id", "created_at", "deleted_at",
                                               "transaction_id, created_at", "event_type, created_at")),
}  # fmt: skip
"""Those of the contract; one whose columns begin another one is left to that."""
COLUMNS = """
SELECT column_name, is_nullable, is_identity, column_default,
       CASE WHEN data_type = 'character varying' THEN 'varchar(' || character_maximum_length || ')'
            WHEN data_type LIKE 'timestamp%' AND datetime_precision = 0 THEN 'timestamp(0)'
            WHEN data_type LIKE 'timestamp%' THEN 'timestamp'
            ELSE data_type END AS kind
FROM information_schema.columns WHERE table_name = :table
"""
INDEXES = """
SELECT c.relname AS name, i.indisunique AS is_unique,
       string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord) AS columns
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
     CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (num, ord)
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
WHERE c.relnamespace = 'public'::regnamespace AND i.indpred IS NULL
GROUP BY c.relname, i.indexrelid, i.indisunique
"""
SAGA_TABLES_OF_THE_CONTRACT = """
CREATE TABLE saga_transactions (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, transaction_id varchar(64) NOT NULL UNIQUE,
  name varchar(255) NOT NULL, status varchar(20) NOT NULL DEFAULT 'pending', current_step varchar(64),
  progress integer NOT NULL DEFAULT 0, start_time timestamp NOT NULL DEFAULT now(), end_time timestamp,
  created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now(),
  deleted_at timestamp);
CREATE TABLE saga_steps (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, step_id varchar(64) NOT NULL UNIQUE,
  transaction_id varchar(64) NOT NULL
    REFERENCES saga_transactions (transaction_id) ON DELETE CASCADE ON UPDATE CASCADE,
  step_name varchar(255) NOT NULL, status varchar(20) NOT NULL DEFAULT 'pending', action_data jsonb,
  compensate_data jsonb, error_message text, retry_count integer NOT NULL DEFAULT 0,
  max_retries integer NOT NULL DEFAULT 3, start_time timestamp, end_time timestamp,
  created_at timestamp NOT NULL DEFAULT now(), updated_at timestamp NOT NULL DEFAULT now(),
  deleted_at timestamp);
CREATE TABLE saga_events (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  transaction_id varchar(64) NOT NULL
    REFERENCES saga_transactions (transaction_id) ON DELETE CASCADE ON UPDATE CASCADE,
  step_id varchar(64) REFERENCES saga_steps (step_id) ON DELETE SET NULL ON UPDATE CASCADE,
  event_type varchar(50) NOT NULL, event_data jsonb, created_at timestamp NOT NULL DEFAULT now(),
  deleted_at timestamp);
CREATE INDEX saga_transactions_idx_created_at ON saga_transactions (created_at);
INSERT INTO saga_transactions (transaction_id, name, status) VALUES ('theirs', 'full', 'completed');
INSERT INTO saga_steps (step_id, transaction_id, step_name, status)
  VALUES ('one', 'theirs', 'fetch', 'completed');
INSERT INTO saga_events (transaction_id, step_id, event_type) VALUES ('theirs', 'one', 'step_completed');
"""


@pytest.fixture
def database(toy_database: Database) -> Database:
    """A migrated database, to be read only."""
    return toy_database


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    yield postgres.create_database("nancalacc_empty")
    postgres.drop_database("nancalacc_empty")


def rows(database: Database, statement: str, **arguments: Any) -> list[Any]:
    with database.transaction() as connection:
        return list(connection.execute(text(statement), arguments))


@pytest.mark.parametrize("table", CONTRACT)
def test_a_shared_table_has_the_columns_of_the_contract(database: Database, table: str) -> None:
    found = {row.column_name: (row.kind, row.is_nullable) for row in rows(database, COLUMNS, table=table)}
    assert {name: found.get(name) for name in CONTRACT[table]} == CONTRACT[table]
    added = set(found) - set(CONTRACT[table])
    assert added >= ADDED.get(table, set())
    if not table.startswith("saga_"):
        assert not added


@pytest.mark.parametrize("table", CONTRACT)
def test_what_others_insert_needs_none_of_our_columns(database: Database, table: str) -> None:
    for row in rows(database, COLUMNS, table=table):
        if row.column_name not in CONTRACT[table]:
            assert row.is_nullable == OPTIONAL or row.column_default is not None, row.column_name


def test_the_tables_of_wps_have_132_columns_as_in_the_original() -> None:
    assert sum(len(columns) for table, columns in CONTRACT.items() if not table.startswith("saga_")) == 132


def test_ids_count_by_themselves_and_may_be_given(database: Database) -> None:
    for table in CONTRACT:
        identity = [
            row.column_name for row in rows(database, COLUMNS, table=table) if row.is_identity == "YES"
        ]
        assert identity == ["id"]


def test_the_unique_keys_and_indexes_of_the_contract_exist(database: Database) -> None:
    found = rows(database, INDEXES)
    assert {(row.name, row.columns) for row in found if row.is_unique} >= UNIQUE
    indexed = {(row.name, row.columns) for row in found}
    assert indexed >= INDEXED


def test_the_tables_are_as_the_code_describes_them(database: Database) -> None:
    with database.transaction() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "include_name": lambda name, kind, _: not (kind == "table" and str(name).startswith("toy_")),
            },
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize(
    "table, has_trigger",
    [(table, "mtime" in CONTRACT[table]) for table in CONTRACT if table.startswith("tb_")],
)
def test_a_change_of_a_row_moves_its_mtime(database: Database, table: str, has_trigger: bool) -> None:
    found = rows(
        database,
        "SELECT tgname FROM pg_trigger WHERE tgrelid = CAST(:table AS regclass) AND NOT tgisinternal",
        table=table,
    )
    assert bool(found) is has_trigger


def test_the_mtime_is_that_of_the_change(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id, mtime)"
                " VALUES ('a', 'b', 'c', '2001-01-01')"
            )
        )
        connection.execute(text("UPDATE tb_company_cfg SET status = 0"))
        mtime, now = connection.execute(
            text("SELECT mtime, CAST(now() AS timestamp(0)) FROM tb_company_cfg")
        ).one()
        assert mtime == now
        connection.rollback()


def test_migrations_are_numbered_in_order_and_their_files_begin_with_the_number() -> None:
    scripts = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())
    assert [script.revision for script in scripts] == sorted(
        (script.revision for script in scripts), reverse=True
    )
    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in scripts)
    assert expected_revision() == scripts[0].revision


def test_a_second_upgrade_changes_nothing(empty_url: str) -> None:
    assert upgrade(empty_url) == expected_revision()
    with Database(empty_url) as database:
        before = rows(database, "SELECT oid FROM pg_class ORDER BY oid")
        assert upgrade(empty_url) == expected_revision()
        assert rows(database, "SELECT oid FROM pg_class ORDER BY oid") == before
        with database.transaction() as connection:
            require_current(connection)


def test_two_processes_may_upgrade_at_once(empty_url: str) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from nancalacc.store.migrate import upgrade; upgrade(sys.argv[1])",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(nancalacc.__file__).parents[1])}
    processes = [
        subprocess.Popen([*command, empty_url], stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert ends == [("", 0), ("", 0)]
    with Database(empty_url) as database, database.transaction() as connection:
        require_current(connection)


def test_tables_of_wps_that_are_there_already_are_kept_with_their_rows(empty_url: str) -> None:
    upgrade(empty_url)
    with Database(empty_url) as database:
        ours = [table for table in metadata.tables if not table.startswith("tb_") and table != "task"]
        with database.transaction() as connection:
            connection.execute(
                text(
                    "INSERT INTO tb_company_cfg (third_company_id, platform_ids, company_id)"
                    " VALUES ('a', 'b', 'c')"
                )
            )
            connection.execute(text("INSERT INTO task (title, creator_id) VALUES ('20260101000000', 1)"))
            for table in [*ours, VERSION_TABLE]:
                connection.execute(text(f"DROP TABLE {table} CASCADE"))
        upgrade(empty_url)
        assert len(rows(database, "SELECT 1 FROM tb_company_cfg")) == 1
        assert len(rows(database, "SELECT 1 FROM task")) == 1
        with database.transaction() as connection:
            require_current(connection)


def test_tables_of_sagas_that_somebody_made_first_are_completed_and_kept_with_their_rows(
    empty_url: str, database: Database
) -> None:
    with Database(empty_url) as theirs:
        with theirs.transaction() as connection:
            connection.execute(text(SAGA_TABLES_OF_THE_CONTRACT))
        upgrade(empty_url)
        for table in ("saga_transactions", "saga_steps", "saga_events"):
            assert set(rows(theirs, COLUMNS, table=table)) == set(rows(database, COLUMNS, table=table))
        assert rows(theirs, "SELECT transaction_id, status, epoch, definition FROM saga_transactions") == [
            ("theirs", "completed", 0, "")
        ]
        assert rows(theirs, "SELECT step_id, status, position FROM saga_steps") == [("one", "completed", 0)]
        assert rows(theirs, "SELECT step_id, event_type FROM saga_events") == [("one", "step_completed")]
        assert {(row.name, row.columns) for row in rows(theirs, INDEXES)} >= INDEXED
        with theirs.transaction() as connection:
            require_current(connection)


@pytest.mark.parametrize(
    "revision, complaint",
    [
        (None, "has no tables yet: run `python -m nancalacc db upgrade`"),
        (
            "ffff",
            "is at revision ffff, which this version .* does not know: install the version that made it",
        ),
    ],
)
def test_another_schema_is_refused_with_what_to_do(
    empty_url: str, revision: str | None, complaint: str
) -> None:
    with Database(empty_url) as database, database.transaction() as connection:
        if revision:
            connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num varchar(32) NOT NULL)"))
            connection.execute(
                text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision}
            )
        with pytest.raises(SchemaError, match=complaint):
            require_current(connection)


def test_an_older_schema_is_refused_with_what_to_do(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade(empty_url)
    monkeypatch.setattr("nancalacc.store.migrate.expected_revision", lambda: "9999")
    with (
        Database(empty_url) as database,
        database.transaction() as connection,
        pytest.raises(SchemaError, match="9999 is needed: run `python -m nancalacc db upgrade`"),
    ):
        require_current(connection)
