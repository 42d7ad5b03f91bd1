# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of files between hosts, with real connections to a real sshd.

The remote operations are those of ``transfer_trial``, in a copy of the engine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from documentation import block
from refusal import refused

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
DATA = random.Random(1).randbytes(MIB)
MODULES = (
    "_core.command",
    "_core.errors",
    "_remote.session",
    "_remote.ssh",
    "_remote.transfer",
    "_remote.tree",
    "_remote.tree_exchange",
    "_remote.tree_session",
    "_trial.protocol",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the modules of a copy of the engine that has the operations of the trial."""
    package = tmp_path_factory.mktemp("engine") / "granary_vmstore"
    package.mkdir()
    for path in (ROOT / "plugins" / "module_utils").iterdir():
        (package / path.name).symlink_to(path)
    (package / "_trial").symlink_to(Path(__file__).with_name("transfer_trial"))
    sys.path.insert(0, str(package.parent))
    try:
        found = {name.rpartition(".")[2]: importlib.import_module(f"granary_vmstore.{name}") for name in MODULES}
        yield SimpleNamespace(path=package.parent, **found)
    finally:
        sys.path.remove(str(package.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == "granary_vmstore"]:
            del sys.modules[name]


class Hosts:
    """The front-end, and the hosts h1 and h2, with a directory of each."""

    def __init__(self, engine: Any, directory: Path) -> None:
        self.engine = engine
        self.here, self.h1, self.h2 = (directory / name for name in ("here", "h1", "h2"))
        for path in (self.here, self.h1, self.h2):
            path.mkdir()
        self.log: list[str] = []
        self.options: tuple[str, ...] = ()

    def route(self, host: str) -> Any:
        return self.engine.transfer.Route(host, self.engine.protocol.__name__, self.log.append, options=self.options)

    def push(self, names: dict[str, str], host: str = "h1", action: str = "put", *arguments: object) -> Any:
        """Send files of the front-end to a host."""
        with opened(self.here) as directory:
            return self.engine.transfer.push_tree(
                self.route(host),
                action,
                self.engine.protocol.OPERATIONS[action],
                self.engine.protocol.request(action, str(self.h1), *arguments),
                self.engine.tree.Source(directory, str(self.here), names),
                kinds={},
            )

    def pull(self, names: dict[str, str], host: str = "h1") -> Any:
        """Get files of a host."""
        with opened(self.here) as directory:
            return self.engine.transfer.pull_tree(
                self.route(host),
                "get",
                self.engine.protocol.OPERATIONS["get"],
                self.engine.protocol.request("get", str(self.h1), names),
                directory,
                kinds={},
            )

    def pass_on(self, names: dict[str, str], host: str = "h2") -> Any:
        """Let h1 send files directly to another host."""
        return self.ask("pass_on", str(self.h1), names, host, str(self.h2))

    def ask(self, action: str, *arguments: object) -> Any:
        """Run an operation without files on h1."""
        protocol = self.engine.protocol
        with self.engine.session.Session("h1", kind="host", module=protocol.__name__, log=self.log.append) as session:
            assert session.handshake() is None
            request = protocol.request(action, *arguments)
            return session.ask(action, protocol.OPERATIONS[action], request, kinds={}, timeout=60)


class opened:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self._descriptor

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)


@pytest.fixture
def hosts(shared_bridges: Any, engine: Any, tmp_path: Path) -> Hosts:
    return Hosts(engine, tmp_path)


def write_sparse(path: Path, pieces: dict[int, bytes], size: int) -> None:
    with path.open("wb") as file:
        for position, data in pieces.items():
            file.seek(position)
            file.write(data)
        file.truncate(size)


def make_vm(directory: Path) -> None:
    """Make the files of a virtual machine: a disk with snapshots, a raw disk, and a file without rights."""
    (snapshots := directory / "disk.0.snap").mkdir(parents=True)
    write_sparse(snapshots / "0", {3 * MIB: DATA}, 64 * MIB)
    write_sparse(snapshots / "1", {0: DATA[:1000], 70 * MIB: DATA}, 100 * MIB + 17)
    (directory / "disk.0").symlink_to("disk.0.snap/1")
    write_sparse(directory / "disk.1", {}, 1 << 40)
    (directory / "empty").touch(mode=0o400)
    (directory / "vm.xml").write_text("<VM/>")
    (directory / "é \udcff").write_bytes(b"x")
    os.utime(snapshots / "0", ns=(1, 1_234_567_890_123_456_789))
    os.utime(snapshots, ns=(1, 1_111_111_111_000_000_001))


#: Print everything about files that a transfer keeps, by find(1) and sha256sum(1). A directory's size isn't kept.
FACTS = """
cd "$1"
find . -mindepth 1 -type d -printf '%P|%y|%m|%T@\\n' -o -mindepth 1 -printf '%P|%y|%m|%s|%T@|%l\\n' | sort
find . -type f -size -1G -exec sha256sum {} + | sort
"""


def facts(directory: Path) -> bytes:
    return subprocess.run(["sh", "-c", FACTS, "sh", directory], capture_output=True, check=True).stdout


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_push_of_a_file_with_its_snapshots(hosts: Hosts) -> None:
    make_vm(hosts.here)
    assert hosts.push({"disk.0": "disk.5", "disk.0.snap": "disk.5.snap"}) == "stored"
    assert sorted(os.listdir(hosts.h1)) == ["disk.5", "disk.5.snap"]
    assert os.readlink(hosts.h1 / "disk.5") == "disk.5.snap/1"
    assert facts(hosts.h1 / "disk.5.snap") == facts(hosts.here / "disk.0.snap")
    assert allocated(hosts.h1 / "disk.5.snap" / "0") < 2 * MIB


def test_pull_removes_the_source(hosts: Hosts) -> None:
    make_vm(hosts.h1 / "7")
    subprocess.run(["cp", "-a", hosts.h1 / "7", hosts.h1 / "same"], check=True)
    assert hosts.pull({"7": "7"}) == "removed"
    assert os.listdir(hosts.h1) == ["same"]
    assert os.listdir(hosts.here) == ["7"]
    assert facts(hosts.here / "7") == facts(hosts.h1 / "same")
    assert allocated(hosts.here / "7" / "disk.1") == 0


def test_old_files_are_replaced(hosts: Hosts) -> None:
    make_vm(hosts.here / "7")
    (hosts.h1 / "7" / "disk.0.snap" / "old").mkdir(parents=True)
    (hosts.h1 / "7" / "disk.9").write_text("old")
    hosts.push({"7": "7"})
    assert os.listdir(hosts.h1) == ["7"]
    assert facts(hosts.h1 / "7") == facts(hosts.here / "7")


def test_an_error_on_a_host(hosts: Hosts) -> None:
    """Each host on the way is named, and nothing is left."""
    (hosts.here / "x").write_text("x")
    (hosts.h1 / "x").mkdir()
    (hosts.h1 / "y").write_text("y")
    hosts.h2.rmdir()
    with refused(
        hosts.engine.errors.CommandFailed,
        says=f"On the host h1: on the host h2: The action failed: FileNotFoundError: * '{hosts.h2.name}'",
    ):
        hosts.pass_on({"y": "y"})
    with refused(
        hosts.engine.errors.HostUnreachable,
        says="On the host h1: put needs the host dead, which can't be used: ssh: connect to host *.",
    ):
        hosts.pass_on({"y": "y"}, "dead")
    with refused(
        hosts.engine.errors.HostUnreachable,
        says="put needs the host dead, which can't be used: ssh: connect to host *.",
    ):
        hosts.push({"x": "x"}, "dead")
    with refused(hosts.engine.errors.NotFound, names=["host h1", hosts.h1, "none"]):
        hosts.pull({"none": "none"})
    assert sorted(os.listdir(hosts.h1)) == ["x", "y"]
    assert os.listdir(hosts.here) == ["x"]


def test_a_file_that_changes_while_it_is_sent(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host that receives discards what it has."""
    (hosts.here / "x").write_bytes(DATA)
    send_data = hosts.engine.tree_exchange.send_data

    def change(*arguments: Any) -> None:
        with (hosts.here / "x").open("ab") as file:
            file.write(b"x")
        send_data(*arguments)

    monkeypatch.setattr(hosts.engine.tree_exchange, "send_data", change)
    with refused(hosts.engine.errors.StaleState, names=[hosts.here / "x"]):
        hosts.push({"x": "x"})
    assert os.listdir(hosts.h1) == []


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("flooding", "log lines"),
        ("shouting", "a log line of more than 65536 bytes"),
        ("complaining", "bytes of messages"),
        ("endless", "a line of more than 1048576 bytes"),
    ],
)
def test_hosts_that_never_answer(hosts: Hosts, monkeypatch: pytest.MonkeyPatch, host: str, why: str) -> None:
    monkeypatch.setattr(hosts.engine.command, "MOST_STDERR", MIB)
    monkeypatch.setattr(hosts.engine.tree_session, "LONGEST_ANSWER", MIB)
    monkeypatch.setattr(hosts.engine.session, "LOG_LINES", 100)
    (hosts.here / "x").touch()
    with refused(hosts.engine.errors.CommandFailed, names=[why]):
        hosts.push({"x": "x"}, host)


