"""The server over HTTP, as a process of its own, for tests that speak to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping


def started(options: tuple[str, ...], environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], str]:
    """The process of `serve --http` on a free port, and the address that it tells. Whoever starts it ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qdrant_model_migration", "serve", "--http", "--port", "0", *options],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = process.stderr.readline()
    if "Serving MCP at http://" not in told:
        process.kill()
        process.communicate()
        raise AssertionError(told)
    return process, told.split(" at ")[1].split(" ")[0]
