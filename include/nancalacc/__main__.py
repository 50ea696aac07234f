"""The commands: `python -m nancalacc …`."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nancalacc.errors import NancalaccError

app = typer.Typer(no_args_is_help=True)
database = typer.Typer(help="The nancalacc database.", no_args_is_help=True)
app.add_typer(database, name="db")
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


@app.callback()
def prepare() -> None:
    """Keeps the accounts of WPS 365 the same as those of DingTalk."""
    # Connections are looked up as Airflow's own commands do: environment, secrets backends, its database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def _fail(error: Exception) -> typer.Exit:
    err.print(f"Error: {error}", soft_wrap=True)
    return typer.Exit(1)


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


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


@app.command()
def check() -> None:
    """Test every connection, and name what is wrong."""
    from nancalacc.config import Settings
    from nancalacc.orchestration.checks import check_database, check_dingtalk, check_wps

    try:
        settings = Settings.from_env()
    except NancalaccError as error:
        raise _fail(error) from None
    checks: dict[str, Callable[[], str]] = {"nancalacc_db": check_database}
    for dingtalk, wps in settings.companies:
        checks[dingtalk] = lambda conn_id=dingtalk: check_dingtalk(conn_id)  # type: ignore[misc]
        checks[wps] = lambda conn_id=wps: check_wps(conn_id)  # type: ignore[misc]
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


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8765,
    database_url: Annotated[
        str, typer.Option(envvar="SANDBOX_DATABASE_URL", help="Database whose tables its WPS reads.")
    ] = "",
) -> None:
    """Run stand-ins for DingTalk and WPS, with an invented organisation."""
    from nancalacc.sandbox.server import serve

    _log_to_stderr()
    try:
        asyncio.run(serve(host=host, port=port, database_url=database_url or None))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    except (NancalaccError, OSError) as error:
        raise _fail(error) from None


if __name__ == "__main__":
    app(prog_name="python -m nancalacc")
