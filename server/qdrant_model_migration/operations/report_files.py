"""Where does a report go when it is to be kept? Into two files of a folder that is there, without the keys that a text may repeat."""

from __future__ import annotations

import html
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.report import as_markdown, facts_of
from qdrant_model_migration.operations.report_page import as_page
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.redaction import known_secrets, redacted

MARKDOWN, PAGE = "report.md", "report.html"


async def markdown(ledger: Ledger, migration: Migration) -> str:
    """The report as text, for people and files."""
    return redacted(as_markdown(await facts_of(ledger, migration)))


async def page(ledger: Ledger, migration: Migration) -> str:
    """The report as an HTML page; a key is hidden as it is and as it is written in HTML."""
    known = known_secrets()
    return redacted(as_page(await facts_of(ledger, migration)), (*known, *(html.escape(secret) for secret in known)))


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there: whoever mistypes one does not look for the files in another."""
    if not folder.is_dir():
        raise Refused(f"Nothing was written: there is no folder {str(folder)!r}. Make it, or name another one with --out.")


async def write_report(ledger: Ledger, migration: Migration, folder: Path) -> Sequence[Path]:
    """Write both into a folder; files of those names are replaced, as a whole.

    Raises:
        Refused: there is no such folder, or it cannot be written to.
    """
    check_folder(folder)
    contents = {MARKDOWN: await markdown(ledger, migration), PAGE: await page(ledger, migration)}
    try:
        return [_replace(folder / name, text) for name, text in contents.items()]
    except OSError as error:
        raise Refused(f"The report was not written to {str(folder)!r}: {error.strerror or 'it cannot be written to'}.") from None


def _replace(path: Path, text: str) -> Path:
    """Never half of a file; and what a link of that name leads to stays as it is."""
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path
