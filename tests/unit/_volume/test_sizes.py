# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quantities and sizes."""

from __future__ import annotations

from fractions import Fraction

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import NoSpace
from ansible_collections.granary.vmstore.plugins.module_utils._model.volume_disks import BlockSize
from ansible_collections.granary.vmstore.plugins.module_utils._volume.quantity import HIGHEST, read_quantity
from ansible_collections.granary.vmstore.plugins.module_utils._volume.sizes import (
    MIB,
    claim_capacity,
    empty_disk_size,
    expanded_size,
    host_disk_size,
    is_tolerated,
    matched_block_size,
    usable_size,
)
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

QUANTITIES = {
    "0": 0,
    "1Gi": 2**30,
    "1Ki": 1024,
    "7Ei": 7 * 2**60,
    "1000k": 10**6,
    "1.5G": 1_500_000_000,
    "1E": 10**18,
    "10485761": 10485761,
    "1e3": 1000,
    "1E3": 1000,
    "1e+3": 1000,
    "15e-1": 2,
    "500m": 1,
    "1500m": 2,
    "1n": 1,
    "1000000u": 1,
    "0.5Ki": 512,
    "0.1Ki": 103,
    ".5Gi": 2**29,
    "1.": 1,
    "+1": 1,
    10: 10,
    1.5: 2,
    1e16: 10**16,
    str(HIGHEST): HIGHEST,
    "9223372036854775806.5": HIGHEST,
}


@pytest.mark.parametrize(("text", "size"), QUANTITIES.items())
def test_a_quantity(text: object, size: int) -> None:
    assert read_quantity(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "Gi", "1 Gi", "1Gi ", "1gi", "1K", "1KiB", "1,5G", "-1", "0x10", "1e", "1e3Gi", "--1", "1e999", "9Ei", "8Ei"]
    + ["1" * 65, "٣", str(HIGHEST + 1), True, None, [], {}, -1, float("nan"), float("inf"), 1e30],
)
def test_no_quantity(text: object) -> None:
    assert read_quantity(text) is None


@given(st.text(alphabet="0123456789.eE+-KMGTPEikmnu", max_size=12))
def test_a_quantity_is_a_number_or_nothing(text: str) -> None:
    found = read_quantity(text)
    assert found is None or 0 <= found <= HIGHEST


@given(st.integers(0, HIGHEST))
def test_a_number_is_its_own_quantity(number: int) -> None:
    assert read_quantity(number) == read_quantity(str(number)) == number


def test_the_size_of_an_empty_disk_is_in_mebibytes() -> None:
    assert [empty_disk_size(size) for size in (MIB - 1, MIB, 10485761)] == [0, MIB, 10 * MIB]


def test_a_host_disk_can_be_smaller_than_requested() -> None:
    assert host_disk_size("/d", 64 * MIB, 64 * MIB + 131072) == 64 * MIB
    assert host_disk_size("/d", 64 * MIB, 64 * MIB) == 64 * MIB - 131072
    lowest = 64 * MIB * 90 // 100
    assert host_disk_size("/d", 64 * MIB, lowest + 131072) == lowest
    assert is_tolerated(64 * MIB, lowest) and not is_tolerated(64 * MIB, 64 * MIB)


def test_a_host_disk_without_space_is_refused() -> None:
    with refused(
        NoSpace,
        says="The host disk /d needs at least 60397977 bytes (67108864 bytes with a tolerance of 10 %), and its file "
        "system has 60397976 bytes left (131072 bytes are reserved).",
    ):
        host_disk_size("/d", 64 * MIB, 64 * MIB * 90 // 100 + 131071)
    with refused(NoSpace, names=["/d"]):
        host_disk_size("/d", MIB, 0)


def test_a_disk_grows_into_its_claim() -> None:
    assert claim_capacity(None, 100) == 100
    assert claim_capacity(50, 100) == 50
    assert expanded_size(104857600, 0, 104857600, Fraction("0.05")) == 99614720
    assert expanded_size(100 * MIB, 10 * MIB, 20 * MIB, Fraction(0)) == 30 * MIB
    assert expanded_size(100 * MIB, 10 * MIB, 20 * MIB, Fraction(1)) == 0


def test_the_usable_size_of_an_import() -> None:
    assert usable_size(106 * MIB) == 100 * MIB
    assert usable_size(106 * MIB - 1) == 100 * MIB  # it is rounded up to a byte first, as in CDI
    assert usable_size(106 * MIB - 2) == 99 * MIB


def test_block_sizes_of_a_volume() -> None:
    assert matched_block_size(512, 4096) == matched_block_size(512, 4096, 0) == BlockSize(512, 4096)
    assert matched_block_size(512, 4096, 1024) == BlockSize(512, 4096, 1024)
    assert matched_block_size(512, 4096, 1000) == BlockSize(512, 4096, 4096)
