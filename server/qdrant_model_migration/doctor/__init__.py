"""Is everything in order for a migration? Settings, connections, rights, ledger, models, folders and hosts, each problem with its remedy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from qdrant_model_migration import __version__
from qdrant_model_migration.doctor.check import Check
from qdrant_model_migration.doctor.host_files import host_checks
from qdrant_model_migration.doctor.machine import clock_check, folder_checks
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import AccessDenied, AlreadyExists, ConnectionFailed, MigrationError
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.status import worker_of
from qdrant_model_migration.qdrant.gateway import GATES, Gateway
from qdrant_model_migration.qdrant.probe import leftovers, prove_guard, prove_rights
from qdrant_model_migration.serving import is_loopback
from qdrant_model_migration.settings import Connection, Settings

__all__ = ["Check", "diagnose", "report"]

PATIENCE_S = 3.0
MODEL_TIMEOUT_S = 120.0
LEAST_VERSION = GATES["update_filter"]


async def diagnose(is_writing: bool = True, with_models: bool = True, is_cleaning: bool = False) -> list[Check]:
    """Every check, in the order in which a migration would stumble. Writes only scratch collections, and removes them."""
    try:
        settings = read_settings()
    except MigrationError as error:
        return [Check(name="settings", state="fail", text=str(error), remedy="Correct the variable; nothing else was checked.")]
    checks = [_settings(settings)]
    async with OperationContext(settings, patience_s=PATIENCE_S) as context:
        for name in settings.connections:
            checks += [check async for check in _connection(context, name, is_writing=is_writing, is_cleaning=is_cleaning)]
        if with_models:
            checks += [check async for check in _models(context, is_writing=is_writing and not settings.is_read_only)]
    return [*checks, *folder_checks(settings), *host_checks(Path.home(), Path.cwd())]


def report(checks: list[Check], *, as_json: bool) -> str:
    """The report as text or JSON."""
    if as_json:
        return json.dumps({"version": __version__, "checks": [c.model_dump() for c in checks]}, indent=2, ensure_ascii=False)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<4}  {check.name}: {check.text}")
        if check.remedy:
            lines.append(f"      -> {check.remedy}")
    counts = {state: sum(c.state == state for c in checks) for state in ("ok", "warn", "fail")}
    lines.append(f"\n{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed.")
    return "\n".join(lines)


def _settings(settings: Settings) -> Check:
    mode = "read-only" if settings.is_read_only else "reading and writing"
    text = f"valid; {mode}; connections: {', '.join(settings.connections)}; models: {', '.join(settings.models) or 'none configured'}"
    return Check(name="settings", state="ok", text=text)


async def _connection(context: OperationContext, name: str, *, is_writing: bool, is_cleaning: bool) -> AsyncIterator[Check]:
    connection = context.settings.connection(name)
    what = f"connection '{name}'"
    if (exposed := _exposed(connection)) is not None:
        yield exposed
    try:
        gateway = await context.gateway(name)
        facts = await gateway.facts()
        # The version is told to anybody; only a listing shows whether the key is accepted.
        count = len(await gateway.collections())
    except MigrationError as error:
        yield Check(name=what, state="fail", text=str(error), remedy=_remedy(error, connection))
        return
    where = f"embedded database at {connection.path}" if connection.is_embedded else "server"
    hint = "Set QDRANT_URL to work on a server." if context.settings.is_default_location and name == "default" else None
    yield Check(
        name=what, state="warn" if hint else "ok", text=f"{where}, Qdrant {facts.version}, {count} collections readable", remedy=hint
    )
    if (clock := clock_check(gateway, name)) is not None:
        yield clock
    yield _version(gateway, facts.version, facts.capabilities, is_enough=facts.can("update_filter"), name=name)
    if is_writing and not context.settings.is_read_only:
        async for check in _writes(context, gateway, name):
            yield check
    else:
        why = "QDRANT_MIGRATION_READ_ONLY is set" if context.settings.is_read_only else "--no-write"
        yield Check(name=f"rights on '{name}'", state="skip", text=f"not proven ({why})")
    yield await _leftovers(gateway, name, is_cleaning=is_cleaning and not context.settings.is_read_only)
    async for check in _ledger(context, name):
        yield check


def _exposed(connection: Connection) -> Check | None:
    """A key that travels in the clear, to another machine."""
    parts = urlsplit(connection.url or "")
    if parts.scheme != "http" or connection.api_key is None or is_loopback(parts.hostname or ""):
        return None
    return Check(
        name=f"encryption to '{connection.name}'",
        state="warn",
        text="the key travels unencrypted: the address begins with http:// and is not this machine",
        remedy="Use an https:// address, or a tunnel.",
    )


def _remedy(error: MigrationError, connection: Connection) -> str:
    variable, key = ("QDRANT_URL", "QDRANT_API_KEY") if connection.name == "default" else ("QDRANT_MIGRATION_CONNECTIONS",) * 2
    if isinstance(error, AccessDenied):
        return f"Set {key} to a key of this Qdrant that may manage collections." + ("" if connection.api_key else " None is set now.")
    if isinstance(error, AlreadyExists):
        return "Close the other host or command that has the folder open, or run a Qdrant server and set QDRANT_URL."
    if isinstance(error, ConnectionFailed) and connection.is_embedded:
        return "Set QDRANT_PATH to a folder that can be written."
    return f"Start the server, or correct {variable} (REST, usually port 6333; https:// where it has TLS)."


def _version(gateway: Gateway, version: str, capabilities: list[str], *, is_enough: bool, name: str) -> Check:
    least = ".".join(map(str, LEAST_VERSION))
    if not is_enough:
        return Check(
            name=f"version of '{name}'",
            state="fail",
            text=f"Qdrant {version} lacks conditional writes, on which the ledger and the backfill rest",
            remedy=f"Upgrade it to {least} or later, one minor version at a time.",
        )
    missing = [f"{feature} (from {'.'.join(map(str, GATES[feature]))})" for feature in GATES if feature not in capabilities]
    lacks = f"; without {', '.join(missing)}" if missing and not gateway.connection.is_embedded else ""
    return Check(name=f"version of '{name}'", state="ok", text=f"has {', '.join(capabilities)}{lacks}")


async def _writes(context: OperationContext, gateway: Gateway, name: str) -> AsyncIterator[Check]:
    try:
        await prove_rights(gateway, context.settings.ledger)
    except MigrationError as error:
        remedy = (
            "Use a key with full rights (a migration creates collections and moves aliases), or set QDRANT_MIGRATION_READ_ONLY=true to inspect only."
            if isinstance(error, AccessDenied)
            else "See the log of the Qdrant server; it refused what a migration needs."
        )
        yield Check(name=f"rights on '{name}'", state="fail", text=str(error), remedy=remedy)
        return
    yield Check(name=f"rights on '{name}'", state="ok", text="collections, points and aliases can be created and deleted (proven)")
    try:
        by_mode = await prove_guard(gateway)
    except MigrationError as error:
        yield Check(name=f"guard on '{name}'", state="fail", text=str(error), remedy="Upgrade Qdrant: a backfill must not overwrite what the app writes.")  # fmt: skip
        return
    how = "update_mode" if by_mode else "a filter that no existing point passes"
    yield Check(name=f"guard on '{name}'", state="ok", text=f"insert-only writes hold (proven by a canary, by {how})")


async def _leftovers(gateway: Gateway, name: str, *, is_cleaning: bool) -> Check:
    what = f"leftovers on '{name}'"
    try:
        found = await leftovers(gateway)
        if not found:
            return Check(name=what, state="ok", text="none")
        if not is_cleaning:
            return Check(
                name=what,
                state="warn",
                text=f"{len(found)} scratch collections of a killed probe: {', '.join(found)}",
                remedy="`qdrant-model-migration doctor --clean` deletes them; not while another doctor, create-target or a sample with a model of the server runs.",
            )
        aliases = await gateway.aliases()
        for collection in found:
            for alias in (a for a, target in aliases.items() if target == collection):
                await gateway.delete_alias(alias)
            await gateway.delete_collection(collection)
        return Check(name=what, state="ok", text=f"deleted: {', '.join(found)}")
    except MigrationError as error:
        return Check(
            name=what, state="fail", text=str(error), remedy="Delete collections that begin with '_model_migration_probe_' by hand."
        )


async def _ledger(context: OperationContext, name: str) -> AsyncIterator[Check]:
    what = f"ledger on '{name}'"
    try:
        ledger = await context.ledger(name)
        if not await ledger.exists():
            yield Check(name=what, state="ok", text=f"none yet; {context.settings.ledger!r} is created with the first migration")
            return
        found = [m for m in await ledger.migrations() if m.is_open]
        yield Check(name=what, state="ok", text=f"{context.settings.ledger!r}, {len(found)} open migrations")
        for migration in found:
            _, lease = await ledger.lease(migration.id)
            worker = worker_of(lease, ledger.now())
            line = f"{migration.source.collection} -> {migration.target.collection}, {migration.phase.value}, worker {worker.state}"
            if migration.error:
                yield Check(name=f"migration {migration.id}", state="warn", text=f"{line}, stopped by: {migration.error}", remedy=_resume(migration.id))  # fmt: skip
            elif worker.state == "stalled" or (migration.phase.value == "backfilling" and worker.state == "none"):
                yield Check(name=f"migration {migration.id}", state="warn", text=line, remedy=_resume(migration.id))
            else:
                yield Check(name=f"migration {migration.id}", state="ok", text=line)
    except MigrationError as error:
        yield Check(
            name=what, state="fail", text=str(error), remedy=f"The key must be able to read the collection {context.settings.ledger!r}."
        )


def _resume(migration_id: str) -> str:
    return f"`qdrant-model-migration backfill {migration_id}` takes the work up where it was left; nothing is lost."


async def _models(context: OperationContext, *, is_writing: bool) -> AsyncIterator[Check]:
    if not context.settings.models:
        return
    for name in context.settings.models:
        what = f"model '{name}'"
        try:
            if not is_writing and context.catalogue.is_server_side(context.catalogue.resolve(name)):
                yield Check(name=what, state="skip", text="computed by the server, which is seen on a scratch collection only: not tried")
                continue
            with anyio.fail_after(MODEL_TIMEOUT_S):
                embedder = await context.any_model(name)
                await embedder.embed(["The doctor embeds one sentence."], Side.DOCUMENT)
        except TimeoutError:
            yield Check(name=what, state="fail", text=f"not loaded within {MODEL_TIMEOUT_S:.0f} s", remedy="Download it beforehand, or check its endpoint.")  # fmt: skip
        except MigrationError as error:
            yield Check(name=what, state="fail", text=str(error), remedy=f"Correct QDRANT_MIGRATION_MODELS[{name!r}], or its files, key or endpoint.")  # fmt: skip
        else:
            size = f"{embedder.spec.dimensions} dimensions" if embedder.spec.dimensions else str(embedder.spec.kind)
            yield Check(name=what, state="ok", text=f"loaded; {size}; embeds")
