# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a user's directory .ssh, which root manages while the user may put anything there."""

from __future__ import annotations

import os
import pwd
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.desired import UNKNOWN_KEY
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.service import ClusterSshService
from refusal import refused

TENANT = 61001
DEFAULTS = {"user": "keeper", "peers": None, "next_key": False, "use_key": None, "hosts": None}
FILES = ("authorized_keys", "known_hosts", "id_ed25519")

Manage = Callable[..., ClusterSshService]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Return a directory with the keys of a host."""
    directory = tmp_path / "etc"
    directory.mkdir()
    generate(directory / "ssh_host_ed25519_key")
    return directory


@pytest.fixture
def manage(tenant: Path, etc: Path) -> Manage:
    """Return the service for the user ``keeper``, whose home directory is ``tenant``."""
    account = pwd.struct_passwd(("keeper", "x", TENANT, TENANT, "", str(tenant), "/bin/sh"))

    def build(**options: Any) -> ClusterSshService:
        return ClusterSshService({**DEFAULTS, **options}, str(etc), {"keeper": account}.__getitem__)

    return build


@pytest.fixture
def ssh(tenant: Path) -> Path:
    return tenant / ".ssh"


def generate(path: Path, *options: str) -> str:
    """Create a key pair and return its public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", *options, "-f", path], check=True)
    return public_of(path)


def public_of(path: Path) -> str:
    done = subprocess.run(["ssh-keygen", "-y", "-P", "", "-f", path], check=True, capture_output=True, text=True)
    return " ".join(done.stdout.split()[:2])


def give(path: Path) -> None:
    """Give a directory with all files to the user."""
    subprocess.run(["chown", "-R", "-h", f"{TENANT}:{TENANT}", path], check=True)


def facts(path: Path) -> str:
    done = subprocess.run(["stat", "--format=%u:%g %a", path], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def host(key: str, name: str = "kvm1") -> dict[str, Any]:
    return {"name": name, "names": [name], "keys": [key], "host_keys": [key], "addresses": ["192.0.2.1"]}


def test_a_pair_is_created_once(manage: Manage, ssh: Path, etc: Path) -> None:
    foretold = manage(peers=["127.0.0.1"]).dry_run()
    assert foretold.result["public_key"] == UNKNOWN_KEY
    assert not ssh.exists()
    done = manage(peers=["127.0.0.1"]).converge()
    assert names(done) == names(foretold) == ["create key pair"]
    assert done.result == {
        "public_key": public_of(ssh / "id_ed25519"),
        "next_key": None,
        "host_keys": [public_of(etc / "ssh_host_ed25519_key")],
        "addresses": ["127.0.0.1"],
    }
    assert (ssh / "id_ed25519.pub").read_text().startswith(f"{done.result['public_key']} keeper@")
    assert [facts(path) for path in (ssh, ssh / "id_ed25519", ssh / "id_ed25519.pub")] == [
        f"{TENANT}:{TENANT} {mode}" for mode in ("700", "600", "644")
    ]
    again = manage().converge()
    assert not again.changed
    assert again.result["public_key"] == done.result["public_key"]


def test_an_existing_pair_is_used(manage: Manage, ssh: Path) -> None:
    ssh.mkdir(mode=0o755)
    key = generate(ssh / "id_ed25519", "-C", "an operator")
    (ssh / "id_ed25519").chmod(0o640)
    (ssh / "id_ed25519.pub").write_text("another key\n")
    give(ssh)
    assert names(manage().dry_run()) == names(manage().converge()) == ["change permissions"] * 2 + ["write public key"]
    assert facts(ssh) == f"{TENANT}:{TENANT} 700"
    assert facts(ssh / "id_ed25519") == f"{TENANT}:{TENANT} 600"
    assert (ssh / "id_ed25519.pub").read_text().split()[:2] == key.split()
    assert not manage().converge().changed


@pytest.mark.parametrize("kind", ["passphrase", "pem", "empty", "huge", "cut"])
def test_a_key_that_ssh_cant_use_is_kept(manage: Manage, ssh: Path, kind: str) -> None:
    ssh.mkdir()
    path = ssh / "id_ed25519"
    if kind == "huge":
        path.write_bytes(b"x" * (1 << 20))
    elif kind == "pem":
        generate(path, "-t", "rsa", "-m", "PEM")
    elif kind != "empty":
        generate(path)
    if kind == "passphrase":
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", path], check=True)
    elif kind == "cut":
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:2], lines[-1]]))
    elif kind == "empty":
        path.touch()
    give(ssh)
    before = path.read_bytes()
    says = (
        f"The file {path} is not a private key of OpenSSH without a passphrase, so ssh can't use it without a person: "
        "move it away, and a new key pair is created."
    )
    with refused(Conflict, **({"says": says} if kind == "passphrase" else {"names": [path]})):
        manage().converge()
    assert path.read_bytes() == before


