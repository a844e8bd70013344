"""In what order is it shown? A small app is set up, its collection migrated through an MCP client while it searches, and all of it removed."""

from __future__ import annotations

import signal
import sys
from typing import Any

import anyio
from mcp import Client
from mcp.server.mcpserver import Context
from rich.console import Console

from qdrant_model_migration.app import build_server
from qdrant_model_migration.demo.application import NEW_MODEL, OLD_MODEL, TEXT_FIELD, Application, judged_queries
from qdrant_model_migration.demo.conversation import Chosen, Conversation
from qdrant_model_migration.demo.place import Place, prepared_place, remove_from_server
from qdrant_model_migration.demo.screen import Screen
from qdrant_model_migration.demo.story import Outcome, tell, tell_ending, tell_next
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.results import (
    CompareResult,
    CreateTargetResult,
    FinishResult,
    InspectResult,
    NextStep,
    RecommendResult,
    RepairResult,
    Result,
    StatusResult,
    SwapResult,
    VerifyResult,
)
from qdrant_model_migration.tools.support import app_of

POINTS_PER_SECOND = 120
"""Slow enough to be watched."""
QUERIES_A_MOMENT = 10
INTERRUPTED = 130

KINDS: dict[str, type[Result]] = {
    "inspect_collection": InspectResult,
    "recommend_strategy": RecommendResult,
    "create_target": CreateTargetResult,
    "start_backfill": StatusResult,
    "migration_status": StatusResult,
    "verify_target": VerifyResult,
    "repair_target": RepairResult,
    "compare_models": CompareResult,
    "swap_alias": SwapResult,
    "finish_migration": FinishResult,
}


async def run_demo(console: Console | None = None, *, keep: bool = False) -> int:
    """Show a whole migration; the exit code.

    0: it came to its end. 1: a step failed, and the error was shown. 130: interrupted. What was made is removed in each case, unless `keep`.
    """
    screen = Screen(console or Console())
    try:
        with prepared_place(keep=keep) as place:
            return await _run_in(place, screen, keep=keep)
    except MigrationError as error:
        screen.failed(str(error))
        return 1
    finally:
        screen.done()


async def _run_in(place: Place, screen: Screen, *, keep: bool) -> int:
    failures: list[MigrationError] = []
    run = Run(place, screen)
    interruptible = anyio.CancelScope()
    async with anyio.create_task_group() as listening:
        if sys.platform != "win32":
            listening.start_soon(_listen, interruptible)
        try:
            with interruptible:
                await run.show()
        except MigrationError as error:
            failures.append(error)
        finally:
            screen.done()
            # Also after Ctrl-C or an unexpected fault, and undisturbed by a second Ctrl-C.
            with anyio.CancelScope(shield=True):
                try:
                    await _leave(place, screen, keep=keep, has_begun=run.has_begun)
                except MigrationError as error:
                    failures.append(error)
        listening.cancel_scope.cancel()
    for failure in failures:
        screen.failed(str(failure))
    if interruptible.cancel_called:
        screen.say("Interrupted.")
        return INTERRUPTED
    if not failures:
        tell_next(screen)
    return 1 if failures else 0


