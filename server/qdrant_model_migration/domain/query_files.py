"""How are queries written in files? JSON lines as BEIR has them, topics as TREC has them, or an id and a text a line; pure."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence

from qdrant_model_migration.domain.queries import MAX_GRADE, MAX_QUERIES, RawQuery, checked, is_id, raw_query
from qdrant_model_migration.errors import Refused

_OPENED = re.compile(r"<top(?:ic)?\b([^>]{0,500})>", re.IGNORECASE)
_CLOSED = re.compile(r"</top(?:ic)?\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"""(?:number|num|id)\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)
_LABEL = re.compile(r"^\s*(?:number|topic|title|query)\s*:\s*", re.IGNORECASE)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)


def queries_of(lines: Sequence[str], name: str) -> tuple[list[RawQuery], list[str]]:
    """The queries of a file, whichever of the layouts it has, and notes.

    Raises:
        Refused: names the first bad line or topic.
    """
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("<"):
        return _topics("\n".join(lines), name)
    if "\t" in first and not first.startswith(("{", "[")):
        return _columns(lines, name), []
    return file_queries(lines, name), []


def _topics(text: str, name: str) -> tuple[list[RawQuery], list[str]]:
    """Topics of TREC, in the tags of the nineties (`<num>`, `<title>`, left open) or as XML (`<topic number=…><query>`)."""
    found: list[RawQuery] = []
    opened = list(_OPENED.finditer(text))
    ends = [*(match.start() for match in opened[1:]), len(text)][: len(opened)]
    for number, (match, end) in enumerate(zip(opened, ends, strict=True), start=1):
        attributes, body = match[1], _CLOSED.split(text[match.end() : end], maxsplit=1)[0]
        where = f"{name!r}, topic {number}"
        stated = _NUMBER.search(attributes)
        identifier = stated[1] if stated else _tag(body, "num") or _tag(body, "number")
        if not identifier:
            raise Refused(f"Nothing was compared: {where} has no <num> and no number attribute, so that no judgement could mean it.")
        query = _tag(body, "title") or _tag(body, "query") or ("" if "<" in body else _plain(body))
        found.append(raw_query({"text": query}, f"{where} ({identifier})", identifier.split()[0]))
        if len(found) > MAX_QUERIES:
            break
    if not found:
        raise Refused(f"Nothing was compared: {name!r} begins with a tag and holds no <top>…</top> and no <topic>…</topic>.")
    return checked(found, repr(name)), [f"{name!r} holds TREC topics: their titles are the queries, not their descriptions."]


def _tag(body: str, tag: str) -> str:
    """The text of a tag as far as the next one: the oldest topics close none."""
    match = re.search(rf"<{tag}\b[^>]*>(.*?)(?=<(?!!\[CDATA)|\Z)", body, re.IGNORECASE | re.DOTALL)
    return _plain(match[1]) if match else ""


def _plain(text: str) -> str:
    return " ".join(_LABEL.sub("", html.unescape(_CDATA.sub(r"\1", text))).split())


def file_queries(lines: Iterable[str], name: str) -> list[RawQuery]:
    """Queries of a JSONL file: `{"id" or "_id", "text", "relevant_ids"?}` a line.

    Raises:
        Refused: names the first bad line.
    """
    found: list[RawQuery] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name!r}, line {number}"
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise Refused(f"Nothing was compared: {where} is not JSON: {reason}.") from None
        if not isinstance(entry, dict):
            raise Refused(f'Nothing was compared: {where} is not an object such as {{"id": "1", "text": "..."}}.')
        identifier = entry.get("id", entry.get("_id"))
        if not is_id(identifier):
            raise Refused(f"Nothing was compared: {where} has no 'id' (or '_id') that is a text or an integer.")
        found.append(raw_query(entry, where, str(identifier)))
        if len(found) > MAX_QUERIES:
            break
    return checked(found, repr(name))


def file_judgements(lines: Iterable[str], name: str, wanted: Iterable[str]) -> tuple[dict[str, dict[str, int]], int]:
    """Grades by query and document id, of the wanted queries; and how many rows were for others.

    Three columns (query, document, grade), four as TREC has them (query, iteration, document, grade); a header is skipped.

    Raises:
        Refused: names the first bad line, or says that there is not one judgement.
    """
    grades: dict[str, dict[str, int]] = {query: {} for query in wanted}
    others = rows = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        columns = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns]
        grade = _grade(columns[-1])
        if rows == 0 and grade is None and number == 1 and len(columns) in {3, 4}:
            continue
        if len(columns) not in {3, 4} or grade is None:
            raise Refused(
                f"Nothing was compared: {name!r}, line {number} is not 'query-id corpus-id score' or the four columns of TREC, "
                f"with a whole number from {-MAX_GRADE} to {MAX_GRADE} at the end."
            )
        rows += 1
        if columns[0] in grades:
            grades[columns[0]][columns[-2]] = grade
        else:
            others += 1
    if not rows:
        raise Refused(f"Nothing was compared: {name!r} holds no judgement.")
    return grades, others


def _columns(lines: Sequence[str], name: str) -> list[RawQuery]:
    found: list[RawQuery] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        identifier, _, text = line.rstrip("\r").partition("\t")
        where = f"{name!r}, line {number}"
        if not identifier.strip():
            raise Refused(f"Nothing was compared: {where} has no id before the tab.")
        found.append(raw_query({"text": text}, where, identifier.strip()))
        if len(found) > MAX_QUERIES:
            break
    return checked(found, repr(name))


def _grade(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value == int(value) and abs(value) <= MAX_GRADE else None
