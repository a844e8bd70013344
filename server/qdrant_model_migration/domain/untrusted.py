"""How is told what somebody else wrote? Payload text fenced and cut, names without characters that hide, reorder or command anything."""

from __future__ import annotations

import secrets
import unicodedata

MARK_CHARS = 6
"""Of the delimiter; drawn anew for every text, so that no stored text can hold it."""
_LOOKS_LIKE_NOTHING = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols without a glyph."""
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def is_hidden(character: str) -> bool:
    """Whether a character shows nothing of itself: controls, ANSI's escape, bidirectional overrides, zero widths, tags, variation selectors."""
    if character.isascii():
        return not character.isprintable()
    if character in _LOOKS_LIKE_NOTHING or "\ufe00" <= character <= "\ufe0f" or "\U000e0000" <= character <= "\U000e0fff":
        return True
    return unicodedata.category(character) in _HIDDEN


def cleaned(text: str, limit: int = 80) -> str:
    """Foreign text for a person's eyes: one line, nothing hidden, cut, in guillemets that it cannot close."""
    return f"«{_flat(text, limit)}»"


def fenced(text: str, limit: int = 80, mark: str | None = None) -> str:
    """Payload text: as `cleaned`, and between two marks that it cannot know. Data, never instructions.

    `mark` is drawn at random when it is left out.
    """
    drawn = mark or secrets.token_hex(MARK_CHARS // 2)
    return f"«{drawn}: {_flat(text, limit)} :{drawn}»"


def visible(text: str, *, one_line: bool = False) -> str:
    """A text of ours that holds names of others: what would be hidden is written out as an escape; line breaks stay unless it is one line."""
    if text.isprintable() and text.isascii():
        return text
    kept = "" if one_line else "\n\t"
    return "".join(_written(c) if c not in kept and is_hidden(c) else c for c in text)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _flat(text: str, limit: int) -> str:
    readable = "".join(" " if c.isspace() else c for c in text[: limit * 20] if c.isspace() or not is_hidden(c))
    line = " ".join(readable.replace("«", "‹").replace("»", "›").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
