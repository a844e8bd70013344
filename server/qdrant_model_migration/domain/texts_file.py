"""What does a row of a texts file say: which point has which text? And does the file cover the collection?"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.texts import ABSENT, Texts, TextSource, read_path
from qdrant_model_migration.errors import Refused

Format = Literal["jsonl", "parquet"]

DEFAULT_FIELD = "text"
_UUID = re.compile(r"(u:)?([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})")
_INTEGER = re.compile(r"(i:)?([0-9]{1,20})")
_ID_FORMS = 'a whole number from 0 to 2^64 - 1 or a UUID, such as 42, "i:42", "3f2a…-…" or "u:3f2a…-…"'


class TextsFile(BaseModel):
    """A texts file as it was when the migration was planned; every machine that embeds must read the same bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    """As given in the argument: resolved in the allowed directories of each machine."""
    format: Format
    text_field: str = DEFAULT_FIELD
    """Field, dotted path or template over the fields of a row."""
    sha256: str
    """Of the file as it lies there, compressed or not."""
    size_bytes: int
    rows: int
    blank: int = 0
    """Rows without a text to embed: their points count as having none."""
    integers: int
    """Rows whose id is an integer."""
    uuids: int
    first_id: str
    """Tagged; an example for messages."""

    @property
    def expression(self) -> str:
        return f"{self.text_field} of file {self.name}"

    @property
    def id_forms(self) -> str:
        """Which ids the file uses, for a person."""
        return f"{_forms(self.integers, self.uuids)}, such as {self.first_id}"


def different(recorded: TextsFile, sha256: str, size_bytes: int) -> Refused:
    """The refusal of a file that is not the recorded one."""
    size = (
        f"the size is the same ({size_bytes:,} bytes)"
        if size_bytes == recorded.size_bytes
        else f"it has {size_bytes:,} bytes instead of {recorded.size_bytes:,}"
    )
    return Refused(
        f"Texts file {recorded.name!r} is not the one that the migration was planned with: {size}, SHA-256 {sha256[:16]}… instead of {recorded.sha256[:16]}…. "
        "Vectors of two versions of the texts must not be mixed. Put the planned file back (the same bytes on every machine that runs a worker), or discard "
        "the migration and begin one with the new file."
    )


def unusable(name: str, where: str, why: str) -> Refused:
    """The refusal of a file, naming the place."""
    return Refused(f"Texts file {name!r} was not taken and nothing was changed: {where + ': ' if where else ''}{why}")


def file_format(name: str) -> tuple[Format, bool]:
    """The format that a name stands for, and whether the file is compressed with gzip.

    Raises:
        Refused: another ending.
    """
    lower = name.lower()
    if lower.endswith((".parquet", ".pq")):
        return "parquet", False
    plain = lower.removesuffix(".gz")
    if plain.endswith((".jsonl", ".ndjson")):
        return "jsonl", plain != lower
    raise unusable(name, "", "its name must end in .jsonl, .jsonl.gz or .parquet.")


