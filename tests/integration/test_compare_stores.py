# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison of the markers of all hosts in the playbook ``site``. The hosts are this machine under several
names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ansible_process
import yaml

TASKS = Path(__file__).parents[2] / "playbooks" / "tasks" / "compare_stores.yml"
MARKERS = [f"{number}d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e" for number in range(3)]


def compare(tmp_path: Path, markers: dict[str, str | None], source: str = "nfs:/srv") -> tuple[int, str]:
    """Return the exit code and the output of the comparison for hosts that found these markers."""
    hosts = {
        host: {"shared_mount_mounted": {"results": [{"mount": {"path": "/data", "source": source, "marker": marker}}]}}
        for host, marker in markers.items()
    }
    front, *others = hosts
    groups = {
        "vmstore_frontend": {"hosts": {front: hosts[front]}},
        "vmstore_hypervisors": {"hosts": {one: hosts[one] for one in others}},
    }
    inventory = {"all": {"children": groups, "vars": {"ansible_connection": "local"}}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
    tasks = [{"ansible.builtin.include_tasks": str(TASKS)}]
    play = [{"hosts": "vmstore_frontend", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), "-i", str(tmp_path / "inventory.yml"), str(tmp_path / "play.yml")]
    done = ansible_process.run(command)
    return done.returncode, done.stdout


def test_hosts_with_one_store(tmp_path: Path) -> None:
    code, _output = compare(tmp_path, {"front": MARKERS[0], "kvm1": MARKERS[0], "kvm2": None})
    assert code == 0


def test_hosts_that_differ_are_named(tmp_path: Path) -> None:
    code, output = compare(tmp_path, {"front": MARKERS[0], "kvm1": MARKERS[0], "kvm2": MARKERS[1]})
    assert code == 2
    for text in (f"{MARKERS[0]} on front", f"{MARKERS[0]} on kvm1", f"{MARKERS[1]} on kvm2", "nfs:/srv on /data"):
        assert text in output
