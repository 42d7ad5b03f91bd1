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
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from lab import Lab
from lab.guests import Guest
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
def engine(site: Lab) -> None:
    """Copy the engine to the hosts, for programs of running_disks.py."""
    data = io.BytesIO()
    utils = "ansible_collections/granary/vmstore/plugins/module_utils"
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(HERE.parents[1] / "plugins" / "module_utils", utils)
    for host in ("hv1", "old"):
        site.ssh(host, f"mkdir -p {LIBRARY}; tar -x -C {LIBRARY}", stdin=data.getvalue())


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


#: Command that prepares a mount namespace with the datastores of the bridges, and the /run/sshd that sshd needs.
AS_BRIDGE = 'mkdir -p /run/sshd && mount --bind "$1" "$2" && shift 2 && exec "$@"'

#: Options of a key in authorized_keys. An empty home directory excludes the shell's start-up files of this machine.
ENVIRONMENT = 'environment="HOME={empty}",environment="PATH={path}"'
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Banner that python3 prints on a bridge before it reads the engine, and a line of the engine.
GREETING = "echo granary.vmstore is here; read -r length"
LOG_LINE = r"{\"log\": \"still here\"}"

#: Names of the bridges, and the command that each bridge runs instead of the requested one. ``bare`` has no commands.
LOGINS = {
    "h1": "",
    "h2": "",
    "bare": "",
    "noisy": r"""echo 'welcome {'; printf '\377\n'; eval \"$SSH_ORIGINAL_COMMAND\"""",
    "old": r"""c=${SSH_ORIGINAL_COMMAND#*-c }; """
    r"""eval exec python3 -c '\"import sys;sys.version_info=(3,8,0);exec(sys.argv[1])\"' \"$c\"""",
    "slow": "exec cat",
    "welcoming": "exec yes welcome",
    "slowly": "while echo welcome; do sleep 0.05; done",
    "flooding": f"""{GREETING}; yes '{LOG_LINE}'""",
    "shouting": f"""{GREETING}; printf '%0100000d' 0 | sed 's/.*/{{\\"log\\": \\"&\\"}}/'; echo; cat""",
    "logging": f"""{GREETING}; while echo '{LOG_LINE}'; do sleep 0.05; done""",
    "complaining": f"{GREETING}; exec yes >&2",
    "endless": f"{GREETING}; exec tr '\\\\0' x < /dev/zero",
    "lying": "exec python3 -I $HOME/../liar.py",
    "closed": "echo This account is closed.; exit 1",
}


class Bridges:
    """Hosts with the names of ``LOGINS``, and unreachable ``dead`` ones; all are one sshd.

    ``store`` is the path of a datastore on all machines; the directory stays empty on the front-end. ``data`` is the
    same directory of the bridges, as the test reaches it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.datastores = root / "datastores"
        self.store = self.datastores / "100"
        self.data = root / "bridges" / "100"
        self.log = root / "sshd" / "log"

    def connections(self) -> int:
        """Return the number of logins."""
        return self.log.read_text().count("Accepted publickey for root")

    def stored(self) -> list[str]:
        """Return all files of the datastore, temporary ones too. None of them may be on the front-end."""
        assert list(self.datastores.rglob("*")) == []
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*"))

    def path(self, source: str) -> Path:
        """Return the path of the image ``source`` on the bridges, as the test reaches it."""
        assert source.startswith(f"{self.store}/")
        return self.data / source[len(str(self.store)) + 1 :]

    def set_up(self) -> list[str]:
        """Return the command of the server."""
        sshd, ssh = shutil.which("sshd", path="/usr/sbin:/usr/bin"), shutil.which("ssh", path="/usr/bin:/bin")
        if sshd is None or ssh is None:
            pytest.fail("sshd or ssh is not installed: apt-get install openssh-server openssh-client")
        for directory in (self.datastores, self.data, self.root / "sshd", self.root / "bin", self.root / "empty"):
            directory.mkdir(parents=True)
        config, authorized = "", ""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        for name in ("host", *LOGINS):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.root / "sshd" / name], check=True)
        (self.root / "sshd" / "known_hosts").write_text(f"bridge {(self.root / 'sshd' / 'host.pub').read_text()}")
        for name, command in LOGINS.items():
            empty = self.root / "empty"
            options = ENVIRONMENT.format(empty=empty, path=empty if name == "bare" else f"{self.root}/bin:{PATH}") + (
                f',command="{command}"' if command else ""
            )
            authorized += f"{options} {(self.root / 'sshd' / f'{name}.pub').read_text()}"
            config += f"Host {name}\n  IdentityFile {self.root}/sshd/{name}\n  Port {self.port}\n"
        config += (
            "Host dead*\n  Port 1\nHost *\n  HostName 127.0.0.1\n  User root\n  IdentitiesOnly yes\n  HostKeyAlias "
            "bridge\n"
        )
        config += f"  UserKnownHostsFile {self.root}/sshd/known_hosts\n"
        (self.root / "sshd" / "authorized_keys").write_text(authorized)
        (self.root / "sshd" / "client").write_text(config)
        (self.root / "sshd" / "server").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.root}/sshd/host\nPidFile none\nUsePAM "
            "no\nStrictModes no\nPermitRootLogin yes\n"
            f"AuthorizedKeysFile {self.root}/sshd/authorized_keys\nPrintMotd no\nPermitUserEnvironment "
            "yes\nMaxStartups 100\n"
        )
        # ssh(1) reads its configuration in the home directory of /etc/passwd.
        (self.root / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F "{self.root}/sshd/client" "$@"\n')
        (self.root / "bin" / "ssh").chmod(0o755)
        command = [sshd, "-D", "-f", str(self.root / "sshd" / "server"), "-E", str(self.log)]
        return ["unshare", "-m", "sh", "-ec", AS_BRIDGE, "sh", str(self.data.parent), str(self.datastores), *command]


@contextlib.contextmanager
def running_bridges(root: Path) -> Iterator[Bridges]:
    """Run the bridges during a block, and let ssh(1) find them."""
    found = Bridges(root)
    command = found.set_up()
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(command) as server:
        patch.setenv("PATH", f"{found.root}/bin:{os.environ['PATH']}")
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", found.port)).close()
                    break
                except ConnectionRefusedError:
                    if server.poll() is not None or time.monotonic() > deadline:
                        raise
            yield found
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def start_bridges() -> Callable[[Path], contextlib.AbstractContextManager[Bridges]]:
    """Return :func:`running_bridges`. The bridges see what is mounted before they start."""
    return running_bridges


@pytest.fixture
def bridges(tmp_path: Path) -> Iterator[Bridges]:
    with running_bridges(tmp_path / "bridged") as found:
        yield found


@pytest.fixture(scope="module")
def shared_bridges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridges]:
    """Run the same bridges for all tests of a file."""
    with running_bridges(tmp_path_factory.mktemp("shared") / "bridged") as found:
        yield found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a front-end with installed transfer drivers, and three hosts, for all tests of a file."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="cluster-") as root, running_cluster(Path(root)) as found:
        yield found
