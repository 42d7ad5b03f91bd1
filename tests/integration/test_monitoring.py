# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitoring of system datastores by a front-end and by the probes of its hosts, compared with du(1), df(1) and
qemu-img(1).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transfer_cluster import AS_ONEADMIN, FRONT_END, OWNER, Cluster, messages, shell, vm_document

CALLS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "driver_calls").glob("tm-*-monitor-*.json"))
}
MIB = 2**20
RAW, QCOW2 = "a" * 32, "b" * 32

#: Pythons of hosts: the oldest one that is supported, and a new one.
PYTHONS = [
    path
    for version in ("3.9", "3.13")
    for path in [
        *Path("/root/.pyenv/versions").glob(f"{version}.*/bin/python3"),
        *Path("/usr/bin").glob(f"python{version}"),
    ]
]

Figures = dict[int, tuple[dict[int, int], dict[tuple[int, int], int]]]


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Cluster]:
    cluster.clear()
    yield cluster
    shutil.rmtree(cluster.home / "etc", ignore_errors=True)


class Listener:
    """The monitor daemon of a front-end."""

    def __init__(self, listening: socket.socket, cluster: Cluster) -> None:
        self.socket = listening
        self.configuration = cluster.home / "etc" / "monitord.conf"
        self.configuration.parent.mkdir()
        port = listening.getsockname()[1]
        self.configuration.write_text(f'# PORT = 1\nNETWORK = [ MONITOR_ADDRESS = "auto",\n  PORT = {port} ]\n')
        shell("chown", "-R", f"{OWNER[0]}:{OWNER[1]}", self.configuration.parent)

    def receive(self) -> tuple[str, str]:
        """Return the status and the text of the next message."""
        match = re.fullmatch(rb"MONITOR_VM (\w+) -1 0 (\S+)\n", self.socket.recv(1 << 16))
        assert match
        return match[1].decode(), zlib.decompress(base64.b64decode(match[2], validate=True)).decode()

    def is_idle(self) -> bool:
        """Return whether no message came."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def listener(empty: Cluster) -> Iterator[Listener]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(60)
        yield Listener(listening, empty)


def document(path: Path, *, disks: str | None = "1", bridges: str = "") -> str:
    """Return the document of a system datastore.

    :arg disks: the value of MONITOR_VM_DISKS.
    """
    requested = "" if disks is None else f"<MONITOR_VM_DISKS>{disks}</MONITOR_VM_DISKS>"
    return (
        f"<DS_DRIVER_ACTION_DATA><DATASTORE><ID>{path.name}</ID><NAME>system</NAME><DS_MAD>-</DS_MAD>"
        f"<TM_MAD>shared</TM_MAD><BASE_PATH>{path}</BASE_PATH><TYPE>1</TYPE>"
        f"<TEMPLATE><BRIDGE_LIST>{bridges}</BRIDGE_LIST></TEMPLATE></DATASTORE>{requested}</DS_DRIVER_ACTION_DATA>"
    )


def monitor(
    cluster: Cluster, driver: str, xml: str, *arguments: str, encoded: bool = True
) -> subprocess.CompletedProcess[str]:
    """Call the action as the front-end does."""
    return subprocess.run(
        cluster.command(driver, "monitor", *(arguments or ["104"])),
        env={**cluster.environment, "ONE_LOCATION": str(cluster.home)},
        input=base64.b64encode(xml.encode()).decode() if encoded else xml,
        capture_output=True,
        text=True,
        check=False,
    )


def capacity(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split("=") for line in text.splitlines())}


def check_capacity(text: str, path: Path) -> None:
    """Compare the output of monitor with df(1)."""
    found = capacity(text)
    size, used, free = (int(word) // MIB for word in shell("df", "-B1", "--output=size,used,avail", path).split()[-3:])
    assert list(found) == ["USED_MB", "FREE_MB", "TOTAL_MB"]
    assert found["TOTAL_MB"] == size
    assert abs(found["USED_MB"] - used) <= 1024 and abs(found["FREE_MB"] - free) <= 1024  # others write, too


def figures(text: str) -> Figures:
    """Return the figures in the lines of VMs: MiB by disk, and by disk and snapshot."""
    found: Figures = {}
    for line in text.splitlines():
        match = re.fullmatch(r'VM = \[ ID = ([0-9]+), MONITOR = "([^"]+)" \]', line)
        assert match, line
        inner = base64.b64decode(match[2], validate=True).decode()
        pattern = r"DISK_SIZE = \[ ID=(\d+), SIZE=(\d+) \]|SNAPSHOT_SIZE = \[ ID=(\d+), DISK_ID=(\d+), SIZE=(\d+) \]"
        matches = [re.fullmatch(pattern, one) for one in inner.splitlines()]
        groups = [[int(one or -1) for one in match.groups()] for match in matches if match]
        assert len(groups) == len(matches), inner
        found[int(match[1])] = (
            {disk: size for disk, size, *_rest in groups if disk >= 0},
            {(disk, snapshot): size for _disk, _size, snapshot, disk, size in groups if disk >= 0},
        )
    return found


def du(path: Path) -> int:
    """Return the MiB that a file takes, rounded up."""
    return int(shell("du", "--block-size=1M", "--dereference", path).split()[0])


def write(path: Path, mebibytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(mebibytes * MIB))
        file.truncate(64 * MIB)


# The front-end


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_recorded_call(listener: Listener, empty: Cluster, name: str, encoded: bool) -> None:
    """The recorded driver wrote the figures in one line. The specification has one a line."""
    call = CALLS[name]
    xml = call["stdin_xml"].replace("/var/lib/one/", f"{empty.home}/")
    store = empty.datastores / call["argv"][0]
    write(store / "7" / "disk.0", 3)
    done = monitor(empty, call["driver"], xml, *call["argv"], encoded=encoded)
    assert (done.returncode, done.stderr) == (call["rc"], "")
    check_capacity(done.stdout, store)
    assert set(capacity(done.stdout)) == {word.split("=")[0] for word in call["stdout"].split()}
    status, text = listener.receive()
    assert (status, figures(text)) == ("SUCCESS", {7: ({0: 3}, {})})
    assert listener.is_idle()


def test_all_recorded_calls_are_here() -> None:
    assert list(CALLS) == ["tm-qcow2-monitor-1", "tm-shared-monitor-1"]


@pytest.mark.parametrize("driver", ["ssh", "local"])
@pytest.mark.parametrize("xml", ["", "<x/>", "<DATASTORE/>" * 50_000])
def test_hosts_monitor_their_own_datastores(listener: Listener, empty: Cluster, driver: str, xml: str) -> None:
    done = monitor(empty, driver, xml or document(empty.datastores / "100"), encoded=not xml)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert listener.is_idle()


@pytest.mark.parametrize("requested", ["0", None, "-1", ""])
def test_disks_are_reported_on_request_only(listener: Listener, empty: Cluster, requested: str | None) -> None:
    write(empty.datastores / "104" / "7" / "disk.0", 1)
    done = monitor(empty, "shared", document(empty.datastores / "104", disks=requested))
    assert done.returncode == 0 and done.stdout.startswith("USED_MB=")
    assert listener.is_idle()


def test_a_new_datastore_gets_its_directory(empty: Cluster) -> None:
    store = empty.datastores / "104"
    store.rmdir()
    done = monitor(empty, "shared", document(store))
    assert (done.returncode, done.stderr) == (0, "")
    assert (store.stat().st_uid, oct(store.stat().st_mode)) == (OWNER[0], "0o40755")


@pytest.mark.parametrize(
    ("arguments", "xml", "message"),
    [
        (["x"], None, "arguments: 'x' is not accepted: monitor ds_id is expected."),
        (["1", "2"], None, "arguments: '1 2' is not accepted: monitor ds_id is expected."),
        (["104"], "<x/>", "standard input: '<x>' is not accepted: *"),
        (["104"], "garbage", "standard input: 'garbage' is not accepted: base64 of an XML document is expected."),
        (["104"], document(Path("/x/104"), disks="many"), "MONITOR_VM_DISKS: 'many' is not accepted: *"),
        (["104"], document(Path("/nowhere/104")), "Could not make the directory /nowhere/104: *"),
    ],
)
def test_bad_input(empty: Cluster, arguments: list[str], xml: str | None, message: str) -> None:
    done = monitor(
        empty, "shared", document(empty.datastores / "104") if xml is None else xml, *arguments, encoded=False
    )
    (line,) = messages(done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(re.escape(message).replace(r"\*", ".*"), line)


def test_virtiofs_has_no_system_datastores(empty: Cluster) -> None:
    assert not (empty.remotes / "tm" / "virtiofs" / "monitor").exists()
    shutil.copy(empty.remotes / "tm" / "shared" / "monitor", empty.remotes / "tm" / "virtiofs")
    done = monitor(empty, "virtiofs", document(empty.datastores / "104"))
    (empty.remotes / "tm" / "virtiofs" / "monitor").unlink()
    assert done.returncode == 1
    assert messages(done.stderr) == [
        "monitor is not supported by the transfer driver virtiofs: no system datastore has it."
    ]


def test_one_host_of_the_bridge_list_is_asked(listener: Listener, empty: Cluster) -> None:
    """Each host has another directory 100, so only the host can know its disks."""
    write(empty.path("h2", empty.datastores / "100") / "7" / "disk.0", 5)
    empty.own()
    before = empty.connections()
    done = monitor(empty, "shared", document(empty.datastores / "100", bridges="dead h2"))
    assert done.returncode == 0 and messages(done.stderr) == []
    check_capacity(done.stdout, empty.path("h2", empty.datastores / "100"))
    assert figures(listener.receive()[1]) == {7: ({0: 5}, {})}
    made = {host: number - before[host] for host, number in empty.connections().items()}
    assert made == {"h1": 0, "h2": 2, "h3": 0}


def test_a_vm_that_cannot_be_read_ends_nothing(listener: Listener, empty: Cluster) -> None:
    store = empty.datastores / "104"
    for vm in (1, 2, 3):
        write(store / str(vm) / "disk.0", vm)
    empty.own()
    (store / "2").chmod(0)
    done = monitor(empty, "shared", document(store))
    assert (done.returncode, messages(done.stderr)) == (0, [])
    assert done.stderr == f"INFO: The disks of VMs in '{store}' could not be read: 2 (Permission denied).\n"
    assert figures(listener.receive()[1]) == {1: ({0: 1}, {}), 3: ({0: 3}, {})}


def test_disks_that_cannot_be_reported(listener: Listener, empty: Cluster) -> None:
    """The capacity is known all the same."""
    store = empty.datastores / "104"
    write(store / "7" / "disk.0", 1)
    listener.configuration.write_text("NETWORK = [ PORT = x ]\n")
    done = monitor(empty, "shared", document(store))
    assert done.returncode == 0 and done.stdout.startswith("USED_MB=") and messages(done.stderr) == []
    assert "The disks of VMs are not reported: " in done.stderr and "'x' is not accepted" in done.stderr
    port = listener.socket.getsockname()[1]
    listener.configuration.write_text(f"NETWORK = [ PORT = {port} ]\n")
    empty.own()
    store.chmod(0o311)
    try:
        done = monitor(empty, "shared", document(store))
    finally:
        store.chmod(0o755)
    assert done.returncode == 0 and done.stdout.startswith("USED_MB=") and messages(done.stderr) == []
    status, text = listener.receive()
    assert status == "FAILURE" and str(store) in text and f"The disks of VMs are not reported: {text}" in done.stderr


# The hosts


@pytest.fixture
def probe(empty: Cluster) -> Iterator[Callable[..., str]]:
    """Return the output of the probe of a host for a system datastore. It runs as the front-end's user with an empty
    environment. The host has a copy of the front-end's remotes.
    """
    copies = empty.root / "copies"
    shutil.copytree(empty.remotes, copies)

    def run(host: str, datastore: Path, *, python: Path | None = None) -> str:
        interpreter = f"{python} -ISXutf8 " if python else ""
        script = f"exec {interpreter}{copies}/tm/$(cat {datastore}/.monitor)/monitor_ds {datastore}/"
        return empty.execute(host, *AS_ONEADMIN, "env", "-i", "sh", "-c", script)

    yield run
    shutil.rmtree(copies)


class Hosts:
    """A transfer driver for a system datastore of the hosts, and a VM with three disks on h1."""

    def __init__(self, cluster: Cluster, driver: str, suffix: str) -> None:
        self.cluster, self.driver, self.suffix = cluster, driver, suffix
        self.images = cluster.datastores / ("103" if suffix else "101")
        self.system, self.other = cluster.datastores / "100", cluster.datastores / "107"
        elements = {
            number: {"FORMAT": image_format, "SOURCE": f"{self.images}/{name}"}
            for number, image_format, name in ((0, "qcow2", QCOW2), (1, "raw", RAW), (12, "raw", RAW))
        }
        cluster.server.vms[7] = vm_document(7, elements)
        write(self.images / RAW, 4)
        shell("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.images / RAW, self.images / QCOW2)
        cluster.own()

    def __call__(self, action: str, *arguments: object) -> None:
        done = self.cluster.call(self.driver, f"{action}{self.suffix}", *arguments, 7, 100)
        assert done.returncode == 0, done.stderr

    def at(self, host: str, datastore: Path, name: str = "") -> Path:
        """Return a path of a host, as the test reaches it."""
        return self.cluster.path(host, datastore / name)


@pytest.mark.parametrize(("driver", "suffix"), [("ssh", ""), ("local", ""), ("shared", ".ssh"), ("qcow2", ".local")])
def test_the_probe_of_a_host(empty: Cluster, probe: Callable[..., str], driver: str, suffix: str) -> None:
    """Each action that brings a disk to a host names the system datastore's driver there."""
    hosts = Hosts(empty, driver, suffix)
    mark = hosts.at("h1", hosts.system, ".monitor")
    for action, name, disk in (("clone", QCOW2, 0), ("ln", RAW, 1), ("clone", RAW, 12)):
        hosts(action, f"{FRONT_END}:{hosts.images}/{name}", f"h1:{hosts.system}/7/disk.{disk}")
        assert mark.read_text() == f"{suffix[1:] or driver}\n"
        mark.unlink()
    hosts("context", "/etc/hostname", f"h1:{hosts.system}/7/disk.13")
    assert mark.read_text() == f"{suffix[1:] or driver}\n"
    for number in (0, 1):
        hosts("snap_create", f"h1:{hosts.system}/7/disk.0", number)
        hosts("snap_create", f"h1:{hosts.system}/7/disk.12", number)
    check_report(probe("h1", hosts.system), hosts.at("h1", hosts.system))
    hosts("mv", f"h1:{hosts.system}/7", f"h2:{hosts.other}/7")
    assert hosts.at("h2", hosts.other, ".monitor").read_text() == f"{suffix[1:] or driver}\n"
    check_report(probe("h2", hosts.other), hosts.at("h2", hosts.other))
    assert figures_of(probe("h1", hosts.system)) == {}