def test_lines_of_others_stay(manage: Manage, ssh: Path, etc: Path) -> None:
    ssh.mkdir(mode=0o700)
    foreign = {name: f"line of {name}\n\udcff".encode(errors="surrogateescape") for name in FILES[:2]}
    for name, text in foreign.items():
        (ssh / name).write_bytes(text)
    give(ssh)
    key = public_of(etc / "ssh_host_ed25519_key")
    hosts = [host(key), {**host(key, "kvm2"), "keys": None}]
    assert names(manage(hosts=hosts).dry_run()) == ["create key pair", "write lines", "write lines"]
    done = manage(hosts=hosts).converge()
    assert done.result["authorized_keys"] == [key]
    assert b"line of" not in repr(done.diff()).encode()
    for name, text in foreign.items():
        found = (ssh / name).read_bytes()
        assert found.startswith(text + b"\n")
        assert found.endswith(b" granary.vmstore.cluster_ssh:kvm1\n")
        assert facts(ssh / name) == f"{TENANT}:{TENANT} 600"
    assert not manage(hosts=hosts).converge().changed
    manage(hosts=[host(key, "kvm2")]).converge()
    assert b"cluster_ssh:kvm1" not in (ssh / "authorized_keys").read_bytes() + (ssh / "known_hosts").read_bytes()
    # Permissions are restored without a change of the lines.
    (ssh / "known_hosts").chmod(0o644)
    assert names(manage(hosts=[host(key, "kvm2")]).converge()) == ["write lines"]
    assert facts(ssh / "known_hosts") == f"{TENANT}:{TENANT} 600"


def test_a_key_without_an_address_is_reported(manage: Manage, etc: Path) -> None:
    key = public_of(etc / "ssh_host_ed25519_key")
    done = manage(hosts=[{**host(key), "addresses": []}]).converge()
    assert done.result["authorized_keys"] == []
    assert done.warnings == [
        "The addresses from which 'kvm1' connects are unknown, so this host accepts no key of 'kvm1': give its "
        "addresses."
    ]


# A rotation


def test_a_rotation_has_three_steps(manage: Manage, ssh: Path) -> None:
    old = str(manage().converge().result["public_key"])
    assert names(manage(next_key=True).dry_run()) == ["create next key pair"]
    new = manage(next_key=True).converge().result["next_key"]
    assert manage(next_key=True).converge().actions == []
    assert manage().plan().result["next_key"] == new
    assert public_of(ssh / "id_ed25519") == old

    assert names(manage(use_key=new).dry_run()) == names(manage(use_key=new).converge()) == ["use next key pair"]
    assert public_of(ssh / "id_ed25519") == new
    assert (ssh / "id_ed25519.pub").read_text().split()[:2] == str(new).split()
    # ssh(1) tries this name, too.
    assert public_of(ssh / "id_ed25519_sk") == old
    assert not manage(use_key=new).converge().changed

    assert names(manage(hosts=[]).dry_run()) == names(manage(hosts=[]).converge()) == ["remove previous key"]
    assert sorted(os.listdir(ssh)) == [".cluster_ssh.lock", "id_ed25519", "id_ed25519.pub"]
    assert not manage(hosts=[]).converge().changed


