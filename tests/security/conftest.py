"""Fixtures of the tests of security."""

from __future__ import annotations

from tests.mcp.conftest import _no_worker_outlives_its_test

__all__ = ["_no_worker_outlives_its_test"]
