"""Who may use a new file of a store: the users of the log that it belongs to or replaces.

Several users may share a store, and another one, root for example, may look after it. So a new file gets owner, group,
permission bits and ACL of its log, or of the store's directory, as far as the system lets us; the umask of the process
that makes it does not matter. If a user who may write the log could not use the file, it is not made.

Crash: a file that other users may have to write gets its name once it is theirs. A kill before that leaves a temporary
file, no more.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from typing import TYPE_CHECKING

from mpcheckpoint import _system as system
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.paths import STORE_LOCK, TEMPORARY_SUFFIX
from mpcheckpoint.errors import StoreAccessError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpcheckpoint._system import Access

_TRIES = 100
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
# For this user alone until its owner is set: nobody else can open it in between.
_PRIVATE = 0o600
_SHARED_DIRECTORY, _SHARED_FILE = 0o070, 0o060
_OTHERS_WRITE = 0o022
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}" + re.escape(TEMPORARY_SUFFIX))


def temporary_name(path: str) -> str:
    """Return a name for the file that becomes ``path`` when it is finished."""
    return f"{path}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is unfinished: left by a killed process, or just being made."""
    return _TEMPORARY.fullmatch(name) is not None


# --- files that stay as long as the store --------------------------------------------------------------------


def open_beside_log(path: str) -> system.Descriptor:
    """Open a file that is named like its log, making it for the users of the log if there is none.

    Raises:
        StoreAccessError: a user who may write the log could not use the file. It was not made.
    """
    return _opened(path, lambda: _access_beside(f"{os.path.splitext(path)[0]}{LOG_SUFFIX}"))


def open_in_store(path: str) -> system.Descriptor:
    """Open a file of a store's directory, making it for all who may make files there if there is none."""
    return _opened(path, lambda: _access_inside(os.path.dirname(path)))


def _opened(path: str, wanted: Callable[[], Access]) -> system.Descriptor:
    for _ in range(_TRIES):
        try:
            return system.open_file(path, write=True)
        except FileNotFoundError:
            pass
        made = _made(path, wanted())
        if made is not None:
            return made
    raise OSError(errno.EAGAIN, "it is made and removed again and again", path)


def _access_beside(log: str) -> Access:
    """Return the access for a file that belongs to a log."""
    try:
        access = system.access_of(log)
    except FileNotFoundError:
        return _access_inside(os.path.dirname(log))
    return access._replace(mode=access.mode & 0o666 | _PRIVATE)


def _access_inside(directory: str) -> Access:
    """Return the access for a file in a directory: its users may read and write it as they may the directory."""
    access = system.access_of(directory)
    return system.Access(
        access.uid, access.gid, access.mode & 0o666 | _PRIVATE, system.without_execute(access.acl), None
    )


def _made(path: str, access: Access) -> system.Descriptor | None:
    """Return a new file with this access; None if another process made one meanwhile."""
    if not _is_mine_alone(access):
        try:
            return _published(path, access)
        except OSError as error:
            if isinstance(error, StoreAccessError) or error.errno not in _NO_LINKS:
                raise
            # A file system without hard links has no several users either.
    try:
        made = system.open_file(path, write=True, create=True, exclusive=True, mode=access.mode & 0o777)
    except FileExistsError:
        return None
    system.give_access(made.fd, access)
    return made


def _published(path: str, access: Access) -> system.Descriptor | None:
    temporary = temporary_name(path)
    made = system.open_file(temporary, write=True, create=True, exclusive=True, mode=_PRIVATE)
    try:
        _give(made.fd, access, path)
        return made if system.publish(temporary, path, is_alone=False) else None
    except FileNotFoundError:
        return None  # another process took it for what a killed one left, and removed it
    except BaseException:
        system.remove(temporary)
        raise


def _is_mine_alone(access: Access) -> bool:
    """Return whether only this user may write there: then nobody can be locked out."""
    return access.uid == system.user_id() and not access.mode & _OTHERS_WRITE and access.acl is None


# --- files that replace a log, or keep bytes of it -----------------------------------------------------------


def create_successor(temporary: str, log: str) -> system.Descriptor:
    """Create the file that is to replace a log, for the users of the log.

    Raises:
        StoreAccessError: a user who may write the log could not write the file. Nothing was made.
    """
    return _created(temporary, lambda fd: _give(fd, system.access_of(log), log, is_log=True))


def create_copy(path: str, log: str) -> system.Descriptor:
    """Create a file for bytes of a log, or about it, for the users of the log, as far as the system lets us."""
    return _created(path, lambda fd: system.give_access(fd, _access_beside(log)))


def _created(path: str, share: Callable[[int], object], mode: int = _PRIVATE) -> system.Descriptor:
    """Return a new file once ``share`` has given it to its users; if that fails, remove it."""
    made = system.open_file(path, write=True, create=True, exclusive=True, mode=mode)
    try:
        share(made.fd)
    except BaseException:
        system.remove(path)
        raise
    return made


def _give(file: int | str, access: Access, path: str, *, is_log: bool = False) -> None:
    """Give a file this access; where its owner cannot be changed, let an ACL name the wanted owner and group.

    The ACL will not do for a file that replaces a log: the new owner could lock the first one out.
    """
    given = system.give_access(file, access)
    lost = system.locked_out(access, given)
    if lost is not None and not is_log:
        given = system.give_access(file, system.naming_all(access))
        lost = system.locked_out(access, given)
    if lost is None:
        return
    is_other = given.uid != access.uid
    owner = system.account_name(access.uid) if is_other else f"a member of the group {access.gid}"
    me = system.account_name(given.uid)
    raise StoreAccessError(
        f"{path} would be a new file of {me}, which {lost} could not write. Nothing was changed; run this as {owner}, "
        "or as root",
        path=path,
        reason=f"{lost} would be locked out",
    )


