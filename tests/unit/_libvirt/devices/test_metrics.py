# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The convention by which devices for metrics are recognized."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.metrics import (
    MetricsDevices,
    find_metrics_devices,
)
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.domain_xml import parse
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import metrics_file

UUID = "d491271a-7fb7-473d-bbbd-d015e48d8f31"
FILE = f"/var/lib/libvirt/granary-vmstore/downward-metrics/{UUID}/vhostmd0"
SOCKET = "/run/libvirt/qemu/channel/1-a/org.github.vhostmd.1"
DISK = """<disk type='file' device='disk'><driver name='qemu' type='{type}'/><source file='{file}'/>
    <target dev='vdb' bus='virtio'/><readonly/><alias name='ua-metrics'/></disk>"""
CHANNEL = """<channel type='{type}'><source mode='{mode}'{path}/>
    <target type='{target}' name='{name}' state='connected'/></channel>"""


def disk(file: str = FILE, type: str = "raw") -> str:
    return DISK.format(file=file, type=type)


def channel(**changes: str) -> str:
    given = {"type": "unix", "mode": "bind", "path": f" path='{SOCKET}'", "target": "virtio"}
    return CHANNEL.format(**{**given, "name": "org.github.vhostmd.1", **changes})


def find(*devices: str) -> MetricsDevices | None:
    return find_metrics_devices(
        parse(f"<domain><uuid>{UUID}</uuid><devices><disk type='file'/>{''.join(devices)}</devices></domain>")
    )


def test_the_devices_are_found() -> None:
    assert metrics_file(UUID) == FILE
    assert find(disk()) == MetricsDevices(True, None)
    assert find(channel()) == MetricsDevices(False, SOCKET)
    assert find(channel(name="org.qemu.guest_agent.0"), channel(), disk("/srv/a"), disk()) == MetricsDevices(
        True, SOCKET
    )


@pytest.mark.parametrize(
    "device",
    [
        disk(FILE.replace("d491", "d492")),
        disk(FILE + ".1"),
        disk(type="qcow2"),
        disk("/srv" + FILE),
        channel(type="pty"),
        channel(mode="connect"),
        channel(target="guestfwd"),
        channel(name="org.github.vhostmd.2"),
        channel(path=""),
    ],
)
def test_other_devices_are_left_alone(device: str) -> None:
    """A copy of a domain, with another UUID, has the disk of the first domain."""
    assert find(device) is None