async def _listen(interruptible: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            interruptible.cancel()


async def _leave(place: Place, screen: Screen, *, keep: bool, has_begun: bool) -> None:
    """Remove what was made, or say where it is."""
    if keep:
        where = f"QDRANT_PATH={place.folder / 'qdrant'}" if place.is_embedded else f"collections that begin with '{place.prefix}'"
        ledger = "" if place.is_embedded else f", ledger QDRANT_MIGRATION_LEDGER={place.settings.ledger}"
        screen.say(f"Kept, as asked: {where}{ledger}. Delete it when you have seen enough.")
    elif place.is_embedded:
        screen.say("The temporary embedded database is deleted now; --keep leaves it for a look.")
    elif has_begun:
        screen.say(f"Removed from the server: {', '.join(await remove_from_server(place)) or 'nothing'}. (--keep leaves them for a look.)")


class Run:
    """One demonstration."""

    def __init__(self, place: Place, screen: Screen) -> None:
        self._place = place
        self._screen = screen
        self._comparison: CompareResult | None = None
        self._target = ""
        self._refused: str | None = None
        self.has_begun = False
        """Whether anything may have been made."""

    async def show(self) -> None:
        """From an app with an old model to the same app with a new one.

        Raises:
            MigrationError: a step failed, or a query of the app did.
        """
        failures: list[MigrationError] = []
        server, contexts = build_server(self._place.settings), list[OperationContext]()

        async def demo_connection(ctx: Context[Any, Any]) -> str:
            contexts.append(app_of(ctx).context)
            return "connected"

        # The embedded database serves one connection at a time: the app searches through the server's own.
        server.add_tool(demo_connection, description="Lets the app of the demonstration search beside the tools.")
        async with Client(server) as client:
            await client.call_tool("demo_connection", {})
            app = Application(contexts[0], alias=self._place.alias, collection=self._place.source)
            async with anyio.create_task_group() as meanwhile:
                try:
                    await self._show(client, app, meanwhile)
                except MigrationError as error:
                    # Caught here, so that no group wraps it.
                    failures.append(error)
                meanwhile.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _show(self, client: Client, app: Application, meanwhile: anyio.abc.TaskGroup) -> None:
        began = anyio.current_time()
        screen, place = self._screen, self._place
        screen.app_state = lambda: f"the app: {app.answered.total()} searches, {len(app.failures)} failed"
        screen.heading("A migration to another embedding model, from beginning to end")
        where = (
            f"an embedded database in {place.folder}"
            if place.is_embedded
            else f"the server of QDRANT_URL, names begin with '{place.prefix}'"
        )
        screen.say(f"It runs in {where}. Nothing else is touched.")
        screen.say("The models are built in and lexical (word forms, not meaning): for demonstration only.")
        await app.check()
        self.has_begun = True
        points = await app.set_up()
        screen.say(
            f"An app was set up: {points} paragraphs of Python's PEPs, embedded with {OLD_MODEL}, searched through the alias '{place.alias}'."
        )
        meanwhile.start_soon(app.search_forever)
        await app.wait_for(QUERIES_A_MOMENT)

        screen.heading("The conversation: each '>' is a call of an MCP client, which follows the server's next_step")
        finished = await self._converse(Conversation(client, screen), app)
        if app.failures:
            raise MigrationError(f"{len(app.failures)} of the app's queries failed; the first {app.failures[0]}")
        if self._comparison is None:
            raise MigrationError("The models were not compared.")
        outcome = Outcome(
            points=points,
            target=self._target,
            comparison=self._comparison,
            asked=await app.ask_both(self._target),
            refused=self._refused,
            finished=finished,
            seconds=anyio.current_time() - began,
        )
        tell_ending(screen, place, app, outcome)

    async def _converse(self, conversation: Conversation, app: Application) -> FinishResult:
        step: NextStep | Chosen = Chosen(tool="inspect_collection", arguments={"collection": self._place.alias})
        while True:
            if step.tool not in KINDS:
                raise MigrationError(f"The server's next step is {step.tool}, which the demonstration does not expect.")
            if step.tool == "create_target":
                app.moment = "while it ran"
            answer = await conversation.call(step, KINDS[step.tool], **_choices(step.tool))
            tell(self._screen, answer)
            await self._note(answer, app)
            if isinstance(answer, FinishResult) and answer.plan is None:
                return answer
            following = self._decided(answer)
            if following is None:
                raise MigrationError(f"The server named no next step after {step.tool}: {answer.summary}")
            step = following

    async def _note(self, answer: Result, app: Application) -> None:
        """Keep what the ending tells."""
        if isinstance(answer, StatusResult) and answer.error:
            raise MigrationError(answer.error)
        if isinstance(answer, CreateTargetResult):
            self._target = answer.target.collection
        elif isinstance(answer, CompareResult):
            self._comparison = answer
        elif isinstance(answer, SwapResult) and answer.plan is None:
            app.moment = "after the swap"
            await app.wait_for(QUERIES_A_MOMENT)
            try:
                await app.search(judged_queries()[0].text, model=OLD_MODEL)
            except MigrationError as error:
                self._refused = str(error)

    def _decided(self, answer: Result) -> NextStep | Chosen | None:
        """The next step; where a person must decide, the demonstration plays that person and says so."""
        if isinstance(answer, RecommendResult) and answer.next_step is None and answer.recommendations:
            return answer.recommendations[0].next_step
        if isinstance(answer, SwapResult | FinishResult) and answer.plan is not None:
            if answer.refusal is not None:
                raise MigrationError(f"The plan was not carried out: {answer.refusal}.")
            self._screen.say(
                f"  Here a person decides. The demonstration plays that person and agrees: plan '{answer.plan.code}'.", "magenta"
            )
            tool = "swap_alias" if isinstance(answer, SwapResult) else "finish_migration"
            arguments: dict[str, Any] = {"migration_id": answer.migration_id, "plan": answer.plan.code}
            if isinstance(answer, FinishResult):
                arguments["action"] = answer.plan.action
            return Chosen(tool=tool, arguments=arguments)
        return answer.next_step


def _choices(tool: str) -> dict[str, Any]:
    """What a person chooses before that call, beside what the server proposes."""
    models = {"model": NEW_MODEL, "current_model": OLD_MODEL, "text_field": TEXT_FIELD, "writes": "frozen", "readers": "self_resolving"}
    match tool:
        case "recommend_strategy":
            return {"goal": "replace_model", **models}
        case "create_target":
            return models
        case "start_backfill":
            return {"points_per_second": POINTS_PER_SECOND}
        case "compare_models":
            queries = [{"text": query.text, "relevant_ids": list(query.relevant_ids)} for query in judged_queries()]
            return {"queries": queries, "id_field": "id"}
        case _:
            return {}