@pytest.mark.parametrize("step", range(5))
def test_a_rotation_that_was_stopped_goes_on(manage: Manage, ssh: Path, step: int) -> None:
    """Each step is what a killed run leaves."""
    old = str(manage().converge().result["public_key"])
    new = str(manage(next_key=True).converge().result["next_key"])
    steps: list[Callable[[], object]] = [
        lambda: os.link(ssh / "id_ed25519", ssh / ".id_ed25519.previous"),
        lambda: (ssh / "id_ed25519_sk").symlink_to(".id_ed25519.previous"),
        (ssh / "id_ed25519.pub").unlink,
        lambda: (ssh / ".id_ed25519.next").rename(ssh / "id_ed25519"),
    ]
    for act in steps[:step]:
        act()
    # A run between two steps leaves the pair that other hosts accept.
    manage(hosts=[]).converge()
    assert public_of(ssh / "id_ed25519") == (new if step == 4 else old)
    manage(use_key=new).converge()
    manage(hosts=[]).converge()
    assert public_of(ssh / "id_ed25519") == new
    assert sorted(os.listdir(ssh)) == [".cluster_ssh.lock", "id_ed25519", "id_ed25519.pub"]


#: A program between ssh(1) and sshd(8) that waits after the first line of the client. At this time ssh has read the
#: public keys, and not yet the private keys.
GATE = """
import subprocess, sys
first = sys.stdin.buffer.readline()
with open(sys.argv[1], "w") as reached:
    reached.write("reached")
with open(sys.argv[2]) as gate:
    gate.read()
server = subprocess.Popen(sys.argv[3:], stdin=subprocess.PIPE)
server.stdin.write(first)
while chunk := sys.stdin.buffer.raw.read(65536):
    server.stdin.write(chunk)
    server.stdin.flush()
"""


