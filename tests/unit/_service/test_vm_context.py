# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Context images that root writes, also in directories of other users. xorriso and a shell read them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyMissing,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    PathNotAllowed,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._image.nocloud_seed import read_seed, seed_bytes
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.context import ContextService
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.desired import VM_CONTEXT_SPEC
from refusal import refused

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILZ2NGPEVNh0uPjyeWYYJCSEK0DUyFJBn6JgSLcAQN2m admin@example.org"
UUID = "6a8e0d7c-5b1d-4a35-9a8e-000000000001"
OTHER = 61002


def service(path: Path, **options: object) -> ContextService:
    given = {name: option.get("default") for name, option in VM_CONTEXT_SPEC.argument_spec.items()}
    files = [{"path": None, "content": None, "name": None, **one} for one in options.pop("files", [])]
    mounts = [{"read_only": False, **one} for one in options.pop("mounts", [])]
    return ContextService({**given, "path": str(path), "files": files, "mounts": mounts, **options})


def make(path: Path, **options: object) -> Plan:
    """Plan in check mode, converge, and plan again without changes."""
    before = path.read_bytes() if path.is_file() else None
    foretold = service(path, **options).dry_run()
    assert before == (path.read_bytes() if path.is_file() else None)
    done = service(path, **options).converge()
    assert [(one.name, one.before, one.after) for one in foretold.actions] == [
        (one.name, one.before, one.after) for one in done.actions
    ]
    for again in (service(path, **options).converge(), service(path, **options).dry_run()):
        assert not again.changed
        assert again.result == done.result
    return done


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def extract(path: Path, directory: Path) -> dict[str, bytes]:
    command = ["xorriso", "-osirrox", "on", "-indev", path, "-extract", "/", directory]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return {one.name: one.read_bytes() for one in directory.iterdir()}


