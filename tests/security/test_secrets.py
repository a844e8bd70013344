"""Is a key ever shown? Planted keys are looked for in all that is said, logged, recorded and visible of processes, after every kind of failure."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import SettingsError
from qdrant_model_migration.redaction import RedactingFormatter, known_secrets, redacted
from tests.conftest import Backend, NewServer
from tests.mcp.hosts import hosted, log_directory, parameters, until, workers
from tests.openai_server import Answer, OpenAIServer
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.security.inside import inside
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.timeout(180)

QDRANT_KEY = "planted-qdrant-key-5f1e9a"
PROVIDER_KEY = "planted-provider-key-c07d22"
HTTP_TOKEN = "planted-http-token-88b1f4-and-more"
USERINFO = "planted-password-of-an-address"
PLANTED = (QDRANT_KEY, PROVIDER_KEY, HTTP_TOKEN, USERINFO)
SECRETS = {"QDRANT_API_KEY": QDRANT_KEY, "MY_PROVIDER": PROVIDER_KEY, "QDRANT_MIGRATION_HTTP_TOKEN": HTTP_TOKEN}

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("inspect_collection", {}),
    ("inspect_collection", {"collection": "docs"}),
    ("recommend_strategy", {"collection": "docs", "goal": "replace_model", "model": NEW}),
    ("compare_models", {"collection": "docs", "models": [OLD, NEW]}),
    ("create_target", {"collection": "docs", "strategy": "new_collection", "model": NEW, "text_field": "text"}),
    ("migration_status", {}),
    ("swap_alias", {"migration_id": "m-000000", "plan": "docs-000000"}),
)


def shown_in(texts: Iterable[str]) -> list[str]:
    """The planted keys that stand in any of the texts."""
    held = list(texts)
    return [key for key in PLANTED if any(key in text for text in held)]


def command_lines() -> list[str]:
    """Of every process of this machine that lets itself be looked at."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def logs() -> list[str]:
    return [path.read_text(errors="replace") for path in log_directory().glob("*")] if log_directory().is_dir() else []


class Echo:
    """An HTTP server in Qdrant's place that repeats the headers of every request in its answer, as careless proxies do."""

    def __init__(self, kind: str) -> None:
        self.status = 400
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                said = "; ".join(f"{key}: {value}" for key, value in self.headers.items())
                body = json.dumps({"status": {"error": f"refused: {said}"}, "time": 0.0}) if kind == "application/json" else said
                self.send_response(outer.status)
                self.send_header("content-type", kind)
                self.send_header("x-echo", self.headers.get("api-key", ""))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


