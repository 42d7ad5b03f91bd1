# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The threads of a domain for input and output, and the host's processors that they run on."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping

from ..domain_xml import drop_empty_child, obtain_child


def count_io_threads(root: ET.Element) -> int:
    """Return the number of threads in a definition."""
    return int(root.findtext("iothreads") or "0")


def set_io_threads(root: ET.Element, count: int, pins: Mapping[int, str]) -> None:
    """Set the number of threads and, by the number of a thread, the host's processors that it runs on.

    :arg pins: sets of processors as libvirt has them, such as ``2-3,6``. Other threads aren't pinned.
    """
    obtain_child(root, "iothreads").text = str(count)
    if count == 0:
        root.remove(obtain_child(root, "iothreads"))
    tuning = obtain_child(root, "cputune")
    others = [child for child in tuning if child.tag != "iothreadpin"]
    tuning[:] = [
        *others,
        *(
            ET.Element("iothreadpin", {"iothread": str(number), "cpuset": processors})
            for number, processors in sorted(pins.items())
        ),
    ]
    drop_empty_child(root, "cputune")


__all__ = ["count_io_threads", "set_io_threads"]