def label(path: Path) -> str:
    command = ["blkid", "-s", "LABEL", "-o", "value", path]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def facts(path: Path) -> str:
    """Return the output of stat(1), with numeric ids."""
    command = ["stat", "--format=%F %u:%g %a", path]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_a_guest_finds_variables_keys_mounts_and_files(tmp_path: Path) -> None:
    (tmp_path / "init.sh").write_bytes(b"\0\xff binary\n")
    path = tmp_path / "context.iso"
    done = make(
        path,
        variables={"NETWORK": "YES", "START_SCRIPT": "echo \"$HOME\" 'x'\n", "N": 7},
        files=[{"path": str(tmp_path / "init.sh")}, {"name": "motd", "content": "Grüße\n"}],
        ssh_keys=[KEY, f"  {KEY}\n"],
        mounts=[{"mount_tag": "one-1", "mount_point": "/mnt/one-fs-1"}],
        hostname="web1.example.org",
    )
    assert names(done) == ["create context image"]
    files = extract(path, tmp_path / "files")
    script = files.pop("context.sh")
    assert files == {"init.sh": b"\0\xff binary\n", "motd": "Grüße\n".encode()}
    assert label(path) == "CONTEXT"
    shell = subprocess.run(["sh", "-c", 'eval "$1"; set', "sh", script], stdout=subprocess.PIPE, text=True, check=True)
    variables = dict(line.partition("=")[::2] for line in shell.stdout.splitlines())
    assert (variables["DISK0_MOUNT_TAG"], variables["DISK0_MOUNT_POINT"]) == ("'one-1'", "'/mnt/one-fs-1'")
    assert (variables["SET_HOSTNAME"], variables["N"]) == ("'web1.example.org'", "'7'")
    assert f"SSH_PUBLIC_KEY='{KEY}\n{KEY}'\n" in shell.stdout
    result = done.result["context"]
    digest = subprocess.run(["sha256sum", path], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[0]
    assert (result["checksum"], result["size"]) == (f"sha256:{digest}", path.stat().st_size)
    assert result["files"] == ["context.sh", "init.sh", "motd"]


def test_cloud_init_finds_its_files(tmp_path: Path) -> None:
    path = tmp_path / "seed.iso"
    make(
        path,
        format="nocloud",
        instance_id=UUID,
        hostname="web2",
        ssh_keys=[KEY],
        mounts=[{"mount_tag": "data", "mount_point": "/srv/data", "read_only": True}],
        files=[{"name": "network-config", "content": "version: 2\n"}],
    )
    files = extract(path, tmp_path / "files")
    assert label(path) == "cidata"
    assert json.loads(files["meta-data"]) == {"instance-id": UUID, "local-hostname": "web2"}
    first, _newline, body = files["user-data"].partition(b"\n")
    user_data = json.loads(body)
    assert (first, user_data["ssh_authorized_keys"]) == (b"#cloud-config", [KEY])
    assert user_data["mounts"] == [["data", "/srv/data", "virtiofs", "ro,nofail", "0", "0"]]
    assert files["network-config"] == b"version: 2\n"


def test_the_order_of_options_changes_nothing(tmp_path: Path) -> None:
    files = [{"name": "a", "content": "1"}, {"name": "b", "content": "2"}]
    make(tmp_path / "a.iso", variables={"A": "1", "B": "2"}, files=files)
    make(tmp_path / "b.iso", variables={"B": "2", "A": "1"}, files=files[::-1])
    assert (tmp_path / "a.iso").read_bytes() == (tmp_path / "b.iso").read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"variables": {"A": "2"}},
        {"variables": {}},
        {"variables": {"A": "1"}, "files": [{"name": "a", "content": ""}]},
        {"variables": {"A": "1"}, "mode": "0600"},
        {"variables": {"A": "1"}, "owner": str(OTHER)},
        {"variables": {"A": "1"}, "group": "daemon"},
        {"format": "nocloud", "instance_id": UUID},
    ],
)
def test_each_difference_rebuilds_the_image(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "context.iso"
    make(path, variables={"A": "1"})
    with path.open("rb") as opened:
        old = opened.read()
        assert names(make(path, **options)) == ["replace context image"]
        opened.seek(0)
        assert opened.read() == old  # QEMU keeps the old image
        assert os.fstat(opened.fileno()).st_nlink == 0


def test_a_changed_source_rebuilds_the_image(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for content in (b"1", b"2"):
        source.write_bytes(content)
        assert make(tmp_path / "context.iso", files=[{"path": str(source), "name": "x"}]).changed
        assert extract(tmp_path / "context.iso", tmp_path / content.decode())["x"] == content


def test_a_damaged_image_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "context.iso"
    make(path, variables={"A": "1"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-100_000])
    assert names(make(path, variables={"A": "1"})) == ["replace context image"]
    assert path.read_bytes() == whole


def test_owner_and_mode(tenant: Path) -> None:
    owner = tenant.stat().st_uid
    path = tenant / "context.iso"
    make(path)
    assert facts(path) == f"regular file {owner}:{owner} 640"
    # As libvirt does for a running domain.
    os.chown(path, OTHER, OTHER)
    assert not make(path).changed
    make(path, variables={"A": "1"})
    assert facts(path) == f"regular file {OTHER}:{OTHER} 640"
    done = make(path, variables={"A": "1"}, owner="root", group="daemon", mode="0600")
    assert facts(path) == "regular file 0:1 600"
    assert {name: done.result["context"][name] for name in ("owner", "group", "mode")} == {
        "owner": "root",
        "group": "daemon",
        "mode": "0600",
    }


def test_a_member_of_the_directorys_group_gets_no_secrets_by_an_image_of_their_own(tenant: Path) -> None:
    tenant.chmod(0o775)
    path = tenant / "context.iso"
    make(path)
    os.chown(path, OTHER, OTHER)
    path.chmod(0o666)
    assert names(make(path)) == ["replace context image"]
    assert facts(path) == "regular file {0}:{0} 640".format(tenant.stat().st_uid)


def test_a_user_without_roots_rights_owns_the_image(tenant: Path) -> None:
    owner = tenant.stat().st_uid
    (tenant / "of-root").mkdir(mode=0o755)
    os.chmod(tenant / "of-root", 0o775)
    os.chown(tenant / "of-root", 0, owner)
    os.setegid(owner)
    os.seteuid(owner)
    try:
        make(tenant / "of-root" / "context.iso")
        with refused(FileAccessFailed, names=["context.iso"]):
            service(tenant / "of-root" / "context.iso", owner="root").converge()
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert facts(tenant / "of-root" / "context.iso") == f"regular file {owner}:{owner} 640"
    assert os.listdir(tenant / "of-root") == ["context.iso"]


def test_absent(tmp_path: Path) -> None:
    path = tmp_path / "context.iso"
    make(path)
    assert names(make(path, state="absent")) == ["remove context image"]
    assert os.listdir(tmp_path) == []
    assert not make(tmp_path / "none" / "context.iso", state="absent").changed


def test_the_diff_withholds_secrets_and_shows_that_they_change(tmp_path: Path) -> None:
    path = tmp_path / "context.iso"
    secrets = {"PASSWORD": "pa55-1", "ONEGATE_TOKEN": "pa55-2", "API_KEY": "pa55-3", "SSH_PUBLIC_KEY": KEY}
    make(path, variables={"A": "1", **secrets}, files=[{"name": "x", "content": "pa55-4"}])
    options = {
        "variables": {"A": "2", **secrets, "PASSWORD": "pa55-5"},
        "files": [{"name": "x", "content": "pa55-6"}],
    }
    plan = service(path, **options).dry_run()
    (change,) = plan.diff()
    assert change["before"]["variables"] == {"A": "1", "PASSWORD": "..."}
    assert change["after"]["variables"] == {"A": "2", "PASSWORD": "... (changed)"}
    assert change["before"]["files"].keys() == change["after"]["files"].keys() == {"x"}
    assert plan.as_result()[0]["after"]["variables"]["SSH_PUBLIC_KEY"] == KEY
    assert "pa55" not in json.dumps([plan.as_result(), plan.diff(), plan.result])


def test_a_program_with_the_old_image_is_named(tmp_path: Path, opened_by_qemu: Callable[..., None]) -> None:
    path = tmp_path / "context.iso"
    make(path)
    opened_by_qemu(path, "-r", "-f", "raw")
    for options in ({"variables": {"A": "1"}}, {"state": "absent"}):
        (warning,) = service(path, **options).dry_run().warnings
        assert f"{path} is open in the program qemu-io" in warning
    make(path)
    (warning,) = service(path, variables={"A": "1"}).converge().warnings
    assert "qemu-io" in warning
    # The program has the image before this one now.
    assert service(path).converge().warnings == []


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes(b"precious"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(seed_bytes(UUID, [])),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
        lambda path: os.mknod(path, 0o20600, os.makedev(1, 3)),
    ],
    ids=["file", "empty file", "seed of an export", "directory", "FIFO", "socket", "device"],
)
@pytest.mark.parametrize("state", ["present", "absent"])
def test_what_this_module_did_not_write_stays(tmp_path: Path, put: Callable[[Path], object], state: str) -> None:
    path = tmp_path / "x"
    put(path)
    before = os.lstat(path)
    with refused(Conflict, names=[path]):
        service(path, state=state).converge()
    assert os.path.samestat(os.lstat(path), before)


def test_the_sentence_about_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"precious")
    with refused(
        Conflict,
        says=f"path: {tmp_path}/x is no image that vm_context wrote, so it stays unchanged: remove it, or name another "
        "file.",
    ):
        service(tmp_path / "x").plan()


