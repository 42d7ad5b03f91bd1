# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The order of the policies for one request."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from .file_system import place
from .ledger import Ledger
from .mount import Handle
from .policies import Policy
from .request import Request


class Plan:
    """The policies of one operation: all *before* in order, all *enter*, the operation, all *after* in order, all
    *settle*.
    """

    def __init__(
        self,
        execute: Callable[[Request], None],
        before: Sequence[Policy],
        enter: Sequence[Policy],
        after: Sequence[Policy],
        settle: Sequence[Policy],
        ledger: Ledger,
    ) -> None:
        self.execute = execute
        self.before = before
        self.enter = enter
        self.after = after
        self.settle = settle
        self.ledger = ledger

    async def run(self, request: Request) -> None:
        """Run *request*. Raises :class:`OSError`; counters and the ledger are up to date in any case."""
        request.error = errno.EINTR
        try:
            for policy in self.before:
                await policy.before(request)
            if not request.skip:
                if request.op == "write":
                    # The policies need the offset of the data that will be overwritten.
                    place(request)
                for policy in self.enter:
                    policy.enter(request)
                self.execute(request)
            for policy in self.after:
                policy.after(request)
            request.error = 0
        except OSError as error:
            request.error = error.errno or errno.EIO
            raise
        except Exception:
            request.error = errno.EIO
            raise
        finally:
            if request.error and isinstance(request.result, Handle):
                # The file is open, but the client gets an error instead of the handle.
                request.mount.remove_handle(request.result)
            for policy in self.settle:
                policy.settle(request)
            self.ledger.note(request)


__all__ = ["Plan"]
