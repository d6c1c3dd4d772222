"""The catalogue: situations as combinations of parts, each with a name by which it can be run again."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from support.appends import left, locks, pages
from support.appends.acts import ACTS, USUAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.appends.scene import Scene

    Part = Callable[[Scene], object]

ALWAYS, INTERVAL, NEVER = "always", "interval:600000", "never"
_DURABILITIES = (ALWAYS, INTERVAL, NEVER)
_TIMEOUT_S = 0.02


class Situation(NamedTuple):
    """One situation.

    Attributes:
        name: what it consists of, in words.
        made_by: the functions that make it, in this order.
        act: what is done then, one of ``ACTS``.
        durability: the handle's setting.
        rules: of the recorder.
        is_polled: whether the lock is asked for again and again until the time is over.
        is_usual: whether it is what native code is for: there it may hand nothing over to Python.
    """

    name: str
    made_by: tuple[Part, ...]
    act: str = "atom"
    durability: str = ALWAYS
    rules: str = ""
    is_polled: bool = False
    is_usual: bool = False

    @property
    def lock_timeout_s(self) -> float | None:
        """How long to wait for the lock."""
        return _TIMEOUT_S if self.is_polled else None


# In them native code appends. A line that makes the log longer it may leave to Python, which sees to padding.
_USUAL = (
    *(left.lone, left.lone_for_a_while, left.another_appended),
    *(left.padding, left.padding_and_about_to_publish, left.padding_partly_filled_by_another),
)

_LEFT: tuple[Part, ...] = (
    *_USUAL,
    left.lone_about_to_publish,
    *(left.new_log, left.first_append, left.lone_unsynced, left.taken_turns),
    *(left.another_appended_a_batch, left.another_appended_often, left.another_appended_unsynced),
    *(left.torn_end, left.torn_end_of_another, left.torn_batch, left.torn_end_in_the_padding),
    *(left.zeros_at_the_end, left.whole_line_that_nobody_told_of),
    left.whole_line_in_the_padding_that_nobody_told_of,
    *(left.recovered, left.recovered_and_appended),
    *(left.log_replaced_by_a_copy, left.log_and_page_replaced_by_copies, left.older_bytes_in_place),
    *(left.log_cut_short, left.log_emptied, left.log_removed),
    *(left.bit_flipped_in_the_last_line, left.bit_flipped_in_the_last_crc),
    *(left.poisoned_elsewhere, left.poisoned_by_note_only, left.poisoned_by_page_only),
    *(left.poison_of_an_older_generation, left.sealed_end),
    *(left.padding_about_to_grow, left.padding_cut_by_another, left.padding_of_another),
    *(left.clock_behind, left.clock_of_another_ahead, left.clock_beyond_what_stamps_hold),
)
_PAGES: tuple[Part, ...] = (
    *(pages.page_gone, pages.page_empty, pages.page_short, pages.page_zeros, pages.page_rubbish),
    *(pages.page_of_another_generation, pages.page_stale, pages.page_end_ahead_of_the_log),
    *(pages.page_end_with_another_crc, pages.page_durable_beyond_the_end),
    *(pages.page_with_padding_that_is_not_there, pages.page_poisoned, pages.page_with_half_a_poison),
    *(pages.page_followed, pages.page_followed_once, pages.page_followed_for_too_long),
    *(pages.page_replaced_by_a_copy, pages.page_is_a_directory),
    *(pages.page_descriptor_closed, pages.page_descriptor_reused),
)
_DESCRIPTORS: tuple[Part, ...] = (
    *(locks.log_descriptor_closed, locks.log_descriptor_reused, locks.log_descriptor_reused_for_a_copy),
    *(locks.lock_descriptor_closed, locks.lock_descriptor_reused, locks.lock_file_gone),
    *(locks.lock_file_replaced, locks.sync_descriptor_closed, locks.sync_descriptor_reused),
    locks.sync_file_replaced,
)
# What is told when our process has been refused the lock, and when it waits for a leader.
_AT_THE_LOCK, _AT_THE_WAIT = "flock *.lock 2 stop", "futex *.page 1 stop"
_LED: tuple[tuple[Part, str], ...] = (
    (locks.led_by_one_who_covers_us, _AT_THE_WAIT),
    (locks.led_by_one_who_began_too_early, _AT_THE_WAIT),
    (locks.led_by_one_whose_sync_fails, _AT_THE_WAIT),
    (locks.led_by_one_who_dies, _AT_THE_WAIT),
    (locks.led_by_one_who_never_answers, ""),
    (locks.led_by_one_who_has_died, ""),
)
_FAULTS = {
    "no room for the record": f"pwrite *.jsonl 1 fail={errno.ENOSPC}",
    "no room for the record, and no way to cut it": (
        f"pwrite *.jsonl 1 short=20; pwrite *.jsonl 2x9999 fail={errno.ENOSPC}; ftruncate *.jsonl 1 fail={errno.EIO}"
    ),
    "room for a part of the record": f"pwrite *.jsonl 1 short=20; pwrite *.jsonl 2x9999 fail={errno.ENOSPC}",
    "the record fails": f"pwrite *.jsonl 1 fail={errno.EIO}",
    "the record is written byte by byte": "pwrite *.jsonl 1x9999 short=1",
    "the record is interrupted": f"pwrite *.jsonl 1 fail={errno.EINTR}",
    "the record takes time": "pwrite *.jsonl 1 delay=5",
    "no room at the sync": f"fdatasync *.jsonl 1 fail={errno.ENOSPC}",
    "the sync fails": f"fdatasync *.jsonl 1 fail={errno.EIO}",
    "the sync fails, and nothing can be noted": (
        f"fdatasync *.jsonl 1 fail={errno.EIO}; open *.tmp 1 fail={errno.ENOSPC}; pwrite *.page 1x9999 fail={errno.EIO}"
    ),
    "the sync is interrupted": f"fdatasync *.jsonl 1 fail={errno.EINTR}",
    "the log cannot be read": f"pread *.jsonl 1x9999 fail={errno.EIO}",
    "the log cannot be read once": f"pread *.jsonl 1 fail={errno.EIO}",
    "the log is read in part": "pread *.jsonl 1 short=5",
    "the page cannot be read": f"pread *.page 1x9999 fail={errno.EIO}",
    "the page is read in part": "pread *.page 1 short=100",
    "the page cannot be written": f"pwrite *.page 1x9999 fail={errno.ENOSPC}",
    "the page is written in part": "pwrite *.page 1 short=30",
    "the lock is interrupted": f"flock *.lock 1 fail={errno.EINTR}",
    "no locks are left": f"flock *.lock 1 fail={errno.ENOLCK}",
    "the leader lock fails": f"flock *.sync 1x9999 fail={errno.ENOLCK}",
    "the log cannot be looked at": f"statx *.jsonl 1x9999 fail={errno.EIO}",
    "looks are forbidden": f"statx * 1x9999 fail={errno.EPERM}",
    "the lock file cannot be looked at": f"fstat *.lock 1x9999 fail={errno.EIO}",
}

# Of the second lock that is asked for: in native code that hands over, that is not the unlock.
_UNLOCK_FAILS = f"flock *.lock 2 fail={errno.EIO}"


def _words(part: Part) -> str:
    names = {id(value): name for name, value in {**vars(left), **vars(pages), **vars(locks)}.items()}
    return names[id(part)].replace("_", " ")


def _of(
    *made_by: Part,
    act: str = "atom",
    durability: str = ALWAYS,
    rules: str = "",
    fault: str = "",
    is_polled: bool = False,
    is_usual: bool = False,
) -> Situation:
    words = [*map(_words, made_by), fault, act, durability.partition(":")[0]]
    return Situation(
        ", ".join(filter(None, words)),
        made_by,
        act,
        durability,
        rules or _FAULTS.get(fault, ""),
        is_polled,
        is_usual,
    )


def _catalogue() -> Iterator[Situation]:
    for before in _LEFT:
        yield from (_of(before, durability=each, is_usual=before in _USUAL) for each in _DURABILITIES)
    for before in (left.padding, left.padding_partly_filled_by_another):
        yield from (_of(before, page) for page in _PAGES)
        yield from (_of(before, descriptor) for descriptor in _DESCRIPTORS)
        yield _of(before, locks.lock_held_for_a_moment, rules=_AT_THE_LOCK)
        yield _of(before, locks.lock_held_by_one_who_appends, rules=_AT_THE_LOCK)
        yield _of(before, locks.lock_held_for_good, is_polled=True)
    yield from (_of(led, rules=rules) for led, rules in _LED)
    for before in (*_USUAL, left.torn_end):
        yield from (
            _of(before, act=act, is_usual=before in _USUAL and act in USUAL) for act in ACTS if act != "atom"
        )
    for before in _USUAL:
        yield from (_of(before, fault=fault) for fault in _FAULTS)
    yield from (_of(before, fault="the unlock fails", rules=_UNLOCK_FAILS) for before in _USUAL)
    yield from (_of(left.padding, fault=fault, durability=NEVER) for fault in _FAULTS)
    yield from (_of(left.padding, fault=fault, act="many: 2") for fault in _FAULTS)


def by_name(situations: Iterable[Situation]) -> dict[str, Situation]:
    """Return situations by their names, of which none may be that of two."""
    found: dict[str, Situation] = {}
    for situation in situations:
        if situation.name in found:
            raise ValueError(f"two situations are called {situation.name!r}")
        found[situation.name] = situation
    return found


CATALOGUE = by_name(_catalogue())
