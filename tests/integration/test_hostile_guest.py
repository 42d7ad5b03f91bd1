# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Attacks on the host and on other guests.

The attackers are root of a guest, a user of the host who owns a directory above a shared one, and both together.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    LibvirtFailed,
)
from lab import Lab
from refusal import require_failure

Execute = Callable[..., str]
Make = Callable[..., str]
Export = Callable[..., dict]

WRAPPER = "/usr/local/libexec/granary-virtiofsd"
SHARED = "/srv/tenant/way/one"


@pytest.fixture
def export(module: Callable[..., dict]) -> Export:
    return lambda **options: module("hv1", "virtiofs_export", **options)


@pytest.fixture
def mounted(site: Lab, export: Export) -> Iterator[Callable[..., dict]]:
    """Share a directory with the guest `hot`, which mounts it on /mnt/evil, and return the result of the module."""

    def share(**options: object) -> dict:
        result = export(domain="hot", mount_tag="evil", **options)
        assert "msg" not in result, result
        site.ssh("hot", "mkdir -p /mnt/evil; until mount -t virtiofs evil /mnt/evil 2>/dev/null; do sleep 0.1; done")
        return result

    yield share
    site.ssh("hot", "umount /mnt/evil", check=False)
    export(domain="hot", mount_tag="evil", state="absent")


# Groups


def test_guest_root_has_no_group_of_the_service_user(
    site: Lab, mounted: Callable[..., dict], directory: Make, execute: Execute
) -> None:
    path = directory("hv1", "/srv/groups")
    script = (
        'cd "$0"; mkdir closed; echo secret | tee closed/file >file; chown -R oneadmin: closed file; '
        "chmod 0770 closed; chmod 0660 file closed/file"
    )
    execute("hv1", "sh", "-c", script, path)
    mounted(source=path)
    said = site.ssh(
        "hot", "cd /mnt/evil; cat file closed/file; ls closed; echo x >>file; touch closed/new; true 2>&1", check=False
    )
    assert "secret" not in said
    assert execute("hv1", "sh", "-c", 'cd "$0"; cat file; ls closed', path) == "secret\nfile\n"


#: Script that runs as a guest's daemon, and prints which files and directories below the arguments can be read.
READABLE = """
import os, sys
for top in sys.argv[1:]:
    for place, directories, files in os.walk(top):
        for name in files:
            try:
                os.close(os.open(os.path.join(place, name), os.O_RDONLY))
            except PermissionError:
                continue
            print(os.path.join(place, name))
"""


@pytest.mark.usefixtures("catalog_directory")
def test_nothing_that_the_collection_creates_is_readable_for_a_daemon(
    module: Callable[..., dict], domain: Make, directory: Make, execute: Execute
) -> None:
    made = ["/var/lib/one", "/var/lib/granary-vmstore", "/etc/granary-vmstore", "/run/granary-vmstore", "/srv/made"]
    execute("hv1", "mkdir", "-p", "/srv/made")
    domain("hv1", "made")
    directory("hv1", "/srv/made-share")
    seed = {"mount_point": "/mnt/x", "seed": "/srv/made/seed.iso"}
    steps: list[tuple[str, dict[str, object]]] = [
        ("datastore", {"name": "made", "type": "image", "ds_driver": "fs", "tm_driver": "local"}),
        ("image", {"name": "made", "datastore": "made", "type": "datablock", "size": 1, "format": "raw"}),
        ("image_export", {"image": "made", "dest": "/srv/made/image.raw"}),
        (
            "virtiofs_export",
            {"domain": "made", "source": "/srv/made-share", "mount_tag": "t", "subid": "per_domain", **seed},
        ),
    ]
    try:
        for name, options in steps:
            result = module("hv1", name, **options)
            assert result.get("changed"), result
        found = execute("hv1", "find", *made, "-type", "f").splitlines()
        assert {"catalog.sqlite", "seed.iso", "image.raw", "exports.json", "domain_ids.json", "virtiofsd.json"} <= {
            one.rsplit("/", 1)[1] for one in found
        }
        start = execute("hv1", "virsh", "dumpxml", "made").partition("<uid start='0' target='")[2].partition("'")[0]
        for uid in ("100000", start):
            entered = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "python3", "-c", READABLE, *made]
            assert execute("hv1", *entered) == ""
    finally:
        module("hv1", "virtiofs_export", domain="made", mount_tag="t", state="absent")
        for name, options in (
            ("image", {"name": "made", "state": "absent"}),
            ("datastore", {"name": "made", "state": "absent"}),
        ):
            module("hv1", name, **options)
        execute("hv1", "rm", "-rf", "/srv/made")


