"""The log, a document's history and the documents as tables for pandas and Arrow.

    from syncline import explore

    explore.log(engine, scope="list:1").pandas()
    explore.history(engine, "list:1", "todo", "1").pandas()
    explore.documents(engine, entity="todo", filter={"done": False}).arrow()
    polars.DataFrame(explore.log(engine))

Needs `pip install 'syncline[explore]'`. The columns are filled in C++, without the GIL and without a Python
object per row: a line of the log costs 0.60 µs of processor time up to its place in pandas, 1.7 million a
second (benchmarks/tables.py).

How documents become columns: a map is flattened into columns named by their path, "address.city"; a dot or
backslash of a key is written with a backslash before it, as in a line's `changes`, and so is a leading "_",
with which Syncline's own columns begin. Null, absent and the empty map are all null. A path whose values are
of one type has that type (integers and floats together are floats, where that changes none of them). A list,
a mixture, or a map with more than 256 keys over all rows is text: the value in the protocol's JSON.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime
    from types import ModuleType

    import pyarrow
    from pandas import DataFrame

    from .engine import Engine

__all__ = ["Table", "documents", "history", "log"]


def _needed(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name != module:
            raise
        raise ModuleNotFoundError(
            f"syncline.explore needs {module}, which is missing: pip install 'syncline[explore]'", name=module
        ) from None


class Table:
    """Rows that are read when they are asked for, anew each time.

    Whatever speaks the Arrow PyCapsule protocol takes it as it is: `pyarrow.table(t)`, `polars.DataFrame(t)`,
    `duckdb.from_arrow(t)`. Any thread may use it. An open stream does not hold its engine up: when the
    engine is closed the stream ends with `Closed`.
    """

    def __init__(self, native: _core.Table, what: str) -> None:
        self._native = native
        self._what = what

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._native.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._native.__arrow_c_schema__()

    def batches(self) -> pyarrow.RecordBatchReader:
        """The rows in batches of at most `batch_rows`, read one at a time: memory for one batch, however
        many.

        A reader of documents holds its snapshot until it was read to the end or is forgotten.
        """
        arrow: Any = _needed("pyarrow")
        reader: pyarrow.RecordBatchReader = arrow.RecordBatchReader.from_stream(self)
        return reader

    def arrow(self) -> pyarrow.Table:
        """All rows. Raises what the engine raises: `Closed`, `TooLarge`, `StorageError`."""
        arrow: Any = _needed("pyarrow")
        reader = self.batches()
        try:
            table: pyarrow.Table = reader.read_all()
        except (OSError, arrow.ArrowException):
            self._native.raise_fault()
            raise
        return table

    def pandas(self) -> DataFrame:
        """All rows. Names that repeat are categories; times are in UTC; integers and bools with nulls are
        pandas' own nullable types, so that none becomes a float. Raises as `arrow`."""
        pandas: Any = _needed("pandas")
        arrow: Any = _needed("pyarrow")
        table: Any = self.arrow()
        wide = {
            arrow.int64(): pandas.Int64Dtype(),
            arrow.uint64(): pandas.UInt64Dtype(),
            arrow.bool_(): pandas.BooleanDtype(),
        }
        names: list[str] = table.column_names
        nullable = [name for name in names if table[name].null_count > 0 and table[name].type in wide]
        frame: DataFrame = table.drop_columns(nullable).to_pandas()
        if nullable:
            whole = table.select(nullable).to_pandas(types_mapper=wide.get)
            frame = pandas.concat([frame, whole], axis=1)[names]
        return frame

    def __repr__(self) -> str:
        return f"<Table {self._what}>"


def log(
    engine: Engine,
    *,
    since: int | datetime = 0,
    through: int | datetime | None = None,
    scope: str | None = None,
    entity: str | None = None,
    id: str | None = None,
    client_id: str | None = None,
    newest_first: bool = False,
    limit: int | None = None,
    changed: bool = False,
    batch_rows: int = 65_536,
) -> Table:
    """The lines of the changelog that `engine.log` gives for the same arguments.

    Columns: cursor, scope, entity, id, op, version, previous (cursor of that document's line before; 0:
    none), ts, user, client_id, client_seq (0: backend code), mutation, mutation_ts (by the client's clock),
    hash (of the body; 0: deleted).

    Args:
        changed: one more column, with the names of the top-level fields that an update changed: "done,
            title".
        batch_rows: rows a batch, 1 to 1,048,576; a batch ends earlier when it holds 64 MiB.

    Raises:
        InvalidRequest: an argument is not what it must be.

    When it is read:
        HistoryGone, InvalidRequest, InvalidScope as `engine.log`; UsageError: batch_rows.
    """
    native = _core.log_table(
        engine._native,
        since=since,
        through=through,
        scope=scope,
        entity=entity,
        id=id,
        client_id=client_id,
        newest_first=newest_first,
        limit=limit,
        changed=changed,
        batch_rows=batch_rows,
    )
    return Table(native, "of the log")


def history(engine: Engine, scope: str, entity: str, id: str, *, batch_rows: int = 65_536) -> Table:
    """The versions of one document, newest first, with its fields as they were: as `engine.history`.

    Columns: _cursor, _version, _op, _ts, _user, _client_id, _client_seq (0: backend code), _mutation,
    _mutation_ts, then the fields of all versions as the module says; null in a deletion.

    When it is read:
        NotFound, HistoryGone, Corrupt, InvalidRequest, InvalidScope as `engine.history`.
        TooLarge: more than 256 different fields, or 2,000 columns.
    """
    native = _core.history_table(engine._native, scope, entity, id, batch_rows=batch_rows)
    return Table(native, f"of the versions of {entity}/{id}")


def documents(
    engine: Engine,
    scope: str | Iterable[str] | None = None,
    entity: str | None = None,
    *,
    filter: Mapping[str, Any] | None = None,
    fields: Iterable[str] | None = None,
    batch_rows: int = 65_536,
) -> Table:
    """The live documents of one moment, in order of scope and cursor.

    Columns: _scope, _entity, _id, _version, _cursor, _created_at, _updated_at, then the fields of the
    documents as the module says. To find their types the documents are read twice.

    Args:
        scope: one or several; None: all. What is reserved (a leading "_") comes only to who names it.
        entity: None: all.
        filter: only those that match, as in `view.find`.
        fields: only these top-level fields.
        batch_rows: rows a batch, 1 to 1,048,576; a batch ends earlier when it holds 64 MiB.

    Raises:
        InvalidRequest, InvalidScope: an argument is not what it must be.

    When it is read:
        TooLarge: more than 256 different fields, or 2,000 columns; say which `fields`. UsageError:
        batch_rows.
    """
    if isinstance(fields, str):
        raise UsageError(f"fields must be a list of names: fields=[{fields!r}]")
    scopes = None if scope is None else [scope] if isinstance(scope, str) else list(scope)
    native = _core.document_table(
        engine._native,
        scopes=scopes,
        entity=entity,
        fields=None if fields is None else list(fields),
        filter=None if filter is None else dict(filter),
        batch_rows=batch_rows,
    )
    return Table(native, "of documents" if entity is None else f"of {entity!r} documents")
