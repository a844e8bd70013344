"""How is a worker started as a process of its own? Detached, in a session of its own, with keys by environment only."""

from __future__ import annotations

import subprocess
import sys

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.environment import child_environment
from qdrant_model_migration.settings import Settings


def spawn_worker(settings: Settings, migration: Migration, *, stands_by: bool = False) -> subprocess.Popen[bytes]:
    """Start `qdrant-model-migration worker <id>`; its output goes to the migration's log.

    One that `stands_by` takes over only should the driver die while the writers of the app wait.
    """
    folder = settings.log_directory
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{migration.id}.log"
    command = [sys.executable, "-m", "qdrant_model_migration", "worker", migration.id, "--connection", migration.target.connection]
    detached: dict[str, object] = {"creationflags": 0x00000008 | 0x00000200} if sys.platform == "win32" else {"start_new_session": True}
    with log.open("ab") as out:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # noqa: S603 - our own interpreter and module, an id from the ledger
            [*command, "--log", str(log), *(["--stand-by"] if stands_by else [])],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env=child_environment(),
            **detached,
        )
