# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""docs/simulated_datastore_tutorial.md, word by word, on an overlay of this machine's file system."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from documentation import ROOT, Block, block, files_of

#: Namespaces of mounts and processes. Changed directories are overlays. /etc is copied, because files may be mounted in
#: it.
NAMESPACE = [
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=slave",
    "bash",
    "-euc",
]
SETUP = """
mount -t tmpfs none /mnt
for directory in "$@"; do
    mkdir -p "/mnt/kept$directory"
    mount --bind "$directory" "/mnt/kept$directory"
done
cp -a /etc /mnt/etc
mount --bind /mnt/etc /etc
for directory in /opt /usr /var "$0"; do
    mkdir -p /mnt/up$directory /mnt/work$directory
    mount -t overlay overlay -o lowerdir=$directory,upperdir=/mnt/up$directory,workdir=/mnt/work$directory $directory
done
# A datastore's directory can't be in an overlay.
mount -t tmpfs none /srv
mount -t tmpfs none /tmp
# Wherever these directories are: an overlay doesn't show what is mounted below its lower directory.
for directory in "$@"; do
    mkdir -p "$directory"
    mount --bind "/mnt/kept$directory" "$directory"
done
mount -t tmpfs none /mnt
mkdir -p /run/simulated-datastore
mount -t tmpfs none /run/simulated-datastore
mount -t tmpfs none /run/lock
# The reader's machine has no NFS of its own.
rm -f /sbin/mount.nfs* /sbin/umount.nfs*
"""
#: Commands whose output must be the same before and after.
LOOK = (
    "cat /etc/fstab; ls -d /opt/* /usr/local/bin/* /sbin/mount* /srv/* /mnt/* /tmp/* /run/simulated-datastore/* "
    "2>/dev/null || true"
)


@dataclass(frozen=True)
class Step:
    """A block of commands, the block of their output, and True if they must fail."""

    commands: Block
    printed: Block | None = None
    fails: bool = False


def script(steps: list[Step]) -> str:
    """Return all commands for one shell, as a user runs them."""
    parts = []
    for number, step in enumerate(steps):
        commands = (
            f"if\n{step.commands.text}then echo 'It did not fail.'; exit 1; fi\n" if step.fails else step.commands.text
        )
        parts.append(f"echo '=== {number}'\n{commands}")
    return "".join(parts)


def test_the_page_works_word_by_word(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.fail("unshare is missing: install util-linux.")
    for name, file in files_of("docs/simulated_datastore_tutorial.md").items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    # The commands before install packages and Molecule, which exist already.
    build = block("docs/simulated_datastore_tutorial.md", "Install", 1)
    steps = [
        Step(
            block("docs/simulated_datastore_tutorial.md", "Run it", 0),
            block("docs/simulated_datastore_tutorial.md", "Run it", 1),
        ),
        Step(
            block("docs/simulated_datastore_tutorial.md", "Try a program without Ansible", 1),
            block("docs/simulated_datastore_tutorial.md", "Try a program without Ansible", 2),
        ),
        Step(block("docs/simulated_datastore_tutorial.md", "See it fail", 0)),
        Step(
            block("docs/simulated_datastore_tutorial.md", "See it fail", 1),
            block("docs/simulated_datastore_tutorial.md", "See it fail", 2),
            fails=True,
        ),
        Step(block("docs/simulated_datastore_tutorial.md", "See it fail", 3)),
        Step(block("docs/simulated_datastore_tutorial.md", "Remove it", 0)),
    ]
    names = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    checkout = tmp_path / "vmstore"
    checkout.mkdir()
    copy = f"tar --create --null --ignore-failed-read --files-from - | tar --extract --directory {checkout}"
    subprocess.run(["sh", "-c", copy], cwd=ROOT, input=names, check=True)
    home = pwd.getpwuid(0).pw_dir
    text = (
        f"{SETUP}\n({LOOK}) >{tmp_path}/before\n(cd {checkout}\n{build.text})\n{script(steps)}\n"
        f"cd /\n({LOOK}) | diff {tmp_path}/before -\n"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ANSIBLE_", "MOLECULE_", "PYTHON", "TMPDIR"))
    }
    environment |= {
        "HOME": home,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [*NAMESPACE, text, home, ROOT, tmp_path],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout
    outputs = re.split(r"^=== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for step, output in zip(steps, outputs, strict=True):
        position = 0
        for line in step.printed.text.splitlines() if step.printed else []:
            # The lines are in this order.
            position = output.find(line, position)
            assert position >= 0, f"{line!r} is missing after {step.commands.text}:\n{output}"
            position += len(line)
