# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Fault rules: the affected requests, the trigger, and the action."""

from __future__ import annotations

import difflib
import errno
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import trio

from .. import checks, errnos
from ..errors import SimulatedDatastoreError
from ..ledger import path_glob
from ..profiles import choose
from ..request import ATTRIBUTES, CLASSES, DATA, ON_HANDLE, OPERATIONS, Request, expand
from . import Policy
from .schedule import compute_fraction

if TYPE_CHECKING:
    from ..datastore import Datastore

_log = logging.getLogger(__name__)
#: Upper bound of the bytes that a disk writes as one.
PAGE = 4096
#: Operations whose reply can be a success without an execution.
_CAN_BE_NOTHING = ATTRIBUTES | {"close", "fsync", "fsyncdir", "rename", "rmdir", "truncate", "unlink", "write"}
#: The operations of each action that isn't for all.
_ONLY: dict[str, frozenset[str]] = {
    "short": DATA,
    "torn": frozenset({"write"}),
    "corrupt": DATA,
    "noop": _CAN_BE_NOTHING,
}
#: The actions that are also possible after the execution.
_ALSO_AFTER = frozenset({"error", "kill", "crash", "disconnect"})


@dataclass
class Rule:
    """A rule. All given conditions must hold.

    A request *matches* when *ops*, *path*, *client* and *uid* hold. It *hits* when the trigger holds as well: the
    request is the *nth* match, comes *after* that many, is a multiple of *every*, the matches have moved more than
    *bytes* bytes, and a random number from *seed* is below *probability*. There are at most *times* hits.
    """

    id: str
    ops: list[str]
    action: str = "error"
    path: str | None = None
    client: str | None = None
    uid: int | None = None
    when: str = "before"
    nth: int | None = None
    after: int | None = None
    every: int | None = None
    times: int | None = None
    probability: float | None = None
    seed: int = 0
    bytes: int | None = None
    #: Parameter of the action error.
    error: str = "EIO"
    #: Parameter of the action delay in seconds.
    delay: float = 1.0
    #: Parameter of the actions short and torn: number of kept bytes (None: half), rounded down to pages for torn.
    keep: int | None = None
    #: Parameter of an error in fsync: dirty data stays dirty (keep), or is dropped like in Linux (forget).
    dirty: str = "keep"
    #: Parameter of the action crash: the parameters of the method crash.
    crash: dict[str, Any] | None = None


_KEYS = [field.name for field in fields(Rule)]
#: The options of single actions.
_OF_ACTION = {
    "error": ("error",),
    "dirty": ("error",),
    "delay": ("delay",),
    "keep": ("short", "torn"),
    "crash": ("crash",),
}
_ACTIONS = ("error", "delay", "hang", "short", "torn", "corrupt", "noop", "kill", "crash", "disconnect")


def _is_reader(request: Request) -> bool:
    """Return whether the descriptor of a request can't write."""
    return request.handle is not None and request.handle.flags & os.O_ACCMODE == os.O_RDONLY


class _Active:
    """A rule in force."""

    def __init__(self, rule: Rule, ops: frozenset[str]) -> None:
        self.rule = rule
        self.ops = ops
        self._ignores_readers = "close" not in expand([op for op in rule.ops if op != "change"])
        self.matches = 0
        self.hits = 0
        self.moved = 0
        self.released = trio.Event()
        self._path: Callable[[bytes], bool] | None = path_glob(rule.path) if rule.path is not None else None

    def applies(self, request: Request) -> bool:
        """Count a match, and return True for a hit."""
        rule = self.rule
        if rule.client is not None and rule.client != request.mount.client:
            return False
        if rule.uid is not None and (request.caller is None or request.caller.uid != rule.uid):
            return False
        if (
            self._path is not None
            and not self._path(request.path)
            and not (request.new_parent is not None and self._path(request.new_path))
        ):
            return False
        if self._ignores_readers and request.op == "close" and _is_reader(request):
            return False
        self.matches += 1
        number = self.matches
        self.moved += request.size if request.op in DATA else 0
        hit = (
            (rule.nth is None or number == rule.nth)
            and (rule.after is None or number > rule.after)
            and (rule.every is None or number % rule.every == 0)
            and (rule.bytes is None or self.moved > rule.bytes)
            and (rule.times is None or self.hits < rule.times)
            and (rule.probability is None or compute_fraction(rule.seed, rule.id, number) < rule.probability)
        )
        if hit:
            self.hits += 1
            request.rules += (rule.id,)
        return hit

    def status(self) -> dict[str, Any]:
        keys = [key for key in _KEYS if self.rule.action in _OF_ACTION.get(key, (self.rule.action,))]
        return {
            **{key: value for key in keys if (value := getattr(self.rule, key)) is not None},
            "matches": self.matches,
            "hits": self.hits,
        }


