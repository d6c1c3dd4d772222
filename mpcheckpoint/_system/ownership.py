"""Who may use a file or directory: its owner, group, permission bits and access control lists (POSIX ACLs).

Looked up, and given to another file. Linux keeps ACLs in extended attributes; where a file system, or a system, has
none, there is nothing to copy.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# What a file system, a kernel or a name space answers that does not let us: then it stays as it is.
_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EDQUOT, errno.ENODATA}
)
_ACL, _DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
# linux/posix_acl_xattr.h: a version, then an entry after the other: what it is about, what is allowed, to whom.
_ACL_VERSION, _ACL_ENTRY, _VERSION = struct.Struct("<I"), struct.Struct("<HHI"), 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_WRITE, _EXECUTE = 2, 1
_GROUP_CLASS = frozenset({_USER, _GROUP_OBJ, _GROUP})
# Of entries about nobody by number.
_UNNAMED = 0xFFFFFFFF


class Access(NamedTuple):
    """Who may do what with a file or directory.

    Attributes:
        uid, gid: its owner and its group.
        mode: its permission bits, with setuid, setgid and sticky. Where there is an ACL, the bits of the group are
            the mask of that.
        acl: its access control list, as the system keeps it; None if there are only permission bits.
        default_acl: of a directory, the list that new files in it begin with.
    """

    uid: int
    gid: int
    mode: int
    acl: bytes | None = None
    default_acl: bytes | None = None


class AclEntry(NamedTuple):
    """One line of a list of who may do what: ``tag`` says what ``whom`` is; ``allowed`` is 4 read, 2 write, 1 run."""

    tag: int
    allowed: int
    whom: int


def access_of(file: int | str) -> Access:
    """Return who may use an open file, or what stands at a path; of a symbolic link, the link itself."""
    status = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    is_directory = stat.S_ISDIR(status.st_mode)
    return Access(
        status.st_uid,
        status.st_gid,
        stat.S_IMODE(status.st_mode),
        _acl_of(file, _ACL),
        _acl_of(file, _DEFAULT_ACL) if is_directory else None,
    )


def give_access(file: int | str, access: Access) -> Access:
    """Have an open file, or a directory, used by those who may use another one; return who may use it then.

    What this user may not give stays as it was: only root gives files away, and only to a group of one's own does
    anybody else give them.

    Raises:
        OSError: the system fails, which is no refusal.
    """
    if isinstance(file, int):
        return _give(file, access)
    fd = os.open(file, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return _give(fd, access)
    finally:
        os.close(fd)


def _give(fd: int, access: Access) -> Access:
    has = access_of(fd)
    if has == access:
        return has
    # The owner first: a change of it takes setuid and setgid away.
    if has.uid != access.uid:
        _try(lambda: os.fchown(fd, access.uid, access.gid))
    if has.gid != access.gid:
        _try(lambda: os.fchown(fd, -1, access.gid))
    for name, wanted, there in (
        (_ACL, access.acl, has.acl),
        (_DEFAULT_ACL, access.default_acl, has.default_acl),
    ):
        if wanted != there:
            _set_acl(fd, name, wanted)
    if access_of(fd).mode != access.mode:
        _try(lambda: os.fchmod(fd, access.mode))
    return access_of(fd)


def user_id() -> int:
    """Return the user that this process acts as."""
    return os.geteuid()


def account_name(uid: int) -> str:
    """Return what people call a user: its name, if the system knows one, and its number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (KeyError, OverflowError):
        return f"uid {uid}"


def may_write(uid: int, access: Access) -> bool:
    """Return whether a user may write a file that these may use.

    Of a user without an account here, as in many containers, the groups are not known: it counts as one of the file's.
    """
    entries = entries_of(access)
    mask = next((entry.allowed for entry in entries if entry.tag == _MASK), _WRITE)
    if uid == 0:
        return True
    if uid == access.uid:
        return bool(_first(entries, _USER_OBJ) & _WRITE)
    named = [entry.allowed for entry in entries if entry.tag == _USER and entry.whom == uid]
    if named:
        return bool(named[0] & mask & _WRITE)
    groups = _groups_of(uid)
    of_groups = [
        entry.allowed
        for entry in entries
        if (entry.tag == _GROUP_OBJ and (groups is None or access.gid in groups))
        or (entry.tag == _GROUP and groups is not None and entry.whom in groups)
    ]
    if of_groups:
        return any(allowed & mask & _WRITE for allowed in of_groups)
    return bool(_first(entries, _OTHER) & _WRITE)


