"""Find serializers that processes could not use: kombu lacks them, or a receiver would refuse what they make."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Any

#: Settings that name a serializer, each with the settings that say what receivers accept; the first that is set counts.
SERIALIZERS = {
    "task_serializer": ("accept_content",),
    "result_serializer": ("result_accept_content", "accept_content"),
}


def problems(conf: Any, where: str, pinned: Collection[str]) -> Iterator[str]:
    """Yield a line for each mistake in the settings of an application whose task modules are loaded.

    Args:
        conf: The application's settings.
        where: What to call the application.
        pinned: The settings that the inventory sets.
    """
    from kombu.serialization import registry

    unknown = [
        f"{_place(name, where, pinned)} has {item!r}, {_missing(item)}"
        for name in ("accept_content", "result_accept_content")
        for item in (conf[name] if isinstance(conf[name], (list, tuple, set, frozenset)) else ())
        # The full name of a content type needs no serializer in this process.
        if isinstance(item, str) and "/" not in item and item not in registry.name_to_type
    ]
    yield from unknown
    if unknown:
        return
    if not _accepts_json(conf["accept_content"]):
        yield (
            f"{where}: accept_content lacks json, which the fleet uses to talk to its workers (canary, remote"
            " control); add json to accept_content, for example with celery_app_settings.accept_content"
        )
        return
    for name, accepting in SERIALIZERS.items():
        accept = next((one for one in accepting if conf[one] is not None), accepting[-1])
        fault = _fault(conf[name], conf[accept], accept)
        if fault:
            yield f"{_place(name, where, pinned)} is {conf[name]!r}, {fault}"


def _accepts_json(accept: Any) -> bool:
    # For kombu None means everything that is not unsafe; names and content types may be mixed.
    return accept is None or not {"json", "application/json"}.isdisjoint(accept)


def _place(name: str, where: str, pinned: Collection[str]) -> str:
    return f"celery_app_settings.{name}" if name in pinned else f"{name} of {where}"


def _fault(name: Any, accept: Any, setting: str) -> str:
    from kombu import serialization
    from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled

    kombu: Any = serialization  # typed in part only
    if not isinstance(name, str):
        return "" if name is None else _missing(str(name))
    try:
        content_type, encoding, body = kombu.registry.dumps([], serializer=name)
        kombu.registry.loads(
            body, content_type, encoding, accept=kombu.prepare_accept_content(accept)
        )
    except ContentDisallowed:
        return (
            f"but {setting} lacks it, so what is sent would be refused: write json, or add {name} to"
            f" {setting}, for example with celery_app_settings.{setting}"
        )
    except SerializerNotInstalled:
        return _missing(name)
    except (EncodeError, DecodeError):
        pass  # the application's own serializer may not take an empty list
    return ""


def _missing(name: str) -> str:
    from kombu.serialization import registry

    near = difflib.get_close_matches(name, registry.name_to_type, n=1)
    known = ", ".join(sorted(registry.name_to_type))
    # msgpack has a name without its package, too.
    hint = f"did you mean {near[0]}?" if near and near[0] != name else f"known are {known}."
    return (
        f"but no serializer of that name is installed: {hint} One of a package, or your own, has to be"
        " registered when the task modules are imported"
    )