def test_the_seed_of_an_export_and_this_image_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x"
    make(path, format="nocloud", instance_id=UUID)
    with refused(Conflict, names=[path]):
        read_seed(str(path))


def test_a_link_of_another_user_leads_nowhere(tmp_path: Path, tenant: Path) -> None:
    make(tmp_path / "context.iso")
    before = (tmp_path / "context.iso").read_bytes()
    for name, target, path in (("link", "context.iso", "link"), ("directory", "", "directory/context.iso")):
        (tenant / name).symlink_to(tmp_path / target)
        os.chown(tenant / name, *[tenant.stat().st_uid] * 2, follow_symlinks=False)
        for state in ("present", "absent"):
            with refused(PathNotAllowed, option="path"):
                service(tenant / path, variables={"A": "1"}, state=state).converge()
    assert (tmp_path / "context.iso").read_bytes() == before


def test_a_file_behind_a_link_of_another_user_gets_into_no_image(tmp_path: Path, tenant: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tenant / "x").symlink_to(tmp_path / "secret")
    os.chown(tenant / "x", *[tenant.stat().st_uid] * 2, follow_symlinks=False)
    with refused(PathNotAllowed, option="files.path"):
        service(tmp_path / "context.iso", files=[{"path": str(tenant / "x")}]).converge()


def test_a_directory_of_everybody_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with refused(
        PathNotAllowed,
        says=f"path: '{tmp_path}/x' is not accepted: every user can write in {tmp_path}, and put another image there; "
        "another directory is expected.",
    ):
        service(tmp_path / "x").plan()


def test_another_programs_change_in_between_stays(tmp_path: Path) -> None:
    path = tmp_path / "context.iso"
    for state in ("present", "absent"):
        make(path)
        plan = service(path, state=state, variables={"A": "1"}).plan()
        path.write_bytes(b"precious")
        with refused(
            StaleState,
            says=f"path: {path} was changed by another program meanwhile; nothing was changed, run it again.",
        ):
            plan.run()
        assert path.read_bytes() == b"precious"
        path.unlink()


