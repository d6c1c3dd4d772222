"""Parts of situations: what became of the page of hints. Each is a function of a scene, named as it is."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from typing import Any

from mpcheckpoint import _system as system
from mpcheckpoint._format.frame import EndState
from mpcheckpoint._logfile.append_state import AppendState
from mpcheckpoint._logfile.page import FOLLOWED_AT, PAGE_BYTES, Page, followed_until
from support.appends.scene import Scene

_EXPIRED_NS = 1
_TOO_FAR_S = 10**6


def page_gone(scene: Scene) -> None:
    scene.file(".page").unlink()


def page_empty(scene: Scene) -> None:
    os.truncate(scene.file(".page"), 0)


def page_short(scene: Scene) -> None:
    os.truncate(scene.file(".page"), 100)


def page_zeros(scene: Scene) -> None:
    scene.patch(".page", 0, bytes(PAGE_BYTES))


def page_rubbish(scene: Scene) -> None:
    scene.patch(".page", 0, bytes(range(1, 251)) * 16)


def page_of_another_generation(scene: Scene) -> None:
    opened_page(scene, "ab" * 16).publish_end(scene.end(), 0, b"somebody", 10**6)


def page_stale(scene: Scene) -> None:
    scene.keep(".page")
    scene.elsewhere(lambda log: log.append("y", "since then"))
    scene.put_back(".page")


def page_end_ahead_of_the_log(scene: Scene) -> None:
    end = scene.end()
    _publish(scene, end._replace(offset=end.offset + 1000))


def page_end_with_another_crc(scene: Scene) -> None:
    end = scene.end()
    _publish(scene, end._replace(stored_crc=end.stored_crc ^ 1))


def page_durable_beyond_the_end(scene: Scene) -> None:
    end = scene.end()
    opened_page(scene).publish_end(end, 0, b"somebody", end.offset + 1000)


def page_with_padding_that_is_not_there(scene: Scene) -> None:
    end = scene.end()
    opened_page(scene).publish_end(end, end.offset + 4096, b"somebody", None)


def page_poisoned(scene: Scene) -> None:
    opened_page(scene).publish_poison()


def page_with_half_a_poison(scene: Scene) -> None:
    scene.patch(".page", 160, b"half")


def page_followed(scene: Scene, until_ns: int | None = None) -> None:
    until_ns = time.monotonic_ns() + 50 * 10**9 if until_ns is None else until_ns
    scene.patch(".page", FOLLOWED_AT, followed_until(until_ns))


page_followed_once = partial(page_followed, until_ns=_EXPIRED_NS)


def page_followed_for_too_long(scene: Scene) -> None:
    page_followed(scene, time.monotonic_ns() + _TOO_FAR_S * 10**9)


def page_replaced_by_a_copy(scene: Scene) -> None:
    scene.replace_by_copy(".page")


def page_is_a_directory(scene: Scene) -> None:
    scene.file(".page").unlink()
    scene.file(".page").mkdir()


def page_descriptor_closed(scene: Scene) -> None:
    scene.close_descriptors(".page")


def page_descriptor_reused(scene: Scene) -> None:
    scene.close_descriptors(".page", scene.other_file(scene.file(".page").read_bytes(), "other.page"))


# --- what they stand on ---


def opened_page(scene: Scene, generation: str | None = None) -> Page:
    """Return the page of the log as another process has it, of another generation if one is given."""
    header = json.loads(scene.file(".jsonl").read_bytes().splitlines()[0])
    status = system.path_status(str(scene.file(".jsonl")))
    state = AppendState(EndState)
    page = Page(str(scene.file(".page")), generation or _generation_in(header), status, state)
    state.is_page_proven = True
    return page


def _generation_in(header: list[Any]) -> str:
    return str(next(part["generation"] for part in header if isinstance(part, dict)))


def _publish(scene: Scene, end: EndState) -> None:
    opened_page(scene).publish_end(end, 0, b"somebody", None)
