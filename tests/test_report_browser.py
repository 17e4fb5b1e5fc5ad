"""The page in a real browser: Chromium, driven over its debugging pipe."""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from report_cases import AXIAL, make_image, make_report, normal_report, pair_report

from medic_ad.report import Report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (Debian package chromium)")


class Browser:
    """One page of a headless Chromium; messages go over file descriptors 3 and 4."""

    def __init__(self, home: Path) -> None:
        read_in, self._send = os.pipe()
        self._receive, write_out = os.pipe()
        script = f'exec "$@" 3<&{read_in} 4>&{write_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "-", str(CHROMIUM), *FLAGS, f"--user-data-dir={home}"],
            pass_fds=(read_in, write_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_in)
        os.close(write_out)
        self._buffer = b""
        self._session: str | None = None
        self._count = 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        self.call("Log.enable")
        self.call("Runtime.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], 60)
            part = os.read(self._receive, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("chromium ended or does not answer")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        request = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            request["sessionId"] = self._session
        os.write(self._send, json.dumps(request).encode() + b"\0")
        while (message := self._message()).get("id") != self._count:
            self.events.append(message)
        return message["result"]

    def named(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def open(self, report: Report, folder: Path, width: int = 1400) -> None:
        page = folder / "report.html"
        page.write_text(report.to_html(), encoding="utf-8")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.events = []
        self.call("Page.navigate", url=page.as_uri())
        while not self.named("Page.loadEventFired"):
            self.events.append(self._message())

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")

    def place(self, selector: str) -> dict[str, float]:
        return self.run(
            f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
            " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}; })()"
        )

    def picture(self, selector: str) -> np.ndarray:
        shot = self.call(
            "Page.captureScreenshot",
            format="png",
            clip=self.place(selector) | {"scale": 1},
            captureBeyondViewport=True,
        )
        data = base64.b64decode(shot["data"])
        return np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB")).astype(int)

    def image(self) -> np.ndarray:
        """The picture of the current study, without its rounded corners and the words on it."""
        return self.picture(".panel.heat .stage")[12:-40, 12:-12]

    def click(self, selector: str, share: float = 0.5) -> None:
        box = self.place(selector)
        at = {"x": box["x"] + 2 + share * (box["width"] - 4), "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self._send)
        os.close(self._receive)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def coloured(picture: np.ndarray) -> np.ndarray:
    """How far each pixel is from grey towards the warm colours of the heatmap."""
    return picture[..., 0] - picture[..., 2]


def test_the_opacity_slider_changes_what_is_drawn(browser: Browser, tmp_path: Path) -> None:
    browser.open(make_report(), tmp_path)
    browser.click("#contour")  # contour off: only the map is left
    drawn = browser.image()
    browser.click("#opacity", 1.0)
    strong = browser.image()
    browser.click("#opacity", 0.0)
    clear = browser.image()
    peak = (clear.shape[0] // 6, clear.shape[1] // 6)
    assert coloured(clear).max() <= 6  # grey throughout
    assert 60 < coloured(drawn)[peak] < coloured(strong)[peak]
    # Away from the region all three are the same picture: nothing is veiled.
    half = clear.shape[0] // 2
    np.testing.assert_array_equal(drawn[half:], clear[half:])
    np.testing.assert_array_equal(strong[half:], clear[half:])
    assert browser.run("document.getElementById('percent').value") == "0 %"


def test_nothing_is_asked_of_the_network(browser: Browser, tmp_path: Path) -> None:
    browser.open(pair_report((30, 48, 60)), tmp_path)
    browser.click("#opacity", 1.0)
    browser.press("ArrowRight")
    browser.picture(".panels")
    urls = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert urls[0].startswith("file://") and urls[0].endswith("/report.html")
    assert all(url.startswith("data:") for url in urls[1:])
    assert not browser.named("Network.webSocketCreated")
    errors = [event["entry"]["text"] for event in browser.named("Log.entryAdded")]
    assert errors == [] and browser.named("Runtime.exceptionThrown") == []


def test_a_normal_image_is_shown_without_any_colour(browser: Browser, tmp_path: Path) -> None:
    browser.open(normal_report(), tmp_path)
    assert np.abs(coloured(browser.image())).max() <= 6
    grey = browser.image()
    browser.press("h")
    np.testing.assert_array_equal(browser.image(), grey)


def test_h_hides_everything_that_covers_the_image(browser: Browser, tmp_path: Path) -> None:
    browser.open(make_report(), tmp_path)
    before = browser.image()
    browser.press("h")
    assert np.abs(coloured(browser.image())).max() <= 6 < coloured(before).max()
    browser.press("h")
    np.testing.assert_array_equal(browser.image(), before)


def test_slices_are_stepped_by_slider_key_wheel_and_finding(
    browser: Browser, tmp_path: Path
) -> None:
    report = make_report(image=make_image((20, 48, 60), affine=AXIAL, spacing_mm=(1.0, 1.0, 1.0)))
    key = report.findings[0].key_slice
    assert key is not None
    browser.open(report, tmp_path)

    def shown() -> int:
        frames = browser.run(
            "[...document.querySelectorAll('.frame:not([hidden])')].map(f => f.dataset.frame)"
        )
        assert len(frames) == 1
        assert browser.run("document.getElementById('position').value") == (
            f"{int(frames[0]) + 1} / 20"
        )
        return int(frames[0])

    assert shown() == key
    first = browser.image()
    browser.press("ArrowRight")
    assert shown() == key + 1
    assert (browser.image() != first).any()
    browser.press("ArrowLeft")
    assert shown() == key
    box = browser.place(".panel.heat .stage")
    at = {"x": box["x"] + 50, "y": box["y"] + 50}
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", deltaX=0, deltaY=120, **at)
    assert shown() == key + 1
    browser.click("#slice", 1.0)
    assert shown() == 19
    browser.run("document.querySelector('[data-go]').click()")
    assert shown() == key


def test_prior_current_and_change_step_together(browser: Browser, tmp_path: Path) -> None:
    browser.open(pair_report((60, 48, 60)), tmp_path)
    seen = []
    for _ in range(3):
        frames = browser.run(
            "[...document.querySelectorAll('.frame:not([hidden])')].map(f => f.dataset.frame)"
        )
        assert len(frames) == 3 and len(set(frames)) == 1
        seen.append(int(frames[0]))
        browser.press("ArrowRight")
    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_fits_its_window(browser: Browser, tmp_path: Path, width: int) -> None:
    shape = (30, 48, 60)
    long = "There is an anomaly in the upper left of the image. " * 5
    browser.open(pair_report(shape, text=long), tmp_path, width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    stages = browser.run(
        "[...document.querySelectorAll('.stage')].map(s => s.getBoundingClientRect().toJSON())"
    )
    assert len(stages) == 3
    for stage in stages:
        assert stage["width"] / stage["height"] == pytest.approx(60 / 48, rel=0.01)
    tops = {round(stage["top"]) for stage in stages}
    assert len(tops) == (1 if width == 1400 else 3)
    assert stages[0]["width"] > (380 if width == 420 else 420)