def wait_for(fifo: Path) -> None:
    """Wait until a program has written to the FIFO."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(30_000)
    finally:
        os.close(descriptor)


def test_a_connection_that_is_under_way_finds_the_old_key(manage: Manage, ssh: Path, tmp_path: Path, etc: Path) -> None:
    old = manage().converge().result["public_key"]
    new = manage(next_key=True).converge().result["next_key"]
    (tmp_path / "authorized").write_text(f"{old}\n{new}\n")
    (tmp_path / "gate.py").write_text(GATE)
    (tmp_path / "server").write_text(
        f"HostKey {etc}/ssh_host_ed25519_key\nAuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\n"
    )
    reached, gate = tmp_path / "reached", tmp_path / "gate"
    os.mkfifo(reached)
    os.mkfifo(gate)
    server = ["/usr/sbin/sshd", "-i", "-f", tmp_path / "server", "-E", tmp_path / "log"]
    proxy = shlex.join(map(str, [sys.executable, "-I", tmp_path / "gate.py", reached, gate, *server]))
    # ssh(1) looks for the usual names in the home directory of root.
    names_of_keys = [f"-oIdentityFile={ssh / name}" for name in ("id_ed25519", "id_ed25519_sk")]
    options = ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", *names_of_keys]
    command = ["ssh", "-F", "none", *options, f"-oProxyCommand={proxy}", "root@host", "echo connected"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(reached)
        manage(use_key=new).converge()
        gate.write_text("go")
        said, errors = process.communicate(timeout=30)
    assert said == "connected\n", errors
    assert "do not match public" in errors  # ssh saw the change


def test_a_token_of_the_user_stays(manage: Manage, ssh: Path) -> None:
    old = manage().converge().result["public_key"]
    for name in ("id_ed25519_sk", "id_ecdsa_sk"):
        (ssh / name).write_text("a token")
        new = manage(next_key=True).converge().result["next_key"]
        manage(use_key=new).converge()
        if name == "id_ed25519_sk":
            assert public_of(ssh / "id_ecdsa_sk") == old
        manage(hosts=[]).converge()
        assert (ssh / name).read_text() == "a token"
        assert public_of(ssh / "id_ed25519") == new


def test_a_stopped_creation_leaves_nothing(manage: Manage, ssh: Path) -> None:
    ssh.mkdir(mode=0o700)
    generate(ssh / ".id_ed25519.new")
    give(ssh)
    manage().converge()
    assert sorted(os.listdir(ssh)) == [".cluster_ssh.lock", "id_ed25519", "id_ed25519.pub"]


def test_an_unknown_key_isnt_used(manage: Manage, ssh: Path, etc: Path) -> None:
    manage().converge()
    key = public_of(etc / "ssh_host_ed25519_key")
    with refused(Conflict, says=f"No key pair of 'keeper' in {ssh} has the public key '{key}' of use_key."):
        manage(use_key=key).converge()
    with refused(InvalidInput, option="next_key"):
        manage(use_key=key, next_key=True)


def test_the_substitute_of_check_mode_is_no_key(manage: Manage) -> None:
    manage().converge()
    assert names(manage(use_key=UNKNOWN_KEY).dry_run()) == ["use next key pair"]
    says = f"use_key: '{UNKNOWN_KEY}' is not accepted: a key from a run outside check mode is expected."
    with refused(InvalidInput, says=says):
        manage(use_key=UNKNOWN_KEY).converge()
    with refused(InvalidInput, option="hosts.keys"):
        manage(hosts=[host(UNKNOWN_KEY)]).converge()


# Attacks, and a host that isn't ready


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files_are_used(
    manage: Manage, ssh: Path, tmp_path: Path, name: str, kind: str, etc: Path
) -> None:
    manage().converge()
    secret = tmp_path / "secret"
    secret.write_text("root only")
    secret.chmod(0o600)
    path = ssh / name
    path.unlink(missing_ok=True)
    make = {"link": lambda: path.symlink_to(secret), "fifo": lambda: os.mkfifo(path), "directory": path.mkdir}
    make[kind]()
    give(ssh)
    with refused(FileAccessFailed, names=[path]):
        manage(hosts=[host(public_of(etc / "ssh_host_ed25519_key"))]).converge()
    assert (secret.read_text(), facts(secret)) == ("root only", "0:0 600")


@pytest.mark.parametrize("name", [".id_ed25519.new", ".id_ed25519.new.pub", "id_ed25519.pub", ".id_ed25519.previous"])
def test_links_are_replaced_and_not_followed(manage: Manage, ssh: Path, tmp_path: Path, name: str) -> None:
    manage().converge()
    secret = tmp_path / "secret"
    secret.write_text("root only")
    (ssh / name).unlink(missing_ok=True)
    (ssh / name).symlink_to(secret)
    give(ssh)
    new = manage(next_key=True).converge().result["next_key"]
    manage(use_key=new).converge()
    manage(hosts=[]).converge()
    assert public_of(ssh / "id_ed25519") == new
    assert not (ssh / "id_ed25519.pub").is_symlink()
    assert secret.read_text() == "root only"


def test_the_directory_is_no_link_to_a_directory_of_root(manage: Manage, ssh: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    ssh.symlink_to(root)
    os.chown(ssh, TENANT, TENANT, follow_symlinks=False)
    with refused(FileAccessFailed, names=[ssh]):
        manage().converge()
    assert os.listdir(root) == []


def test_the_user_swaps_the_directory(manage: Manage, ssh: Path, tmp_path: Path, swapping: Any, tenant: Path) -> None:
    """Whatever the moment, root writes to a directory of the user."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    manage().converge()
    (tenant / "link").symlink_to(root)
    os.chown(tenant / "link", TENANT, TENANT, follow_symlinks=False)
    with swapping(ssh, tenant / "link"):
        for _round in range(30):
            try:
                manage(hosts=[host(UNKNOWN_KEY)]).dry_run()
                manage(next_key=True).converge()
            except VmstoreError:
                continue
    assert os.listdir(root) == []
    assert facts(root) == "0:0 755"


