"""A read finds each log that was made before it, whatever an earlier look knew."""

from __future__ import annotations

import pytest

from mpcheckpoint import Checkpoint
from mpcheckpoint.errors import LimitExceededError

pytestmark = pytest.mark.guarantee(4)


def test_read_after_a_follower_s_look_finds_a_log_that_was_made_since(postgres_database: str) -> None:
    with Checkpoint(postgres_database) as writer, Checkpoint(postgres_database) as reader:
        for log_key in ("a", "b"):
            writer.log(log_key).append("x", log_key)
        follower = reader.follow(idle_timeout_s=0)
        assert sorted(record.event for record in follower) == ["a", "b"]

        writer.log("new").append("x", "new")

        assert sorted(record.event for record in reader.read()) == ["a", "b", "new"]
        assert sorted(reader["x"]) == ["a", "b", "new"]
        assert [record.event for record in follower] == ["new"]


def test_key_that_no_file_of_a_log_could_have_is_refused_and_makes_no_log(postgres_database: str) -> None:
    """So that each log can be copied into a directory."""
    with Checkpoint(postgres_database) as checkpoint:
        with pytest.raises(LimitExceededError, match="log key"):
            checkpoint.log("k" * 33_000)
        assert checkpoint.logs() == []
