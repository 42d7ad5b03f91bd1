# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""A lab with kernels of its own: an NFS server and two clients, and each fault of a host."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import block
from lab import Lab, LabError
from refusal import refused

EXPORT = (
    "mkdir -p /srv/ds /etc/exports.d; echo '/srv/ds *(rw,no_root_squash,no_subtree_check)' > /etc/exports.d/ds.exports"
)
CLIENTS = ("client1", "client2")


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[[dict[str, Any]], Lab]) -> Iterator[Lab]:
    lab = lab_factory(
        {
            **yaml.safe_load(block("tests/harness/README.md", "Hosts with a kernel of their own").text),
            "name": f"uml-{os.getpid()}",
        }
    )
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def mounted(lab: Lab) -> Lab:
    """Let the clients mount the server's directory, also at boot, by NFS 4.2 at /srv/v4.2 and by NFS 3 at /srv/v3."""
    lab.ssh("server", f"{EXPORT}; systemctl enable --now nfs-server; exportfs -ra")
    for version in ("4.2", "3"):
        line = f"server:/srv/ds /srv/v{version} nfs vers={version},_netdev,noac 0 0"
        for client in CLIENTS:
            lab.ssh(
                client,
                f"mkdir -p /srv/v{version}; echo {line} >> /etc/fstab; systemctl daemon-reload; mount /srv/v{version}",
            )
    return lab


