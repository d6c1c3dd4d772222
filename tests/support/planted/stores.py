"""Faulty stores."""

from __future__ import annotations

import threading
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mpcheckpoint._format.codec import encode_payload
from mpcheckpoint._types import Position
from support.memory_content import Content
from support.memory_storage import MemoryLog, MemoryStore
from support.planted import found_by

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Guard: TypeAlias = Callable[[], Position | None]

_MEETING_S = 2.0


@found_by("test_store_without_logs_lists_none", "test_what_is_no_key_is_refused_and_makes_no_log")
class ListsALogThatIsNone(MemoryStore):
    def log_keys(self) -> list[str]:
        return sorted([*super().log_keys(), "default"])


@found_by("test_keys_of_logs_made_in_any_order_are_listed_sorted_and_once")
class ListsKeysUnsorted(MemoryStore):
    def log_keys(self) -> list[str]:
        return list(self.contents)


@found_by("test_keys_of_logs_made_in_any_order_are_listed_sorted_and_once")
class SortsKeysWithoutCase(MemoryStore):
    def log_keys(self) -> list[str]:
        return sorted(self.contents, key=str.casefold)


class _ChangesKeys(MemoryStore):
    change: Callable[[str], str]

    def find_log(self, log_key: str) -> MemoryLog:
        return super().find_log(type(self).change(log_key))

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        return super().open_log(type(self).change(log_key), create=create, timeout_s=timeout_s)


@found_by("test_logs_of_odd_keys_are_kept_apart")
class FoldsCase(_ChangesKeys):
    change = staticmethod(str.casefold)


@found_by("test_logs_of_odd_keys_are_kept_apart")
class StripsKeys(_ChangesKeys):
    change = staticmethod(str.strip)


@found_by("test_logs_of_odd_keys_are_kept_apart")
class NormalizesKeys(_ChangesKeys):
    change = staticmethod(lambda log_key: unicodedata.normalize("NFC", log_key))


@found_by("test_logs_of_odd_keys_are_kept_apart")
class CutsKeys(_ChangesKeys):
    change = staticmethod(lambda log_key: log_key[:300])


@found_by("test_what_is_no_key_is_refused_and_makes_no_log")
class TakesAnyKey(_ChangesKeys):
    change = staticmethod(lambda log_key: str(log_key).encode(errors="replace").decode())


@found_by("test_unknown_log_is_not_found_and_not_made")
class FindsByMaking(MemoryStore):
    def find_log(self, log_key: str) -> MemoryLog:
        return self.open_log(log_key, create=True, timeout_s=None)


@found_by(
    "test_unknown_log_is_not_found_and_not_made",
    "test_unknown_log_opened_without_create_is_not_found_and_not_made",
    "test_log_that_does_not_exist_is_not_made_without_permission",
)
class RaisesKeyErrors(MemoryStore):
    def _found(self, log_key: str) -> MemoryLog:
        return self.log_type(self.contents[log_key])


@found_by(
    "test_unknown_log_opened_without_create_is_not_found_and_not_made",
    "test_log_that_does_not_exist_is_not_made_without_permission",
)
class AlwaysCreates(MemoryStore):
    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        return super().open_log(log_key, create=True, timeout_s=timeout_s)


@found_by("test_log_opened_again_keeps_its_records")
class CreatesAnew(MemoryStore):
    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        if create:
            self.contents.pop(log_key, None)
        return super().open_log(log_key, create=create, timeout_s=timeout_s)


@found_by("test_empty_batch_writes_nothing")
class BeginsLogsWithARecord(MemoryStore):
    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        is_new = create and log_key not in self.contents
        log = super().open_log(log_key, create=create, timeout_s=timeout_s)
        if is_new:
            log.write([encode_payload("x", "created")])
        return log


@found_by("test_stores_on_different_places_share_nothing")
class SharesAllPlaces(MemoryStore):
    _all: ClassVar[dict[str, Content]] = {}

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.contents = self._all


@found_by(
    "test_log_made_by_another_store_is_listed_found_and_changes_the_token",
    "test_readers_of_every_store_see_an_append_at_once",
    "test_handles_see_each_other_s_records_and_logs_at_once",
    "test_store_opened_again_holds_everything_at_the_same_places",
)
class SharesNothing(MemoryStore):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.contents = {}


@found_by(
    "test_read_only_handle_reads_and_writes_nothing", "test_handles_see_each_other_s_records_and_logs_at_once"
)
class ListsOnlyItsOwn(MemoryStore):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._own: set[str] = set()

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        self._own.add(log_key)
        return super().open_log(log_key, create=create, timeout_s=timeout_s)

    def log_keys(self) -> list[str]:
        return sorted(self._own)


@found_by(
    "test_log_made_by_another_store_is_listed_found_and_changes_the_token",
    "test_handles_see_each_other_s_records_and_logs_at_once",
    "test_follower_gives_each_record_once_from_where_it_was_put",
    "test_tail_gives_each_record_once_and_every_one_that_was_appended",
)
class TokenNeverChanges(MemoryStore):
    def change_token(self) -> object | None:
        return 1


@found_by("test_token_stays_while_no_log_is_added")
class TokenAlwaysChanges(MemoryStore):
    def change_token(self) -> object | None:
        return object()


@found_by("test_log_made_by_many_threads_at_once_is_one_log")
class CreatesWithoutLock(MemoryStore):
    _both = threading.Barrier(2)

    def open_log(self, log_key: str, *, create: bool, timeout_s: float | None) -> MemoryLog:
        if create and log_key not in self.contents:
            with suppress(threading.BrokenBarrierError):  # a second thread has found none, either
                self._both.wait(_MEETING_S)
            made = self.contents[log_key] = Content(log_key)
            return self.log_type(made)
        return super().open_log(log_key, create=False, timeout_s=timeout_s)


@found_by("test_pickled_handles_stand_on_the_same_place")
class DoesNotPickle(MemoryStore):
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


@found_by("test_pickled_handles_stand_on_the_same_place")
class PicklesToStrangers(MemoryStore):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = MemoryStore.__hash__
