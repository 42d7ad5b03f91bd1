# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a domain that matter for its migration."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.domain_xml import parse
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.migration_check import (
    disks_of,
    host_files,
    state_files,
)

DISK = "<disk device='{}'>{}<target dev='vda'/>{}</disk>"


def domain(devices: str, system: str = "") -> str:
    return f"<domain><os>{system}</os><devices>{devices}</devices></domain>"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/srv/7/disk.0", 0),
        ("/srv/7/./disk.12", 12),
        ("/srv/7/disk.3.snap/8", 3),
        ("/srv/7/disk.x", None),
        ("/srv/7/diskette.1", None),
        ("/srv/70/disk.1", None),
        ("/srv/7", None),
    ],
)
def test_a_disk_of_the_vm_is_recognized_by_its_file(path: str, number: int | None) -> None:
    [disk] = disks_of(parse(domain(DISK.format("disk", f"<source file='{path}'/>", ""))))
    assert disk.number_in("/srv/7") == number


@pytest.mark.parametrize(
    ("device", "more", "is_written"), [("disk", "", True), ("disk", "<readonly/>", False), ("cdrom", "", False)]
)
def test_only_a_writable_disk_is_written(device: str, more: str, is_written: bool) -> None:
    [disk] = disks_of(parse(domain(DISK.format(device, "<source file='/a'/>", more))))
    assert disk.is_written is is_written


def test_an_empty_drive_has_no_file() -> None:
    [disk] = disks_of(parse(domain(DISK.format("cdrom", "", ""))))
    assert (disk.files, disk.number_in("/srv/7")) == ((), None)


def test_files_outside_the_directory_of_the_vm_include_backing_files_and_kernels() -> None:
    layers = "<source file='/srv/7/disk.0'/><backingStore><source file='/srv/images/base'/></backingStore>"
    system = "<kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd><loader>/usr/share/code.fd</loader>"
    found = host_files(parse(domain(DISK.format("disk", layers, ""), system)), "/srv/7")
    assert found == ["/boot/initrd", "/boot/vmlinuz", "/srv/images/base", "/usr/share/code.fd"]


def test_the_state_of_firmware_and_tpm_is_no_part_of_a_definition() -> None:
    tpm = "<tpm><backend type='emulator'/></tpm>"
    assert [*state_files(parse(domain(tpm, "<nvram>/var/vars.fd</nvram>")))] == [
        "The domain has UEFI variables (NVRAM) on its host: start the domain, and migrate it live.",
        "The domain has the state of a TPM on its host: start the domain, and migrate it live.",
    ]
    assert [*state_files(parse(domain("<tpm><backend type='passthrough'/></tpm>")))] == []
