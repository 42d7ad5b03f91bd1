# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module vm_context on this machine, by a playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "plugins" / "modules" / "vm_context.py"
IMAGES = "/var/lib/libvirt/images"


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Return a function that runs tasks, and returns their results without loops."""

    def run(*tasks: dict[str, Any], check: bool = False) -> list[dict[str, Any]]:
        path = tmp_path / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": [*tasks]}]))
        environment = dict(os.environ)
        environment["ANSIBLE_STDOUT_CALLBACK"] = "ansible.builtin.default"
        environment["ANSIBLE_CALLBACK_RESULT_FORMAT"] = "json"
        command = ["ansible-playbook", "-c", "local", "-i", "localhost,", "--diff", "-vvv", path]
        done = ansible_process.run([*command, *(["--check"] if check else [])], environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.findall(r"^(?:ok|changed): \[localhost\] => (\{.*?^\})", done.stdout, re.MULTILINE | re.DOTALL)
        return [{**json.loads(one), "printed": done.stdout + done.stderr} for one in found]

    return run


def task(**options: object) -> dict[str, Any]:
    return {"granary.vmstore.vm_context": options}


def test_check_run_run_and_check(tmp_path: Path, play: Any) -> None:
    path = tmp_path / "context.iso"
    options: dict[str, Any] = {"path": str(path), "variables": {"NETWORK": "YES", "PASSWORD": "pa55-word", "N": 1}}
    options |= {"files": [{"name": "x", "content": "pa55"}], "mode": "0600"}
    (foretold,) = play(task(**options), check=True)
    assert not path.exists()
    ((made,), (again,), (still,)) = play(task(**options)), play(task(**options)), play(task(**options), check=True)
    assert [result["changed"] for result in (foretold, made, again, still)] == [True, True, False, False]
    assert foretold["actions"] == made["actions"]
    assert made["context"] == again["context"] == still["context"]
    assert all("pa55" not in result["printed"] for result in (foretold, made, again, still))
    assert made["diff"][0]["after"]["variables"] == {"N": "1", "NETWORK": "YES", "PASSWORD": "..."}
    subprocess.run(
        ["xorriso", "-osirrox", "on", "-indev", path, "-extract", "/context.sh", tmp_path / "context.sh"],
        stderr=subprocess.DEVNULL,
        check=True,
    )
    assert "PASSWORD='pa55-word'\n" in (tmp_path / "context.sh").read_text()


def test_each_example_runs_and_runs_again_without_a_change(tmp_path: Path, play: Any) -> None:
    examples = re.search(r'EXAMPLES = r"""\n(.*?)"""', MODULE.read_text(), re.DOTALL)[1]
    made, shown, seed, removed = yaml.safe_load(examples.replace(IMAGES, str(tmp_path)))
    first = play(made, shown, seed)
    assert [result.get("changed", False) for result in first] == [True, False, True]
    assert [result["changed"] for result in play(made, seed)] == [False, False]
    assert sorted(os.listdir(tmp_path)) == ["play.yml", "web1-context.iso", "web2-seed.iso"]
    assert [play(removed)[0]["changed"] for _time in range(2)] == [True, False]
    assert sorted(os.listdir(tmp_path)) == ["play.yml", "web2-seed.iso"]
