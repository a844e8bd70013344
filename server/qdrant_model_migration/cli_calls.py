"""How is a tool called from the command line? In this process, through an MCP client: the results and errors are those that hosts get."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_type_hints

import anyio
import typer
from mcp import Client
from mcp.types import TextContent

from qdrant_model_migration.app import build_server
from qdrant_model_migration.cli_names import PROGRAM, command_line, in_commands
from qdrant_model_migration.cli_output import ProgressLine, print_plan, print_result, say
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.redaction import log_to_stderr
from qdrant_model_migration.results import FinishResult, Result, StatusResult, SwapPlan, SwapResult, VerifyResult
from qdrant_model_migration.settings import Settings
from qdrant_model_migration.tools.support import ToolSpec

DONE, ERROR, STILL_RUNNING, ANSWER_IS_NO, INTERRUPTED = 0, 1, 3, 4, 130
LOOK_EVERY_S = 1.0
START_S = 20.0
"""A worker needs a moment to start; one that is silent for longer is not coming."""
SETTLE_S = 20.0


Carry = Callable[[Client, bool], "Session"]
"""(client, whether the database is embedded) -> what carries a command out."""

_DRIVEN = frozenset({"backfill", "control", "verify", "repair", "compare", "swap", "finish"})
"""Commands that may start a driver; with the embedded database it runs in this process."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One command as it was typed."""

    command: str
    spec: ToolSpec
    arguments: dict[str, Any]
    as_json: bool = False
    is_waiting: bool = False
    is_watching: bool = False
    is_agreed: bool = False


class CallFailed(Exception):
    """The tool answered with an error; its text is the whole answer."""


def run(call: Call) -> None:
    """Make the call, print the answer, and leave with the exit code that tells how it went."""
    start(call, lambda client, is_embedded: Session(client, call, is_embedded=is_embedded))


def start(call: Call, carry: Carry) -> None:
    """Carry a command out by what `carry` makes, and leave with its exit code."""
    log_to_stderr(logging.ERROR)
    logging.getLogger("qdrant_model_migration").setLevel(logging.CRITICAL)
    try:
        settings = read_settings()
        if call.spec.is_writing and settings.is_read_only:
            raise CallFailed(f"Nothing was changed: {call.command} writes, and QDRANT_MIGRATION_READ_ONLY is set.")
        is_embedded = settings.connection(call.arguments.get("connection")).is_embedded
        code = anyio.run(_run, carry, settings, is_embedded)
    except (CallFailed, MigrationError) as error:
        say(str(error))
        code = ERROR
    except KeyboardInterrupt:
        say(f"Interrupted. What runs on a server goes on; `{PROGRAM} status --watch` follows it.")
        code = INTERRUPTED
    raise typer.Exit(code)


async def _run(carry: Carry, settings: Settings, is_embedded: bool) -> int:
    failure: CallFailed | None = None
    code = ERROR
    async with Client(build_server(settings)) as client:
        try:
            code = await carry(client, is_embedded).carry_out()
        except CallFailed as error:
            # Raised outside the client's task groups, which would wrap it.
            failure = error
    if failure is not None:
        raise failure
    return code


