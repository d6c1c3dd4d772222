"""The page of a report: what is in it, how large it gets, and that nothing of a log can act in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest

from mpcheckpoint._report import content
from mpcheckpoint._report.page import BEGINNING, page_of
from mpcheckpoint._report.story import Begun, Story
from mpcheckpoint._work.reruns import RunNote
from support.map_stories import BEGIN_US, HOSTILE, many

MOST_BYTES = 5_000_000


class Tags(HTMLParser):
    """The tags of a page, with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def page(*stories: Story, notices: tuple[str, ...] = ()) -> str:
    return page_of("run-42", stories, notices, BEGIN_US)


def data_of(text: str) -> Any:
    (data,) = re.findall(r'id="data">([^<]*)<', text)
    return json.loads(gzip.decompress(base64.b64decode(data)))


def test_page_has_the_figures_runs_and_failures_in_plain_html() -> None:
    text = unescape(page(many(200, pause_s=600)))

    assert text.startswith(BEGINNING)
    assert re.search(r"<b>196</b><span>ok</span>", text)
    assert re.search(r"<b>4</b><span>failed</span>", text)
    assert "convert {} small/{}" in text
    assert "nothing ran for 10 min" in text
    assert text.count('<span class="kind failed">failed</span> <bdi') == 4
    assert "cannot convert photos/2026/IMG_000007.jpg" in text
    assert text.index("IMG_000157") < text.index("IMG_000007")  # the last one first


def test_page_fetches_nothing_and_its_policy_allows_its_own_scripts_only() -> None:
    found = Tags(page(many(20)))

    assert {tag for tag, _ in found.tags}.isdisjoint({"link", "img", "iframe", "form", "base", "object", "a"})
    assert all(not {"src", "href", "srcset", "style"} & attributes.keys() for _, attributes in found.tags)
    (policy,) = (
        attributes["content"]
        for tag, attributes in found.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found.scripts[1:]
    ]
    assert policy == (
        f"default-src 'none'; script-src {' '.join(f'{chr(39)}sha256-{digest}{chr(39)}' for digest in digests)}; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert len(digests) == 3


def test_html_in_what_a_log_holds_is_text() -> None:
    story = many(60, name=lambda number: f"{HOSTILE}{number}", output=HOSTILE)._replace(
        log_key=HOSTILE, runs=[Begun(RunNote(1, HOSTILE, HOSTILE), BEGIN_US)]
    )

    found = Tags(page_of(HOSTILE, [story], [HOSTILE], BEGIN_US))
    plain = Tags(page(many(60)))

    expected = [tag for tag, _ in plain.tags]
    expected.insert(expected.index("noscript"), "p")  # the notice
    expected.insert(expected.index("li") + 1, "bdi")  # the rerun
    assert [tag for tag, _ in found.tags] == expected
    assert found.scripts[1:] == plain.scripts[1:]


def test_all_items_are_in_the_data_with_the_output_of_those_that_failed() -> None:
    (log,) = data_of(page(many(100)))

    assert len(log["items"]["key"]) == 100
    assert log["items"]["detail"]["7"] == ["exit code 3", "cannot convert photos/2026/IMG_000007.jpg\n"]
    assert log["kinds"][log["items"]["kind"][7]] == "failed"
    assert len(log["bars"]) == 100
    assert log["lanes"] == 4


def test_lines_are_divided_where_attempts_are_many() -> None:
    (log,) = data_of(page(many(content.MOST_BARS + 100, pause_s=30)))

    assert "bars" not in log
    assert len(log["shares"]) == 4
    assert {len(digits) for line in log["shares"] for digits in line} == {800}
    assert ["1" in bad for _, bad in log["shares"]] == [False, True, False, True]
    assert len(log["gaps"]) == 1


def test_page_of_100_000_items_is_small() -> None:
    text = page(many(100_000, workers=32))
    (log,) = data_of(text)

    assert len(text.encode()) < MOST_BYTES
    assert len(log["items"]["key"]) == 100_000


def test_page_of_names_that_do_not_compress_stays_small_and_says_what_is_left_out() -> None:
    def long_name(number: int) -> str:
        return hashlib.sha512(b"%d" % number).hexdigest()

    text = page(many(100_000, name=long_name, output="x" * 1500))
    (log,) = data_of(text)

    assert len(text.encode()) < MOST_BYTES
    shown = len(log["items"]["key"])
    assert 10_000 < shown < 100_000
    assert f"The table has {shown:,} of 100,000 items" in text
    assert [log["kinds"][kind] for kind in log["items"]["kind"]].count("failed") == 2000


def test_page_has_room_for_the_worst_that_many_failures_may_print() -> None:
    story = many(50_000, name=lambda number: f"{HOSTILE}{number}")
    worst = "<&'\"" * 500
    for place in story.details:
        story.details[place] = story.details[place]._replace(output=worst, error=worst)

    assert len(page(story).encode()) < MOST_BYTES


def test_notices_and_several_logs_are_shown() -> None:
    text = page(many(10), many(5)._replace(log_key="other"), notices=("something is damaged",))

    assert "something is damaged" in text
    assert re.findall(r'<h2>Log <bdi class="name">(\w+)</bdi>', text) == ["photos", "other"]
    assert [len(log["items"]["key"]) for log in data_of(text)] == [10, 5]


@pytest.mark.parametrize("count", [0, 1])
def test_story_of_next_to_nothing_has_a_page(count: int) -> None:
    assert f"<b>{count}</b><span>items in all</span>" in page(many(count))
