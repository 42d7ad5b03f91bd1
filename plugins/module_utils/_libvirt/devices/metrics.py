# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The devices by which a guest reads metrics: a disk, and a port of virtio-serial.

The convention by which they are recognized in the XML of a domain: the disk has the file of :func:`metrics_file`, and
the port has the name :data:`.metrics_channel.PORT`. So a copy of a domain, which has another UUID, never gets the
metrics of the first.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..._core.records import dataclass
from ..._model.metrics import METRICS_DIRECTORY, metrics_file
from ..domain_xml import attribute
from .metrics_channel import PORT


@dataclass(frozen=True)
class MetricsDevices:
    """The devices of a domain.

    :arg has_disk: whether the domain has the disk.
    :arg socket: path of the socket on which QEMU listens for the port; ``None`` without a port.
    """

    has_disk: bool
    socket: str | None


def find_metrics_devices(root: ET.Element, directory: str = METRICS_DIRECTORY) -> MetricsDevices | None:
    """Return the devices of a running domain; ``None`` for a domain without any.

    :arg root: the XML of the domain.
    :arg directory: directory of the files.
    """
    file = metrics_file(root.findtext("uuid", "").strip(), directory)
    has_disk = any(
        (disk.get("type"), attribute(disk, "driver", "type"), attribute(disk, "source", "file"))
        == ("file", "raw", file)
        for disk in root.iterfind("devices/disk")
    )
    sockets = (
        attribute(channel, "source", "path")
        for channel in root.iterfind("devices/channel")
        if (channel.get("type"), attribute(channel, "source", "mode")) == ("unix", "bind")
        and (attribute(channel, "target", "type"), attribute(channel, "target", "name")) == ("virtio", PORT)
    )
    path = next(filter(None, sockets), None)
    return MetricsDevices(has_disk, path) if has_disk or path else None


__all__ = ["MetricsDevices", "find_metrics_devices"]