@contextlib.contextmanager
def session(lab: Lab, name: str, command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command line on a host, by a connection of its own, during a block."""
    ssh = ["ssh", "-F", str(lab.ssh_config), "-o", "ControlPath=none", name, command]
    with subprocess.Popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def has_hung(lab: Lab, name: str, *command: str) -> bool:
    """Return True if a command on a host must be ended after two seconds."""
    return lab.ssh(name, f"timeout 2 {shlex.join(command)} >/dev/null 2>&1; echo $?").strip() == "124"


def inspect(lab: Lab, name: str, template: str) -> str:
    command = ["podman", "inspect", "--format", template, f"lab-{lab.name}-{name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_host_has_systemd_and_a_kernel_of_its_own(lab: Lab) -> None:
    assert lab.ssh("client2", "cat /proc/1/comm; hostname; systemctl is-system-running").split() == [
        "systemd",
        "client2",
        "running",
    ]
    assert lab.ssh("client2", "uname", "-r").strip() != os.uname().release
    assert 450_000 < int(lab.ssh("client2", "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) < 524_288
    assert len({lab.ssh(name, "cat", "/etc/machine-id") for name in lab.hosts()}) == 3
    assert inspect(lab, "client2", "{{.HostConfig.Privileged}}") == "false"


def test_what_the_page_says_works(lab: Lab) -> None:
    up, *commands, down = block("tests/harness/README.md", "Hosts with a kernel of their own", 1).text.splitlines()
    assert (up, down) == ("lab up nfs.yml", "lab down")
    script = "\n".join(commands).replace("lab ", f"lab --lab {lab.name} ")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "the server doesn't respond\nnfs4 server:/srv/shared\n"


def test_ansible_finds_the_group_and_the_packages_of_the_roles(lab: Lab) -> None:
    packages = "nfs-common,nfs-kernel-server,rpcbind,libvirt-daemon-system,qemu-utils,sqlite3,sudo,acl,attr"
    ansible = [Path(sys.executable).with_name("ansible"), "uml", "-i", lab.inventory, "--check"]
    done = subprocess.run([*ansible, "-m", "apt", "-a", f"name={packages}"], capture_output=True, text=True, check=True)
    assert done.stdout.count("SUCCESS") == 3 and done.stdout.count('"changed": false') == 3
    # Python has kept the compiled modules (lab.machine_python).
    assert int(lab.ssh("client2", "ls /var/cache/granary-lab-python | wc -l")) > 20


@pytest.mark.parametrize(("version", "kind"), [("4.2", "nfs4"), ("3", "nfs")])
def test_a_file_and_a_lock_are_seen_by_the_other_client(mounted: Lab, version: str, kind: str) -> None:
    directory = f"/srv/v{version}"
    kind_and_options = mounted.ssh("client2", f"findmnt -no FSTYPE,OPTIONS {directory}")
    assert kind_and_options.startswith(f"{kind} ") and f"vers={version}," in kind_and_options
    mounted.ssh("client1", f"echo {version} > {directory}/from-client1")
    assert mounted.ssh("client2", f"cat {directory}/from-client1") == mounted.ssh("server", "cat /srv/ds/from-client1")
    with session(mounted, "client1", f"flock {directory}/lock sh -c 'echo held; read -r line'") as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        assert mounted.ssh("client2", f"flock --nonblock {directory}/lock true || echo excluded") == "excluded\n"
        holder.communicate("end\n", timeout=60)
        mounted.ssh("client2", f"flock --wait 50 {directory}/lock true")


def test_the_network_carries_many_packets(mounted: Lab) -> None:
    mounted.ssh("client1", "dd if=/dev/urandom of=/srv/v4.2/large bs=1M count=300 conv=fsync", deadline=300)
    sums = {mounted.ssh("client2", "sha256sum < /srv/v4.2/large", deadline=300)}
    assert sums == {mounted.ssh("server", "sha256sum < /srv/ds/large; rm /srv/ds/large", deadline=300)}


def test_clients_of_a_paused_server_hang_until_it_continues(mounted: Lab) -> None:
    server = mounted.host("server")
    server.pause()
    assert (server.state(), server.running(), inspect(mounted, "server", "{{.State.Paused}}")) == (
        "paused",
        False,
        "true",
    )
    with session(mounted, "client2", "touch /srv/v4.2/after-the-pause && echo done") as waiting:
        assert has_hung(mounted, "client2", "stat", "/srv/v4.2/not-seen-before")
        assert waiting.poll() is None
        server.resume()
        assert waiting.stdout and waiting.stdout.readline() == "done\n"
    assert mounted.ssh("server", "ls /srv/ds/after-the-pause") == "/srv/ds/after-the-pause\n"
    with refused(LabError, names=["unpause"]):
        server.resume()


def test_a_host_is_cut_off_the_network_and_joins_it(mounted: Lab) -> None:
    def lab_host(action: str) -> None:
        subprocess.run(["lab", "host", action, "server", "--lab", mounted.name], check=True, timeout=60)

    lab_host("cut")
    with refused(LabError, names=["2 seconds"]):
        mounted.ssh("server", "true", deadline=2)
    assert has_hung(mounted, "client2", "stat", "/srv/v4.2/not-seen-before")
    lab_host("join")
    mounted.ssh("client2", "touch /srv/v4.2/after-the-cut", deadline=120)
    assert mounted.ssh("server", "ls /srv/ds/after-the-cut", deadline=120) == "/srv/ds/after-the-cut\n"


def test_a_killed_host_starts_with_its_synced_files_and_its_mounts(mounted: Lab) -> None:
    mounted.ssh("client2", "echo kept > /root/kept; sync")
    host = mounted.host("client2")
    host.pause()
    host.kill()
    assert host.state() == "exited"
    assert (
        "exited"
        in subprocess.run(["lab", "status", "--lab", mounted.name], capture_output=True, text=True, check=True).stdout
    )
    with refused(LabError, says="Host 'client2' isn't running: 'lab host start client2' starts it."):
        host.cut()
    host.start()
    assert mounted.ssh("client2", "cat /root/kept; systemctl is-system-running").split() == ["kept", "running"]
    assert mounted.ssh(
        "client2", "findmnt -no FSTYPE --target /srv/v4.2; findmnt -no FSTYPE --target /srv/v3"
    ).split() == [
        "nfs4",
        "nfs",
    ]


@pytest.mark.parametrize("way", ["by the lab", "by itself"])
def test_after_a_reboot_the_server_serves(mounted: Lab, way: str) -> None:
    mounted.ssh("client1", "echo kept > /srv/v4.2/kept")
    before = mounted.ssh("server", "cat", "/proc/sys/kernel/random/boot_id")
    if way == "by the lab":
        mounted.host("server").reboot()
    else:
        ansible = [Path(sys.executable).with_name("ansible"), "server", "-i", mounted.inventory]
        # Ansible refuses files that another program has set to be non-blocking, as ssh does with its own.
        command = [*ansible, "-m", "reboot", "-a", "reboot_timeout=300"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert mounted.ssh("server", "cat", "/proc/sys/kernel/random/boot_id") != before
    assert mounted.ssh("client1", "cat", "/srv/v4.2/kept", deadline=120) == "kept\n"


def test_libvirt_starts_on_demand(lab: Lab) -> None:
    """libvirtd then examines QEMU for a long time, therefore no other test of this lab comes later."""
    assert lab.ssh("client2", "systemctl is-enabled libvirtd", check=False).strip() == "disabled"
    lab.ssh("client2", "python3", "-c", "'import libvirt'")
    assert lab.ssh("client2", "systemctl start libvirtd && systemctl is-active libvirtd", deadline=120) == "active\n"


def test_an_unknown_host_is_one_sentence(lab: Lab) -> None:
    command = ["lab", "host", "pause", "none", "--lab", lab.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"lab: 'none' is not a host of lab '{lab.name}', accepted are server, client1, client2.\n"


def test_without_its_device_it_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lab.yml").write_text("name: no-tun\nhosts:\n  nfs: {kind: uml}\n", encoding="utf-8")
    script = f"mount -t tmpfs none /dev/net && exec lab up {tmp_path}/lab.yml"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/dev/net/tun" in done.stderr and "modprobe tun" in done.stderr and done.stderr.count("\n") == 1


KILLED = """
import os, signal, subprocess
def test_killed(lab_factory):
    lab = lab_factory({"name": "killed", "hosts": {"one": {"kind": "uml"}}})
    command = ["podman", "inspect", "--format", "{{.Id}} {{.State.Pid}}", "lab-killed-one"]
    print("container", subprocess.run(command, capture_output=True, text=True, check=True).stdout, flush=True)
    lab.host("one").pause()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_watchdog_removes_a_paused_host_when_pytest_is_killed(tmp_path: Path, traces: Any) -> None:
    (tmp_path / "test_killed.py").write_text(KILLED, encoding="utf-8")
    pytest_command = [sys.executable, "-m", "pytest", "-qs", "--rootdir", tmp_path, "-c", "/dev/null", tmp_path]
    done = subprocess.run(pytest_command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    container, pid = done.stdout.partition("container ")[2].split()[:2]
    end = time.monotonic() + 120
    while traces.all_of("killed", [container], []) != traces.NOTHING and time.monotonic() < end:
        time.sleep(0.2)
    assert traces.all_of("killed", [container], []) == traces.NOTHING
    assert not Path("/proc", pid).exists()
    # The root disk of the host is in the files of the container.
    assert not list(Path("/var/lib/containers/storage/overlay-containers").glob(container))
