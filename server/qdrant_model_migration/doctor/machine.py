"""What of this machine could hinder a migration? Folders that cannot be written or run full, and a clock that is wrong."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from qdrant_model_migration.doctor.check import Check
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.qdrant.clock import TOLERATED
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.settings import Settings

LEAST_FREE = {"log directory": 100e6, "FastEmbed cache": 2e9, "embedded database": 1e9}
"""Bytes: a worker's log of weeks, the larger ones of FastEmbed's models, a first collection and what Qdrant writes anew beside it."""


def clock_check(gateway: Gateway, name: str) -> Check | None:
    """This machine's clock against the server's, as its answers bear it; None where they do not, as an embedded database's."""
    ahead = gateway.call.clock.ahead
    if ahead is None:
        return None
    what, seconds = f"clock of '{name}'", abs(ahead.total_seconds())
    if abs(ahead) < TOLERATED:
        return Check(name=what, state="ok", text="agrees with this machine's within 10 s")
    word = "ahead of" if ahead > timedelta() else "behind"
    return Check(
        name=what,
        state="warn",
        text=f"the server's clock is {seconds:,.0f} s {word} this machine's",
        remedy="Set both by NTP. No migration depends on it: what is recorded goes by the server's clock, and a lease by how long nothing was heard. Times in logs differ.",
    )


def folder_checks(settings: Settings) -> list[Check]:
    """Whether what is written here has a place, and room."""
    found = [_writable("log directory", settings.log_directory, "Set QDRANT_MIGRATION_LOG_DIRECTORY to a folder that can be written.")]
    variables = child_environment()
    is_offline = variables.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
    stated = variables.get("FASTEMBED_CACHE_PATH")
    cache = Path(stated).expanduser() if stated else Path(tempfile.gettempdir()) / "fastembed_cache"
    network = "HF_HUB_OFFLINE is set: models are not downloaded" if is_offline else "models are downloaded when first used"
    if stated is None:
        found.append(
            Check(
                name="FastEmbed cache",
                state="warn",
                text=f"{cache}, a temporary folder that the system empties; {network}",
                remedy="Set FASTEMBED_CACHE_PATH to a folder that stays.",
            )
        )
    elif is_offline and not cache.is_dir():
        found.append(Check(name="FastEmbed cache", state="warn", text=f"{cache} does not exist, and {network}", remedy="Unset HF_HUB_OFFLINE once, or copy a filled cache there."))  # fmt: skip
    else:
        found.append(_writable("FastEmbed cache", cache, "Set FASTEMBED_CACHE_PATH to a folder that can be written.", network))
    places = {"log directory": settings.log_directory, "FastEmbed cache": cache}
    if (path := settings.connection(None).path) is not None:
        places["embedded database"] = path
    return [*found, *(_room(name, folder) for name, folder in places.items())]


def _room(name: str, folder: Path) -> Check:
    free, least = shutil.disk_usage(_nearest(folder)).free, LEAST_FREE[name]
    text = f"{free / 1e9:,.1f} GB free"
    if free >= least:
        return Check(name=f"room for the {name}", state="ok", text=text)
    return Check(
        name=f"room for the {name}",
        state="warn",
        text=f"{text} at {folder}; less than {least / 1e9:g} GB may not do",
        remedy="Free some, or set the folder to a larger disk.",
    )


def _writable(name: str, folder: Path, remedy: str, more: str = "") -> Check:
    """Whether files can be made there; a folder that does not exist yet is judged by the nearest one that does."""
    nearest = _nearest(folder)
    text = str(folder) + (f"; {more}" if more else "")
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Check(name=name, state="ok", text=text)
    return Check(name=name, state="fail", text=f"{text} cannot be written", remedy=remedy)


def _nearest(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
