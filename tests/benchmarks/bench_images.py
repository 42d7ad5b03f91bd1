# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Measure the second run of a play that declares 1,000 images in one task.

The floor is a play with one ``ansible.builtin.ping``, because Ansible's own time is in both. The table also has the
first run, which creates the images.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from measuring import Row, format_table, interleave, make_directory, measure_time, run


class Plays:
    """Plays of one task for this machine, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changed = -1

    def __call__(self, module: str, options: Mapping[str, object]) -> float:
        task = {module: options}
        (playbook := self.root / "play.json").write_text(
            json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}])
        )
        output: list[str] = []
        seconds = measure_time(
            lambda: output.append(
                run([Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", playbook])
            )
        )
        self.changed = int(re.findall(r"changed=([0-9]+)", output[0])[0])
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures many images in one task.")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--directory", default="/var/tmp")
    options = parser.parse_args()
    os.environ["ANSIBLE_PIPELINING"] = "1"
    with make_directory(options.directory) as directory:
        plays = Plays(directory)
        catalog = str(directory / "catalog.sqlite")
        (directory / "datastores").mkdir()
        plays(
            "granary.vmstore.datastore",
            {
                "catalog": catalog,
                "name": "bench",
                "ds_driver": "fs",
                "tm_driver": "shared",
                "datastore_location": str(directory / "datastores"),
            },
        )
        images = [
            {"name": f"image {number}", "datastore": "bench", "type": "datablock", "size": 1}
            for number in range(options.images)
        ]
        declared = {"catalog": catalog, "images": images}
        first = plays("granary.vmstore.image", declared)
        made = len([path for path in (directory / "datastores").rglob("*") if path.is_file()])
        if (plays.changed, made) != (1, options.images):
            raise RuntimeError(f"{made} images were made, and not {options.images}")

        def second() -> float:
            seconds = plays("granary.vmstore.image", declared)
            if plays.changed:
                raise RuntimeError("the second run changed something")
            return seconds

        found = interleave(options.runs, {"second": second, "ping": lambda: plays("ansible.builtin.ping", {})})
    what = f"{options.images:,} images declared"
    print(
        format_table(
            [
                Row(f"{what}, second run", found["second"], "ansible.builtin.ping", found["ping"], target=2),
                Row(f"{what}, first run, measured once", first, "ansible.builtin.ping", found["ping"]),
            ]
        )
    )


if __name__ == "__main__":
    main()
