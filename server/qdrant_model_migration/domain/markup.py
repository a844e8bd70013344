"""How is a page put together so that no text becomes markup? Whatever was not made by `element` is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

from qdrant_model_migration.domain.untrusted import visible

_VOID = frozenset({"meta", "br"})
_NOTHING: Mapping[str, str | float] = {}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """A text as itself, in an element or in an attribute: its characters mean nothing to a browser, and none of them is hidden."""
    return Markup(html.escape(visible(text, one_line=True), quote=True))


def joined(parts: Iterable[str]) -> Markup:
    """Several parts, one after another; those that are no markup are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escaped(part) for part in parts))


def element(name: str, attributes: Mapping[str, str | float] = _NOTHING, *children: str) -> Markup:
    """An element. Numbers in attributes are coordinates: two decimals."""
    told = "".join(f' {key}="{_value(value)}"' for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{joined(children)}</{name}>")


def _value(value: str | float) -> str:
    return escaped(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
