"""The images that a disk may hold after a loss of power: all of them, or a seeded sample."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING

from mpcheckpoint._format.control import MAX_HEADER_BYTES, Header, parse_header
from mpcheckpoint._format.names import LOG_SUFFIX
from mpcheckpoint._logfile.page import generation_in, rebound
from mpcheckpoint._system import path_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mpcheckpoint.testing._simulation.medium import DirectoryOnDisk, FileOnDisk

# How much of what was not synced survives in a sampled image: a little, half, or almost all of it.
_LIKELIHOODS = (0.05, 0.5, 0.95)
_TRIES_AN_IMAGE = 4

Content = dict[str, "bytes | None"]


@dataclass(frozen=True)
class DiskImage:
    """What a disk holds after a crash.

    Attributes:
        number: its index among the images. Number 0 has all that was written: what the death of a process leaves.
            Number 1 has nothing that was not synced.
        content: the bytes of each file by its path below the root; None for a directory.
    """

    number: int
    content: Content

    def write_to(self, place: Path) -> None:
        """Create ``place``, and in it what this image holds."""
        place.mkdir(parents=True)
        fill(place, self.content)


def fill(place: Path, content: Content) -> None:
    """Put files and directories into an empty directory."""
    for path, data in sorted(content.items()):
        if data is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(data)
    _keep_identities(place)


def _keep_identities(place: Path) -> None:
    """Let each page of hints below ``place`` vouch for its log as it did before.

    A loss of power gives no file another inode. But these files were made anew, and the page would take them for
    copies.
    """
    for page in place.rglob("*.page"):
        log = page.with_suffix(LOG_SUFFIX)
        if page.is_file() and log.is_file():
            data = page.read_bytes()
            header = parse_header(log.read_bytes()[:MAX_HEADER_BYTES])
            if isinstance(header, Header) and header.generation == generation_in(data):
                page.write_bytes(rebound(data, path_status(str(log))))


class Choices:
    """What may have reached the disk: for each unsynced part by itself, the number of its alternatives."""

    def __init__(
        self, root: int, files: Mapping[int, FileOnDisk], directories: Mapping[int, DirectoryOnDisk]
    ) -> None:
        self._root = root
        self._files = files
        self._directories = directories
        self._parts: list[tuple[int, int]] = []
        self.alternatives: list[int] = []
        for inode, directory in directories.items():
            self._add(inode, [2] * len(directory.changes))
        for inode, file in files.items():
            sizes, sectors = file.choices()
            self._add(inode, [len(sizes), *map(len, sectors)])

    def _add(self, inode: int, alternatives: list[int]) -> None:
        self._parts.append((inode, len(alternatives)))
        self.alternatives += alternatives

    def content(self, chosen: tuple[int, ...]) -> Content:
        """Return the files and directories that are there if these alternatives have reached the disk."""
        numbers = iter(chosen)
        of_inode = {inode: tuple(islice(numbers, count)) for inode, count in self._parts}
        content: Content = {}
        self._collect(content, "", self._root, of_inode)
        return content

    def _collect(
        self, content: Content, prefix: str, inode: int, chosen: Mapping[int, tuple[int, ...]]
    ) -> None:
        entries = self._directories[inode].with_changes([bool(choice) for choice in chosen[inode]])
        for name, child in entries.items():
            path = prefix + name
            if child in self._directories:
                content[path] = None
                self._collect(content, f"{path}/", child, chosen)
            else:
                sizes, sectors = self._files[child].choices()
                size, *versions = chosen[child]
                content[path] = self._files[child].content(
                    sizes[size], (sector[version] for sector, version in zip(sectors, versions, strict=True))
                )


def images(choices: Choices, *, limit: int, seed: int) -> Iterator[DiskImage]:
    """Yield at most ``limit`` different images: all if they are so few, else a sample that ``seed`` chooses."""
    seen: set[int] = set()
    for content in islice(
        map(choices.content, _chosen(choices.alternatives, limit, seed)), limit * _TRIES_AN_IMAGE + 2
    ):
        digest = hash(tuple(sorted(content.items(), key=lambda item: item[0])))
        if digest in seen:
            continue
        yield DiskImage(len(seen), content)
        seen.add(digest)
        if len(seen) == limit:
            return


def _chosen(alternatives: list[int], limit: int, seed: int) -> Iterator[tuple[int, ...]]:
    yield tuple(count - 1 for count in alternatives)
    yield (0,) * len(alternatives)
    if math.prod(alternatives) <= limit * _TRIES_AN_IMAGE:
        yield from product(*map(range, alternatives))
        return
    chance = random.Random(seed)
    while True:
        survives = chance.choice(_LIKELIHOODS)
        yield tuple(_survivor(count, survives, chance) for count in alternatives)


def _survivor(alternatives: int, survives: float, chance: random.Random) -> int:
    if chance.random() < survives:
        return alternatives - 1
    return 0 if chance.random() > survives else chance.randrange(alternatives)
