"""An MCP host as the tests need one: it starts the server as hosts do, calls tools, and tells what the server left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from mcp import Client, StdioServerParameters
from mcp.client.session import ElicitationFnT
from mcp.client.stdio import stdio_client

from qdrant_model_migration.tools.server import UNFORESEEN
from tests.security.said import problem_of_answer

MOST_ANSWER_S = 40.0
"""No call may take longer."""

Answer = dict[str, Any]


class Host:
    """One session. Every call is timed; `text` keeps all that the server said."""

    def __init__(self, client: Client, errors: Path) -> None:
        self.client = client
        self.said: list[str] = []
        self.took: list[tuple[str, float]] = []
        self._errors = errors

    @property
    def stderr(self) -> str:
        return self._errors.read_text(errors="replace")

    async def raw(self, tool: str, **arguments: Any) -> tuple[bool, str, Answer | None]:
        """(is_error, text, structured content) of one call."""
        began = time.monotonic()
        answer = await self.client.call_tool(tool, arguments)
        took = time.monotonic() - began
        self.took.append((tool, took))
        assert took < MOST_ANSWER_S, f"{tool} answered after {took:.1f} s"
        text = "\n".join(getattr(part, "text", "") for part in answer.content)
        self.said.append(text)
        if answer.structured_content is not None and not answer.is_error:
            problem = problem_of_answer(answer.structured_content)
            assert problem is None, f"{tool}({arguments}): {problem}"
        return bool(answer.is_error), text, answer.structured_content

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """The structured answer of a call that succeeds."""
        is_error, text, content = await self.raw(tool, **arguments)
        assert not is_error, f"{tool}({arguments}): {text}\n{self.stderr[-3000:]}"
        assert content is not None
        return content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The text of a call that is refused; checked to be one that a person may see."""
        is_error, text, _ = await self.raw(tool, **arguments)
        assert is_error, f"{tool}({arguments}) was not refused: {text[:500]}"
        assert "Traceback" not in text
        assert 'File "' not in text
        # The SDK puts this before every text.
        said = text.removeprefix(f"Error executing tool {tool}").removeprefix(": ")
        assert said, f"{tool}({arguments}) says nothing"
        assert UNFORESEEN not in said, f"{tool}({arguments}) failed in an unforeseen way:\n{self.stderr[-3000:]}"
        return said

    async def whole(self, tool: str, **arguments: Any) -> Answer:
        """A call that is repeated, as its `next_step` says, while it runs."""
        answer = await self.call(tool, **arguments)
        while answer["state"] == "running":
            step = answer["next_step"]
            assert step is not None
            assert step["tool"] == tool
            answer = await self.call(tool, **step["arguments"])
        return answer

    async def verified(self, collection: str, model: str, **arguments: Any) -> str:
        """The migration of a collection's texts to a model, as far as it goes before a swap; its id."""
        made = await self.call(
            "create_target", collection=collection, strategy="new_collection", model=model, text_field="text", **arguments
        )
        me: str = made["migration_id"]
        await self.call("start_backfill", migration_id=me)
        await self.backfilled(me)
        assert (await self.whole("verify_target", migration_id=me))["is_complete"]
        return me

    def check_secrets(self, environment: Mapping[str, str]) -> None:
        """Neither an address nor a key was said, in an answer or on standard error."""
        for text in [*self.said, self.stderr]:
            assert not [secret for secret in secrets_of(environment) if secret in text], text

    async def backfilled(self, migration_id: str, *, within_s: float = 110.0) -> Answer:
        """The status when the backfill is over."""
        with anyio.fail_after(within_s):
            while True:
                answer = await self.call("migration_status", migration_id=migration_id, wait_seconds=10)
                assert answer["error"] is None, answer["error"]
                if answer["phase"] not in ("target_created", "backfilling"):
                    return answer
                await anyio.sleep(0.2)


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """Addresses and keys of every connection that an environment configures."""
    named = json.loads(environment.get("QDRANT_MIGRATION_CONNECTIONS") or "{}")
    urls = [environment.get("QDRANT_URL", ""), *(entry.get("url", "") for entry in named.values())]
    keys = [value for key, value in environment.items() if key.endswith("KEY")]
    return {secret for url in urls for secret in (url, url.removeprefix("http://"))}.union(keys) - {""}


def parameters(environment: Mapping[str, str], *arguments: str) -> StdioServerParameters:
    """The command as a host's configuration has it; hosts pass next to nothing of their own environment."""
    kept = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}
    own = {key: os.environ[key] for key in ("HF_HUB_OFFLINE", "PYTHONPATH", "QDRANT_MIGRATION_LOG_DIRECTORY") if key in os.environ}
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "qdrant_model_migration", *arguments],
        env={**kept, **own, "OMP_NUM_THREADS": "2", **environment},
    )


@contextmanager
def own_failure() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """The client's task groups wrap what a test raises; the test's own failure, noted inside them, is what a reader wants to see."""
    failure: list[BaseException] = []

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            failure.append(error)
            raise

    try:
        yield noted
    except BaseExceptionGroup:
        if failure:
            raise failure[0] from None
        raise


@asynccontextmanager
async def hosted(
    environment: Mapping[str, str], *, answers: ElicitationFnT | None = None, mode: str = "auto", errors: Path | None = None
) -> AsyncIterator[Host]:
    """A session with the server over stdio, as Claude Desktop or VS Code would have it."""
    log = errors or Path(os.environ["HOME"]) / f"stderr-{time.monotonic_ns()}.txt"
    with log.open("w") as sink, own_failure() as noted:
        transport = stdio_client(parameters(environment), errlog=sink)
        async with Client(transport, elicitation_callback=answers, mode=mode, read_timeout_seconds=60) as client:
            host = Host(client, log)
            with noted():
                yield host
                host.check_secrets(environment)


def log_directory() -> Path:
    return Path(os.environ["QDRANT_MIGRATION_LOG_DIRECTORY"])


def workers() -> Iterator[tuple[int, str]]:
    """(pid, command line) of the detached workers that log into this test's own directory."""
    mark = str(log_directory())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in command and " worker " in command:
            yield int(entry.name), command


def end_workers() -> None:
    """Kill what this test detached."""
    for pid, _ in workers():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


async def until(condition: Any, *, within_s: float = 20.0) -> None:
    """Poll a condition of another process; nothing notifies us of those."""
    with anyio.fail_after(within_s):
        while True:
            if condition():
                return
            await anyio.sleep(0.05)


def tokens(answer: Answer) -> int:
    """Tokens of an answer as a host sees it, at four characters each."""
    return len(json.dumps(answer, ensure_ascii=False)) // 4
