# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The restart of a running domain, where a change needs a restart and the options allow it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from .._core.errors import InvalidInput, LibvirtFailed, PartlyDone
from .._core.plan import Action, Plan
from .._core.records import dataclass, field
from .._host.virtiofsd.program import last_words
from .._libvirt.connection import Domain

RESTART_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "restart": {"type": "str", "choices": ["never", "when_needed", "when_needed_force"], "default": "never"},
    "restart_timeout": {"type": "int", "default": 120},
}

#: The name of the action.
RESTART = "restart domain"


def check_timeout(seconds: int) -> None:
    """Refuse a timeout without time for the guest to shut down.

    :raises InvalidInput: ``seconds`` is less than 1.
    """
    if seconds < 1:
        raise InvalidInput("restart_timeout", seconds, "a number of seconds from 1 on is expected")


@dataclass(frozen=True)
class DomainRestart:
    """A restart that the user allows.

    ``force`` turns the power off where the guest doesn't shut down within ``timeout`` seconds.
    """

    domain: Domain
    force: bool
    timeout: int

    def apply(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        """Shut the guest down.

        :raises LibvirtFailed: the guest doesn't shut down, and its power must not be turned off.
        """
        obstacle = None
        if self.domain.is_halted:
            obstacle = "it is paused"
        elif not self.domain.shut_down(self.timeout):
            obstacle = (
                f"its guest did not shut down within {self.timeout} seconds, and if it does so later, the domain stays "
                "off"
            )
        if obstacle is not None:
            if not self.force:
                raise LibvirtFailed(
                    f"The domain {self.domain.name!r} was not restarted, because {obstacle}; 'restart: "
                    "when_needed_force' turns its power off."
                )
            if self.domain.is_running:  # the guest may have shut down just now
                self.domain.destroy()

    def start(self) -> None:
        """Start the domain.

        :raises LibvirtFailed: the domain doesn't start; the message has the reason that virtiofsd gave.
        """
        start = time.time()
        try:
            self.domain.start()
        except LibvirtFailed as error:
            words = last_words(self.domain.name, start)
            raise LibvirtFailed(
                f"{error} virtiofsd logged last: {words.rstrip('.')}." if words else str(error)
            ) from error


@dataclass
class RestartPlan(Plan):
    """A plan that may need a restart of a running domain.

    :arg restart: the restart that is allowed; ``None`` forbids one.
    :arg reasons: the reasons for a restart, one sentence each.
    """

    restart: DomainRestart | None = None
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._report_reasons()

    def restart_for(self, reason: str) -> None:
        """Note a reason for a restart."""
        self.reasons = [*self.reasons, reason]
        self._report_reasons()

    def _report_reasons(self) -> None:
        self.result.update(restart_required=bool(self.reasons), restart_reasons=self.reasons)

    def add_restart(self) -> None:
        """Put the restart behind the other actions, if a reason for it is known by now."""
        if self.restart is not None and self.reasons:
            subject, before = f"domain {self.restart.domain.name!r}", {"restart_reasons": self.reasons}
            self.actions.append(Action(RESTART, subject, before, {"restart_reasons": []}, self.restart.apply))

    def run(
        self, recording: Callable[[Plan], contextlib.AbstractContextManager[Plan]] = contextlib.nullcontext
    ) -> Plan:
        """Run every action but the restart, which takes long and can't be taken back: :func:`finish` does it."""
        self.actions = [action for action in self.actions if action.name != RESTART]
        return super().run(recording)


def read_restart(domain: Domain | None, restart: str, timeout: int) -> DomainRestart | None:
    """Return the restart that the options ``restart`` and ``restart_timeout`` allow.

    A transient domain can't be restarted, because its definition would be lost.
    """
    if domain is None or restart == "never" or not domain.is_running or not domain.is_persistent:
        return None
    return DomainRestart(domain, restart == "when_needed_force", timeout)


def finish(
    plan: RestartPlan,
    exclusive: Callable[[], contextlib.AbstractContextManager[object]],
    plan_again: Callable[[], RestartPlan],
) -> None:
    """Restart the domain of a committed plan if it needs that, and do what waited for the restart.

    The lock isn't held meanwhile, because other domains shouldn't wait for this one.

    :arg exclusive: takes the lock under which the plan was committed.
    :arg plan_again: returns the plan of what waited for the restart.

    :raises PartlyDone: the guest doesn't shut down.
    :raises LibvirtFailed: the domain doesn't start, so its old definition is back.
    """
    if plan.restart is None or not plan.reasons:
        return
    defined = plan.restart.domain.persistent_xml()
    try:
        plan.restart.stop()
    except LibvirtFailed as error:
        raise PartlyDone(str(error), plan) from error
    try:
        plan.restart.start()
    except LibvirtFailed as error:
        raise LibvirtFailed(f"{error} {_fall_back(exclusive, plan, plan.restart.domain, defined)}") from error
    plan.add_restart()
    with exclusive():
        again = plan_again()
        again.run()
    plan.actions += again.actions
    plan.result, plan.reasons, plan.warnings = again.result, again.reasons, again.warnings


def _fall_back(
    exclusive: Callable[[], contextlib.AbstractContextManager[object]], done: RestartPlan, domain: Domain, defined: str
) -> str:
    """Start the domain as it was before the plan ``done``, and return a sentence about that.

    :arg defined: its definition now.
    """
    with exclusive():
        if not done.changed or domain.persistent_xml() != defined:  # by another program, whose change isn't taken back
            return f"The domain {domain.name!r} is off now."
        troubles = done.take_back()
    if troubles:
        return " ".join([f"The domain {domain.name!r} is off now.", *troubles])
    try:
        domain.start()
    except LibvirtFailed:
        return (
            f"The old definition of the domain {domain.name!r} is back, but it is off now, because it doesn't start "
            "with that either."
        )
    return f"The domain {domain.name!r} runs again with its old definition."


__all__ = ["RESTART_OPTIONS", "RestartPlan", "read_restart", "check_timeout", "finish"]
