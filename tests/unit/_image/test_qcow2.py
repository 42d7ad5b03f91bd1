# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of qcow2 images, compared with images and output of qemu-img."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._image.qcow2 import HEADER_SIZE, Qcow2Header


def create_image(path: Path, *options: str, size: str = "100M") -> Qcow2Header:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True)
    return Qcow2Header.parse(path.read_bytes()[:HEADER_SIZE])


@pytest.mark.parametrize(
    "options",
    [
        "compat=0.10",
        "compat=1.1",
        "compat=1.1,cluster_size=2M",
        "refcount_bits=64",
        "compression_type=zstd",
        "extended_l2=on,cluster_size=16k",
    ],
)
def test_fields_are_those_that_qemu_prints(tmp_path: Path, options: str) -> None:
    header = create_image(tmp_path / "x", "-o", options)
    printed = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", str(tmp_path / "x")], check=True, capture_output=True
        ).stdout
    )
    details = printed["format-specific"]["data"]
    assert header.virtual_size == printed["virtual-size"]
    assert 1 << header.cluster_bits == printed["cluster-size"]
    assert header.refcount_bits == details.get("refcount-bits", 16)
    assert header.is_zstd == (details.get("compression-type") == "zstd")
    assert header.has_subclusters == details.get("extended-l2", False)
    assert (header.is_corrupt, header.is_encrypted, header.is_dirty) == (False, False, False)
    assert header.tables_end <= (tmp_path / "x").stat().st_size
    assert header.external_reference is None


def test_references_to_other_files(tmp_path: Path) -> None:
    create_image(tmp_path / "base")
    header = create_image(tmp_path / "overlay", "-b", "base", "-F", "qcow2")
    data = (tmp_path / "overlay").read_bytes()
    assert data[header.backing_offset :][: header.backing_length] == b"base"
    assert header.external_reference == "has a backing file"
    header = create_image(tmp_path / "outside", "-o", f"data_file={tmp_path / 'data'}")
    assert header.has_external_data
    assert header.external_reference == "has an external data file"


def test_internal_snapshots(tmp_path: Path) -> None:
    create_image(tmp_path / "x")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", str(tmp_path / "x")], check=True)
    header = Qcow2Header.parse((tmp_path / "x").read_bytes())
    assert header.snapshots == 1
    assert 0 < header.snapshots_offset < header.tables_end


@pytest.mark.parametrize("data", [b"", b"QFI\xfb", b"QFI\xfb".ljust(71, b"\0"), bytes(HEADER_SIZE)])
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError):
        Qcow2Header.parse(data)


def test_an_absurd_size_of_reference_counts_takes_no_memory(tmp_path: Path) -> None:
    """A shift by the number in the header would allocate half a gigabyte."""
    create_image(tmp_path / "x")
    head = bytearray((tmp_path / "x").read_bytes()[:HEADER_SIZE])
    head[96:100] = b"\xff\xff\xff\xff"
    assert Qcow2Header.parse(bytes(head)).refcount_bits == 64