def group_may_write(access: Access, gid: int) -> bool:
    """Return whether a group may write a file: as its own, or as one that its ACL names."""
    if (_GROUP, gid) in named_writers(access):
        return True
    entries = entries_of(access) if gid == access.gid else []
    mask = next((entry.allowed for entry in entries if entry.tag == _MASK), _WRITE)
    return bool(_first(entries, _GROUP_OBJ) & mask & _WRITE)


def named_writers(access: Access) -> frozenset[tuple[int, int]]:
    """Return which users and groups an ACL names that may write, each as what it is and its number."""
    entries = entries_of(access)
    mask = next((entry.allowed for entry in entries if entry.tag == _MASK), _WRITE)
    named = [entry for entry in entries if entry.tag in (_USER, _GROUP) and entry.allowed & mask & _WRITE]
    return frozenset((entry.tag, entry.whom) for entry in named)


def naming_all(access: Access) -> Access:
    """Return the same access with entries that name the owner and the group, for a file that cannot be theirs."""
    entries = entries_of(access)
    mask = next((entry.allowed for entry in entries if entry.tag == _MASK), 7)
    named = {
        (_USER, access.uid): AclEntry(_USER, _first(entries, _USER_OBJ), access.uid),
        (_GROUP, access.gid): AclEntry(_GROUP, _first(entries, _GROUP_OBJ) & mask, access.gid),
    }
    # What the mask forbade stays forbidden, whatever the new one has to let through. The group of the new file is
    # another one, to which nobody has given anything.
    others = [
        entry._replace(allowed=0 if entry.tag == _GROUP_OBJ else entry.allowed & mask)
        if entry.tag in _GROUP_CLASS
        else entry
        for entry in entries
        if entry.tag != _MASK and (entry.tag, entry.whom) not in named
    ]
    lets_through = 0
    for entry in (*others, *named.values()):
        lets_through |= entry.allowed if entry.tag in _GROUP_CLASS else 0
    acl = _ACL_VERSION.pack(_VERSION)
    for entry in sorted([*others, *named.values(), AclEntry(_MASK, lets_through, _UNNAMED)], key=_place):
        acl += _ACL_ENTRY.pack(entry.tag, entry.allowed, entry.whom)
    return access._replace(acl=acl, mode=access.mode & ~0o070 | lets_through << 3)


def _place(entry: AclEntry) -> tuple[int, int]:
    return entry.tag, entry.whom


def everybody_may_write(access: Access) -> bool:
    """Return whether those may write a file who neither own it nor are of its group."""
    return bool(access.mode & 0o002)


def without_execute(acl: bytes | None) -> bytes | None:
    """Return the ACL of a directory as one for files in it."""
    if acl is None:
        return None
    entries = _entries_in(acl)
    data = b"".join(_ACL_ENTRY.pack(tag, allowed & ~_EXECUTE, whom) for tag, allowed, whom in entries)
    return acl[: _ACL_VERSION.size] + data


def entries_of(access: Access) -> list[AclEntry]:
    """Return who may do what with a file, from its ACL or from its permission bits."""
    if access.acl is not None:
        return _entries_in(access.acl)
    tags = ((_USER_OBJ, 6), (_GROUP_OBJ, 3), (_OTHER, 0))
    return [AclEntry(tag, access.mode >> shift & 7, _UNNAMED) for tag, shift in tags]


def _entries_in(acl: bytes) -> list[AclEntry]:
    body = acl[_ACL_VERSION.size :]
    whole = len(body) - len(body) % _ACL_ENTRY.size
    return [AclEntry(*each) for each in _ACL_ENTRY.iter_unpack(body[:whole])]


def _first(entries: list[AclEntry], tag: int) -> int:
    return next((entry.allowed for entry in entries if entry.tag == tag), 0)


def _groups_of(uid: int) -> frozenset[int] | None:
    try:
        account = pwd.getpwuid(uid)
        return frozenset(os.getgrouplist(account.pw_name, account.pw_gid))
    except (KeyError, OverflowError, OSError):
        return None


def _acl_of(file: int | str, name: str) -> bytes | None:
    if sys.platform != "linux":
        return None
    try:
        return os.getxattr(file, name, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno in _REFUSED:
            return None
        raise


def _set_acl(fd: int, name: str, acl: bytes | None) -> None:
    if sys.platform == "linux":
        if acl is None:
            _try(lambda: os.removexattr(fd, name))
        else:
            _try(lambda: os.setxattr(fd, name, acl))


def _try(change: Callable[[], object]) -> None:
    try:
        change()
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
