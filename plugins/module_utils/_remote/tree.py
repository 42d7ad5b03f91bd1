# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tree: regular files, directories and symbolic links of one directory, which another host gets.

The other host, and the owner of the directory, are untrusted. So both sides check a tree (:func:`check_tree`), and
files are opened by descriptors without following links.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from .._core.directory import exists_at, open_directory_at, open_file_at
from .._core.errors import Conflict, NotFound, StaleState, os_errors
from .._core.records import dataclass, fields, replace
from .._core.sparse import extents
from .._core.temporary import is_part_name
from .stream import DIGEST

FILE, DIRECTORY, LINK = "file", "directory", "link"

#: Upper bound of the entries of a tree.
MOST_ENTRIES = 10_000

#: Upper bound of the components of a path in a tree. The directory of a VM has files at the third level.
DEEPEST = 8

#: Upper bounds of a name and of the target of a link in bytes (NAME_MAX, PATH_MAX).
LONGEST_NAME, LONGEST_TARGET = 255, 4095

#: Upper bound of the size of a file in bytes, and of times in nanoseconds.
LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Entry:
    """A file, directory or link of a tree.

    :arg path: its path in the tree, with ``/`` between the components.
    :arg kind: :data:`FILE`, :data:`DIRECTORY` or :data:`LINK`.
    :arg mode: permission bits.
    :arg mtime: time of the last change in nanoseconds.
    :arg size: bytes of a file; ``data`` is the part of them outside of holes.
    :arg target: the target of a link.
    :arg version: a number that differs after each change of the file (st_ctime in nanoseconds).
    """

    path: str
    kind: str
    mode: int
    mtime: int
    size: int = 0
    data: int = 0
    target: str = ""
    version: int = 0


Tree = tuple[Entry, ...]


