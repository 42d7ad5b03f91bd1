# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of the tests in this directory: real Ansible over ssh, and other tools that verify the results."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from bridges import Bridges, running_bridges
from lab import Lab
from lab.guests import Guest
from migrating_vm import HOSTS, Tasks, Vm, connect, create_site
from running_disks import DOMAIN, LIBRARY, PORT, STORE, Machine
from transfer_cluster import Cluster, running_cluster

HERE = Path(__file__).parent
ANSIBLE = Path(sys.executable).with_name("ansible")

SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
HUGEPAGES = "<memoryBacking><hugepages/></memoryBacking>"


@pytest.fixture(scope="session")
def site(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    """Start the lab of lab.yml, and turn its hosts into hypervisors with the role."""
    # The name is unique, so that two sessions at once don't stop each other's lab.
    lab = lab_factory({**yaml.safe_load((HERE / "lab.yml").read_text()), "name": f"integration-{os.getpid()}"})
    play = '[{"hosts": "hosts", "gather_subset": ["min"], "roles": ["granary.vmstore.hypervisor"]}]'
    playbook = lab.state / "hypervisors.yml"
    playbook.write_text(play)
    command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", str(lab.inventory), str(playbook)]
    done = ansible_process.run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    return lab


@pytest.fixture(scope="session")
def nfs_lab(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    """Start an NFS server ``nfs`` and its clients ``frontend`` and ``hv1``, each with a kernel of its own."""
    hosts = {name: {"kind": "uml"} for name in ("nfs", "frontend", "hv1")}
    return lab_factory({"name": f"nfs-{os.getpid()}", "hosts": hosts})


@pytest.fixture(scope="session")
def module(site: Lab, module_in: Callable[[Lab], Callable[..., dict[str, Any]]]) -> Callable[..., dict[str, Any]]:
    """Run a module on a machine of the lab (:func:`module_in`)."""
    return module_in(site)


@pytest.fixture(scope="session")
def module_in() -> Callable[[Lab], Callable[..., dict[str, Any]]]:
    """Return, for a lab, a function that runs a module on a machine and returns its result, with ``warnings``.

    The result of a failed module has ``msg``.
    """
    return run_modules


def run_modules(lab: Lab) -> Callable[..., dict[str, Any]]:
    def run(machine: str, module: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        command = [
            str(ANSIBLE),
            machine,
            "-i",
            str(lab.inventory),
            "-m",
            f"granary.vmstore.{module}",
            *(["-a", json.dumps(options)] if options else []),
        ]
        command += ["--check"] if check else []
        environment = {
            **os.environ,
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        }
        done = ansible_process.run(command, environment=environment)
        assert "=> {" in done.stdout, done.stdout + done.stderr
        result = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])
        assert "Traceback" not in done.stdout + done.stderr
        # A failure shows the module's own message in one line.
        assert "\n" not in result.get("msg", "")
        result["warnings"] = done.stderr
        return result

    return run


@pytest.fixture(scope="session")
def tasks_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Lab], Callable[..., list[dict[str, Any]]]]:
    """Return, for a lab, a function that runs modules on hv1 in turn as one playbook, each with options and whether it
    runs in check mode. The function returns the results.
    """

    def bind(lab: Lab) -> Callable[..., list[dict[str, Any]]]:
        return functools.partial(run_tasks, lab, tmp_path_factory.mktemp("tasks"))

    return bind


