# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datablocks, verified with blkid, qemu-img and the checkers of the file systems."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    CommandMissing,
    InvalidInput,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image import datablock as making
from ansible_collections.granary.vmstore.plugins.module_utils._image.datablock import make_datablock
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from refusal import refused

SUPPORTED = ("ext4", "xfs")


def datablock(directory: Path, **options: object) -> str:
    with new_image(str(directory)) as part:
        make_datablock(part, timeout=60, **{"format": "raw", "size_mb": 8, "supported": SUPPORTED, **options})
        return part.commit()


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def file_system(path: str) -> str:
    return output("blkid", "-p", "-o", "value", "-s", "TYPE", path).strip()


def get_allocated_kib(path: str) -> int:
    """Return the allocated size in KiB."""
    return int(output("du", "--block-size=1K", path).split()[0])


def test_an_empty_raw_one(tmp_path):
    path = datablock(tmp_path)
    assert (os.stat(path).st_size, get_allocated_kib(path)) == (8 * 2**20, 0)


def test_an_empty_raw_one_with_all_its_storage(tmp_path):
    assert get_allocated_kib(datablock(tmp_path, sparse=False)) >= 8 * 1024


@pytest.mark.parametrize(
    ("fs", "size", "check"), [("ext4", 8, ["e2fsck", "-fn"]), ("xfs", 320, ["xfs_repair", "-nf"]), ("swap", 8, None)]
)
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("sparse", [True, False])
def test_with_a_file_system(tmp_path, fs, size, check, image_format, sparse):
    path = datablock(tmp_path, fs=fs, size_mb=size, format=image_format, sparse=sparse)
    assert os.listdir(tmp_path) == [os.path.basename(path)]
    # XFS creates an internal log of 64 MiB.
    assert get_allocated_kib(path) >= size * 1024 if not sparse else get_allocated_kib(path) < size * 512
    if image_format == "qcow2":
        output("qemu-img", "check", path)
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, path + ".raw"], check=True)
        path += ".raw"
    assert os.stat(path).st_size == size * 2**20
    assert file_system(path) == fs
    if check:
        subprocess.run([*check, path], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_an_empty_qcow2_one(tmp_path):
    path = datablock(tmp_path, format="qcow2", qcow2_options="cluster_size=1M")
    told = output("qemu-img", "info", path)
    assert "virtual size: 8 MiB" in told
    assert "cluster_size: 1048576" in told
    assert get_allocated_kib(datablock(tmp_path, format="qcow2", sparse=False)) >= 8 * 1024


def test_options_are_arguments_and_not_a_command_line(tmp_path):
    path = datablock(
        tmp_path,
        fs="ext4",
        fs_options=f"""-L "a b;id" -m 0 -U '12345678-1234-1234-1234-123456789abc' -M '$(touch {tmp_path}/x)'""",
    )
    assert output("blkid", "-p", "-o", "value", "-s", "LABEL", path) == "a b;id\n"
    assert os.listdir(tmp_path) == [os.path.basename(path)]


def test_programs_are_found_without_sbin_in_path(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        path = datablock(tmp_path, fs="ext4")
    assert file_system(path) == "ext4"


@pytest.mark.parametrize(
    ("options", "option", "value", "accepted"),
    [
        ({"fs": "ext4;id"}, "fs", "ext4;id", "one of ext4, swap, xfs is expected"),
        ({"fs": "bogusfs"}, "fs", "bogusfs", "one of ext4, swap, xfs is expected"),
        ({"fs": "ext4", "fs_options": "-L 'x"}, "fs_opts_ext4", "-L 'x", "arguments of mkfs.ext4 are expected"),
        ({"format": "vmdk"}, "format", "vmdk", "raw or qcow2 is expected"),
        ({"size_mb": 0}, "size", 0, "1 to 67108864 MiB are expected"),
    ],
)
def test_what_is_refused(tmp_path, options, option, value, accepted):
    with refused(InvalidInput, says=f"{option}: {value!r} is not accepted: {accepted}."):
        datablock(tmp_path, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fs", [None, "ext4"])
def test_options_that_name_another_file_are_refused(tmp_path, fs):
    options = {"format": "qcow2", "qcow2_options": "backing_file=/etc/shadow", **({"fs": fs} if fs else {})}
    with refused(InvalidInput, option="qcow2_options", value="backing_file=/etc/shadow"):
        datablock(tmp_path, **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("fs", "package"), [("xfs", "xfsprogs"), ("swap", "util-linux"), ("unheard_of", "that has it")]
)
def test_a_missing_program_names_the_package(tmp_path, monkeypatch, fs, package):
    monkeypatch.setattr(making, "SYSTEM_PROGRAMS", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(CommandMissing, says=f"The command '*' is not installed on this host: install the package {package}."):
        datablock(tmp_path, fs=fs, supported=[fs])
    assert os.listdir(tmp_path) == []


def test_a_failing_mkfs_says_why(tmp_path):
    with refused(CommandFailed, names=["mkfs.xfs", "1 MiB"]):
        datablock(tmp_path, fs="xfs", size_mb=1)
    with refused(CommandFailed, says="mkfs.ext4 makes no file system of 8 MiB: *invalid option*"):
        datablock(tmp_path, fs="ext4", fs_options="--bogus", format="qcow2")
    assert os.listdir(tmp_path) == []
