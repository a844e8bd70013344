"""How is a whole migration carried through without anybody watching? By the next step of each answer, up to the gates that were stated.

What a person would have to decide ends it: a plan without `--yes`, a plan that overrides a gate, a worse model, a target that a repair did not
complete. The same command goes on where it ended, for a migration that was begun with the same arguments is found again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from qdrant_model_migration.cli_calls import (
    ANSWER_IS_NO,
    DONE,
    ERROR,
    STILL_RUNNING,
    Call,
    CallFailed,
    Session,
    exit_code,
    is_moving,
    start,
)
from qdrant_model_migration.cli_names import command_line
from qdrant_model_migration.cli_output import ProgressLine, print_plan, say
from qdrant_model_migration.cli_tools import EXIT_CODES, parameters_of, spec_of, spec_of_tool, values_of
from qdrant_model_migration.results import (
    CompareResult,
    FinishResult,
    InspectResult,
    Result,
    StatusResult,
    SwapPlan,
    SwapResult,
    VerifyResult,
)

LEFT_OUT = frozenset({"dry_run"})
COMPARED_BY = ("queries", "queries_file", "qrels_file", "queries_field", "id_field", "k", "margin")
"""Arguments of compare_models that `run` takes as well."""
MOST_STEPS = 60
MOST_REPAIRS = 2
FOR_A_PERSON = frozenset({"inspect_collection", "recommend_strategy", "control_backfill", "finish_migration"})
"""Next steps that end a run: a choice, a pause that somebody asked for, or the end of the old collection."""

HELP = (
    "Carry a whole migration through: create-target, backfill, verify, repair where that helps, compare, and with --yes swap. Stops where a person has to decide: "
    "at the plan without --yes, at a failed gate, a worse model, a target that is not complete. Called again with the same arguments it goes on. The old collection "
    "is kept: finish ends the migration once the app runs well."
)


def run_command() -> tuple[Callable[..., None], str, str]:
    """The function that typer understands, its help, and what the exit codes mean."""
    create, compare = spec_of("create-target"), spec_of("compare")
    taken = [p for p in parameters_of("create-target", create) if p.name not in LEFT_OUT]
    taken += [p for p in parameters_of("compare", compare) if p.name in COMPARED_BY]
    flags = (
        ("as_json", "--json", "print the last structured result"),
        ("yes", "--yes", "carry the swap out as well; a plan that overrides a gate is only printed"),
    )
    taken += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, typer.Option(flag, help=text)])
        for name, flag, text in flags
    ]

    def call(**given: Any) -> None:
        as_json, is_agreed = bool(given.pop("as_json")), bool(given.pop("yes"))
        compared_by = values_of(compare, {name: given.pop(name, None) for name in COMPARED_BY})
        arguments = values_of(create, given)
        whole = Call(command="run", spec=create, arguments=arguments, as_json=as_json, is_waiting=True, is_agreed=is_agreed)
        start(whole, lambda client, is_embedded: Run(client, whole, is_embedded=is_embedded, compared_by=compared_by))

    call.__name__ = "run"
    call.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in taken}
    return call, HELP, EXIT_CODES


class Run(Session):
    """One migration, from its creation to where somebody has to decide."""

    def __init__(self, *given: Any, compared_by: dict[str, Any], **named: Any) -> None:
        super().__init__(*given, **named)
        self._compared_by = compared_by
        self._repairs = 0

    async def carry_out(self) -> int:
        """All of it, up to the exit code.

        Raises:
            CallFailed: a tool refused.
        """
        with ProgressLine() as line:
            result, code = await self._through(line)
        code = max(self.answer(result), code)
        if self.is_embedded:
            await self.settle(result)
        return code

    async def _through(self, line: ProgressLine) -> tuple[Result, int]:
        moved = await self._moved_already()
        if moved is not None:
            result = await self._step("migration_status", {"migration_id": moved}, line)
        else:
            result = await self._step("create_target", self.call.arguments, line)
        for _ in range(MOST_STEPS):
            code = self._ending(result)
            step = result.next_step
            if code is not None or step is None or step.tool in FOR_A_PERSON:
                return result, DONE if code is None else code
            if step.tool == "repair_target":
                self._repairs += 1
                if self._repairs > MOST_REPAIRS:
                    return result, ANSWER_IS_NO
            if step.tool == "swap_alias":
                planned = await self._step(step.tool, step.arguments, line)
                if not isinstance(planned, SwapResult) or planned.plan is None or not self._is_agreed(planned, planned.plan):
                    is_no = isinstance(planned, SwapResult) and (planned.refusal or (planned.plan is not None and planned.plan.overrides))
                    return planned, ANSWER_IS_NO if is_no else DONE
                result = await self._step(step.tool, {"migration_id": planned.migration_id, "plan": planned.plan.code}, line)
                continue
            result = await self._step(step.tool, step.arguments, line)
        raise CallFailed(f"The migration did not come to an end within {MOST_STEPS} steps. Look with status where it stands.")

    async def _moved_already(self) -> str | None:
        """The migration that led the readers to where the name points now: once more from there would embed everything for nothing."""
        named: dict[str, Any] = {name: self.call.arguments[name] for name in ("collection", "connection") if name in self.call.arguments}
        seen = await self.ask(spec_of_tool("inspect_collection"), named)
        if not isinstance(seen, InspectResult) or seen.collection is None:
            return None
        here = seen.collection.name
        return next((m.migration_id for m in seen.migrations if m.phase == "cut_over" and m.target == here), None)

    async def _step(self, tool: str, arguments: Mapping[str, Any], line: ProgressLine) -> Result:
        arguments = {**arguments, **(self._compared_by if tool == "compare_models" else {})}
        spec = spec_of_tool(tool)
        result = await self.ask(spec, arguments, line)
        while result.state == "running":
            result = await self.ask(spec, arguments, line)
        if isinstance(result, StatusResult):
            result = await self.follow(result, line)
        say(f"{tool}: {result.summary}")
        return result

    def _ending(self, result: Result) -> int | None:
        """The exit code, where nothing more is to be done without a person; None where it goes on."""
        if isinstance(result, StatusResult):
            if result.error:
                return ERROR
            if is_moving(result) or result.is_paused:
                return STILL_RUNNING
        if isinstance(result, CompareResult) and exit_code(result) == ANSWER_IS_NO:
            return ANSWER_IS_NO
        if (
            isinstance(result, VerifyResult)
            and exit_code(result) == ANSWER_IS_NO
            and (result.next_step is None or result.next_step.tool != "repair_target")
        ):
            return ANSWER_IS_NO
        return DONE if isinstance(result, FinishResult) else None

    def _is_agreed(self, planned: SwapResult, plan: SwapPlan) -> bool:
        """Whether `--yes` covers the plan, which is shown; what it does not cover a person has to see first."""
        print_plan(planned, to_stderr=True)
        if plan.overrides:
            say("Not carried out: this plan overrides a gate.")
        elif not self.call.is_agreed:
            say("Not carried out: without --yes the plan is yours to agree to.")
        return self.call.is_agreed and not plan.overrides

    def agreeing(self, planned: SwapResult | FinishResult) -> str:
        assert planned.plan is not None
        return command_line("swap_alias", {"migration_id": planned.migration_id, "plan": planned.plan.code})
