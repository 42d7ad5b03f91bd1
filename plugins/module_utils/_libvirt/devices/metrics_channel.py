# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``<channel>`` device at which a guest reads metrics of its host, in the protocol of vhostmd."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import attribute, devices
from .alias import name_of, set_name

#: The name of the port in the guest. The file is ``/dev/virtio-ports/org.github.vhostmd.1``.
PORT = "org.github.vhostmd.1"

#: The name in the alias of a channel of this collection.
_NAME = "downward-metrics"


def find_metrics_channel(root: ET.Element) -> ET.Element | None:
    """Return the channel with the port for metrics; ``None`` without such a channel."""
    channels = devices(root).findall("channel")
    return next((one for one in channels if attribute(one, "target", "name") == PORT), None)


def create_metrics_channel(socket: str | None = None) -> ET.Element:
    """Return a new channel for which QEMU listens at the path ``socket``. libvirt chooses the path by default."""
    channel = ET.Element("channel", {"type": "unix"})
    if socket is not None:  # libvirt would drop an element without a path
        ET.SubElement(channel, "source", {"mode": "bind", "path": socket})
    ET.SubElement(channel, "target", {"type": "virtio", "name": PORT})
    set_name(channel, _NAME)
    return channel


def is_own_channel(channel: ET.Element) -> bool:
    """Return whether :func:`create_metrics_channel` has made a channel."""
    return name_of(channel) == _NAME


__all__ = ["PORT", "create_metrics_channel", "find_metrics_channel", "is_own_channel"]