async def _every_call(environment: dict[str, str], calls: tuple[tuple[str, dict[str, Any]], ...] = CALLS) -> str:
    """All that the server said while every call failed, answers and standard error; checked for the keys."""
    async with hosted({**SECRETS, **environment}) as host:
        for tool, arguments in calls:
            await host.refused(tool, **arguments)
        said = [*host.said, host.stderr, *logs(), *command_lines()]
    assert shown_in([*said, host.stderr]) == []
    return "\n".join(host.said)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_a_server_that_repeats_the_key_is_not_quoted(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    echo = Echo(kind)
    with echo as url:
        environment = {**SECRETS, "QDRANT_URL": url}
        async with inside(environment) as host:
            for status in (400, 401, 403, 404, 409, 413, 422, 500):
                echo.status = status
                for tool, arguments in CALLS if status < 500 else CALLS[1:2]:
                    await host.refused(tool, **arguments)
            host.check_secrets(environment)
            said = [*host.said, caplog.text]
    assert any("***" in text for text in said), "the server's words are told, but for the key"
    assert shown_in(said) == []


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_a_wrong_key_is_refused_without_being_shown(new_server: NewServer, prefer_grpc: str) -> None:
    server = new_server("1.17.0", api_key="the-right-key-of-this-server")
    said = await _every_call({**server.environment, **SECRETS, "QDRANT_PREFER_GRPC": prefer_grpc})
    assert "QDRANT_API_KEY" in said
    assert "the-right-key" not in said


async def test_a_server_that_is_down_or_silent_is_told_without_address_and_key() -> None:
    """Nobody listens; somebody listens and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        said = await _every_call({"QDRANT_URL": f"http://127.0.0.1:{port}"}, CALLS[1:3])
        assert "does not answer" in said
        silent.listen(128)
        said = await _every_call({"QDRANT_URL": f"http://127.0.0.1:{port}", "QDRANT_MIGRATION_LEASE_SECONDS": "2"}, CALLS[1:2])
        assert "does not answer" in said


@pytest.mark.parametrize(
    "environment",
    [
        {"QDRANT_URL": f"http://somebody:{USERINFO}@127.0.0.1:6333"},
        {"QDRANT_URL": f"ftp://somebody:{USERINFO}@127.0.0.1:6333"},
        {"QDRANT_URL": f"http://somebody:{USERINFO}@127.0.0.1:port"},
        {"QDRANT_URL": f"http://[{USERINFO}"},
        {"QDRANT_MIGRATION_CONNECTIONS": json.dumps({"prod": {"url": f"http://u:{USERINFO}@host:6333"}})},
        {"QDRANT_MIGRATION_CONNECTIONS": json.dumps({"prod": {"url": "http://host", "api_key": USERINFO}})},
        {"QDRANT_MIGRATION_CONNECTIONS": json.dumps({"prod": {"url": "http://host", "key_variable": USERINFO}})},
        {"QDRANT_MIGRATION_CONNECTIONS": json.dumps({"prod": {"url": "http://host", "grpc_port": USERINFO}})},
        {"QDRANT_MIGRATION_CONNECTIONS": f'{{"prod": {{"api_key": "{USERINFO}"'},
        {"QDRANT_MIGRATION_MODELS": json.dumps({"m": {"provider": "openai", "base_url": f"http://[{USERINFO}"}})},
        {"QDRANT_MIGRATION_MODELS": json.dumps({"m": {"provider": "openai", "api_key": USERINFO}})},
        {"QDRANT_MIGRATION_MODELS": json.dumps({"m": {"provider": "openai", "dimensions": USERINFO}})},
        {"QDRANT_GRPC_PORT": USERINFO},
        {"QDRANT_MIGRATION_READ_ONLY": USERINFO},
        {"QDRANT_MIGRATION_LEASE_SECONDS": USERINFO},
    ],
)
def test_a_malformed_setting_is_named_and_not_repeated(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An address with a password in it, a key where a key must not be, and keys in the wrong variable."""
    for variable, value in {**SECRETS, **environment}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert next(iter(environment)) in str(caught.value)
    if "key_variable" not in str(environment):
        assert shown_in([str(caught.value)]) == []
    assert caught.value.__cause__ is None


def test_a_server_with_a_password_in_its_address_does_not_start_and_does_not_tell_it() -> None:
    started = parameters({**SECRETS, "QDRANT_URL": f"http://somebody:{USERINFO}@127.0.0.1:6333"})
    for arguments in ([], ["inspect"]):
        command = [started.command, *started.args, *arguments]
        done = subprocess.run(command, env=started.env, capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL)
        assert done.returncode == 1
        assert "QDRANT_URL must not hold a user name or password" in done.stderr
        assert shown_in([done.stdout, done.stderr]) == []
        assert "Traceback" not in done.stderr


def _model(provider: OpenAIServer) -> dict[str, str]:
    entry = {"provider": "openai", "model": "m", "base_url": provider.base_url, "dimensions": 64, "key_variable": "MY_PROVIDER"}
    return {"QDRANT_MIGRATION_MODELS": json.dumps({"away": entry})}


def _echo(status: int) -> Answer:
    message = f"Incorrect API key provided: {PROVIDER_KEY}. Authorization: Bearer {PROVIDER_KEY}"
    return Answer(status=status, body={"error": {"message": message, "type": "invalid_request_error", "code": PROVIDER_KEY}})


async def test_a_provider_that_repeats_the_key_is_not_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**SECRETS, "QDRANT_PATH": str(tmp_path / "qdrant")}
    async with opened(Backend(name="embedded", environment=environment, version=None), monkeypatch) as context:
        await seed(context, "docs")
    with OpenAIServer(64) as provider:
        async with inside({**environment, **_model(provider)}) as host:
            for status in (400, 401, 403, 404, 413, 418, 422):
                provider.always = _echo(status)
                said = await host.refused("create_target", collection="docs", model="away", strategy="new_collection", text_field="text")
                assert "away" in said
            provider.always = _echo(500)
            await host.raw("recommend_strategy", collection="docs", goal="replace_model", model="away")
            told = [*host.said, caplog.text]
        assert len(provider.requests) >= 8
    assert shown_in(told) == []