# Changes of a guest without writing


def test_a_guest_that_reads_does_not_change_access_times(
    site: Lab, mounted: Callable[..., dict], directory: Make, execute: Execute
) -> None:
    path = directory("hv1", "/srv/read-only")
    # Every read would count, because the access time is older than the last change.
    script = (
        'cd "$0"; mkdir mounted; mount -t tmpfs none mounted; echo x | tee mounted/file >file; '
        "touch -a -d 2001-01-01 file mounted/file"
    )
    execute("hv1", "sh", "-c", script, path)
    try:
        mounted(source=path, read_only=True)
        assert site.ssh("hot", "cat /mnt/evil/file /mnt/evil/mounted/file") == "x\nx\n"
        site.ssh("hot", "! touch /mnt/evil/file && ! touch /mnt/evil/mounted/new")
        assert execute("hv1", "sh", "-c", 'cd "$0"; stat -c %x file mounted/file', path).count("2001-01-01") == 2
    finally:
        execute("hv1", "umount", "--lazy", f"{path}/mounted")  # the guest still uses it


def test_a_guest_sets_no_attributes_that_the_host_acts_on(
    site: Lab, mounted: Callable[..., dict], directory: Make, execute: Execute
) -> None:
    path = directory("hv1", "/srv/attributes")
    mounted(source=path, xattr=True)
    set_one = "cd /mnt/evil; touch file; setfattr -n {} -v x file"
    for name in ("security.selinux", "security.apparmor", "trusted.overlay.opaque"):
        assert "not supported" in site.ssh("hot", f"{set_one.format(name)} 2>&1", check=False)
    site.ssh("hot", set_one.format("user.name"))
    assert execute("hv1", "getfattr", "--absolute-names", "-m", "-", f"{path}/file").split() == [
        "#",
        "file:",
        f"{path}/file",
        "user.name",
    ]


# A directory that is swapped


@pytest.fixture
def tenant(execute: Execute) -> Iterator[Callable[..., str]]:
    """Run a script as the owner of the directories above a shared one, in the home directory of this user."""
    # Domains of other tests started without an absent export, so a record of the directory may be left.
    execute("hv1", "rm", "-f", "/var/lib/granary-vmstore/exports.json")
    execute(
        "hv1",
        "sh",
        "-c",
        f"useradd --system tenant; mkdir -p {SHARED} /var/lib/one; chown -R tenant /srv/tenant; chown 100000:100000 "
        f"{SHARED}",
    )
    yield lambda script: execute(
        "hv1",
        "setpriv",
        "--reuid",
        "tenant",
        "--regid",
        "tenant",
        "--clear-groups",
        "sh",
        "-euc",
        f"cd /srv/tenant; {script}",
    )
    execute("hv1", "sh", "-c", f"umount {SHARED}; rm -rf /srv/tenant; userdel tenant", check=False)


def expect_refusal(execute: Execute, name: str) -> str:
    """Start a domain, which must fail, and return the last message of its virtiofsd."""
    assert "error" in execute("hv1", "sh", "-c", 'virsh start "$0" 2>&1', name, check=False)
    assert execute("hv1", "virsh", "domstate", name).strip() == "shut off"
    return execute("hv1", "tail", "-n", "1", f"/var/log/libvirt/qemu/{name}-fs0-virtiofsd.log")


#: Replacements that the tenant puts in place of the directory or its parent, and the message of the wrapper. `kept` is
#: put back afterwards.
SWAPS = [
    (
        "mv way/one way/kept; ln -s /var/lib/one way/one",
        f"'{SHARED}' is a symbolic link, and '/srv/tenant' belongs to the user tenant.",
    ),
    (
        "mv way kept; ln -s /var/lib way",
        "'/srv/tenant/way' is a symbolic link, and '/srv/tenant' belongs to the user tenant.",
    ),
    (
        "mv way/one way/kept; mkdir way/one",
        f"'{SHARED}' is another directory than the one that was exported, and '/srv/tenant' belongs to the user "
        "tenant;",
    ),
    ("mv way/one way/kept; touch way/one", f"'{SHARED}' is no directory."),
    ("mv way/one way/kept; mkfifo way/one", f"'{SHARED}' is no directory."),
]
BACK = "if [ -e kept ]; then rm way; mv kept way; else rm -rf way/one; mv way/kept way/one; fi"


