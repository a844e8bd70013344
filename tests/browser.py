"""A headless Chromium as tests drive it: over a pipe, by the DevTools protocol, without a port, a profile of anybody or a network."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

Json = dict[str, Any]

NAMES = ("chromium-headless-shell", "chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
    # Whatever a page would fetch, it finds nobody.
    "--proxy-server=127.0.0.1:9",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


START = """
import os, sys
for number, given in zip((3, 4), [os.dup(int(text)) for text in sys.argv[1:3]]):
    os.dup2(given, number)
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The protocol is on 3 and 4, whatever numbers the pipes have here."""


def installed() -> str | None:
    """The browser of this machine, Debian's `chromium-headless-shell` or `chromium`; None without one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One process; commands by `send`, events to whoever listens."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[anyio.Event, list[Json]]] = {}
        self.listeners: list[Callable[[str, Json, str | None], None]] = []

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> Json:
        """A command's result."""
        number = next(self._ids)
        answered, found = anyio.Event(), list[Json]()
        self._waiting[number] = (answered, found)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        with anyio.fail_after(30):
            await answered.wait()
        assert "error" not in found[0], f"{method}: {found[0]['error']}"
        result: Json = found[0]["result"]
        return result

    async def read(self) -> None:
        """Hand out what the browser says, until it ends."""
        rest = b""
        while chunk := await anyio.to_thread.run_sync(os.read, self._answers, 1 << 20, abandon_on_cancel=True):
            *whole, rest = (rest + chunk).split(b"\0")
            for part in whole:
                message = json.loads(part)
                if "id" in message:
                    answered, found = self._waiting.pop(message["id"])
                    found.append(message)
                    answered.set()
                else:
                    for listener in self.listeners:
                        listener(message["method"], message["params"], message.get("sessionId"))


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile in `folder`; it and all its processes are gone afterwards."""
    command = installed()
    assert command is not None, "no Chromium is installed"
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    arguments = [sys.executable, "-c", START, str(in_read), str(out_write), command, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = await anyio.open_process(
        arguments, stdin=None, stdout=None, stderr=subprocess.DEVNULL, pass_fds=(in_read, out_write), start_new_session=True
    )
    os.close(in_read)
    os.close(out_write)
    browser = Browser(in_write, out_read)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(browser.read)
            yield browser
            group.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.wait()
        os.close(in_write)
        os.close(out_read)


class Page:
    """A page, and the one frame that it may hold."""

    def __init__(self, browser: Browser, session: str, frame: str) -> None:
        self._browser = browser
        self._session = session
        self._frame = frame
        self._contexts: dict[tuple[str | None, int], str] = {}
        self.called: list[str] = []
        self.faults: list[str] = []
        """What a script failed with, and what the policy of a page forbade."""
        self.on_call: Callable[[str], None] = self.called.append
        browser.listeners.append(self._hear)

    @classmethod
    async def opened(cls, browser: Browser, content: str, *, width: int = 800, height: int = 600, is_dark: bool = False) -> Page:
        """A page with this content; in it the function `toHost(text)` reaches `on_call`."""
        target = (await browser.send("Target.createTarget", url="about:blank"))["targetId"]
        session = (await browser.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        frame = (await browser.send("Page.getFrameTree", session))["frameTree"]["frame"]["id"]
        page = cls(browser, session, frame)
        await browser.send("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True)
        for domain in ("Page", "Runtime", "Log"):
            await browser.send(f"{domain}.enable", session)
        await browser.send("Runtime.addBinding", session, name="toHost")
        await page.resize(width, height, is_dark=is_dark)
        await browser.send("Page.setDocumentContent", session, frameId=frame, html=content)
        return page

    async def resize(self, width: int, height: int, *, is_dark: bool) -> None:
        await self._browser.send(
            "Emulation.setDeviceMetricsOverride", self._session, width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self._browser.send("Emulation.setEmulatedMedia", self._session, features=[scheme])

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page itself."""
        return await self._evaluated(self._session, expression)

    async def inside(self, expression: str) -> Any:
        """The value of an expression in the frame that the page holds."""
        with anyio.fail_after(20):
            while True:
                found = [(s, c) for (s, c), frame in self._contexts.items() if frame != self._frame]
                if found:
                    break
                await anyio.sleep(0.05)
        session, context = found[-1]
        return await self._evaluated(session or self._session, expression, contextId=context)

    async def _evaluated(self, session: str, expression: str, **more: Any) -> Any:
        answer = await self._browser.send("Runtime.evaluate", session, expression=expression, returnByValue=True, awaitPromise=True, **more)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def press(self, key: str) -> None:
        """A key as a person presses it."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        code = {"Enter": 13, " ": 32, "Tab": 9}[key]
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        await self._browser.send("Input.dispatchKeyEvent", self._session, type="keyDown" if text else "rawKeyDown", text=text, **named)
        await self._browser.send("Input.dispatchKeyEvent", self._session, type="keyUp", **named)

    async def picture(self, path: Path, *, height: int | None = None) -> None:
        """What is seen, as a PNG; of a whole page, or of its uppermost part."""
        size = (await self._browser.send("Page.getLayoutMetrics", self._session))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or size["height"]), "scale": 1}
        shot = await self._browser.send("Page.captureScreenshot", self._session, format="png", captureBeyondViewport=True, clip=clip)
        await anyio.Path(path).write_bytes(base64.b64decode(shot["data"]))

    def _hear(self, method: str, given: Json, session: str | None) -> None:
        if method == "Runtime.executionContextCreated":
            context = given["context"]
            if context.get("auxData", {}).get("isDefault"):
                self._contexts[session, context["id"]] = context["auxData"]["frameId"]
        elif method == "Runtime.executionContextDestroyed":
            self._contexts.pop((session, given["executionContextId"]), None)
        elif method == "Runtime.bindingCalled":
            self.on_call(given["payload"])
        elif method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(given["exceptionDetails"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.faults.append(given["entry"]["text"])
