"""The live screen of ``top``, made with textual."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from mpcheckpoint._cli.terminal import Exit
from mpcheckpoint._cli.top.words import (
    COLUMNS,
    detail_lines,
    failure_line,
    failures_of,
    map_line,
    ordered,
    store_line,
)
from mpcheckpoint.errors import CheckpointError, shell_text

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.events import Resize

    from mpcheckpoint._maintenance.monitoring.log_monitor import LogSight
    from mpcheckpoint._maintenance.monitoring.store_monitor import StoreMonitor, StoreSight

# With less there is no room for a line of each part.
LEAST_COLUMNS, LEAST_LINES = 50, 14
_MOST_MAPS, _MOST_FAILURES = 50, 20
_OF_TABLE = frozenset({"reverse", "sort"})
_COLOURS = {"whole": "", "poisoned": "bold red", "corrupt": "bold red", "unreadable": "bold red"}


class LogScreen(Screen[None]):
    """All that there is to say of one log."""

    BINDINGS: ClassVar = [Binding("escape,backspace,left", "dismiss", "Back")]

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("", id="head", markup=False)
        with VerticalScroll():
            yield Static("", id="detail", markup=False)
        yield Footer()

    def show(self, sight: StoreSight, head: Text) -> None:
        """Draw the screen anew."""
        log = next((each for each in sight.logs if each.path == self._path), None)
        lines = ["the log is gone"] if log is None else detail_lines(log)
        self.query_one("#head", Static).update(head)
        self.query_one("#detail", Static).update(Text("\n".join(lines)))


class LogTable(DataTable[Text]):
    """The table of logs. Enter, which every table has, is told of at the foot."""

    BINDINGS: ClassVar = [Binding("enter", "select_cursor", "All about it")]


class TopApp(App[int]):
    """The logs of a store, their maps, and the last failures."""

    CSS = """
    #head { height: 1; background: $primary; color: $text; }
    #logs { height: 1fr; min-height: 4; }
    .title { height: 1; background: $panel; color: $text-muted; }
    #maps, #failures { height: auto; max-height: 6; overflow-y: auto; }
    #small { display: none; }
    .small #all, .small Footer { display: none; }
    .small #small { display: block; }
    """
    TITLE = "mpcheckpoint top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("s", "sort", "Sort by"),
        Binding("r", "reverse", "Reverse"),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    def __init__(self, monitor: StoreMonitor, interval_s: float) -> None:
        super().__init__()
        self._monitor = monitor
        self._interval_s = interval_s
        self._sight: StoreSight | None = None
        self._order = 0
        self._is_reversed = False
        self._is_paused = False
        self._is_looking = False

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("", id="small", markup=False)
        with Vertical(id="all"):
            yield Static("reading the logs ...", id="head", markup=False)
            yield LogTable(id="logs", cursor_type="row", zebra_stripes=True)
            yield Static("maps", classes="title", markup=False)
            yield Static("", id="maps", markup=False)
            yield Static("last failures", classes="title", markup=False)
            yield Static("", id="failures", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        for column in COLUMNS:
            self._table.add_column(column.name, key=column.name)
        self._table.focus()
        try:
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGTERM, lambda: self.exit(128 + signal.SIGTERM)
            )
        except (ValueError, RuntimeError):
            pass  # not in the main thread: whoever runs it there takes care of signals
        self.set_interval(self._interval_s, self._begin_look)
        self._begin_look()

    @property
    def _table(self) -> LogTable:
        return self.screen_stack[0].query_one("#logs", LogTable)

    def on_resize(self, event: Resize) -> None:
        """Say so if there is no room."""
        columns, lines = event.size
        is_small = columns < LEAST_COLUMNS or lines < LEAST_LINES
        self.screen_stack[0].set_class(is_small, "small")
        self.screen_stack[0].query_one("#small", Static).update(
            f"The terminal has {columns} x {lines}; this takes {LEAST_COLUMNS} x {LEAST_LINES}. q quits"
        )

    def _begin_look(self) -> None:
        if not (self._is_looking or self._is_paused):
            self._is_looking = True
            # In a thread: the first look reads all logs, and keys go on meanwhile.
            self.run_worker(self._look, thread=True)

    def _look(self) -> None:
        try:
            sight = self._monitor.look()
        except CheckpointError as error:
            self.call_from_thread(self.exit, Exit.USAGE, message=shell_text(error))
            return
        self.call_from_thread(self._take, sight)

    def _take(self, sight: StoreSight) -> None:
        self._is_looking = False
        if not self._is_paused:
            self._sight = sight
            self._show()

    def _show(self) -> None:
        sight = self._sight
        if sight is None:
            return
        head = Text(store_line(sight) + ("  PAUSED" if self._is_paused else ""))
        main = self.screen_stack[0]
        main.query_one("#head", Static).update(head)
        logs = ordered(sight.logs, COLUMNS[self._order], is_reversed=self._is_reversed)
        self._show_logs(logs)
        maps = [map_line(log, log.map) for log in logs if log.map is not None][:_MOST_MAPS]
        main.query_one("#maps", Static).update(Text("\n".join(maps), no_wrap=True, overflow="ellipsis"))
        failed = [failure_line(*each) for each in failures_of(sight, _MOST_FAILURES)]
        main.query_one("#failures", Static).update(Text("\n".join(failed), no_wrap=True, overflow="ellipsis"))
        if isinstance(self.screen, LogScreen):
            self.screen.show(sight, head)

    def _show_logs(self, logs: list[LogSight]) -> None:
        table = self._table
        chosen = self._chosen()
        table.clear()
        for log in logs:
            cells = [
                Text(column.text(log), justify="right" if column.is_number else "left") for column in COLUMNS
            ]
            cells[1].stylize(_COLOURS.get(log.state, ""))
            table.add_row(*cells, key=log.path)
        if chosen is not None and chosen in (log.path for log in logs):
            table.move_cursor(row=table.get_row_index(chosen))
        for index, column in enumerate(COLUMNS):
            mark = (" ^" if column.is_number is self._is_reversed else " v") if index == self._order else ""
            table.ordered_columns[index].label = Text(column.name + mark)

    def _chosen(self) -> str | None:
        table = self._table
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Show the log on which enter was pressed, or that was clicked."""
        if event.row_key.value is not None:
            self._open(event.row_key.value)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked; the other way round if it was clicked before."""
        self._is_reversed = not self._is_reversed if self._order == event.column_index else False
        self._order = event.column_index
        self._show()

    def _open(self, path: str) -> None:
        screen = LogScreen(path)

        def draw() -> None:
            if self._sight is not None:
                screen.show(self._sight, Text(store_line(self._sight)))

        self.push_screen(screen)
        self.call_after_refresh(draw)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key does something here."""
        return not (action in _OF_TABLE and isinstance(self.screen, LogScreen))

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._is_paused = not self._is_paused
        self._show()
        self._begin_look()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._order, self._is_reversed = (self._order + 1) % len(COLUMNS), False
        self._show()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._is_reversed = not self._is_reversed
        self._show()

    async def action_quit(self) -> None:
        """End."""
        self._monitor.stop()
        self.exit(Exit.OK)

    def action_interrupt(self) -> None:
        """End, as by Ctrl-C."""
        self._monitor.stop()
        self.exit(Exit.INTERRUPTED)
