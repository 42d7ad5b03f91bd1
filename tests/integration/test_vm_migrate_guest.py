# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that writes sequence numbers to a disk and to a virtiofs mount while vm_migrate moves it there and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from documentation import block
from lab import Lab
from migrating_vm import HOSTS, ROOT_IMAGE, Execute, Tasks, Vm, prepare_guest

MARKER = "11111111-2222-3333-4444-555555555555"
EXPORT = """
<filesystem type='mount' accessmode='passthrough'>
  <driver type='virtiofs'/><source dir='/srv/store/web'/><target dir='web'/>
</filesystem>
"""

#: Program of the guest: it writes each number to a disk, reads the number, and adds a line to a file of the host.
WRITE = """
i=0
while [ ! -e /tmp/stop ]; do
    i=$((i + 1)) text=$(printf %016d $i)
    printf $text | dd of=/dev/vdb bs=512 seek=$((i % 64)) conv=notrunc,fsync 2>/dev/null || echo $i >>/mnt/errors
    found=$(dd if=/dev/vdb bs=512 skip=$((i % 64)) count=1 iflag=direct 2>/dev/null | head -c 16)
    [ "$found" = $text ] || echo $i "$found" >>/mnt/errors
    echo $i >>/mnt/log
done
"""

#: Shell loop that waits for five lines in a file.
GROWS = 'for i in $(seq 600); do [ $(wc -l <"$0") -ge 5 ] && exit; sleep 0.1; done; exit 1'


@pytest.fixture
def writer(migration_lab: Lab, migration_execute: Execute, migration_tasks: Tasks) -> Iterator[Vm]:
    """Return a VM with a running guest on hv1, whose disks are those of the catalog."""
    execute, guest = migration_execute, migration_lab.guest("writer")
    for host in HOSTS:
        execute(host, "sh", "-c", f"mkdir -p /srv/store/web; echo {MARKER} > /srv/store/.granary-store")
        execute(host, "sh", "-c", "rm -f /srv/store/web/*; touch /srv/store/web/log")
    prepare_guest(execute, guest.name, EXPORT)
    image = {"name": "root", "datastore": "default", "type": "os", "path": ROOT_IMAGE, "format": "raw"}
    disks = [{"image": "root", "attach": {}}, {"size": "1M", "format": "raw", "attach": {}}]
    options = {"vm": "guest", "domain": guest.name, "host": "hv1", "datastore": "copied", "disks": disks}
    results = migration_tasks(("image", image, False), ("vm_disk", options, False))
    assert [one.get("msg") for one in results] == [None] * 2
    vm = Vm(execute, migration_tasks, "guest", results[1])
    guest.start()
    guest.wait_ready()
    yield vm
    for host in HOSTS:
        execute(host, "sh", "-c", 'virsh destroy "$0"; virsh undefine "$0"', guest.name, check=False)
    migration_tasks(("vm_disk", {"vm": "guest", "state": "absent"}, False))


def test_a_guest_writes_on_while_its_host_changes(writer: Vm, migration_lab: Lab, migration_tasks: Tasks) -> None:
    migration_lab.ssh("writer", f"mount -t virtiofs web /mnt; ({WRITE}) </dev/null >/dev/null 2>&1 &")
    writer.run("hv1", "sh", "-c", GROWS, "/srv/store/web/log", deadline=120)
    text = block("docs/vm-disks.md", "Move a running VM").text.replace("web", "guest").replace("host02", "hv2")
    [task] = yaml.safe_load(text)
    [done] = migration_tasks(("vm_migrate", task["granary.vmstore.vm_migrate"], False))
    assert done.get("mode") == "live", done
    writer.run("hv2", "sh", "-c", GROWS, "/srv/store/web/log", deadline=120)
    writer.require_on("hv2")
    there = writer.run("hv1", "wc", "-l", "/srv/store/web/log").split()[0]
    assert writer.migrate("hv1").get("changed")
    writer.require_on("hv1")
    migration_lab.ssh(
        "writer", "touch /tmp/stop; while pgrep -x dd; do sleep 0.1; done; sync; umount /mnt", deadline=120
    )
    first, second = ([int(line) for line in writer.run(host, "cat", "/srv/store/web/log").split()] for host in HOSTS)
    # The directories of the hosts differ in fact, so each has the lines of its own time.
    assert first[: int(there)] == [*range(1, int(there) + 1)]
    assert sorted(first + second) == [*range(1, len(first) + len(second) + 1)]
    assert [writer.run(host, "ls", "/srv/store/web").split() for host in HOSTS] == [["log"]] * 2
