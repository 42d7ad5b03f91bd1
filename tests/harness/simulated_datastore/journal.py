# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""What a crash would lose: the changes since the last sync point. Pure: numbers and bytes, no file system.

A file is known by a number of ours (``fid``). A change of content remembers the old bytes and the new ones. A change of
names is a set of directory entries that change together; it can only have reached the disk if what it builds on has, or
by a sync of all its directories. A change of attributes has each one's old and new value.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
#: A directory entry: the directory's fid and the name.
Key = tuple[int, bytes]
#: ``mode``, ``uid``, ``gid``, ``atime_ns``, ``mtime_ns``, or the name of an extended attribute, in bytes, whose value
#: is None where there is none.
Attribute = str | bytes


@dataclass(eq=False)
class Content:
    """*new* has replaced *old* at *offset*; the file was *size* bytes long before, and is cut to or extended to *cut*
    (truncate) if that isn't None.
    """

    seq: int
    fid: int
    offset: int
    new: bytes
    old: bytes
    size: int
    cut: int | None = None
    #: It is on the disk in any case, and here only because an older change isn't.
    durable: bool = False
    #: Will never be on the disk: a failed fsync has forgotten it.
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
    #: A sync of anything came later: on the disk where names are kept in order, as in a journal.
    journaled: bool = False
    #: The directories that were synced later.
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
    #: As of names.
    journaled: bool = False
    #: The file was fsynced later.
    durable: bool = False


Change = Content | Names | Attributes


class Journal:
    """The log. *limit* is how many bytes it may hold before the oldest changes count as written back, *length* how many
    changes.
    """

    def __init__(self, limit: int = 256 << 20, length: int = 10_000) -> None:
        self.limit = limit
        self.length = length
        self.changes: list[Change] = []
        self.weight = 0
        #: How many changes count as on the disk only for lack of room here.
        self.written_back = 0
        self._next = 1

    def content(
        self, fid: int, offset: int, new: bytes, old: bytes, size: int, cut: int | None = None, *, durable: bool = False
    ) -> None:
        """A write, or with *cut* a truncate."""
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
        """A file was fsynced: its content is durable, its attributes are but for an fdatasync(2), and in a journaling
        file system all names and attributes so far are.
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
        """A directory was fsynced: its names and its attributes are durable."""
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
        """What a durable rename has moved can't be where an older one took it from: that one is durable too."""
        moved: set[tuple[Key, int | None]] = set()
        for change in reversed(self.changes):
            if isinstance(change, Names):
                if any((key, new) in moved for key, _old, new in change.changes):
                    _settle(change)
                if change.durable:
                    placed = {new for _key, _old, new in change.changes}
                    moved.update((key, old) for key, old, _new in change.changes if old is not None and old in placed)

    def sync_all(self) -> int:
        """Everything is durable but what is lost; returns how many changes weren't before."""
        settled = sum(_settle(change) for change in self.changes)
        self._prune()
        return settled

    def forget(self, fid: int) -> None:
        """An fsync has failed and the dirty pages were dropped, as Linux does: nothing will write them any more."""
        for change in self.changes:
            if isinstance(change, Content) and change.fid == fid and not change.durable:
                change.lost = True

    def _prune(self) -> None:
        """Drop what is durable and can't be hidden by what isn't."""
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
        # A quarter at once, so that it isn't the price of every change.
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
        """The changes that may or may not be on the disk, where *names* and attributes are durable at once (none), kept
        in order (ordered), or only safe by an fsync of their directory or file (strict).
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
    """*change* is durable, unless it is lost; returns whether it wasn't before."""
    if change.durable or (isinstance(change, Content) and change.lost):
        return False
    if isinstance(change, Names):
        change.synced.update(key[0] for key, _unused, _unused in change.changes)
    else:
        change.durable = True
    return True


__all__ = ["Attribute", "Attributes", "Change", "Content", "Journal", "Key", "Names"]
