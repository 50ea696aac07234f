"""The commands: `python -m nancalacc …`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from nancalacc.errors import IllegalTransitionError, NancalaccError

app = typer.Typer(no_args_is_help=True)
database = typer.Typer(help="The nancalacc database.", no_args_is_help=True)
app.add_typer(database, name="db")
events = typer.Typer(help="The events of DingTalk in the inbox.", no_args_is_help=True)
app.add_typer(events, name="events")
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)
WHY = "Why; it is recorded with the event, beside your name."


@app.callback()
def prepare() -> None:
    """Keeps the organisation in WPS 365 the same as in DingTalk."""
    # Connections are looked up as Airflow's own commands do: environment, secrets backends, its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # What it says about every look at the schema is of no use to who asked for something else.
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _fail(error: Exception) -> typer.Exit:
    err.print(f"Error: {error}", soft_wrap=True)
    return typer.Exit(1)


def _log_to_stderr() -> None:
    from nancalacc.environment import log_level

    logging.basicConfig(level=log_level(), format="%(asctime)s %(levelname)s %(message)s", force=True)


@database.command("upgrade")
def db_upgrade() -> None:
    """Bring the schema to the newest revision (connection `nancalacc_db`)."""
    from nancalacc.orchestration.hooks import database_url
    from nancalacc.store.migrate import upgrade

    try:
        revision = upgrade(database_url())
    except NancalaccError as error:
        raise _fail(error) from None
    out.print(f"The nancalacc database is at revision {revision}")


@database.command("stats")
def db_stats() -> None:
    """Show how many rows each table has, and how large it is with its indexes."""
    from nancalacc.orchestration.hooks import open_database
    from nancalacc.store.statistics import table_sizes

    try:
        with open_database() as opened, opened.transaction() as connection:
            sizes = table_sizes(connection)
    except NancalaccError as error:
        raise _fail(error) from None
    table = Table("Table", box=None)
    for heading in ("Rows", "Size"):
        table.add_column(heading, justify="right")
    for each in sizes:
        table.add_row(each.name, str(each.rows), decimal(each.size))
    table.add_section()
    table.add_row("all", str(sum(each.rows for each in sizes)), decimal(sum(each.size for each in sizes)))
    out.print(table)


@app.command()
def check() -> None:
    """Test every connection, and name what is wrong."""
    from nancalacc.config import Settings
    from nancalacc.orchestration.checks import check_database, check_dingtalk, check_notifier, check_wps

    try:
        settings = Settings.from_env()
    except NancalaccError as error:
        raise _fail(error) from None
    checks: dict[str, Callable[[], str]] = {"nancalacc_db": check_database}
    for dingtalk, wps in settings.companies:
        checks[dingtalk] = partial(check_dingtalk, dingtalk)
        checks[wps] = partial(check_wps, wps)
    if settings.notify_conn_id:
        checks[settings.notify_conn_id] = partial(check_notifier, settings)
    failed = 0
    for name, run in checks.items():
        try:
            out.print(f"ok      {name}: {run()}")
        except NancalaccError as error:
            failed += 1
            out.print(f"FAILED  {name}: {error}", style="red")
    if failed:
        raise typer.Exit(1)


@app.command()
def listen(
    liveness: Annotated[
        Path | None, typer.Option(help="File to touch while DingTalk is connected and the database works.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Only tell whether the listener that touches this file is alive.")
    ] = None,
) -> None:
    """Receive the events of every configured DingTalk app, until told to stop."""
    try:
        if check is not None:
            from nancalacc.orchestration.liveness import require_alive

            require_alive(check)
            return
        from nancalacc.orchestration.listen import listen as run

        _log_to_stderr()
        run(liveness=liveness)
    except NancalaccError as error:
        raise _fail(error) from None


@events.command("list")
def events_list(
    status: Annotated[str, typer.Option(help="pending, claimed, done or dead.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="For example user_add_org.")] = "",
    company: Annotated[str, typer.Option(help="Id of the WPS connection.")] = "",
    object_id: Annotated[str, typer.Option("--object", help="A userid or department id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
) -> None:
    """List events, newest first."""
    from nancalacc.orchestration.events_cli import LIST_COLUMNS, EventFilter, list_events
    from nancalacc.orchestration.hooks import open_database

    try:
        wanted = EventFilter(status, event_type, company, object_id, limit)
        with open_database() as opened, opened.transaction() as connection:
            rows, total = list_events(connection, wanted)
    except NancalaccError as error:
        raise _fail(error) from None
    table = Table(*LIST_COLUMNS, box=None)
    for row in rows:
        table.add_row(*("" if value is None else _shown(value) for value in row))
    out.print(table)
    out.print(f"{len(rows)} of {total}")


@events.command("show")
def events_show(event_id: Annotated[int, typer.Argument(help="Its id, as `list` shows it.")]) -> None:
    """Show everything about one event."""
    from nancalacc.orchestration.events_cli import show_event
    from nancalacc.orchestration.hooks import open_database

    try:
        with open_database() as opened, opened.transaction() as connection:
            values = show_event(connection, event_id)
    except NancalaccError as error:
        raise _fail(error) from None
    for name, value in values.items():
        out.print(f"{name:18}{'' if value is None else _shown(value)}", soft_wrap=True)


@events.command("retry")
def events_retry(
    event_ids: Annotated[list[int] | None, typer.Argument(help="Ids of dead events.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every dead event that can be read.")] = False,
    reason: Annotated[str, typer.Option(help=WHY)] = "",
) -> None:
    """Have dead events tried again."""
    from nancalacc.orchestration.events_cli import retry_event

    change = partial(retry_event, reason=reason)
    _change_events(event_ids, everything=everything, unreadable=False, change=change, done="queued again")


@events.command("drop")
def events_drop(
    event_ids: Annotated[list[int] | None, typer.Argument(help="Ids of dead events.")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every dead event.")] = False,
    reason: Annotated[str, typer.Option(help=WHY)] = "",
) -> None:
    """Give dead events up."""
    from nancalacc.orchestration.events_cli import drop_event

    change = partial(drop_event, reason=reason)
    _change_events(event_ids, everything=everything, unreadable=True, change=change, done="dropped")


def _change_events(
    event_ids: list[int] | None,
    *,
    everything: bool,
    unreadable: bool,
    change: Callable[[Any, int], bool],
    done: str,
) -> None:
    from nancalacc.orchestration.events_cli import chosen
    from nancalacc.orchestration.hooks import open_database

    failed = False
    try:
        with open_database() as opened:
            with opened.transaction() as connection:
                wanted = chosen(connection, event_ids or [], all_dead=everything, unreadable=unreadable)
            for event_id in wanted:
                try:
                    with opened.transaction() as connection:
                        is_news = change(connection, event_id)
                except IllegalTransitionError as error:
                    failed = True
                    err.print(f"Error: {error}", soft_wrap=True)
                    continue
                out.print(f"Event {event_id} is {done if is_news else 'left as it is'}")
    except NancalaccError as error:
        raise _fail(error) from None
    if failed:
        raise typer.Exit(1)


def _shown(value: object) -> str:
    return value.isoformat(" ", "seconds") if isinstance(value, datetime) else str(value)


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8765,
    database_url: Annotated[
        str, typer.Option(envvar="SANDBOX_DATABASE_URL", help="Database whose tables its WPS reads.")
    ] = "",
) -> None:
    """Run stand-ins for DingTalk and WPS, with an invented organisation."""
    from nancalacc.sandbox.server import serve

    try:
        _log_to_stderr()
        asyncio.run(serve(host=host, port=port, database_url=database_url or None))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except (NancalaccError, OSError) as error:
        raise _fail(error) from None


if __name__ == "__main__":
    app(prog_name="python -m nancalacc")
