# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook of README.md does what README.md says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Lab

README = Path(__file__).parents[2] / "README.md"


def test_the_playbook_works_and_a_second_run_changes_nothing(
    site: Lab, module: Callable[..., dict[str, Any]], directory: Callable[..., str], execute: Callable[..., str], tmp_path: Path
) -> None:
    block = re.search(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(block[1].replace("kvm1", "hv1").replace("web1", "cold"), encoding="utf-8")
    execute("hv1", "sh", "-c", 'echo "of the host" > "$0/file"', directory("hv1", "/srv/site"))
    # A running machine whose memory isn't shared, as virt-install makes it.
    guest = site.guest("cold")
    guest.start()
    try:
        guest.wait_ready()
        recaps = []
        for _time in range(2):
            done = subprocess.run(["ansible-playbook", "-i", str(site.inventory), str(playbook)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            recaps.append(re.findall(r"^(\w+) +: .*changed=(\d+)", done.stdout, re.MULTILINE))
        point = site.ssh("cold", "findmnt", "--noheadings", "--types", "virtiofs", "--output", "TARGET").strip()
        assert re.fullmatch(r"/mnt/one-fs-\d+", point)
        assert site.ssh("cold", "cat", f"{point}/file") == "of the host\n"
        assert recaps[1] == [("cold", "0"), ("hv1", "0")]
    finally:
        point = site.ssh("cold", "findmnt", "--noheadings", "--types", "virtiofs", "--output", "TARGET").strip()
        for machine, name, options in (
            ("cold", "virtiofs_mount", {"path": point}),
            ("hv1", "virtiofs_export", {"domain": "cold", "image": "site"}),
            ("hv1", "image", {"name": "site"}),
            ("hv1", "datastore", {"name": "fs_datastore"}),
        ):
            module(machine, name, state="absent", **options)
        execute("hv1", "virsh", "destroy", "cold")
