"""Reports values that could not be rendered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..model.inventory import CONNECTION, ENCRYPTED, Model, Problem, RenderFailure, dotted
from .values import suggestion

_OF_FACTS: Final = ("ansible_facts", "ansible_")


def check_rendering(model: Model) -> Iterator[Problem]:
    """Report each template of the inventory that fails."""
    for failure in model.failures:
        if failure.given:
            yield Problem(
                dotted(failure.path),
                failure.message,
                _remedy(model, failure),
                value=failure.value,
                hosts=(failure.host,),
            )


def check_defaults(model: Model) -> Iterator[Problem]:
    """Report each default of a role that can't be computed from the inventory."""
    for failure in model.failures:
        if not failure.given:
            yield Problem(
                dotted(failure.path),
                f"is not set, and its default {failure.message}",
                _remedy(model, failure),
                value=failure.value,
                hosts=(failure.host,),
            )


def _remedy(model: Model, failure: RenderFailure) -> str:
    missing = failure.missing
    if failure.message == ENCRYPTED:
        return "pass its password: --ask-vault-pass, or --vault-password-file with the file's name"
    if failure.plugin.startswith("lookup"):
        return (
            "install its collection, and the program that it needs, on the control node, and unlock its store; or "
            "correct the expression"
        )
    # A secret's text is not shown, so `value` is empty for it.
    plain = (
        "; or, if the braces are part of the secret, put !unsafe before it"
        if not failure.value
        else ""
    )
    if not missing:
        return f"correct the expression{plain}"
    # How a host is reached is no fact: Ansible only knows it if the inventory says it.
    if missing.startswith(_OF_FACTS) and missing not in CONNECTION:
        return "write the value itself: facts of hosts are not known here"
    known = {*model.specs.options, *model.given.get(failure.host, ())}
    guess = suggestion(missing, tuple(sorted(known - {str(failure.path[0])})), cutoff=0.75)
    return f"define {missing} for the host" + (f", or {guess}" if guess else "") + plain
