# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of the tests in this directory, and ways to act on it: real Ansible over ssh, and other tools to see what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import Lab

HERE = Path(__file__).parent
ANSIBLE = Path(sys.executable).with_name("ansible")

#: A domain that runs without anything in it: QEMU is all that the tests with it look at. {0}: name, {1}: memory backing, {2}: devices.
DOMAIN = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{0}</name>
  <metadata><my:app xmlns:my='http://example.org/app'><my:owner>alice</my:owner></my:app></metadata>
  <memory unit='MiB'>64</memory>{1}
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <graphics type='vnc' autoport='yes' passwd='secret'/>{2}
  </devices>
  <qemu:commandline><qemu:env name='GRANARY' value='a &lt; b'/></qemu:commandline>
</domain>
"""
PORT = "<controller type='pci' index='{}' model='pcie-root-port'/>"
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
HUGEPAGES = "<memoryBacking><hugepages/></memoryBacking>"


@pytest.fixture(scope="session")
def site(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    """The lab of lab.yml, its hosts made hypervisors by the role."""
    # A name of this session's own: two sessions at once don't take each other's lab down.
    lab = lab_factory({**yaml.safe_load((HERE / "lab.yml").read_text()), "name": f"integration-{os.getpid()}"})
    play = '[{"hosts": "hosts", "roles": ["granary.vmstore.hypervisor"]}]'
    playbook = lab.state / "hypervisors.yml"
    playbook.write_text(play)
    command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", str(lab.inventory), str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


@pytest.fixture(scope="session")
def module(site: Lab) -> Callable[..., dict[str, Any]]:
    """Run a module on a machine of the lab and return its result, with ``warnings``; a failed one has ``failed`` and ``msg``."""

    def run(machine: str, module: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        command = [str(ANSIBLE), machine, "-i", str(site.inventory), "-m", f"granary.vmstore.{module}", *(["-a", json.dumps(options)] if options else [])]
        command += ["--check"] if check else []
        environment = {**os.environ, "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert "=> {" in done.stdout, done.stdout + done.stderr
        result = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])
        assert "Traceback" not in done.stdout + done.stderr
        # What goes wrong says so in one line, in what the module itself says.
        assert "\n" not in result.get("msg", "")
        result["warnings"] = done.stderr
        return result

    return run


@pytest.fixture(scope="session")
def execute(site: Lab) -> Callable[..., str]:
    """Run a command as root on a host, and return what it printed."""
    hosts = site.hosts()

    def run(machine: str, *argv: str, stdin: str = "", check: bool = True, deadline: float = 60) -> str:
        done = hosts[machine].execute(*argv, stdin=stdin.encode(), check=check, deadline=deadline)
        return str(done.stdout)

    return run


@pytest.fixture
def domain(execute: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Define a domain with nothing in it on a host, and perhaps start it; it is gone after the test."""
    made: list[tuple[str, str]] = []

    def define(machine: str, name: str, *, ports: int = 4, shared: bool = False, hugepages: bool = False, start: bool = False) -> str:
        made.append((machine, name))
        memory = SHARED if shared else HUGEPAGES if hugepages else ""
        controllers = "".join(PORT.format(number) for number in range(1, ports + 1))
        execute(machine, "virsh", "define", "--validate", "/dev/stdin", stdin=DOMAIN.format(name, memory, controllers))
        if start:
            execute(machine, "virsh", "start", name)
        return name

    yield define
    for machine, name in made:
        execute(machine, "sh", "-c", 'virsh destroy "$0"; virsh managedsave-remove "$0"; virsh undefine "$0"', name, check=False)


@pytest.fixture
def directory(execute: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Make a directory on a host that the mapped root of guests owns; it is gone after the test."""
    made: list[tuple[str, str]] = []

    def make(machine: str, path: str) -> str:
        made.append((machine, path))
        execute(machine, "mkdir", "-p", "--", path)
        execute(machine, "chown", "100000:100000", "--", path)
        return path

    yield make
    for machine, path in made:
        execute(machine, "rm", "-rf", "--", path)


@pytest.fixture(scope="session")
def drivers_play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run the role opennebula_drivers on this machine, for a directory of remotes, and return what Ansible printed."""

    def run(remotes: Path, *arguments: str) -> str:
        variables = {"opennebula_drivers_remotes": str(remotes), "opennebula_drivers_library": str(remotes.parent / "library")}
        play = {"hosts": "localhost", "connection": "local", "gather_subset": ["min"], "vars": variables, "roles": ["granary.vmstore.opennebula_drivers"]}
        (playbook := tmp_path_factory.mktemp("play") / "play.yml").write_text(json.dumps([play]))
        command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", "localhost,", *arguments, str(playbook)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def driver_scripts(drivers_play: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of remotes with the datastore drivers in it, and one that the front-end came with."""
    remotes = tmp_path_factory.mktemp("front-end") / "remotes"
    (remotes / "datastore" / "virtiofs").mkdir(parents=True)
    (remotes / "datastore" / "virtiofs" / "stat").write_text("#!/bin/sh\necho the front-end's own\n")
    drivers_play(remotes)
    return remotes
