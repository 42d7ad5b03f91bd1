# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of domains, on libvirt's own test driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.domain_disks import files_of_domains

DOMAIN = """
<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
  <name>{name}</name><memory>65536</memory>
  <os><type>hvm</type><kernel>/boot/kernel</kernel></os>
  <devices>
    <disk type='file' device='disk'><source file='{disk}'/><target dev='vda'/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='pool/x'><host name='h'/></source><target dev='vdb'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
  </devices>
  <test:runstate>{state}</test:runstate>
</domain>
"""


def test_running_and_defined_domains_have_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("disk")
    domains = [("on", tmp_path / "disk", 1), ("off", tmp_path / "link", 5)]
    node = "".join(DOMAIN.format(name=name, disk=disk, state=state) for name, disk, state in domains)
    (tmp_path / "node.xml").write_text(f"<node>{node}</node>")
    assert files_of_domains(f"test://{tmp_path}/node.xml") == {str(tmp_path / "disk"): ["off", "on"], "/boot/kernel": ["off", "on"]}


def test_no_libvirt() -> None:
    with pytest.raises(LibvirtFailed):
        files_of_domains("qemu+unix:///system?socket=/nonexistent/socket")