# --- new logs and directories --------------------------------------------------------------------------------


def create_log(temporary: str, directory: str) -> system.Descriptor:
    """Create the file of a new log, for the user who makes it and for owner and group of the store's directory.

    If the directory lets its group make files, the group may write the log, whatever the umask. A log that root makes
    belongs to the owner of the directory.
    """

    def share(fd: int) -> None:
        _share(fd, _access_of_new(system.access_of(fd), system.access_of(directory), _SHARED_FILE))

    return _created(temporary, share, mode=0o666)


def create_log_like(temporary: str, directory: str, log: str) -> system.Descriptor:
    """Create the file of a new log for the users of a log of another directory, as far as the system lets us.

    If the directories have different owners, and the log belongs to that of its own, or to this user, as what root has
    copied does, then the new one is for those who may use the new directory.
    """
    like, here = _access_beside(log), system.access_of(directory)
    there = system.access_of(os.path.dirname(log))
    if here.uid == there.uid or like.uid not in (there.uid, system.user_id()):
        return create_copy(temporary, log)
    if here.default_acl is not None:
        return create_log(temporary, directory)
    return _created(temporary, lambda fd: _share(fd, _access_of_new(like, here, _SHARED_FILE)))


def _share(fd: int, wanted: Access) -> None:
    if system.locked_out(wanted, system.give_access(fd, wanted)) is not None:
        system.give_access(fd, system.naming_all(wanted))


def _access_of_new(has: Access, of: Access, shared: int) -> Access:
    """Return the access for a new file that ``has`` an access now and lies in a directory with the access ``of``."""
    is_shared = of.mode & _SHARED_DIRECTORY == _SHARED_DIRECTORY
    gid = of.gid if is_shared or of.uid != has.uid else has.gid
    if of.default_acl is not None:  # the system has applied it already
        return has._replace(uid=of.uid, gid=gid)
    acl, mode = has.acl, has.mode | (shared if is_shared else 0)
    if of.acl is not None:
        acl = of.acl if shared == _SHARED_DIRECTORY else system.without_execute(of.acl)
        mode = has.mode & ~_SHARED_DIRECTORY | of.mode & shared
    return system.Access(of.uid, gid, mode, acl, has.default_acl)


def leave_to_store(fd: int, directory: str) -> None:
    """Give an open file that no other user has to write to those who may make files in ``directory``."""
    system.give_access(fd, _access_inside(directory))


def make_store_directory(path: str, users: Access | None = None) -> bool:
    """Make the directory of a new store, as `create_log` makes a log; return False if something stands there.

    Args:
        users: whose it is to be; see ``users_of_new_directory``. None: of those who may use the one that it lies in.
    """
    of = system.access_of(os.path.dirname(path))
    # In /tmp and its like, what a user makes belongs to that user.
    is_mine = _is_mine_alone(of) or bool(of.mode & stat.S_ISVTX)
    if users is not None and users.uid == system.user_id() and not is_mine:
        # What this user made, a copy of another's perhaps, tells of nobody else: it is left to who has the place.
        users = None
    if users is None and is_mine:
        return system.make_directory(path)

    def prepare(temporary: str) -> None:
        has = system.access_of(temporary)
        system.give_access(temporary, users or _access_of_new(has, of, _SHARED_DIRECTORY))
        # No store directory is ever empty: a rename would replace an empty one, which another process may know by
        # inode.
        open_in_store(os.path.join(temporary, STORE_LOCK)).close()

    return _moved_in(path, prepare)


def users_of_new_directory(like: str) -> Access:
    """Return the access for a new directory that is for the users of another one, be that closed to all writing."""
    access = system.access_of(like)
    return access._replace(mode=access.mode | stat.S_IRWXU)


def make_directory_for(path: str, users: Access) -> bool:
    """Make a directory that a store's is to lie in, for these users; return False if something stands there.

    Crash: it is there, and this user's.
    """
    if not system.make_directory(path):
        return False
    system.give_access(path, users)
    return True


def missing_directories(path: str) -> list[str]:
    """Return which directories are to be made for ``path``, itself first; none if it stands there."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def make_directory_inside(path: str) -> bool:
    """Make a directory in that of a store, for the same users; return False if something stands there.

    Raises:
        StoreAccessError: a user who may make files in the store's directory could not in this one. It was not made.
    """
    if system.exists(path):
        return False
    of = system.access_of(os.path.dirname(path))
    if _is_mine_alone(of):
        if not system.make_directory(path):
            return False
        system.give_access(path, of)
        return True

    def prepare(temporary: str) -> None:
        has = system.access_of(temporary)
        is_given = of.default_acl is not None  # the system has done all but the owner
        _give(temporary, has._replace(uid=of.uid, gid=of.gid) if is_given else of, path)

    return _moved_in(path, prepare)


def _moved_in(path: str, prepare: Callable[[str], None]) -> bool:
    """Make a directory under another name, and rename it when it is prepared; False if something stands there."""
    for _ in range(_TRIES):
        if system.exists(path):
            return False
        temporary = temporary_name(path)
        system.make_directory(temporary)
        try:
            prepare(temporary)
            system.replace(temporary, path)
        except FileNotFoundError:
            continue  # another process took it for what a killed one left, and removed it
        except BaseException as error:
            system.remove(os.path.join(temporary, STORE_LOCK))
            system.remove_directory(temporary)
            if isinstance(error, OSError) and error.errno in _TAKEN:
                return False
            raise
        return True
    raise OSError(errno.EAGAIN, "it is made and removed again and again", path)
