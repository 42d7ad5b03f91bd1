# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of metrics: the metrics of KubeVirt, in the XML of vhostmd(8)."""

from __future__ import annotations

from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.document import EMPTY, HostDocument
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import (
    HostFigures,
    HostIdentity,
    VmFigures,
)
from metrics_reader import metrics_of

HOST = HostFigures(
    processors=2,
    cpu_seconds=12.5,
    free_memory=10,
    free_virtual_memory=11,
    used_memory=12,
    used_virtual_memory=13,
    paged_in=14,
    paged_out=15,
    time=1619008605,
)
VM = VmFigures(cpu_seconds=1 / 3, processors=4, memory=1048576)


def test_a_document_has_all_metrics_in_order() -> None:
    document = HostDocument(HostIdentity("node01", "10.0.2"), HOST).with_vm(VM)
    assert metrics_of(document) == [
        ("host", "HostName", "string", "", "node01"),
        ("host", "HostSystemInfo", "string", "", "linux"),
        ("host", "VirtualizationVendor", "string", "", "kubevirt.io"),
        ("host", "VirtProductInfo", "string", "", "10.0.2"),
        ("vm", "TotalCPUTime", "real64", "s", "0.333333"),
        ("vm", "ResourceProcessorLimit", "int64", "", "4"),
        ("vm", "PhysicalMemoryAllocatedToVirtualSystem", "uint64", "KiB", "1048576"),
        ("vm", "ResourceMemoryLimit", "uint64", "KiB", "1048576"),
        ("host", "NumberOfPhysicalCPUs", "int64", "", "2"),
        ("host", "TotalCPUTime", "real64", "s", "12.500000"),
        ("host", "FreePhysicalMemory", "uint64", "KiB", "10"),
        ("host", "FreeVirtualMemory", "uint64", "KiB", "11"),
        ("host", "MemoryAllocatedToVirtualServers", "uint64", "KiB", "12"),
        ("host", "UsedVirtualMemory", "uint64", "KiB", "13"),
        ("host", "PagedInMemory", "uint64", "KiB", "14"),
        ("host", "PagedOutMemory", "uint64", "KiB", "15"),
        ("host", "Time", "int64", "s", "1619008605"),
    ]


def test_a_document_is_indented() -> None:
    document = HostDocument(HostIdentity("node01", "10.0.2"), HOST).with_vm(VM)
    first = '<metrics>\n  <metric type="string" context="host">\n    <name>HostName</name>\n    <value>node01</value>\n'
    assert document.startswith(f"{first}  </metric>\n".encode())
    last = b'  <metric type="int64" context="host" unit="s">\n    <name>Time</name>\n    <value>1619008605</value>\n'
    assert document.endswith(last + b"  </metric>\n</metrics>")


def test_names_are_escaped() -> None:
    document = HostDocument(HostIdentity("a<&>\"'é", "1"), HOST).with_vm(VM)
    assert metrics_of(document)[0][-1] == "a<&>\"'é"


def test_an_empty_document_has_no_metrics() -> None:
    assert metrics_of(EMPTY) == []