class Session:
    """One command's calls on one server."""

    def __init__(self, client: Client, call: Call, *, is_embedded: bool) -> None:
        self._client = client
        self.call = call
        self.is_embedded = is_embedded

    async def carry_out(self) -> int:
        """All of it, up to the exit code."""
        call = self.call
        arguments = call.arguments
        if call.is_agreed:
            planned = await self.ask(call.spec, arguments)
            assert isinstance(planned, SwapResult | FinishResult)
            plan = planned.plan
            if plan is None:
                return self.answer(planned)
            print_plan(planned, to_stderr=call.as_json)
            if isinstance(plan, SwapPlan) and plan.overrides:
                say(f"Not carried out: this plan overrides a gate. Agree to it with: {self.agreeing(planned)}")
                return ANSWER_IS_NO
            arguments = {**arguments, "plan": plan.code}
        is_following = call.is_watching or call.command == "backfill"
        with ProgressLine() as line:
            result = await self.ask(call.spec, arguments, line)
            while result.state == "running" and (call.is_waiting or self.is_embedded):
                result = await self.ask(call.spec, arguments, line)
            if isinstance(result, StatusResult) and is_following and (call.is_waiting or call.is_watching or self.is_embedded):
                result = await self.follow(result, line)
        code = self.answer(result)
        if isinstance(result, StatusResult) and is_following and is_moving(result) and code == DONE:
            code = STILL_RUNNING if call.is_waiting or call.is_watching else DONE
        if self.is_embedded and call.command in _DRIVEN:
            await self.settle(result)
        return code

    async def ask(self, spec: ToolSpec | str, arguments: Mapping[str, Any], line: ProgressLine | None = None) -> Result:
        async def show(progress: float, total: float | None, message: str | None) -> None:
            if line is not None:
                line.show(int(progress), int(total or 0), message or "")

        name = spec if isinstance(spec, str) else spec.name
        answer = await self._client.call_tool(name, dict(arguments), progress_callback=show)
        if answer.is_error:
            text = "\n".join(part.text for part in answer.content if isinstance(part, TextContent))
            raise CallFailed(in_commands(text.removeprefix(f"Error executing tool {name}: ")))
        kind: type[Result] = StatusResult if isinstance(spec, str) else get_type_hints(spec.fn)["return"]
        return kind.model_validate(answer.structured_content)

    def answer(self, result: Result) -> int:
        if self.call.as_json:
            typer.echo(json.dumps(result.model_dump(mode="json"), indent=2, ensure_ascii=False))
        else:
            following = self.agreeing(result) if isinstance(result, SwapResult | FinishResult) and result.plan is not None else None
            if following is None and result.next_step is not None:
                following = command_line(result.next_step.tool, result.next_step.arguments)
            print_result(result, following)
        return exit_code(result)

    def agreeing(self, planned: SwapResult | FinishResult) -> str:
        assert planned.plan is not None
        return command_line(self.call.spec.name, {**self.call.arguments, "plan": planned.plan.code})

    async def _status(self, migration_id: str) -> StatusResult:
        arguments = {"migration_id": migration_id, "connection": self.call.arguments.get("connection")}
        found = await self.ask("migration_status", {k: v for k, v in arguments.items() if v is not None})
        assert isinstance(found, StatusResult)
        return found

    async def follow(self, result: StatusResult, line: ProgressLine) -> StatusResult:
        """Look again until the migration stands still."""
        heard = anyio.current_time()
        while is_moving(result) and not result.error and not result.is_paused:
            if result.worker.state == "running":
                heard = anyio.current_time()
            elif anyio.current_time() - heard > START_S:
                break
            at = result.progress
            line.show(at.read, at.total, at.stage, points_per_second=at.points_per_second, eta_s=at.eta_seconds)
            await anyio.sleep(LOOK_EVERY_S)
            result = await self._status(result.migration_id)
        return result

    async def settle(self, result: Result) -> None:
        """Let the driver inside this process end in peace: killed, it would leave a lease behind that the next command has to take over."""
        migration_id = getattr(result, "migration_id", None)
        if migration_id is None:
            return
        with anyio.move_on_after(SETTLE_S), suppress(CallFailed):
            while (await self._status(migration_id)).worker.state == "running":  # noqa: ASYNC110 - it is the ledger that tells
                await anyio.sleep(0.2)


def is_moving(result: StatusResult) -> bool:
    """Whether points are being written: a backfill, or the filling of a field after the readers moved."""
    return result.phase == "backfilling" or result.is_filling


def exit_code(result: Result) -> int:
    """How it went, for scripts."""
    if result.state == "running":
        return STILL_RUNNING
    if isinstance(result, StatusResult):
        return ERROR if result.error else DONE
    if isinstance(result, VerifyResult) and result.phase == "cut_over" and not result.bad_vectors and not result.provenance.wrong:
        # The app writes on to the collection that serves: that it differs from the old one is no fault.
        return DONE
    found = result.model_dump(include={"is_complete", "verification", "gate", "verdict", "refusal"})
    is_no = (
        found.get("is_complete") is False
        or (found.get("verification") or {}).get("is_complete") is False
        or found.get("gate") == "fail"
        or found.get("verdict") == "worse"
        or found.get("refusal") is not None
    )
    return ANSWER_IS_NO if is_no else DONE
