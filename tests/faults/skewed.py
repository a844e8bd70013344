"""A worker on a machine whose clock is wrong: `python skewed.py SECONDS m-123456`. The monotonic clocks go on as they do."""

from __future__ import annotations

import datetime
import sys
import time


def set_forward(seconds: float) -> None:
    """Have every wall clock of this process be wrong by so much; before anything of the product is imported."""
    real, clock = datetime.datetime, time.time

    class Wrong(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + datetime.timedelta(seconds=seconds)

    datetime.datetime = Wrong  # type: ignore[misc]
    time.time = lambda: clock() + seconds


if __name__ == "__main__":
    set_forward(float(sys.argv[1]))
    from qdrant_model_migration.cli import app

    app(["worker", sys.argv[2]])
