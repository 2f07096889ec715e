// Elements, lists and numbers. What came from the server becomes a text node, or an attribute that runs nothing: this
// file is the only one that makes elements, and there is no HTML in any string.

const ATTRIBUTES = new Set([
  "class", "id", "for", "type", "name", "value", "min", "max", "step", "list", "title", "tabindex", "role", "scope", "rows",
  "disabled", "hidden", "open", "colspan", "placeholder", "autocomplete", "spellcheck", "maxlength", "inputmode", "href",
  "datetime", "selected", "viewBox", "preserveAspectRatio", "d", "x", "y", "x1", "x2", "y1", "y2", "width", "height",
]);
const SVG = new Set(["svg", "path", "line", "rect", "g"]);

/** An element. `attributes.on` has its listeners; null, undefined and false leave an attribute out. */
export function h(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      if (!ATTRIBUTES.has(name) && !name.startsWith("aria-") && !name.startsWith("data-")) throw new Error(`attribute ${name}`);
      if (name === "href" && !String(value).startsWith("#")) throw new Error("links stay on this page");
      made.setAttribute(name, value === true ? "" : String(value));
    }
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A link within the page: to a view, with its parameters. */
export function link(view, parameters, attributes, ...children) {
  return h("a", { ...attributes, href: address(view, parameters) }, ...children);
}

export function address(view, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query && `?${query}`}`;
}

// ---------------------------------------------------------------------------------------------------------- words

/** A number that the server may have told as {"$numberLong": "..."}: its digits. */
export function digits(value) {
  return String(typeof value === "object" && value !== null && "$numberLong" in value ? value.$numberLong : value);
}

const grouped = new Intl.NumberFormat("en-US");

/** A count, its thousands apart. */
export function count(value) {
  return typeof value === "number" ? grouped.format(value) : digits(value);
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function bytes(size) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  let shown = size;
  for (; shown >= 1000 && unit < units.length - 1; unit += 1) shown /= 1000;
  return `${unit === 0 || shown >= 100 ? Math.round(shown) : shown.toFixed(1)} ${units[unit]}`;
}

export function seconds(value) {
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  return value < 1 ? `${(value * 1e3).toFixed(value < 0.1 ? 1 : 0)} ms` : `${value.toFixed(2)} s`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

/** An instant: the time of today, else with its day; in full when it is pointed at. */
export function time(instant) {
  if (!instant) return h("span", { class: "faint" }, "never");
  const date = new Date(instant);
  const today = new Date();
  const words = clock.format(date);
  const shown = date.toDateString() === today.toDateString() ? words : `${day.format(date)}, ${words}`;
  return h("time", { datetime: instant, title: instant }, shown);
}

/** How long before `now` (of the server) it was, in words. */
export function ago(instant, now) {
  const passed = Math.max(0, (Date.parse(now) - Date.parse(instant)) / 1000);
  const words =
    passed < 2 ? "now"
    : passed < 100 ? `${Math.round(passed)} s ago`
    : passed < 6000 ? `${Math.round(passed / 60)} min ago`
    : passed < 172800 ? `${Math.round(passed / 3600)} h ago`
    : `${Math.round(passed / 86400)} days ago`;
  return h("time", { datetime: instant, title: instant }, words);
}

/** A value's JSON as the server cut it, and how much of it is missing. */
export function value(told) {
  const missing = told.size - told.text.length;
  return h("code", { class: "value" }, told.text, missing > 0 && h("span", { class: "cut" }, ` … ${count(missing)} more`));
}

export function operation(op) {
  return h("span", { class: `op ${op}` }, op);
}

/** The changed fields of a line: "title: old → new". */
export function changes(line, most = Infinity) {
  if (line.changes === null) return line.op === "create" ? null : h("span", { class: "faint" }, "no longer kept");
  const shown = line.changes.slice(0, most);
  const left = line.changes.length - shown.length + line.more_changes;
  const rows = shown.map((diff) =>
    h(
      "li",
      {},
      h("span", { class: "field" }, diff.field),
      " ",
      diff.old === null ? null : h("del", {}, value(diff.old)),
      diff.old !== null && diff.new !== null ? " → " : null,
      diff.new === null ? null : h("ins", {}, value(diff.new)),
    ),
  );
  return h("ul", { class: "diffs" }, rows, left > 0 && h("li", { class: "faint" }, `and ${plural(left, "field")} more`));
}

/** Who made a change, and through what. */
export function author(line) {
  const who = [];
  if (line.user !== null) who.push(h("span", { class: "user" }, line.user));
  if (line.client_id === null) who.push(h("span", { class: "faint" }, "backend"));
  else {
    who.push(h("span", { class: "client" }, line.client_id, h("span", { class: "faint" }, ` #${digits(line.client_seq)}`)));
  }
  return h("span", { class: "author" }, who);
}

export function mutation(line) {
  return line.mutation === null ? h("span", { class: "faint" }, "direct write") : h("span", { class: "mutation" }, line.mutation);
}

// ---------------------------------------------------------------------------------------------------------- lists

/**
 * Makes the links marked `data-row` within `list` one stop of the Tab key; arrows, j, k, Home and End move among them.
 */
export function roving(list) {
  const rows = () => [...list.querySelectorAll("[data-row]")];
  const choose = (chosen) => {
    for (const row of rows()) row.tabIndex = row === chosen ? 0 : -1;
  };
  list.addEventListener("focusin", (event) => {
    const row = event.target.closest("[data-row]");
    if (row) choose(row);
  });
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const all = rows();
    const at = all.indexOf(document.activeElement);
    if (at < 0) return;
    const to = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });
  // Lists that grow call this: there is one stop as long as there is a row.
  return () => {
    const all = rows();
    if (all.length > 0 && !all.some((row) => row.tabIndex === 0 && row.hasAttribute("tabindex"))) choose(all[0]);
    else for (const row of all) if (!row.hasAttribute("tabindex")) row.tabIndex = -1;
  };
}

/** A table; `columns` are [title, class]. Cells carry their column's title for narrow windows. */
export function table(label, columns, rows, attributes = {}) {
  return h(
    "table",
    { ...attributes, "aria-label": label },
    h("thead", {}, h("tr", {}, columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title)))),
    h("tbody", {}, rows),
  );
}

export function row(columns, cells, attributes = {}) {
  return h(
    "tr",
    attributes,
    cells.map((cell, at) => h("td", { class: columns[at][1], "data-label": columns[at][0] }, cell)),
  );
}

export function nothing(...words) {
  return h("p", { class: "nothing" }, ...words);
}

export function heading(text, ...more) {
  return h("div", { class: "heading" }, h("h1", { tabindex: "-1" }, text), ...more);
}
