# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names in the directory of a datastore."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.temporary import is_part_name, new_part_name
from ansible_collections.granary.vmstore.plugins.module_utils._image import layout

IMAGE = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (IMAGE, (IMAGE, "")),
        (f"{IMAGE}.snap", (IMAGE, ".snap")),
        (f"{IMAGE}.md5sum", (IMAGE, ".md5sum")),
        (IMAGE.upper(), None),
        (IMAGE[1:], None),
        (f"{IMAGE}0", None),
        (f"{IMAGE}.snap\n", None),
        (f"{IMAGE}.sha256sum", None),
        (f".{IMAGE}.part", None),
        ("", None),
    ],
)
def test_names_of_an_image_and_what_is_beside_it(name: str, found: tuple[str, str] | None) -> None:
    assert layout.parse_name(name) == found
    assert layout.is_image_name(name) == (found == (name, ""))


def test_names_that_are_made_are_recognized() -> None:
    assert layout.parse_name(layout.snapshot_directory(IMAGE)) == (IMAGE, layout.SNAPSHOTS)
    assert layout.parse_name(layout.checksum_file(IMAGE)) == (IMAGE, layout.CHECKSUM)
    directory, name = layout.snapshot_file(f"/ds/{IMAGE}", 12).rsplit("/", 1)
    assert (directory, layout.snapshot_number(name)) == (layout.snapshot_directory(f"/ds/{IMAGE}"), 12)


@pytest.mark.parametrize("name", ["", "-1", "1.part", "01", "00", "1234567890", "\u0661", f"{IMAGE}.snap"])
def test_other_names_are_no_snapshots(name: str) -> None:
    assert layout.snapshot_number(name) is None


def test_a_part_becomes_an_image() -> None:
    part = new_part_name()
    assert is_part_name(part) and layout.parse_name(part) is None
    assert layout.is_image_name(layout.name_of_part(part))