def test_a_failure_afterwards_brings_the_old_state_back(tmp_path: Path) -> None:
    path = tmp_path / "context.iso"

    def fail() -> None:
        raise Conflict("later")

    for options in ({}, {"variables": {"A": "1"}, "mode": "0600"}, {"state": "absent"}):
        before = (facts(path), path.read_bytes()) if path.exists() else None
        plan = service(path, **options).plan()
        plan.checks.append(fail)
        with refused(Conflict, names=["later"]):
            plan.run()
        assert before == ((facts(path), path.read_bytes()) if path.exists() else None)
        make(path)


def test_without_xorriso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "context.iso"
    make(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not service(path).converge().changed
    foretold = service(path, variables={"A": "1"}).dry_run()
    assert names(foretold) == ["replace context image"]
    assert "package xorriso" in foretold.warnings[0]
    with refused(DependencyMissing, names=["'xorriso'", "package xorriso"]):
        service(path, variables={"A": "1"}).converge()
    assert os.listdir(tmp_path) == ["context.iso"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"owner": "nosuch"}, "owner: this host has no user 'nosuch'."),
        ({"group": "nosuch"}, "group: this host has no group 'nosuch'."),
        ({"files": [{"path": "/nosuch/x"}]}, "files.path: this host has no file /nosuch/x."),
    ],
)
def test_what_an_earlier_task_may_bring_is_foretold(tmp_path: Path, options: dict[str, object], says: str) -> None:
    foretold = service(tmp_path / "context.iso", **options).dry_run()
    assert foretold.changed
    assert foretold.warnings[0].startswith(says)
    with refused(DependencyNotFound, says=says):
        service(tmp_path / "context.iso", **options).converge()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("around", ["none", "file"])
def test_a_directory_that_is_missing_is_foretold(tmp_path: Path, around: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / around / "context.iso"
    assert service(path).dry_run().changed
    with refused(DependencyNotFound, says=f"path: this host has no directory {path.parent}."):
        service(path).converge()


@pytest.mark.parametrize("make_source", [lambda path: path.mkdir(), os.mkfifo])
def test_a_source_that_is_no_file_is_refused(tmp_path: Path, make_source: Callable[[Path], object]) -> None:
    make_source(tmp_path / "x")
    with refused(
        InvalidInput,
        says=f"files.path: '{tmp_path}/x' is not accepted: the path of a regular file is expected.",
    ):
        service(tmp_path / "context.iso", files=[{"path": str(tmp_path / "x")}]).converge()


def test_files_that_are_too_large_are_refused_and_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**40)
    with refused(
        InvalidInput,
        says="files: ['context.sh', 'x'] is not accepted: files of at most 67108864 bytes in all are expected.",
    ):
        service(tmp_path / "context.iso", files=[{"path": str(tmp_path / "x")}]).converge()


