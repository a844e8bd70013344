"""What does a host that renders MCP Apps show beside an answer? One page: the comparison side by side, and the migration as it goes on.

The page is put together of four files here and fetches nothing: hosts allow it no network, and its own policy none either. It only reads, by the
tool `migration_status`, until a person presses a button; hosts without Apps never ask for it.
"""

from __future__ import annotations

URI = "ui://qdrant-model-migration/dashboard.html"
META = {"ui": {"resourceUri": URI}}
"""`_meta` of a tool whose answers the page shows."""


def page() -> str:
    """The page with its style and its script in it."""
    from importlib.resources import files

    here = files(__package__)
    whole = (here / "page.html").read_text(encoding="utf-8")
    for name in ("style.css", "script.js", "comparison.js"):
        whole = whole.replace(f"/* {name} */", (here / name).read_text(encoding="utf-8"))
    return whole