class Source:
    """A tree of this host.

    :arg directory: descriptor of the directory, which the caller keeps open.
    :arg place: path of the directory, for messages.
    :arg names: the names in the directory that belong to the tree, each with its name in the tree. The first one must
        exist. A link whose target begins with one of the names leads to the new name in the tree.
    :arg left_out: paths in the tree that don't belong to it.
    :arg may_lead_out: whether links may lead out of the tree. Another host refuses such links.
    """

    def __init__(
        self,
        directory: int,
        place: str,
        names: Mapping[str, str],
        *,
        left_out: Collection[str] = (),
        may_lead_out: bool = False,
    ) -> None:
        self._directory = directory
        self._left_out = frozenset(left_out)
        self._may_lead_out = may_lead_out
        self.place = place
        self._names = dict(names)
        self._original = {new: old for old, new in names.items()}

    def exists(self) -> bool:
        """Return whether the first name exists."""
        return exists_at(self._directory, next(iter(self._names)))

    def describe(self) -> Tree:
        """Return the entries of the tree. Temporary files of this collection are left out.

        :raises NotFound: the first name is missing.
        :raises Conflict: a file is neither regular, a directory nor a link within the tree, or the tree is too large.
        :raises FileAccessFailed: a file can't be read.
        """
        entries: list[Entry] = []
        if not self.exists():
            raise NotFound(f"There is no {self.place}/{next(iter(self._names))} to transfer.")
        with os_errors(f"read files in {self.place}"):
            for name, new in self._names.items():
                if exists_at(self._directory, name):
                    for entry in self.walk(self._directory, name, new):
                        if len(entries) >= MOST_ENTRIES:
                            raise self.refuse(f"there are more than {MOST_ENTRIES} files")
                        entries.append(entry)
        entries.sort(key=_order)
        try:
            check_tree(entries, may_lead_out=self._may_lead_out)
        except BadTree as error:
            raise self.refuse(str(error)) from error
        return tuple(entries)

    def walk(self, directory: int, name: str, path: str) -> Iterator[Entry]:
        """Yield an entry, and the entries below it."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        entry = Entry(path, FILE, stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns)
        if stat.S_ISREG(status.st_mode):
            with _opened(directory, [name]) as descriptor:
                size = os.fstat(descriptor).st_size
                data = sum(end - start for start, end in extents(descriptor, size))
            yield replace(entry, size=size, data=data, version=status.st_ctime_ns)
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=directory)
            yield replace(entry, kind=LINK, mode=0o777, target=target if "/" in path else self._rename(target))
        elif stat.S_ISDIR(status.st_mode):
            yield replace(entry, kind=DIRECTORY)
            if path.count("/") + 1 >= DEEPEST:
                raise self.refuse(f"{path!r} is deeper than {DEEPEST} levels")
            opened = open_directory_at(directory, name)
            try:
                for inner in os.listdir(opened):
                    if not is_part_name(inner) and f"{path}/{inner}" not in self._left_out:
                        yield from self.walk(opened, inner, f"{path}/{inner}")
            finally:
                os.close(opened)
        else:
            raise self.refuse(f"{path!r} is neither a regular file, a directory nor a symbolic link")

    def _rename(self, target: str) -> str:
        first, slash, rest = target.partition("/")
        return self._names.get(first, first) + slash + rest

    def locate(self, path: str) -> list[str]:
        """Return the components of a file's path in the directory.

        :arg path: its path in the tree.
        """
        first, *others = path.split("/")
        return [self._original[first], *others]

    @contextlib.contextmanager
    def opened(self, entry: Entry) -> Iterator[int]:
        """Yield a descriptor to read a file of the tree.

        :raises StaleState: the file isn't the described one any more, at the beginning or at the end of the block.
        """
        try:
            with _opened(self._directory, self.locate(entry.path)) as descriptor:
                self._require_same(descriptor, entry)
                yield descriptor
                self._require_same(descriptor, entry)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.stale(entry) from error

    def _require_same(self, descriptor: int, entry: Entry) -> None:
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (entry.size, entry.mtime, entry.version):
            raise self.stale(entry)

    def refuse(self, why: str) -> Conflict:
        return Conflict(f"{self.place} can't be transferred: {why}.")

    def stale(self, entry: Entry) -> StaleState:
        """Return the error about a file that changed."""
        path = "/".join([self.place, *self.locate(entry.path)])
        return StaleState(f"{path} changed while it was transferred; transfer it when nothing writes to it.")


@contextlib.contextmanager
def _opened(directory: int, names: list[str]) -> Iterator[int]:
    """Yield a descriptor to read the regular file with these components of its path."""
    with contextlib.ExitStack() as stack:
        for name in names[:-1]:
            directory = open_directory_at(directory, name)
            stack.callback(os.close, directory)
        descriptor = open_file_at(directory, names[-1], os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, descriptor)
        yield descriptor


class BadTree(ValueError):
    """A tree that must not be received. The message is a part of a sentence."""


def digest_of(tree: Tree) -> bytes:
    """Return a digest of all entries. The amount of data outside of holes doesn't count, because readers change it (see
    :class:`.tree_stream._Sender`).
    """
    import hashlib
    import json

    plain = [[getattr(entry, one.name) for one in fields(Entry) if one.name != "data"] for entry in tree]
    return hashlib.new(DIGEST, json.dumps(plain).encode(), usedforsecurity=False).digest()


def check_tree(entries: Iterable[Entry], *, may_lead_out: bool = False) -> None:
    """Require that the entries are a tree that can be created in an empty directory, and touches nothing else.

    :arg may_lead_out: whether links may lead out of the tree.
    :raises BadTree: they aren't.
    """
    known: dict[str, str] = {}
    previous: list[str] = []
    for entry in entries:
        parts = _order(entry)
        shown = repr(entry.path[:LONGEST_TARGET])
        if len(known) >= MOST_ENTRIES:
            raise BadTree(f"there are more than {MOST_ENTRIES} files")
        if len(parts) > DEEPEST:
            raise BadTree(f"{shown} is deeper than {DEEPEST} levels")
        if not all(map(_is_name, parts)) or is_part_name(parts[0]):
            raise BadTree(f"{shown} isn't a path of names")
        if parts <= previous:
            raise BadTree(f"{shown} comes twice, or not in its place")
        if len(parts) > 1 and known.get("/".join(parts[:-1])) != DIRECTORY:
            raise BadTree(f"{shown} isn't in a directory of the tree")
        _check_numbers(entry, shown)
        if entry.kind == LINK and not may_lead_out:
            _check_target(parts, entry.target)
        known[entry.path] = entry.kind
        previous = parts


def _check_numbers(entry: Entry, shown: str) -> None:
    if entry.kind not in (FILE, DIRECTORY, LINK) or entry.mode not in range(0o1000):
        raise BadTree(f"{shown} is of an unknown kind, or has other bits than permissions")
    if not 0 <= entry.data <= entry.size <= (LARGEST if entry.kind == FILE else 0):
        raise BadTree(f"{shown} has an impossible size")
    if not -LARGEST <= entry.mtime <= LARGEST:
        raise BadTree(f"{shown} has an impossible time")


def _check_target(parts: list[str], target: str) -> None:
    """Refuse a link that leads out of the tree."""
    shown = repr("/".join(parts))
    length = len(os.fsencode(target))
    if not target or "\0" in target or length > LONGEST_TARGET or target.startswith("/"):
        raise BadTree(f"{shown} is a symbolic link to {target[:LONGEST_TARGET]!r}, and only relative ones are accepted")
    words = target.split("/")
    up = next((number for number, word in enumerate(words) if word != ".."), len(words))
    # Behind a name, ".." leads anywhere, because the name can be that of a link.
    if up >= len(parts) or ".." in words[up:]:
        raise BadTree(f"{shown} is a symbolic link out of the directory, to {target!r}")


def _is_name(name: str) -> bool:
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return False
    return name not in ("", ".", "..") and "\0" not in name and length <= LONGEST_NAME


def _order(entry: Entry) -> list[str]:
    return entry.path.split("/")


__all__ = ["DIRECTORY", "FILE", "LINK", "BadTree", "Entry", "Source", "Tree", "check_tree", "digest_of"]