async def test_neither_worker_nor_ledger_nor_any_process_shows_a_key(
    new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill whose provider refuses the key and repeats it, seen from every side: answers, events, logs, records, processes."""
    server = new_server("1.17.0", api_key=QDRANT_KEY)
    with OpenAIServer(64) as provider:
        environment = {**SECRETS, **server.environment, "QDRANT_API_KEY": QDRANT_KEY, **_model(provider)}
        async with opened(Backend(name="server", environment=environment, version=server.version), monkeypatch) as context:
            await seed(context, name, points=200)
        seen: list[str] = []
        async with hosted(environment) as host:
            made = await host.call(
                "create_target", collection=name, strategy="new_collection", model="away", text_field="text", current_model=OLD
            )
            me = made["migration_id"]
            provider.always = Answer(delay_s=0.5)
            await host.call("start_backfill", migration_id=me)
            await until(lambda: bool(list(workers())))
            seen += [*command_lines(), *(line for _, line in workers())]
            provider.always = _echo(401)
            status = await host.call("migration_status", migration_id=me)
            for _ in range(20):
                if status["error"] is None:
                    status = await host.call("migration_status", migration_id=me, wait_seconds=5)
            assert "MY_PROVIDER" in status["error"]
            await host.raw("verify_target", migration_id=me)
            read = [str(await host.client.read_resource(f"migration://{me}/{report}")) for report in ("report", "report.html")]
            seen += [*host.said, host.stderr, json.dumps(status), *read]
        seen += [*logs(), *command_lines()]
        records = _records(server, "_model_migrations")
        assert len(records) > 5
        assert any(me in log or "MY_PROVIDER" in log for log in logs())
        assert shown_in([*seen, *records]) == []


def _records(server: QdrantServer, ledger: str) -> list[str]:
    """Every record of the ledger as the server has it."""
    body = {"limit": 10_000, "with_payload": True, "with_vector": True}
    answer = rest(f"{server.url}/collections/{ledger}/points/scroll", method="POST", body=body, api_key=QDRANT_KEY)
    return [json.dumps(point) for point in answer["result"]["points"]]


def test_a_traceback_in_a_log_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is logged with its trace, and the message of an exception may hold anything."""
    for variable, value in SECRETS.items():
        monkeypatch.setenv(variable, value)
    models = {"away": {"key_variable": "MY_PROVIDER", "base_url": f"http://me:{USERINFO}@host/v1"}}
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps(models))
    assert set(known_secrets()) >= set(PLANTED)
    try:
        try:
            raise ValueError(f"header api-key: {QDRANT_KEY}")
        except ValueError as error:
            raise RuntimeError(f"Bearer {PROVIDER_KEY}") from error
    except RuntimeError:
        record = logging.getLogger("any").makeRecord("any", logging.ERROR, "f", 1, "failed with %s", (HTTP_TOKEN,), sys.exc_info())
    line = RedactingFormatter("%(message)s").format(record)
    assert shown_in([line]) == []
    assert "failed with ***" in line
    assert "ValueError: header api-key: ***" in line
    assert "RuntimeError: Bearer ***" in line


