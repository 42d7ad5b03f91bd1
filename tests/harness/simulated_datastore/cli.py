# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The command line: ``simulated-datastore mount|export|status|set|rule|crash|ledger|umount|run|helpers``.

Exit code 0: done; 1: refused or failed, with a sentence on the reason; 2: wrong usage; 3: a step of a scenario failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from . import checks, errnos, helpers, scenario, settings
from .client import Control, Running, running, start
from .errors import DaemonGone, SimulatedDatastoreError
from .profiles import choose
from .system import mounts, resolve
from .values import format_amount, parse_assignments

#: Upper bound of the entries in a cell of a table; the JSON has all of them.
_MOST = 8


def main() -> NoReturn:
    parser = _parser()
    options, rest = parser.parse_known_args()
    # For a command with any number of words, argparse leaves the words after an option.
    if rest and (not hasattr(options, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.words += rest
    if options.datastore is not None and not options.is_about_one:
        parser.error("-d: this command takes no datastore's name so; for a new one there is --name")
    try:
        code = options.work(options)
    except SimulatedDatastoreError as error:
        print(f"simulated-datastore: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulated-datastore", description="Storage that behaves, and misbehaves on command."
    )
    parser.add_argument("-d", "--datastore", metavar="NAME", help="name of the datastore (default: the only one)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, work: Callable[[argparse.Namespace], int | None], text: str, *, chosen: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(work=work, is_about_one=chosen)
        # The option is accepted before and after the command. A default here would overwrite the option before.
        sub.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for programs")
        if chosen:
            sub.add_argument(
                "-d",
                "--datastore",
                metavar="NAME",
                default=argparse.SUPPRESS,
                help="name of the datastore (default: the only one)",
            )
        return sub

    def served(sub: argparse.ArgumentParser, profile: str | None) -> None:
        sub.add_argument("--name", help="name of the datastore (default: that of the backing directory)")
        sub.add_argument("--client", default="host1")
        sub.add_argument("--profile", default=profile, metavar="local|nfs3|nfs4.2")
        sub.add_argument("--squash", metavar="none|root|all")
        sub.add_argument("--anonymous-uid", type=int, default=65534)
        sub.add_argument("--anonymous-gid", type=int, default=65534)
        sub.add_argument("--mock-clock", action="store_true", help="a clock that stands still until clock.advance")
        sub.add_argument("--ledger", type=Path, metavar="FILE", help="append the ledger to a file")
        sub.add_argument("--log", type=Path, metavar="FILE")
        sub.add_argument("--make-directories", action="store_true", help="create missing directories")

    mount = command(
        "mount", _mount, "mount a datastore, or one that is mounted already for another client", chosen=False
    )
    mount.add_argument("backing", metavar="BACKING", type=Path)
    mount.add_argument("mount_point", metavar="MOUNT_POINT")
    served(mount, "local")
    mount.add_argument("--read-only", action="store_true")
    mount.add_argument("--strict", action="store_true", help="without page cache: the ledger is exact, mmap fails")
    mount.add_argument("--replace", action="store_true", help="replace the client's mount")
    export = command(
        "export",
        _export,
        "let 'mount -t sim SOURCE DIRECTORY', or -t nfs with the helper for it, find a datastore",
        chosen=False,
    )
    export.add_argument("backing", metavar="BACKING", type=Path)
    export.add_argument("source", metavar="SOURCE", help="such as nfs1:/images")
    served(export, None)
    unexport = command("unexport", _unexport, "let no new mount find it")
    unexport.add_argument("source", metavar="SOURCE")

    command("status", _status, "show what is mounted and which policies are in force")
    set_ = command("set", _set, f"change settings: {', '.join(settings.KEYS)}")
    set_.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="such as size=10G latency.fsync=0.2 state=hung")
    rule = command("rule", _rule, "add, list or delete fault rules")
    rule.add_argument("action", choices=("add", "list", "del", "clear"))
    rule.add_argument(
        "words", nargs="*", metavar="KEY=VALUE|ID", help="such as ops=write path=*.qcow2 nth=3 error=ENOSPC"
    )
    crash = command("crash", _crash, "lose what was not synced, or show what would be lost")
    crash.add_argument("action", choices=("now", "states", "unsynced", "restart", "advance"))
    crash.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="such as keep=torn names=strict seed=7 restart=true"
    )
    ledger = command("ledger", _ledger, "show what clients asked and got")
    for name in ("op", "path", "client", "rule", "since"):
        ledger.add_argument(f"--{name}", action="append" if name == "op" else "store")
    ledger.add_argument("--limit", type=int, default=50)
    ledger.add_argument("--summary", action="store_true")
    ledger.add_argument("--mark", metavar="NAME", help="store a mark of this moment, for --since")
    umount = command("umount", _umount, "unmount, whatever hangs")
    umount.add_argument("--client", help="only this client's mount")
    install = command(
        "helpers", _helpers, "install the helpers that mount(8) calls in /sbin, or remove them", chosen=False
    )
    install.add_argument("action", choices=("install", "remove", "list"))
    install.add_argument(
        "words",
        nargs="*",
        metavar="|".join(helpers.KINDS),
        help="sim is mount.sim; nfs stands in for mount.nfs and mount.nfs4",
    )
    install.add_argument(
        "--replace", action="store_true", help="also replace the system's own helper; 'remove' restores it"
    )
    run = command("run", _run, "run a scenario", chosen=False)
    run.add_argument("scenario", metavar="SCENARIO.yml", type=Path)
    return parser


def _chosen(options: argparse.Namespace) -> Running:
    if options.datastore:
        return Running(options.datastore)
    found = [each for each in running() if each.is_ready()]
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        raise SimulatedDatastoreError(
            f"--datastore: there are {len(found)} ({names}), name a datastore."
            if found
            else "There is no datastore: 'simulated-datastore mount' creates one."
        )
    return found[0]


def _control(options: argparse.Namespace) -> Control:
    chosen = _chosen(options)
    control = chosen.connect()
    if control is None:
        raise SimulatedDatastoreError(
            f"There is no datastore {chosen.name!r}: 'simulated-datastore status' lists the existing ones."
        )
    return control


def _print(options: argparse.Namespace, data: Any, table: Callable[[], str]) -> None:
    print(json.dumps(data, indent=2) if options.json else table())


def _table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Return a table of those *columns* that have values."""
    cells = [[_cell(column, row.get(column)) for column in columns] for row in rows]
    used = [number for number in range(len(columns)) if any(line[number] for line in cells)]
    lines = [[columns[number].upper() for number in used], *([line[number] for number in used] for line in cells)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(used))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(column: str, value: Any) -> str:
    if value is None or value == [] or value is False:
        return ""
    if column == "error" and isinstance(value, int):
        return errnos.name(value) if value else ""
    if isinstance(value, list):
        return ",".join(map(str, value[:_MOST])) + (f" and {len(value) - _MOST} more" if len(value) > _MOST else "")
    # A name may have characters that move the cursor.
    return str(value) if str(value).isprintable() else repr(value)


def _mount(options: argparse.Namespace) -> None:
    mount = {
        "mount_point": resolve(options.mount_point),
        **_client(options),
        "read_only": options.read_only,
        "strict": options.strict,
    }
    _make_directories(options, mount["mount_point"])
    name = _add(options, "mount", {**mount, "replace": options.replace}, mounts=[mount])
    _print(
        options, {"datastore": name, **mount}, lambda: f"{name}: mounted at {mount['mount_point']} for {options.client}"
    )


def _export(options: argparse.Namespace) -> None:
    export = {"source": options.source, **_client(options)}
    _make_directories(options)
    name = _add(options, "export", export, exports=[export])
    _print(options, {"datastore": name, **export}, lambda: f"{name}: exported as {options.source}")


def _make_directories(options: argparse.Namespace, *others: str) -> None:
    if not options.make_directories:
        return
    # A mounted directory may hang.
    taken = {mount.path for mount in mounts()}
    for path in (resolve(options.backing), *others):
        try:
            if path not in taken:
                os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise SimulatedDatastoreError(f"The directory {path!r} can't be created: {error.strerror}.") from error


def _unexport(options: argparse.Namespace) -> None:
    with contextlib.suppress(DaemonGone):
        # A datastore without mounts and exports ends.
        _control(options).call("unexport", source=options.source)
    _print(options, {"source": options.source}, lambda: f"{options.source}: no new mount finds it")


def _client(options: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(options, key) for key in ("client", "profile", "squash", "anonymous_uid", "anonymous_gid")}


def _add(options: argparse.Namespace, method: str, given: dict[str, Any], **first: Any) -> str:
    """Call *method* of a running datastore, or start one with *first*, its mounts or exports; return its name."""
    name = checks.name("name", options.name or options.backing.absolute().name)
    existing = Running(name)
    status = existing.ask("status")
    if status is not None and resolve(options.backing) != status["backing"]:
        raise SimulatedDatastoreError(
            f"name: the datastore {name!r} is there already, on {status['backing']!r}; give another --name or that "
            "directory."
        )
    if status is None or existing.ask(method, **given) is None:
        start(
            name,
            options.backing,
            **{"mounts": [], **first},
            clock="mock" if options.mock_clock else "real",
            ledger=options.ledger,
            log=options.log,
        )
    return name


def _status(options: argparse.Namespace) -> None:
    statuses = {}
    for each in [Running(options.datastore)] if options.datastore else running():
        try:
            status = each.ask("status")
        except SimulatedDatastoreError as error:
            if options.datastore:
                raise
            # The status of the others is still printed.
            print(f"simulated-datastore: {error}", file=sys.stderr)
            continue
        if status is not None:
            statuses[each.name] = status
    _print(
        options,
        statuses,
        lambda: "\n\n".join(_describe(name, status) for name, status in statuses.items()) or "There is no datastore.",
    )


def _describe(name: str, status: dict[str, Any]) -> str:
    capacity = status["capacity"]
    lines = [
        f"{name}: {status['state']['state']}, backing {status['backing']}, pid {status['pid']}, {status['parked']} "
        "requests waiting" + (f", {status['bugs']} BUGS, see {status['log']}" if status["bugs"] else "")
    ]
    if capacity["limited"]:
        lines.append(
            f"used {capacity['used']} of {capacity['size'] or 'unlimited'} bytes, {capacity['inodes_used']} of "
            f"{capacity['inodes'] or 'unlimited'} inodes"
        )
    policies = {
        key: value
        for key, value in status["settings"].items()
        if value and key not in ("size", "inodes", "seed", "state", "error")
    }
    if policies:
        lines.append("in force: " + " ".join(f"{key}={json.dumps(value)}" for key, value in policies.items()))
    clients = [
        {"client": client, **mount, "state": status["state"]["clients"].get(client, status["state"])["state"]}
        for client, mount in status["clients"].items()
    ]
    columns = ["client", "mount_point", "profile", "squash", "state", "read_only", "strict", "open"]
    lines.append(_table(clients, columns) if clients else "no client has it mounted")
    lines += [f"exported as {export['source']}" for export in status["exports"]]
    if status["rules"]:
        lines.append(_rules(status["rules"]))
    return "\n".join(lines)


def _rules(rules: list[dict[str, Any]]) -> str:
    return _table(
        rules,
        [
            "id",
            "ops",
            "path",
            "client",
            "uid",
            "when",
            "nth",
            "after",
            "every",
            "times",
            "probability",
            "bytes",
            "action",
            "error",
            "delay",
            "keep",
            "dirty",
            "matches",
            "hits",
        ],
    )


def _set(options: argparse.Namespace) -> None:
    control = _control(options)
    settings.apply(control, parse_assignments(options.settings))
    status = control.call("status")
    _print(
        options, {key: status[key] for key in ("state", "capacity", "schedule", "crash_tracking")}, lambda: "in force"
    )


def _rule(options: argparse.Namespace) -> None:
    control = _control(options)
    if options.action == "add":
        given = parse_assignments(options.words)
        # Option values are texts, even if they look like numbers.
        for key, _unused, text in (word.partition("=") for word in options.words):
            if key in ("client", "id", "path") and not isinstance(given[key], str):
                given[key] = text
        if isinstance(given.get("ops"), str):
            given["ops"] = given["ops"].split(",")
        rules = [control.call("rule.add", **given)]
    elif options.action == "del":
        if not options.words:
            raise SimulatedDatastoreError("rule del: name the id of a rule.")
        rules = [control.call("rule.del", id=name) for name in options.words]
    else:
        rules = control.call("rule.list")
        if options.action == "clear":
            control.call("rule.clear")
    gone = "deleted:\n" if options.action in ("del", "clear") else ""
    _print(options, rules, lambda: gone + _rules(rules) if rules else "There are no rules.")


def _crash(options: argparse.Namespace) -> None:
    control, given = _control(options), parse_assignments(options.words)
    if options.action == "states":
        states = control.call("crash.states", **given)
        counted = control.call("crash.count", **given)
        number = format_amount(counted["states"], counted["exact"])
        _print(
            options,
            states,
            lambda: f"{_table(states, ['state', 'survivors', 'lost', 'torn'])}\n{len(states)} of {number} states",
        )
    elif options.action == "unsynced":
        found = control.call("unsynced")
        _print(
            options,
            found,
            lambda: "\n".join(
                [
                    _table(found["files"], ["path", "bytes", "ranges"])
                    if found["files"]
                    else "No file has unsynced content.",
                    *(f"{entry['op']} {' -> '.join(entry['names'])}" for entry in found["names"]),
                ]
            ),
        )
    elif options.action == "restart":
        control.call("restart")
        _print(options, {"state": "up"}, lambda: "up")
    elif options.action == "advance":
        now = control.call("clock.advance", **given)
        _print(options, {"now": now}, lambda: f"the clock shows {now:g} seconds")
    else:
        lost = control.call("crash", **given)
        _print(options, lost, lambda: "\n".join(["lost:", *lost["lost"]]) if lost["lost"] else "Nothing was lost.")


def _ledger(options: argparse.Namespace) -> None:
    control = _control(options)
    if options.mark:
        number = control.call("ledger.mark", name=options.mark)
        _print(options, {"mark": options.mark, "next": number}, lambda: f"{options.mark}: from entry {number} on")
        return
    if options.op:
        options.op = [op for word in options.op for op in word.split(",")]
    criteria = {
        name: getattr(options, name)
        for name in ("op", "path", "client", "rule", "since")
        if getattr(options, name) is not None
    }
    if criteria.get("since", "").isdecimal():
        # A number is the number of an entry; anything else is a mark.
        criteria["since"] = int(criteria["since"])
    if options.summary:
        rows = control.call("ledger.summary", **criteria)
        _print(options, rows, lambda: _table(rows, ["client", "op", "requests", "bytes", "errors"]))
    else:
        rows = control.call("ledger.query", limit=options.limit, **criteria)
        columns = ["seq", "client", "op", "path", "new_path", "offset", "size", "error", "uid", "rules"]
        _print(options, rows, lambda: _table(rows, columns) if rows else "No entries match.")


def _umount(options: argparse.Namespace) -> None:
    found = _chosen(options)
    if options.client:
        with contextlib.suppress(DaemonGone):
            # A datastore ends with its last mount.
            _control(options).call("umount", client=options.client)
    elif not found.runtime.exists():
        raise SimulatedDatastoreError(f"There is no datastore {found.name!r}.")
    else:
        found.end()
    _print(options, {"datastore": found.name, "client": options.client}, lambda: f"{found.name}: unmounted")


def _helpers(options: argparse.Namespace) -> None:
    for kind in options.words:
        choose("helpers", kind, list(helpers.KINDS))
    if options.action == "install":
        changed = helpers.install(options.words or ["sim"], replace=options.replace)
    else:
        changed = helpers.remove(options.words or list(helpers.KINDS)) if options.action == "remove" else []
    there = helpers.installed()
    _print(
        options,
        {"changed": changed, "installed": there},
        lambda: f"installed in {helpers.DIRECTORY}: {', '.join(there) or 'none'}",
    )


def _run(options: argparse.Namespace) -> int:
    outcomes = []
    for outcome in scenario.run(options.scenario):
        outcomes.append(vars(outcome))
        if not options.json:
            print(
                f"{'ok    ' if not outcome.problem else 'FAILED'}  "
                f"{outcome.step}{': ' + outcome.problem if outcome.problem else ''}",
                flush=True,
            )
    if options.json:
        print(json.dumps(outcomes, indent=2))
    return 3 if any(outcome["problem"] for outcome in outcomes) else 0


if __name__ == "__main__":
    main()

__all__ = ["main"]
