"""Checks a mutator's arguments against the annotation of its second parameter.

The annotation is read once, when the mutator is registered, and becomes a function: value in, checked value
out. A dataclass is constructed; everything else stays what it was.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Union, get_args, get_origin

from .errors import InvalidMutation, UsageError

# Values come from outside, and leave with the type that their annotation says.
Check = Callable[[Any, str], Any]
Validator = Callable[[Any], Any]

_MISSING = object()


def validator_for(function: Callable[..., object], name: str) -> Validator | None:
    """The validator of the mutator `function`, or None where its arguments are not annotated, or with nothing
    to check.

    Raises:
        UsageError: the annotation cannot be read, or says what no argument can be.
    """
    target = inspect.unwrap(function)
    if inspect.isclass(target):
        return None
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = [
        one
        for one in signature.parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(parameters) < 2 or parameters[1].annotation is inspect.Parameter.empty:
        return None
    annotation = _resolve(target, parameters[1], name)
    try:
        check = _compile(annotation, {})
    except UsageError as error:
        raise UsageError(f"the mutator {name!r}: {error.message}") from None
    if check is None:
        return None
    found = check

    def validate(value: Any) -> Any:
        return found(value, "args")

    return validate


def _resolve(target: object, parameter: inspect.Parameter, name: str) -> Any:
    annotation = parameter.annotation
    if not isinstance(annotation, str):
        return annotation
    function: Any = target if inspect.isroutine(target) else getattr(type(target), "__call__", target)  # noqa: B004
    function = getattr(function, "__func__", function)
    scope = dict(getattr(function, "__globals__", {}))
    try:
        closure = inspect.getclosurevars(function).nonlocals
    except (TypeError, ValueError):
        closure = {}
    # A class made in the function that registers the mutator is a name of that function, still running.
    frame = sys._getframe(1)
    around: Mapping[str, Any] = {}
    code = getattr(function, "__qualname__", "")
    while frame is not None:
        if "<locals>" in code and frame.f_code.co_name == code.split(".<locals>")[-2].rpartition(".")[2]:
            around = frame.f_locals
            break
        if frame.f_back is None:
            break
        frame = frame.f_back
    try:
        return eval(annotation, scope, {**around, **closure})
    except Exception as error:
        raise UsageError(
            f"the mutator {name!r}: the annotation {annotation!r} of its arguments cannot be read ({error}); "
            "import or define it where the function can see it"
        ) from None


# -------------------------------------------------------------------------------------------------- compile


def _compile(annotation: Any, known: dict[Any, Check]) -> Check | None:
    """The check of one annotation; None: everything goes."""
    if annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar):
        return None
    supertype = getattr(annotation, "__supertype__", None)  # NewType
    if supertype is not None:
        return _compile(supertype, known)
    if annotation is None or annotation is type(None):
        return _none
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    origin = get_origin(annotation)
    if origin is not None and str(origin) in _QUALIFIERS:
        return _compile(get_args(annotation)[0], known)
    if getattr(annotation, "__metadata__", None) is not None:  # Annotated
        return _compile(annotation.__origin__, known)
    if origin is Union or origin is types.UnionType:
        return _union(get_args(annotation), known)
    if origin is Literal:
        return _literal(get_args(annotation))
    if annotation in (list, Sequence) or origin in (
        list,
        Sequence,
        _abc("Sequence"),
        _abc("MutableSequence"),
    ):
        return _list(get_args(annotation), known)
    if annotation in (dict, Mapping) or origin in (dict, Mapping, _abc("Mapping"), _abc("MutableMapping")):
        return _dict(get_args(annotation), known)
    if annotation is tuple or origin is tuple:
        return _tuple(get_args(annotation), known)
    if inspect.isclass(annotation):
        if dataclasses.is_dataclass(annotation):
            return _dataclass(annotation, known)
        if typing.is_typeddict(annotation) or hasattr(annotation, "__required_keys__"):
            return _typed_dict(annotation, known)
        if issubclass(annotation, enum.Enum):
            return _enum(annotation)
    raise UsageError(
        f"arguments cannot be checked against {_name(annotation)}; use a dataclass or TypedDict of None, "
        "bool, int, float, str, bytes, datetime, list, dict, Literal, Enum and unions of these"
    )


_QUALIFIERS = {
    f"{module}.{name}"
    for module in ("typing", "typing_extensions")
    for name in ("Required", "NotRequired", "ReadOnly", "Final")
}


def _abc(name: str) -> object:
    import collections.abc

    return getattr(collections.abc, name)


def _name(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _type(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _refuse(path: str, wanted: str, value: object) -> InvalidMutation:
    return InvalidMutation(f"{path}: must be {wanted}, not {_type(value)}")


# -------------------------------------------------------------------------------------------- single values


def _none(value: Any, path: str) -> Any:
    if value is not None:
        raise _refuse(path, "null", value)
    return value


def _exactly(kind: type, wanted: str) -> Check:
    def check(value: Any, path: str) -> Any:
        if type(value) is not kind:
            raise _refuse(path, wanted, value)
        return value

    return check


def _float(value: Any, path: str) -> Any:
    # A whole number may have lost its point on the way through JavaScript.
    if type(value) is int:
        return float(value)
    if type(value) is not float:
        raise _refuse(path, "a number", value)
    return value


def _int(value: Any, path: str) -> Any:
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value) and value == int(value) and abs(value) <= 2**53:
        return int(value)
    raise _refuse(path, "an integer", value)


_SIMPLE: dict[Any, Check] = {
    bool: _exactly(bool, "true or false"),
    int: _int,
    float: _float,
    str: _exactly(str, "a string"),
    bytes: _exactly(bytes, "bytes"),
    datetime: _exactly(datetime, "an instant"),
}


def _literal(allowed: tuple[Any, ...]) -> Check:
    wanted = "one of " + ", ".join(map(repr, allowed))

    def check(value: Any, path: str) -> Any:
        for one in allowed:
            if type(value) is type(one) and value == one:
                return one
        raise InvalidMutation(f"{path}: must be {wanted}, not {_shown(value)}")

    return check


def _enum(kind: type[enum.Enum]) -> Check:
    members = [(one.value, one) for one in kind]
    wanted = "one of " + ", ".join(repr(value) for value, _ in members)

    def check(value: Any, path: str) -> Any:
        for one, member in members:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return member
        raise InvalidMutation(f"{path}: must be {wanted}, not {_shown(value)}")

    return check


def _shown(value: object) -> str:
    return repr(value)[:60] if isinstance(value, (str, int, float, bool)) else _type(value)


# -------------------------------------------------------------------------------------------- nested values


def _union(options: tuple[Any, ...], known: dict[Any, Check]) -> Check | None:
    compiled = [_compile(one, known) for one in options]
    checks = [one for one in compiled if one is not None]
    if len(checks) < len(compiled):
        return None
    optional = _none in checks
    others = [one for one in checks if one is not _none]
    if optional and len(others) == 1:
        (only,) = others

        def check_optional(value: Any, path: str) -> Any:
            return None if value is None else only(value, path)

        return check_optional
    # An int is an int where the union says so, before a float takes it.
    exact = [_SIMPLE[one] for one in options if one in _SIMPLE]
    kinds = {one for one in options if one in _SIMPLE}

    def check(value: Any, path: str) -> Any:
        if type(value) in kinds or (value is None and optional):
            return value
        wrong: list[str] = []
        for one in others:
            try:
                return one(value, path)
            except InvalidMutation as error:
                if one not in exact:
                    wrong.append(error.message)
        names = " or ".join("null" if one in (None, type(None)) else _name(one) for one in options)
        reasons = f" ({'; '.join(wrong)})" if wrong else ""
        raise InvalidMutation(
            f"{path}: fits none of {names}{reasons}"
            if wrong
            else f"{path}: must be {names}, not {_type(value)}"
        )

    return check


def _list(arguments: tuple[Any, ...], known: dict[Any, Check]) -> Check:
    item = _compile(arguments[0], known) if arguments else None

    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            raise _refuse(path, "a list", value)
        if item is None:
            return value
        return [item(one, f"{path}[{index}]") for index, one in enumerate(value)]

    return check


def _tuple(arguments: tuple[Any, ...], known: dict[Any, Check]) -> Check:
    if not arguments or (len(arguments) == 2 and arguments[1] is Ellipsis):
        each = _list(arguments[:1], known)
        return lambda value, path: tuple(each(value, path))
    items = [_compile(one, known) for one in arguments]

    def check(value: Any, path: str) -> Any:
        if type(value) is not list:
            raise _refuse(path, "a list", value)
        if len(value) != len(items):
            raise InvalidMutation(f"{path}: must have {len(items)} items, not {len(value)}")
        return tuple(
            one if item is None else item(one, f"{path}[{index}]")
            for index, (item, one) in enumerate(zip(items, value, strict=True))
        )

    return check


def _dict(arguments: tuple[Any, ...], known: dict[Any, Check]) -> Check:
    if arguments and arguments[0] is not str and arguments[0] is not Any:
        raise UsageError(f"keys are str, so a dict[{_name(arguments[0])}, ...] can never come")
    item = _compile(arguments[1], known) if arguments else None

    def check(value: Any, path: str) -> Any:
        if type(value) is not dict:
            raise _refuse(path, "a map", value)
        if item is None:
            return value
        return {key: item(one, f"{path}.{key}") for key, one in value.items()}

    return check


def _fields(kind: Any, known: dict[Any, Check], names: Sequence[str]) -> dict[str, Check | None]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception as error:
        raise UsageError(f"the annotations of {_name(kind)} cannot be read ({error})") from None
    compiled: dict[str, Check | None] = {}
    for name in names:
        try:
            compiled[name] = _compile(hints[name], known)
        except UsageError as error:
            raise UsageError(f"{_name(kind)}.{name}: {error.message}") from None
    return compiled


def _recursive(kind: Any, known: dict[Any, Check], make: Callable[[], Check]) -> Check:
    """A type may contain itself: within itself it is looked up when it is checked."""
    if kind not in known:
        known[kind] = lambda value, path: known[kind](value, path)
        known[kind] = make()
        return known[kind]
    return lambda value, path: known[kind](value, path)


def _check_map(value: Any, path: str, fields: Mapping[str, Check | None]) -> dict[str, Any]:
    if type(value) is not dict:
        raise _refuse(path, "a map of fields", value)
    out: dict[str, Any] = {}
    for key, one in value.items():
        check = fields.get(key, _MISSING)
        if check is _MISSING:
            raise InvalidMutation(
                f"{path}.{key}: there is no such field; there are {', '.join(fields) or 'none'}"
            )
        out[key] = one if check is None else check(one, f"{path}.{key}")  # type: ignore[operator]
    return out


def _typed_dict(kind: Any, known: dict[Any, Check]) -> Check:
    def make() -> Check:
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = _fields(kind, known, list(hints))
        required = tuple(name for name in hints if _is_required(kind, name, hints[name]))

        def check(value: Any, path: str) -> Any:
            out = _check_map(value, path, fields)
            for name in required:
                if name not in out:
                    raise InvalidMutation(f"{path}.{name}: is missing")
            return out

        return check

    return _recursive(kind, known, make)


def _is_required(kind: Any, name: str, hint: Any) -> bool:
    # __required_keys__ is wrong where annotations are strings, so what the hint itself says comes first.
    said = str(get_origin(hint)).rpartition(".")[2]
    if said in ("Required", "NotRequired"):
        return said == "Required"
    return name in kind.__required_keys__


def _dataclass(kind: Any, known: dict[Any, Check]) -> Check:
    def make() -> Check:
        given = [one for one in dataclasses.fields(kind) if one.init]
        fields = _fields(kind, known, [one.name for one in given])
        required = tuple(
            one.name
            for one in given
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        )

        def check(value: Any, path: str) -> Any:
            out = _check_map(value, path, fields)
            for name in required:
                if name not in out:
                    raise InvalidMutation(f"{path}.{name}: is missing")
            try:
                return kind(**out)
            except InvalidMutation:
                raise
            except (TypeError, ValueError) as error:  # a __post_init__ that checks
                raise InvalidMutation(f"{path}: {error}") from error

        return check

    return _recursive(kind, known, make)
