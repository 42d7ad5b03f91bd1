# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of a simulated datastore on a test host. The command line of the datastore prints JSON."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .._core.arguments import ArgumentSpec
from .._core.command import run
from .._core.errors import CommandFailed, Conflict, InvalidInput
from .._core.paths import real_path
from .._core.plan import Action, Plan, nothing
from .._core.records import dataclass, field
from .._host.mount import mountinfo
from .service import Service

#: The default squash by profile: the users whose requests become the anonymous user's.
_SQUASH = {"local": "none", "nfs3": "root", "nfs4.2": "root"}
#: Names of settings that are sizes.
_SIZES = ("size", "max_file", "read", "write")
#: Names of settings that belong to a state.
_STATE = ("state", "client", "delay", "error")
#: The defaults of a rule.
_RULE = {"action": "error", "when": "before", "seed": 0, "error": "EIO", "delay": 1.0, "dirty": "keep"}

_COMMAND: Mapping[str, Mapping[str, object]] = {
    "executable": {"type": "path", "default": "simulated-datastore"},
    "name": {"type": "str", "required": True},
}

SIMULATED_DATASTORE_SPEC = ArgumentSpec(
    {
        **_COMMAND,
        "backing": {"type": "path"},
        "mounts": {
            "type": "list",
            "elements": "dict",
            "options": {
                "client": {"type": "str", "required": True},
                "path": {"type": "path", "required": True},
                "profile": {"type": "str", "choices": ["local", "nfs3", "nfs4.2"], "default": "local"},
                "squash": {"type": "str", "choices": ["none", "root", "all"]},
                "read_only": {"type": "bool", "default": False},
                "strict": {"type": "bool", "default": False},
            },
        },
        "exports": {
            "type": "list",
            "elements": "dict",
            "options": {
                "source": {"type": "str", "required": True},
                "profile": {"type": "str", "choices": ["local", "nfs3", "nfs4.2"]},
                "squash": {"type": "str", "choices": ["none", "root", "all"]},
            },
        },
        "settings": {"type": "dict"},
        "rules": {"type": "list", "elements": "dict"},
        "state": {"type": "str", "choices": ["mounted", "unmounted"], "default": "mounted"},
    },
)

SIMULATED_DATASTORE_INFO_SPEC = ArgumentSpec(
    {
        **_COMMAND,
        "op": {"type": "list", "elements": "str"},
        "path": {"type": "str"},
        "client": {"type": "str"},
        "rule": {"type": "str"},
        "since": {"type": "str"},
        "limit": {"type": "int", "default": 1000},
    }
)


@dataclass(frozen=True)
class SimulatedDatastoreSpec:
    """The desired state of a simulated datastore: the options of the module ``simulated_datastore``, checked."""

    executable: str
    name: str
    backing: str | None = None
    mounts: Sequence[Mapping[str, Any]] | None = None
    exports: Sequence[Mapping[str, Any]] | None = None
    settings: Mapping[str, Any] | None = None
    rules: Sequence[Mapping[str, Any]] | None = None
    state: str = "mounted"
    tool: Tool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tool", Tool(self.executable, self.name))
        for option, key in (("mounts", "client"), ("exports", "source")):
            names = [each[key] for each in getattr(self, option) or []]
            if len(set(names)) < len(names):
                raise InvalidInput(option, names, f"every {key} is listed once")
        for rule in self.rules or []:
            if not isinstance(rule.get("id"), str):
                raise InvalidInput("rules", dict(rule), "every rule needs an id, a text, by which it is found again")


@dataclass(frozen=True)
class Tool:
    """The command line of the datastore ``name``."""

    executable: str
    name: str

    def __call__(self, command: str, *words: str) -> Any:
        """Return the JSON that a command prints.

        :raises CommandFailed: the program is missing, or refused the command.
        """
        return json.loads(run([self.executable, command, "--json", *words], timeout=120).stdout)

    def status(self) -> dict[str, Any] | None:
        """Return the status of the datastore; ``None`` while it isn't mounted.

        Other datastores get no request, because they may be starting or ending.
        """
        found = self.on("status")
        if not isinstance(found, dict):
            raise CommandFailed(f"The command {self.executable!r} returned no status.")
        return found.get(self.name)

    def on(self, command: str, *words: str) -> Any:
        return self(command, "--datastore", self.name, *words)


