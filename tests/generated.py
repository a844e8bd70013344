"""Tables of the README that come from the code: `python -m tests.generated` writes them, `--check` fails when they are not current."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from qdrant_model_migration.domain.observations import GUIDANCE, IMPLEMENTED, STRATEGIES
from qdrant_model_migration.domain.strategy import DOES
from qdrant_model_migration.tools import TOOLS

README = Path(__file__).resolve().parent.parent / "README.md"


def tools_table() -> str:
    """One row a tool: name, first sentence of its description, what it may do."""
    rows = ["| tool | does | kind |", "| --- | --- | --- |"]
    for spec in TOOLS:
        kind = "reads" if not spec.is_writing else "destructive" if spec.annotations.destructive_hint else "writes"
        first = re.split(r"(?<=[.?]) ", spec.description)[0].removesuffix(".").removesuffix("?")
        rows.append(f"| `{spec.name}` | {first} | {kind} |")
    return "\n".join(rows)


def strategies_table() -> str:
    """One row a strategy: name, what it does, whether this version carries it out, where the guidance explains it."""
    rows = ["| strategy | it … | this version | guidance |", "| --- | --- | --- | --- |"]
    rows += [f"| `{n}` | {DOES[n]} | {'carries it out' if n in IMPLEMENTED else 'explains it'} | {GUIDANCE[n]} |" for n in STRATEGIES]
    return "\n".join(rows)


def rendered(text: str) -> str:
    """The README with its tables made anew."""
    for name, table in (("tools", tools_table()), ("strategies", strategies_table())):
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"README.md has no place for the generated table {name!r}.")
    return text


def main() -> None:
    """Write the tables, or check them."""
    before = README.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            raise SystemExit("README.md is not current: run `python -m tests.generated`.")
        return
    README.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
