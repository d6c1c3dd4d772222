"""How `verify` and `repair` show the check of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpcheckpoint._cli.progress import ByteProgress
from mpcheckpoint._cli.terminal import counted, safe, write_out
from mpcheckpoint.maintenance import size_in_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mpcheckpoint.maintenance import Damage, LogCheck

QUICK_S = 0.5
MOST_SHOWN = 20
_CHECK_FIELDS = (
    *("log_key", "path", "generation", "state", "records", "size_bytes", "durable_bytes"),
    *("damage_count", "damages", "problem", "poison", "notes", "loss"),
)
_DAMAGE_FIELDS = (
    *("offset", "length_bytes", "verdict", "expected", "found"),
    *("records_behind", "is_mended", "after_us", "before_us"),
)


def check_progress(what: str, store: str, log_keys: tuple[str, ...] | None) -> ByteProgress:
    """Return the progress of a pass over logs. It is shown while one log takes long."""
    return ByteProgress(what, size_in_bytes(store, log_keys=log_keys), quiet_s=QUICK_S)


def write_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    write_out("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))


def damage_lines(check: LogCheck) -> Iterator[str]:
    """Yield a line for each damage, up to twenty."""
    for damage in check.damages[:MOST_SHOWN]:
        yield (
            f"  {damage.verdict} at offset {damage.offset}, {counted(damage.length_bytes, 'byte')}: "
            + safe(f"expected {damage.expected}, found {damage.found}{_consequence(damage)}")
        )
    if check.damage_count > MOST_SHOWN:
        yield f"  and {counted(check.damage_count - MOST_SHOWN, 'damage')} more (--json has up to 1,000)"
    if check.damages:
        yield f"  in {safe(check.path)}"


def _consequence(damage: Damage) -> str:
    if damage.is_mended:
        return "; only the end of a line was hit, and nothing is lost"
    if damage.records_behind:
        return f"; {counted(damage.records_behind, 'record')} after it can be proven"
    return ""


def check_fields(check: LogCheck) -> dict[str, Any]:
    """Return the fields of a check for JSON."""
    damages = [{name: getattr(damage, name) for name in _DAMAGE_FIELDS} for damage in check.damages]
    return {name: damages if name == "damages" else getattr(check, name) for name in _CHECK_FIELDS}
