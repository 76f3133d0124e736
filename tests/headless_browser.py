"""Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL on the processor
    "--mute-audio",
    "--window-size=1400,900",
    "--remote-debugging-port=0",
    "--no-sandbox",  # which root has not
)
PATIENCE_S = 60.0


class Page:
    """A page of the browser, and what it asked for.

    Attributes:
        requests: URLs that were requested.
        messages: what was written to the console, errors and violations of the policy among them.
        dialogs: messages of ``alert`` and the like.
    """

    def __init__(self, socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._socket, self._loop = socket, loop
        self._number = 0
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.dialogs: list[str] = []

    def send(self, method: str, **parameters: object) -> dict[str, Any]:
        """The answer to a command."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, parameters), PATIENCE_S))

    async def _send(self, method: str, parameters: dict[str, object]) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str | None, what: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(what["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.messages.append(f"{what['entry']['level']}: {what['entry']['text']}")
        elif event == "Page.javascriptDialogOpening":
            self.dialogs.append(what["message"])

    def open(self, url: str) -> None:
        """Load a page and wait until it says that it is ready."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.navigate", url=url)
        self.wait_for("document.body?.dataset.ready === 'yes'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; promises are waited for."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Ask until an expression is true."""

        async def ask() -> None:
            while True:
                result = await self._send(
                    "Runtime.evaluate", {"expression": condition, "returnByValue": True}
                )
                if result["result"].get("value") is True:
                    return
                await asyncio.sleep(0.05)

        try:
            self._loop.run_until_complete(asyncio.wait_for(ask(), PATIENCE_S))
        except asyncio.TimeoutError:
            raise AssertionError(f"never true: {condition}; console: {self.messages}") from None

    def click(self, x: float, y: float) -> None:
        """Press and release the left button."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A movement, press or release of the mouse."""
        button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        if kind == "mouseDragged":
            kind, button = "mouseMoved", {"button": "left", "buttons": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))


def chromium() -> str:
    """The program; skips where there is none."""
    pytest.importorskip("aiohttp")
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"needs a browser: {', '.join(NAMES)}")


@contextmanager
def browser() -> Iterator[Callable[[], Page]]:
    """A browser; call what it gives for a new page."""
    program = chromium()
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        session = loop.run_until_complete(_session())

        def new_page() -> Page:
            return Page(loop.run_until_complete(_connect(session, profile)), loop)

        try:
            yield new_page
        finally:
            loop.run_until_complete(session.close())
            process.terminate()
            process.wait()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


async def _session() -> Any:
    import aiohttp

    return aiohttp.ClientSession()


async def _connect(session: Any, profile: str) -> Any:
    """A websocket to a new page."""
    port_file = Path(profile) / "DevToolsActivePort"
    for _ in range(int(PATIENCE_S / 0.1)):
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("the browser did not start")
    async with session.put(f"http://127.0.0.1:{lines[0]}/json/new?about:blank") as answer:
        target = await answer.json()
    return await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
