"""Tables of README.md and SKILL.md that come from the code: `python -m tests.generated` writes them, `--check` fails when they are not current."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.embedders.providers import PRICES, PRICES_SEEN
from qdrant_model_migration.tools import TOOLS

ROOT = Path(__file__).resolve().parent.parent


def tools_table() -> str:
    """One row a tool: name, first sentence of its description, what it may do."""
    rows = ["| tool | does | kind |", "| --- | --- | --- |"]
    for spec in TOOLS:
        kind = "reads" if not spec.is_writing else "destructive" if spec.annotations.destructive_hint else "writes"
        first = re.split(r"(?<=[.?]) ", spec.description)[0].removesuffix(".").removesuffix("?")
        rows.append(f"| `{spec.name}` | {first} | {kind} |")
    return "\n".join(rows)


def strategies_table() -> str:
    """One row a strategy; the same in README.md and SKILL.md."""
    rows = ["| strategy | placement and work | needs | choose it when |", "| --- | --- | --- | --- |"]
    rows += [f"| `{s.name}` | {s.work} | {s.needs} | {s.when} |" for s in STRATEGY.values()]
    return "\n".join(rows)


def prices_line() -> str:
    """The list prices that costs are estimated by, with their date."""
    listed = ", ".join(f"`{model}` {price:.2f}" for model, price in PRICES.items())
    return f"List prices in USD per million tokens, seen on {PRICES_SEEN}: {listed}."


PLACES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"tools": tools_table, "strategies": strategies_table, "prices": prices_line},
    "skill/SKILL.md": {"strategies": strategies_table},
}


def rendered(path: str, text: str) -> str:
    """A file with its tables made anew."""
    for name, make in PLACES[path].items():
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        table = make()
        text, count = re.subn(pattern, lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{path} has no place for the generated table {name!r}.")
    return text


def main() -> None:
    """Write the tables, or check them."""
    for path in PLACES:
        before = (ROOT / path).read_text(encoding="utf-8")
        after = rendered(path, before)
        if "--check" not in sys.argv[1:]:
            (ROOT / path).write_text(after, encoding="utf-8")
        elif before != after:
            raise SystemExit(f"{path} is not current: run `python -m tests.generated`.")


if __name__ == "__main__":
    main()
