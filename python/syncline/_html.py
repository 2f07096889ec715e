"""What a notebook shows of an engine, a view, a change, a result: short, and safe whatever a client wrote.

Everything that comes from a database goes through `_text`: documents are untrusted. It escapes HTML, shows
what is invisible (control characters, direction overrides) by its number, and clips; and the outer element
tells notebooks not to look for mathematics in it, where a formula could hold a link.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from . import _core
from .history import ABSENT

if TYPE_CHECKING:
    from .engine import Engine
    from .replica import Replica

__all__: list[str] = []

_SHOWN = 10  # rows of a table
_LATEST = 5  # lines of the log that an engine shows
_FIELDS = 12  # fields of a document
_LONG = 80  # characters of a text
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _text(value: object, most: int = _LONG) -> str:
    text = str(value)
    clipped = text[:most]
    shown = "".join(
        f"\\u{{{ord(one):x}}}" if unicodedata.category(one) in _INVISIBLE else one for one in clipped
    )
    return html.escape(shown) + ("…" if len(text) > most else "")


def _value(value: object) -> str:
    """A value of a document, as the protocol's JSON."""
    return f"<code>{_text(_core.json_encode(value).decode())}</code>"


def _side(value: object) -> str:
    return "" if value is ABSENT else _value(value)


def _frame(title: str, body: str = "") -> str:
    """`title` and `body` are HTML already."""
    return f'<div class="syncline tex2jax_ignore mathjax_ignore"><div><b>{title}</b></div>{body}</div>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left_out: int = 0) -> str:
    """`rows` are HTML already; `left_out` says how many more there are."""
    cell = '<td style="text-align:left;vertical-align:top">'
    body = "".join("<tr>" + "".join(f"{cell}{one}</td>" for one in row) + "</tr>" for row in rows)
    head = "".join(f'<th style="text-align:left">{html.escape(one)}</th>' for one in heads)
    more = f"<div>… and {left_out:,} more</div>" if left_out > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{fact}</td></tr>'
        for name, fact in facts
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _document(data: dict[str, Any] | None) -> str:
    if data is None:
        return "deleted"
    shown = [f"{_text(key, 40)}: {_value(data[key])}" for key in list(data)[:_FIELDS]]
    if len(data) > _FIELDS:
        shown.append(f"… and {len(data) - _FIELDS:,} more fields")
    return "<br>".join(shown) if shown else "no fields"


def _address(entity: str, id: str) -> str:
    return f"{_text(entity)}/{_text(id)}"


# ---------------------------------------------------------------------------------------------------- objects


def engine(self: Engine) -> str:
    title = f"Engine {_text(self._path)}"
    if not self._finalize.alive:
        return _frame(title, "closed")
    info = self._native.info()
    names = list(self.mutators)
    shown = ", ".join(_text(name) for name in names[:_SHOWN]) or "none"
    if len(names) > _SHOWN:
        shown += f", … and {len(names) - _SHOWN:,} more"
    facts = [
        ("opened for", "reading" if self._native.read_only else "writing"),
        ("store", f"{_text(info['kind'])} {_text(info['version'])}"),
        ("head", f"{info['head']:,}"),
        ("epoch", _text(self.epoch)),
        ("mutators", shown),
    ]
    rows = [
        [
            f"{one.cursor:,}",
            _text(one.scope),
            _text(one.op),
            _address(one.entity, one.id),
            _text(one.user or ""),
        ]
        for one in self.log(newest_first=True, limit=_LATEST)
    ]
    latest = _table(("cursor", "scope", "op", "document", "user"), rows) if rows else ""
    return _frame(title, _facts(facts) + latest)


def view(self: _core.View) -> str:
    try:
        return _frame(f"View of {_text(self.scope)}", f"at cursor {self.cursor:,}")
    except Exception as closed:
        return _frame("View", _text(closed))


def line(self: _core.LogLine | _core.Version) -> str:
    title = f"{_text(self.op)} {_address(self.entity, self.id)}"
    whose = (
        "backend code" if self.client_id is None else f"{_text(self.client_id)}, number {self.client_seq:,}"
    )
    facts = [
        ("scope", _text(self.scope)),
        ("cursor", f"{self.cursor:,}"),
        ("version", f"{self.version:,}"),
        ("time", _text(self.ts)),
        ("user", "none" if self.user is None else _text(self.user)),
        ("client", whose),
        ("mutation", "a direct write" if self.mutation is None else _text(self.mutation)),
    ]
    if isinstance(self, _core.Version):
        facts.append(("document", _document(self.data)))
    changes = self.changes
    if changes is not None:
        rows = [
            [_text(path, 40), _side(old), _side(new)] for path, (old, new) in list(changes.items())[:_FIELDS]
        ]
        facts.append(("changes", _table(("field", "before", "after"), rows, len(changes) - _FIELDS)))
    return _frame(title, _facts(facts))


