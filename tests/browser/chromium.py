"""A headless Chromium, driven over its own pipe: no package beside Debian's chromium."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path


class Chromium:
    """One browser with one page. Its console messages and errors are kept in `complaints`."""

    def __init__(self, profile: Path):
        program = shutil.which("chromium")
        if program is None:
            raise RuntimeError("chromium is missing: deploy/install_packages.sh --browser")
        (commands, self._write), (self._read, answers) = os.pipe(), os.pipe()
        # It reads commands from descriptor 3 and answers on 4: ours must be others.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        os.close(commands)
        os.close(answers)
        shell = f'exec 3<&{ends[0]} 4>&{ends[1]}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", program, "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", f"--user-data-dir={profile}",
             "--remote-debugging-pipe", "about:blank"],
            pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(profile.parent / "chromium.log", "wb"),
        )  # fmt: skip
        for end in ends:
            os.close(end)
        self._number = 0
        self._buffer = b""
        self._session = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        os.close(self._write)
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def _message(self, seconds: float) -> dict:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"chromium says nothing for {seconds:.0f} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("chromium has ended; see chromium.log")
            self._buffer += part
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def _note(self, message: dict):
        method, said = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            entry = said["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(said["args"])[:500])

    def call(self, method: str, **parameters):
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        while True:
            message = self._message(60)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def open(self, url: str):
        self.call("Page.navigate", url=url)

    def show(self, width: int, height: int, dark: bool = False, phone: bool = False):
        """The size of the window and what it pretends to be."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 60):
        """Until the expression is true; its last value is said when it never is."""
        end = time.monotonic() + seconds
        while True:
            value = None
            try:
                value = self.evaluate(expression)
            except RuntimeError:  # the page is being replaced
                pass
            if value:
                return value
            if time.monotonic() > end:
                text = self.evaluate("document.body.innerText.slice(0, 2000)")
                raise AssertionError(f"never true: {expression}: {value}; the page says:\n{text}")
            time.sleep(0.1)

    def press(self, key: str, code: int):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, text="\r" if key == "Enter" else "")  # fmt: skip

    def screenshot(self, path: Path):
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))
