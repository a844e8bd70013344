"""A host that renders MCP Apps, as small as one can be: a page in a real browser, a frame for the app, and the server over stdio behind them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp.types import CallToolResult, TextResourceContents

from tests.browser import Page, browsing
from tests.mcp.hosts import Host, own_failure

PROTOCOL = "2026-01-26"
MIME_TYPE = "text/html;profile=mcp-app"
HOST_PAGE = """<!doctype html><meta charset="utf-8"><title>A host</title>
<style>body { margin: 0 } iframe { display: block; border: 0; width: 100%; height: 400px }</style>
<iframe id="view" sandbox="allow-scripts" title="The app"></iframe>
<script>
const view = document.getElementById("view");
addEventListener("message", (event) => { if (event.source === view.contentWindow) toHost(JSON.stringify(event.data)); });
function deliver(message) { view.contentWindow.postMessage(message, "*"); }
</script>"""

Json = dict[str, Any]


class AppHost:
    """One app in its frame. What it asks goes to the server and back, unless a test holds or denies it."""

    def __init__(self, host: Host, page: Page, theme: str) -> None:
        self.host = host
        self.page = page
        self.asked: list[tuple[str, Json]] = []
        """Tools that the app called, with their arguments."""
        self.others: list[tuple[str, Json]] = []
        """All its other messages: methods and parameters."""
        self.denied: dict[str, str] = {}
        """Tools that the person does not let the app call, and what the host says then."""
        self.held: dict[str, anyio.Event] = {}
        """Answers of these tools wait until the event is set."""
        self.ready = anyio.Event()
        self._theme = theme
        self._heard, self._messages = anyio.create_memory_object_stream[Json](1000)
        page.on_call = lambda text: self._heard.send_nowait(json.loads(text))

    async def run(self) -> None:
        """Answer the app until this is cancelled; each call in a task of its own, as hosts do."""
        async with self._messages, anyio.create_task_group() as group:
            async for message in self._messages:
                group.start_soon(self._answer, message)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Hear nothing of the app any more afterwards."""
        try:
            yield
        finally:
            self.page.on_call = self.page.called.append
            self._heard.close()

    async def load(self, html: str) -> None:
        """Put an app into the frame, and wait until it says that it is ready."""
        await self.page.evaluate(f"view.srcdoc = {json.dumps(html)}; undefined")
        with anyio.fail_after(20):
            await self.ready.wait()

    async def show(self, tool: str, **arguments: Any) -> Json:
        """A call of the model, whose answer the app is shown; the structured answer."""
        answer = await self._shown(tool, arguments)
        assert not answer.is_error
        return dict(answer.structured_content or {})

    async def refused(self, tool: str, **arguments: Any) -> None:
        """A call of the model that is refused; the app is shown that."""
        assert (await self._shown(tool, arguments)).is_error

    async def _shown(self, tool: str, arguments: Json) -> CallToolResult:
        answer = await self.host.client.call_tool(tool, arguments)
        await self._notify("ui/notifications/tool-input", {"arguments": arguments})
        await self._notify("ui/notifications/tool-result", _wire(answer))
        return answer

    async def until(self, expression: str, *, within_s: float = 30.0) -> None:
        """Wait until an expression holds in the app."""
        try:
            with anyio.fail_after(within_s):
                while True:
                    if await self.page.inside(f"Boolean({expression})"):
                        return
                    await anyio.sleep(0.05)
        except TimeoutError:
            seen = await self.page.inside("document.body.innerText")
            raise AssertionError(f"never true: {expression}\n{seen}\nfaults: {self.page.faults}") from None

    async def text(self, selector: str) -> str:
        return str(await self.page.inside(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def _answer(self, message: Json) -> None:
        method, number = message.get("method"), message.get("id")
        if method == "tools/call":
            name, arguments = message["params"]["name"], message["params"]["arguments"]
            self.asked.append((name, arguments))
            if name in self.denied:
                await self._deliver({"id": number, "error": {"code": -32000, "message": self.denied[name]}})
                return
            held = self.held.get(name)
            answer = await self.host.client.call_tool(name, arguments)
            if held is not None:
                await held.wait()
            await self._deliver({"id": number, "result": _wire(answer)})
            return
        self.others.append((str(method), message.get("params", {})))
        if method == "ui/initialize":
            assert message["params"]["protocolVersion"] == PROTOCOL
            result = {
                "protocolVersion": PROTOCOL,
                "hostInfo": {"name": "tests", "version": "1"},
                "hostCapabilities": {"serverTools": {}},
                "hostContext": {"theme": self._theme, "displayMode": "inline"},
            }
            await self._deliver({"id": number, "result": result})
        elif method == "ui/notifications/initialized":
            self.ready.set()
        elif method == "ui/update-model-context":
            await self._deliver({"id": number, "result": {}})
        elif method == "ui/notifications/size-changed":
            await self.page.evaluate(f"view.style.height = '{int(message['params']['height'])}px'; undefined")

    async def _notify(self, method: str, params: Json) -> None:
        await self._deliver({"method": method, "params": params})

    async def _deliver(self, message: Json) -> None:
        await self.page.evaluate(f"deliver({json.dumps({'jsonrpc': '2.0', **message})})")


def _wire(answer: CallToolResult) -> Json:
    """A tool's answer as it came over the wire, for the app."""
    found: Json = answer.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return found


@asynccontextmanager
async def app_shown(host: Host, folder: Path, *, width: int = 800, is_dark: bool = False) -> AsyncIterator[AppHost]:
    """The app of `compare_models` and `migration_status` in a browser, ready for an answer."""
    (tool,) = (t for t in (await host.client.list_tools()).tools if t.name == "migration_status")
    assert tool.meta is not None
    (content,) = (await host.client.read_resource(tool.meta["ui"]["resourceUri"])).contents
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == MIME_TYPE
    with own_failure() as noted:
        async with browsing(folder) as browser:
            page = await Page.opened(browser, HOST_PAGE, width=width, is_dark=is_dark)
            shown = AppHost(host, page, "dark" if is_dark else "light")
            async with anyio.create_task_group() as group:
                group.start_soon(shown.run)
                with shown.closing(), noted():
                    await shown.load(content.text)
                    yield shown
                group.cancel_scope.cancel()
    assert page.faults == []