def test_a_swapped_directory_is_not_shared(
    export: Export, domain: Make, tenant: Callable[..., str], execute: Execute, module: Callable[..., dict]
) -> None:
    domain("hv1", "swapped")
    wish = {"domain": "swapped", "source": SHARED, "mount_tag": "t"}
    result = export(**wish)
    warning = (
        "Others than root can put something else in the place of '/srv/tenant/way/one', because '/srv/tenant' belongs "
        "to the user tenant"
    )
    assert warning in " ".join(result["warnings"].split())
    assert any(
        warning in risk
        for risk in module("hv1", "virtiofs_export_info", domain="swapped")["domains"][0]["devices"][0]["risks"]
    )
    for swap, reason in SWAPS:
        tenant(swap)
        assert expect_refusal(execute, "swapped").startswith(f"granary-virtiofsd: {reason}"), swap
        if "mkdir" in swap:
            require_failure(export(**wish), Conflict, says=f"{reason}*")
        tenant(BACK)
    execute("hv1", "mount", "--bind", "/var/lib/one", SHARED)
    reason = f"'{SHARED}' was exported from the file system mounted on '/' and is now on the one mounted on '{SHARED}'"
    assert expect_refusal(execute, "swapped").startswith(f"granary-virtiofsd: {reason};")
    require_failure(export(**wish), Conflict, says=f"{reason}*")
    execute("hv1", "umount", SHARED)
    # The exported directory is still shared, and a run changes nothing.
    execute("hv1", "virsh", "start", "swapped")
    assert not export(**wish)["changed"]


def test_what_root_put_there_is_shared_once_it_is_exported_again(
    export: Export, domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "moved")
    path = directory("hv1", "/srv/moved")
    wish = {"domain": "moved", "source": path, "mount_tag": "t"}
    export(**wish)
    # Only root can replace this directory, for example by a copy from a backup.
    execute("hv1", "sh", "-c", 'mv "$0" "$0.old"; mkdir "$0"; chown 100000:100000 "$0"', path)
    execute("hv1", "virsh", "start", "moved")
    execute("hv1", "virsh", "destroy", "moved")
    execute("hv1", "mount", "-t", "tmpfs", "none", path)
    try:
        assert "was exported from the file system mounted on '/'" in expect_refusal(execute, "moved")
        require_failure(export(**wish), Conflict, names=["state: absent"])
        assert export(domain="moved", source=path, state="absent")["changed"]
        assert export(**wish)["changed"]
        execute("hv1", "chown", "100000:100000", path)
        execute("hv1", "virsh", "start", "moved")
        execute("hv1", "virsh", "destroy", "moved")
    finally:
        execute("hv1", "umount", path)
        execute("hv1", "rm", "-rf", f"{path}.old")


def test_an_export_of_an_earlier_version(
    export: Export, domain: Make, tenant: Callable[..., str], execute: Execute
) -> None:
    """The domain starts, and the next run records the directory."""
    domain("hv1", "early")
    wish = {"domain": "early", "source": SHARED, "mount_tag": "t"}
    export(**wish)
    execute("hv1", "rm", "/var/lib/granary-vmstore/exports.json")
    execute("hv1", "virsh", "start", "early")
    execute("hv1", "virsh", "destroy", "early")
    # A link is refused even without a record.
    tenant(SWAPS[1][0])
    assert "is a symbolic link" in expect_refusal(execute, "early")
    tenant(BACK)
    for check in (True, False):
        result = export(**wish, check=check)
        assert [action["name"] for action in result.get("actions", ())] == ["record directory"], result
    assert not export(**wish)["changed"]
    tenant(SWAPS[2][0])
    assert "is another directory" in expect_refusal(execute, "early")
    tenant(BACK)
    assert export(domain="early", source=SHARED, state="absent")["changed"]
    assert SHARED not in execute("hv1", "cat", "/var/lib/granary-vmstore/exports.json")


#: Script of the tenant that exchanges the directory and a link continuously.
EXCHANGE = """
import ctypes, os
os.chdir("/srv/tenant/way")
os.symlink("/var/lib/one", "other")
libc = ctypes.CDLL(None)
while True:
    libc.renameat2(-100, b"one", -100, b"other", 2)
"""

#: Script of root that starts the wrapper repeatedly, and prints how often virtiofsd served which directory, or none.
SERVED = """
import collections, json, os, pwd, subprocess, sys, tempfile, time
wrapper, shared, inode, rounds = sys.argv[1:]
maps = ["--uid-map", ":0:100000:65536:", "--gid-map", ":0:100000:65536:"]
command = [wrapper, "--shared-dir", shared, *maps, "--socket-path"]
seen = collections.Counter()
for number in range(int(rounds)):
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, pwd.getpwnam("oneadmin").pw_uid, -1)
        socket = directory + "/socket"
        daemon = subprocess.Popen([*command, socket], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while not os.path.exists(socket) and daemon.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        # At first, its root is still that of the host.
        while daemon.poll() is None and time.monotonic() < end:
            if not os.path.samestat(root := os.stat(f"/proc/{daemon.pid}/root/"), os.stat("/")):
                break
            time.sleep(0.005)
        if daemon.poll() is None:
            seen["the directory" if root.st_ino == int(inode) else "something else"] += 1
            daemon.kill()
        else:
            seen["nothing"] += 1
        daemon.wait()
print(json.dumps(seen))
"""