class SimulatedDatastoreService(Service):
    """Plan mounts, exports, settings and rules of one simulated datastore.

    The service never accesses the mounts, because an access may hang.
    """

    def __init__(self, desired: SimulatedDatastoreSpec) -> None:
        self.desired = desired

    def plan(self) -> Plan:
        plan = Plan()
        status = self.desired.tool.status()
        if self.desired.state == "unmounted":
            if status is not None:
                plan.actions.append(
                    Action("unmount", self.desired.name, sorted(status["clients"]), None, self._do("umount"))
                )
            return plan
        self._check_place(status)
        backing = str(self.desired.backing if status is None else status["backing"])
        self._plan_exports(plan, backing, [] if status is None else status["exports"])
        self._plan_mounts(plan, backing, {} if status is None else status["clients"])
        self._plan_settings(plan, status)
        self._plan_rules(plan, [] if status is None else status["rules"])
        return plan

    def _check_place(self, status: Mapping[str, Any] | None) -> None:
        desired = self.desired
        if status is None:
            if desired.backing is None:
                raise InvalidInput(
                    "backing",
                    None,
                    f"the simulated datastore {desired.name!r} doesn't exist yet, so the directory that holds its "
                    "files is needed",
                )
            if not desired.mounts and not desired.exports:
                raise InvalidInput(
                    "mounts",
                    desired.mounts,
                    f"the simulated datastore {desired.name!r} doesn't exist yet, so a mount or an export is needed",
                )
        elif (
            desired.backing is not None
            and desired.backing != status["backing"]
            and real_path(desired.backing) != status["backing"]
        ):
            raise Conflict(
                f"The simulated datastore {desired.name!r} is mounted from {status['backing']!r}, not from "
                f"{desired.backing!r}: unmount it first."
            )

    def _plan_exports(self, plan: Plan, backing: str, now: Sequence[Mapping[str, Any]]) -> None:
        if self.desired.exports is None:
            return
        there = {str(export["source"]): export for export in now}
        for export in self.desired.exports:
            source = str(export["source"])
            old = there.pop(source, None)
            if old is not None and all(old[key] == export[key] for key in ("profile", "squash")):
                continue
            words = ["--name", self.desired.name, "--make-directories", *_options(export, "profile", "squash")]
            undo = self._do("unexport", "--", source) if old is None else nothing
            plan.actions.append(
                Action(
                    "export",
                    source,
                    old and dict(old),
                    dict(export),
                    self._run("export", *words, "--", backing, source),
                    undo,
                )
            )
        for source, old in there.items():
            plan.actions.append(Action("end export", source, dict(old), None, self._do("unexport", "--", source)))

    def _plan_mounts(self, plan: Plan, backing: str, clients: Mapping[str, Mapping[str, Any]]) -> None:
        if self.desired.mounts is None:
            return
        for mount in self.desired.mounts:
            client = str(mount["client"])
            now = clients.get(client)
            if now is None:
                record = self._run("mount", *self._mount_words(mount), "--", backing, str(mount["path"]))
                plan.actions.append(
                    Action(
                        f"mount for {client}",
                        str(mount["path"]),
                        None,
                        dict(mount),
                        record,
                        self._do("umount", "--client", client),
                    )
                )
            elif not _is_mounted_as(now, mount):
                # A single action, so that the datastore keeps its settings. Programs with open files on the mount lose
                # them.
                old = {
                    "client": client,
                    "path": now["mount_point"],
                    **{name: now[name] for name in ("profile", "squash", "read_only", "strict")},
                }
                record, undo = (
                    self._run("mount", "--replace", *self._mount_words(each), "--", backing, str(each["path"]))
                    for each in (mount, old)
                )
                plan.actions.append(
                    Action(f"mount again for {client}", str(mount["path"]), old, dict(mount), record, undo)
                )
        wanted = {str(mount["client"]) for mount in self.desired.mounts}
        for client, now in sorted(clients.items()):
            # A mount by a mount helper belongs to the caller of mount(8).
            if client not in wanted and not now["by_helper"]:
                plan.actions.append(
                    Action(
                        f"unmount for {client}",
                        str(now["mount_point"]),
                        dict(now),
                        None,
                        self._do("umount", "--client", client),
                    )
                )

    def _mount_words(self, mount: Mapping[str, Any]) -> list[str]:
        flags = [f"--{name.replace('_', '-')}" for name in ("read_only", "strict") if mount[name]]
        return [
            "--name",
            self.desired.name,
            "--make-directories",
            *_options(mount, "client", "profile", "squash"),
            *flags,
        ]

    def _plan_settings(self, plan: Plan, status: Mapping[str, Any] | None) -> None:
        given = normalize(self.desired.settings or {})
        now = dict(status["settings"]) if status is not None else {}
        if given.get("client") is not None and status is not None:
            # Earlier settings may be for one client, until the state is set for all clients.
            now.update(
                {**status["state"], **status["state"]["clients"].get(given["client"], {}), "client": given["client"]}
            )
        elif "state" in given and status is not None and status["state"]["clients"]:
            # The state of all clients replaces that of some.
            now["state"] = None
        wanted = {key: value for key, value in given.items() if not _holds(now.get(key), value)}
        if wanted.keys() & set(_STATE):
            # A state is set as a whole.
            wanted.update({key: given[key] for key in _STATE if key in given})
        if wanted:
            words = [f"{key}={json.dumps(value)}" for key, value in wanted.items()]
            plan.actions.append(
                Action(
                    "set",
                    self.desired.name,
                    {key: now.get(key) for key in wanted},
                    dict(wanted),
                    self._do("set", "--", *words),
                )
            )

    def _plan_rules(self, plan: Plan, now: Sequence[Mapping[str, Any]]) -> None:
        if self.desired.rules is None:
            return
        there = {str(rule["id"]): rule for rule in now}
        for rule in self.desired.rules:
            name = str(rule["id"])
            old = there.pop(name, None)
            if old is not None and _is_same_rule(old, rule):
                continue
            if old is not None:
                plan.actions.append(Action("delete rule", name, dict(old), None, self._do("rule", "del", "--", name)))
            words = [f"{key}={json.dumps(value)}" for key, value in rule.items()]
            plan.actions.append(Action("add rule", name, None, dict(rule), self._do("rule", "add", "--", *words)))
        for name, old in there.items():
            plan.actions.append(Action("delete rule", name, dict(old), None, self._do("rule", "del", "--", name)))

    def _do(self, command: str, *words: str) -> Callable[[], None]:
        return _quiet(functools.partial(self.desired.tool.on, command, *words))

    def _run(self, command: str, *words: str) -> Callable[[], None]:
        return _quiet(functools.partial(self.desired.tool, command, *words))


