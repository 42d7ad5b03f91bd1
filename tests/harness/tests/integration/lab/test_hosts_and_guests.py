# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A lab with both kinds of container hosts, observed by ssh, virsh and Ansible."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documentation import block
from lab import Lab, LabError, guests
from refusal import refused

SPEC: dict[str, Any] = {
    "name": "machines",
    "hosts": {"hv1": {"kind": "debian13"}, "old": {"kind": "debian12"}},
    "guests": {
        "rw": {"host": "hv1", "shared_memory": True, "root_ports": 2},
        "off": {"host": "hv1", "running": False, "memory": 200, "virt_install": True},
    },
}

FILESYSTEM = (
    "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/{0}'/><target dir='{0}'/></filesystem>"
)


@pytest.fixture(scope="module")
def lab(lab_factory: Any) -> Iterator[Lab]:
    lab = lab_factory(SPEC)
    yield lab
    lab.down()


def virsh(lab: Lab, *arguments: str, host: str = "hv1", stdin: str = "") -> str:
    return lab.ssh(host, "virsh", "-q", *arguments, stdin=stdin.encode())


@pytest.mark.parametrize(("host", "libvirt"), [("hv1", "11.3"), ("old", "9.0")])
def test_a_host_is_a_libvirt_host(lab: Lab, host: str, libvirt: str) -> None:
    assert f"Using library: libvirt {libvirt}" in virsh(lab, "version", host=host)
    assert lab.ssh(host, "cat", "/proc/1/comm") == "systemd\n"
    assert lab.ssh(host, "systemctl", "is-system-running") == "running\n"
    assert lab.ssh(host, "hostname") == f"{host}\n"
    lab.ssh(host, "command -v newuidmap xorriso python3 qemu-img getfattr setfacl; python3 -c 'import libvirt, apt'")


def test_virtiofsd_of_each_debian(lab: Lab) -> None:
    assert lab.ssh("hv1", "/usr/libexec/virtiofsd", "--version").startswith("virtiofsd 1.13")
    assert "version 7.2" in lab.ssh("old", "/usr/lib/qemu/virtiofsd", "--version")


@pytest.mark.parametrize("host", ["hv1", "old"])
def test_a_host_does_not_act_on_the_machine(lab: Lab, host: str) -> None:
    assert lab.ssh(
        host, "systemctl", "is-enabled", "systemd-udevd.service", "systemd-sysctl.service", check=False
    ).split() == ["masked", "masked"]
    assert "systemd-udevd" not in lab.ssh(host, "ps", "axo", "comm")


def test_hosts_know_each_other(lab: Lab) -> None:
    assert lab.ssh("hv1", "getent", "hosts", "old").split()[0] == lab.status()["hosts"]["old"]["address"]


def test_kvm_is_offered_only_where_it_runs_a_kernel(lab: Lab) -> None:
    accelerated = lab.status()["accelerator"] == "kvm"
    assert accelerated or lab.ssh("hv1", "ls", "/dev/kvm", check=False) == ""
    assert virsh(lab, "dumpxml", "rw").startswith(f"<domain type='{'kvm' if accelerated else 'qemu'}'")


def test_the_guest_is_reached_through_its_host(lab: Lab) -> None:
    assert lab.ssh("rw", "hostname") == "rw\n"
    assert "192.168.150.10" in lab.ssh("rw", "ip", "-4", "-br", "address", "show", "eth0")
    assert lab.ssh("rw", "cat", "/sys/module/virtiofs/version", check=False) is not None
    assert "virtiofs" in lab.ssh("rw", "cat", "/proc/filesystems")


@pytest.mark.parametrize("words", [["--lab", "machines", "ssh"], ["ssh", "--lab", "machines"]])
def test_arguments_arrive_as_they_were_given(lab: Lab, words: list[str]) -> None:
    odd = "a b'c$(d)*"
    done = subprocess.run(["lab", *words, "rw", "printf", "%s", odd], capture_output=True, text=True, check=True)
    assert done.stdout == odd


def test_root_ports_are_what_was_asked_for(lab: Lab) -> None:
    lab.ssh("hv1", "mkdir", "-p", "/srv/t0", "/srv/t1", "/srv/t2")
    for number in range(2):
        virsh(lab, "attach-device", "rw", "/dev/stdin", "--live", stdin=FILESYSTEM.format(f"t{number}"))
    with refused(LabError, names=["PCI"]):
        virsh(lab, "attach-device", "rw", "/dev/stdin", "--live", stdin=FILESYSTEM.format("t2"))
    lab.ssh("rw", "mount -t virtiofs t0 /mnt && touch /mnt/seen && umount /mnt")
    lab.ssh("hv1", "test", "-e", "/srv/t0/seen")
    for number in range(2):
        virsh(lab, "detach-device", "rw", "/dev/stdin", "--live", stdin=FILESYSTEM.format(f"t{number}"))


def test_memory_is_shared_where_asked_for(lab: Lab) -> None:
    assert re.search(r"<memoryBacking>\s*<source type='memfd'/>\s*<access mode='shared'/>", virsh(lab, "dumpxml", "rw"))
    assert "memoryBacking" not in virsh(lab, "dumpxml", "off")
    assert ">204800<" in virsh(lab, "dumpxml", "off")


