"""OpenTelemetry spans around push, mutator, pull and snapshot, for whoever has `opentelemetry-api` installed
and a tracer provider set (by its SDK).

Without the package nothing here costs anything; with it and no provider, one comparison a call. No span holds
arguments, documents or what an exception said: these may be anybody's data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _core, errors

try:
    from opentelemetry import propagate, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ModuleNotFoundError:
    _installed = False
else:
    _installed = True

if TYPE_CHECKING:
    from opentelemetry.trace import Span as Span

__all__ = ["active", "begin", "current", "fail", "inject", "run_mutator", "span", "tell"]

Attributes: TypeAlias = "Mapping[str, str | int]"

_named = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
_provided = False


def active() -> bool:
    """Whether anybody listens: the package is installed and a tracer provider was set."""
    global _provided
    if _provided or not _installed:
        return _provided
    # To ask the API takes 1.6 us, a third of a small pull; where this name of its own is still None, and the
    # environment names no provider, it would say no (0.1 us).
    if vars(trace).get("_TRACER_PROVIDER", trace) is None and not _named:
        return False
    # Once set, a provider stays.
    _provided = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return _provided


def begin(name: str, attributes: Attributes, headers: Mapping[str, str] | None = None) -> Span:
    """A span that has begun and is not the current one; `span.end()` ends it. Only while `active()`.

    With `headers` it is a server's, and the child of what they name, unless the server's own instrumentation
    has made a span current already.
    """
    tracer = trace.get_tracer("syncline", _core.__version__)
    context = None
    kind = SpanKind.INTERNAL
    if headers is not None and not trace.get_current_span().get_span_context().is_valid:
        context = propagate.extract(headers)
        kind = SpanKind.SERVER
    return tracer.start_span(name, context=context, kind=kind, attributes=dict(attributes))


def current(span: Span) -> contextlib.AbstractContextManager[object]:
    """Makes it the current one for the length of a `with` block, and ends nothing."""
    made: contextlib.AbstractContextManager[object] = trace.use_span(
        span, end_on_exit=False, record_exception=False, set_status_on_exception=False
    )
    return made


def fail(span: Span, error: BaseException | str) -> None:
    """Marks it as failed, with the error's code, or the exception's type."""
    if isinstance(error, str):
        code = error
    else:
        code = error.code if isinstance(error, errors.Error) else type(error).__qualname__
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


@contextlib.contextmanager
def span(name: str, attributes: Attributes) -> Iterator[Span | None]:
    """`with` block that is a span, and the current one; None while nobody listens."""
    if not active():
        yield None
        return
    begun = begin(name, attributes)
    try:
        with current(begun):
            yield begun
    except BaseException as error:
        fail(begun, error)
        raise
    finally:
        begun.end()


def run_mutator(function: Callable[..., object], name: str, tx: _core.Tx, args: Any) -> object:
    """Called by the core in a mutator's place while somebody listens."""
    with span(f"syncline.mutator {name}", {"syncline.mutation": name, "syncline.scope": tx.scope}):
        return function(tx, args)


def tell(span: Span | None, result: _core.PushResult) -> None:
    """What became of a push, in its span."""
    if span is not None:
        refused = sum(not one.ok for one in result)
        span.set_attributes({"syncline.refused": refused, "syncline.cursor": result.cursor})


def inject(headers: dict[str, str]) -> None:
    """Adds the headers that make a request's spans the children of the current one."""
    if active():
        propagate.inject(headers)
