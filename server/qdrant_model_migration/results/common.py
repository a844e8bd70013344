"""What does every answer hold, whichever tool gives it?"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Wire(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(extra="forbid")


class NextStep(Wire):
    """The call that follows when nothing has to be decided by a person."""

    tool: str
    arguments: dict[str, Any] = {}
    why: str

    @model_validator(mode="after")
    def _decides_nothing(self) -> Self:
        """A client that follows nothing but next steps agrees to no plan, deletes nothing and moves no reader back."""
        if (
            "plan" in self.arguments
            or self.arguments.get("action") in ("delete_old", "discard_new")
            or self.arguments.get("direction") == "back"
        ):
            raise ValueError(f"a next step for {self.tool} would decide what only a person decides")
        return self


class Result(Wire):
    """What every answer holds."""

    summary: str = Field(description="one line, to be told to the person")
    warnings: list[str] = []
    next_step: NextStep | None = None
    state: Literal["done", "running"] = Field(default="done", description="`running`: the same call again attaches to the same operation")
    check_again_after_s: int | None = None
    watch_command: str | None = Field(default=None, description="to follow from a terminal")


class WriteResult(Result):
    """An answer of a tool that writes."""

    undo: str = Field(default="Nothing was changed.", description="how to take it back")