MOUNT = {"mount_tag": "a", "mount_point": "/mnt/a"}


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"path": "/"}, "path"),
        ({"path": "relative"}, "path"),
        ({"path": "/srv/../x"}, "path"),
        ({"mode": "640"}, "mode"),
        ({"variables": {"a": "1"}}, "variables"),
        ({"variables": {"A": True}}, "variables.A"),
        ({"variables": {"A": None}}, "variables.A"),
        ({"variables": {"A": ["x"]}}, "variables.A"),
        ({"variables": {"SSH_PUBLIC_KEY": "x"}, "ssh_keys": [KEY]}, "variables"),
        ({"variables": {"DISK0_MOUNT_TAG": "x"}, "mounts": [MOUNT]}, "variables"),
        ({"variables": {"SET_HOSTNAME": "x"}, "hostname": "x"}, "variables"),
        ({"mounts": [MOUNT, {**MOUNT, "mount_point": "/mnt/b"}]}, "mounts.mount_tag"),
        ({"mounts": [MOUNT, {**MOUNT, "mount_tag": "b"}]}, "mounts.mount_point"),
        ({"mounts": [{**MOUNT, "read_only": True}]}, "mounts.read_only"),
        ({"mounts": [{**MOUNT, "mount_point": "/usr/bin"}]}, "mounts.mount_point"),
        ({"hostname": "-a"}, "hostname"),
        ({"hostname": "a\nb"}, "hostname"),
        ({"hostname": "a" * 64}, "hostname"),
        ({"instance_id": UUID}, "instance_id"),
        ({"format": "nocloud"}, "instance_id"),
        ({"format": "nocloud", "instance_id": "a b"}, "instance_id"),
        ({"format": "nocloud", "instance_id": UUID, "variables": {"A": "1"}}, "variables"),
        ({"files": [{"content": "x", "name": "context.sh"}]}, "files.name"),
        ({"files": [{"content": "x", "name": "CONTEXT.SH"}]}, "files.name"),
        ({"files": [{"content": "x", "name": "a"}, {"content": "x", "name": "A"}]}, "files.name"),
        ({"files": [{"content": "x", "name": "../a"}]}, "files.name"),
        ({"files": [{"path": "/srv/a b"}]}, "files.name"),
        ({"files": [{"path": "srv/a"}]}, "files.path"),
        ({"files": [{"path": "/"}]}, "files.name"),
        ({"files": [{"content": "\udcff", "name": "a"}]}, "files.content"),
        ({"files": [{"content": "x", "name": f"a{number}"} for number in range(1000)]}, "files"),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, options: dict[str, object], option: str) -> None:
    with refused(InvalidInput, option=option):
        service(**{"path": tmp_path / "context.iso", **options})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "/"}, "path: '/' is not accepted: the path of an image is expected."),
        (
            {"instance_id": UUID},
            f"instance_id: '{UUID}' is not accepted: this option is for format nocloud only.",
        ),
        (
            {"format": "nocloud"},
            "instance_id is missing: format nocloud needs an id that stays the same, such as the domain's uuid.",
        ),
        (
            {"format": "nocloud", "instance_id": UUID, "variables": {"B": "pa55", "A": "pa55"}},
            "variables: 'A' is not accepted: cloud-init reads no variables, which are for format context only.",
        ),
        (
            {"variables": {"A": True}},
            "variables.A: 'bool' is not accepted: a text such as 'YES' in quotes, or a whole number, is expected.",
        ),
        (
            {"variables": {"SSH_PUBLIC_KEY": "x"}, "ssh_keys": [KEY]},
            "variables: 'SSH_PUBLIC_KEY' is not accepted: the option ssh_keys sets this variable, so give one of them.",
        ),
        (
            {"mounts": [{**MOUNT, "read_only": True}]},
            "mounts.read_only: True is not accepted: OpenNebula's context packages mount read-write only; make the "
            "export read-only, which the guest can't change.",
        ),
        (
            {"mounts": [MOUNT, {**MOUNT, "mount_point": "/mnt/b"}]},
            "mounts.mount_tag: 'a' is not accepted: each tag and each mount point is expected once.",
        ),
        (
            {"mounts": [{**MOUNT, "mount_tag": None}]},
            "mounts.mount_tag is missing: each mount needs a tag and a mount point.",
        ),
        (
            {"hostname": "-a"},
            "hostname: '-a' is not accepted: a host name of letters, digits, '-' and '.' is expected (RFC 1123).",
        ),
        (
            {"files": [{"content": "x", "name": "context.sh"}]},
            "files.name: 'context.sh' is not accepted: the module writes this file itself.",
        ),
        (
            {"files": [{"content": "x", "name": "a"}, {"content": "x", "name": "A"}]},
            "files.name: 'A' is not accepted: each name is expected once, also in small and capital letters.",
        ),
        (
            {"files": [{"content": "\udcff", "name": "a"}]},
            "files.content: '...' is not accepted: a text in UTF-8 is expected; give path for other data.",
        ),
        (
            {"files": [{"content": "x", "name": f"a{number}"} for number in range(1000)]},
            "files: 1000 is not accepted: at most 999 files are expected.",
        ),
        (
            {"ssh_keys": ["pa55"]},
            "ssh_keys[0]: '...' is not accepted: one line with a public key, as in a file id_*.pub, is expected.",
        ),
    ],
)
def test_the_sentences_about_options(tmp_path: Path, options: dict[str, object], says: str) -> None:
    with refused(InvalidInput, says=says):
        service(**{"path": tmp_path / "context.iso", **options})


@pytest.mark.parametrize(
    "key",
    [
        "",
        "pa55",
        "-----BEGIN OPENSSH PRIVATE KEY-----\npa55\n-----END OPENSSH PRIVATE KEY-----\n",
        f"{KEY}\n{KEY}",
        f"{KEY}\0",
        "# comment",
        "ssh-ed25519",
    ],
)
def test_a_text_that_is_no_public_key_is_refused_without_the_text(tmp_path: Path, key: str) -> None:
    with refused(InvalidInput, option="ssh_keys[1]", value="..."):
        service(tmp_path / "x", ssh_keys=[KEY, key])


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        "ssh-rsa AAAAB3NzaC1yc2E=",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNh a b",
        "sk-ssh-ed25519@openssh.com AAAAGnNr x@y",
        'from="10.0.0.0/8",no-pty ssh-ed25519 AAAAC3Nz admin',
    ],
)
def test_public_keys_of_each_kind(tmp_path: Path, key: str) -> None:
    assert service(tmp_path / "x", ssh_keys=[key]).spec.files["context.sh"].decode().count(key) == 1
