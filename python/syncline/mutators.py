"""Mutators: the application's functions that pushes run, by name."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ._validate import Validator, validator_for
from .errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from ._core import Tx
    from .upgrades import Upgrade, UpgradeArgs

__all__ = ["Mutator", "Mutators"]

# What the second parameter is, its annotation says; a Callable's parameter cannot be left open in another
# way.
Mutator: TypeAlias = "Callable[[Tx, Any], object]"
_U = TypeVar("_U", bound="Upgrade")
_A = TypeVar("_A", bound="UpgradeArgs")
_VERSIONED = re.compile(r"@[0-9]+\Z")
_M = TypeVar("_M", bound="Callable[[Tx, Any], object]")

_log = logging.getLogger("syncline.mutators")


class Mutators(Mapping[str, "Mutator"]):
    """The mutators of an application.

        mutators = syncline.Mutators()

        @mutators("todo/create")
        def create(tx: syncline.Tx, args: Create) -> None:
            tx.set("todo", args.id, {"title": args.title})

    A mutator takes `(tx, args)` and may be run again, so it reads and writes through `tx` alone. When `args`
    is annotated with a dataclass or a TypedDict, arguments are checked against it first, and a dataclass is
    constructed. What it returns is ignored; to refuse it raises `syncline.Rejected`.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Mutator] = {}
        # Read by the core for each mutation: name -> (function, validate or None).
        self._table: dict[str, tuple[Mutator, Validator | None]] = {}
        self._validators: dict[str, Validator | None] = {}
        self._upgrades: dict[str, dict[int, Upgrade]] = {}  # of documents: entity -> schema -> function
        self._args_upgrades: dict[str, dict[int, UpgradeArgs]] = {}  # mutator -> version -> function

    def __call__(self, name: str) -> Callable[[_M], _M]:
        """Registers the decorated function for `name`. Raises like `register`."""
        if not isinstance(name, str):
            raise UsageError('a mutator needs a name: write @mutators("todo/create")')

        def decorate(function: _M) -> _M:
            self.register(name, function)
            return function

        return decorate

    def register(self, name: str, function: Mutator) -> None:
        """Registers `function` for `name`.

        Raises:
            UsageError: the name is none or is taken, or the function has not the form `def mutator(tx,
            args)`; or its annotation
                says something that no argument can be.
        """
        _check_name(name)
        if name in self._functions:
            raise UsageError(f"there is a mutator {name!r} already ({_where(self._functions[name])})")
        _check_signature(name, function)
        validate = validator_for(function, name)
        self._functions[name] = function
        self._validators[name] = validate
        self._tabulate(name)

    def upgrade(self, entity: str, *, schema: int) -> Callable[[_U], _U]:
        """Registers the decorated function, which makes a document (a dict) of `schema` of one of the schema
        before; see `syncline.upgrades`. The first schema is 1.

        Raises:
            UsageError: the entity is none, or the schema is below 2 or has a function already.
        """
        _check_name(entity, "an entity")
        _check_step("schema", schema, self._upgrades.get(entity, {}))

        def decorate(function: _U) -> _U:
            self._upgrades.setdefault(entity, {})[schema] = function
            return function

        return decorate

    def upgrade_args(self, name: str, *, version: int) -> Callable[[_A], _A]:
        """Registers the decorated function, which makes the arguments of `version` of those of the version
        before; see `syncline.upgrades`. "todo/create" is version 1 of it, "todo/create@2" version 2.

        Raises:
            UsageError: the name is none, or the version is below 2 or has a function already.
        """
        _check_name(name)
        _check_step("version", version, self._args_upgrades.get(name, {}))

        def decorate(function: _A) -> _A:
            self._args_upgrades.setdefault(name, {})[version] = function
            self._tabulate(name)
            return function

        return decorate

    def _tabulate(self, name: str) -> None:
        """Each version of the mutator's arguments is an entry of the table."""
        if name not in self._functions:
            return
        function, validate = self._functions[name], self._validators[name]
        steps = sorted(self._args_upgrades.get(name, {}).items())
        for version in range(1, 1 + max((version for version, _ in steps), default=1)):
            later = [step for number, step in steps if number > version]
            entry = _Versioned(later, validate) if later else validate
            self._table[name if version == 1 else f"{name}@{version}"] = (function, entry)

    def _check_upgrades(self) -> None:
        """Raises UsageError for upgrades that have no mutator, or leave a version out."""
        for name, steps in self._args_upgrades.items():
            if name not in self._functions:
                raise UsageError(f"there are upgrades of the arguments of {name!r}, and no such mutator")
            missing = set(range(2, max(steps) + 1)) - set(steps)
            if missing:
                raise UsageError(
                    f"no upgrade of the arguments of {name!r} to version {min(missing)} is registered"
                )

    def include(self, other: Mutators, *, prefix: str = "") -> None:
        """Registers all of `other`'s, each name with `prefix` before it. Raises `UsageError` before anything
        is registered."""
        if not isinstance(other, Mutators):
            raise UsageError(f"include takes Mutators, not {type(other).__name__}")
        for name in other._functions:
            _check_name(prefix + name)
            if prefix + name in self._functions:
                raise UsageError(f"there is a mutator {prefix + name!r} already")
        for entity, upgrades in other._upgrades.items():
            for schema in upgrades:
                _check_step("schema", schema, self._upgrades.get(entity, {}))
        for name in other._functions:
            self._functions[prefix + name] = other._functions[name]
            self._validators[prefix + name] = other._validators[name]
        for name, steps in other._args_upgrades.items():
            self._args_upgrades[prefix + name] = dict(steps)
        for entity, upgrades in list(other._upgrades.items()):
            self._upgrades.setdefault(entity, {}).update(upgrades)
        for name in other._functions:
            self._tabulate(prefix + name)

    def __getitem__(self, name: str) -> Mutator:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def __repr__(self) -> str:
        return f"Mutators({', '.join(map(repr, self._functions))})"


