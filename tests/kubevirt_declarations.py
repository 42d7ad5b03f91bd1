# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated declarations of disks, filesystems and volumes, for property tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import DiskLayer
from ansible_collections.granary.vmstore.plugins.module_utils._volume.reading.readers import camel_case
from hypothesis import strategies as st

FILE = DiskLayer("/v/a.img")

SOURCES = {
    "persistent_volume_claim": lambda name: {"claim_name": name},
    "data_volume": lambda name: {"name": name},
    "ephemeral": lambda name: {"persistent_volume_claim": {"claim_name": name}},
    "container_disk": lambda name: {"image": f"registry.example/{name}:1"},
    "empty_disk": lambda name: {"capacity": "1Gi"},
    "host_disk": lambda name: {"path": f"/data/{name}.img", "type": "Disk"},
    "cloud_init_no_cloud": lambda name: {"user_data": "x"},
    "config_map": lambda name: {"name": name, "optional": True},
}
#: Sources whose disk can be a lun or shareable.
CLAIMS = ("persistent_volume_claim", "data_volume")


def some(draw: st.DrawFn, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Return some of the options, each in one of its spellings."""
    chosen = draw(st.sets(st.sampled_from(sorted(options))))
    found = {}
    for name in sorted(chosen):
        found[draw(st.sampled_from([name, camel_case(name)]))] = draw(options[name])
    return found


@st.composite
def declarations(draw: st.DrawFn) -> dict[str, Any]:
    """Return a declaration that every rule accepts."""
    disks, volumes, shared = [], [], []
    for place in range(draw(st.integers(0, 6))):
        name = f"v{place}"
        kind = draw(st.sampled_from(sorted(SOURCES)))
        volumes.append({"name": name, kind: SOURCES[kind](name), **some(draw, thick=st.booleans())})
        if kind in (*CLAIMS, "config_map") and draw(st.booleans()):
            shared.append({"name": name, "virtiofs": some(draw, cache=st.sampled_from(["auto", "always"]))})
        elif draw(st.booleans()):
            disks.append({"name": name, **draw(devices(kind)), **draw(properties(place))})
    policy = st.sampled_from(["shared", "auto"])
    flags = some(draw, block_multi_queue=st.booleans(), disable_hotplug=st.booleans(), io_threads_policy=policy)
    return {"disks": disks, "filesystems": shared, "volumes": volumes, **flags}


@st.composite
def devices(draw: st.DrawFn, source: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["disk", "cdrom", "lun"] if source in CLAIMS else ["disk", "cdrom"]))
    if kind == "lun":
        return {"lun": some(draw, reservation=st.booleans(), read_only=st.booleans())}
    if kind == "cdrom":
        options = {"bus": st.sampled_from(["sata", "scsi", "usb"]), "tray": st.sampled_from(["open", "closed"])}
        return {"cdrom": some(draw, **options)}
    bus = draw(st.sampled_from(["virtio", "scsi"]))
    threads = some(draw, dedicated_io_thread=st.booleans()) if bus == "virtio" else {}
    size = {"custom": {"logical": 512, "physical": draw(st.sampled_from([512, 4096]))}}
    return {
        "disk": {"bus": bus, **some(draw, read_only=st.booleans())},
        **threads,
        **some(draw, block_size=st.just(size)),
    }


@st.composite
def properties(draw: st.DrawFn, place: int) -> dict[str, Any]:
    return some(
        draw,
        boot_order=st.just(place + 1),
        cache=st.sampled_from(["none", "writeback", "writethrough", "directsync"]),
        io=st.just("threads"),
        error_policy=st.sampled_from(["stop", "report", "ignore", "enospace"]),
        tag=st.just("x"),
    )


def is_claim(volume: Mapping[str, Any]) -> bool:
    """Return whether a generated volume can be the data of a lun."""
    return any(kind in volume for kind in CLAIMS)
