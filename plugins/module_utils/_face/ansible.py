# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Ansible face: run a service as a module. No other file uses ``AnsibleModule``."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .._core.arguments import ArgumentSpec, refuse_truth_values
from .._core.descriptors import open_standard_descriptors
from .._core.errors import DependencyMissing, InvalidDeclaration, InvalidInput, PartlyDone, VmstoreError, from_os_error
from .._core.plan import Plan
from .._core.secrets import WITHHELD, is_secret_name, secrets_of
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

#: The option whose values are secrets under any name. It is not declared as ``no_log``, because Ansible would then hide
#: short values everywhere in a module's result.
HEADERS = "headers"
#: The option whose values are secrets under the names that :func:`is_secret_name` finds.
VARIABLES = "variables"
#: Options whose values are in no invocation, in both spellings of KubeVirt's: contents of files, and texts that can be
#: secrets.
CONTENTS = frozenset(
    "content secrets service_accounts user_data userData user_data_base64 userDataBase64 network_data networkData "
    "network_data_base64 networkDataBase64 extra_headers extraHeaders".split()
)

#: Lower bound of the length in characters of a secret that is hidden in a module's result.
SHORTEST_SECRET = 8


class _Module(AnsibleModule):
    """A module that hides the secrets inside the values of its options, also in the invocation.

    Ansible itself can hide only the whole value of an option.
    """

    def __init__(self, **options: Any) -> None:
        open_standard_descriptors()
        super().__init__(**options)

    def _load_params(self) -> None:
        # Secrets are registered before Ansible checks the options, because Ansible's errors contain values.
        super()._load_params()
        self.no_log_values.update(_find_secrets(self.params))

    def _log_invocation(self) -> None:
        # This is the first method that Ansible calls after the conversion of the options, also with logging switched
        # off.
        self.no_log_values.update(_find_secrets(self.params))
        given = self.params
        self.params = _as_invocation(given)
        try:
            super()._log_invocation()
        finally:
            self.params = given

    def _return_formatted(self, kwargs: dict[str, Any]) -> None:
        kwargs.setdefault("invocation", {"module_args": _as_invocation(self.params)})
        super()._return_formatted(kwargs)


def _find_secrets(value: Any) -> Iterator[str]:
    """Yield the possible secrets in options, also in Python's notation for strings."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _find_secrets(name)
            yield from _find_named_secrets(_secret_values(name, one))
            yield from _find_secrets(one) if name != HEADERS else ()
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _find_secrets(one)
    elif isinstance(value, str):
        for secret in secrets_of(value):
            yield secret
            yield from {repr(secret)[1:-1]} - {secret}


def _secret_values(option: str, value: Any) -> list[Any]:
    """Return the values that are secrets because of their names. Options can be text until Ansible has converted
    them.
    """
    if option not in (HEADERS, VARIABLES):
        return []
    if not isinstance(value, Mapping):
        return [value]
    return [one for name, one in value.items() if option == HEADERS or is_secret_name(str(name))]


def _find_named_secrets(values: list[Any]) -> Iterator[str]:
    for one in values:
        # Short values are left out, because Ansible hides a secret everywhere: a 1 would disappear from all numbers.
        if len(str(one)) >= SHORTEST_SECRET:
            yield str(one)
            yield from (word for word in str(one).split() if len(word) >= SHORTEST_SECRET)


def run_module(spec: ArgumentSpec, build: Callable[[Mapping[str, Any]], Service]) -> NoReturn:
    """Run the service that ``build`` returns for the module's parameters. In check mode, only plan. Otherwise plan and
    commit under the service's lock.
    """
    module = _Module(supports_check_mode=True, **spec.keywords())
    with _report_errors(module):
        _check_repeated(spec, module.params)
        refuse_truth_values(spec.argument_spec, module.params)
        service = build(module.params)
        service.log = module.log
        plan = service.dry_run() if module.check_mode else service.converge()
    result = _as_result(module, plan)
    # By default, Ansible returns every option of every item, even if it is null. For a thousand images, this would take
    # longer than the work itself.
    module.exit_json(invocation={"module_args": _as_invocation(module.params)}, **result)


def _check_repeated(spec: ArgumentSpec, params: dict[str, Any]) -> None:
    """Check, convert and complete lists of the module's own options by Ansible's rules for options.

    :raises VmstoreError: an element doesn't match its declaration.
    """
    lists = {name: dict(spec.argument_spec[name]) for name in spec.repeated}
    found = ArgumentSpecValidator(lists).validate({name: params[name] for name in lists})
    if found.error_messages:
        raise VmstoreError("Unsupported parameters: " * bool(found.unsupported_parameters) + found.error_messages[0])
    params.update({name: found.validated_parameters[name] for name in lists})


def _as_result(module: AnsibleModule, plan: Plan) -> dict[str, object]:
    for warning in plan.warnings:
        module.warn(warning)
    result = {**plan.result, "changed": plan.changed, "actions": plan.as_result()}
    if module._diff:
        result["diff"] = plan.diff()
    return result


def _as_invocation(value: Any) -> Any:
    """Return options without null values and without secrets, also inside lists."""
    if isinstance(value, Mapping):
        return {name: _withhold(name, one) for name, one in value.items() if one is not None}
    return [_as_invocation(one) for one in value] if isinstance(value, list) else value


def _withhold(option: str, value: Any) -> Any:
    """Return the value of an option without the values of HTTP headers, secret variables, and contents of files."""
    if option in CONTENTS or (option in (HEADERS, VARIABLES) and not isinstance(value, Mapping)):
        return WITHHELD
    if option in (HEADERS, VARIABLES):
        return {
            name: WITHHELD if option == HEADERS or is_secret_name(str(name)) else one for name, one in value.items()
        }
    return _as_invocation(value)


def run_info_module(spec: ArgumentSpec, read: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> NoReturn:
    """Return the result of ``read`` to Ansible as an unchanged result."""
    module = _Module(supports_check_mode=True, **spec.keywords())
    with _report_errors(module):
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


def _class_of(error: VmstoreError) -> dict[str, object]:
    """Return the keys by which a playbook recognizes an error. docs/errors.md documents the keys."""
    found: dict[str, object] = {"error": type(error).__name__}
    if isinstance(error, InvalidInput):
        found["option"] = error.option
    elif isinstance(error, InvalidDeclaration):
        found["problems"] = [one.as_dict() for one in error.problems]
    return found


@contextlib.contextmanager
def _report_errors(module: AnsibleModule) -> Iterator[None]:
    """Fail the module with one sentence for any error, and with the error's class. The traceback of a defect is shown
    with ``-vvv``.
    """
    try:
        yield
    except PartlyDone as error:
        module.fail_json(msg=str(error), **_class_of(error), **_as_result(module, cast(Plan, error.plan)))
    except VmstoreError as error:
        module.fail_json(msg=str(error), **_class_of(error))
    except Exception as error:  # pylint: disable=broad-except
        if isinstance(error, OSError) and isinstance(error.filename, str):
            failure = from_os_error(error, f"use {error.filename}")
            module.fail_json(msg=str(failure), **_class_of(failure), exception=traceback.format_exc())
        module.fail_json(
            msg=f"A defect in granary.vmstore: {type(error).__name__}: {error}.", exception=traceback.format_exc()
        )


__all__ = ["run_info_module", "run_module"]
