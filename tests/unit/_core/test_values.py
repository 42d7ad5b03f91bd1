# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._core.idmap import IdMap, read_id_maps
from ansible_collections.granary.vmstore.plugins.module_utils._core.mount_names import check_mount_point, check_mount_tag


def id_map(start: int, target: int, count: int) -> dict[str, int]:
    return {"start": start, "target": target, "count": count}


def test_maps_are_read() -> None:
    assert read_id_maps("uid_map", None) is None
    assert read_id_maps("uid_map", [id_map(0, 100000, 65536), id_map(70000, 1000, 1)]) == (IdMap(0, 100000, 65536), IdMap(70000, 1000, 1))


@pytest.mark.parametrize(
    "maps",
    [
        [id_map(0, 100000, 0)],
        [id_map(-1, 100000, 1)],
        [id_map(0, -1, 1)],
        [id_map(0, 2**32 - 2, 2)],
        [id_map(0, 100000, 10), id_map(9, 200000, 10)],
        [id_map(0, 100000, 10), id_map(20, 100009, 10)],
    ],
)
def test_maps_that_cannot_be_are_refused(maps: list[dict[str, int]]) -> None:
    with pytest.raises(InvalidInput, match="^uid_map: "):
        read_id_maps("uid_map", maps)


@pytest.mark.parametrize("tag", ["one-3", "data", "a" * 36, "A_b.c+d@e-1"])
def test_tags_a_mount_can_carry(tag: str) -> None:
    assert check_mount_tag("mount_tag", tag) == tag


@pytest.mark.parametrize("tag", ["", "a" * 37, "ä" * 2, "a b", "LABEL=x", "host:path", "/dev/x", "a#b", "-o", "a\n", "a\\b", "a,b", "'"])
def test_tags_that_a_mount_would_misread(tag: str) -> None:
    with pytest.raises(InvalidInput, match="^mount_tag: "):
        check_mount_tag("mount_tag", tag)


@pytest.mark.parametrize("point", ["/", "/etc", "//usr/", "relative", "/mnt/../etc", "/mnt/a\nb"])
def test_mount_points_the_guest_cannot_spare(point: str) -> None:
    with pytest.raises(InvalidInput, match="^mount_point: "):
        check_mount_point("mount_point", point)


def test_a_mount_point_is_tidied() -> None:
    assert check_mount_point("mount_point", "/srv//my data/") == "/srv/my data"
