# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the monitoring of VM disks: the CPU time, children included, and the processes.

Each VM has 2 disks with 3 snapshots each. The floor of ``monitor_ds`` is ``du -s`` of the same directory, which reads
the same inodes. ``tm/shared/monitor`` also reads the capacity and sends the figures by UDP to a socket of this process.
"""

from __future__ import annotations

import argparse
import base64
import functools
import os
import socket
from pathlib import Path

from measuring import (
    PYTHON,
    FrontEnd,
    Row,
    count_processes,
    format_table,
    interleave,
    make_directory,
    measure_cpu,
)

#: Largest ratio to the floor.
TARGET = 2


def make_vms(store: Path, number: int) -> Path:
    """Create the directories of VMs in a system datastore."""
    for vm in range(number):
        for disk in range(2):
            (snapshots := store / str(vm) / f"disk.{disk}.snap").mkdir(parents=True)
            for path in (snapshots.with_suffix(""), *(snapshots / str(one) for one in range(3))):
                path.write_bytes(b"data" * 2048)
    return store


def document(store: Path) -> bytes:
    datastore = f"<ID>100</ID><NAME>bench</NAME><TYPE>1</TYPE><TM_MAD>shared</TM_MAD><BASE_PATH>{store}</BASE_PATH>"
    return base64.b64encode(
        f"<DS_DRIVER_ACTION_DATA><DATASTORE>{datastore}</DATASTORE><MONITOR_VM_DISKS>1</MONITOR_VM_DISKS>"
        "</DS_DRIVER_ACTION_DATA>".encode()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the monitoring of VM disks.")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--vms", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    with make_directory(options.directory) as directory, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        (directory / "etc").mkdir()
        port = listener.getsockname()[1]
        (directory / "etc" / "monitord.conf").write_text(f"NETWORK = [ PORT = {port} ]\n")
        os.environ["ONE_LOCATION"] = str(directory)
        scripts = FrontEnd(directory).remotes / "tm"
        stores = {number: make_vms(directory / str(number), number) for number in options.vms}
        works, commands = {}, {}
        for number, store in stores.items():
            commands["monitor_ds", number] = ([scripts / "ssh" / "monitor_ds", store], b"")
            commands["shared/monitor", number] = ([scripts / "shared" / "monitor", "100"], document(store))
            commands["du -s", number] = (["du", "-s", store], b"")
        commands["python3 -c pass", 0] = ([*PYTHON, "-c", "pass"], b"")
        works = {
            f"{name} {number}": functools.partial(measure_cpu, *command) for (name, number), command in commands.items()
        }
        found = interleave(options.runs, works)
        processes = {
            f"{name} {number}": count_processes(*command)
            for (name, number), command in commands.items()
            if "monitor" in name
        }
    rows = []
    for number in options.vms:
        for name, floor, target in (
            ("monitor_ds", f"du -s {number}", TARGET),
            ("monitor_ds", "python3 -c pass 0", None),
            ("shared/monitor", f"du -s {number}", None),
        ):
            key = f"{name} {number}"
            more = {"processes": processes[key]}
            what, floor_name = f"{name}, {number:,} VMs", floor.rpartition(" ")[0]
            rows.append(Row(what, found[key], floor_name, found[floor], "ms", target, more=more))
    print(format_table(rows))


if __name__ == "__main__":
    main()
