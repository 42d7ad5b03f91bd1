# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The journal: the changes since the last sync point, which a crash would lose. Pure: numbers and bytes, no file
system.

A file has a number in the journal (``fid``). A change of content has the old bytes and the new ones. A change of names
is a set of directory entries that change together. Such a change can only be on the disk if the changes below it are,
or after a sync of all its directories. A change of attributes has the old and the new value of each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
#: A directory entry: the directory's fid and the name.
Key = tuple[int, bytes]
#: ``mode``, ``uid``, ``gid``, ``atime_ns``, ``mtime_ns``, or in bytes the name of an extended attribute, whose value is
#: None if missing.
Attribute = str | bytes


@dataclass(eq=False)
class Content:
    """A change of content: *new* replaces *old* at *offset* in a file of *size* bytes; *cut* is the size after a
    truncate.
    """

    seq: int
    fid: int
    offset: int
    new: bytes
    old: bytes
    size: int
    cut: int | None = None
    #: The change is on the disk. The journal keeps it, because an older change isn't.
    durable: bool = False
    #: The change is never on the disk, because a failed fsync has dropped it.
    lost: bool = False

    @property
    def weight(self) -> int:
        return len(self.new) + len(self.old)


@dataclass(eq=False)
class Names:
    """Directory entries that changed together: by key, the fid before and the fid after."""

    seq: int
    op: str
    changes: tuple[tuple[Key, int | None, int | None], ...]
    #: A sync of any file followed. A file system that keeps names in order, like a journaling one, has the change on
    #: disk.
    journaled: bool = False
    #: The directories with a later sync.
    synced: set[int] = field(default_factory=set)

    @property
    def durable(self) -> bool:
        return all(key[0] in self.synced for key, _unused, _unused in self.changes)


@dataclass(eq=False)
class Attributes:
    """Attributes of a file that changed together: by name, the value before and the value after."""

    seq: int
    fid: int
    op: str
    changes: tuple[tuple[Attribute, object, object], ...]
    #: As for names.
    journaled: bool = False
    #: An fsync of the file followed.
    durable: bool = False


Change = Content | Names | Attributes


class Journal:
    """The journal. *limit* is its upper bound in bytes, and *length* in changes. Beyond, the oldest count as written
    back.
    """

    def __init__(self, limit: int = 256 << 20, length: int = 10_000) -> None:
        self.limit = limit
        self.length = length
        self.changes: list[Change] = []
        self.weight = 0
        #: Number of changes that count as durable only for lack of room.
        self.written_back = 0
        self._next = 1

    def content(
        self, fid: int, offset: int, new: bytes, old: bytes, size: int, cut: int | None = None, *, durable: bool = False
    ) -> None:
        """Record a write, or with *cut* a truncate."""
        change = Content(self._next, fid, offset, new, old, size, cut, durable)
        self._next += 1
        if durable and not any(isinstance(other, Content) and other.fid == fid for other in self.changes):
            return
        self.changes.append(change)
        self.weight += change.weight
        self._write_back()

    def names(self, op: str, *changes: tuple[Key, int | None, int | None]) -> None:
        self.changes.append(Names(self._next, op, changes))
        self._next += 1
        self._write_back()

    def attributes(self, fid: int, op: str, *changes: tuple[Attribute, object, object]) -> None:
        self.changes.append(Attributes(self._next, fid, op, changes))
        self._next += 1
        self._write_back()

    def sync(self, fid: int, data_only: bool = False) -> None:
        """Record an fsync of a file, or with *data_only* an fdatasync(2).

        Its content is durable, and after an fsync its attributes. In a journaling file system all earlier names and
        attributes are durable, too.
        """
        for change in self.changes:
            if not isinstance(change, Content):
                change.journaled = True
                if isinstance(change, Attributes) and change.fid == fid and not data_only:
                    change.durable = True
            elif change.fid == fid and not change.lost:
                change.durable = True
        self._prune()

    def sync_directory(self, fid: int) -> None:
        """Record an fsync of a directory: its names and its attributes are durable."""
        for change in self.changes:
            if not isinstance(change, Content):
                change.journaled = True
                if isinstance(change, Names):
                    change.synced.add(fid)
                elif change.fid == fid:
                    change.durable = True
        self._carry_moves()
        self._prune()

    def _carry_moves(self) -> None:
        """Make older changes durable whose entries a durable rename has moved away."""
        moved: set[tuple[Key, int | None]] = set()
        for change in reversed(self.changes):
            if isinstance(change, Names):
                if any((key, new) in moved for key, _old, new in change.changes):
                    _settle(change)
                if change.durable:
                    placed = {new for _key, _old, new in change.changes}
                    moved.update((key, old) for key, old, _new in change.changes if old is not None and old in placed)

    def sync_all(self) -> int:
        """Make all changes durable except lost ones. Return the number of newly durable ones."""
        settled = sum(_settle(change) for change in self.changes)
        self._prune()
        return settled

    def forget(self, fid: int) -> None:
        """Mark the dirty pages of a file as lost after a failed fsync, as in Linux."""
        for change in self.changes:
            if isinstance(change, Content) and change.fid == fid and not change.durable:
                change.lost = True

    def _prune(self) -> None:
        """Drop durable changes that no other change can hide."""
        held: set[int | Key] = set()
        kept: list[Change] = []
        for change in self.changes:
            touched: set[int | Key] = set()
            if isinstance(change, Content):
                touched = {change.fid}
            elif isinstance(change, Names):
                touched = {key for key, _unused, _unused in change.changes}
            if not change.durable or touched & held:
                held |= touched
                kept.append(change)
        self.changes = kept
        self._weigh()

    def _weigh(self) -> None:
        self.weight = sum(change.weight for change in self.changes if isinstance(change, Content))

    def _write_back(self) -> None:
        if self.weight <= self.limit and len(self.changes) <= self.length:
            return
        # Drop a quarter at once, because dropping for every change would be slow.
        bytes_left, changes_left = self.limit * 3 // 4, self.length * 3 // 4
        weight, count = self.weight, len(self.changes)
        for change in self.changes:
            if weight <= bytes_left and count <= changes_left:
                break
            count -= 1
            if isinstance(change, Content):
                weight -= change.weight
            self.written_back += _settle(change)
        self._prune()

    def pending(self, names: str) -> list[Change]:
        """Return the changes that may be missing on the disk.

        *names*: names and attributes are durable at once (none), kept in order (ordered), or only durable after an
        fsync of their directory or file (strict).
        """
        return [
            change
            for change in self.changes
            if not change.durable
            and (
                not change.lost
                if isinstance(change, Content)
                else names == "strict" or (names == "ordered" and not change.journaled)
            )
        ]


def _settle(change: Change) -> bool:
    """Make *change* durable unless it is lost. Return True if it wasn't durable before."""
    if change.durable or (isinstance(change, Content) and change.lost):
        return False
    if isinstance(change, Names):
        change.synced.update(key[0] for key, _unused, _unused in change.changes)
    else:
        change.durable = True
    return True


__all__ = ["Attribute", "Attributes", "Change", "Content", "Journal", "Key", "Names"]
