"""The command line: serving, the worker, the doctor, host configuration, and a command for each tool."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from qdrant_model_migration.cli_names import COMMANDS, PROGRAM, RUN, RUN_TITLE, TITLES
from qdrant_model_migration.errors import LeaseLost, MigrationError
from qdrant_model_migration.hosts import Host


class Commands(TyperGroup):
    """Adds a command for each tool, made from its schema when it is asked for: serving need not know them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, RUN, *super().list_commands(ctx)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of commands. The tools' own come by their titles: their whole help would be made of tools that nobody asked for."""
        others = {name: self.get_command(ctx, name) for name in super().list_commands(ctx)}
        limit = formatter.width - 6 - max(map(len, [*TITLES, *others]))
        rows = [(name, f"{title}.") for name, title in [*TITLES.items(), (RUN, RUN_TITLE)]]
        rows += [(name, command.get_short_help_str(limit)) for name, command in others.items() if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name == RUN:
            from qdrant_model_migration.cli_run import run_command

            function, text, epilog = run_command()
        elif cmd_name in COMMANDS:
            from qdrant_model_migration.cli_tools import EXIT_CODES, tool_command

            (function, text), epilog = tool_command(cmd_name), EXIT_CODES
        else:
            return super().get_command(ctx, cmd_name)
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        single.command(name=cmd_name, help=text, epilog=epilog)(function)
        return typer.main.get_command(single)


app = typer.Typer(cls=Commands, no_args_is_help=False, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def fail(error: MigrationError) -> NoReturn:
    """Say it and leave with 1."""
    typer.echo(str(error), err=True)
    raise typer.Exit(1)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector: importing makes very many objects and hardly any garbage, and looking for it takes a seventh of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version", is_eager=True)] = False) -> None:
    """Migrate a Qdrant collection to another embedding model. Without a command: serve MCP over stdio."""
    if version:
        from qdrant_model_migration import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        serve()


@app.command()
def serve(
    http: Annotated[bool, typer.Option("--http", help="serve over streamable HTTP, at /mcp, instead of stdio")] = False,
    host: Annotated[
        str, typer.Option(help="address to listen on; one that other machines reach needs QDRANT_MIGRATION_HTTP_TOKEN")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 takes a free one", min=0, max=65535)] = 8765,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="another host name by which clients reach the server, as behind a proxy; repeat it")
    ] = None,
) -> None:
    """Serve MCP: over stdio, as hosts start it, or over HTTP."""
    from qdrant_model_migration.redaction import log_to_stderr
    from qdrant_model_migration.telemetry import configure_telemetry

    log_to_stderr(logging.WARNING)
    try:
        configure_telemetry()
        with _uncollected():
            from qdrant_model_migration.app import build_server
            from qdrant_model_migration.environment import read_settings

            settings = read_settings()
            server = build_server(settings)
        if http:
            from qdrant_model_migration.serving import serve_http

            serve_http(server, settings, host=host, port=port, names=allow_host or ())
            return
    except MigrationError as error:
        fail(error)
    if sys.stdin.isatty():
        typer.echo(f"Serving MCP over stdio, for a host that speaks it. For people: {PROGRAM} --help", err=True)
    server.run("stdio")


@app.command()
def worker(
    migration_id: str,
    connection: Annotated[str | None, typer.Option(help="the connection that holds the ledger; looked for when left out")] = None,
    log: Annotated[str | None, typer.Option(help="where this process's output goes, for the record")] = None,
    idle_exit: Annotated[float, typer.Option(help="leave when nothing was to do for so many seconds")] = 30.0,
    stand_by: Annotated[
        bool, typer.Option("--stand-by", help="only take over should the driver die while writers wait, and leave when they no longer do")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="work the ranges by actors of this Ray cluster: 'auto' on one of its nodes, or ray://HOST:10001")
    ] = None,
    actors: Annotated[int | None, typer.Option(help="of the Ray cluster; as many as it has room for when left out", min=1)] = None,
    actor_cpus: Annotated[float | None, typer.Option(help="cores of each actor", min=0)] = None,
    actor_gpus: Annotated[float | None, typer.Option(help="GPUs of each actor; a share such as 0.5 is possible", min=0)] = None,
) -> None:
    """Drive one migration: backfill, catch up, carry out what is recorded. By hand, by cron or as a Kubernetes Job."""
    import anyio

    from qdrant_model_migration.redaction import log_to_stderr
    from qdrant_model_migration.telemetry import configure_telemetry

    log_to_stderr()
    # As the settings of the same names, so that the one who stands by for this worker has them as well.
    given = {"RAY_ADDRESS": ray, "RAY_ACTORS": actors, "RAY_ACTOR_CPUS": actor_cpus, "RAY_ACTOR_GPUS": actor_gpus}
    os.environ.update({f"QDRANT_MIGRATION_{name}": str(value) for name, value in given.items() if value is not None})
    try:
        configure_telemetry()
        anyio.run(_work, migration_id, connection, log, idle_exit, stand_by, ray is not None)
    except LeaseLost as error:
        logging.getLogger(__name__).info("%s", error)
    except MigrationError as error:
        logging.getLogger(__name__).error("%s", error)
        raise typer.Exit(1) from None


async def _work(migration_id: str, connection: str | None, log: str | None, idle_exit: float, stand_by: bool, by_ray: bool) -> None:
    with _uncollected():
        import anyio

        from qdrant_model_migration.environment import read_settings
        from qdrant_model_migration.operations.context import OperationContext
        from qdrant_model_migration.operations.finding import find_migration
        from qdrant_model_migration.worker.driver import Driver
        from qdrant_model_migration.worker.spawn import spawn_worker
        from qdrant_model_migration.worker.standby import drive_when_needed

    asked = anyio.Event()

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                asked.set()

    failure: list[MigrationError] = []
    async with OperationContext(read_settings(), patience_s=20.0) as context, anyio.create_task_group() as group:
        group.start_soon(listen)
        try:
            if connection is None:
                ledger, _ = await find_migration(context, migration_id)
                connection = ledger.gateway.connection.name
            if by_ray:
                found = await context.ledger(connection)
                await found.save_pace(migration_id, (await found.pace(migration_id)).model_copy(update={"executor": "ray"}))
            driver = Driver(
                context,
                migration_id,
                connection=connection,
                log=log,
                is_stopping=asked.is_set,
                idle_exit_s=idle_exit,
                stand_by=lambda migration: spawn_worker(context.settings, migration, stands_by=True),
            )
            if stand_by:
                await drive_when_needed(context, driver, migration_id, connection, is_stopping=asked.is_set)
            else:
                await driver.run()
        except MigrationError as error:
            failure.append(error)
        group.cancel_scope.cancel()
    if failure:
        raise failure[0]


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave the collections and records for you to look at")] = False,
) -> None:
    """Show a whole migration on shipped documents, without network or server; with QDRANT_URL in collections of its own there."""
    from qdrant_model_migration.demo import demo as show
    from qdrant_model_migration.redaction import log_to_stderr

    log_to_stderr(logging.ERROR)
    try:
        code = show(keep=keep)
    except MigrationError as error:
        fail(error)
    raise typer.Exit(code)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the checks as JSON")] = False,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="prove rights and guarded writes on scratch collections, which are removed")
    ] = True,
    models: Annotated[bool, typer.Option("--models/--no-models", help="load each configured model and embed a text")] = True,
    clean: Annotated[bool, typer.Option("--clean", help="delete scratch collections that a killed probe left behind")] = False,
) -> None:
    """Check settings, connections, rights, ledger, models and folders; each problem with its remedy. Exit code 1 when a check fails."""
    import anyio

    from qdrant_model_migration.doctor import diagnose, report
    from qdrant_model_migration.redaction import log_to_stderr

    log_to_stderr(logging.CRITICAL)
    checks = anyio.run(diagnose, write, models, clean)
    typer.echo(report(checks, as_json=as_json))
    raise typer.Exit(1 if any(check.state == "fail" for check in checks) else 0)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="the folder that the files are written to; it must be there", show_default=False)],
    migration_id: Annotated[str | None, typer.Argument(help="the migration; the only open one when left out", show_default=False)] = None,
    connection: Annotated[str | None, typer.Option(help="the connection that holds the ledger; looked for when left out")] = None,
) -> None:
    """Write the report of a migration: report.md, and report.html with its charts, which needs nothing but a browser."""
    import anyio

    from qdrant_model_migration.redaction import log_to_stderr

    log_to_stderr(logging.ERROR)
    try:
        for path in anyio.run(_report, migration_id, connection, out):
            typer.echo(f"Wrote {path}")
    except MigrationError as error:
        fail(error)