def figures_of(report: str) -> Figures:
    return figures("".join(report.splitlines(keepends=True)[3:]))


def check_report(report: str, system: Path) -> None:
    """Compare the report about VM 7 with du(1) and qemu-img(1)."""
    assert list(capacity("".join(report.splitlines(keepends=True)[:3]))) == ["USED_MB", "TOTAL_MB", "FREE_MB"]
    directory, found = system / "7", figures_of(report)
    disks = {int(path.name[5:]): path for path in directory.glob("disk.*") if path.suffix != ".snap"}
    assert set(disks) == {0, 1, 12, 13}
    described = {
        number: json.loads(shell("qemu-img", "info", "--output=json", "-f", image_format, disks[number]))
        for number, image_format in ((0, "qcow2"), (1, "raw"), (12, "raw"), (13, "raw"))
    }
    assert found[7][0] == {number: du(path) for number, path in disks.items()}
    assert found[7][0] == {number: -(-one["actual-size"] // MIB) for number, one in described.items()}
    # Snapshots have the ids that they were created with. The layer that receives the writes is none.
    assert found[7][1] == {
        (disk, snapshot): du(directory / f"disk.{disk}.snap" / str(snapshot)) for disk in (0, 12) for snapshot in (0, 1)
    }


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parent.parent.name)
def test_the_script_needs_only_python(empty: Cluster, python: Path) -> None:
    """A user without an account runs a copy of the script, where the engine can't be read."""
    store = empty.path("h1", empty.datastores / "100")
    write(store / "7" / "disk.0", 2)
    copy = Path(shutil.copy(empty.remotes / "tm" / "local" / "monitor_ds", empty.root))
    library = (empty.root / "library").rename(empty.root / "hidden")
    nobody = "exec setpriv --reuid=61001 --regid=61001 --clear-groups env -i LD_LIBRARY_PATH=/mnt/lib"
    # Only root can search /root.
    command = f'mount --bind "$1" /mnt; {nobody} /mnt/bin/python3 -ISXutf8 "$2" "$3"'
    try:
        found = shell("unshare", "--mount", "sh", "-ec", command, "sh", python.parent.parent, copy, store)
    finally:
        library.rename(empty.root / "library")
    assert figures_of(found) == {7: ({0: 2}, {})}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "monitor_ds needs one argument: the directory of a system datastore."),
        (["/x", "/y"], "monitor_ds needs one argument: the directory of a system datastore."),
        (["/no\nwhere"], "The datastore '/no\\nwhere' could not be read: No such file or directory."),
        (["/etc/passwd"], "The datastore '/etc/passwd' could not be read: Not a directory."),
    ],
)
def test_the_script_refuses(empty: Cluster, arguments: list[str], message: str) -> None:
    script = empty.remotes / "tm" / "ssh" / "monitor_ds"
    done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{message}\n")


def test_a_report_that_nobody_reads(empty: Cluster) -> None:
    script = empty.remotes / "tm" / "ssh" / "monitor_ds"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([script, "/var/tmp"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "The report can't be written: No space left on device.\n")


def test_which_scripts_are_installed(empty: Cluster) -> None:
    installed = {
        (path.parent.name, path.name) for path in empty.remotes.glob("tm/*/*") if path.name.startswith("monitor")
    }
    assert installed == {
        *((driver, "monitor") for driver in ("ssh", "local", "shared", "qcow2")),
        *((driver, "monitor_ds") for driver in ("ssh", "local")),
    }
