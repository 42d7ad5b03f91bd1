# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of an exported directory.

The wrapper compares it with the directory when the domain starts, and refuses another directory in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..._core.errors import Conflict, FileAccessFailed, PathNotAllowed, StaleState, os_errors
from ..._core.paths import real_path
from ..._core.plan import Action
from ..._core.records import replace
from ..._host.root_state import write_state
from ..._host.virtiofsd import wrapper as virtiofsd_wrapper
from ..._host.virtiofsd.wrapper import Found, Identity, Refused, UntrustedLink


def resolve_source(path: str) -> str:
    """Return the directory that ``path`` leads to, a symbolic link of root's followed.

    :raises PathNotAllowed: it leads through another link, so users other than root would choose the directory.
    """
    try:
        virtiofsd_wrapper.find_directory(path).close()
    except UntrustedLink as error:
        raise PathNotAllowed("source", path, f"{error}; the path of the directory itself is expected") from error
    except Refused:
        pass  # opening the directory reports that it is missing
    return real_path(path)


class ExportRecord:
    """The record of the directory ``path``.

    :arg option: the option that named it, for messages.
    :raises StaleState: the path leads through a symbolic link that others than root can replace.
    """

    def __init__(self, option: str, path: str) -> None:
        self.path = path
        self._before = _read().get(path)
        with os_errors(f"look at the directory {path}"):
            try:
                self.found: Found = virtiofsd_wrapper.find_directory(path)
            except Refused as error:
                raise StaleState(f"{option}: {error}; it is not exported.") from error
            self._now = virtiofsd_wrapper.identify(self.found)

    def check(self, is_shared: bool) -> None:
        """Compare the directory with its record.

        :arg is_shared: whether a domain has the directory. Without one, the record is replaced.
        :raises Conflict: the directory isn't the recorded one.
        """
        if not is_shared:
            self._before = None
        if self._before is None:
            return
        changed = virtiofsd_wrapper.difference(self._before, self.found, self.path)
        if changed is not None:
            raise Conflict(
                f"{changed}; put the old one back, or remove the export (state: absent) and add it again to share what "
                "is there now."
            )

    def prepend_to(self, action: Action | None) -> list[Action]:
        """Return ``action`` preceded by the record of the directory, if the record is missing.

        Without ``action``, return an action that records the directory.
        """
        if self._before is not None:
            return [] if action is None else [action]
        old = _read().get(self.path)
        record, restore = functools.partial(_write, self.path, self._now), functools.partial(_write, self.path, old)

        def prepare() -> Callable[[], None]:
            record()
            return restore

        if action is not None:
            return [replace(action, prepare=(prepare, *action.prepare))]
        return [
            Action(
                "record directory",
                self.path,
                None if old is None else dict(vars(old)),
                dict(vars(self._now)),
                record,
                restore,
            )
        ]


def forget_directories(shared: Callable[[], set[str]]) -> None:
    """Remove the records of directories that no domain has any more.

    :arg shared: returns the directories that domains have. It is called only where records exist.
    """
    records = _read()
    if not records:
        return
    kept = shared()
    if not kept.issuperset(records):
        write_state(
            virtiofsd_wrapper.RECORDS,
            virtiofsd_wrapper.records_as_json({path: one for path, one in records.items() if path in kept}),
        )


def _read() -> dict[str, Identity]:
    with os_errors(f"read {virtiofsd_wrapper.RECORDS}"):
        try:
            return virtiofsd_wrapper.read_records()
        except Refused as error:
            raise FileAccessFailed(f"{error}.") from error


def _write(path: str, record: Identity | None) -> None:
    records = _read()
    records.pop(path, None)
    if record is not None:
        records[path] = record
    write_state(virtiofsd_wrapper.RECORDS, virtiofsd_wrapper.records_as_json(records))


__all__ = ["ExportRecord", "forget_directories", "resolve_source"]
