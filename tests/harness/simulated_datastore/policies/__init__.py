# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The policies, one per file, and their base class."""

from __future__ import annotations

from ..request import Request


class Policy:
    """A stage of the pipeline. A policy raises :class:`OSError` to give a request an error."""

    #: Key in the notes of a request, and name in the status.
    name = ""

    def concerns(self, op: str) -> bool:
        """Return True if the policy, as it is set now, has an effect on requests of this operation."""
        return False

    async def before(self, request: Request) -> None:
        """Act before the execution. The policy may wait."""

    def enter(self, request: Request) -> None:
        """Act right before the execution, with nothing in between."""

    def after(self, request: Request) -> None:
        """Act after a successful execution, before the reply."""

    def settle(self, request: Request) -> None:
        """Act at the end of every request of this policy, successful or not."""


__all__ = ["Policy"]