def test_a_host_that_takes_nothing(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines of the host don't extend the deadline."""
    monkeypatch.setattr(hosts.engine.tree_session, "STALL", 1.0)
    with hosts.route("logging").connect() as session:
        assert session.handshake() is None
        with refused(
            hosts.engine.errors.CommandFailed,
            says="The host logging accepts no more data for put and is given up.",
        ):
            session.begin("put", hosts.engine.protocol.request("put", "x" * 16 * MIB))


def test_directly_between_two_hosts(hosts: Hosts, shared_bridges: Any) -> None:
    make_vm(hosts.h1 / "7")
    before = shared_bridges.connections()
    assert hosts.pass_on({"7": "7"}) == "stored"
    assert shared_bridges.connections() == before + 2
    assert facts(hosts.h2 / "7") == facts(hosts.h1 / "7")


def test_the_cipher_for_much_data(shared_bridges: Any, engine: Any) -> None:
    """AES-GCM comes first among the ciphers that the configuration allows."""
    flag, ciphers = engine.ssh.fast_cipher("h1")
    allowed = subprocess.run(["ssh", "-Q", "cipher"], capture_output=True, text=True, check=True).stdout.split()
    assert flag == "-c" and ciphers.startswith("aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20")
    assert set(ciphers.split(",")) <= set(allowed)
    with (shared_bridges.root / "sshd" / "client").open("a") as file:
        file.write("Host restricted\n  Ciphers aes256-ctr,aes256-gcm@openssh.com\n")
    assert engine.ssh.fast_cipher("restricted") == ("-c", "aes256-gcm@openssh.com,aes256-ctr")


# Connections that break

#: Data that takes several segments.
LARGE = 96 * MIB


class Proxy:
    """A network between ssh(1) and the server that is cut after a number of bytes in one direction.

    :arg limits: for each connection the bytes after which it is cut; the last one is for all further connections.
    :arg is_silent: whether the server isn't told that the connection is cut.
    """

    def __init__(self, port: int, limits: list[int | None], *, to_server: bool, is_silent: bool = False) -> None:
        self._port = port
        self._limits = limits
        self._to_server = to_server
        self._is_silent = is_silent
        self.passed: list[int] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.options = ("-p", str(self._server.getsockname()[1]))
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._server.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                number = len(self.passed)
                self.passed.append(0)
                limit = self._limits[min(number, len(self._limits) - 1)]
                ends = (client, server)
                for source, target in (ends, ends[::-1]):
                    is_counted = (source is client) == self._to_server
                    self._start(self._forward, number, source, target, limit, is_counted)

    def _forward(
        self, number: int, source: socket.socket, target: socket.socket, limit: int | None, is_counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(data)
                if is_counted:
                    self.passed[number] += len(data)
                    if limit is not None and self.passed[number] > limit:
                        break
        client, server = (source, target) if (is_counted == self._to_server) else (target, source)
        ends = [client] if self._is_silent and limit is not None else [client, server]
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in [self._server, *self._open]:
            one.close()


@pytest.fixture
def proxy(shared_bridges: Any) -> Iterator[Callable[..., Proxy]]:
    made: list[Proxy] = []

    def make(limits: list[int | None], *, to_server: bool, is_silent: bool = False) -> Proxy:
        made.append(Proxy(shared_bridges.port, limits, to_server=to_server, is_silent=is_silent))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with data that takes several segments, and with a hole."""
    path = tmp_path_factory.mktemp("large") / "disk"
    block = random.Random(3).randbytes(LARGE // 2)
    write_sparse(path, {0: block, LARGE: block}, 2 * LARGE)
    return path


def put_file(file: Path, directory: Path) -> None:
    """Give a directory the file under the name ``disk``, without its data."""
    os.link(file, directory / "disk")


@pytest.mark.parametrize("silent", [False, True], ids=["closed", "silent"])
def test_a_push_goes_on_after_a_cut(hosts: Hosts, proxy: Any, large: Path, shared_bridges: Any, silent: bool) -> None:
    """If the host doesn't notice the cut, the second connection ends the process of the first one."""
    network = proxy([80 * MIB, None], to_server=True, is_silent=silent)
    hosts.options = network.options
    put_file(large, hosts.here)
    assert hosts.push({"disk": "disk"}) == "stored"
    assert facts(hosts.h1) == facts(hosts.here)
    assert os.listdir(hosts.h1) == ["disk"]
    assert len(network.passed) == 2
    # The first connection brought one segment of 64 MiB.
    assert network.passed[1] < LARGE - 60 * MIB
    assert [line for line in hosts.log if "broke during put" in line] == hosts.log != []


def test_a_pull_goes_on_after_a_cut(hosts: Hosts, proxy: Any, large: Path) -> None:
    network = proxy([80 * MIB, None], to_server=False)
    hosts.options = network.options
    put_file(large, hosts.h1)
    assert hosts.pull({"disk": "disk"}) == "removed"
    os.link(large, hosts.h1 / "disk")
    assert facts(hosts.here) == facts(hosts.h1)
    assert os.listdir(hosts.here) == ["disk"]
    assert network.passed[1] < LARGE - 60 * MIB


def test_the_compression_of_ssh(hosts: Hosts, proxy: Any, tmp_path: Path) -> None:
    """The configuration of the documentation, as an option of the command."""
    (tmp_path / "config").write_text(block("docs/vm-disks.md", "Slow links between hosts").text)
    command = ["/usr/bin/ssh", "-F", str(tmp_path / "config"), "-G", "branch-1"]
    configured = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = [one for one in configured if one.startswith("compression ")]
    (hosts.here / "text").write_bytes(b"%d " % MIB * MIB)
    passed = {}
    for compression in ("no", line.split()[1]):
        network = proxy([None], to_server=True)
        hosts.options = (*network.options, "-o", f"Compression={compression}")
        hosts.push({"text": "text"})
        assert facts(hosts.h1) == facts(hosts.here)
        passed[compression] = network.passed[0]
    assert passed["no"] > 8 * MIB > MIB > passed["yes"]


def test_a_network_that_stays_away(hosts: Hosts, proxy: Any, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.engine.transfer, "PAUSES", (0.0, 0.0))
    network = proxy([MIB], to_server=True)
    hosts.options = network.options
    put_file(large, hosts.here)
    (hosts.h1 / "disk").write_text("old")
    with refused(hosts.engine.errors.TransferFailed, names=["host h1", "put"]):
        hosts.push({"disk": "disk"})
    assert len(network.passed) == 3
    assert (hosts.h1 / "disk").read_text() == "old"
    hosts.options = ()
    hosts.push({"disk": "disk"})  # and what the broken ones left is removed
    assert os.listdir(hosts.h1) == ["disk"]
    assert facts(hosts.h1) == facts(hosts.here)


def test_a_confirmation_that_is_lost(hosts: Hosts, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy is complete, and the host doesn't learn of it. The next connection lets it remove the source."""
    confirm = hosts.engine.transfer.confirm
    lost: list[object] = []

    def lose(session: Any) -> None:
        if not lost:
            lost.append(session)
            raise hosts.engine.tree_exchange.Broken("The connection broke.")
        confirm(session)

    monkeypatch.setattr(hosts.engine.transfer, "confirm", lose)
    put_file(large, hosts.h1)
    assert hosts.pull({"disk": "disk"}) == "removed"
    assert lost and os.listdir(hosts.h1) == [] and os.listdir(hosts.here) == ["disk"]


def test_a_host_that_fails_in_the_middle(hosts: Hosts, large: Path, shared_bridges: Any) -> None:
    """The error of the host stops the sender at once, and isn't taken for a broken connection."""
    put_file(large, hosts.here)
    before = shared_bridges.connections()
    with refused(
        hosts.engine.errors.NoSpace,
        says=f"On the host h1: Could not receive files in {hosts.h1}: No space left on device. Nothing was changed.",
    ):
        hosts.push({"disk": "disk"}, "h1", "put_until_full", 70 * MIB)
    assert os.listdir(hosts.h1) == []
    assert shared_bridges.connections() == before + 1


# Processes that end

PROGRAM = """
import os, sys
sys.path[:0] = [sys.argv[1]]
from granary_vmstore._remote.transfer import Route, pull_tree, push_tree
from granary_vmstore._remote.tree import Source
from granary_vmstore._trial import protocol
here, there, action = sys.argv[2:5]
directory = os.open(here, os.O_RDONLY)
route = Route("h1", protocol.__name__, print)
operation = protocol.OPERATIONS[action]
if action == "put":
    source = Source(directory, here, {"disk": "disk"})
    push_tree(route, action, operation, protocol.request(action, there), source, kinds={})
else:
    pull_tree(route, action, operation, protocol.request(action, there, {"disk": "disk"}), directory, kinds={})
"""


@pytest.mark.parametrize("action", ["put", "get"])
@pytest.mark.parametrize("victim", ["front-end", "client", "server", "engine"])
def test_a_process_that_is_killed(hosts: Hosts, shared_bridges: Any, large: Path, action: str, victim: str) -> None:
    """After the end of the front-end nothing has a final name, and a repeat succeeds. Others are replaced."""
    source, target = (hosts.here, hosts.h1) if action == "put" else (hosts.h1, hosts.here)
    put_file(large, source)
    command = [sys.executable, "-I", "-c", PROGRAM, hosts.engine.path, hosts.here, hosts.h1, action]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        wait_until(lambda: any(received(target)))
        os.kill(process.pid if victim == "front-end" else find_victim(shared_bridges, victim), signal.SIGKILL)
        process.communicate()
    if victim == "front-end":
        assert process.returncode == -signal.SIGKILL
        assert "disk" not in os.listdir(target)
        assert (source / "disk").exists()
        assert subprocess.run(command, check=False).returncode == 0
    else:
        assert process.returncode == 0
    assert os.listdir(target) == ["disk"]
    assert os.listdir(source) == (["disk"] if action == "put" else [])
    subprocess.run(["cmp", target / "disk", large], check=True)


# Hosts that become silent


@contextlib.contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread during a block, and raise its error."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
        future.result()


def test_a_slow_operation_is_waited_for(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host sends nothing but heartbeats for longer than it may be silent."""
    silence = 4.0
    monkeypatch.setattr(hosts.engine.session, "SILENCE", silence)

    def end_the_work() -> None:
        wait_until((hosts.h1 / "began").exists)
        time.sleep(silence + 1)  # the time itself is what the test is about, so there is no event
        (hosts.h1 / "go").touch()

    with in_thread(end_the_work):
        assert hosts.ask("work", str(hosts.h1)) == "worked"


def test_an_operation_whose_process_is_stopped(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, shared_bridges: Any
) -> None:
    monkeypatch.setattr(hosts.engine.session, "SILENCE", 1.0)
    stopped: list[int] = []

    def stop() -> None:
        wait_until((hosts.h1 / "began").exists)
        stopped.append(find_victim(shared_bridges, "engine"))
        os.kill(stopped[0], signal.SIGSTOP)

    with (
        in_thread(stop),
        refused(
            hosts.engine.errors.TransferFailed,
            says="The host h1 showed no sign of life for 1 seconds during work and is given up.",
        ),
    ):
        hosts.ask("work", str(hosts.h1))
    os.kill(stopped[0], signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{stopped[0]}").exists())


@pytest.mark.parametrize("action", ["put", "get"])
@pytest.mark.parametrize("victim", ["server", "engine"])
def test_a_transfer_whose_process_is_stopped(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, shared_bridges: Any, large: Path, action: str, victim: str
) -> None:
    """The next connection ends the process of the first one, which still holds the locks."""
    monkeypatch.setattr(hosts.engine.session, "SILENCE", 1.0)
    source, target = (hosts.here, hosts.h1) if action == "put" else (hosts.h1, hosts.here)
    put_file(large, source)
    stopped: list[int] = []

    def stop() -> None:
        wait_until(lambda: any(received(target)))
        stopped.append(find_victim(shared_bridges, victim))
        os.kill(stopped[0], signal.SIGSTOP)

    with in_thread(stop):
        hosts.push({"disk": "disk"}) if action == "put" else hosts.pull({"disk": "disk"})
    subprocess.run(["cmp", target / "disk", large], check=True)
    assert os.listdir(target) == ["disk"]
    assert hosts.log[0] == (
        f"The host h1 showed no sign of life for 1 seconds during {action} and is given up; a new connection goes on "
        "with the transfer"
    )
    if victim == "server":
        os.kill(stopped[0], signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{stopped[0]}").exists())


def test_a_server_that_never_speaks(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts.engine.ssh, "CONNECT_TIMEOUT", 1)
    (hosts.here / "x").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        hosts.options = ("-p", str(server.getsockname()[1]))
        with refused(
            hosts.engine.errors.HostUnreachable,
            says="put needs the host h1, which can't be used: Connection timed out during banner exchange*.",
        ):
            hosts.push({"x": "x"})


def received(target: Path) -> Iterator[bool]:
    """Yield for each file that arrives whether it has data."""
    for path in target.glob(".*.part/data/disk"):
        yield path.stat().st_blocks * 512 > 8 * MIB


def find_victim(bridges: Any, victim: str) -> int:
    """Return the process of ssh(1), of the server for the connection, or of the engine on the host."""
    if victim == "client":
        return process_ids(f"^/usr/bin/ssh -F {bridges.root}/sshd/client")[0]
    found = [
        number
        for number in process_ids("^python3 -ISXutf8 -c import os,sys")
        if str(bridges.datastores) in read_mounts(number)
    ]
    if victim == "engine":
        return found[0]
    return int(Path(f"/proc/{found[0]}/stat").read_text().rpartition(")")[2].split()[1])


def read_mounts(process: int) -> str:
    """Return the mounts of a process, and nothing if the process is ending."""
    try:
        return Path(f"/proc/{process}/mountinfo").read_text()
    except OSError:
        return ""


def process_ids(pattern: str) -> list[int]:
    done = subprocess.run(["pgrep", "-f", "--", pattern], capture_output=True, text=True, check=False)
    return [int(number) for number in done.stdout.split()]


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)
