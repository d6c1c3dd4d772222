"""What the handles of one process share, and what becomes of it in a forked child.

One LogWriter a log file, whatever number of handles is open. At a fork every inherited descriptor is closed in the
child without unlocking, every mutex is new, and whatever another thread was changing at that moment is dropped.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from mpcheckpoint import _system as system
from mpcheckpoint._logfile.append import LogWriter
from mpcheckpoint._logfile.clock import clock
from mpcheckpoint._logfile.descriptors import pool
from mpcheckpoint._logfile.known_end import durable_of, known_end_of
from mpcheckpoint._logfile.lock_waits import waits
from mpcheckpoint._store.interval import IntervalSyncer
from mpcheckpoint._store.notifier import StoreNotifier
from mpcheckpoint._system.locks import store_locks

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._logfile.known_end import KnownEnd
    from mpcheckpoint._logfile.paths import LogPaths

_FORK_WAIT_S = 0.1
_EXIT_PRIORITY = 10
_FILES_OF_A_WRITER = 4  # the log, its append lock, its leader lock, its page
# Of the files that this process may have open, writers keep a quarter at most.
_SHARE = 4
_MOST_NOTIFIERS = 16
_MOST_KNOWN = 1024


class Resettable(Protocol):
    """Something that has to be told that it is in a forked child now."""

    def reset_after_fork(self) -> None:
        """Take new mutexes; drop what another thread may have been changing, and every inherited descriptor."""


class Process:
    """The registry of this process.

    Invariant: ``_pid`` is the process that everything here belongs to; every public entry point compares it, since some
    forks run no hooks.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._reset_pid = self._pid  # the one in which all that was inherited was let go of
        self._mutex = threading.RLock()
        self._writers: OrderedDict[tuple[int, int, str], LogWriter] = OrderedDict()
        # Those that the registry forgot and somebody still uses, too: a fork must know of their locks.
        self._alive: weakref.WeakSet[LogWriter] = weakref.WeakSet()
        self._handles: weakref.WeakSet[Resettable] = weakref.WeakSet()
        # What is known of logs whose writers were forgotten.
        self._known: OrderedDict[tuple[int, int, str], KnownEnd] = OrderedDict()
        # The directory of each open handle.
        self._users: weakref.WeakKeyDictionary[Resettable, tuple[int, int]] = weakref.WeakKeyDictionary()
        # One a store that is followed from here, or whose followers are woken from here.
        self._notifiers: OrderedDict[tuple[int, int], StoreNotifier] = OrderedDict()
        # What each thread that is forking has to do afterwards.
        self._resumes: dict[int, list[Callable[[], None]]] = {}
        self.flushes_at_exit = False
        self.interval = IntervalSyncer()
        # Another object whenever a writer was forgotten: for as long as it is the same, every writer is valid.
        self.writers_epoch = object()

    def writer(self, directory_identity: tuple[int, int], paths: LogPaths) -> LogWriter:
        """Return this process's writer of a log.

        The least recently used are forgotten, and their files closed when the last append in them is done. A second
        writer of the same log, made then, is kept apart from the first by the kernel's lock.
        """
        self.notice_fork()
        key = (*directory_identity, paths.name)
        with self._mutex:
            writer = self._writers.get(key)
            if writer is None or writer.paths.directory != paths.directory:
                writer = self._writers[key] = LogWriter(paths, self._known.pop(key, None))
                self._alive.add(writer)
                most = max(1, system.most_open_files() // _SHARE // _FILES_OF_A_WRITER)
                while len(self._writers) > most:
                    others = [each for each in self._writers if each != key]
                    sound = (each for each in others if not _is_poisoned(self._writers[each]))
                    self._forget(next(sound, others[0]))
            self._writers.move_to_end(key)
            return writer

    def notifier(self, directory_identity: tuple[int, int], directory: str) -> StoreNotifier | None:
        """Return the notifier of the store in ``directory``; None if there can be none."""
        self.notice_fork()
        with self._mutex:
            notifier = self._notifiers.get(directory_identity)
            if notifier is None or not notifier.is_intact():
                try:
                    notifier = self._notifiers[directory_identity] = StoreNotifier(directory)
                except OSError:
                    return None
                if len(self._notifiers) > _MOST_NOTIFIERS:
                    self._notifiers.popitem(last=False)  # closed when nobody waits for it any more
            self._notifiers.move_to_end(directory_identity)
            return notifier

    def known_durable(self, directory_identity: tuple[int, int], name: str, generation: str) -> int:
        """Return the offset below which this process knows a generation to be durable; 0 if it knows nothing."""
        key = (*directory_identity, name)
        writer = self._writers.get(key)
        return (
            durable_of(self._known.get(key), generation)
            if writer is None
            else writer.known_durable(generation)
        )

    def register(self, handle: Resettable, directory_identity: tuple[int, int] | None = None) -> None:
        """Have ``handle`` told of forks, for as long as it lives; keep files of a directory open until ``end_use``."""
        with self._mutex:
            self._handles.add(handle)
            if directory_identity is not None:
                self._users[handle] = directory_identity

    def end_use(self, handle: Resettable) -> None:
        """Give back the files of the directory that a handle was registered for, unless another one has it open.

        Who is in the middle of an append keeps them until that is done. A writer of which a sync has failed stays: the
        note of that may have found no room.
        """
        with self._mutex:
            directory_identity = self._users.pop(handle, None)
            if directory_identity is None or directory_identity in self._users.values():
                return
            self._notifiers.pop(directory_identity, None)
            for key, writer in list(self._writers.items()):
                if key[:2] == directory_identity and not _is_poisoned(writer):
                    self._forget(key)

    def _forget(self, key: tuple[int, int, str]) -> None:
        """Let go of a writer; keep what it knows, which takes no files. Requires: ``_mutex``."""
        writer = self._writers.pop(key)
        known = writer.known if writer.log is None else known_end_of(writer.log)
        self.writers_epoch = object()
        if known is not None:
            self._known[key] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)

    def notice_fork(self) -> None:
        """Reset what was inherited, if this process was forked without running Python's hooks."""
        if self._pid != os.getpid():
            self.after_fork_in_child()

    def flush_at_exit(self) -> None:
        """Have scheduled syncs done, and padding cut off, when this process exits.

        Also if it is a multiprocessing child, which skips atexit.
        """
        if self.flushes_at_exit:
            return
        self.flushes_at_exit = True
        atexit.register(self._flush)
        # Not imported for this: in a multiprocessing child it is loaded, and elsewhere atexit does.
        multiprocessing_util = sys.modules.get("multiprocessing.util")
        if multiprocessing_util is not None:
            multiprocessing_util.Finalize(None, self._flush, exitpriority=_EXIT_PRIORITY)

    def _flush(self) -> None:
        self.interval.flush_at_exit()
        for writer in list(self._alive):
            writer.release_padding()

    def refuse_reentry(self) -> None:
        """Return if this thread is inside no append: else what waits for append locks would wait for itself.

        Raises:
            ReentrancyError: it is, and a signal handler or a finalizer interrupted it.
        """
        for writer in list(self._alive):
            writer.lock.refuse_reentry()

    # --- fork -------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let appends that hold their lock at this moment finish, each for at most 100 ms.

        A child that comes to life while a lock is held inherits the open file that holds it. It closes that
        at once; this only spares the lock from outliving a parent that is killed in between.
        """
        writers = sorted(self._alive, key=lambda writer: writer.paths.log)
        resumes = self._resumes[threading.get_ident()] = []
        for writer in writers:
            writer.pause_for_fork(_FORK_WAIT_S, resumes)

    def after_fork_in_parent(self) -> None:
        """Go on. Again is fine: it makes up for what a Ctrl-C kept from being done."""
        thread = threading.get_ident()
        resumes = self._resumes.get(thread, [])
        while resumes:
            resumes[-1]()
            resumes.pop()
        self._resumes.pop(thread, None)

    def after_fork_in_child(self) -> None:
        """Let go of everything inherited."""
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._resumes = {}
        self.flushes_at_exit = False
        store_locks.reset_after_fork()
        clock.reset_after_fork()
        pool.reset_after_fork()
        waits.reset_after_fork()
        self.interval.reset_after_fork()
        notifiers, self._notifiers = self._notifiers, OrderedDict()
        for notifier in notifiers.values():
            notifier.close()
        for writer in list(self._alive):
            writer.reset_after_fork()
        self._writers = OrderedDict()
        self._known = OrderedDict()
        self.writers_epoch = object()
        for handle in list(self._handles):
            handle.reset_after_fork()
        self._reset_pid = os.getpid()

    def make_up_in_child(self) -> None:
        """Do what a Ctrl-C kept ``after_fork_in_child`` from doing."""
        if self._reset_pid != os.getpid():
            self.after_fork_in_child()


def _is_poisoned(writer: LogWriter) -> bool:
    return writer.log is not None and writer.log.file.is_poisoned


process = Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=process.before_fork,
        after_in_parent=process.after_fork_in_parent,
        after_in_child=process.after_fork_in_child,
    )
    # Once more: the interpreter goes on when a hook raises, and a Ctrl-C that comes in one ends it there.
    os.register_at_fork(after_in_parent=process.after_fork_in_parent, after_in_child=process.make_up_in_child)