def past(self: _core.Past) -> str:
    return _frame("Past", f"every scope as it was at cursor {self.cursor:,}")


def change(self: _core.Change) -> str:
    title = f"{_text(self.op)} {_address(self.entity, self.id)}"
    facts = [
        ("scope", _text(self.scope)),
        ("cursor", f"{self.cursor:,}"),
        ("version", f"{self.version:,}"),
        ("time", _text(self.ts)),
        ("document", _document(self.data)),
    ]
    return _frame(title, _facts(facts))


def note(self: _core.ChangeNote) -> str:
    return _frame(
        f"{_text(self.op)} {_address(self.entity, self.id)}",
        f"cursor {self.cursor:,}, version {self.version:,}",
    )


def _notes(notes: Sequence[_core.ChangeNote]) -> str:
    rows = [
        [f"{n.cursor:,}", _text(n.op), _address(n.entity, n.id), f"{n.version:,}"] for n in notes[:_SHOWN]
    ]
    return _table(("cursor", "op", "document", "version"), rows, len(notes) - _SHOWN)


def _outcome(self: _core.Result) -> str:
    error = self.error
    said = "ok" if error is None else f"refused: {_text(error.code)}"
    return said + (", a duplicate" if self.duplicate else "")


def result(self: _core.Result) -> str:
    error = self.error
    if error is not None:
        return _frame(f"Result {_outcome(self)}", _text(error.message, 400))
    changes = self.changes
    body = _notes(changes) if changes else "it changed nothing"
    return _frame(f"Result {_outcome(self)}, cursor {self.cursor:,}", body)


def push_result(self: _core.PushResult) -> str:
    rows = []
    for number, one in zip(range(_SHOWN), self.results, strict=False):
        error = one.error
        changes = ", ".join(f"{_text(n.op)} {_address(n.entity, n.id)}" for n in one.changes[:3])
        if len(one.changes) > 3:
            changes += f", … and {len(one.changes) - 3:,} more"
        rows.append([f"{number}", _outcome(one), changes if error is None else _text(error.message, 200)])
    refused = sum(not one.ok for one in self.results)
    title = f"Push of {len(self):,}: " + ("all ok" if refused == 0 else f"{refused:,} refused")
    return _frame(title, _table(("", "result", "changes"), rows, len(self) - _SHOWN))


def pull(self: _core.Pull) -> str:
    rows = []
    for _, one in zip(range(_SHOWN), self, strict=False):
        rows.append([f"{one.cursor:,}", _text(one.op), _address(one.entity, one.id), _document(one.data)])
    more = "more to come" if self.has_more else f"up to cursor {self.cursor:,}"
    title = f"Pull of {_text(self.scope)}: {len(self):,} changes, {more}"
    return _frame(title, _table(("cursor", "op", "document", "data"), rows, len(self) - _SHOWN))


def snapshot(self: _core.Snapshot) -> str:
    rows = [[_text(entity), f"{len(documents):,}"] for entity, documents in self.data.items()]
    title = f"Snapshot at cursor {self.cursor:,}"
    return _frame(title, _table(("entity", "documents"), rows[:_SHOWN], len(rows) - _SHOWN))


def replica(self: Replica) -> str:
    title = f"Replica {_text(self._path)}"
    if self._driver.ended:
        return _frame(title, "closed")
    status = self.status
    told = status.state + (f" ({status.reason})" if status.reason else "")
    pokes = status.pokes + (f" ({status.pokes_reason})" if status.pokes_reason else "")
    facts = [
        ("state", _text(told, 200)),
        ("server", _text(self.url)),
        ("hears by", _text(pokes, 200)),
        ("pending", f"{status.pending:,}, of which {status.unsent:,} without an answer"),
        ("refused", f"{status.refused:,}"),
    ]
    if status.disk:
        facts.append(("disk", _text(status.disk, 200)))
    scopes = [
        [
            _text(one.name),
            f"{one.cursor:,}",
            "forbidden" if not one.readable else "yes" if one.loaded else "not yet",
        ]
        for one in status.scopes[:_SHOWN]
    ]
    body = _facts(facts) + _table(("scope", "cursor", "loaded"), scopes, len(status.scopes) - _SHOWN)
    pending = [
        [f"{one.place:,}", _text(one.name), _text(one.scope), _value(one.args)]
        for one in self._first_pending(_SHOWN)
    ]
    if pending:
        body += _table(("pending", "mutation", "scope", "arguments"), pending, status.pending - len(pending))
    refused = [
        [f"{one.place:,}", _text(one.name), _text(one.code), _text(one.message, 200)]
        for one in self.refused[-_LATEST:]
    ]
    if refused:
        heads = ("refused", "mutation", "code", "message")
        body += _table(heads, refused, status.refused - len(refused))
    return _frame(title, body)