class Rules(Policy):
    """The rules, in the order of their addition."""

    name = "rules"

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._rules: dict[str, _Active] = {}
        #: The rules that may affect an operation.
        self._by_op: dict[str, list[_Active]] = {}
        self._next = 1
        #: The effect of each action that doesn't wait.
        self._strikes: dict[str, Callable[[_Active, Request], None]] = {
            "error": self._fail,
            "short": _shorten,
            "torn": _tear,
            "corrupt": _corrupt,
            "noop": self._do_nothing,
            "kill": _kill,
            "crash": self._crash,
            "disconnect": self._disconnect,
        }

    # Control

    def add(self, **given: Any) -> dict[str, Any]:
        """Put a rule into force, with the fields of :class:`Rule`; the default *id* is new.

        Raises :class:`SimulatedDatastoreError` for a rule that is invalid, can't match or needs a missing capability.
        """
        for key in given:
            choose("rule", key, _KEYS)
        if "id" not in given:
            # A new id was never used before, because the ledger keeps the old ones.
            while f"rule-{self._next}" in self._rules:
                self._next += 1
            given["id"] = f"rule-{self._next}"
            self._next += 1
        # In a list, because a wrong id may be no valid key.
        if given["id"] in list(self._rules):
            raise SimulatedDatastoreError(f"id: there is a rule {given['id']!r} already, give another id.")
        if "ops" not in given:
            raise SimulatedDatastoreError("ops: name the operations or classes of the rule.")
        given["ops"] = [given["ops"]] if isinstance(given["ops"], str) else given["ops"]
        rule = Rule(**given)
        for key, actions in _OF_ACTION.items():
            if key in given and choose("action", rule.action, _ACTIONS) not in actions:
                raise SimulatedDatastoreError(
                    f"{key}: the action {rule.action} has no such parameter, give action={actions[0]}."
                )
        active = _Active(rule, self._check(rule))
        self._rules[rule.id] = active
        self._changed()
        return active.status()

    def _changed(self) -> None:
        self._by_op = {
            op: found for op in OPERATIONS if (found := [active for active in self._rules.values() if op in active.ops])
        }
        self._datastore.recompile()

    def _check(self, rule: Rule) -> frozenset[str]:
        """Check *rule*, and return its operations."""
        _check_types(rule)
        choose("action", rule.action, _ACTIONS)
        choose("when", rule.when, ("before", "after"))
        choose("dirty", rule.dirty, ("keep", "forget"))
        errnos.number("error", rule.error)
        ops = _compute_ops(rule)
        if rule.path is not None:
            self._datastore.check_path("path", rule.path)
        if rule.client is not None:
            choose("client", rule.client, list(self._datastore.mounts))
        for option, needs_caller in (("uid", rule.uid is not None), ("action kill", rule.action == "kill")):
            if needs_caller:
                self._require_caller(option, rule, ops)
        _check_trigger(rule, ops)
        if rule.action == "disconnect":
            self._datastore.capabilities.require("disconnect", "action disconnect")
        if rule.action == "crash":
            self._datastore.check_crash(**(rule.crash or {}))
        return ops

    def _require_caller(self, option: str, rule: Rule, ops: frozenset[str]) -> None:
        """Raise :class:`SimulatedDatastoreError` if the adapter has no caller for one of the operations.

        The message names the class that brings this operation, or else the operation.
        """
        on_handle = ops & ON_HANDLE
        if not on_handle:
            return
        if ops == on_handle or not set(rule.ops) & set(CLASSES):
            text = ", ".join(sorted(on_handle))
        else:
            text = f"the class {', '.join(rule.ops)}"
        self._datastore.capabilities.require("caller_of_data", f"{option}: a rule for {text}")

    def delete(self, id: str) -> dict[str, Any]:
        """Remove a rule, and release the requests that hang because of it."""
        active = self._rules.pop(choose("id", id, list(self._rules)))
        active.released.set()
        self._changed()
        return active.status()

    def clear(self) -> int:
        """Remove all rules, and return their number."""
        return len([self.delete(name) for name in list(self._rules)])

    def status(self) -> list[dict[str, Any]]:
        return [active.status() for active in self._rules.values()]

    # The pipeline

    def concerns(self, op: str) -> bool:
        return op in self._by_op

    async def before(self, request: Request) -> None:
        later = []
        for active in self._by_op.get(request.op, ()):
            # During the wait for an earlier rule a later one may have been removed.
            if active.rule.id not in self._rules or not active.applies(request):
                continue
            rule = active.rule
            if rule.when == "after" or (rule.action == "corrupt" and request.op == "read"):
                later.append(active)
            elif rule.action == "delay":
                clock = self._datastore.clock
                await request.mount.park(request, clock.sleep_until(clock.now() + rule.delay))
            elif rule.action == "hang":
                await request.mount.park(request, active.released.wait(), hangs=True)
            else:
                self._strikes[rule.action](active, request)
        if later:
            request.notes[self.name] = later

    def after(self, request: Request) -> None:
        for active in request.notes.get(self.name, ()):
            self._strikes[active.rule.action](active, request)
        if "torn" in request.notes:
            request.result = request.notes["torn"]

    def _fail(self, active: _Active, request: Request) -> None:
        rule = active.rule
        number = errnos.number("error", rule.error)
        if request.op == "fsync" and rule.dirty == "forget":
            self._datastore.durability.forget(request.node)
            if request.handle is not None:
                self._datastore.writeback.record_reported(request.handle, number)
        raise OSError(number, f"rule {rule.id}")

    def _do_nothing(self, active: _Active, request: Request) -> None:
        """Report a success without the execution."""
        request.skip = True
        request.result = len(request.data)
        if request.op in ("chmod", "chown", "truncate", "utimens"):
            request.stat = self._datastore.nodes.stat(request.node)

    def _crash(self, active: _Active, request: Request) -> None:
        rule = active.rule
        try:
            self._datastore.crash(**(rule.crash or {}))
        except SimulatedDatastoreError as error:
            # For example, tracking has ended since. Nothing is lost then, but the server still goes down.
            _log.warning("rule %s: %s", rule.id, error)
            self._datastore.state.set("down")
        raise OSError(errno.EIO, f"rule {rule.id}")

    def _disconnect(self, active: _Active, request: Request) -> None:
        self._datastore.disconnect(request.mount)
        raise OSError(errno.ENOTCONN, f"rule {active.rule.id}")


