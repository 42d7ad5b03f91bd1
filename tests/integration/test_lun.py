# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest sends SCSI commands to a lun, on a host with a kernel of its own.

The SCSI devices of the host belong to the kernel's SCSI target (LIO) on the same host. The target keeps reservations.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Lab, images, trees
from lab.initramfs import Entry, build_archive

TARGET = "/sys/kernel/config/target"
FABRIC = f"{TARGET}/loopback/naa.5001405000000001/tpgt_1"
#: Gives the host a SCSI disk of each name. A disk is the name's file, and its serial number is the name.
CREATE = f"""
modprobe -a tcm_loop target_core_file sd_mod
mount -t configfs none /sys/kernel/config
mkdir -p {FABRIC} "$(cat {TARGET}/dbroot)/pr"
echo naa.5001405000000002 >{FABRIC}/nexus
number=0
for name; do
    disk={TARGET}/core/fileio_0/$name lun={FABRIC}/lun/lun_$((number++))
    mkdir -p "$disk" "$lun"
    truncate -s 16M "/srv/$name.img"
    echo "fd_dev_name=/srv/$name.img,fd_dev_size=$((16 << 20))" >"$disk/control"
    echo "$name" >"$disk/wwn/vpd_unit_serial"
    echo 1 >"$disk/enable"
    ln -s "$disk" "$lun/disk"
done
until [ "$(ls -d /sys/block/sd* | wc -l)" = $# ]; do sleep 0.1; done
for disk in /sys/block/sd*; do
    echo "$(tail -c +5 "$disk/device/vpd_pg80" | tr -d '\\0') /dev/${{disk##*/}}"
done
"""
#: The domain has nothing but its luns and a console.
DOMAIN = """
<domain type='qemu'>
  <name>lun</name>
  <memory unit='MiB'>128</memory>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>/srv/guest/vmlinuz</kernel>
    <initrd>/srv/guest/initrd</initrd>
    <cmdline>console=ttyS0 quiet no_timer_check mitigations=off nokaslr</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
  <devices>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='/srv/guest/console.log'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t sysfs sys /sys
for module in /modules/*; do /bin/busybox insmod $module; done
until [ -e /dev/sdb ]; do /bin/busybox sleep 0.1; done
/usr/bin/python3 -I -S /lun_guest.py
/bin/busybox poweroff -f
"""
#: Modules of Python that the interpreter and the guest's program need.
LIBRARY = ("encodings/__init__", "encodings/aliases", "encodings/utf_8", "os", "struct")
LIBRARY += ("_collections_abc", "collections/__init__", "keyword", "operator", "reprlib")
#: Modules of the guest's kernel.
MODULES = ("virtio_scsi", "sd_mod")
#: The interpreter with its libraries, by their paths in the guest.
LIBRARIES = "lib/x86_64-linux-gnu"
PYTHON = {
    "usr/bin/python3": "usr/bin/python3",
    "lib64/ld-linux-x86-64.so.2": f"usr/{LIBRARIES}/ld-linux-x86-64.so.2",
    **{
        f"{LIBRARIES}/{name}": f"usr/{LIBRARIES}/{name}"
        for name in ("libc.so.6", "libexpat.so.1", "libm.so.6", "libz.so.1")
    },
}


def guest_files() -> bytes:
    """Return an archive with the kernel and the initramfs of the guest."""
    tree = trees.build_tree("guest")
    [drivers] = (tree / "usr/lib/modules").iterdir()
    [library] = tree.glob("usr/lib/python3.*")
    own = {path: (tree / source).resolve() for path, source in PYTHON.items()}
    own["bin/busybox"] = tree / "usr/bin/busybox"
    own["lun_guest.py"] = Path(__file__).parents[1] / "lun_guest.py"
    own.update({f"{library.relative_to(tree)}/{name}.py": library / f"{name}.py" for name in LIBRARY})
    order = images.order_modules((drivers / "modules.dep").read_text(encoding="ascii"), MODULES)
    entries = [
        Entry("init", INIT.encode(), 0o755),
        *(Entry(path, source.read_bytes(), 0o755) for path, source in own.items()),
        *(
            Entry(f"modules/{number:02}.ko", lzma.decompress((drivers / one).read_bytes()))
            for number, one in enumerate(order)
        ),
    ]
    kernel = (images.build_guest_image("guest") / "vmlinuz").read_bytes()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in (("vmlinuz", kernel), ("initrd", build_archive(entries))):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def test_scsi_commands_pass_through_a_lun(
    lab_factory: Callable[[dict[str, Any]], Lab],
    tasks_in: Callable[[Lab], Callable[..., list[dict[str, Any]]]],
    execute_in: Callable[[Lab], Callable[..., str]],
) -> None:
    site = lab_factory({"name": f"lun-{os.getpid()}", "hosts": {"hv1": {"kind": "uml", "memory": 512}}})
    execute = execute_in(site)
    disks = execute("hv1", "bash", "-euc", CREATE, "create", "plain", "reserved").split()
    paths = dict(zip(disks[::2], disks[1::2], strict=True))
    site.ssh("hv1", "mkdir -p /srv/guest; tar -x -C /srv/guest", stdin=guest_files())
    execute("hv1", "virsh", "define", "--validate", "/dev/stdin", stdin=DOMAIN, deadline=180)
    claims = [
        {"id": number, "name": name, "path": paths[name], "format": "raw", "persistent": True, "read_only": False}
        for number, name in enumerate(paths)
    ]
    options = {
        "domain": "lun",
        "disks": [{"name": "plain", "lun": {}}, {"name": "reserved", "lun": {"reservation": True}}],
        "volumes": [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in paths],
        "claims": claims,
    }
    done, again = tasks_in(site)(("domain_volumes", options, False), ("domain_volumes", options, False))
    assert [one.get("msg") for one in (done, again)] == [None] * 2
    assert (done["changed"], again["changed"]) == (True, False)

    execute("hv1", "virsh", "start", "lun", deadline=180)
    execute("hv1", "sh", "-c", "tail --pid=$(cat /run/libvirt/qemu/lun.pid) -f /dev/null", deadline=180)
    printed = execute("hv1", "cat", "/srv/guest/console.log")
    assert printed.count("{") == 2, printed
    found = {one["serial"]: one for one in (json.loads(line) for line in printed.splitlines() if "{" in line)}
    assert found.keys() == {"plain", "reserved"}
    assert {one["vendor"] for one in found.values()} == {"LIO-ORG "}
    # The host's kernel lets only the helper of a reservation send these commands.
    assert all(found["plain"]["statuses"])
    assert (found["reserved"]["statuses"], found["reserved"]["key"]) == ([0, 0, 0], "0000000000001234")
    holders = {name: execute("hv1", "cat", f"{TARGET}/core/fileio_0/{name}/pr/res_holder") for name in paths}
    assert "naa.5001405000000002" not in holders["plain"] and "naa.5001405000000002" in holders["reserved"]
    for name in paths:
        assert execute("hv1", "head", "-c", "18", f"/srv/{name}.img") == "the guest was here"
