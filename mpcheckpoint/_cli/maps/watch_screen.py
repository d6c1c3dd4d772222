"""The live screen of ``results --watch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from mpcheckpoint._cli.maps.outcome_text import failure_line
from mpcheckpoint._cli.maps.watch import WatchDisplay
from mpcheckpoint._cli.terminal import safe
from mpcheckpoint._progress.bar import LiveConsole
from mpcheckpoint._progress.words import span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mpcheckpoint._cli.maps.watch import Watched

_MOST_RUNNING = 10
_REDRAWS_A_SECOND = 4


class Screen(WatchDisplay):
    """What is done, what runs, and what failed last. It disappears when the watch ends."""

    def __init__(self) -> None:
        self._live = Live(
            Text("reading the log"),
            console=LiveConsole(),
            transient=True,
            refresh_per_second=_REDRAWS_A_SECOND,
        )
        self._live.start()

    def show(self, watched: Watched) -> None:
        """Draw the screen anew."""
        self._live.update(Group(*_parts(watched)))

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()


def _parts(watched: Watched) -> Iterator[RenderableType]:
    yield _line(safe(watched.version) or "(a function)")
    if watched.rerun is not None:
        yield _line(f"rerun {safe(watched.rerun)}")
    yield _line(_counts(watched))
    if watched.items is not None:
        # Padding, of width 0, because a bar alone does not end its line.
        yield Padding(ProgressBar(total=max(1, watched.items), completed=watched.done), 0)
    if watched.running:
        yield _line(f"running: {len(watched.running)}")
    for item in watched.running[:_MOST_RUNNING]:
        yield _line(f"{item.elapsed_s:10.1f} s  {safe(item.object_key)}")
    if watched.failures:
        yield _line("last failures:")
    for outcome in watched.failures:
        yield _line(f"    {failure_line(outcome)}")


def _counts(watched: Watched) -> str:
    total = "" if watched.items is None else f" of {watched.items}"
    parts = [f"{watched.done}{total} done", f"{watched.failed} failed"]
    resting = len(watched.to_retry - {item.object_key for item in watched.running})
    if resting:
        parts.append(f"{resting} to retry")
    rate = watched.rate()
    if rate:
        parts.append(f"{rate:.1f}/s")
        if watched.items is not None and watched.items > watched.done:
            parts.append(f"about {span((watched.items - watched.done) / rate)} left")
    return ", ".join(parts)


def _line(text: str) -> Text:
    return Text(text.replace("\n", "\\n"), no_wrap=True, overflow="ellipsis")
