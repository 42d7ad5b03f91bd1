# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the live migration of a running guest to another host and back, on shared storage and with its disk.

The floor is virsh(1) with the same options of libvirt. virsh needs an empty file at the target for a disk that is
copied, and leaves the old file. The time that both steps take isn't part of the floor. Around the same command, the
actions premigrate and postmigrate of a transfer driver prepare the file and remove the old one, as a front-end calls
them.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import functools
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / ".cache" / "collections")]

from lab import Lab  # noqa: E402
from lab.spec import parse_spec  # noqa: E402
from measuring import Row, format_table, interleave, make_directory, measure_time, run  # noqa: E402
from migrating_vm import CATALOG, HOSTS, ROOT_IMAGE, STORE, connect, create_site, prepare_guest  # noqa: E402
from transfer_cluster import vm_document  # noqa: E402

#: Largest ratio to the floor.
TARGET = 1.3

LIBRARY = "/usr/local/lib/granary-bench"

REMOTES = "/var/lib/one/remotes"

#: Program of the front-end: the module without Ansible.
MIGRATE = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.migrate.service import VmMigrateService
assert VmMigrateService(json.loads(sys.argv[1])).converge().actions
"""


class Site:
    """Two hypervisors, the first of which is the front-end, with one guest."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self._playbook = directory / "play.json"
        connect(self.execute)
        self._share(directory)
        create_site(self.tasks)
        prepare_guest(self.execute, "guest")
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            engine = "ansible_collections/granary/vmstore/plugins/module_utils"
            archive.add(ROOT / "plugins" / "module_utils", engine)
        lab.ssh("hv1", f"mkdir -p {LIBRARY}; tar -x -C {LIBRARY}", stdin=data.getvalue())
        image = {"name": "root", "datastore": "default", "type": "os", "path": ROOT_IMAGE, "format": "raw"}
        self.execute("hv1", "mkdir", "-p", f"{REMOTES}/datastore", f"{REMOTES}/tm")
        drivers = {"names": [], "tm_names": ["ssh", "shared"], "remotes": REMOTES}
        self.tasks(("image", image, False), ("opennebula_drivers", drivers, False))

    def execute(self, host: str, *argv: str, stdin: str = "", check: bool = True, deadline: float = 600) -> str:
        return self.lab.ssh(host, shlex.join(argv), stdin=stdin.encode(), check=check, deadline=deadline)

    def tasks(self, *given: tuple[str, dict[str, object], bool]) -> list[dict[str, object]]:
        """Run modules on the front-end."""
        tasks = [{f"granary.vmstore.{module}": options, "check_mode": check} for module, options, check in given]
        self._playbook.write_text(json.dumps([{"hosts": "hv1", "gather_facts": False, "tasks": tasks}]))
        run([Path(sys.executable).with_name("ansible-playbook"), "-i", self.lab.inventory, self._playbook])
        return [{} for _one in given]

    def _share(self, directory: Path) -> None:
        """Mount one block device as the shared datastore of both hosts, which have one kernel."""
        device = (directory / "device").read_text().strip()
        for host in HOSTS:
            script = f"mkdir -p {STORE}/101 && mount {device} {STORE}/101 && systemctl restart libvirtd"
            line = f'shared_filesystems = [ "{STORE}/101" ]'
            self.execute(host, "sh", "-c", f'echo "$0" >> /etc/libvirt/qemu.conf; {script}', line)

    def boot(self, datastore: str) -> None:
        """Give the guest a disk in a system datastore, and start the guest."""
        options = {"vm": "guest", "host": "hv1", "datastore": datastore, "image": "root", "attach": {}}
        self.tasks(("vm_disk", options, False))
        self.lab.guest("guest").start()
        self.lab.guest("guest").wait_ready()

    def remove(self) -> None:
        self.execute("hv1", "virsh", "destroy", "guest")
        self.tasks(("vm_disk", {"vm": "guest", "state": "absent"}, False))

    def migrate(self) -> None:
        """Migrate the guest there and back, without Ansible."""
        for host in ("hv2", "hv1"):
            options = {"vm": "guest", "host": host, "mode": "live", "timeout": 600, "bandwidth": None}
            text = json.dumps({**options, "auto_converge": False, "catalog": CATALOG})
            self.execute("hv1", "env", f"PYTHONPATH={LIBRARY}", "python3", "-c", MIGRATE, text)

    def migrate_by_ansible(self) -> None:
        for host in ("hv2", "hv1"):
            self.tasks(("vm_migrate", {"vm": "guest", "host": host}, False))

    def migrate_by_virsh(self) -> float:
        """Migrate the guest there and back, and return the time that virsh took."""
        disk = self._disk()
        taken = 0.0
        for origin, target in (HOSTS, HOSTS[::-1]):
            if _is_copied(disk):
                size = self.execute(origin, "stat", "--format=%s", disk).strip()
                prepare = 'mkdir -p "$(dirname "$0")" && truncate --size="$1" "$0"'
                self.execute(target, "sh", "-c", prepare, disk, size)
            taken += measure_time(functools.partial(self._run_virsh, origin, target, disk))
            if _is_copied(disk):
                self.execute(origin, "rm", disk)
        return taken

    def migrate_by_actions(self) -> dict[str, float]:
        """Migrate the guest there and back as a front-end does, and return the time of each part."""
        disk = self._disk()
        taken: dict[str, float] = dict.fromkeys(("premigrate", "virsh", "postmigrate"), 0.0)
        for origin, target in (HOSTS, HOSTS[::-1]):
            for name in taken:
                if name == "virsh":
                    work = functools.partial(self._run_virsh, origin, target, disk)
                else:
                    work = functools.partial(self._run_action, name, origin, target, disk)
                taken[name] += measure_time(work)
        return taken

    def _disk(self) -> str:
        return self.execute("hv1", "virsh", "domblklist", "guest").split()[-1]

    def _run_virsh(self, origin: str, target: str, disk: str) -> None:
        options = ["--copy-storage-inc", "--migrate-disks", "vda", "--migrate-disks-detect-zeroes", "vda"]
        command = ["virsh", "migrate", "--live", "--persistent", "--undefinesource"]
        command += [*(options if _is_copied(disk) else []), "guest", f"qemu+ssh://{target}/system"]
        self.execute(origin, *command, "--migrateuri", f"tcp://{target}")

    def _run_action(self, name: str, origin: str, target: str, disk: str) -> None:
        directory, image_format = os.path.dirname(disk), "raw" if _is_copied(disk) else "qcow2"
        datastore, vm = directory.split("/")[-2:]
        driver = "ssh" if _is_copied(disk) else "shared"
        document = vm_document(int(vm), {0: {"FORMAT": image_format}}, state=3, lcm_state=4, HOSTNAME=target)
        script = f"{REMOTES}/tm/{driver}/{name}"
        stdin = base64.b64encode(document.encode()).decode()
        self.execute("hv1", script, origin, target, directory, vm, datastore, stdin=stdin)


