"""Parts of situations: who appended before, and what was left of it. Each is a function of a scene, named as it is."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

from mpcheckpoint._store.process import process
from mpcheckpoint.errors import OutcomeUnknownError
from support.appends.scene import NOW_US, SECOND_US, Scene
from support.recorder import control
from support.verbs import append_crafted_line, tear

if TYPE_CHECKING:
    from mpcheckpoint import Log
    from mpcheckpoint._logfile.append import LogWriter

_MANY = 20
# Once a process has appended so often in a row, it tells of it every 16th time only.
_UNPUBLISHED = 15
# More than the appends that a process does before it leaves padding.
_UNTIL_PADDING = 70
_HOUR_US = 3600 * SECOND_US
_YEAR_2250_US = 8_836_000_000_000_000


def first_append(scene: Scene) -> None:
    scene.elsewhere(lambda log: log.append("x", "made by another"))


def new_log(scene: Scene) -> None:
    _ = scene.log


def lone(scene: Scene) -> None:
    scene.log.append("x", 0)
    scene.log.append("x", 1)


def lone_for_a_while(scene: Scene) -> None:
    lone(scene)
    for number in range(_UNPUBLISHED):
        scene.log.append("x", number, durability="never")
    scene.log.append("x", "the page is not told of it")


def lone_about_to_publish(scene: Scene) -> None:
    for number in range(1 + 2 * _UNPUBLISHED):
        scene.log.append("x", number, durability="never")


def lone_unsynced(scene: Scene) -> None:
    lone(scene)
    scene.log.append("x", 2, durability="never")


def another_appended(scene: Scene, number: int = 1, durability: str = "always") -> None:
    lone(scene)

    def append(log: Log) -> None:
        for each in range(number):
            log.append("y", f"other {each}", durability=durability)

    scene.elsewhere(append)


another_appended_often = partial(another_appended, number=_MANY)
another_appended_unsynced = partial(another_appended, durability="never")


def another_appended_a_batch(scene: Scene) -> None:
    lone(scene)
    scene.elsewhere(lambda log: log.append_many([("y", number) for number in range(_MANY)]))


def taken_turns(scene: Scene) -> None:
    for _ in range(2):
        another_appended(scene)


def torn_end(scene: Scene) -> None:
    lone(scene)
    tear(scene.store)


def torn_end_of_another(scene: Scene) -> None:
    another_appended(scene)
    tear(scene.store)


def torn_batch(scene: Scene) -> None:
    lone(scene)
    append_crafted_line(scene.store, more=1)


def zeros_at_the_end(scene: Scene) -> None:
    lone(scene)
    tear(scene.store, bytes(100))


def whole_line_that_nobody_told_of(scene: Scene) -> None:
    lone(scene)
    scene.write_line()


def whole_line_in_the_padding_that_nobody_told_of(scene: Scene) -> None:
    padding(scene)
    scene.write_line()


def recovered(scene: Scene) -> None:
    lone(scene)
    scene.elsewhere(lambda log: log.recover())


def recovered_and_appended(scene: Scene) -> None:
    lone(scene)

    def recover_and_append(log: Log) -> None:
        log.recover()
        log.append("y", "other")

    scene.elsewhere(recover_and_append)


def log_replaced_by_a_copy(scene: Scene) -> None:
    lone(scene)
    scene.replace_by_copy(".jsonl")


def log_and_page_replaced_by_copies(scene: Scene) -> None:
    lone(scene)
    scene.replace_by_copy(".jsonl")
    scene.replace_by_copy(".page")


def older_bytes_in_place(scene: Scene) -> None:
    scene.log.append("x", 0)
    scene.keep(".jsonl")
    scene.log.append("x", 1)
    scene.put_back(".jsonl")


def log_cut_short(scene: Scene) -> None:
    lone(scene)
    size = scene.file(".jsonl").stat().st_size
    os.truncate(scene.file(".jsonl"), size - 1)


def log_emptied(scene: Scene) -> None:
    lone(scene)
    os.truncate(scene.file(".jsonl"), 0)


def log_removed(scene: Scene) -> None:
    lone(scene)
    scene.file(".jsonl").unlink()


def bit_flipped_in_the_last_line(scene: Scene) -> None:
    lone(scene)
    content = scene.file(".jsonl").read_bytes()
    scene.patch(".jsonl", len(content) - 15, bytes([content[-15] ^ 1]))


def bit_flipped_in_the_last_crc(scene: Scene) -> None:
    lone(scene)
    content = scene.file(".jsonl").read_bytes()
    scene.patch(".jsonl", len(content) - 6, bytes([content[-6] ^ 1]))


def poisoned_elsewhere(scene: Scene) -> None:
    lone(scene)

    def fail(log: Log) -> None:
        log.append("y", "synced")
        control.begin(scene.store.with_name("elsewhere"), scene.store, "fdatasync *.jsonl 1 fail=5")
        try:
            log.append("y", "not synced")
        except OutcomeUnknownError:
            return
        raise AssertionError("the sync did not fail")

    scene.elsewhere(fail)


def poisoned_by_note_only(scene: Scene) -> None:
    poisoned_elsewhere(scene)
    scene.file(".page").unlink()


def poisoned_by_page_only(scene: Scene) -> None:
    poisoned_elsewhere(scene)
    scene.file(".poison").unlink()


def poison_of_an_older_generation(scene: Scene) -> None:
    lone(scene)
    note = json.dumps({"generation": "ab" * 16, "reason": "an old one"})
    scene.file(".poison").write_text(note, encoding="ascii")


def sealed_end(scene: Scene) -> None:
    lone(scene)

    def seal(log: Log) -> None:
        log.append("y", "before the seal")
        writer = _used_writer()
        opened = writer.log
        assert opened is not None

        def under_lock(_: object) -> None:
            opened.find_end()
            opened.seal("ab" * 16)

        writer.exclusive(None, under_lock)

    scene.elsewhere(seal)


def padding(scene: Scene) -> None:
    for number in range(_UNTIL_PADDING):
        scene.log.append("x", number, durability="never")
    scene.log.append("x", "in the padding")


def padding_and_about_to_publish(scene: Scene) -> None:
    padding(scene)
    earlier = scene.file(".page").read_bytes()
    while scene.file(".page").read_bytes() == earlier:
        scene.log.append("x", "until it publishes", durability="never")
    for number in range(_UNPUBLISHED):
        scene.log.append("x", number, durability="never")


def padding_about_to_grow(scene: Scene) -> None:
    padding(scene)
    room = scene.file(".jsonl").stat().st_size - scene.end().offset
    scene.log.append("x", "-" * (room - 70), durability="never")


def padding_partly_filled_by_another(scene: Scene) -> None:
    padding(scene)
    scene.elsewhere(lambda log: log.append("y", "other"))


def padding_cut_by_another(scene: Scene) -> None:
    padding(scene)

    def append_and_close(log: Log) -> None:
        log.append("y", "other")
        _used_writer().release_padding()

    scene.elsewhere(append_and_close)


def padding_of_another(scene: Scene) -> None:
    lone(scene)
    scene.elsewhere(lambda log: [log.append("y", n, durability="never") for n in range(_UNTIL_PADDING)])


def torn_end_in_the_padding(scene: Scene) -> None:
    padding(scene)
    scene.patch(".jsonl", scene.end().offset, b'["000000ff",17')


def clock_behind(scene: Scene) -> None:
    lone(scene)
    scene.pass_time(-_HOUR_US)


def clock_of_another_ahead(scene: Scene) -> None:
    lone(scene)

    def append_later(log: Log) -> None:
        control.fix_time(NOW_US + _HOUR_US)
        log.append("y", "later")

    scene.elsewhere(append_later)


def clock_beyond_what_stamps_hold(scene: Scene) -> None:
    lone(scene)
    scene.pass_time(_YEAR_2250_US - NOW_US)


def _used_writer() -> LogWriter:
    """Return the append side that this process has used: a forked one has inherited others, which it let go of."""
    (writer,) = (each for each in process._alive if each.log is not None)
    return writer