def test_a_directory_that_is_swapped_while_the_domain_starts(tenant: Callable[..., str], execute: Execute) -> None:
    inode = execute("hv1", "stat", "--format=%i", SHARED).strip()
    script = f"timeout 60 python3 -c {shlex.quote(EXCHANGE)} >/dev/null 2>&1 & echo $!"
    exchanging = tenant(script).strip()
    try:
        seen = json.loads(execute("hv1", "python3", "-c", SERVED, WRAPPER, SHARED, inode, "20"))
    finally:
        execute("hv1", "kill", exchanging)
    assert set(seen) == {"the directory", "nothing"}


# A setuid program

#: Script of a user of the host who becomes the guest's root with the guest's setuid program, and attacks the other
#: guest.
TURN = """
import json, os, signal, sys
os.setresuid(*[os.geteuid()] * 3)
done = {"uid": os.geteuid()}
def attempt(name, act):
    try:
        act()
        done.setdefault(name, "done")
    except OSError as error:
        done.setdefault(name, type(error).__name__)
attempt("write", lambda: open("/srv/victim/pwned", "w").close())
for pid in sys.argv[1:]:  # the others end with the first
    attempt("kill", lambda: os.kill(int(pid), signal.SIGKILL))
print(json.dumps(done))
"""


@pytest.mark.parametrize("subid", ["shared", "per_domain"])
def test_a_setuid_program_of_a_guest(
    site: Lab, mounted: Callable[..., dict], export: Export, domain: Make, directory: Make, execute: Execute, subid: str
) -> None:
    """With one map for all guests, as in the spec, the attack succeeds. Ids of the domain alone stop the attack."""
    attacker, victim = directory("hv1", "/srv/attacker"), directory("hv1", "/srv/victim")
    domain("hv1", "victim", shared=True, start=True)
    execute("hv1", "cp", "--dereference", "/usr/bin/python3", f"{attacker}/python3")
    try:
        for result, path in (
            (export(domain="victim", source=victim, mount_tag="t", subid=subid), victim),
            (mounted(source=attacker, subid=subid), attacker),
        ):
            said = " ".join(result["warnings"].split())
            assert f"The guest can make setuid programs in '{path}'" in said
            assert "the file system on '/' isn't mounted with nosuid. Mount it with nosuid" in said
            execute(
                "hv1", "chown", f"{result['device']['owners'][0]['uid']}:{result['device']['owners'][0]['gid']}", path
            )
        guest_root = str(execute("hv1", "stat", "--format=%u", attacker)).strip()
        site.ssh("hot", "cd /mnt/evil; cp python3 evil; chmod 6755 evil")
        daemons = execute("hv1", "pgrep", "-f", "[v]irtiofsd.*srv/victim").split()
        user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        done = json.loads(execute("hv1", *user, f"{attacker}/evil", "-I", "-c", TURN, *daemons))
        assert str(done["uid"]) == guest_root
        left = execute("hv1", "sh", "-c", "ls /srv/victim; pgrep -f '[v]irtiofsd.*srv/victim' || true").split()
        if subid == "shared":
            assert (done["write"], done["kill"], left) == ("done", "done", ["pwned"])
        else:
            assert (done["write"], done["kill"], left) == ("PermissionError", "PermissionError", daemons)
    finally:
        execute("hv1", "virsh", "destroy", "victim")
        export(domain="victim", mount_tag="t", state="absent")


def test_nosuid_and_a_closed_directory_above_are_no_risk(
    export: Export, domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "careful")
    directory("hv1", "/srv/careful/in")
    wish = {"domain": "careful", "source": "/srv/careful/in", "mount_tag": "t", "check": True}
    try:
        assert "nosuid" in export(**wish)["warnings"]
        assert "nosuid" not in export(**wish, read_only=True)["warnings"]
        execute("hv1", "sh", "-c", "chgrp 100000 /srv/careful; chmod 0710 /srv/careful")
        assert export(**wish)["warnings"] == ""
        execute(
            "hv1",
            "sh",
            "-c",
            "mount -t tmpfs -o nosuid,mode=0755 none /srv/careful; mkdir /srv/careful/in; chown 100000 /srv/careful/in",
        )
        assert export(**wish)["warnings"] == ""
    finally:
        execute("hv1", "sh", "-c", "umount /srv/careful; rm -rf /srv/careful", check=False)


