# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of KubeVirt's guide (spec: kubevirt-disks-and-volumes), and the devices of each.

Each disk is written as ``name device/bus target format cache``, and then its other properties.
"""

from __future__ import annotations

import json
from pathlib import Path

DIRECTORY = Path(__file__).parent / "unit" / "_volume" / "examples"
EXAMPLES = {path.stem: json.loads(path.read_text()) for path in DIRECTORY.glob("*.json")}

#: Blocks of the guide whose claim is a block device, because a lun needs one.
ON_BLOCK = {"lun", "claim", "cloud-init-config-drive", "cloud-init-no-cloud", "shareable"}

CONTAINER = "containerdisk disk/virtio vda qcow2 none"
CLOUD_INIT = "cloudinitdisk disk/virtio vdb raw none"
AUTOMATIC = "cloudinitdisk disk/sata sda raw none"
THREADS = {
    "shared": (3, (1, 2, 3, 1, 1, 1, 1)),
    "auto": (4, (1, 3, 4, 2, 1, 2, 1)),
}

EXPECTED: dict[str, list[str]] = {
    "cache-writethrough": ["pvcdisk disk/virtio vda raw writethrough"],
    "cdrom": ["mypvcdisk cdrom/sata sda raw none read_only=False"],
    "claim": ["mypvcdisk lun/scsi sda raw none io=native"],
    "claim-filesystem": [CONTAINER, CLOUD_INIT, "filesystem virtiofs-disk"],
    "cloud-init-config-drive": [
        "mybootdisk lun/scsi sda raw none io=native",
        "myconfigdrivedisk disk/sata sdb raw none",
    ],
    "cloud-init-no-cloud": ["mybootdisk lun/scsi sda raw none io=native", "mynoclouddisk disk/sata sdb raw none"],
    "config-map-disk": [CONTAINER, CLOUD_INIT, "app-config-disk disk/sata sda raw none serial=CVLY623300HK240D"],
    "config-map-filesystem": [CONTAINER, AUTOMATIC, "filesystem config-fs"],
    "container-disk": ["containerdisk disk/sata sda qcow2 none"],
    "container-disk-path": ["containerdisk disk/sata sda qcow2 none"],
    "data-volume": ["disk1 disk/virtio vda raw none"],
    "data-volume-of-a-vm": ["datavolumedisk1 disk/virtio vda raw none"],
    "disk": ["mypvcdisk disk/sata sda raw none"],
    "disk-bus": ["mypvcdisk disk/virtio vda raw none"],
    "downward-metrics-disk": [CONTAINER, "metrics disk/virtio vdb raw none discard=None read_only=True"],
    "downward-metrics-port": [CONTAINER, "port"],
    "empty-disk": [CONTAINER, "emptydisk disk/virtio vdb qcow2 none"],
    "host-disk": ["host-disk disk/virtio vda raw none"],
    "lun": ["mypvcdisk lun/scsi sda raw none io=native"],
    "multi-queue": ["mypvcdisk disk/virtio vda raw none queues=4"],
    "node-directory": [CONTAINER, CLOUD_INIT, "filesystem vm-hostpath"],
    "secret-disk": [CONTAINER, CLOUD_INIT, "app-secret-disk disk/sata sda raw none serial=D23YZ9W6WA5DJ487"],
    "secret-filesystem": [CONTAINER, AUTOMATIC, "filesystem app-secret-fs"],
    "service-account-disk": ["containerdisk disk/sata sda qcow2 none", "serviceaccountdisk disk/sata sdb raw none"],
    "service-account-filesystem": [CONTAINER, AUTOMATIC, "filesystem serviceaccount-fs"],
    "shareable": [CONTAINER, CLOUD_INIT, "block-disk disk/virtio vdc raw none io=native shareable=True"],
}