def test_a_guest_is_started_and_stopped(lab: Lab) -> None:
    assert virsh(lab, "domstate", "off").strip() == "shut off"
    subprocess.run(["lab", "guest", "start", "--lab", "machines", "off"], check=True, timeout=200)
    lab.ssh("off", "mkdir -p /srv/t; echo 'tmp /srv/t tmpfs size=1M 0 0' >> /etc/fstab")
    subprocess.run(["lab", "guest", "stop", "--lab", "machines", "off"], check=True, timeout=200)
    assert virsh(lab, "domstate", "off").strip() == "shut off"
    assert "Power down" in lab.ssh("hv1", "cat", lab.guest("off").console)
    subprocess.run(["lab", "guest", "start", "--lab", "machines", "off"], check=True, timeout=200)
    assert lab.ssh("off", "findmnt", "-no", "FSTYPE", "/srv/t") == "tmpfs\n"
    subprocess.run(["lab", "guest", "stop", "--lab", "machines", "off"], check=True, timeout=200)


def test_a_guest_that_does_not_come_up_shows_its_console(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(guests.BOOT_DEADLINE, False, 1)
    virsh(lab, "suspend", "rw")
    with refused(LabError, names=["'rw'", "lab: rw has booted"]):
        lab.guest("rw").wait_ready()
    virsh(lab, "resume", "rw")


def test_a_host_fails_and_comes_back(lab: Lab) -> None:
    host = lab.host("old")
    lab.ssh("old", "echo kept > /root/kept; touch /run/gone")
    host.pause()
    assert (host.state(), lab.status()["hosts"]["old"]["state"]) == ("paused", "paused")
    host.resume()
    host.cut()
    with refused(LabError, names=["2 seconds"]):
        lab.ssh("old", "true", deadline=2)
    host.join()
    assert lab.ssh("old", "cat", "/root/kept") == "kept\n"
    for fail in (lambda: (host.kill(), host.start()), host.reboot):
        lab.ssh("old", "touch", "/run/gone")
        fail()
        assert lab.ssh("old", "cat /root/kept; ls /run/gone || systemctl is-system-running").split() == [
            "kept",
            "running",
        ]
    assert "Using library: libvirt 9.0" in virsh(lab, "version", host="old")


SITE = """
- hosts: hv1
  tasks:
    - ansible.builtin.file: {path: /srv/shared, state: directory}
    - granary.vmstore.virtiofs_export: {domain: rw, source: /srv/shared, mount_tag: shared, allow_unmapped: true}
- hosts: rw
  gather_facts: false
  tasks:
    - granary.vmstore.virtiofs_mount: {tag: shared, path: /mnt/shared}
"""


def test_what_the_page_says_works(tmp_path: Path) -> None:
    (tmp_path / "lab.yml").write_text(
        block("tests/harness/README.md", "A lab file").text.replace("name: virtiofs", "name: documented"),
        encoding="utf-8",
    )
    (tmp_path / "site.yml").write_text(SITE, encoding="utf-8")
    commands = block("tests/harness/README.md", "Your playbook against it").text.replace("/virtiofs/", "/documented/")
    # Other labs may be up, too.
    commands = commands.replace("lab ssh", "lab --lab documented ssh").replace("lab down", "lab --lab documented down")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^/mnt/shared +shared +virtiofs ", done.stdout, re.MULTILINE)
    finally:
        subprocess.run(["lab", "down", "--lab", "documented"], check=True, timeout=120)


def test_a_domain_is_what_virt_install_makes(lab: Lab) -> None:
    described = virsh(lab, "dumpxml", "off")
    printed = lab.ssh(
        "hv1",
        "virt-install --import --print-xml --name plain --memory 200 --osinfo debian12 --disk none --network "
        "network=lab",
    )
    models = r"<(controller|interface|video|memballoon|channel|input|graphics|rng)\b"
    assert set(re.findall(models, printed)) <= set(re.findall(models, described))
    assert len(re.findall("pcie-root-port", described)) >= 14
    assert "<memoryBacking>" not in described


def test_status(lab: Lab) -> None:
    status = json.loads(
        subprocess.run(["lab", "status", "--lab", "machines", "--json"], capture_output=True, check=True).stdout
    )
    assert status["complete"] is True
    assert {name: host["kind"] for name, host in status["hosts"].items()} == {"hv1": "debian13", "old": "debian12"}
    assert {name: guest["running"] for name, guest in status["guests"].items()} == {"rw": True, "off": False}


def test_ansible_uses_the_inventory(lab: Lab) -> None:
    ansible = Path(sys.executable).with_name("ansible")
    assert ansible.exists(), "ansible-core is missing: install requirements/dev.lock"
    done = subprocess.run(
        [ansible, "-i", lab.inventory, "hv1,old,rw", "-m", "ansible.builtin.ping"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count('"ping": "pong"') == 3, done.stdout + done.stderr
    sockets = [path for path in lab.runtime.iterdir() if path.is_socket()]
    assert len(sockets) == 3
    # Python has kept the compiled modules (lab.machine_python).
    assert all(int(lab.ssh(name, "ls /var/cache/granary-lab-python | wc -l")) > 20 for name in ("hv1", "old", "rw"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            ["guest", "start", "--lab", "machines", "none"],
            "'none' is not a guest of lab 'machines', accepted are rw, off.",
        ),
        (["status", "--lab", "nothing-here"], "There is no lab 'nothing-here'"),
        (["status", "--lab", "Not A Name"], "name: 'Not A Name' is not a name"),
    ],
)
def test_a_wrong_name_is_one_sentence(lab: Lab, command: list[str], words: str) -> None:
    done = subprocess.run(["lab", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