def _options(given: Mapping[str, Any], *names: str) -> list[str]:
    return [word for name in names if given.get(name) is not None for word in (f"--{name}", str(given[name]))]


def _is_mounted_as(now: Mapping[str, Any], mount: Mapping[str, Any]) -> bool:
    squash = mount["squash"] or _SQUASH[str(mount["profile"])]
    same = all(now[name] == mount[name] for name in ("profile", "read_only", "strict")) and now["squash"] == squash
    return same and _leads_to(str(mount["path"]), str(now["mount_point"]))


def _leads_to(path: str, mount_point: str) -> bool:
    """Return whether ``path`` is the mount point. The mount point is never accessed, because its file system may
    hang.
    """
    for _link in range(40):  # as many as a path may have (path_resolution(7))
        directory, name = os.path.split(os.path.normpath(path))
        path = os.path.join(real_path(directory), name)
        # A mount point is no symbolic link.
        if path == mount_point or any(mount.mount_point == path for mount in mountinfo.read_mounts()):
            return path == mount_point
        if not os.path.islink(path):
            return False
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return False


def normalize(settings: Mapping[str, Any]) -> dict[str, object]:
    """Return settings as the program's status has them: sizes in bytes, without empty lists and mappings."""
    found: dict[str, Any] = {name: _bytes(value) if name in _SIZES else value for name, value in settings.items()}
    if isinstance(found.get("quotas"), Sequence) and not isinstance(found["quotas"], str):
        found["quotas"] = [
            {name: _bytes(value) if name == "size" else value for name, value in quota.items()}
            if isinstance(quota, Mapping)
            else quota
            for quota in found["quotas"]
        ]
    return found


def _bytes(value: object) -> object:
    """Return the bytes of a text like ``64K``; any other value unchanged."""
    match = (
        re.fullmatch(r"([0-9]+)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE) if isinstance(value, str) else None
    )
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ") if match else value


def _holds(now: object, wanted: object) -> bool:
    """Return whether a setting equals ``wanted``. A latency that isn't given may have any value."""
    if isinstance(wanted, Mapping) and isinstance(now, Mapping):
        return all(now.get(key) == value for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(now, list):
        return now == [
            {key: value for key, value in each.items() if value is not None} if isinstance(each, Mapping) else each
            for each in wanted
        ]
    # A missing value, no quota and no latency mean the same.
    return now == wanted or (not now and not wanted) or (isinstance(now, Mapping) and now == {"all": wanted})


def _is_same_rule(now: Mapping[str, Any], rule: Mapping[str, Any]) -> bool:
    """Return whether the rule ``now`` is ``rule``, which may lack values that are defaults."""
    wanted = {**_RULE, **rule}
    if isinstance(wanted.get("ops"), str):
        wanted["ops"] = wanted["ops"].split(",")
    # The status lacks the values of other actions.
    return all(now.get(key, _RULE.get(key)) == wanted.get(key) for key in {*now, *wanted} - {"matches", "hits"})


def _quiet(work: Callable[[], object]) -> Callable[[], None]:
    """Return ``work`` without its result."""

    def record() -> None:
        work()

    return record


def read_simulated_datastore(options: Mapping[str, Any]) -> dict[str, object]:
    """Return the result of the module ``simulated_datastore_info``: the status and the ledger's matching entries."""
    tool = Tool(str(options["executable"]), str(options["name"]))
    status = tool.status()
    if status is None:
        return {"mounted": False, "status": {}, "ledger": [], "summary": []}
    words = [word for op in options["op"] or [] for word in ("--op", op)]
    for name in ("path", "client", "rule", "since"):
        if options[name] is not None:
            words.append(f"--{name}={options[name]}")
    return {
        "mounted": True,
        "status": status,
        "ledger": tool.on("ledger", "--limit", str(options["limit"]), *words),
        "summary": tool.on("ledger", "--summary", *words),
    }


__all__ = [
    "SIMULATED_DATASTORE_INFO_SPEC",
    "SIMULATED_DATASTORE_SPEC",
    "SimulatedDatastoreService",
    "SimulatedDatastoreSpec",
    "read_simulated_datastore",
]
