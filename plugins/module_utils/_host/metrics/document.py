# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The XML document of metrics, with the names and units of vhostmd(8) and the metrics of KubeVirt.

Most of a document is the same for all virtual machines of a host. So a document is composed of two parts.
"""

from __future__ import annotations

from html import escape

from ..._model.metrics import HostFigures, HostIdentity, VmFigures

#: The document of a virtual machine whose figures are unknown.
UNAVAILABLE = b"<metrics><!-- host metrics not available --><!-- VM metrics not available --></metrics>"

#: The document before the first update.
EMPTY = b"<metrics></metrics>"

#: The value of HostSystemInfo.
SYSTEM = "linux"

#: The value of VirtualizationVendor. Programs in guests recognize metrics of this kind by it.
VENDOR = "kubevirt.io"


class HostDocument:
    """The part of the document that is the same for all virtual machines of a host."""

    def __init__(self, identity: HostIdentity, figures: HostFigures) -> None:
        names = (
            _metric("string", "host", "HostName", identity.name),
            _metric("string", "host", "HostSystemInfo", SYSTEM),
            _metric("string", "host", "VirtualizationVendor", VENDOR),
            _metric("string", "host", "VirtProductInfo", identity.product),
        )
        numbers = (
            _metric("int64", "host", "NumberOfPhysicalCPUs", figures.processors),
            _metric("real64", "host", "TotalCPUTime", _real(figures.cpu_seconds), "s"),
            _metric("uint64", "host", "FreePhysicalMemory", figures.free_memory, "KiB"),
            _metric("uint64", "host", "FreeVirtualMemory", figures.free_virtual_memory, "KiB"),
            _metric("uint64", "host", "MemoryAllocatedToVirtualServers", figures.used_memory, "KiB"),
            _metric("uint64", "host", "UsedVirtualMemory", figures.used_virtual_memory, "KiB"),
            _metric("uint64", "host", "PagedInMemory", figures.paged_in, "KiB"),
            _metric("uint64", "host", "PagedOutMemory", figures.paged_out, "KiB"),
            _metric("int64", "host", "Time", figures.time, "s"),
        )
        self._before = "".join(("<metrics>\n", *names)).encode()
        self._after = "".join((*numbers, "</metrics>")).encode()

    def with_vm(self, figures: VmFigures) -> bytes:
        """Return the document for a virtual machine, without a line end after its last line."""
        metrics = (
            _metric("real64", "vm", "TotalCPUTime", _real(figures.cpu_seconds), "s"),
            _metric("int64", "vm", "ResourceProcessorLimit", figures.processors),
            _metric("uint64", "vm", "PhysicalMemoryAllocatedToVirtualSystem", figures.memory, "KiB"),
            _metric("uint64", "vm", "ResourceMemoryLimit", figures.memory, "KiB"),
        )
        return b"".join((self._before, "".join(metrics).encode(), self._after))


def _metric(kind: str, context: str, name: str, value: object, unit: str = "") -> str:
    suffix = f' unit="{unit}"' if unit else ""
    return (
        f'  <metric type="{kind}" context="{context}"{suffix}>\n'
        f"    <name>{name}</name>\n"
        f"    <value>{escape(str(value), quote=False)}</value>\n"
        "  </metric>\n"
    )


def _real(number: float) -> str:
    return f"{number:.6f}"


__all__ = ["EMPTY", "UNAVAILABLE", "HostDocument"]
