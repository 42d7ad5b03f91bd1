# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Identity maps, from ids of a guest to ids on the host (user_namespaces(7); spec: virtiofs-datastore)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._core.errors import InvalidInput
from .._core.plain import is_integer
from .._core.records import dataclass

#: Upper bound of an id: uid_t has 32 bits, and its highest value means "no id" (user_namespaces(7)).
HIGHEST_ID = 2**32 - 2

#: The argument spec of an option that takes a list of maps.
ID_MAP_OPTION = {
    "type": "list",
    "elements": "dict",
    "options": {
        "start": {"type": "int", "default": 0},
        "target": {"type": "int", "required": True},
        "count": {"type": "int", "default": 65536},
    },
}


@dataclass(frozen=True)
class IdMap:
    """A range of ``count`` ids: guest id ``start + n`` is host id ``target + n``."""

    start: int
    target: int
    count: int

    def __str__(self) -> str:
        return f"{self.start}:{self.target}:{self.count}"

    def as_dict(self) -> dict[str, int]:
        return {"start": self.start, "target": self.target, "count": self.count}


def read_id_maps(option: str, value: Sequence[Mapping[str, int]] | None) -> tuple[IdMap, ...] | None:
    """Return the maps of an option after a check; ``None`` for an option that isn't given.

    :raises InvalidInput: ids out of range, or two maps with the same guest id or host id.
    """
    if value is None:
        return None
    maps = tuple(IdMap(item["start"], item["target"], item["count"]) for item in value)
    for one in maps:
        if one.count < 1 or one.start < 0 or one.target < 0 or max(one.start, one.target) + one.count - 1 > HIGHEST_ID:
            raise InvalidInput(
                option,
                str(one),
                f"start and target from 0 and a count from 1 on, with no id over {HIGHEST_ID}, are expected",
            )
    for field in ("start", "target"):
        ordered = sorted(maps, key=lambda one: getattr(one, field))
        for lower, upper in zip(ordered, ordered[1:]):
            if getattr(lower, field) + lower.count > getattr(upper, field):
                raise InvalidInput(option, f"{lower} {upper}", f"maps whose {field} ranges don't overlap are expected")
    return maps


def id_maps_from_data(option: str, value: object) -> tuple[IdMap, ...] | None:
    """Return the id maps in data that no argument spec has checked, like :func:`read_id_maps`.

    :raises InvalidInput: also for a value that isn't a list of maps.
    """
    if value is not None and not isinstance(value, list):
        raise InvalidInput(option, value, "a list of maps is expected")
    for one in value or []:
        if (
            not isinstance(one, Mapping)
            or set(one) != {"start", "target", "count"}
            or not all(map(is_integer, one.values()))
        ):
            raise InvalidInput(option, one, "a map with the integers start, target and count is expected")
    return read_id_maps(option, value)


__all__ = ["HIGHEST_ID", "ID_MAP_OPTION", "IdMap", "id_maps_from_data", "read_id_maps"]
