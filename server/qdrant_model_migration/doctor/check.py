"""One line of the doctor's report."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["ok", "warn", "fail", "skip"]


class Check(BaseModel):
    """What was looked at, what was seen, and where it is not in order the remedy."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: State
    text: str
    remedy: str | None = None
