"""Reports in a real browser: what is shown, sorting and filtering; nothing is fetched, and nothing of a log acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mpcheckpoint._report.page import page_of
from mpcheckpoint._report.story import Begun, Kind
from mpcheckpoint._work.reruns import RunNote
from support.browser import Browser, browser, browser_commands
from support.capabilities import require
from support.map_stories import BEGIN_US, HOSTILE, S, many

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mpcheckpoint._report.story import Story

# A browser keeps two processors busy, so one worker runs these.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
OPEN_IN_S = 2.0
NAMES = (
    "[...document.querySelectorAll('.tabulator-row [tabulator-field=name]')].map((cell) => cell.textContent)"
)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Browser]:
    """A browser, with a wide page and light colours."""
    require(None not in browser_commands(), "chromium and chromium-driver are not installed")
    with browser(tmp_path / "browser") as started:
        started.resize(1280, 900)
        started.prefer("light")
        yield started


def written(tmp_path: Path, *stories: Story) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page_of("run-42", stories, (), BEGIN_US), encoding="utf-8")
    return path


def test_report_shows_charts_and_a_table_and_fetches_nothing(page: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, many(300, pause_s=600), many(20)._replace(log_key="other"))

    page.open(path)

    assert page.fetched() == [path.as_uri()]
    assert page.complaints() == []
    assert [len(page.all(f"article:nth-of-type({number}) canvas")) for number in (1, 2)] == [3, 3]
    assert "196" not in page.one(".tile.ok").text
    assert page.one(".tile.ok").text.split() == ["294", "ok"]
    assert page.one(".counted").text.startswith("300 of 300 items")
    assert page.run(f"return {NAMES}")[0] == "photos/2026/IMG_000000.jpg"
    drawn = page.run(
        "const canvas = document.querySelector('.timeline canvas');"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "const seen = new Set(); for (let at = 0; at < data.length; at += 4)"
        "  seen.add([data[at], data[at + 1], data[at + 2], data[at + 3]].join()); return [...seen]"
    )
    assert {"43,138,90,255", "201,42,58,255"} <= set(drawn)  # what went well, and what failed


def test_table_is_sorted_and_filtered(page: Browser, tmp_path: Path) -> None:
    story = many(300)
    slowest = max(story.items, key=lambda key: story.items[key].duration_us)
    page.open(written(tmp_path, story))

    page.one(".tabulator-col[tabulator-field=took] .tabulator-col-title").click()
    page.wait(f"{NAMES}[0] === '{slowest}'")
    page.one(".tabulator-col[tabulator-field=name] input").send_keys("_00010")
    page.wait("document.querySelector('.counted').textContent.startsWith('10 of 300')")
    assert sorted(page.run(f"return {NAMES}")) == [
        f"photos/2026/IMG_{number:06}.jpg" for number in range(100, 110)
    ]
    page.one(".tabulator-col[tabulator-field=kind] input").click()
    page.wait("document.querySelector('.tabulator-edit-list-item') !== null")
    (failed,) = (each for each in page.all(".tabulator-edit-list-item") if each.text == "failed")
    failed.click()
    page.wait("document.querySelector('.counted').textContent.startsWith('1 of 300')")
    assert page.run(f"return {NAMES}") == ["photos/2026/IMG_000107.jpg"]

    page.one(".tabulator-row").click()

    assert "cannot convert photos/2026/IMG_000107.jpg" in page.one(".chosen").text
    assert page.complaints() == []


def test_html_in_names_and_outputs_is_inert(page: Browser, tmp_path: Path) -> None:
    story = many(60, name=lambda number: f"{HOSTILE}{number}", output=HOSTILE)._replace(
        log_key=HOSTILE, runs=[Begun(RunNote(1, HOSTILE, HOSTILE), BEGIN_US)]
    )
    story.items["<b>cause</b>"] = story.items[f"{HOSTILE}7"]._replace(cause=HOSTILE)
    path = written(tmp_path, story)

    page.open(path)
    for opened in page.all("details"):
        page.run("arguments[0].open = true", opened)
    page.one(".tabulator-col[tabulator-field=kind] input").click()
    page.wait("document.querySelector('.tabulator-edit-list-item') !== null")
    next(each for each in page.all(".tabulator-edit-list-item") if each.text == "failed").click()
    page.wait("document.querySelector('.counted').textContent.startsWith('3 of 61')")
    page.one(".tabulator-row").click()
    page.run(
        "const over = document.querySelector('.timeline .u-over'); const box = over.getBoundingClientRect();"
        "const at = { clientX: box.left + 5, clientY: box.top + 5, bubbles: true };"
        "over.dispatchEvent(new MouseEvent('mousemove', at))"
    )

    assert HOSTILE in page.one(".chosen").get_attribute("textContent")
    assert HOSTILE + "7" in page.run(f"return {NAMES}")
    assert page.run("return document.title") == "run-42: mpcheckpoint report"
    assert page.all("img, article script, .name b") == []
    assert page.fetched() == [path.as_uri()]
    assert page.complaints() == []


def test_policy_keeps_what_would_act_from_acting(page: Browser, tmp_path: Path) -> None:
    """If escaping failed one day, the policy would still hold."""
    path = written(tmp_path, many(5))
    text = path.read_text(encoding="utf-8")
    acting = "document.title='owned'"
    injected = f"<script>{acting}</script><img src='https://example.invalid/x.png' onerror=\"{acting}\">"
    path.write_text(text.replace("<header>", f"{injected}<header>"), encoding="utf-8")

    page.open(path)

    assert page.run("return document.title") == "run-42: mpcheckpoint report"
    assert page.fetched() == [path.as_uri()]
    assert len(page.complaints()) >= 2


def test_report_without_scripts_shows_counts_and_failures(page: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, many(300))
    page.scripts(are_on=False)

    page.open(path, is_scripted=False)

    text = page.one("body").text
    assert "Scripts are off" in text
    assert page.one(".tile.failed").text.split() == ["6", "failed"]
    assert "photos/2026/IMG_000257.jpg" in text
    assert len(page.all("article .entry .kind.failed")) >= 6
    assert not any(section.is_displayed() for section in page.all(".scripted"))


def test_report_of_100_000_items_opens_in_two_seconds(page: Browser, tmp_path: Path) -> None:
    path = written(tmp_path, many(100_000, workers=32, pause_s=3600))
    assert path.stat().st_size < 5_000_000

    took_s = min(page.open(path) for _ in range(3))  # of three: other tests run beside this one

    assert took_s < OPEN_IN_S
    assert page.one(".counted").text.startswith("100,000 of 100,000 items")
    page.one(".tabulator-col[tabulator-field=name] input").send_keys("099999")
    page.wait("document.querySelector('.counted').textContent.startsWith('1 of 100,000')")
    assert page.complaints() == []


def test_report_on_a_phone_is_not_wider_than_the_phone(page: Browser, tmp_path: Path) -> None:
    story = many(300, name="photos/2026/holidays-with-a-name-that-has-no-end-and-no-blank-{:06}.jpg".format)
    story.items["x" * 3000] = next(iter(story.items.values()))._replace(kind=Kind.FAILED, cause="y" * 3000)
    page.resize(360, 740)

    page.open(written(tmp_path, story))

    assert page.run("return document.documentElement.scrollWidth") == 360
    page.run("window.scrollTo(500, 0)")
    assert page.run("return window.scrollX") == 0
    for field in ("name", "kind", "took"):
        assert page.one(f".tabulator-col[tabulator-field={field}]").is_displayed(), field
    assert all(chart.size["width"] <= 360 for chart in page.all(".chart, .table, .tile"))


def test_report_is_light_or_dark_as_its_reader_prefers(page: Browser, tmp_path: Path) -> None:
    def background() -> str:
        colour: str = page.run("return getComputedStyle(document.body).backgroundColor")
        return colour

    page.open(written(tmp_path, many(100)))
    light = background()
    canvases = page.run("return [...document.querySelectorAll('canvas')].map((each) => each.toDataURL())")

    page.prefer("dark")

    page.wait("getComputedStyle(document.body).backgroundColor !== 'rgb(255, 255, 255)'")
    assert (light, background()) == ("rgb(255, 255, 255)", "rgb(21, 24, 29)")
    assert (
        page.run("return getComputedStyle(document.querySelector('.tabulator-row')).color")
        == "rgb(230, 233, 238)"
    )
    page.wait("document.querySelectorAll('canvas').length === 3")
    assert (
        page.run("return [...document.querySelectorAll('canvas')].map((each) => each.toDataURL())")
        != canvases
    )
    assert page.complaints() == []


def test_timeline_tells_the_item_under_the_pointer_and_the_time_across_a_gap(
    page: Browser, tmp_path: Path
) -> None:
    story = many(40, workers=1, item_s=10, pause_s=7200)
    page.open(written(tmp_path, story))

    read = page.run(
        "const over = document.querySelector('.timeline .u-over'); const box = over.getBoundingClientRect();"
        "return [0.001, 0.999].map((share) => { over.dispatchEvent(new MouseEvent('mousemove',"
        "  { clientX: box.left + share * box.width, clientY: box.top + box.height / 2, bubbles: true }));"
        "  return document.querySelector('.reading').textContent; })"
    )

    first, last = read
    assert "IMG_000000.jpg, ok" in first
    assert "IMG_000039.jpg, ok" in last
    assert first.startswith("2026-09-21 14:13:2")
    ended_us = max(item.stamp_us for item in story.items.values())
    assert (ended_us - BEGIN_US) / S > 7200
    assert last.startswith("2026-09-21 16:2")
