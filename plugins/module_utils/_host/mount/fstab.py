# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of mounts at boot, fstab(5)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ..._core.command import run
from ..._core.errors import CommandFailed
from ..._core.files import remove_durably, write_atomic
from ..._core.records import dataclass
from .mountinfo import unescape
from .options import split_options


@dataclass(frozen=True)
class FstabEntry:
    """An unescaped line of fstab. ``line`` is its number from 1 on; 0 for an entry outside of the file."""

    source: str
    mount_point: str
    fstype: str
    options: tuple[str, ...]
    dump: str = "0"
    check: str = "0"
    line: int = 0

    def __str__(self) -> str:
        options = ",".join(self.options) or "defaults"
        return " ".join(
            [escape(self.source), escape(self.mount_point), self.fstype, escape(options), self.dump, self.check]
        )

    def means(self, other: FstabEntry) -> bool:
        """Return whether two entries make the same mount. The order of options, the words for defaults and
        cloud-init's mark are ignored.
        """
        return self._normalize() == other._normalize()

    def _normalize(self) -> tuple[object, ...]:
        return (
            self.source,
            self.mount_point,
            self.fstype,
            frozenset(self.options) - {"defaults", "rw", "comment=cloudconfig"},
            self.dump,
            self.check,
        )


def escape(field: str) -> str:
    """Return a field with octal escapes for the characters that would end the field or begin an escape."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", field)


def parse(text: str) -> list[FstabEntry]:
    """Return the entries of an fstab, without comments, blank lines and lines with less than three fields."""
    return [
        found for number, line in enumerate(text.split("\n"), 1) if (found := _parse_line(line, number)) is not None
    ]


def _parse_line(line: str, number: int) -> FstabEntry | None:
    line = line.strip(" \t")
    fields = re.split(r"[ \t]+", line)
    if line.startswith("#") or len(fields) < 3:
        return None
    source, mount_point, fstype, options, dump, check = [*fields, *["defaults", "0", "0"][len(fields) - 3 :]][:6]
    # Paths with a trailing or a doubled slash are the same directory.
    point = re.sub(r"/+", "/", unescape(mount_point))
    return FstabEntry(
        unescape(source),
        point.rstrip("/") or point,
        fstype,
        tuple(split_options(unescape(options))),
        dump,
        check,
        number,
    )


def replace_entries(text: str, old: Sequence[FstabEntry], new: FstabEntry | None) -> str:
    """Return ``text`` with its entries ``old`` replaced by ``new``, at the place of the first old entry or at the end.

    Every other line is unchanged, byte for byte.
    """
    lines = text.split("\n")
    ended = lines[-1] == ""
    if ended:
        lines.pop()
    numbers = {entry.line for entry in old}
    place = min(numbers, default=len(lines) + 1)
    kept: list[str] = []
    for number, line in enumerate(lines, 1):
        if number == place and new is not None:
            kept.append(str(new))
        if number not in numbers:
            kept.append(line)
    if place > len(lines) and new is not None:
        kept.append(str(new))
        ended = True
    return "\n".join(kept) + ("\n" if ended and kept else "")


def write(path: str, text: str | None) -> str | None:
    """Write an fstab, and have systemd read it.

    :arg text: ``None`` removes the file.
    :return: a warning if systemd couldn't read the file.
    :raises NoSpace, FileAccessFailed: the old file stays.
    """
    if text is None:
        remove_durably(path)
    else:
        write_atomic(path, text.encode("utf-8", "surrogateescape"))
    if os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        try:
            run(["systemctl", "daemon-reload"])
        except CommandFailed as error:
            return f"systemd has not read the changed {path} yet: {error}"
    return None


__all__ = ["FstabEntry", "escape", "parse", "replace_entries", "write"]