def point_id(value: object) -> PointId | None:
    """The point that an id of a row names, or None when it cannot be one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 2**64 else None
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes) and len(value) == 16:
        return str(uuid.UUID(bytes=value))
    if not isinstance(value, str):
        return None
    if found := _INTEGER.fullmatch(value):
        number = int(found[2])
        return number if number < 2**64 else None
    if found := _UUID.fullmatch(value):
        digits = found[2].lower().replace("-", "")  # several times as quick as uuid.UUID, once a row
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    return None


def id_key(identifier: PointId) -> bytes:
    """8 bytes of an integer or 16 of a UUID."""
    return identifier.to_bytes(8, "big") if isinstance(identifier, int) else bytes.fromhex(identifier.replace("-", ""))


def id_of_key(key: bytes) -> PointId:
    """The reverse of `id_key`."""
    return int.from_bytes(key, "big") if len(key) == 8 else str(uuid.UUID(bytes=key))


def read_row(row: Mapping[str, Any], source: TextSource) -> tuple[PointId, str | None] | str:
    """Point and text of a row (None: nothing to embed), or what is wrong with it."""
    if "id" not in row:
        return f'there is no \'id\'. The fields of the row: {_listed(row)}. A row reads {{"id": 42, "text": "..."}}.'
    identifier = point_id(row["id"])
    if identifier is None:
        kind = " (a number with a decimal point: ids above 2^53 lose digits so)" if isinstance(row["id"], float) else ""
        return f"{repr(row['id'])[:80]}{kind} is not a point id. An id is {_ID_FORMS}."
    if not source.is_template:
        value = read_path(row, source.expression)
        if value is not ABSENT and value is not None and not isinstance(value, str):
            return f"{source.expression!r} of point {tag(identifier)} is not a text but {_kind(value)}."
    text = source.extract(dict(row))
    if text is not None and not _is_encodable(text):
        return f"the text of point {tag(identifier)} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character."
    return identifier, text


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def _listed(names: Iterable[object]) -> str:
    found = [repr(str(name)[:60]) for name in names]
    return (", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")) or "none"


def columns_read(name: str, columns: Sequence[str], source: TextSource) -> list[str]:
    """Which columns of a table are needed for id and text; a dotted path that is no column begins with one.

    Raises:
        Refused: a column is missing, or there are several of one name; says which, and which there are.
    """
    wanted = ["id"]
    for path in source.fields:
        column = path if path in columns else path.split(".")[0]
        if column not in wanted:
            wanted.append(column)
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise unusable(name, "", f"there is no column {', '.join(map(repr, missing))}. The columns: {_listed(columns)}.")
    if any(columns.count(column) > 1 for column in wanted):
        raise unusable(name, "", f"a column is there twice. The columns: {_listed(columns)}.")
    return wanted


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many of the sampled points have a text."""

    sampled: int
    found: int
    integers: int
    """Sampled points whose id is an integer."""
    first_missing: tuple[str, ...] = ()
    """Tagged ids of up to five points without a text."""
    payload_field: str | None = None
    """Only when no point was found: a payload field whose values the file knows as ids."""

    @property
    def share(self) -> float:
        return self.found / self.sampled if self.sampled else 0.0

    def refusal(self, recorded: TextsFile, collection: str) -> str | None:
        """Why a file that knows no sampled point cannot be used, with what probably went wrong; None when it knows some."""
        if self.found or not self.sampled:
            return None
        why = f"none of {self.sampled} sampled points of {collection!r} has a text in it."
        ours = f"{_forms(self.integers, self.sampled - self.integers)}, such as {self.first_missing[0]}"
        why += f" The ids of the file are {recorded.id_forms}; those of the collection are {ours}."
        if self.payload_field is not None:
            why += f" The file knows the values of payload field {self.payload_field[:80]!r}: give the rows the ids of the points instead of those values."
        elif (recorded.uuids == 0 and self.integers == 0) or (recorded.integers == 0 and self.integers == self.sampled):
            why += " The rows must bear the ids that the points have in Qdrant."
        else:
            why += " Is it the file of this collection?"
        return str(unusable(recorded.name, "", why))

    def remark(self, recorded: TextsFile, collection: str) -> str | None:
        """What a person should know about a file that does not know every sampled point; None when it does."""
        if not self.found or self.found == self.sampled:
            return None
        return (
            f"{recorded.name!r} has a text for {self.found} of {self.sampled} sampled points of {collection!r} ({self.share:.0%}); none for "
            f"{', '.join(self.first_missing)}{' and others' if self.sampled - self.found > len(self.first_missing) else ''}. Points without a text are treated as "
            "on_missing_text says."
        )


def coverage(texts: Texts, points: Sequence[Point]) -> Coverage:
    """Look sampled points (with payloads) up."""
    missing = [point for point in points if texts.of(point) is None]
    found = len(points) - len(missing)
    return Coverage(
        sampled=len(points),
        found=found,
        integers=sum(isinstance(point.id, int) for point in points),
        first_missing=tuple(tag(point.id) for point in missing[:5]),
        payload_field=None if found else _known_values(texts, points),
    )


def _known_values(texts: Texts, points: Sequence[Point]) -> str | None:
    """The payload field most of whose values the texts know as ids; small numbers are known by chance, so values must be distinct."""
    values: dict[str, set[PointId]] = {}
    for point in points:
        for name, value in point.payload.items():
            if (identifier := point_id(value)) is not None:
                values.setdefault(name, set()).add(identifier)
    known = {name: sum(texts.of(Point(id=i, payload={})) is not None for i in ids) for name, ids in values.items()}
    best = max(known, key=lambda name: known[name], default=None)
    return best if best is not None and known[best] > len(points) / 2 else None


def _forms(integers: int, uuids: int) -> str:
    if integers and uuids:
        return f"integers and UUIDs ({integers:,} and {uuids:,})"
    return "integers" if integers else "UUIDs"
