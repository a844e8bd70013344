"""What may an answer say, whatever it was asked and whatever the data holds? The same checks for every test of this folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from qdrant_model_migration.domain.untrusted import is_hidden

OPAQUE = re.compile(
    r"Traceback \(|File \".*\", line|errors\.pydantic\.dev|validation error|\[type=|input_value=|not foreseen|unexpectedly|object at 0x|<class |site-packages"
    r"|\b(?:[A-Z][a-z]+)+(?:Error|Exception)\b"
)
"""Marks of an error that nobody wrote for a person: Python's own names and forms, pydantic's, and our word for a fault of ours."""
PREFIX = re.compile(r"^Error executing tool \w+: ")


def problem_of_refusal(text: str) -> str | None:
    """Why the text of an error helps nobody, or None. It must be a sentence, about the matter, of a bounded length, and hide nothing."""
    said = PREFIX.sub("", text)
    if len(said) < 20 or " " not in said.strip():
        return "it says nothing"
    if found := OPAQUE.search(said):
        return f"it is opaque: {found[0]!r}"
    if len(said) > 3_000:
        return f"it has {len(said):,} characters"
    if any(map(is_hidden, said)):
        return "it holds hidden characters"
    return None


def steps_of(answer: Any) -> Iterator[dict[str, Any]]:
    """Every next step of an answer, wherever it stands."""
    if isinstance(answer, dict):
        if answer.get("next_step"):
            yield answer["next_step"]
        for value in answer.values():
            yield from steps_of(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from steps_of(value)


def problem_of_answer(answer: dict[str, Any]) -> str | None:
    """Why an answer must not be given, or None: it hides something, or a next step decides what only a person does."""
    for step in steps_of(answer):
        arguments = step["arguments"]
        if "plan" in arguments or arguments.get("action") in ("delete_old", "discard_new") or arguments.get("direction") == "back":
            return f"a next step decides: {step}"
    plan = answer.get("plan")
    if plan and any(plan["code"] in json.dumps(step) for step in steps_of(answer)):
        return "a next step carries the code of the plan"
    for place, text in strings_of(answer):
        if any(is_hidden(c) for c in text if c not in "\n\t"):
            return f"{place} holds hidden characters: {text[:200]!r}"
    if "\n" in answer["summary"]:
        return "the summary has several lines"
    return None


def strings_of(answer: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of an answer, keys too, with its place."""
    if isinstance(answer, str):
        yield place, answer
    elif isinstance(answer, dict):
        for key, value in answer.items():
            yield f"{place}.{key} (key)", key
            yield from strings_of(value, f"{place}.{key}")
    elif isinstance(answer, list):
        for number, value in enumerate(answer):
            yield from strings_of(value, f"{place}[{number}]")
