"""Who may use a file or directory: its owner, group, permission bits and access control lists (POSIX ACLs).

Linux keeps ACLs in extended attributes. Where a file system, or the operating system, has none, there are none to copy.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

# How a file system, a kernel or a name space refuses a change: then the file stays as it is.
_REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EDQUOT, errno.ENODATA}
)
_ACL, _DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"
# linux/posix_acl_xattr.h: a version, then the entries: what each is about, what it allows, to whom.
_ACL_VERSION, _ACL_ENTRY, _VERSION = struct.Struct("<I"), struct.Struct("<HHI"), 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_WRITE, _EXECUTE = 2, 1
_GROUP_CLASS = frozenset({_USER, _GROUP_OBJ, _GROUP})
# The number in entries that name no user or group.
_UNNAMED = 0xFFFFFFFF


class Access(NamedTuple):
    """Who may do what with a file or directory.

    Attributes:
        uid, gid: its owner and its group.
        mode: its permission bits, with setuid, setgid and sticky. With an ACL, the bits of the group are its mask.
        acl: its access control list, as the system keeps it; None if there are only permission bits.
        default_acl: of a directory, the list that new files in it begin with.
    """

    uid: int
    gid: int
    mode: int
    acl: bytes | None = None
    default_acl: bytes | None = None


class AclEntry(NamedTuple):
    """One entry of an ACL: ``tag`` says what ``whom`` is; ``allowed`` is 4 for read, 2 for write, 1 for run."""

    tag: int
    allowed: int
    whom: int


def access_of(file: int | str) -> Access:
    """Return who may use an open file, or what stands at a path; of a symbolic link, the link itself."""
    status = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    default_acl = _acl_of(file, _DEFAULT_ACL) if stat.S_ISDIR(status.st_mode) else None
    return Access(
        status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), _acl_of(file, _ACL), default_acl
    )


def give_access(file: int | str, access: Access) -> Access:
    """Give an open file, or a directory, this access as far as we may; return the access it then has.

    Only root may give a file to another user; other users may give it only to a group that they are in.

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
    if has.acl != access.acl:
        _set_acl(fd, _ACL, access.acl)
    if has.default_acl != access.default_acl:
        _set_acl(fd, _DEFAULT_ACL, access.default_acl)
    if access_of(fd).mode != access.mode:
        _try(lambda: os.fchmod(fd, access.mode))
    return access_of(fd)


# Return the user that this process acts as.
user_id = os.geteuid


def account_name(uid: int) -> str:
    """Return how messages call a user: by its name, if the system knows one, and its number."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (KeyError, OverflowError):
        return f"uid {uid}"


def locked_out(before: Access, after: Access) -> str | None:
    """Return who may write ``before`` and could not write ``after``, in words; None if nobody."""
    is_other = before.uid != after.uid
    if is_other and _user_may_write(before.uid, before) and not _user_may_write(before.uid, after):
        return account_name(before.uid)
    if after.mode & 0o002:
        return None  # everybody may write it
    if _group_may_write(before, before.gid) and not _group_may_write(after, before.gid):
        return f"the group {before.gid}"
    if not _named_writers(before) <= _named_writers(after):
        return "somebody in its access control list"
    return None


def _user_may_write(uid: int, access: Access) -> bool:
    """Return whether a user may write.

    The groups of a user without an account here, as in many containers, are unknown: it counts as one of the file's.
    """
    entries = _entries_of(access)
    mask = _mask_of(entries)
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


def _group_may_write(access: Access, gid: int) -> bool:
    """Return whether a group may write: as the file's own, or because the ACL names it."""
    if (_GROUP, gid) in _named_writers(access):
        return True
    entries = _entries_of(access) if gid == access.gid else []
    return bool(_first(entries, _GROUP_OBJ) & _mask_of(entries) & _WRITE)


def _named_writers(access: Access) -> frozenset[tuple[int, int]]:
    """Return the users and groups that an ACL names and that may write, each as tag and number."""
    entries = _entries_of(access)
    allowed = _mask_of(entries) & _WRITE
    return frozenset(
        (entry.tag, entry.whom)
        for entry in entries
        if entry.tag in (_USER, _GROUP) and entry.allowed & allowed
    )


def naming_all(access: Access) -> Access:
    """Return the same access with entries that name the owner and the group, for a file that cannot be theirs."""
    entries = _entries_of(access)
    mask = _mask_of(entries)
    named = {
        (_USER, access.uid): AclEntry(_USER, _first(entries, _USER_OBJ), access.uid),
        (_GROUP, access.gid): AclEntry(_GROUP, _first(entries, _GROUP_OBJ) & mask, access.gid),
    }
    # What the mask forbade stays forbidden, whatever the new mask has to allow. The new file has another group, to
    # which nobody has given anything.
    others = [
        entry._replace(allowed=0 if entry.tag == _GROUP_OBJ else entry.allowed & mask)
        if entry.tag in _GROUP_CLASS
        else entry
        for entry in entries
        if entry.tag != _MASK and (entry.tag, entry.whom) not in named
    ]
    wanted = [*others, *named.values()]
    new_mask = 0
    for entry in wanted:
        new_mask |= entry.allowed if entry.tag in _GROUP_CLASS else 0
    wanted.append(AclEntry(_MASK, new_mask, _UNNAMED))
    acl = _ACL_VERSION.pack(_VERSION)
    for entry in sorted(wanted, key=lambda entry: (entry.tag, entry.whom)):
        acl += _ACL_ENTRY.pack(entry.tag, entry.allowed, entry.whom)
    return access._replace(acl=acl, mode=access.mode & ~0o070 | new_mask << 3)


def without_execute(acl: bytes | None) -> bytes | None:
    """Return the ACL of a directory as an ACL for files in it."""
    if acl is None:
        return None
    entries = _entries_in(acl)
    data = b"".join(_ACL_ENTRY.pack(tag, allowed & ~_EXECUTE, whom) for tag, allowed, whom in entries)
    return acl[: _ACL_VERSION.size] + data


def _entries_of(access: Access) -> list[AclEntry]:
    """Return the entries of an ACL, or those that say the same as the permission bits."""
    if access.acl is not None:
        return _entries_in(access.acl)
    tags = ((_USER_OBJ, 6), (_GROUP_OBJ, 3), (_OTHER, 0))
    return [AclEntry(tag, access.mode >> shift & 7, _UNNAMED) for tag, shift in tags]


def _entries_in(acl: bytes) -> list[AclEntry]:
    body = acl[_ACL_VERSION.size :]
    whole = len(body) - len(body) % _ACL_ENTRY.size
    return [AclEntry(*each) for each in _ACL_ENTRY.iter_unpack(body[:whole])]


def _mask_of(entries: list[AclEntry]) -> int:
    return next((entry.allowed for entry in entries if entry.tag == _MASK), 7)


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