@pytest.mark.parametrize("level", ["ERROR", "WARNING"])
def test_what_nobody_foresaw_in_a_command_is_logged_without_keys(level: str, tmp_path: Path) -> None:
    """The library that carries the call logs a crash with its trace; less than an error stays out of a command's output."""
    crash = (
        "import logging, sys\n"
        "from qdrant_model_migration.cli import app\n"
        "from qdrant_model_migration.qdrant.gateway import Gateway\n"
        "async def crash(*_, **__):\n"
        f"    logging.getLogger('mcp').log(logging.{level}, 'said {QDRANT_KEY}')\n"
        f"    raise RuntimeError('header api-key: {QDRANT_KEY}')\n"
        "Gateway.collections = crash\n"
        "sys.argv = ['qdrant-model-migration', 'inspect']\n"
        "app()\n"
    )
    started = parameters({**SECRETS, "QDRANT_PATH": str(tmp_path / "qdrant")})
    command = [started.command, "-c", crash]
    done = subprocess.run(command, env=started.env, capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: header api-key: ***" in done.stderr
    assert ("said ***" in done.stderr) == (level == "ERROR")
    assert shown_in([done.stdout, done.stderr]) == []


def test_a_short_key_does_not_eat_the_words_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weak key of a development server, such as 'qdrant', must not turn names into asterisks; one inside another is hidden whole."""
    monkeypatch.setenv("QDRANT_API_KEY", "qdrant")
    assert redacted("qdrant:bm25") == "qdrant:bm25"
    monkeypatch.setenv("OTHER_API_KEY", "0123456789ab")
    monkeypatch.setenv("LONGER_TOKEN", "0123456789abcdef")
    assert redacted("x 0123456789abcdef y 0123456789ab z") == "x *** y *** z"


def test_a_key_is_known_by_its_name_in_any_case_and_a_name_of_a_field_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read in any case, so keys are hidden in any; what an app calls the key of a payload must not turn fields into asterisks."""
    monkeypatch.setenv("qdrant_api_key", QDRANT_KEY)
    monkeypatch.setenv("CONTENT_KEY", "page_content")
    monkeypatch.setenv("OTHER_API_KEY", "onlylowerletters")
    monkeypatch.setenv("SIGNING_KEY", "page_content_8")
    assert redacted(f"{QDRANT_KEY} page_content onlylowerletters page_content_8") == "*** page_content *** ***"


@pytest.mark.parametrize("password", ["p4ssw0rd", "elevenchars"])
def test_a_password_that_is_too_short_to_be_hidden_is_refused(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"provider": "openai", "base_url": f"http://me:{password}@host/v1"}
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps({"away": entry}))
    with pytest.raises(SettingsError, match="fewer than 12 characters") as caught:
        read_settings()
    assert password not in str(caught.value)
    entry["base_url"] = f"http://me:{password}-{password}@host/v1"
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", json.dumps({"away": entry}))
    read_settings()
    assert f"{password}-{password}" not in redacted(str(entry))


def test_a_wrong_http_token_is_not_repeated(tmp_path: Path) -> None:
    """The server's own token and the one that was sent stay out of answers and of standard error."""
    started = parameters({**SECRETS, "QDRANT_PATH": str(tmp_path / "qdrant")}, "serve", "--http", "--port", "0")
    process = subprocess.Popen([started.command, *started.args], env=started.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        told = process.stderr.readline()
        port = int(told.split(":")[-1].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            raw.sendall(
                f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {USERINFO}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            answer = raw.recv(65_536).decode()
        assert answer.startswith("HTTP/1.1 401")
        assert shown_in([answer, told, *command_lines()]) == []
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert shown_in([out, err]) == []
    assert os.environ.get("QDRANT_MIGRATION_HTTP_TOKEN") is None
