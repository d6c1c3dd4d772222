"""A real browser without a window: Debian's Chromium, driven by selenium. It opens files, and says what it fetched."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver.remote.webelement import WebElement

_FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)
_WAIT_S = 30.0


def browser_commands() -> tuple[str | None, str | None]:
    """Return where Chromium and its driver are."""
    return shutil.which("chromium"), shutil.which("chromedriver")


class Browser:
    """A browser with one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, *, is_scripted: bool = True) -> float:
        """Open a file; return how many seconds it took until all of it was drawn."""
        self.fetched()  # forgets what was before
        began_s = time.monotonic()
        self.driver.get(page.as_uri())
        if is_scripted:
            WebDriverWait(self.driver, _WAIT_S, poll_frequency=0.02).until(
                lambda driver: driver.execute_script("return document.documentElement.dataset.ready")
            )
        return time.monotonic() - began_s

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function body in the page; return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return the first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, script: str) -> Any:
        """Wait until an expression in the page is true; return it."""
        return WebDriverWait(self.driver, _WAIT_S, poll_frequency=0.02).until(
            lambda driver: driver.execute_script(f"return {script}")
        )

    def command(self, name: str, **fields: object) -> Any:
        """Send a command of Chromium's protocol for developers."""
        return self.driver.execute_cdp_cmd(name, fields)

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """Have the page be seen by someone who prefers dark or light."""
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def scripts(self, *, are_on: bool) -> None:
        """Switch the page's scripts on or off."""
        self.command("Emulation.setScriptExecutionDisabled", value=not are_on)

    def fetched(self) -> list[str]:
        """Return the addresses that were asked for since the last call, but for those that a policy refused."""
        messages = [json.loads(entry["message"])["message"] for entry in self._told("performance")]
        refused = {
            message["params"]["requestId"]
            for message in messages
            if message["method"] == "Network.loadingFailed"
            and message["params"].get("blockedReason") == "csp"
        }
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and message["params"]["requestId"] not in refused
        ]

    def complaints(self) -> list[str]:
        """Return what the browser complained of since the last call: errors of scripts, refusals of the policy."""
        return [entry["message"] for entry in self._told("browser")]

    def _told(self, kind: str) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call] # selenium has no types here
        return told

    def picture(self, path: Path) -> None:
        """Save what is seen as a PNG."""
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser whose files are in a directory of its own; end it, with all its processes."""
    chromium, chromedriver = browser_commands()
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
