"""Logs that are compacted in a faulty way."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from support.memory_storage import MemoryLog, MemoryReader
from support.planted import found_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpcheckpoint._compaction.selection import Selection
    from mpcheckpoint._format.columns import Lines
    from mpcheckpoint._format.frame import EndState, Payload
    from mpcheckpoint._logfile.chunk import Chunk
    from mpcheckpoint._logfile.compaction import Compacted
    from support.memory_content import Content


@found_by(
    "test_compaction_drops_what_was_asked_for_all_handles_at_once",
    "test_compaction_that_is_stopped_changes_nothing_and_another_goes_on",
    "test_fold_stands_in_the_place_of_the_last_record_that_went_into_it",
)
class OnlyTells(MemoryLog):
    def compact(self, selection: Any, **options: Any) -> Compacted:
        return super().compact(selection, **(options | {"is_dry_run": True}))


@found_by(
    "test_counts_and_conditions_go_on_over_compactions",
    "test_record_id_of_a_dropped_record_is_found",
    "test_forgotten_object_does_not_come_back_and_is_counted_anew_over_compactions",
    "test_end_of_a_log_is_the_same_after_what_stood_there_was_dropped",
    "test_part_of_an_object_is_numbered_as_it_is_counted",
    "test_transaction_counts_and_numbers_its_own_appends",
)
class ForgetsWhatItDropped(MemoryLog):
    def next_generation(self, leading: Sequence[Payload]) -> Content:
        return super().next_generation(())


@found_by("test_compaction_keeps_order_stamps_and_batches_and_records_ids")
class DropsWholeBatches(MemoryLog):
    def fates(self, selection: Any, lines: Lines) -> tuple[Any, Any]:
        fates, payloads = super().fates(selection, lines)
        fates[6:] = bytes(len(fates) - 6)
        return fates, payloads


@found_by("test_position_of_a_dropped_record_leads_to_what_followed_it")
class RefusesEarlierPositions(MemoryLog):
    def next_generation(self, leading: Sequence[Payload]) -> Content:
        begun = super().next_generation(leading)
        begun.previous, begun.lineage = (), uuid.uuid4().hex
        return begun


@found_by("test_records_appended_during_a_compaction_stay")
class LosesWhatCameMeanwhile(MemoryLog):
    def catch_up(self, copied: Content, start: EndState) -> None:
        """Copy nothing."""


@found_by("test_claim_of_a_live_worker_is_kept")
class DropsAllClaims(MemoryLog):
    def fates(self, selection: Selection, lines: Lines) -> tuple[Any, Any]:  # type: ignore[override]
        selection._kept_notes = frozenset()
        return super().fates(selection, lines)


@found_by("test_forgetting_and_the_same_again_is_a_change_also_over_a_compaction")
class LosesWhatSaysThatAnObjectIsForgotten(DropsAllClaims):
    """As it loses claims."""


@found_by("test_forgotten_object_is_as_if_it_had_never_been_in_all_handles")
class RemembersWhatIsForgotten(MemoryReader):
    def poll(self) -> Iterator[Chunk]:
        for chunk in super().poll():
            yield chunk._replace(forgets=())


@found_by("test_reader_that_resumes_gets_nothing_twice_and_another_all_anew")
class BeginsAnew(MemoryReader):
    def _restarted(self, content: Content) -> bool:
        self._resumes = False
        return super()._restarted(content)
