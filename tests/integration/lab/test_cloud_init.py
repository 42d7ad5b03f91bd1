# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A guest with real cloud-init takes a NoCloud seed at its first boot, and what it wrote holds at the second."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab

SPEC: dict[str, Any] = {"name": "cloud", "hosts": {"hv1": {"kind": "debian13"}},
                        "guests": {"c1": {"host": "hv1", "cloud_init": True, "running": False, "shared_memory": True}}}

SEED = """
set -e
mkdir -p /srv/data /root/seed && cd /root/seed
printf 'instance-id: first\\n' > meta-data
cat > user-data <<'END'
#cloud-config
mounts:
  - [one-3, /mnt/one-fs-3, virtiofs, "ro,nofail", "0", "0"]
  - [one-4, "/mnt/with\\\\040blank", virtiofs, "nofail,x-mount.mkdir", "0", "0"]
END
xorriso -as genisoimage -quiet -volid cidata -joliet -rock -output /var/lib/libvirt/images/seed.iso user-data meta-data
virsh attach-disk c1 /var/lib/libvirt/images/seed.iso sda --targetbus sata --type cdrom --mode readonly --config
for tag in one-3 one-4; do
    echo "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/data'/><target dir='$tag'/></filesystem>" > fs.xml
    virsh attach-device c1 fs.xml --config
done
"""


@pytest.fixture(scope="module")
def lab(lab_factory: Any) -> Iterator[Lab]:
    lab = lab_factory(SPEC)
    lab.ssh("hv1", "bash -s", stdin=SEED.encode())
    yield lab
    lab.down()


def report(lab: Lab) -> list[str]:
    """What the guest said about itself in the boot that it made now."""
    guest = lab.guest("c1")
    offset = guest.console_size()
    guest.start()
    guest.wait_ready(offset)
    console = lab.ssh("hv1", "tail", "-c", f"+{offset + 1}", guest.console).replace("\r", "")
    guest.stop()
    return console.partition("lab: report begins")[2].splitlines()


def test_the_seed_mounts_at_the_first_boot_and_at_the_next(lab: Lab) -> None:
    first = report(lab)
    assert "detail: DataSourceNoCloud [seed=/dev/sr0]" in first
    assert "status: done" in first
    assert "/mnt/one-fs-3 one-3 virtiofs ro,relatime" in first
    assert r"/mnt/with\x20blank one-4 virtiofs rw,relatime" in first
    second = report(lab)
    assert "/mnt/one-fs-3 one-3 virtiofs ro,relatime" in second
    assert r"/mnt/with\x20blank one-4 virtiofs rw,relatime" in second
