# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Ansible face: run a service as a module. No other file knows ``AnsibleModule``."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .._core.arguments import ArgumentSpec, refuse_truth_values
from .._core.descriptors import open_standard_descriptors
from .._core.errors import DependencyMissing, PartlyDone, VmstoreError, from_os_error
from .._core.plan import Plan
from .._core.secrets import secrets_of
from .._service.service import Service

if TYPE_CHECKING:

    class AnsibleModule:
        """The parts of Ansible's class that this file uses. The private parts are tested on every ansible-core."""

        params: dict[str, Any]
        check_mode: bool
        no_log_values: set[str]
        _diff: bool

        def __init__(self, **options: Any) -> None: ...
        def _load_params(self) -> None: ...
        def _log_invocation(self) -> None: ...
        def _return_formatted(self, kwargs: dict[str, Any]) -> None: ...
        def log(self, text: str) -> None: ...
        def warn(self, text: str) -> None: ...
        def exit_json(self, **result: Any) -> NoReturn: ...
        def fail_json(self, msg: str, **result: Any) -> NoReturn: ...
else:
    from ansible.module_utils.basic import AnsibleModule

#: The option whose values are secrets, whatever its names are. Ansible isn't told: it would hide short ones in all that
#: a module returns.
HEADERS = "headers"
WITHHELD = "..."

#: Lower bound of the characters of a secret that is searched for in what a module returns.
SHORTEST_SECRET = 8


class _Module(AnsibleModule):
    """A module that hides the secrets in the values of its options, also in the invocation.

    Ansible hides the whole value of an option or nothing of it.
    """

    def __init__(self, **options: Any) -> None:
        open_standard_descriptors()
        super().__init__(**options)

    def _load_params(self) -> None:
        # Before Ansible checks the options, because its errors show values.
        super()._load_params()
        self.no_log_values.update(_secrets(self.params))

    def _log_invocation(self) -> None:
        # The first call after Ansible has converted the options; made even if nothing is logged.
        self.no_log_values.update(_secrets(self.params))
        given = self.params
        self.params = _given(given)
        try:
            super()._log_invocation()
        finally:
            self.params = given

    def _return_formatted(self, kwargs: dict[str, Any]) -> None:
        kwargs.setdefault("invocation", {"module_args": _given(self.params)})
        super()._return_formatted(kwargs)


def _secrets(value: Any) -> Iterator[str]:
    """Yield the possible secrets in options, also as Python prints them."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _secrets(name)
            yield from _header_secrets(one) if name == HEADERS else _secrets(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _secrets(one)
    elif isinstance(value, str):
        for secret in secrets_of(value):
            yield secret
            yield from {repr(secret)[1:-1]} - {secret}


def _header_secrets(value: Any) -> Iterator[str]:
    """Yield the possible secrets in HTTP headers, which can be text until Ansible has converted them."""
    for one in [*value.values()] if isinstance(value, Mapping) else [value]:
        # Ansible hides a secret wherever it finds it, such as a 1 in all numbers.
        if len(str(one)) >= SHORTEST_SECRET:
            yield str(one)
            yield from (word for word in str(one).split() if len(word) >= SHORTEST_SECRET)


def run_module(spec: ArgumentSpec, build: Callable[[Mapping[str, Any]], Service]) -> NoReturn:
    """Run the service that ``build`` makes of the module's parameters: plan in check mode, else plan and commit under
    its lock.
    """
    module = _Module(supports_check_mode=True, **spec.keywords())
    with _failing(module):
        _check_repeated(spec, module.params)
        refuse_truth_values(spec.argument_spec, module.params)
        service = build(module.params)
        service.log = module.log
        plan = service.dry_run() if module.check_mode else service.converge()
    result = _result(module, plan)
    # Ansible returns every option of every item otherwise, most of them null: for a thousand images that takes longer
    # than all the rest.
    module.exit_json(invocation={"module_args": _given(module.params)}, **result)


def _check_repeated(spec: ArgumentSpec, params: dict[str, Any]) -> None:
    """Check, convert and complete lists of the module's own options as Ansible does with options.

    :raises VmstoreError: an element isn't what is declared.
    """
    lists = {name: dict(spec.argument_spec[name]) for name in spec.repeated}
    found = ArgumentSpecValidator(lists).validate({name: params[name] for name in lists})
    if found.error_messages:
        raise VmstoreError("Unsupported parameters: " * bool(found.unsupported_parameters) + found.error_messages[0])
    params.update({name: found.validated_parameters[name] for name in lists})


def _result(module: AnsibleModule, plan: Plan) -> dict[str, object]:
    for warning in plan.warnings:
        module.warn(warning)
    result = {**plan.result, "changed": plan.changed, "actions": plan.as_result()}
    if module._diff:
        result["diff"] = plan.diff()
    return result


def _given(value: Any) -> Any:
    """Return the options that aren't null, also those of items in lists, without the values of HTTP headers."""
    if isinstance(value, Mapping):
        return {
            name: _withheld(one) if name == HEADERS else _given(one) for name, one in value.items() if one is not None
        }
    return [_given(one) for one in value] if isinstance(value, list) else value


def _withheld(headers: Any) -> Any:
    return dict.fromkeys(headers, WITHHELD) if isinstance(headers, Mapping) else WITHHELD


def run_info_module(spec: ArgumentSpec, read: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> NoReturn:
    """Return the result of ``read`` to Ansible. An info module never changes anything."""
    module = _Module(supports_check_mode=True, **spec.keywords())
    with _failing(module):
        refuse_truth_values(spec.argument_spec, module.params)
        try:
            found = dict(read(module.params))
        except DependencyMissing as error:
            if not module.check_mode:
                raise
            module.exit_json(
                changed=False,
                skipped=True,
                msg=f"{error} If no task before this one would bring that, the run fails here.",
            )
    for warning in found.pop("warnings", []):
        module.warn(warning)
    module.exit_json(changed=False, **found)


@contextlib.contextmanager
def _failing(module: AnsibleModule) -> Iterator[None]:
    """Turn every error into one sentence; keep the traceback of a defect for ``-vvv``."""
    try:
        yield
    except PartlyDone as error:
        module.fail_json(msg=str(error), **_result(module, cast(Plan, error.plan)))
    except VmstoreError as error:
        module.fail_json(msg=str(error))
    except Exception as error:  # pylint: disable=broad-except
        if isinstance(error, OSError) and isinstance(error.filename, str):
            module.fail_json(msg=str(from_os_error(error, f"use {error.filename}")), exception=traceback.format_exc())
        module.fail_json(
            msg=f"A defect in granary.vmstore: {type(error).__name__}: {error}.", exception=traceback.format_exc()
        )


__all__ = ["run_info_module", "run_module"]
