# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The role downward_metrics on a hypervisor, and a guest that reads metrics on its disk and its port.

The reader in the guest was written from the format alone (tests/metrics_reader.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_process
import metrics_reader
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._host.metrics.disk import initial_disk
from ansible_collections.granary.vmstore.plugins.module_utils._model.metrics import METRICS_DIRECTORY, metrics_file
from documentation import block
from lab import Lab

Playbook = Callable[..., int]
Execute = Callable[..., str]

SERVICE = "granary-downward-metrics"
PLACES = (
    f"/etc/systemd/system/{SERVICE}.service",
    f"/usr/local/lib/{SERVICE}",
    f"/usr/local/libexec/{SERVICE}",
    METRICS_DIRECTORY,
)

READER = Path(metrics_reader.__file__).read_bytes()

DISK = """
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdz' bus='virtio'/>
<readonly/><serial>metrics</serial><alias name='ua-metrics'/></disk>
"""

#: A domain that is paused all the time.
DOMAIN = """
<domain type='qemu'>
  <name>paused</name>
  <uuid>d491271a-7fb7-473d-bbbd-d015e48d8f31</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    # The name is unique, so that two sessions at once don't stop each other's lab.
    hosts = {"fresh": {"kind": "debian13"}, "aged": {"kind": "debian12"}}
    guests = {"reader": {"host": "fresh", "running": False}}
    return lab_factory({"name": f"metrics-{os.getpid()}", "hosts": hosts, "guests": guests})


@pytest.fixture(scope="module")
def execute(lab: Lab, execute_in: Callable[[Lab], Execute]) -> Execute:
    return execute_in(lab)


@pytest.fixture(scope="module")
def role(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Run the role on both hosts, and return the number of changes, which is the same on both."""

    def run(*arguments: str, **variables: object) -> int:
        playbook = tmp_path_factory.mktemp("play") / "play.yml"
        [play] = yaml.safe_load(block("roles/downward_metrics/README.md", "granary.vmstore.downward_metrics").text)
        playbook.write_text(json.dumps([{**play, "hosts": "hosts", "gather_subset": ["min"], "vars": variables}]))
        output = run_playbook(lab, *arguments, str(playbook))
        [changes] = set(re.findall(r"^\S+ +: .*changed=(\d+)", output, re.MULTILINE))
        return int(changes)

    return run


def run_playbook(lab: Lab, *arguments: str) -> str:
    """Run a playbook, and return the output of Ansible."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(lab.inventory), *arguments]
    done = ansible_process.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ready(lab: Lab, role: Playbook, execute: Execute) -> None:
    """Run the role, first in check mode."""
    for host in ("fresh", "aged"):
        assert execute(host, "ls", "-d", *PLACES, check=False) == ""
    # The service can't be started while its unit is missing.
    foretold = role("--check", "--diff")
    for host in ("fresh", "aged"):
        assert execute(host, "ls", "-d", *PLACES, check=False) == ""
    assert role() == foretold + 1
    assert role() == role("--check") == 0


def create_disk(lab: Lab, host: str, uuid: str) -> None:
    path = shlex.quote(metrics_file(uuid))
    lab.ssh(host, f"mkdir -p $(dirname {path}) && cat >{path}", stdin=initial_disk())


def run_reader(lab: Lab, machine: str, *words: str) -> Any:
    return json.loads(lab.ssh(machine, shlex.join(["python3", "-", *words]), stdin=READER))


def values(rows: list[list[str]]) -> dict[tuple[str, str], str]:
    return {(context, name): value for context, name, _kind, _unit, value in rows}


@pytest.fixture(scope="module")
def guest(lab: Lab, ready: None, execute: Execute) -> str:
    """Start the guest with a disk and a port, as in the README of the role, and return its name."""
    commands = block("roles/downward_metrics/README.md", "Devices of a virtual machine").text
    execute("fresh", "sh", "-eu", stdin=commands.replace("web1", "reader"))
    lab.guest("reader").start()
    lab.guest("reader").wait_ready()
    return "reader"


def disk_of(lab: Lab, guest: str) -> str:
    """Return the name of the guest's disk for metrics, which has 512 sectors."""
    return f"/dev/{lab.ssh(guest, 'grep -lx 512 /sys/block/*/size').split('/')[3]}"


def test_the_service_runs_without_more_rights_than_it_needs(execute: Execute, ready: None) -> None:
    for host in ("fresh", "aged"):
        assert execute(host, "systemctl", "is-active", SERVICE).strip() == "active"
        assert execute(host, "systemctl", "is-enabled", SERVICE).strip() == "enabled"
        process = execute(host, "systemctl", "show", "-P", "MainPID", SERVICE).strip()
        status = execute(host, "cat", f"/proc/{process}/status")
        # CAP_DAC_OVERRIDE
        assert re.findall(r"^Cap(?:Eff|Bnd):\s+0*(\w+)$", status, re.MULTILINE) == ["2", "2"]


def test_a_guest_reads_its_disk_and_its_port(lab: Lab, guest: str, execute: Execute) -> None:
    [reply, invalid] = run_reader(lab, guest, "port", r"GET /metrics/XML\n\n", r"GET /foo\n\n")
    assert invalid == "INVALID REQUEST\n\n"
    on_port = metrics_reader.metrics_of(reply.encode())
    on_disk = run_reader(lab, guest, "disk", disk_of(lab, guest))
    assert [row[:4] for row in on_disk] == [[*row[:4]] for row in on_port]
    for found in (values(on_port), values(on_disk)):
        assert found["host", "HostName"] == "fresh"
        assert found["vm", "ResourceProcessorLimit"] == "1"
        memory = re.search(r"Used memory: +([0-9]+) KiB", execute("fresh", "virsh", "dominfo", guest))
        assert memory and found["vm", "ResourceMemoryLimit"] == memory[1]
        assert float(found["vm", "TotalCPUTime"]) > 0
        version = execute("fresh", "virsh", "version").rpartition("QEMU ")[2].strip()
        assert found["host", "VirtProductInfo"] == version


def test_a_guest_cant_write_its_disk(lab: Lab, guest: str) -> None:
    said = lab.ssh(guest, f"dd if=/dev/zero of={disk_of(lab, guest)} bs=512 count=1 2>&1 || true")
    assert "1+0 records out" not in said


def test_metrics_go_on_after_a_restart_of_libvirtd(lab: Lab, guest: str, execute: Execute) -> None:
    """The disk is written every five seconds. The reader waits until the time in it changes."""
    path = metrics_file(execute("fresh", "virsh", "domuuid", guest).strip())
    time = values(run_reader(lab, "fresh", "disk", path))["host", "Time"]
    execute("fresh", "systemctl", "restart", "libvirtd")
    after = values(run_reader(lab, "fresh", "newer", path, time))
    assert int(after["host", "Time"]) > int(time)
    assert float(after["vm", "TotalCPUTime"]) > 0


@pytest.mark.parametrize("host", ["fresh", "aged"])
def test_devices_are_plugged_and_unplugged(lab: Lab, ready: None, execute: Execute, host: str) -> None:
    """A paused domain gets a disk while it runs. libvirt 9.0 on aged has the same events as libvirt 11.3 on fresh."""
    uuid = re.search("<uuid>(.*)</uuid>", DOMAIN)[1]
    create_disk(lab, host, uuid)
    execute(host, "virsh", "create", "--paused", "/dev/stdin", stdin=DOMAIN)
    try:
        device = DISK.format(metrics_file(uuid))
        execute(host, "virsh", "attach-device", "--live", "paused", "/dev/stdin", stdin=device)
        found = values(run_reader(lab, host, "newer", metrics_file(uuid), "0"))
        assert found["vm", "ResourceProcessorLimit"] == "2"
        assert found["vm", "ResourceMemoryLimit"] == str(16 * 1024)
    finally:
        execute(host, "virsh", "destroy", "paused")


def test_the_host_has_another_name_for_guests(lab: Lab, guest: str, role: Playbook, execute: Execute) -> None:
    """systemd gives the name to the program as it is."""
    path = metrics_file(execute("fresh", "virsh", "domuuid", guest).strip())
    name = 'a "b" %h $c \\ <d>'
    assert role(downward_metrics_host_name=name) == 1
    # The service that was restarted writes all further metrics.
    time = values(run_reader(lab, "fresh", "disk", path))["host", "Time"]
    assert values(run_reader(lab, "fresh", "newer", path, time))["host", "HostName"] == name


def test_a_site_removes_the_service(lab: Lab, ready: None, tmp_path: Path) -> None:
    """In check mode, so that the host gets nothing else of a site."""
    group = {"hosts": {"fresh": None}}
    variables = {"vmstore_downward_metrics": False, "vmstore_cluster_ssh": False}
    children = {"vmstore_frontend": group, "vmstore_hypervisors": group}
    (tmp_path / "site.yml").write_text(json.dumps({"all": {"vars": variables, "children": children}}))
    output = run_playbook(lab, "-i", str(tmp_path / "site.yml"), "--check", "granary.vmstore.site")
    tasks = output.split("TASK [granary.vmstore.downward_metrics : ")[1:]
    [task] = [task for task in tasks if task.startswith("Stop the service]")]
    assert "changed: [fresh]" in task


def test_the_way_back(lab: Lab, ready: None, role: Playbook, execute: Execute) -> None:
    """This test is the last, because it removes the service."""
    assert role("--check", downward_metrics_state="absent") > 0
    assert execute("fresh", "systemctl", "is-active", SERVICE).strip() == "active"
    assert role(downward_metrics_state="absent") > 0
    assert role(downward_metrics_state="absent") == 0
    for host in ("fresh", "aged"):
        # The disks stay, because domains need them to start.
        assert execute(host, "ls", "-d", *PLACES, check=False).split() == [METRICS_DIRECTORY]
        assert execute(host, "systemctl", "is-active", SERVICE, check=False).strip() == "inactive"
