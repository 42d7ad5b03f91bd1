# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter vmi_volumes in Ansible."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ansible_process
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest

FILTER = Path(__file__).resolve().parents[3] / "plugins" / "filter" / "vmi_volumes.py"
DOCUMENTS = [
    {
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "web"},
        "spec": {
            "networks": [],
            "domain": {
                "devices": {"disks": [{"name": "data", "disk": {"bus": "scsi"}}, {"name": "conf", "disk": None}]}
            },
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "web-data"}},
                {"name": "conf", "configMap": {"name": "web"}},
            ],
        },
    },
    {"kind": "ConfigMap", "metadata": {"name": "web"}, "data": {"a.conf": "x"}},
]


def test_the_options_are_those_of_the_module() -> None:
    found = read_manifest(DOCUMENTS)
    result = ArgumentSpecValidator(**DOMAIN_VOLUMES_SPEC.keywords()).validate(found.options)
    assert result.error_messages == []
    assert result.validated_parameters.items() >= found.options.items()


def test_the_filter_in_ansible(tmp_path: Path) -> None:
    """The examples of its documentation run, and a wrong manifest is an error of the task."""
    text = yaml.safe_dump_all([*DOCUMENTS, None], sort_keys=False)
    (tmp_path / "vm.yaml").write_text(text)
    (tmp_path / "wrong.yaml").write_text(text.replace("bus: scsi", "bus: ide"))
    block = re.search(r'^EXAMPLES = r"""\n(.*?)^"""', FILTER.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    tasks = yaml.safe_load(block[1])
    save = {"ansible.builtin.copy": {"content": "{{ converted | to_json }}", "dest": f"{tmp_path}/found.json"}}
    wrong = {
        "ansible.builtin.set_fact": {"x": tasks[0]["ansible.builtin.set_fact"]["converted"].replace("vm.", "wrong.")},
        "ignore_errors": True,
        "register": "failed",
    }
    keep = {"ansible.builtin.copy": {"content": "{{ failed.msg }}", "dest": f"{tmp_path}/failed"}}
    single = {
        "ansible.builtin.assert": {
            "that": ["({'kind': 'VirtualMachineInstance'} | granary.vmstore.vmi_volumes).options == {}"]
        }
    }
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [*tasks, save, wrong, keep, single]}]
    (tmp_path / "play.json").write_text(json.dumps(play))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "-c", "local"]
    extra = ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = ansible_process.run([*command, *extra, tmp_path / "play.json"])
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_manifest(DOCUMENTS)
    assert json.loads((tmp_path / "found.json").read_text()) == {"options": found.options, "warnings": found.warnings}
    assert "disks[0].disk.bus: 'ide'" in (tmp_path / "failed").read_text()