def run_tasks(lab: Lab, directory: Path, *given: tuple[str, dict[str, Any], bool]) -> list[dict[str, Any]]:
    plays: list[dict[str, Any]] = [
        {
            f"granary.vmstore.{module}": options,
            "check_mode": check,
            "register": f"result_{number}",
            "ignore_errors": True,
        }
        for number, (module, options, check) in enumerate(given)
    ]
    listed = ", ".join(f"result_{number}" for number in range(len(given)))
    results, playbook = directory / "results.json", directory / "play.json"
    copy = {"content": "{{ [" + listed + "] | to_json }}", "dest": str(results), "mode": "0600"}
    plays.append({"ansible.builtin.copy": copy, "delegate_to": "localhost"})
    playbook.write_text(json.dumps([{"hosts": "hv1", "gather_facts": False, "tasks": plays}]))
    done = ansible_process.run([str(ANSIBLE.with_name("ansible-playbook")), "-i", str(lab.inventory), str(playbook)])
    assert "Traceback" not in done.stdout + done.stderr
    assert results.exists(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(results.read_text())
    results.unlink()
    assert not any("\n" in result.get("msg", "") for result in found)
    return found


@pytest.fixture(scope="session")
def execute_in() -> Callable[[Lab], Callable[..., str]]:
    """Return, for a lab, a function that runs a command as root on a machine and returns its output."""
    return execute_on


@pytest.fixture(scope="session")
def execute(site: Lab) -> Callable[..., str]:
    """Run a command as root on a host, and return its output."""
    return execute_on(site)


def execute_on(lab: Lab) -> Callable[..., str]:
    # A command over an open ssh connection takes a tenth of the time of podman exec.
    def run(machine: str, *argv: str, stdin: str = "", check: bool = True, deadline: float = 60) -> str:
        return lab.ssh(machine, shlex.join(argv), stdin=stdin.encode(), check=check, deadline=deadline)

    return run


@pytest.fixture
def domain(execute: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Define a domain without a guest system on a host, optionally start the domain, and delete it after the test."""
    made: list[tuple[str, str]] = []

    def define(
        machine: str, name: str, *, ports: int = 4, shared: bool = False, hugepages: bool = False, start: bool = False
    ) -> str:
        made.append((machine, name))
        memory = SHARED if shared else HUGEPAGES if hugepages else ""
        controllers = "".join(PORT.format(number) for number in range(1, ports + 1))
        execute(machine, "virsh", "define", "--validate", "/dev/stdin", stdin=DOMAIN.format(name, memory, controllers))
        if start:
            execute(machine, "virsh", "start", name)
        return name

    yield define
    for machine, name in made:
        execute(
            machine,
            "sh",
            "-c",
            'virsh destroy "$0"; virsh managedsave-remove "$0"; virsh undefine "$0"',
            name,
            check=False,
        )


@pytest.fixture(scope="session")
def migration_lab(lab_factory: Callable[[dict[str, Any]], Lab]) -> Lab:
    """Start two hypervisors, with a guest on the first."""
    hosts = {name: {"kind": "debian13"} for name in HOSTS}
    guests = {"writer": {"host": "hv1", "running": False, "shared_memory": True}}
    return lab_factory({"name": f"migration-{os.getpid()}", "hosts": hosts, "guests": guests})


@pytest.fixture(scope="session")
def migration_execute(migration_lab: Lab) -> Callable[..., str]:
    return execute_on(migration_lab)


@pytest.fixture(scope="session")
def migration_tasks(
    migration_lab: Lab, migration_execute: Callable[..., str], tasks_in: Callable[[Lab], Tasks]
) -> Tasks:
    """Return a function that runs modules on hv1, the front-end of two hypervisors."""
    connect(migration_execute)
    run = tasks_in(migration_lab)
    create_site(run)
    return run


@pytest.fixture
def make_migrating(migration_execute: Callable[..., str], migration_tasks: Tasks) -> Iterator[Callable[..., Vm]]:
    """Define a domain on hv1, and give it disks."""
    execute, tasks = migration_execute, migration_tasks
    made: list[str] = []

    def create(name: str, disks: list[dict[str, Any]], *, start: bool = True, **options: Any) -> Vm:
        made.append(name)
        ports = "".join(PORT.format(number) for number in range(1, 8))
        text = DOMAIN.format(name, "", ports)
        execute("hv1", "virsh", "define", "--validate", "/dev/stdin", stdin=text)
        [result] = tasks(("vm_disk", {"vm": name, "host": "hv1", "disks": disks, **options}, False))
        assert "msg" not in result, result
        vm = Vm(execute, tasks, name, result)
        for number, disk in enumerate(result["disks"]):
            vm.write("hv1", number, disk["format"])
        if start:
            vm.virsh("hv1", "start", name)
        return vm

    yield create
    for name in made:
        clean = 'virsh destroy "$0"; virsh managedsave-remove "$0"; virsh undefine "$0" --nvram --snapshots-metadata'
        for host in HOSTS:
            execute(host, "sh", "-c", clean, name, check=False)
        done = tasks(("vm_disk", {"vm": name, "state": "absent"}, False))
        assert [one.get("msg") for one in done] == [None]


@pytest.fixture(scope="session")
def engine(site: Lab) -> None:
    """Copy the engine to the hosts, for programs of running_disks.py."""
    copy_engine(site, "hv1", "old")


@pytest.fixture(scope="session")
def engine_in() -> Callable[..., None]:
    """Return a function that copies the engine to hosts of a lab."""
    return copy_engine


def copy_engine(lab: Lab, *hosts: str) -> None:
    data = io.BytesIO()
    utils = "ansible_collections/granary/vmstore/plugins/module_utils"
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(HERE.parents[1] / "plugins" / "module_utils", utils)
    for host in hosts:
        lab.ssh(host, f"mkdir -p {LIBRARY}; tar -x -C {LIBRARY}", stdin=data.getvalue())


@pytest.fixture(params=["hv1", "old"])
def machine(
    engine: None, domain: Callable[..., str], execute: Callable[..., str], request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """Start a domain on a host whose disk vda is the disk.0 of a VM."""
    found = Machine(request.param, domain(request.param, "it's 6; $(id)"), execute)
    found.lay_out()
    attached = found.attach(source=found.path, format="qcow2")
    assert attached == {"actions": ["add disk"], "reasons": [], "target": "vda"}
    found.virsh("start")
    yield found
    found.run("rm", "-rf", STORE)


@pytest.fixture
def cold(site: Lab, execute: Callable[..., str]) -> Iterator[Guest]:
    """Return a guest on hv1 that is off, with the definition of virt-install, and restore its definition after the
    test.
    """
    guest = site.guest("cold")
    definition = execute("hv1", "virsh", "dumpxml", "--inactive", "--security-info", guest.name)
    assert "<memoryBacking>" not in definition
    yield guest
    execute("hv1", "virsh", "destroy", guest.name, check=False)
    execute("hv1", "virsh", "define", "/dev/stdin", stdin=definition)


@pytest.fixture
def ordinary(cold: Guest) -> str:
    """Return the name of a running guest on hv1 with the definition of virt-install.

    Its memory isn't shared, therefore exports can't be attached while the guest runs.
    """
    cold.start()
    cold.wait_ready()
    return cold.name


@pytest.fixture
def directory(execute: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Create a directory of the guests' mapped root on a host, and delete the directory after the test."""
    made: list[tuple[str, str]] = []

    def make(machine: str, path: str) -> str:
        made.append((machine, path))
        execute(machine, "mkdir", "-p", "--", path)
        execute(machine, "chown", "100000:100000", "--", path)
        return path

    yield make
    for machine, path in made:
        execute(machine, "rm", "-rf", "--", path)


@pytest.fixture
def catalog_directory(execute: Callable[..., str]) -> Iterator[None]:
    """Return the directory of the catalog on the hypervisor hv1, created by the role frontend.

    The directory and the images are deleted after the test.
    """
    execute(
        "hv1", "install", "--directory", "--owner=oneadmin", "--group=oneadmin", "--mode=0750", "/var/lib/one/vmstore"
    )
    execute("hv1", "mkdir", "--parents", "/var/lib/one/datastores")
    yield
    execute("hv1", "rm", "-rf", "/var/lib/one/vmstore", "/var/lib/one/datastores")


@pytest.fixture(scope="session")
def drivers_play(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run the role opennebula_drivers on this machine for a directory of remotes, and return the output of Ansible."""

    def run(remotes: Path, *arguments: str, library: Path | None = None, fails: bool = False) -> str:
        library = library or remotes.parent / "library"
        places = {"remotes": remotes, "library": library, "kept": library.parent / "kept"}
        variables = {f"opennebula_drivers_{name}": str(path) for name, path in places.items()}
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_subset": ["min"],
            "vars": variables,
            "roles": ["granary.vmstore.opennebula_drivers"],
        }
        (playbook := tmp_path_factory.mktemp("play") / "play.yml").write_text(json.dumps([play]))
        command = [str(ANSIBLE.with_name("ansible-playbook")), "-i", "localhost,", *arguments, str(playbook)]
        done = ansible_process.run(command)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def driver_scripts(drivers_play: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of remotes with our datastore drivers and one driver of the front-end's own."""
    remotes = tmp_path_factory.mktemp("front-end") / "remotes"
    (remotes / "tm").mkdir(parents=True)
    (remotes / "datastore" / "virtiofs").mkdir(parents=True)
    (remotes / "datastore" / "virtiofs" / "stat").write_text("#!/bin/sh\necho the front-end's own\n")
    drivers_play(remotes)
    return remotes


@pytest.fixture(scope="session")
def start_bridges() -> Callable[[Path], contextlib.AbstractContextManager[Bridges]]:
    """Return :func:`running_bridges`. The bridges see what is mounted before they start."""
    return running_bridges


@pytest.fixture(scope="module")
def shared_bridges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridges]:
    """Run the bridges for all tests of a file."""
    with running_bridges(tmp_path_factory.mktemp("shared") / "bridged") as found:
        yield found


@pytest.fixture
def bridges(shared_bridges: Bridges) -> Bridges:
    """Return the bridges without files and logins."""
    shared_bridges.renew()
    return shared_bridges


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a front-end with installed transfer drivers, and three hosts, for all tests of a file."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cluster-") as root, running_cluster(Path(root)) as found:
        yield found
