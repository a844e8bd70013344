"""What tests need beside their own environment is installed once, whole, and again when its pins change; by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import IS_CI


class NotInstalled(Exception):
    """It cannot be had on this machine; the message says why."""


def install_once(folder: Path, pins: str, stamp: str, install: Callable[[], None]) -> None:
    """Call `install` unless the stamp, a path in the folder, says that what the pins state is there.

    Raises:
        NotInstalled: by `install`; then the next call tries again.
    """
    pinned, mark = hashlib.sha256((folder / pins).read_bytes()).hexdigest(), folder / stamp
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if mark.is_file() and mark.read_text() == pinned:
            return
        install()
        mark.write_text(pinned)


def required(install: Callable[[], None], what: str) -> None:
    """Install what the tests of a folder need: where it cannot be had they fail in CI, and are skipped elsewhere."""
    try:
        install()
    except NotInstalled as error:
        reason = f"no {what} to test with: {error}"
        raise (pytest.fail.Exception(reason, pytrace=False) if IS_CI else pytest.skip.Exception(reason)) from None
