"""How does an answer look in a terminal? Results on stdout; progress and errors on stderr. Texts of points are data: shown without control characters."""

from __future__ import annotations

import re
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from qdrant_model_migration.cli_names import in_commands
from qdrant_model_migration.cli_tables import tables
from qdrant_model_migration.results import FinishPlan, FinishResult, Result, SwapResult, WriteResult

PIPED_WIDTH = 140
SHOW_EVERY_S = 15.0
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Without what a terminal would obey."""
    return _CONTROL.sub("\ufffd", text)


def say(text: str) -> None:
    """To the person, not to the pipe."""
    sys.stderr.write(printable(text) + "\n")


def span(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _console(*, to_stderr: bool = False) -> Console:
    console = Console(stderr=to_stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(printable(text), style=style), soft_wrap=True)


def print_result(result: Result, following: str | None) -> None:
    """Summary, warnings, the tables of this kind of result, how to undo it, and the command that follows."""
    console = _console()
    _line(console, in_commands(result.summary.partition(" Show it to the person;")[0]), "bold")
    for warning in result.warnings:
        _line(console, f"! {in_commands(warning)}", "yellow")
    if isinstance(result, SwapResult | FinishResult) and result.plan is not None:
        _print_plan(console, result)
    for part in tables(result):
        console.print()
        if isinstance(part, Table):
            console.print(part)
        else:
            _line(console, part)
    if isinstance(result, WriteResult) and not (isinstance(result, SwapResult | FinishResult) and result.plan is not None):
        undo = in_commands(result.undo).replace("MIGRATION", getattr(result, "migration_id", "") or "MIGRATION")
        _line(console, f"Undo: {undo}", "dim")
    if following is not None:
        is_plan = isinstance(result, SwapResult | FinishResult) and result.plan is not None
        why = "carry the plan out, once you agree to it" if is_plan or result.next_step is None else in_commands(result.next_step.why)
        _line(console, f"\nNext: {why.removesuffix('.')}.")
        _line(console, f"  {following}", "cyan")


def print_plan(planned: SwapResult | FinishResult, *, to_stderr: bool) -> None:
    """The plan alone, before it is carried out."""
    console = _console(to_stderr=to_stderr)
    _line(console, f"Plan {planned.plan.code if planned.plan else ''} of migration {planned.migration_id}:", "bold")
    _print_plan(console, planned)


def _print_plan(console: Console, planned: SwapResult | FinishResult) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    plan = planned.plan
    assert plan is not None
    rows: list[tuple[str, str]]
    if isinstance(plan, FinishPlan):
        rows = [("deletes", ", ".join(plan.deletes) or "nothing"), ("keeps", ", ".join(plan.keeps) or "nothing")]
        rows += [("warning", text) for text in plan.warnings]
    else:
        rows = [("moves", f"{m.alias}: {m.from_collection or '(new)'} -> {m.to_collection}") for m in plan.moves]
        if plan.also:
            rows.append(("moves also", ", ".join(plan.also)))
        rows += [("stays", name) for name in plan.left]
        rows.append(("comparison", plan.comparison))
        rows += [("breaks", text) for text in plan.breaks]
        rows += [("overrides", text) for text in plan.overrides]
    rows.append(("counts", ", ".join(f"{name} {count:,}" for name, count in plan.counts.items())))
    rows += [("undo", plan.undo), ("expires", plan.expires_at)]
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    console.print(table)


class ProgressLine:
    """What goes on, on stderr: a bar in a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown: tuple[str, float] = ("", 0.0)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int, stage: str, *, points_per_second: float | None = None, eta_s: float | None = None) -> None:
        """The latest that is known."""
        parts = [f"{points_per_second:,.0f}/s" if points_per_second else "", f"about {span(eta_s)} left" if eta_s else ""]
        pace = ", ".join(part for part in parts if part)
        if self._console.is_terminal:
            self._show_bar(done, total, printable(stage), pace)
            return
        before, at = self._shown
        if stage != before or time.monotonic() - at > SHOW_EVERY_S:
            self._shown = (stage, time.monotonic())
            share = f": {done:,} of {total:,}" if total else ""
            say(f"{stage}{share}{', ' + pace if pace else ''}")

    def _show_bar(self, done: int, total: int, stage: str, pace: str) -> None:
        if self._bar is None:
            columns: list[Any] = [
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.completed:,} of {task.total:,}", markup=False),
                TextColumn("{task.fields[pace]}", markup=False),
            ]
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(stage, total=0, pace="")
        assert self._task is not None
        self._bar.update(self._task, description=stage, completed=done, total=total, pace=pace)
