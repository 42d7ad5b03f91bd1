# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the second run of a play that declares the volumes of 100 domains in one task, and the conversion of 1,000
disks.

The floor of the play is a play with one ``ansible.builtin.ping`` on the same host of a lab. The floor of the conversion
is ElementTree, which parses and prints the same devices.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import Lab, load_spec
from measuring import Row, format_table, interleave, make_directory, measure_time, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache" / "collections"))
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices.volume_disk import (  # noqa: E402
    DiskLayer,
    create_volume_disk,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import (  # noqa: E402
    accept_declaration,
)
from ansible_collections.granary.vmstore.plugins.module_utils._volume.conversion import convert  # noqa: E402
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import (  # noqa: E402
    DomainFacts,
    VolumeFacts,
)

DOMAIN = (
    "<domain type='qemu'><name>{}</name><memory unit='MiB'>16</memory><os><type arch='x86_64' machine='q35'>hvm</type>"
    "</os></domain>"
)


def declare(disks: int) -> dict[str, Any]:
    """Return a declaration with a number of empty disks."""
    names = [f"disk-{number}" for number in range(disks)]
    return {
        "disks": [{"name": name, "disk": {"bus": "virtio"}, "serial": f"S{place}"} for place, name in enumerate(names)],
        "volumes": [{"name": name, "emptyDisk": {"capacity": "1Mi"}} for name in names],
    }


def convert_disks(disks: int) -> str:
    """Return the XML of the devices for a declaration."""
    facts = DomainFacts()
    spec = accept_declaration(declare(disks), facts)
    volumes = {one.name: VolumeFacts(DiskLayer(f"/srv/{one.name}", False, "qcow2")) for one in spec.volumes}
    found = convert(spec, facts, volumes, {})
    return "".join(ET.tostring(create_volume_disk(disk), encoding="unicode") for disk in found.disks)


def play(lab: Lab, directory: Path, module: str, options: Mapping[str, object]) -> str:
    """Run a play of one task on hv1, and return what Ansible printed."""
    task = {module: options}
    (playbook := directory / "play.json").write_text(
        json.dumps([{"hosts": "hv1", "gather_facts": False, "tasks": [task]}])
    )
    return run([Path(sys.executable).with_name("ansible-playbook"), "-i", lab.inventory, playbook])


def measure_domains(runs: int, number: int, disks: int, directory: Path) -> Row:
    spec = load_spec({"name": f"bench-volumes-{os.getpid()}", "hosts": {"hv1": {"kind": "debian13"}}})
    lab = Lab(spec.name)
    lab.up(spec)
    try:
        names = [f"domain-{one}" for one in range(number)]
        for name in names:
            lab.ssh("hv1", "virsh -q define /dev/stdin", stdin=DOMAIN.format(name).encode())
        options = {"domains": [{"domain": name, **declare(disks)} for name in names]}
        play(lab, directory, "granary.vmstore.domain_volumes", options)

        def second() -> float:
            output: list[str] = []
            seconds = measure_time(
                lambda: output.append(play(lab, directory, "granary.vmstore.domain_volumes", options))
            )
            if re.search("ok=1 +changed=0 ", output[0]) is None:
                raise RuntimeError(f"the second run was not ok: {output[0]}")
            return seconds

        def ping() -> float:
            return measure_time(lambda: play(lab, directory, "ansible.builtin.ping", {}))

        found = interleave(runs, {"second": second, "ping": ping})
    finally:
        lab.down()
    name = f"second run of a play: {number} domains with {disks} volumes each"
    return Row(name, found["second"], "a play with one ping", found["ping"], target=3)


def measure_conversion(runs: int, disks: int) -> Row:
    text = f"<devices>{convert_disks(disks)}</devices>"
    found = interleave(
        runs,
        {
            "convert": lambda: measure_time(lambda: convert_disks(disks)),
            "floor": lambda: measure_time(lambda: ET.tostring(ET.fromstring(text))),
        },
    )
    return Row(f"conversion of {disks} disks", found["convert"], "ElementTree: parse and print", found["floor"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the volumes of domains.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--volumes", type=int, default=10, help="number of volumes of each domain")
    parser.add_argument("--disks", type=int, default=1000, help="number of disks that are converted")
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    os.environ["ANSIBLE_PIPELINING"] = "1"
    with make_directory(options.directory) as directory:
        rows = [
            measure_domains(options.runs, options.domains, options.volumes, directory),
            measure_conversion(options.runs, options.disks),
        ]
    print(format_table(rows))


if __name__ == "__main__":
    main()
