"""What a Store promises: keys, finding and making logs, learning of new ones."""

from __future__ import annotations

from typing import Any

from mpcheckpoint.errors import InvalidKeyError, LogNotFoundError
from mpcheckpoint.testing._conformance.base import StorageUnderTest
from mpcheckpoint.testing._conformance.verbs import Background, append, events, raises

# Storages have taken each of these for another key, for a path, or for the end of a string.
ODD_KEYS = (
    *("", " ", "a", "A", "a ", "a.", "a/b", "a\\b", "/", "..", "../a", ".hidden", "~", "%", "%41"),
    *("a:b", "a@b;c", "logs", "store", "workers", "con", "a.jsonl", "a.lock", "line\nbreak", "nul\0byte"),
    *("\x7f", "-1", "1", "01", "\u00e9", "e\u0301", "\u00c9", "stra\u00dfe", "strasse", "\u65e5\u672c"),
    *("\U0001f600", "\u200b", "\ufeff", "' or 1=1 --", '"', "*", "?", "$HOME"),
    *("k" * 300, "k" * 301, "k" * 32_000, "\u00fc" * 16_000),
)
BAD_KEYS: tuple[Any, ...] = (None, 5, b"a", ["a"], "\ud800", "a\udfff")


class StoreTests(StorageUnderTest):
    """A set of logs on one place."""

    def test_store_without_logs_lists_none(self) -> None:
        assert self.open_store(self.place).log_keys() == []

    def test_keys_of_logs_made_in_any_order_are_listed_sorted_and_once(self) -> None:
        store = self.open_store(self.place)
        for log_key in ("b", "c", "a", "B", "b"):
            store.open_log(log_key, create=True, timeout_s=self.patience_s)

        assert store.log_keys() == ["B", "a", "b", "c"]
        assert self.open_store(self.place).log_keys() == ["B", "a", "b", "c"]

    def test_logs_of_odd_keys_are_kept_apart(self) -> None:
        store = self.open_store(self.place)
        for log_key in ODD_KEYS:
            append(store.open_log(log_key, create=True, timeout_s=self.patience_s), log_key)

        another = self.open_store(self.place)
        assert another.log_keys() == sorted(ODD_KEYS)
        for log_key in ODD_KEYS:
            log = another.find_log(log_key)
            assert log.log_key == log_key
            assert events(log) == [log_key]

    def test_what_is_no_key_is_refused_and_makes_no_log(self) -> None:
        store = self.open_store(self.place)
        for log_key in BAD_KEYS:
            with raises(InvalidKeyError):
                store.find_log(log_key)
            with raises(InvalidKeyError):
                store.open_log(log_key, create=True, timeout_s=self.patience_s)

        assert store.log_keys() == []

    def test_unknown_log_is_not_found_and_not_made(self) -> None:
        store = self.open_store(self.place)
        store.open_log("a", create=True, timeout_s=self.patience_s)

        for log_key in ("A", "b", ""):
            with raises(LogNotFoundError):
                store.find_log(log_key)
        assert store.log_keys() == ["a"]

    def test_unknown_log_opened_without_create_is_not_found_and_not_made(self) -> None:
        store = self.open_store(self.place)

        with raises(LogNotFoundError):
            store.open_log("a", create=False, timeout_s=self.patience_s)
        assert store.log_keys() == []

    def test_log_opened_again_keeps_its_records(self) -> None:
        store = self.open_store(self.place)
        append(store.open_log("a", create=True, timeout_s=self.patience_s), 1)

        for create in (True, False):
            assert events(store.open_log("a", create=create, timeout_s=self.patience_s)) == [1]

    def test_stores_on_different_places_share_nothing(self) -> None:
        append(self.open_log("a"), 1)
        append(self.open_log("a", place=self.other_place), 2)

        assert events(self.open_log("a")) == [1]

    def test_log_made_by_another_store_is_listed_found_and_changes_the_token(self) -> None:
        store = self.open_store(self.place)
        for log_key in ("b", "a", "c"):
            keys, token = store.log_keys(), store.change_token()

            append(self.open_log(log_key), log_key)

            assert token is None or store.change_token() != token
            assert store.log_keys() == sorted([*keys, log_key])
            assert events(store.find_log(log_key)) == [log_key]

    def test_token_stays_while_no_log_is_added(self) -> None:
        """Or a handle would list all logs at each of its reads."""
        store = self.open_store(self.place)
        log = store.open_log("a", create=True, timeout_s=self.patience_s)
        token = store.change_token()

        append(log, 1)
        self.open_log("a")

        assert store.change_token() == token

    def test_log_made_by_many_threads_at_once_is_one_log(self) -> None:
        for log_key in ("a", "b", "c"):
            threads = [
                Background(lambda number, key: append(self.open_log(key), number), number, log_key)
                for number in range(4)
            ]
            for thread in threads:
                thread.result(self.patience_s)

            assert sorted(events(self.open_log(log_key))) == list(range(4))
