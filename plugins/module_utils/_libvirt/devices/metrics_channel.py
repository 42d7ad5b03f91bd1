# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ``<channel>`` device at which a guest reads metrics of its host, in the protocol of vhostmd."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..domain_xml import attribute, devices

#: The name of the port in the guest. The file is ``/dev/virtio-ports/org.github.vhostmd.1``.
PORT = "org.github.vhostmd.1"


def find_metrics_channel(root: ET.Element) -> ET.Element | None:
    """Return the channel with the port for metrics; ``None`` without such a channel."""
    channels = devices(root).findall("channel")
    return next((one for one in channels if attribute(one, "target", "name") == PORT), None)


def create_metrics_channel(socket: str) -> ET.Element:
    """Return a new channel for which QEMU listens at the path ``socket``."""
    channel = ET.Element("channel", {"type": "unix"})
    ET.SubElement(channel, "source", {"mode": "bind", "path": socket})
    ET.SubElement(channel, "target", {"type": "virtio", "name": PORT})
    return channel


__all__ = ["PORT", "create_metrics_channel", "find_metrics_channel"]
