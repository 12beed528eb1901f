"""A headless Chromium, driven by the DevTools protocol through pipes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def find_chromium() -> str | None:
    """The command, where there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def open_browser(command: str) -> Iterator[Browser]:
    """A browser that has a profile of its own and asks nothing of the internet by itself."""
    profile = tempfile.mkdtemp(prefix="edgeclin-chromium-")
    (its_in, our_out), (our_in, its_out) = os.pipe(), os.pipe()

    def join() -> None:
        """The protocol's pipes are descriptors 3 and 4."""
        low, high = fcntl.fcntl(its_in, fcntl.F_DUPFD, 10), fcntl.fcntl(its_out, fcntl.F_DUPFD, 10)
        os.dup2(low, 3)
        os.dup2(high, 4)

    process = subprocess.Popen(
        [
            command, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-gpu", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ],
        pass_fds=(3, 4), preexec_fn=join, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(its_in)
    os.close(its_out)
    browser = Browser(our_in, our_out)
    try:
        yield browser
    finally:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            browser.ask("Browser.close")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(our_in)
        os.close(our_out)
        shutil.rmtree(profile, ignore_errors=True)


class Browser:
    """Asks over one pipe and reads answers and events from another."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._rest = b""
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._writing, data) :]
        deadline = time.monotonic() + 60
        while True:
            answer = self._read(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, address: str, width: int = 1280, height: int = 800) -> Page:
        """A page in a tab of its own."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        page.size(width, height)
        page.ask("Page.navigate", url=address)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._reading], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            chunk = os.read(self._reading, 1 << 20)
            if not chunk:
                raise EOFError("Chromium has ended")
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.ask(method, self._session, **params)

    def close(self) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def prefer(self, **features: str) -> None:
        """Set media features, `_` for `-`."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=wanted)

    def run(self, script: str) -> Any:
        """The value of an expression."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> Any:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText")
                raise AssertionError(f"{script} did not come true in {seconds} s; shown:\n{text}")
            time.sleep(0.05)
        return value

    def text(self, selector: str) -> str:
        """What a person can read in an element, in one line."""
        return self.run(
            f"document.querySelector({json.dumps(selector)}).innerText.replace(/\\s+/g, ' ').trim()"
        )

    def events(self, method: str) -> list[dict[str, Any]]:
        """What the browser has told of this page since it was opened."""
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == method and event.get("sessionId") == self._session
        ]

    def picture(self, path: Path, whole: bool = False) -> None:
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
