"""A session with the server in this process: as a host has it, less the process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client

from qdrant_model_migration.app import build_server
from qdrant_model_migration.environment import read_settings
from tests.mcp.hosts import Host, own_failure


@asynccontextmanager
async def inside(environment: Mapping[str, str]) -> AsyncIterator[Host]:
    """The server for an environment. What is logged goes where pytest has it."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment.items():
            patch.setenv(variable, value)
        errors = Path(os.environ["HOME"]) / "inside.txt"
        errors.touch()
        with own_failure() as noted:
            async with Client(build_server(read_settings()), read_timeout_seconds=60) as client:
                with noted():
                    yield Host(client, errors)
