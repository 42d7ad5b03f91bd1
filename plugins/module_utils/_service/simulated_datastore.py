# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A simulated datastore on a test host, by way of its command line, which speaks JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .._core.arguments import ArgumentSpec
from .._core.command import run
from .._core.errors import CommandFailed, Conflict, InvalidInput
from .._core.paths import real_path
from .._core.plan import Action, Plan
from .module import Service

_COMMAND = {"executable": {"type": "path", "default": "simulated-datastore"}, "name": {"type": "str", "required": True}}

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
        "settings": {"type": "dict"},
        "rules": {"type": "list", "elements": "dict"},
        "state": {"type": "str", "choices": ["mounted", "unmounted"], "default": "mounted"},
    },
    required_if=[["state", "mounted", ["backing", "mounts"]]],
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
class SimulatedDatastoreWish:
    """The options of the module ``simulated_datastore``."""

    executable: str
    name: str
    backing: str | None = None
    mounts: Sequence[Mapping[str, object]] | None = None
    settings: Mapping[str, object] | None = None
    rules: Sequence[Mapping[str, object]] | None = None
    state: str = "mounted"
    tool: Tool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tool", Tool(self.executable, self.name))
        clients = [mount["client"] for mount in self.mounts or []]
        if len(set(clients)) < len(clients):
            raise InvalidInput("mounts", clients, "every client has one mount")
        if self.state == "mounted" and not clients:
            raise InvalidInput("mounts", clients, "at least one client is expected")
        for rule in self.rules or []:
            if not isinstance(rule.get("id"), str):
                raise InvalidInput("rules", dict(rule), "every rule needs an id, a text, by which it is found again")


@dataclass(frozen=True)
class Tool:
    """The command line of the datastore ``name``."""

    executable: str
    name: str

    def __call__(self, command: str, *words: str) -> object:
        """What a command prints.

        :raises CommandFailed: it is missing, or refused what it was asked.
        """
        return json.loads(run([self.executable, command, "--json", *words], timeout=120).stdout)

    def status(self) -> dict[str, object] | None:
        """What is mounted; None when nothing is."""
        found = self("status")
        if not isinstance(found, dict):
            raise CommandFailed(f"The command {self.executable!r} answered without a status.")
        return found.get(self.name)

    def on(self, command: str, *words: str) -> object:
        return self(command, "--datastore", self.name, *words)


class SimulatedDatastoreService(Service):
    """Plans mounts, settings and rules of one simulated datastore."""

    def __init__(self, wish: SimulatedDatastoreWish) -> None:
        self.wish = wish

    def plan(self) -> Plan:
        plan = Plan()
        status = self.wish.tool.status()
        if self.wish.state == "unmounted":
            if status is not None:
                plan.actions.append(Action("unmount", self.wish.name, sorted(status["clients"]), None, self._do("umount")))
            return plan
        if status is not None and real_path(str(status["backing"])) != real_path(str(self.wish.backing)):
            raise Conflict(
                f"The simulated datastore {self.wish.name!r} is mounted from {status['backing']!r}, not from {self.wish.backing!r}: unmount it first."
            )
        self._plan_mounts(plan, {} if status is None else status["clients"])
        self._plan_settings(plan, {} if status is None else status["settings"])
        self._plan_rules(plan, [] if status is None else status["rules"])
        return plan

    def _plan_mounts(self, plan: Plan, clients: Mapping[str, Mapping[str, object]]) -> None:
        for mount in self.wish.mounts or []:
            client, path = str(mount["client"]), real_path(str(mount["path"]))
            now = clients.get(client)
            if now is not None:
                self._check_mount(client, now, mount, path)
                continue
            words = ["--name", self.wish.name, "--client", client, "--profile", str(mount["profile"])]
            words += ["--squash", str(mount["squash"])] if mount["squash"] else []
            words += [f"--{name.replace('_', '-')}" for name in ("read_only", "strict") if mount[name]]
            mount_it = functools.partial(self.wish.tool, "mount", *words, "--", str(self.wish.backing), path)
            plan.actions.append(Action(f"mount for {client}", path, None, dict(mount), _quiet(mount_it), self._do("umount", "--client", client)))
        for client in sorted(clients.keys() - {str(mount["client"]) for mount in self.wish.mounts or []}):
            plan.actions.append(Action(f"unmount for {client}", str(clients[client]["mount_point"]), dict(clients[client]), None,
                                       self._do("umount", "--client", client)))

    def _check_mount(self, client: str, now: Mapping[str, object], mount: Mapping[str, object], path: str) -> None:
        wanted = {"mount_point": path, **{name: mount[name] for name in ("profile", "read_only", "strict")}}
        if mount["squash"]:
            wanted["squash"] = mount["squash"]
        for name, value in wanted.items():
            if now[name] != value:
                raise Conflict(f"The mount of {client!r} has {name} {now[name]!r}, not {value!r}: unmount the datastore first.")

    def _plan_settings(self, plan: Plan, now: Mapping[str, object]) -> None:
        wanted = {key: value for key, value in (self.wish.settings or {}).items() if not _holds(now.get(key), value)}
        if wanted:
            words = [f"{key}={json.dumps(value)}" for key, value in wanted.items()]
            plan.actions.append(Action("set", self.wish.name, {key: now.get(key) for key in wanted}, dict(wanted), self._do("set", "--", *words)))

    def _plan_rules(self, plan: Plan, now: Sequence[Mapping[str, object]]) -> None:
        if self.wish.rules is None:
            return
        there = {str(rule["id"]): rule for rule in now}
        for rule in self.wish.rules:
            name = str(rule["id"])
            old = there.pop(name, None)
            if old is not None and all(old.get(key) == value for key, value in rule.items()):
                continue
            if old is not None:
                plan.actions.append(Action("delete rule", name, dict(old), None, self._do("rule", "del", "--", name)))
            words = [f"{key}={json.dumps(value)}" for key, value in rule.items()]
            plan.actions.append(Action("add rule", name, None, dict(rule), self._do("rule", "add", "--", *words)))
        for name, old in there.items():
            plan.actions.append(Action("delete rule", name, dict(old), None, self._do("rule", "del", "--", name)))

    def _do(self, command: str, *words: str):
        return _quiet(functools.partial(self.wish.tool.on, command, *words))


def _holds(now: object, wanted: object) -> bool:
    """Whether a setting is as ``wanted``; of latencies by operation, those that aren't given may be any."""
    if isinstance(wanted, Mapping) and isinstance(now, Mapping):
        return all(now.get(key) == value for key, value in wanted.items())
    return now == wanted or (isinstance(now, Mapping) and now == {"all": wanted})


def _quiet(work):
    """An action that returns nothing."""
    def apply() -> None:
        work()
    return apply


def read_simulated_datastore(options: Mapping[str, object]) -> dict[str, object]:
    """What the module ``simulated_datastore_info`` returns: the status, and the entries of the ledger that match."""
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


__all__ = ["SIMULATED_DATASTORE_INFO_SPEC", "SIMULATED_DATASTORE_SPEC", "SimulatedDatastoreService", "SimulatedDatastoreWish", "read_simulated_datastore"]
