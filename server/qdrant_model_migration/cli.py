"""The command line: serving, the worker, and the same operations as the tools."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated, NoReturn

import anyio
import typer

from qdrant_model_migration.errors import LeaseLost, MigrationError
from qdrant_model_migration.settings import read_settings

app = typer.Typer(no_args_is_help=False, add_completion=False, pretty_exceptions_enable=False)


def fail(error: MigrationError) -> NoReturn:
    """Say it and leave with 1."""
    typer.echo(str(error), err=True)
    raise typer.Exit(1)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Logs never go to stdout: under stdio that is the protocol's."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True)
    for noisy in ("httpx", "httpcore", "mcp", "stamina"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context) -> None:
    """Migrate a Qdrant collection to another embedding model. Without a command: serve MCP over stdio."""
    if ctx.invoked_subcommand is None:
        serve()


@app.command()
def serve(
    http: Annotated[bool, typer.Option("--http", help="serve over streamable HTTP instead of stdio")] = False,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8765,
) -> None:
    """Serve MCP."""
    from qdrant_model_migration.app import build_server

    log_to_stderr(logging.WARNING)
    try:
        server = build_server(read_settings())
    except MigrationError as error:
        fail(error)
    if http:
        from qdrant_model_migration.hosts import serve_http

        serve_http(server, read_settings(), host=host, port=port)
    else:
        server.run("stdio")


@app.command()
def worker(
    migration_id: str,
    connection: Annotated[str, typer.Option(help="the connection that holds the ledger")] = "default",
    log: Annotated[str | None, typer.Option(help="where this process's output goes, for the record")] = None,
    idle_exit: Annotated[float, typer.Option(help="leave when nothing was to do for so many seconds")] = 30.0,
) -> None:
    """Drive one migration: backfill, catch up, carry out what is recorded. By hand, by cron or as a Kubernetes Job."""
    log_to_stderr()
    try:
        anyio.run(_work, migration_id, connection, log, idle_exit)
    except LeaseLost as error:
        logging.getLogger(__name__).info("%s", error)
    except MigrationError as error:
        logging.getLogger(__name__).error("%s", error)
        raise typer.Exit(1) from None


async def _work(migration_id: str, connection: str, log: str | None, idle_exit: float) -> None:
    from qdrant_model_migration.operations.context import OperationContext
    from qdrant_model_migration.worker.driver import Driver

    asked = anyio.Event()

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                asked.set()

    failure: list[MigrationError] = []
    async with OperationContext(read_settings(), patience_s=20.0) as context, anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            await Driver(context, migration_id, connection=connection, log=log, is_stopping=asked.is_set, idle_exit_s=idle_exit).run()
        except MigrationError as error:
            failure.append(error)
        group.cancel_scope.cancel()
    if failure:
        raise failure[0]
