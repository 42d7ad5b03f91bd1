# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of both hosts before a migration, run by the engine on hosts with real libvirt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from lab import Lab
from migrating_vm import HOSTS, Execute
from running_disks import DOMAIN, LIBRARY, PORT

#: Program that runs a check of a host: its standard input has the name and the arguments of the check.
CHECK = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.plain import to_plain
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.domain_migration_protocol import (
    KINDS, perform)
from ansible_collections.granary.vmstore.plugins.module_utils._remote.wire import decode
name, *arguments = decode(sys.stdin.readline(), KINDS)
print(json.dumps(to_plain(perform(name, *arguments, log=print))))
"""


@pytest.fixture(scope="module")
def execute(migration_execute: Execute) -> Execute:
    return migration_execute


@pytest.fixture(scope="module")
def check(migration_lab: Lab, execute: Execute, engine_in: Callable[..., None]) -> Callable[..., Any]:
    """Return a function that runs a check on a host."""
    engine_in(migration_lab, *HOSTS)

    def run(host: str, *request: Any) -> Any:
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", CHECK]
        return json.loads(execute(host, *command, stdin=json.dumps(request)))

    return run


MARKER = "11111111-2222-3333-4444-555555555555"

#: Devices that keep a domain on its host.
DEVICES = """
<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='9' slot='0' function='0'/></source></hostdev>
<interface type='hostdev'><source><address type='pci' domain='0' bus='9' slot='1' function='0'/></source></interface>
<filesystem type='mount'><source dir='/srv/nine'/><target dir='nine'/></filesystem>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/store/web'/><target dir='web'/></filesystem>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/alone'/><target dir='alone'/></filesystem>
<disk type='block' device='disk'><source dev='/dev/null'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/srv/vm/disk.0'/><target dev='vdb' bus='virtio'/></disk>
<disk type='file' device='disk'><source file='/srv/vm/disk.2.snap/3'/><target dev='vdc' bus='virtio'/><readonly/></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>
"""


def test_what_stays_on_the_host(check: Callable[..., Any], execute: Execute) -> None:
    memory = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    ports = "".join(PORT.format(number) for number in range(1, 9))
    text = DOMAIN.format("stays", memory, ports + DEVICES)
    execute("hv1", "sh", "-c", f"mkdir -p /srv/store/web; echo {MARKER} > /srv/store/.granary-store")
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=text)
    try:
        found = check("hv1", "check_departure", "stays", "/srv/vm", False)
        assert found["reasons"] == [
            "The domain has a device of the host (hostdev, pci), which stays on its host.",
            "The domain has a network device of the host (interface, hostdev), which stays on its host.",
            "The domain has the TPM of the host, which stays on its host.",
            "The domain has the file system 'nine' with another driver than virtiofs, which can't migrate.",
            "The disk 'vda' is of the type block, which stays on its host.",
            "The virtiofs source /srv/alone is in no store with a marker, which shows that both hosts have the same "
            "directory: mount it with the module shared_mount and the option marker.",
        ]
        assert found["stores"] == [{"directory": "/srv/store/web", "store": "/srv/store", "marker": MARKER}]
        assert found["written"] == [{"number": 0, "target": "vdb"}]
    finally:
        execute("hv1", "virsh", "undefine", "stays")


def test_a_saved_state_and_snapshots_keep_a_domain(check: Callable[..., Any], execute: Execute) -> None:
    disk = "<driver name='qemu' type='qcow2'/><source file='/srv/vm/disk.0'/><target dev='sda' bus='sata'/>"
    text = DOMAIN.format("saved", "", f"<disk type='file' device='disk'>{disk}</disk>")
    execute("hv1", "sh", "-c", "mkdir -p /srv/vm; qemu-img create -q -f qcow2 /srv/vm/disk.0 1M")
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=text)
    try:
        execute("hv1", "virsh", "snapshot-create-as", "saved", "first")
        execute("hv1", "virsh", "start", "saved")
        execute("hv1", "virsh", "managedsave", "saved")
        assert check("hv1", "check_departure", "saved", "/srv/vm", False)["reasons"] == [
            "The domain 'saved' has the libvirt snapshots first: remove them with 'virsh snapshot-delete'.",
            "The domain 'saved' has a saved state, which stays on its host: start the domain, or remove the state with "
            "'virsh managedsave-remove'.",
        ]
    finally:
        execute("hv1", "virsh", "undefine", "saved", "--managed-save", "--snapshots-metadata")


#: A device with ids of another user, and with ids of the user of virtiofsd.
MAPPED = """
<filesystem type='mount'><driver type='virtiofs'/><binary path='{}'/><source dir='/srv/store/web'/><target dir='web'/>
<idmap><uid start='0' target='100000' count='10'/><gid start='0' target='700000' count='10'/></idmap>
</filesystem>
"""


def arrival(text: str, *, libvirt: int = 1, qemu: int = 1, stores: Iterable[dict[str, str]] = ()) -> dict[str, Any]:
    """Return a domain that comes from another host."""
    marks = [{"is": "StoreMark", **store} for store in stores]
    departure = {"is": "Departure", "reasons": [], "xml": text, "is_left": False, "written": [], "stores": marks}
    return {**departure, "libvirt": libvirt, "qemu": qemu, "host_cpu": None, "has_autostart": False}


def test_what_a_host_lacks(check: Callable[..., Any], execute: Execute) -> None:
    devices = """
