# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A front-end with installed transfer drivers, and hosts h1 to h3 with a real sshd each, on this machine.

The front-end and each host have a mount namespace and a host name of their own. All of them run as ``oneadmin``, as in
a real cluster, and have the same directory of datastores. Some datastores in it are directories of each host, and all
others are shared.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script import entry
from ansible_collections.granary.vmstore.plugins.module_utils._remote.engine import engine_sources
from ansible_collections.granary.vmstore.plugins.module_utils._service.drivers.opennebula import (
    OpennebulaDriversService,
)
from ssh_hosts import PATH, free_port, make_key, server_command, wait_for_server, write_client

FRONT_END = "frontend"
HOSTS = ("h1", "h2", "h3")
#: uid and gid of oneadmin.
OWNER = (999, 995)
#: System datastores of which each machine has a directory of its own, as in the recordings.
OWN = ("0", "100", "107")
#: Image datastores whose data only the front-end has.
FRONT_END_ONLY = ("1", "2", "101")
SHARED = ("102", "103", "104", "105", "108")

#: Command that begins the namespaces of a machine. Arguments: host name, accounts, pairs of directories to bind, a
#: dash, and the command.
AS_MACHINE = """
hostname "$1"; mkdir -p /run/sshd; for name in passwd shadow; do mount --bind "$2/$name" "/etc/$name"; done; shift 2
while [ "$1" != - ]; do mount --bind "$1" "$2"; shift 2; done; shift; exec "$@"
"""
AS_ONEADMIN = ("setpriv", f"--reuid={OWNER[0]}", f"--regid={OWNER[1]}", "--clear-groups")

SESSION = "oneadmin:secret"


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/RPC2",)


