# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of every recorded definition, given to the libvirt that printed it.

libvirt must accept each definition whole and change nothing else.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt import domain_xml
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.cdrom import cdrom_of, create_cdrom
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.filesystem import (
    VirtioFs,
    create_filesystem,
    filesystems,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.memory import share_memory
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.difference import first_difference
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap

FIXTURES = Path(__file__).resolve().parents[1] / "unit" / "fixtures" / "domain_xml"
PRINTED = sorted(path.name for path in FIXTURES.glob("*.xml") if "-live-" not in path.name)
DEFINE = """
set -e
virsh define --validate /dev/stdin > /dev/null
virsh dumpxml --inactive --security-info "$0"
virsh undefine "$0" > /dev/null
"""


def canonical(text: str) -> str:
    return ET.canonicalize(text, rewrite_prefixes=False, strip_text=True)


@pytest.mark.parametrize("name", [name for name in PRINTED if "private" not in name])
def test_libvirt_takes_it_and_changes_nothing_else(execute: Callable[..., str], name: str) -> None:
    machine = "hv1" if name.startswith("11.3-") else "old"
    root = domain_xml.parse((FIXTURES / name).read_text())
    root.remove(root.find("uuid"))
    root.find("name").text = "fixture"
    wanted = VirtioFs("new", "/srv/new & <old>", cache="none", queue=64, xattr=True, sandbox="namespace", thread_pool=2)
    if machine == "hv1":
        maps = (IdMap(0, 100000, 65536),)
        wanted = VirtioFs(
            "new",
            "/srv/new & <old>",
            True,
            maps,
            maps,
            "/usr/local/libexec/granary-virtiofsd",
            "none",
            64,
            True,
            "namespace",
            2,
        )
    element, disk = create_filesystem(wanted), create_cdrom(root, "/srv/seed.iso")
    domain_xml.devices(root).extend([element, disk])
    share_memory(root)
    back = domain_xml.parse(execute(machine, "sh", "-c", DEFINE, "fixture", stdin=domain_xml.to_text(root)))
    back.remove(back.find("uuid"))
    assert first_difference(root, back, frozenset({element, disk})) is None
    [found] = [device for _element, device in filesystems(back) if device.tag == "new"]
    assert found == wanted
    # Another tool confirms the result: without our elements, both definitions are the same XML.
    for tree in (root, back):
        devices = domain_xml.devices(tree)
        for ours in [
            *(one for one, device in filesystems(tree) if device.tag == "new"),
            cdrom_of(tree, "/srv/seed.iso"),
        ]:
            devices.remove(ours)
        ports = [one for one in devices.findall("controller") if one.get("type") in ("pci", "sata", "ide")]
        for port in ports:
            devices.remove(port)  # libvirt may have added one
        backing = tree.find("memoryBacking")
        if backing is not None:
            backing[:] = sorted(backing, key=lambda child: child.tag)
    root[:] = sorted(root, key=lambda child: str(child.tag))
    back[:] = sorted(back, key=lambda child: str(child.tag))
    assert canonical(domain_xml.to_text(back)) == canonical(domain_xml.to_text(root))