<interface type='network'><source network='nowhere'/></interface>
<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/store/web'/><target dir='web'/>
<idmap><uid start='0' target='4000000000' count='10'/><gid start='0' target='4000000000' count='10'/></idmap>
</filesystem>
"""
    text = DOMAIN.format("lacks", "", devices).replace("machine='q35'>hvm</type>", "machine='pc-q35-99'>hvm</type>{}")
    text = text.format("<kernel>/srv/none/vmlinuz</kernel>")
    cpu = "<cpu mode='custom' match='exact'><model>Skylake-Server</model></cpu>"
    stores = [{"directory": "/srv/store/web", "store": "/srv/store", "marker": MARKER}]
    execute("hv2", "sh", "-c", "mkdir -p /srv/store/web; cat /proc/sys/kernel/random/uuid > /srv/store/.granary-store")
    versions = {"libvirt": 99001002, "qemu": 98003004}
    found = check("hv2", "check_arrival", arrival(text, stores=stores, **versions), "/srv/vm", True)
    assert found[0].startswith("libvirt could not run the machine 'pc-q35-99' there: ")
    assert [re.sub(r"older there \([0-9.]+\)", "older there (*)", one) for one in found[1:]] == [
        "The network 'nowhere' does not run there.",
        "libvirt is older there (*) than at the source (99.1.2).",
        "QEMU is older there (*) than at the source (98.3.4).",
        "The file /srv/none/vmlinuz of the domain does not exist there.",
        f"The virtiofs source /srv/store/web is not the same directory there: mount the store {MARKER} on /srv/store.",
        "No user has the subordinate uids 4000000000 to 4000000009 there, which the virtiofs device 'web' maps.",
        "No user has the subordinate gids 4000000000 to 4000000009 there, which the virtiofs device 'web' maps.",
    ]
    execute("hv2", "sh", "-c", f"echo {MARKER} > /srv/store/.granary-store")
    plain = DOMAIN.format("lacks", "", "")
    assert check("hv2", "check_arrival", arrival(plain, stores=stores), "/srv/vm", True) == []
    wrapper = "/usr/local/libexec/granary-virtiofsd"
    mapped = DOMAIN.format("lacks", "", MAPPED.format(wrapper))
    settings = """
mkdir -p /etc/granary-vmstore
echo '{"user": "daemon"}' > /etc/granary-vmstore/virtiofsd.json
echo daemon:700000:10 | tee -a /etc/subuid >> /etc/subgid
"""
    execute("hv2", "sh", "-c", settings)
    try:
        found = check("hv2", "check_arrival", arrival(mapped), "/srv/vm", True)
        assert found == [
            f"The file {wrapper} of the domain does not exist there.",
            "The user 'daemon' of virtiofsd lacks the subordinate uids 100000 to 100009 there, which the virtiofs "
            "device 'web' maps.",
        ]
    finally:
        execute("hv2", "sh", "-c", "rm -r /etc/granary-vmstore; sed -i /daemon/d /etc/subuid /etc/subgid")
    execute("hv2", "rmdir", "/srv/store/web")
    [missing] = check("hv2", "check_arrival", arrival(plain, stores=stores), "/srv/vm", True)
    assert "/srv/store/web" in missing
    with_cpu = plain.replace("<features>", f"{cpu}<features>")
    assert check("hv2", "check_arrival", arrival(with_cpu), "/srv/vm", True) == [
        "The processor there lacks features of the guest's processor (Skylake-Server)."
    ]
