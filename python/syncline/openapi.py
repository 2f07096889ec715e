"""The OpenAPI 3.1 description of the endpoints, served at `/_sync/openapi.json`.

It is made of the table of routes in `syncline.http`, the errors in `syncline.errors` and an engine's limits;
only the shapes of the bodies, which the core reads and writes, are said here. The tests hold real answers of
every route and error against it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, get_args, get_origin

from . import _core, errors

if TYPE_CHECKING:
    from .http import Route

__all__ = ["TOLD_LIMITS", "document", "schema_of"]

Schema: TypeAlias = dict[str, Any]

# What the health answer calls the limits that clients keep to.
TOLD_LIMITS: Mapping[str, str] = {
    "body_bytes": "max_body_bytes",
    "mutations": "max_mutations",
    "page_bytes": "max_page_bytes",
    "document_bytes": "max_document_bytes",
    "nesting": "max_nesting",
    "snapshot_bytes": "max_snapshot_bytes",
}

_BODIES = ("application/json", "application/msgpack")


def document(routes: Iterable[Route], limits: _core.Limits) -> dict[str, object]:
    """The description of these routes, as a value for JSON."""
    paths: dict[str, Schema] = {}
    used: dict[str, type[errors.Error]] = {}
    schemas = _schemas(limits)
    for route in routes:
        used.update((kind.code, kind) for kind in route.every_refusal)
        paths[route.path] = {route.methods[0].lower(): _operation(route)}
        schemas.update(route.schemas)
    schemas.update((f"error.{code}", _error(kind)) for code, kind in used.items())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Syncline",
            "version": _core.__version__,
            "description": "Push, pull and snapshot of a Syncline engine. JSON and msgpack carry the same "
            "fields; in JSON, bytes, instants within values, integers beyond 2^53 and special floats are "
            'written as {"$binary": ...}, {"$date": ...}, {"$numberLong": ...} and {"$numberDouble": ...}. '
            "A WebSocket at /_sync/live, which this form cannot describe, tells at once that a scope moved.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "..", "description": "Where the endpoints are mounted."}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What the application's authenticate hook takes: a token, unless it says "
                    "otherwise.",
                }
            },
        },
    }


def _operation(route: Route) -> Schema:
    name = f"admin/{route.name}" if route.who == "admin" else route.name
    made: Schema = {"operationId": re.sub(r"\W", "_", name), "summary": route.summary}
    if route.who == "anyone":
        made["security"] = [{}, {"bearer": []}]
    if route.query:
        made["parameters"] = [
            {"name": name, "in": "query", "required": True, "schema": _ref(name.capitalize())}
            for name in route.query
        ]
    if route.request is not None:
        made["requestBody"] = {"required": True, "content": _content(_ref(route.request))}
    answered: dict[str, Schema] = {
        "200": {"description": "Done.", "content": _content(_ref(route.answer), route.content_types)}
    }
    by_status: dict[int, list[type[errors.Error]]] = {405: [errors.InvalidRequest]}
    for kind in route.every_refusal:
        by_status.setdefault(_core.http_status(kind.code), []).append(kind)
    for status, kinds in sorted(by_status.items()):
        codes: list[Schema] = [_ref(f"error.{kind.code}") for kind in kinds]
        answer: Schema = {
            "description": HTTPStatus(status).phrase + ": " + ", ".join(f"`{kind.code}`" for kind in kinds),
            "content": _content(
                _object({"error": codes[0] if len(codes) == 1 else {"oneOf": codes}}, closed=True)
            ),
        }
        if status in _HEADERS:
            name, schema = _HEADERS[status]
            answer["headers"] = {name: {"required": True, "schema": schema}}
        answered[str(status)] = answer
    made["responses"] = answered
    return made


_HEADERS: Mapping[int, tuple[str, Schema]] = {
    401: ("WWW-Authenticate", {"type": "string"}),
    405: ("Allow", {"type": "string"}),
    429: ("Retry-After", {"type": "integer", "minimum": 0, "description": "Seconds."}),
    503: ("Retry-After", {"type": "integer", "minimum": 0, "description": "Seconds."}),
}


def _content(schema: Schema, types: tuple[str, ...] = _BODIES) -> Schema:
    return {one: {"schema": schema} for one in types}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Mapping[str, Schema], *, optional: Iterable[str] = (), closed: bool = False, **more: object
) -> Schema:
    left_out = set(optional)
    made: Schema = {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in left_out],
        **more,
    }
    if closed:
        made["additionalProperties"] = False
    return made


def _error(kind: type[errors.Error]) -> Schema:
    types = {int: "integer", str: "string"}
    return _object(
        {
            "code": {"const": kind.code},
            "message": {"type": "string"},
            **{name: {"type": types[of]} for name, of in kind.told},
        },
        optional=dict(kind.told),
        description=inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        additionalProperties={"type": ["integer", "string"]},
    )


# ------------------------------------------------------------------------------------------------- the bodies

_CONTROL = "\\u0000-\\u001f\\u007f-\\u009f"


def _schemas(limits: _core.Limits) -> dict[str, Schema]:
    name: Schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": f"^[^{_CONTROL}]+$"}
    own = {**name, "pattern": f"^[^_{_CONTROL}][^{_CONTROL}]*$"}
    integer: Schema = {"type": "integer"}
    boolean: Schema = {"type": "boolean"}
    text: Schema = {"type": "string"}
    position = {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**40 - 1,
        "description": "A position in the database's one sequence of changes; 0 is before everything.",
    }
    count = {"type": "integer", "minimum": 0}
    op = {"enum": ["create", "update", "delete"]}
    cursor, epoch, value, seen = _ref("Position"), _ref("Epoch"), _ref("Value"), _ref("Document")
    note = {"cursor": cursor, "entity": name, "id": name, "version": {"type": "integer", "minimum": 1}}
    change = {**note, "scope": _ref("Scope"), "ts": _ref("Instant")}
    result = {"cursor": cursor, "duplicate": {"const": True, "description": "It was answered before, so."}}
    notes = {"type": "array", "items": _ref("ChangeNote")}
    return {
        "Scope": {**own, "description": "The unit of partition, of permission and of pull."},
        "Position": position,
        "Epoch": {"type": "string", "minLength": 1, "description": "One writer's tenure of the database."},
        "Instant": {"type": "string", "format": "date-time", "description": "With microseconds, in UTC."},
        "Value": {"description": "Null, boolean, number, string, list or map, and what `$` keys stand for."},
        "Document": {
            "type": "object",
            "additionalProperties": value,
            "description": f"At most {limits.max_document_bytes} bytes as msgpack, nested at most "
            f"{limits.max_nesting} deep; no key of it begins with `$`.",
        },
        "Mutation": _object(
            {
                "name": {"oneOf": [own, {"type": "null"}], "description": "Null: a void."},
                "args": value,
                "scope": _ref("Scope"),
                "client_id": own,
                "client_seq": {"type": "integer", "minimum": 1, "description": "1, 2, 3, ..."},
                "ts": _ref("Instant"),
                "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
            },
            optional=("args", "scope", "ts", "seed"),
        )
        | {"if": {"properties": {"name": {"type": "null"}}}, "else": {"required": ["scope"]}},
        "Push": _object(
            {
                "mutations": {
                    "type": "array",
                    "items": _ref("Mutation"),
                    "maxItems": limits.max_mutations,
                    "description": f"The whole body has at most {limits.max_body_bytes} bytes.",
                },
                "epoch": epoch,
                "settled": {
                    "type": "object",
                    "additionalProperties": count,
                    "maxProperties": limits.max_mutations,
                    "description": "Client id: up to which number it has its answers on its disk.",
                },
            },
            optional=("epoch", "settled"),
        ),
        "ChangeNote": _object({**note, "op": op}, closed=True),
        "ResultError": _object(
            {
                "code": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 255,
                    "description": "One of "
                    + ", ".join(f"`{kind.code}`" for kind in errors.TRAVELLING)
                    + ", or the application's own.",
                },
                "message": text,
            },
            additionalProperties={"type": ["integer", "string"]},
        ),
        "Result": {
            "oneOf": [
                _object(
                    {"ok": {"const": True}, **result, "changes": notes}, optional=("duplicate",), closed=True
                ),
                _object(
                    {
                        "ok": {"const": False},
                        **result,
                        "error": _ref("ResultError"),
                        "changes": {**notes, "maxItems": 0},
                    },
                    optional=("duplicate",),
                    closed=True,
                ),
            ]
        },
        "PushResult": _object(
            {"results": {"type": "array", "items": _ref("Result")}, "cursor": cursor, "epoch": epoch},
            closed=True,
        ),
        "Pull": _object(
            {
                "scope": _ref("Scope"),
                "cursor": cursor,
                "epoch": {**epoch, "description": "Required above cursor 0."},
                "page": {**text, "description": "The token of the page before."},
                "limit": {"type": "integer", "minimum": 1},
                "client_id": own,
                "entities": {"type": "array", "items": name},
            },
            optional=("epoch", "page", "limit", "client_id", "entities"),
        )
        | {"if": {"properties": {"cursor": {"minimum": 1}}}, "then": {"required": ["epoch"]}},
        "Change": {
            "oneOf": [
                _object({**change, "op": {"enum": ["create", "update"]}, "data": seen}, closed=True),
                _object({**change, "op": {"const": "delete"}}, closed=True),
            ]
        },
        "PullPage": _object(
            {
                "changes": {
                    "type": "array",
                    "items": _ref("Change"),
                    "description": f"About {limits.max_page_bytes} bytes at most.",
                },
                "cursor": {**cursor, "description": "To keep, once `has_more` is false."},
                "epoch": epoch,
                "has_more": boolean,
                "page": text,
                "last_seq": count,
            },
            optional=("page", "last_seq"),
            closed=True,
        )
        | {"if": {"properties": {"has_more": {"const": True}}}, "then": {"required": ["page"]}},
        "SnapshotOf": _object({"scope": _ref("Scope"), "client_id": own}, optional=("client_id",)),
        "Snapshot": _object(
            {
                "data": {
                    "type": "object",
                    "additionalProperties": {"type": "object", "additionalProperties": seen},
                    "description": "Entity: id: document. "
                    f"More than {limits.max_snapshot_bytes} bytes are `too_large`.",
                },
                "cursor": cursor,
                "epoch": epoch,
                "last_seq": count,
            },
            optional=("last_seq",),
            closed=True,
        ),
        "Cursor": _object({"cursor": cursor, "epoch": epoch}, closed=True),
        "Health": _object(
            {
                "ok": {"const": True},
                "version": text,
                "database": _object({"kind": text, "version": text}, closed=True),
                "storage": _object(
                    {"bytes": count, "wal_bytes": count, "free_disk_bytes": count, "schema_version": integer},
                    closed=True,
                    description="Told to whom the metrics hook allows.",
                ),
                "head": cursor,
                "epoch": epoch,
                "limits": _object(
                    {told: {"const": getattr(limits, field)} for told, field in TOLD_LIMITS.items()},
                    closed=True,
                ),
                "waiting": {**count, "description": "Pushes that wait for their turn."},
            },
            optional=("database", "storage", "head", "epoch", "limits", "waiting"),
            closed=True,
        ),
        "OpenApi": {"type": "object", "required": ["openapi", "info", "paths"]},
        "Metrics": text,
        "Asset": text,
    }


# --------------------------------------------------------------------------------------- schemas out of types

_TYPES: Mapping[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
}


def schema_of(annotation: Any) -> Schema:
    """The schema of a type: a dataclass, or what its fields may be."""
    if annotation in _TYPES:
        return dict(_TYPES[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one) for one in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        hints = typing.get_type_hints(annotation)
        fields = dataclasses.fields(annotation)
        has_default = {
            one.name
            for one in fields
            if one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        }
        return _object(
            {one.name: schema_of(hints[one.name]) for one in fields}, optional=has_default, closed=True
        )
    raise TypeError(f"there is no schema for {annotation!r}")
