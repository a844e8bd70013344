"""Does the server pass the protocol's own suite, at the requirements of both revisions? What fails must want a fixture that only a test server has."""

from __future__ import annotations

import re

import pytest

from qdrant_model_migration.tools import TOOLS
from tests.clients.conftest import Serve
from tests.clients.installed import HERE, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXPECTED = HERE / "expected-failures.yml"
SUITE = HERE / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
LISTED = re.compile(r"^  - (\S+) # (\S+)$", re.MULTILINE)


def test_what_may_fail_wants_a_fixture_of_the_suite_that_no_other_server_has() -> None:
    text, suite = EXPECTED.read_text(), SUITE.read_text()
    listed = LISTED.findall(text)
    assert len(listed) == text.count("\n  - ")
    ours = {spec.name for spec in TOOLS}
    for scenario, fixture in listed:
        assert fixture in suite, scenario
        assert scenario in suite, scenario
        assert fixture not in ours


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_the_suite_passes_but_for_scenarios_that_want_its_fixtures(serve: Serve, revision: str) -> None:
    done = run("conformance", "server", "--url", serve(), "--requirements", revision, "--expected-failures", str(EXPECTED), timeout_s=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    # Most of it ran and passed: a server that answers nothing would fail what is not listed.
    passed = int(re.findall(r"Total: (\d+) passed", done.stdout)[-1])
    assert passed > 40