def test_a_long_file_is_refused(manage: Manage, ssh: Path) -> None:
    manage().converge()
    with (ssh / "known_hosts").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with refused(FileAccessFailed, names=[ssh / "known_hosts"]):
        manage(hosts=[]).converge()


def test_a_home_directory_that_others_can_change_is_refused(manage: Manage, tenant: Path, ssh: Path) -> None:
    tenant.chmod(0o775)
    says = (
        f"Other users can change the home directory {tenant} of 'keeper', so sshd accepts no key from there: make "
        "'keeper' its owner, and the only user that can write there."
    )
    with refused(Conflict, says=says):
        manage().converge()
    assert not ssh.exists()


def test_a_missing_user_is_expected_in_check_mode(manage: Manage) -> None:
    with refused(DependencyNotFound, names=["nobody-here"]):
        manage(user="nobody-here").converge()
    foretold = manage(user="nobody-here", peers=["127.0.0.1"], hosts=[host(UNKNOWN_KEY)]).dry_run()
    assert foretold.changed
    assert foretold.result["public_key"] == UNKNOWN_KEY
    assert foretold.result["authorized_keys"] == [UNKNOWN_KEY]


def test_a_missing_home_directory(manage: Manage, tenant: Path) -> None:
    tenant.rmdir()
    with refused(DependencyNotFound, names=[tenant, "keeper"]):
        manage().converge()
    tenant.mkdir()


def test_a_host_without_keys_of_its_own(manage: Manage, etc: Path, ssh: Path) -> None:
    for path in etc.iterdir():
        path.unlink()
    with refused(DependencyMissing, says=f"This host has no public keys in {etc}: install the package openssh-server."):
        manage().converge()
    assert names(manage().dry_run()) == ["create key pair"]
    assert not (ssh / "id_ed25519").exists()


def test_sshd_needs_no_file_of_a_public_key(manage: Manage, etc: Path) -> None:
    key = public_of(etc / "ssh_host_ed25519_key")
    (etc / "ssh_host_ed25519_key.pub").unlink()
    assert manage().plan().result["host_keys"] == [key]


def test_a_file_that_has_no_public_key(manage: Manage, etc: Path) -> None:
    path = etc / "ssh_host_rsa_key.pub"
    path.write_text("x" * 100_000)
    with refused(InvalidInput, option=str(path)):
        manage().plan()


def test_a_host_without_ssh_keygen(manage: Manage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert names(manage().dry_run()) == ["create key pair"]
    with refused(DependencyMissing, names=["ssh-keygen", "openssh-client"]):
        manage().converge()


@pytest.fixture
def full(tenant: Path) -> Iterator[Path]:
    """Mount a small file system as the home directory, and return the file that fills it."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=32k,uid={TENANT},gid={TENANT},mode=755", "tmpfs", tenant], check=True
    )
    yield tenant / "full"
    subprocess.run(["umount", tenant], check=True)


def test_a_full_file_system_changes_nothing(manage: Manage, full: Path, ssh: Path, etc: Path) -> None:
    manage().converge()
    key = public_of(etc / "ssh_host_ed25519_key")
    manage(hosts=[host(key)]).converge()
    before = {path.name: path.read_bytes() for path in ssh.iterdir()}
    subprocess.run(["dd", "if=/dev/zero", f"of={full}", "bs=1k"], check=False, capture_output=True)
    with refused(NoSpace):
        manage(hosts=[host(key, "kvm2")]).converge()
    with pytest.raises(VmstoreError):
        manage(next_key=True).converge()
    assert {path.name: path.read_bytes() for path in ssh.iterdir()} == before
