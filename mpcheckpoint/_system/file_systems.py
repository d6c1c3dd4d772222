"""Which file systems hold a store well, and which do not: the one table, by the names that systems give them.

There are three kinds. A **local** one locks in the kernel, for all processes of this machine, and its syncs reach the
disk. A **remote** one is reached over a network, shared by a cluster, or passes on what another system keeps: its locks
are emulated, local to one of several machines, or granted twice, and its syncs end in a cache elsewhere. All others are
unknown.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

if sys.platform == "darwin":
    from mpcheckpoint._system.macos import mount_of
else:
    from mpcheckpoint._system.linux import mount_of

if TYPE_CHECKING:
    from mpcheckpoint._system.mount import Mount

Kind = Literal["local", "remote", "unknown"]

_DISKS = "bcachefs btrfs ext2 ext3 ext4 f2fs jfs nilfs2 reiser4 reiserfs xfs zfs"
_OF_OTHER_SYSTEMS = "apfs exfat hfs hfsplus minix msdos ntfs ntfs3 udf ufs vfat"
_FLASH = "jffs2 ubifs yaffs yaffs2"
# Nothing there survives a loss of power; `doctor` says so.
_MEMORY = "devtmpfs ramfs rootfs tmpfs"
# Writes go to an upper layer that one machine has for itself.
_LAYERS = "aufs fuse.fuse-overlayfs overlay"
# Programs with a block device below them: ntfs-3g, exfat-fuse.
_PROGRAMS = "fuseblk"
# Stores there can only be read.
_READ_ONLY = "cramfs erofs iso9660 romfs squashfs"
LOCAL = frozenset(
    f"{_DISKS} {_OF_OTHER_SYSTEMS} {_FLASH} {_MEMORY} {_LAYERS} {_PROGRAMS} {_READ_ONLY}".split()
)

# Without the prefix "fuse." that many of them get when a program mounts them.
_SERVERS = (
    "9p afpfs afs auristorfs cifs coda curlftpfs davfs davfs2 ftp gvfsd-fuse ncpfs nfs nfs4 smb3 smbfs sshfs "
    "webdav"
)
# flock is local to a machine, or emulated, unless each machine mounts it for that.
_CLUSTERS = (
    "acfs beegfs beegfs_nodev ceph ceph-fuse cvfs cxfs dvs gfs gfs2 glusterfs gpfs ibrix lizardfs lustre mfs moosefs "
    "ocfs2 orangefs panfs pvfs2 quobyte saunafs seaweedfs snfs wekafs"
)
# An append writes the whole file anew.
_OBJECT_STORES = (
    "alluxio alluxio-fuse blobfuse blobfuse2 fuse_dfs gcsfuse geesefs goofys juicefs mount-s3 mountpoint-s3 "
    "objectivefs rclone s3fs s3ql"
)
# Kept, and locked for itself, by the kernel of the machine around this one.
_PASSED_ON = "drvfs fakeowner grpcfuse hostfs osxfs prl_fs prl_fsd vboxsf virtiofs vmhgfs vmhgfs-fuse wslfs"
REMOTE = frozenset(f"{_SERVERS} {_CLUSTERS} {_OBJECT_STORES} {_PASSED_ON}".split())
_FUSE = "fuse"


def network_file_system(path: str) -> str | None:
    """Return the name of the file system that holds ``path`` if it is remote, else None."""
    return _name_if(path, "remote")


def unknown_file_system(path: str) -> str | None:
    """Return the name of the file system that holds ``path`` if it is unknown; None also if the system names none."""
    return _name_if(path, "unknown")


def _name_if(path: str, kind: Kind) -> str | None:
    mount = mount_of(path)
    if mount is None or file_system_kind(mount) != kind:
        return None
    return f"{mount.kind} ({mount.source})" if mount.kind == _FUSE else mount.kind


def file_system_kind(mount: Mount) -> Kind:
    """Return what is known of the file system of a mount.

    A program that mounts without a name of its own is listed as "fuse"; some of these give their name as the device.
    """
    if mount.is_called_remote:
        return "remote"
    if mount.kind in LOCAL:
        return "local"
    name = mount.kind.removeprefix(f"{_FUSE}.")
    program = mount.source.partition(":")[0].lower() if mount.kind == _FUSE else name
    if name in REMOTE or program in REMOTE:
        return "remote"
    return "unknown"
