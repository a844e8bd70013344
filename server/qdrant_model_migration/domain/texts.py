"""Which text of a point is embedded? A payload field, a dotted path (through JSON held in a string too), a template, or one from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any, Protocol

from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.errors import Refused

MAX_DEPTH = 6
MAX_JSON_CHARS = 1_000_000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class _Absent:
    """Tells a missing field from one that holds null."""


ABSENT = _Absent()


class Texts(Protocol):
    """Where the texts of an `embed` recipe come from."""

    @property
    def expression(self) -> str:
        """What messages and metadata call this source."""
        ...

    def of(self, point: Point) -> str | None:
        """The text to embed, or None when there is none: absent, blank or not a string."""
        ...


@dataclass(frozen=True)
class NoTexts:
    """The texts of a migration that embeds nothing."""

    expression: str = ""

    def of(self, point: Point) -> str | None:
        return None


def read_path(payload: Mapping[str, Any], path: str) -> object:
    """The value at a dotted path, ABSENT if there is none; a field whose own name holds dots wins; JSON in strings is opened on the way."""
    if path in payload:
        return payload[path]
    current: object = payload
    for part in path.split("."):
        current = _opened(current)
        if not isinstance(current, Mapping) or part not in current:
            return ABSENT
        current = current[part]
    return current


def _opened(value: object) -> object:
    """A string that holds a JSON object, parsed; anything else as it is. LlamaIndex keeps its nodes so."""
    if isinstance(value, str) and value.lstrip().startswith("{") and len(value) <= MAX_JSON_CHARS:
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
    return value


@dataclass(frozen=True, kw_only=True)
class UnreadableTexts:
    """For texts that lie in a file which is not there, or is another one. Whoever needs one is told so."""

    expression: str
    reason: str

    def of(self, point: Point) -> str | None:
        raise Refused(self.reason)


@dataclass(frozen=True)
class TextSource:
    """`text_field` understood."""

    expression: str

    @classmethod
    def parse(cls, expression: str) -> TextSource:
        """Check a field, dotted path or template.

        Raises:
            Refused: blank, too long, or a template whose braces do not match or which formats values.
        """
        if not expression.strip():
            raise Refused("text_field is blank. Name a payload field, a dotted path ('metadata.body') or a template ('{title}\\n{body}').")
        if len(expression) > 500:
            raise Refused(f"text_field has {len(expression)} characters; at most 500 are taken.")
        source = cls(expression)
        if source.is_template:
            try:
                parts = list(Formatter().parse(expression))
            except ValueError as error:
                raise Refused(f"text_field {expression!r} is not a template that can be filled: {error}.") from None
            if any(name is not None and (not name.strip() or spec or conversion) for _, name, spec, conversion in parts):
                raise Refused(f"text_field {expression!r}: a template holds plain fields only, such as '{{title}}\\n{{body}}'.")
        return source

    @property
    def is_template(self) -> bool:
        return _PLACEHOLDER.search(self.expression) is not None

    @property
    def fields(self) -> list[str]:
        """The payload paths that are read."""
        if not self.is_template:
            return [self.expression]
        return [name for _, name in self.parts if name]

    @property
    def parts(self) -> list[tuple[str, str | None]]:
        """A template as (text as it stands, path of the value behind it)."""
        return [(literal, name or None) for literal, name, _, _ in Formatter().parse(self.expression)]

    def of(self, point: Point) -> str | None:
        """The text of a point, read from its payload."""
        return self.extract(point.payload)

    def extract(self, payload: Payload) -> str | None:
        """The text of a point, or None when there is none to embed: absent, blank or not a string.

        A template is filled with what is there; absent parts become empty; numbers are written out.
        """
        if not self.is_template:
            value = read_path(payload, self.expression)
            return value if isinstance(value, str) and value.strip() else None
        pieces: list[str] = []
        has_text = False
        for literal, name in self.parts:
            pieces.append(literal)
            if name:
                value = read_path(payload, name)
                filled = value if isinstance(value, str) else str(value) if _is_number(value) else ""
                has_text = has_text or bool(filled.strip())
                pieces.append(filled)
        text = "".join(pieces).strip()
        return text if has_text and text else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class FieldStatistics:
    """What a sample of payloads holds at one path."""

    field: str
    coverage: float
    mean_chars: float
    p95_chars: int
    example: str


KNOWN_TEXT_FIELDS = ("page_content", "document", "content", "text", "body", "chunk", "passage")
_FRAMEWORKS = (
    ("langchain", {"page_content", "metadata"}),
    ("llama_index", {"_node_content"}),
    ("haystack", {"content", "meta"}),
    ("mcp-server-qdrant", {"document", "metadata"}),
)


def framework_of(payloads: Iterable[Payload]) -> str | None:
    """The framework that wrote these payloads, when most of them bear its marks."""
    seen = list(payloads)
    for name, marks in _FRAMEWORKS:
        if seen and sum(marks <= payload.keys() for payload in seen) > len(seen) / 2:
            return name
    return None


def text_statistics(payloads: Iterable[Payload], min_mean_chars: float = 15.0) -> list[FieldStatistics]:
    """Every path that holds texts, best candidates first: known names, then coverage times length."""
    lengths: dict[str, list[int]] = {}
    examples: dict[str, str] = {}
    total = 0
    for payload in payloads:
        total += 1
        for path, text in _strings(payload, "", 0):
            if text.strip():
                lengths.setdefault(path, []).append(len(text))
                examples.setdefault(path, text)
    found = []
    for path, sizes in lengths.items():
        mean = sum(sizes) / len(sizes)
        if mean < min_mean_chars and path.rpartition(".")[2] not in KNOWN_TEXT_FIELDS:
            continue
        p95 = sorted(sizes)[min(len(sizes) - 1, int(len(sizes) * 0.95))]
        found.append(FieldStatistics(field=path, coverage=len(sizes) / total, mean_chars=mean, p95_chars=p95, example=examples[path]))
    return sorted(found, key=_rank)


def _rank(statistics: FieldStatistics) -> tuple[int, float, str]:
    known = statistics.field.rpartition(".")[2] in KNOWN_TEXT_FIELDS
    return (0 if known and statistics.coverage >= 0.5 else 1, -statistics.coverage * min(statistics.mean_chars, 2000.0), statistics.field)


def _strings(value: object, path: str, depth: int) -> Iterable[tuple[str, str]]:
    opened = _opened(value) if path else value
    if isinstance(opened, Mapping):
        if depth < MAX_DEPTH:
            for key, inner in opened.items():
                yield from _strings(inner, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(opened, str):
        yield path, opened