# Ids of one domain alone


def entries(execute: Execute) -> list[str]:
    return [
        line
        for line in execute("hv1", "cat", "/etc/subuid", "/etc/subgid").splitlines()
        if line.startswith("oneadmin:")
    ]


def test_ids_of_a_domain_alone(
    export: Export, domain: Make, directory: Make, execute: Execute, module: Callable[..., dict]
) -> None:
    before = entries(execute)
    directory("hv1", "/srv/alone")
    directory("hv1", "/srv/alone2")
    starts = {}
    for name in ("alone", "alone2"):
        domain("hv1", name)
        wish = {"domain": name, "source": f"/srv/{name}", "mount_tag": "t", "subid": "per_domain"}
        checked = export(**wish, check=True)
        result = export(**wish)
        assert checked["actions"] == result["actions"]
        assert [action["name"] for action in result["actions"]] == ["add virtiofs device"]
        for check in (False, True) if name == "alone" else ():
            assert not export(**wish, check=check)["changed"]
        assert result["device"]["uid_map"] == result["device"]["gid_map"]
        [one] = result["device"]["uid_map"]
        assert (one["start"], one["count"]) == (0, 65536)
        starts[name] = one["target"]
        execute("hv1", "virsh", "start", name)
        assert execute("hv1", "sh", "-c", f"ps -o uid= -p $(pgrep -of '[v]irtiofsd.*srv/{name} ')").split() == [
            str(one["target"])
        ]
        execute("hv1", "virsh", "destroy", name)
    assert (
        len({*range(starts["alone"], starts["alone"] + 65536), *range(starts["alone2"], starts["alone2"] + 65536)})
        == 2 * 65536
    )
    assert sorted(entries(execute)) == sorted(
        [*before, *(f"oneadmin:{start}:65536" for start in starts.values() for _file in range(2))]
    )
    ranges = module("hv1", "virtiofs_export_info")["domain_subids"]
    assert {one["domain"]: (one["start"], one["count"]) for one in ranges} == {
        name: (start, 65536) for name, start in starts.items()
    }
    # No other domain gets these ids, by whichever option.
    foreign = [{"target": starts["alone"]}]
    refused = export(domain="alone2", source="/srv/alone2", mount_tag="t", uid_map=foreign, gid_map=foreign)
    require_failure(refused, Conflict, names=[f"{starts['alone']}:65536", "'alone'"])
    refused = export(domain="alone2", source="/srv/alone2", mount_tag="t", uid_map=foreign, subid="per_domain")
    require_failure(
        refused,
        InvalidInput,
        option="subid",
        says=(
            "subid: 'per_domain' is not accepted: with uid_map or gid_map, of the export or of the image, 'shared' is "
            "expected."
        ),
    )
    # The message for two domains with one directory explains the consequence.
    shared = export(domain="alone2", source="/srv/alone", mount_tag="t2", subid="per_domain", check=True)
    assert "The domain 'alone' shares '/srv/alone' with other ids" in " ".join(shared["warnings"].split())
    # The last use frees the ids, either with another map or without the export.
    assert export(domain="alone2", source="/srv/alone2", mount_tag="t")["changed"]
    assert [one["domain"] for one in module("hv1", "virtiofs_export_info")["domain_subids"]] == ["alone"]
    export(domain="alone", mount_tag="t", state="absent")
    assert entries(execute) == before
    assert module("hv1", "virtiofs_export_info")["domain_subids"] == []


def test_a_domain_that_cant_get_the_device_gets_no_ids(
    export: Export, domain: Make, directory: Make, execute: Execute
) -> None:
    before = entries(execute)
    domain("hv1", "fails", shared=True, start=True)
    directory("hv1", "/srv/fails-alone")
    script = f'#!/bin/sh\ncase "$1" in --help|--print-capabilities) exec {WRAPPER} "$@";; esac\nexit 1\n'
    execute("hv1", "sh", "-c", "cat >/usr/local/bin/no-virtiofsd; chmod 755 /usr/local/bin/no-virtiofsd", stdin=script)
    failed = export(
        domain="fails",
        source="/srv/fails-alone",
        mount_tag="t",
        subid="per_domain",
        binary="/usr/local/bin/no-virtiofsd",
    )
    require_failure(failed, LibvirtFailed, names=["'fails'"])
    assert entries(execute) == before
