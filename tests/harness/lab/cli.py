# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The command line: ``lab up|status|ssh|host|guest|probe|down``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from . import kvm, probes
from .errors import LabError
from .running import Lab, list_labs
from .spec import load_spec
from .tools import check_root


def main() -> NoReturn:
    # SIGTERM ends the program like Ctrl-C, so that an incomplete lab is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = make_parser().parse_args()
    try:
        check_root()
        options.work(options)
    except LabError as error:
        sys.exit(f"lab: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. ``work`` in the parsed options is the function of the command."""
    parser = argparse.ArgumentParser(prog="lab", description="Hosts and guests for tests.")
    parser.add_argument(
        "--lab", metavar="NAME", help="name of the lab (default: the only lab), before or after COMMAND"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="create the hosts and guests of a lab file")
    up.add_argument("file", type=Path, metavar="FILE.yml")
    up.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="directory of ssh_config and inventory.yml (default: /run/granary-lab/NAME)",
    )
    up.set_defaults(work=_up)

    status = commands.add_parser("status", help="print the hosts and guests of a lab")
    status.add_argument("--json", action="store_true")
    status.set_defaults(work=_status)

    ssh = commands.add_parser("ssh", help="run a command, or a shell, on a host or a guest")
    ssh.add_argument("name", metavar="NAME")
    ssh.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="CMD", help="an argument list; for pipes: sh -c '...'"
    )
    ssh.set_defaults(work=_ssh)

    host = commands.add_parser("host", help="let a host fail, and let it come back")
    host.add_argument("action", choices=("kill", "pause", "resume", "start", "reboot", "cut", "join"))
    host.add_argument("name", metavar="NAME")
    host.set_defaults(work=_host)

    guest = commands.add_parser("guest", help="start or stop a guest")
    guest.add_argument("action", choices=("start", "stop"))
    guest.add_argument("name", metavar="NAME")
    guest.set_defaults(work=_guest)

    probe = commands.add_parser("probe", help="print the precautions that this machine needs")
    probe.set_defaults(work=_probe)

    down = commands.add_parser("down", help="remove a lab, whole or in parts")
    down.set_defaults(work=_down)

    # A default here would overwrite an option before COMMAND.
    up.add_argument(
        "--lab", metavar="NAME", default=argparse.SUPPRESS, help="name of the lab (default: the name in the file)"
    )
    for command in (status, ssh, host, guest, down):
        command.add_argument(
            "--lab", metavar="NAME", default=argparse.SUPPRESS, help="name of the lab (default: the only lab)"
        )
    return parser


def _lab(options: argparse.Namespace) -> Lab:
    found = list_labs()
    if options.lab or len(found) == 1:
        return Lab(options.lab or found[0])
    raise LabError(
        f"--lab: there are {len(found)} labs ({', '.join(found)}), name a lab."
        if found
        else "There is no lab: 'lab up FILE' creates one."
    )


def _up(options: argparse.Namespace) -> None:
    spec = load_spec(options.file)
    if options.lab:
        spec = replace(spec, name=options.lab)
    lab = Lab(spec.name)
    lab.up(spec, options.state)
    print(f"lab {lab.name} is up: {lab.state}")


def _status(options: argparse.Namespace) -> None:
    status = _lab(options).status()
    if options.json:
        print(json.dumps(status, indent=2))
        return
    print(
        f"{status['name']}: {'up' if status['complete'] else 'incomplete'}, {status['accelerator']}, {status['state']}"
    )
    for name, host in status["hosts"].items():
        print(f"  {name:20} {host['kind']:10} {host['address']:16} {host['state'] or 'missing'}")
        for guest, each in status["guests"].items():
            if each["host"] == name:
                print(f"    {guest:18} {'guest':10} {each['address']:16} {'running' if each['running'] else 'stopped'}")


def _ssh(options: argparse.Namespace) -> None:
    config = _lab(options).ssh_config
    os.execvp(
        "ssh",
        ["ssh", "-F", str(config), "--", options.name, *([shlex.join(options.command)] if options.command else [])],
    )


def _host(options: argparse.Namespace) -> None:
    getattr(_lab(options).host(options.name), options.action)()


def _guest(options: argparse.Namespace) -> None:
    guest = _lab(options).guest(options.name)
    if options.action == "stop":
        guest.stop()
        return
    offset = guest.console_size()
    guest.start()
    guest.wait_ready(offset)


def _probe(options: argparse.Namespace) -> None:
    if options.lab:
        raise LabError("--lab: 'lab probe' is about this machine, and takes no lab.")
    found = [*probes.probe_machine(), kvm.probe()]
    width = max(len(probe.found) for probe in found)
    for probe in found:
        print(f"{probe.name:18} {probe.found:{width}}  {probe.precaution or '-'}")


def _down(options: argparse.Namespace) -> None:
    _lab(options).down()


__all__ = ["main", "make_parser"]
