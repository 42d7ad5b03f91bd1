# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of domains, on libvirt's own test driver."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import LibvirtFailed, LibvirtMissing
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.disk_files import files_of_domains
from refusal import refused

DOMAIN = """
<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
  <name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
  <os><type>hvm</type><kernel>/boot/kernel</kernel></os>
  <devices>
    <disk type='file' device='disk'><source file='{disk}'/><target dev='vda'/></disk>
    <disk type='network' device='disk'><target dev='vdb'/>
      <source protocol='rbd' name='pool/x'><host name='h'/></source></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
  </devices>
  <test:runstate>{state}</test:runstate>
</domain>
"""


#: Program that replaces virsh(1) with libvirt's own library, because no other test needs the package libvirt-clients.
VIRSH = """#!{python}
import sys, libvirt
assert sys.argv[1:4] == ["--quiet", "--readonly", "--connect"]
uri, command, *arguments = sys.argv[4:]
connection = libvirt.openReadOnly(uri)
if command == "list":
    flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE * ("--all" not in arguments)
    flags |= libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE * ("--with-managed-save" in arguments)
    print(*(domain.UUIDString() for domain in connection.listAllDomains(flags)), "", sep="\\n")
elif command == "dumpxml":
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE * ("--inactive" in arguments)
    print(connection.lookupByUUIDString(arguments[-1]).XMLDesc(flags))
else:
    print(connection.lookupByUUIDString(arguments[-1]).managedSaveGetXMLDesc(0))
"""


@pytest.mark.parametrize("asked", ["library", "virsh"])
def test_running_and_defined_domains_have_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    (tmp_path / "link").symlink_to("disk")
    domains = [("on line", tmp_path / "disk", 1), ("off", tmp_path / "link", 5)]
    node = "".join(DOMAIN.format(name=name, uuid=uuid.uuid4(), disk=disk, state=state) for name, disk, state in domains)
    (tmp_path / "node.xml").write_text(f"<node>{node}</node>")
    if asked == "virsh":
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "virsh").write_text(VIRSH.format(python=sys.executable))
        (tmp_path / "bin" / "virsh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = files_of_domains(f"test://{tmp_path}/node.xml")
    assert {path: sorted(names) for path, names in found.items()} == {
        str(tmp_path / "disk"): ["off", "on line"],
        "/boot/kernel": ["off", "on line"],
    }


def test_a_domain_whose_saved_state_can_not_be_read(tmp_path: Path) -> None:
    """libvirt's test driver can't read saved states."""
    domain = DOMAIN.format(name="saved", uuid=uuid.uuid4(), disk=tmp_path / "disk", state=5).replace(
        "<test:runstate>", "<test:hasmanagedsave/><test:runstate>"
    )
    (tmp_path / "node.xml").write_text(f"<node>{domain}</node>")
    assert files_of_domains(f"test://{tmp_path}/node.xml") == {
        str(tmp_path / "disk"): ["saved"],
        "/boot/kernel": ["saved"],
    }


@pytest.mark.parametrize("has_library", [True, False])
def test_no_libvirt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_library: bool) -> None:
    if not has_library:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    uri = "qemu+unix:///system?socket=/nonexistent/socket"
    with refused(LibvirtMissing, names=[uri]) if has_library else refused(LibvirtFailed, names=["'virsh'"]):
        files_of_domains(uri)