def _is_copied(disk: str) -> bool:
    return f"{STORE}/101/" not in disk


@contextlib.contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    store = directory / "store"
    run(["mke2fs", "-q", "-t", "ext4", store, "4G"])
    (directory / "device").write_text(run(["losetup", "--find", "--show", store]))
    lab = Lab(f"bench-{os.getpid()}")
    hosts = {name: {"kind": "debian13"} for name in HOSTS}
    guests = {"guest": {"host": "hv1", "running": False}}
    try:
        lab.up(parse_spec({"name": lab.name, "hosts": hosts, "guests": guests}))
        yield Site(lab, directory)
    finally:
        lab.down()
        subprocess.run(["losetup", "--detach", (directory / "device").read_text().strip()], check=True)


def measure(site: Site, runs: int) -> dict[str, list[float]]:
    """Return the times of each way to migrate, and of each part of the actions, in turns."""
    found: dict[str, list[float]] = collections.defaultdict(list)

    def measure_actions() -> float:
        parts = site.migrate_by_actions()
        for name in ("premigrate", "postmigrate"):
            found[name].append(parts[name])
        return sum(parts.values())

    works: dict[str, Callable[[], float]] = {
        "floor": site.migrate_by_virsh,
        "actions": measure_actions,
        "service": functools.partial(measure_time, site.migrate),
        "module": functools.partial(measure_time, site.migrate_by_ansible),
    }

    def kept(name: str, work: Callable[[], float]) -> float:
        found[name].append(work())
        return found[name][-1]

    interleave(runs, {name: functools.partial(kept, name, work) for name, work in works.items()})
    return found


def spread_of(found: dict[str, list[float]], name: str) -> str:
    """Return the smallest and the largest ratio of a turn."""
    ratios = sorted(one / floor for one, floor in zip(found[name], found["floor"], strict=True))
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the live migration of a guest there and back.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    rows = []
    with make_directory(options.directory) as directory, running_site(directory) as site:
        for datastore, what in (("same", "shared storage"), ("copied", "with its disk")):
            site.boot(datastore)
            found = measure(site, options.runs)
            site.remove()
            floor = statistics.median(found["floor"])
            for name, figure, target in (
                ("premigrate, virsh, postmigrate", "actions", TARGET),
                ("premigrate alone", "premigrate", None),
                ("postmigrate alone", "postmigrate", None),
                ("the migration with all checks", "service", None),
                ("the module vm_migrate", "module", None),
            ):
                spread = {"ratio of a turn": spread_of(found, figure)}
                value = statistics.median(found[figure])
                rows.append(Row(f"{name}, {what}", value, "virsh", floor, "s", target, more=spread))
    print(format_table(rows))


if __name__ == "__main__":
    main()
