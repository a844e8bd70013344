"""How is the demonstration shown? Rich and live on a terminal, plain lines elsewhere. Payload texts are never read as markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

MOST_ARGUMENT = 60


class Screen:
    """Writes to one console; a live bar belongs to the call that is being made."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: tuple[Progress, TaskID] | None = None
        self._seen: tuple[float, str] | None = None
        self.app_state: Callable[[], str] = str
        """What the app did so far, for the live line."""

    def heading(self, text: str) -> None:
        self.done()
        self._console.print()
        self._line(text, "bold")

    def say(self, text: str, style: str = "") -> None:
        self.done()
        self._line(text, style)

    def points(self, texts: Sequence[str]) -> None:
        """A list, one sentence a line."""
        for text in texts:
            self.say(f"  - {text}")

    def warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.say(f"  ! {text}", "yellow")

    def failed(self, text: str) -> None:
        self.say(f"The demonstration stopped: {text}", "bold red")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.done()
        if not self._console.is_terminal:
            for row in (columns, *rows):
                self._line("  " + " | ".join(row), "")
            return
        table = Table(box=box.SIMPLE_HEAD)
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table)

    # --- the calls

    def called(self, tool: str, arguments: dict[str, Any]) -> None:
        shown = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items())
        self.say(f"> {tool}({shown})", "cyan")
        self._seen = None

    def progressed(self, done: float, total: float | None, stage: str) -> None:
        if self._console.is_terminal:
            progress, task = self._bar or self._begun(stage)
            progress.update(task, completed=done, total=total, description=stage, app=self.app_state())
        elif self._seen != (done, stage):
            share = f": {done:.0f} of {total:.0f}" if total else ""
            self._line(f"  ... {stage}{share}; {self.app_state()}", "")
        self._seen = done, stage

    def _begun(self, stage: str) -> tuple[Progress, TaskID]:
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[app]}"))
        progress = Progress(*columns, console=self._console, transient=True)
        progress.start()
        self._bar = progress, progress.add_task(stage, total=None, app="")
        return self._bar

    def done(self) -> None:
        """Take the live bar away."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None

    def _line(self, text: str, style: str) -> None:
        if not self._console.is_terminal:
            self._console.print(Text(text, style=style), soft_wrap=True)
            return
        # Folded at words, the following lines as far in as the first.
        inner = text.lstrip().removeprefix("- ").removeprefix("! ").removeprefix("> ")
        head = text[: len(text) - len(inner)]
        if not head:
            self._console.print(Text(text, style=style))
            return
        grid = Table.grid()
        grid.add_column(width=len(head), no_wrap=True)
        grid.add_column()
        grid.add_row(Text(head, style=style), Text(inner, style=style))
        self._console.print(grid)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"[{len(value)} entries]"
    text = repr(value)
    return text if len(text) <= MOST_ARGUMENT else text[: MOST_ARGUMENT - 3] + "..."