async def _report(migration_id: str | None, connection: str | None, out: Path) -> Sequence[Path]:
    from qdrant_model_migration.environment import read_settings
    from qdrant_model_migration.operations.context import OperationContext
    from qdrant_model_migration.operations.finding import find_migration
    from qdrant_model_migration.operations.report_files import check_folder, write_report

    check_folder(out)
    failure: MigrationError | None = None
    async with OperationContext(read_settings()) as context:
        try:
            return await write_report(*await find_migration(context, migration_id, connection), out)
        except MigrationError as error:
            # Raised outside the context's task group, which would wrap it.
            failure = error
    raise failure


@app.command()
def config(
    host: Annotated[Host, typer.Argument(help="the host to be configured")],
    uvx: Annotated[bool, typer.Option("--uvx", help="start it with uvx from the package index instead of this installation")] = False,
) -> None:
    """Print the block that adds this server to a host: with absolute paths, without keys. Where it belongs is told on stderr."""
    from qdrant_model_migration.environment import read_settings
    from qdrant_model_migration.hosts import block_text, by_uvx, environment_of, notes, this_installation

    try:
        environment = environment_of(read_settings())
    except MigrationError as error:
        fail(error)
    start = by_uvx() if uvx else this_installation()
    typer.echo(block_text(host, start, environment), nl=False)
    for note in notes(host, start, environment):
        typer.echo(note, err=True)
