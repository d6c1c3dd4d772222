"""Which file systems hold a store well, and which do not: the one table, by the names under which systems list them.

Three kinds. A **local** one locks for all processes of this machine, in its kernel, and its syncs reach the disk. A
**remote** one is reached over a network, shared by a cluster, or passes on what another system keeps: there locks are
emulated, local to one of several machines, or granted twice, and syncs end at somebody else's cache. Of one that is in
neither list nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mpcheckpoint._system.mount import Mount

Kind = Literal["local", "remote", "unknown"]

_DISKS = "bcachefs btrfs ext2 ext3 ext4 f2fs jfs nilfs2 reiser4 reiserfs xfs zfs"
_OF_OTHER_SYSTEMS = "apfs exfat hfs hfsplus minix msdos ntfs ntfs3 udf ufs vfat"
_FLASH = "jffs2 ubifs yaffs yaffs2"
# Nothing there survives a loss of power, which `doctor` says.
_MEMORY = "devtmpfs ramfs rootfs tmpfs"
# What is written goes to an upper layer that one machine has for itself.
_LAYERS = "aufs fuse.fuse-overlayfs overlay"
# A program, with a block device below it: ntfs-3g, exfat-fuse.
_PROGRAMS = "fuseblk"
# No store is made or appended to there.
_READ_ONLY = "cramfs erofs iso9660 romfs squashfs"
LOCAL = frozenset(
    f"{_DISKS} {_OF_OTHER_SYSTEMS} {_FLASH} {_MEMORY} {_LAYERS} {_PROGRAMS} {_READ_ONLY}".split()
)

# Names without "fuse.", under which many are listed when a program mounts them.
_SERVERS = (
    "9p afpfs afs auristorfs cifs coda curlftpfs davfs davfs2 ftp gvfsd-fuse ncpfs nfs nfs4 smb3 smbfs sshfs "
    "webdav"
)
# flock is local to a machine, or emulated, unless each machine mounts it for that.
_CLUSTERS = (
    "acfs beegfs beegfs_nodev ceph ceph-fuse cvfs cxfs dvs gfs gfs2 glusterfs gpfs ibrix lizardfs lustre mfs moosefs "
    "ocfs2 orangefs panfs pvfs2 quobyte saunafs seaweedfs snfs wekafs"
)
# An append writes the whole anew.
_OBJECT_STORES = (
    "alluxio alluxio-fuse blobfuse blobfuse2 fuse_dfs gcsfuse geesefs goofys juicefs mount-s3 mountpoint-s3 "
    "objectivefs rclone s3fs s3ql"
)
# What the kernel of the machine around this one keeps, and locks for itself.
_PASSED_ON = "drvfs fakeowner grpcfuse hostfs osxfs prl_fs prl_fsd vboxsf virtiofs vmhgfs vmhgfs-fuse wslfs"
REMOTE = frozenset(f"{_SERVERS} {_CLUSTERS} {_OBJECT_STORES} {_PASSED_ON}".split())
_FUSE = "fuse"


def named(mount: Mount) -> str:
    """Return what to call the file system of a mount in front of people."""
    return f"{mount.kind} ({mount.source})" if mount.kind == _FUSE else mount.kind


def file_system_kind(mount: Mount) -> Kind:
    """Return what is known of the file system of a mount.

    A program that mounts without a name of its own is listed as "fuse"; some then give theirs as the device.
    """
    if mount.kind in LOCAL:
        return "local"
    name = mount.kind.removeprefix(f"{_FUSE}.")
    program = mount.source.partition(":")[0].lower() if mount.kind == _FUSE else name
    if name in REMOTE or program in REMOTE:
        return "remote"
    return "unknown"
