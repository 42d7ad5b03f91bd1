# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks and commands of README.md and other pages, and the results that these pages describe."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_process
import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
)
from documentation import ROOT, block
from lab import Lab
from refusal import require_failure

Playbook = Callable[..., dict[str, str]]


@pytest.fixture
def play(site: Lab, tmp_path: Path) -> Playbook:
    """Run the text of a playbook in the lab, and return the changes on each host."""

    def run(text: str, *arguments: str, pipelining: bool = True) -> dict[str, str]:
        playbook = tmp_path / "playbook.yml"
        playbook.write_text(text, encoding="utf-8")
        done = ansible_process.run(
            ["ansible-playbook", "-i", site.inventory, playbook, *arguments],
            environment={**os.environ, "ANSIBLE_PIPELINING": str(int(pipelining))},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(re.findall(r"^(\w+) +: .*changed=(\d+)", done.stdout, re.MULTILINE))

    return run


def test_the_playbook_works_and_a_second_run_changes_nothing(
    site: Lab,
    play: Playbook,
    module: Callable[..., dict[str, Any]],
    directory: Callable[..., str],
    execute: Callable[..., str],
    ordinary: str,
) -> None:
    text = block("README.md", "A first shared directory").text.replace("kvm1", "hv1").replace("web1", ordinary)
    execute("hv1", "sh", "-c", 'echo "of the host" > "$0/file"', directory("hv1", "/srv/site"))

    def mount_point() -> str:
        return site.ssh(
            ordinary, "findmnt", "--noheadings", "--types", "virtiofs", "--output", "TARGET", check=False
        ).strip()

    try:
        foretold = play(text, "--check")
        # A user without settings has no pipelining. It is slow in an emulated guest, so one run is enough.
        assert play(text, pipelining=False) == foretold
        assert re.fullmatch(r"/mnt/one-fs-\d+", mount_point())
        assert site.ssh(ordinary, "cat", f"{mount_point()}/file") == "of the host\n"
        assert play(text) == play(text, "--check") == {ordinary: "0", "hv1": "0"}
    finally:
        for machine, name, options in (
            (ordinary, "virtiofs_mount", {"path": mount_point() or "/mnt/one-fs-0"}),
            ("hv1", "virtiofs_export", {"domain": ordinary, "image": "site"}),
            ("hv1", "image", {"name": "site"}),
            ("hv1", "datastore", {"name": "fs_datastore"}),
        ):
            module(machine, name, state="absent", **options)


def test_a_first_disk_image_reaches_a_domain(
    site: Lab, play: Playbook, module: Callable[..., dict[str, Any]], execute: Callable[..., str]
) -> None:
    text = block("README.md", "A first disk image").text.replace("kvm1", "hv1")
    attach = re.search(r"`(virsh attach-disk .*)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert attach
    try:
        foretold = play(text, "--check")
        assert play(text) == foretold
        assert play(text) == {"hv1": "0"}
        path = module("hv1", "image_info", name="web1-data")["images"][0]["path"]
        command = attach[1].replace("web1", "hot").replace("FILE", path).split()
        execute("hv1", *command)
        # The guest's kernel detects a hot-plugged disk with a delay.
        site.ssh("hot", "until test -b /dev/vdb; do :; done")
        assert site.ssh("hot", "cat", "/sys/block/vdb/size") == f"{10 << 30 >> 9}\n"
        # The magic number of ext4.
        seen = site.ssh("hot", "dd if=/dev/vdb bs=1 skip=1080 count=2 2>/dev/null | od -A n -t x1")
        assert seen.split() == ["53", "ef"]
        require_failure(module("hv1", "image", name="web1-data", state="absent"), Conflict, names=["'web1-data'"])
    finally:
        execute("hv1", "virsh", "detach-disk", "hot", "vdb", "--persistent", check=False)
        module("hv1", "image", name="web1-data", state="absent")
        module("hv1", "datastore", name="disks", state="absent")


def test_images_that_hold_data(
    play: Playbook, module: Callable[..., dict[str, Any]], execute: Callable[..., str]
) -> None:
    execute("hv1", "mkdir", "-p", "/srv/downloads")
    execute("hv1", "qemu-img", "create", "-q", "-f", "qcow2", "/srv/downloads/disk", "1M")
    compress = "import lzma, sys; sys.stdout.buffer.write(lzma.compress(open('/srv/downloads/disk', 'rb').read()))"
    execute("hv1", "sh", "-euc", 'python3 -c "$0" >/srv/downloads/debian-12.qcow2.xz', compress)
    checksum = execute("hv1", "sha256sum", "/srv/downloads/debian-12.qcow2.xz").split()[0]
    text = (
        block("docs/images.md", "Images that hold data")
        .text.replace("hosts: frontend", "hosts: hv1")
        .replace("sha256:...", f"sha256:{checksum}")
    )
    try:
        foretold = play(text, "--check")
        assert play(text) == foretold
        assert play(text) == {"hv1": "0"}
        images = module("hv1", "image_info", datastore="disks")["images"]
        sizes = {
            one["name"]: execute("hv1", "qemu-img", "info", one["path"]).split("virtual size: ")[1].split(" (")[0]
            for one in images
        }
        assert sizes == {"debian": "1 MiB", "web-root": "1 MiB", "web-data": "20 GiB"}
    finally:
        module(
            "hv1", "image", images=[{"name": name, "state": "absent"} for name in ("web-data", "web-root", "debian")]
        )
        module("hv1", "datastore", name="disks", state="absent")
        execute("hv1", "rm", "-rf", "/srv/downloads")


def test_the_role_virtiofs_guest(
    site: Lab, play: Playbook, module: Callable[..., dict[str, Any]], directory: Callable[..., str]
) -> None:
    exports = {"one-0": directory("hv1", "/srv/one-0"), "datasets": directory("hv1", "/srv/sets")}
    text = block("roles/virtiofs_guest/README.md", "granary.vmstore.virtiofs_guest").text.replace(
        "hosts: guests", "hosts: hot"
    )
    try:
        # The devices are missing, because check mode has only planned them.
        assert play(text, "--check") == {"hot": "1"}
        for tag, source in exports.items():
            module("hv1", "virtiofs_export", domain="hot", source=source, mount_tag=tag)
        assert play(text) == {"hot": "1"}
        seen = site.ssh("hot", "findmnt", "--noheadings", "--types", "virtiofs", "--output", "SOURCE,TARGET").split()
        assert sorted(zip(seen[::2], seen[1::2], strict=True)) == [
            ("datasets", "/srv/datasets"),
            ("one-0", "/mnt/one-fs-0"),
        ]
        assert play(text) == {"hot": "0"}
    finally:
        for path in ("/mnt/one-fs-0", "/srv/datasets"):
            module("hot", "virtiofs_mount", path=path, state="absent")
        for tag, source in exports.items():
            module("hv1", "virtiofs_export", domain="hot", source=source, mount_tag=tag, state="absent")


def test_a_directory_of_the_guests_root(
    site: Lab, play: Playbook, module: Callable[..., dict[str, Any]], execute: Callable[..., str]
) -> None:
    text = (
        block("docs/virtiofs.md", "Identity mapping")
        .text.replace("hosts: hypervisors", "hosts: hv1")
        .replace("domain: web1", "domain: hot")
    )
    try:
        # Check mode finds neither the directory nor the ids of the domain alone.
        assert play(text, "--check") == play(text) == {"hv1": "2"}
        assert play(text) == {"hv1": "0"}
        described = execute("hv1", "virsh", "dumpxml", "--inactive", "hot")
        target = re.search(r"<uid start='0' target='(\d+)'", described)
        assert target
        assert execute("hv1", "stat", "--format=%u:%g %a", "/srv/web1") == f"{target[1]}:{target[1]} 750\n"
    finally:
        module("hv1", "virtiofs_export", domain="hot", source="/srv/web1", state="absent")
        execute("hv1", "rm", "-rf", "/srv/web1")


def test_the_collection_is_built_and_installed(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]
    names = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True
    ).stdout
    packed = subprocess.run(
        ["tar", "-C", ROOT, "-c", "--null", "--ignore-failed-read", "-T", "-"],
        input=names,
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run(["tar", "-C", checkout, "-x"], input=packed, check=True)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    done = subprocess.run(
        block("README.md", "Install").text,
        shell=True,
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = subprocess.run(
        ["ansible-doc", "-t", "module", "-l", "granary.vmstore"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "granary.vmstore.virtiofs_export " in listed
