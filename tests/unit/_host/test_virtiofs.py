# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import UnsupportedAction
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.virtiofs import Virtiofs
from refusal import refused

FILESYSTEMS = "nodev\tsysfs\nnodev\ttmpfs\n\text4\n"


@pytest.fixture
def sys(tmp_path):
    (tmp_path / "bus/virtio/devices/virtio0").mkdir(parents=True)
    (tmp_path / "bus/virtio/devices/virtio0/device").write_text("0x0002\n")
    return tmp_path


def test_tags_of_linux_6_9_and_later(sys):
    for number, tag in (("2", "one-1\n"), ("10", "data\n")):
        (sys / "fs/virtiofs" / number).mkdir(parents=True)
        (sys / "fs/virtiofs" / number / "tag").write_text(tag)
    assert Virtiofs(sys=str(sys)).available_tags() == ["data", "one-1"]


def test_an_older_kernel_does_not_tell(sys):
    (sys / "bus/virtio/devices/virtio1").mkdir()
    (sys / "bus/virtio/devices/virtio1/device").write_text("0x001a\n")
    assert Virtiofs(sys=str(sys)).available_tags() is None


def test_without_a_device_there_is_no_tag_in_any_kernel(sys):
    assert Virtiofs(sys=str(sys)).available_tags() == []


def test_a_kernel_that_has_it(tmp_path):
    (tmp_path / "filesystems").write_text(FILESYSTEMS + "nodev\tvirtiofs\n")
    assert Virtiofs(str(tmp_path)).is_supported()


@pytest.mark.parametrize(("answer", "expected"), [(0, True), (1, False), (None, False)])
def test_a_kernel_that_has_it_as_a_module_or_not(answer, expected, tmp_path, monkeypatch):
    """``modprobe --dry-run`` shows if there is a module; without modprobe no module can be loaded."""
    (tmp_path / "filesystems").write_text(FILESYSTEMS)
    if answer is not None:
        (tmp_path / "modprobe").write_text(
            f'#!/bin/sh\n[ "$*" = "--dry-run --quiet virtiofs" ] && exit {answer}\nexit 7\n'
        )
        (tmp_path / "modprobe").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if answer is not None else str(tmp_path))
    assert Virtiofs(str(tmp_path)).is_supported() is expected


def test_the_refusal_names_the_kernel(tmp_path, monkeypatch):
    (tmp_path / "filesystems").write_text(FILESYSTEMS)
    monkeypatch.setenv("PATH", str(tmp_path))
    release = subprocess.run(["/bin/uname", "-r"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with refused(
        UnsupportedAction,
        says=f"The running kernel {release} has no virtiofs, neither built in nor as a module: boot a kernel with "
        "CONFIG_VIRTIO_FS, or reboot if an upgrade removed the modules of this one.",
    ):
        Virtiofs(str(tmp_path)).require_supported()
    assert os.listdir(tmp_path) == ["filesystems"]