def _shorten(active: _Active, request: Request) -> None:
    keep = active.rule.keep
    request.size = min(request.size, request.size // 2 if keep is None else keep)
    request.data = request.data[: request.size]


def _tear(active: _Active, request: Request) -> None:
    """Write only the first pages, and report a complete write."""
    keep, whole = active.rule.keep, len(request.data)
    kept = request.data[: (whole // 2 if keep is None else keep) // PAGE * PAGE]
    if kept:
        request.data, request.size = kept, len(kept)
        request.notes["torn"] = whole
    else:
        request.skip, request.result = True, whole


def _corrupt(active: _Active, request: Request) -> None:
    if request.op == "write":
        request.data = _flip(request.data, active.rule, active.hits)
    else:
        request.result = _flip(request.result, active.rule, active.hits)


def _kill(active: _Active, request: Request) -> None:
    if request.caller is not None and request.caller.pid > 1:
        os.kill(request.caller.pid, signal.SIGKILL)


def _flip(data: bytes, rule: Rule, hit: int) -> bytes:
    """Return *data* with one flipped bit."""
    if not data:
        return data
    bit = int(compute_fraction(rule.seed, rule.id, "bit", hit) * len(data) * 8)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _compute_ops(rule: Rule) -> frozenset[str]:
    """Return the operations of *rule* that its action is for. Raises :class:`SimulatedDatastoreError` for none."""
    try:
        ops = expand(rule.ops)
    except KeyError as error:
        known = sorted(OPERATIONS) + list(CLASSES)
        near = difflib.get_close_matches(str(error.args[0]), known, 1)
        raise SimulatedDatastoreError(
            f"ops: {error.args[0]!r} is neither an operation nor a "
            f"class{f' (did you mean {near[0]!r}?)' if near else ''}, "
            f"accepted are {', '.join(known)}."
        ) from error
    if rule.dirty == "forget" and ops != {"fsync"}:
        raise SimulatedDatastoreError("dirty: only an fsync can forget dirty data, give ops=fsync.")
    if not ops:
        raise SimulatedDatastoreError("ops: an empty list matches nothing, name an operation or a class.")
    if rule.when == "after" and rule.action not in _ALSO_AFTER:
        raise SimulatedDatastoreError(
            f"when: {rule.action} can't come after the effect, only {', '.join(sorted(_ALSO_AFTER))} can."
        )
    possible = ops & _ONLY.get(rule.action, OPERATIONS)
    if not possible:
        raise SimulatedDatastoreError(
            f"ops: the action {rule.action} is for {', '.join(sorted(_ONLY[rule.action]))} only."
        )
    return possible


def _check_trigger(rule: Rule, ops: frozenset[str]) -> None:
    """Raise :class:`SimulatedDatastoreError` for a trigger that can't match."""
    if rule.nth is not None and rule.after is not None and rule.nth <= rule.after:
        raise SimulatedDatastoreError(
            f"nth: match {rule.nth} never comes after {rule.after} others, so the rule can't match."
        )
    if rule.nth is not None and rule.every is not None and rule.nth % rule.every:
        raise SimulatedDatastoreError(
            f"nth: match {rule.nth} isn't one of every {rule.every}, so the rule can't match."
        )
    if rule.bytes is not None and not ops & DATA:
        raise SimulatedDatastoreError("bytes: only read and write move bytes, so the rule can't match.")


def _check_types(rule: Rule) -> None:
    checks.text("id", rule.id)
    if rule.path is not None:
        checks.text("path", rule.path, path=True)
    if rule.client is not None:
        checks.name("client", rule.client)
    if not isinstance(rule.ops, list) or not all(isinstance(op, str) for op in rule.ops):
        raise SimulatedDatastoreError(f"ops: {rule.ops!r} isn't a list of operations and classes.")
    for option, least, most in (
        ("uid", 0, checks.MOST_ID),
        ("nth", 1, checks.MOST),
        ("after", 0, checks.MOST),
        ("every", 1, checks.MOST),
        ("times", 1, checks.MOST),
        ("bytes", 0, checks.MOST),
        ("keep", 0, checks.MOST),
    ):
        value = getattr(rule, option)
        if value is not None:
            checks.whole(option, value, least, most)
    checks.whole("seed", rule.seed, -checks.MOST)
    if rule.probability is not None and not 0 < checks.number("probability", rule.probability) <= 1:
        raise SimulatedDatastoreError(
            f"probability: {rule.probability!r} isn't a number above 0 and at most 1, so the rule can't match."
        )
    checks.seconds("delay", rule.delay)
    if rule.crash is not None:
        if not isinstance(rule.crash, dict):
            raise SimulatedDatastoreError(f"crash: {rule.crash!r} isn't a mapping of the parameters of crash.")
        checks.crash(rule.crash)


__all__ = ["Rule", "Rules"]
