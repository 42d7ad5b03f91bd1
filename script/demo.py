# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Show the site of molecule/virtiofs in a lab of its own: converge, verify, converge again, remove the lab."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from lab import Lab, LabError, load_spec

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "molecule" / "virtiofs"
ANSIBLE = {
    "ANSIBLE_DISPLAY_OK_HOSTS": "false",
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false",
    "ANSIBLE_PIPELINING": "true",
    "ANSIBLE_LOCALHOST_WARNING": "false",
}


class DemoError(Exception):
    """The demo can't go on; ``str(error)`` is the reason."""


BEGIN = time.monotonic()


def main() -> int:
    if len(sys.argv) > 1:
        print(f"script/demo: {sys.argv[1]!r} is not accepted: it takes no arguments.", file=sys.stderr)
        return 2
    # SIGTERM and SIGHUP end the demo like Ctrl-C, so that the lab is removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    lab = Lab("demo")
    try:
        lab.up(load_spec({**yaml.safe_load((SCENARIO / "lab" / "virtiofs.yml").read_text()), "name": "demo"}))
        try:
            show(lab)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the removal
            lab.down()
    except (DemoError, LabError) as error:
        print(f"script/demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say("done")
    return 0


def show(lab: Lab) -> None:
    say("the hypervisor gets a directory: prepare.yml")
    playbook(lab, "prepare.yml")
    say("the playbook granary.vmstore.site makes the datastore, its images, the exports and the mounts")
    playbook(lab, "converge.yml")
    say("what the guests and the host say: verify.yml")
    with tempfile.TemporaryDirectory(prefix="vmstore-demo-") as directory:
        report = Path(directory, "report.json")
        playbook(lab, "verify.yml", "--extra-vars", json.dumps({"verify_report": str(report)}), quiet=True)
        print_table(json.loads(report.read_text()))
    say("the same playbook once more")
    changed = count_changes(playbook(lab, "converge.yml"))
    if changed:
        raise DemoError(f"the second run changed {changed} things, and it should have changed none.")
    say("second run: changed=0")


def playbook(lab: Lab, name: str, *arguments: str, quiet: bool = False) -> str:
    """Run a playbook of the scenario and return what it printed; raises :class:`DemoError`."""
    command = [
        "ansible-playbook",
        "--inventory",
        str(lab.inventory),
        "--inventory",
        str(SCENARIO / "inventory" / "site.yml"),
        *arguments,
        str(SCENARIO / name),
    ]
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **ANSIBLE}
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                if line.strip() and not quiet:
                    print(line, end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise DemoError(f"{name} ended with {process.returncode}." + ("\n" + "".join(lines) if quiet else ""))
    return "".join(lines)


def count_changes(output: str) -> int:
    """Return the sum of ``changed`` in the play recap."""
    return sum(int(number) for number in re.findall(r"\bchanged=(\d+)", output))


def print_table(rows: list[dict[str, object]]) -> None:
    width = max(len(str(row["what"])) for row in rows)
    for row in rows:
        print(f"  {row['what']:{width}}  {row['observed']}")


def say(text: str) -> None:
    print(f"==> {time.monotonic() - BEGIN:3.0f} s: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