class FrontEndServer(SimpleXMLRPCServer):
    """The front-end's API. ``vms`` are the documents that one.vm.info returns, by the ids of the VMs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler, logRequests=False)
        self.vms: dict[int, str] = {}

    def _dispatch(self, method: str, params: Any) -> Any:
        session, number, _with_history = params
        assert (method, session) == ("one.vm.info", SESSION)
        if number not in self.vms:
            return [False, f"[one.vm.info] Error getting virtual machine [{number}].", 0x400, number]
        return [True, self.vms[number], 0]


def vm_document(
    number: int, disks: Mapping[int, Mapping[str, object]], *, state: int = 8, lcm_state: int = 0, **history: object
) -> str:
    """Return the document of a VM, which is powered off by default.

    :arg disks: the elements of each disk.
    """
    inner = ""
    for disk, elements in disks.items():
        given = {"DISK_ID": disk, "TYPE": "FILE", "FORMAT": "raw", "SIZE": 64, "ORIGINAL_SIZE": 64, **elements}
        inner += f"<DISK>{''.join(f'<{name}>{escape(str(text))}</{name}>' for name, text in given.items())}</DISK>"
    given = {"HOSTNAME": "h1", "DS_ID": 100, "TM_MAD": "ssh", "VM_MAD": "kvm", "ACTION": 0, **history}
    newest = "".join(f"<{name}>{escape(str(text))}</{name}>" for name, text in given.items())
    return (
        f"<VM><ID>{number}</ID><NAME>vm-{number}</NAME><STATE>{state}</STATE><LCM_STATE>{lcm_state}</LCM_STATE>"
        f"<TEMPLATE>{inner}</TEMPLATE><HISTORY_RECORDS><HISTORY>{newest}</HISTORY></HISTORY_RECORDS></VM>"
    )


class Cluster:
    """The machines.

    :ivar home: the home directory of oneadmin, with ``datastores``. The path is the same on all machines.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "one"
        self.datastores = self.home / "datastores"
        self.remotes = self.home / "remotes"
        self._ssh = root / "ssh"
        self.server = FrontEndServer()
        self._port: int = self.server.server_address[1]
        self._ports: dict[str, int] = {}
        self._sshds: dict[str, subprocess.Popen[bytes]] = {}

    # Set-up

    def install(self) -> None:
        """Install the drivers, and write the files of all machines."""
        for name in ("accounts", "ssh"):
            (self.root / name).mkdir(parents=True)
        for name in ("datastore", "tm"):
            (self.remotes / name).mkdir(parents=True)
        for number in (*OWN, *FRONT_END_ONLY, *SHARED):
            (self.datastores / number).mkdir(parents=True)
        for host in HOSTS:
            for number in (*OWN, *FRONT_END_ONLY):
                (self.root / "hosts" / host / number).mkdir(parents=True)
        (self.home / ".one").mkdir()
        (self.home / ".one" / "one_auth").write_text(f"{SESSION}\n")
        self._write_accounts()
        self._write_keys()
        options = {"remotes": self.remotes, "library": self.root / "library", "kept": self.root / "kept"}
        OpennebulaDriversService(
            {
                **{name: str(path) for name, path in options.items()},
                "python": "/usr/bin/python3",
                "names": [],
                "tm_names": ["ssh", "local", "shared", "qcow2", "virtiofs"],
            },
            engine_sources(entry.__name__),
        ).converge()
        shell("chown", "-R", f"{OWNER[0]}:{OWNER[1]}", self.home, self.root / "hosts", self._ssh / "key")

    def _write_accounts(self) -> None:
        accounts = self.root / "accounts"
        for name, line in (
            ("passwd", f"oneadmin:x:{OWNER[0]}:{OWNER[1]}::{self.home}:/bin/sh\n"),
            ("shadow", "oneadmin:*:20000:0:99999:7:::\n"),
        ):
            others = [
                one
                for one in Path("/etc", name).read_text().splitlines(keepends=True)
                if one.split(":")[0] != "oneadmin" and (name == "shadow" or one.split(":")[2] != str(OWNER[0]))
            ]
            (accounts / name).write_text("".join([*others, line]))
        (accounts / "shadow").chmod(0o600)

    def _write_keys(self) -> None:
        make_key(self._ssh / "host")
        config, public = "", make_key(self._ssh / "key")
        for host in HOSTS:
            self._ports[host] = free_port()
            config += f"Host {host}\n  Port {self._ports[host]}\n"
        binaries = write_client(self._ssh, config, key="key")
        self._path = f"{binaries}:{PATH}"
        (self._ssh / "authorized_keys").write_text(f'environment="PATH={self._path}" {public}')

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the hosts and the front-end's API."""
        thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        thread.start()
        try:
            for host in HOSTS:
                command = server_command(self._ssh, "PermitUserEnvironment yes", port=self._ports[host], name=host)
                self._sshds[host] = subprocess.Popen(self._as_machine(host, command))
            for host in HOSTS:
                wait_for_server(self._ports[host], self._sshds[host])
            yield
        finally:
            for process in self._sshds.values():
                process.terminate()
                process.wait()
            self.server.shutdown()
            thread.join()
            self.server.server_close()

    def _as_machine(self, name: str, command: list[str]) -> list[str]:
        binds = [
            str(path)
            for number in (*OWN, *FRONT_END_ONLY)
            if name != FRONT_END
            for path in (self.root / "hosts" / name / number, self.datastores / number)
        ]
        machine = [name, str(self.root / "accounts"), *binds, "-", *command]
        return ["unshare", "--mount", "--uts", "sh", "-ec", AS_MACHINE, "sh", *machine]

    # Use

    def command(self, driver: str, action: str, *arguments: object) -> list[str]:
        """Return the command by which the front-end calls an action."""
        script = self.remotes / "tm" / driver / action
        return self._as_machine(FRONT_END, [*AS_ONEADMIN, str(script), *map(str, arguments)])

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": self._path,
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "ONE_XMLRPC": f"http://localhost:{self.port}/RPC2",
        }

    @contextlib.contextmanager
    def unreachable_api(self) -> Iterator[None]:
        """Let actions use a port without a server, during a block."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            self._port = closed.getsockname()[1]
            try:
                yield
            finally:
                self._port = self.server.server_address[1]

    @property
    def port(self) -> int:
        """Return the port of the API that actions use."""
        return self._port

    def start(
        self, driver: str, action: str, *arguments: object, stdin: int | IO[bytes] = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start an action."""
        return subprocess.Popen(
            self.command(driver, action, *arguments),
            env=self.environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(
        self, driver: str, action: str, *arguments: object, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run an action, and return its result."""
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            with self.start(driver, action, *arguments, stdin=file) as process:
                stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def connections(self) -> dict[str, int]:
        """Return the number of logins on each host."""
        return {host: (self._ssh / f"{host}.log").read_text().count("Accepted publickey") for host in HOSTS}

    def path(self, machine: str, path: str | Path) -> Path:
        """Return a path below the datastores of a machine, as the test reaches it."""
        inner = Path(os.path.normpath(path)).relative_to(self.datastores)
        if machine != FRONT_END and inner.parts[0] in (*OWN, *FRONT_END_ONLY):
            return self.root / "hosts" / machine / inner
        return self.datastores / inner

    def inner(self, machine: str, path: Path) -> Path:
        """Return the path by which a machine reaches a file. The argument is the path of the test."""
        for place in (self.root / "hosts" / machine, self.datastores):
            with contextlib.suppress(ValueError):
                return self.datastores / path.relative_to(place)
        return path

    def execute(self, machine: str, *argv: object) -> str:
        """Return the output of a command that runs as root on a machine."""
        process = self._sshds.get(machine)
        words = [str(word) for word in argv]
        if process is None:
            return shell(*words)
        return shell("nsenter", f"--target={process.pid}", "--mount", "--uts", *words)

    def places(self) -> dict[str, Path]:
        """Return the directories with the datastores of each machine, as the test reaches them."""
        return {FRONT_END: self.datastores, **{host: self.root / "hosts" / host for host in HOSTS}}

    def entries(self) -> dict[str, os.stat_result]:
        """Return every path below the datastores of all machines, with its stat data. The keys are those of the
        recordings.
        """
        found = {}
        for name, place in self.places().items():
            for directory, directories, files in os.walk(place):
                for one in (*directories, *files):
                    path = os.path.join(directory, one)
                    found[f"{'fe' if name == FRONT_END else name}:{os.path.relpath(path, place)}"] = os.lstat(path)
        return found

    def clear(self) -> None:
        """Remove all data of the datastores of all machines."""
        for place in self.places().values():
            for datastore in place.iterdir():
                for path in datastore.iterdir():
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.server.vms.clear()

    def own(self) -> None:
        """Give all data of the datastores to oneadmin."""
        owner = f"{OWNER[0]}:{OWNER[1]}"
        shell("chown", "-hR", owner, *self.datastores.iterdir(), *(self.root / "hosts").glob("*/*"))


@contextlib.contextmanager
def running_cluster(root: Path) -> Iterator[Cluster]:
    """Install and run a cluster in a directory during a block."""
    root.chmod(0o755)
    cluster = Cluster(root)
    cluster.install()
    with cluster.running():
        yield cluster


def shell(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def messages(stderr: str) -> list[str]:
    """Return the lines that become the user's message."""
    return [line for line in stderr.splitlines() if not re.match("(ERROR|INFO|WARN|DEBUG): ", line)]