def _where(function: Mutator) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


class _Versioned:
    """Takes arguments of an older version to the mutator's own, and checks them there."""

    __slots__ = ("_steps", "_validate")

    def __init__(self, steps: Sequence[UpgradeArgs], validate: Validator | None) -> None:
        self._steps = steps
        self._validate = validate

    def __call__(self, args: object) -> Any:
        for step in self._steps:
            args = step(args)
        return args if self._validate is None else self._validate(args)


def _check_step(what: str, number: object, taken: Mapping[int, object]) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 2:
        raise UsageError(
            f"{what} must be a whole number from 2 on (1 is what there was first), not {number!r}"
        )
    if number in taken:
        raise UsageError(f"there is an upgrade to {what} {number} already")


def _check_name(name: object, of: str = "a mutator") -> None:
    if not isinstance(name, str):
        raise UsageError(f"{of}'s name must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the name {name!r} has a lone surrogate, which has no UTF-8 form") from None
    if not 1 <= size <= 255:
        raise UsageError(f"{of}'s name must have 1-255 bytes of UTF-8, not {size}")
    if any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in name):
        raise UsageError(f"the name {name!r} has a control character")
    if name.startswith("_"):
        raise UsageError(f"the name {name!r} begins with '_', which is reserved")
    if of == "a mutator" and _VERSIONED.search(name):
        raise UsageError(
            f"the name {name!r} ends as a version does; older arguments are upgraded by upgrade_args"
        )


def _check_signature(name: str, function: object) -> None:
    want = "a mutator is written def name(tx, args): ..."
    if not callable(function):
        raise UsageError(f"the mutator {name!r} must be a function, not {type(function).__name__}; {want}")
    inner = inspect.unwrap(function)
    call = inner if inspect.isroutine(inner) or inspect.isclass(inner) else getattr(inner, "__call__", inner)  # noqa: B004
    for one in (function, inner, call):
        if inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one):
            raise UsageError(
                f"the mutator {name!r} is async, but a mutator runs inside a transaction, "
                "which must not wait; write it with def"
            )
        if inspect.isgeneratorfunction(one):
            raise UsageError(
                f"the mutator {name!r} is a generator: it has a yield, so calling it runs nothing; {want}"
            )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin may have none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise UsageError(
            f"the mutator {name!r} has the signature {signature}, which {error}; {want}"
        ) from None


def _log_failure(name: str, error: BaseException) -> None:
    """Called by the core with what a mutator raised, of which its client hears nothing."""
    _log.error(
        "the mutator %r failed",
        name,
        exc_info=(type(error), error, error.__traceback__),
        extra={"syncline_mutation": name, "syncline_error": type(error).__qualname__},
    )


def _log_slow(name: str, seconds: float, scope: str, client_id: str, client_seq: int, user: str) -> None:
    """Called by the core after a mutator that took as long as `Engine(slow_mutator=)` or longer. Never with
    its arguments: logs go where data may not."""
    _log.warning(
        "the mutator %r took %.3f s in the scope %r; everybody who writes waited for it",
        name,
        seconds,
        scope,
        extra={
            "syncline_mutation": name,
            "syncline_seconds": seconds,
            "syncline_scope": scope,
            "syncline_client_id": client_id or None,
            "syncline_client_seq": client_seq or None,
            "syncline_user": user or None,
        },
    )
