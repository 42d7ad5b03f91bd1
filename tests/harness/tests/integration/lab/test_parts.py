# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Archives, the order of modules, and the files of a lab's user."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from lab import access, images
from lab.cli import make_parser
from lab.initramfs import Entry, build_archive


def test_cpio_unpacks_the_archive(tmp_path: Path) -> None:
    first = build_archive(
        [
            Entry("init", b"#!/bin/sh\n", 0o755),
            Entry("lab/etc/ssh/key", b"secret", 0o600),
            Entry("lab/etc/odd", b"x" * 4099),
        ]
    )
    (tmp_path / "a.cpio").write_bytes(first)
    subprocess.run(["cpio", "--quiet", "-idm", "-F", "a.cpio"], cwd=tmp_path, check=True)
    assert (tmp_path / "init").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "lab/etc/ssh/key").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "lab/etc/ssh/key").read_bytes() == b"secret"
    assert (tmp_path / "lab/etc/odd").read_bytes() == b"x" * 4099
    assert (tmp_path / "lab/etc").stat().st_mode & 0o7777 == 0o755


def test_the_same_entries_give_the_same_archive() -> None:
    entries = [Entry("a/b", b"1"), Entry("a/c", b"2")]
    assert build_archive(entries) == build_archive(entries)
    assert len(build_archive(entries)) % 4 == 0


def test_modules_are_loaded_after_what_they_need() -> None:
    text = "k/a.ko.xz:\nk/b.ko.xz: k/a.ko.xz\nk/c.ko.xz: k/b.ko.xz k/a.ko.xz\nk/d.ko.xz: k/a.ko.xz\n"
    assert images.order_modules(text, ["c", "d", "c"]) == ["k/a.ko.xz", "k/b.ko.xz", "k/c.ko.xz", "k/d.ko.xz"]


@pytest.fixture
def machines() -> dict[str, access.Machine]:
    return {
        "hv1": access.Machine("hv1", "debian13", "192.0.2.10"),
        "rw": access.Machine("rw", "guest", "192.168.150.10", "hv1"),
    }


def test_ssh_reads_the_configuration(tmp_path: Path, machines: dict[str, access.Machine]) -> None:
    directory = tmp_path / "a b"
    directory.mkdir()
    (directory / "ssh_config").write_text(
        access.format_ssh_config(machines, directory, Path("/run/x")), encoding="utf-8"
    )
    out = subprocess.run(
        ["ssh", "-G", "-F", str(directory / "ssh_config"), "rw"], capture_output=True, text=True, check=True
    ).stdout
    options = dict(line.split(" ", 1) for line in out.splitlines() if " " in line)
    assert (options["hostname"], options["user"], options["proxyjump"]) == ("192.168.150.10", "root", "hv1")
    assert options["identityfile"].strip('"') == f"{directory}/key"
    assert options["userknownhostsfile"].strip('"') == f"{directory}/known_hosts"
    assert options["stricthostkeychecking"] in ("yes", "true")
    assert options["controlpath"].startswith("/run/x/")


def test_the_inventory(machines: dict[str, access.Machine]) -> None:
    tree = yaml.safe_load(access.format_inventory(machines, Path("/s t/ssh_config")))["all"]
    assert tree["vars"]["ansible_ssh_common_args"] == "-F '/s t/ssh_config'"
    assert set(tree["children"]) == {"hosts", "guests", "debian13", "guest"}
    guest = tree["children"]["guests"]["hosts"]["rw"]
    assert (guest["lab_host"], guest["lab_domain"], guest["ansible_user"]) == ("hv1", "rw", "root")
    assert "lab_host" not in tree["children"]["hosts"]["hosts"]["hv1"]


def test_the_name_of_a_lab_is_said_before_or_after_the_command() -> None:
    for words in (["ssh", "rw"], ["status"], ["guest", "start", "rw"], ["down"], ["up", "lab.yml"]):
        options = [
            make_parser().parse_args(arguments)
            for arguments in (["--lab", "one", *words], [words[0], "--lab", "one", *words[1:]])
        ]
        assert [one.lab for one in options] == ["one", "one"]
        assert make_parser().parse_args(words).lab is None
    # Words behind the machine belong to its command.
    assert make_parser().parse_args(["--lab", "one", "ssh", "rw", "ls", "--lab", "two"]).command == [
        "ls",
        "--lab",
        "two",
    ]


@pytest.mark.parametrize(
    "command", [["up", "none.yml"], ["status"], ["down"], ["probe"], ["ssh", "x"], ["guest", "start", "x"]]
)
def test_without_root_it_is_one_sentence(command: list[str]) -> None:
    done = subprocess.run(["unshare", "--user", "--", "lab", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "lab: A lab needs root: run it with sudo.\n"
