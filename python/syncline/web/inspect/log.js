// The log, newest change first, as it grows; and the few newest of it on the overview.

import { ask } from "./api.js";
import { address, author, changes, digits, h, heading, link, mutation, nothing, operation, plural, roving, row, table, time } from "./dom.js";

const PAGE = 100;
const WINDOW = 500; // rows kept: what is older leaves the page, and comes back when it is asked for
const COLUMNS = [
  ["Cursor", "number"], ["Time", "time"], ["Scope", "name"], ["Document", "name"], ["Change", "kind"], ["By", "name"],
  ["Mutation", "name"], ["Fields", "wide"],
];

/** What of a line says where a document's page is. */
export function place(line) {
  return { scope: line.scope, entity: line.entity, id: line.id };
}

function lineRow(line, columns, cells) {
  const opened = { ...place(line), at: line.cursor };
  const all = {
    Cursor: () => link("document", opened, { "data-row": true, class: "cursor", "aria-label": `${line.cursor}: ${line.op} ${line.entity} ${line.id}` }, String(line.cursor)),
    Time: () => time(line.ts),
    Scope: () => link("scope", { scope: line.scope }, { tabindex: "-1", class: "plain" }, line.scope),
    Document: () => h("span", {}, h("span", { class: "entity" }, line.entity), " ", h("span", { class: "id" }, line.id)),
    Change: () => h("span", {}, operation(line.op), h("span", { class: "faint" }, ` v${digits(line.version)}`)),
    By: () => author(line),
    Mutation: () => mutation(line),
    Fields: () => changes(line, 4),
  };
  return row(columns, columns.map(([title]) => all[title]()), { class: cells });
}

/** Rows that grow at their top. `wanted`: the question's filter. */
class Lines {
  constructor(app, wanted, columns, window, label) {
    Object.assign(this, { app, wanted, columns, window });
    this.body = h("tbody");
    this.element = table(label, columns, []);
    this.element.tBodies[0].replaceWith(this.body);
    this.settle = roving(this.element);
    this.through = null; // what is above it is asked for next
    this.after = null; // what is at or below it is older than what is shown
    this.begins = 0;
    this.busy = false;
  }

  get size() {
    return this.body.rows.length;
  }

  async begin() {
    const told = await ask("log", { ...this.wanted, newest_first: true, limit: Math.min(PAGE, this.window) }, this.app.signal);
    this.body.replaceChildren(...told.rows.map((line) => lineRow(line, this.columns)));
    this.through = told.head;
    this.after = told.after;
    this.begins = told.begins;
    this.settle();
  }

  /** Brings what came since, a page at a time. True: something did. */
  async grow(head) {
    if (this.busy || this.through === null || head === this.through) return false;
    this.busy = true;
    try {
      if (head < this.through) {
        await this.begin(); // a backup was restored
        return true;
      }
      let grown = false;
      for (let pages = 0; this.through < head && pages < WINDOW / PAGE; pages += 1) {
        const told = await ask("log", { ...this.wanted, since: this.through, limit: PAGE }, this.app.signal);
        this.through = Math.max(this.through, told.through);
        const fresh = told.rows.map((line) => lineRow(line, this.columns, "fresh"));
        grown ||= fresh.length > 0;
        this.body.prepend(...fresh.reverse());
        while (this.size > this.window) {
          this.after = Number(this.body.lastElementChild.querySelector("[data-row]").textContent);
          this.body.lastElementChild.remove();
        }
        // So much came that none of what is shown would stay.
        if (head - this.through > this.window) break;
      }
      if (this.through < head) await this.begin();
      this.settle();
      return grown;
    } finally {
      this.busy = false;
    }
  }

  get older() {
    return this.after !== null && this.after > this.begins && this.after > 0;
  }

  async back() {
    const told = await ask("log", { ...this.wanted, through: this.after, newest_first: true, limit: PAGE }, this.app.signal);
    this.body.append(...told.rows.map((line) => lineRow(line, this.columns)));
    this.after = told.after;
    this.window = Math.max(this.window, this.size);
    this.settle();
    return told.rows.length;
  }
}

/** A short list for other views. */
export function latest(app, wanted, most) {
  const columns = COLUMNS.filter(([title]) => title !== "Fields" && !(title === "Scope" && wanted.scope));
  const lines = new Lines(app, wanted, columns, most, "Latest changes");
  const empty = nothing("No change yet.");
  const show = () => {
    empty.hidden = lines.size > 0;
    lines.element.hidden = lines.size === 0;
  };
  show();
  return {
    element: h("div", { class: "table" }, lines.element, empty),
    begin: () => lines.begin().then(show),
    pulse: (pulse) => lines.grow(pulse.head).then(show),
  };
}

export function logView(app, parameters) {
  const wanted = Object.fromEntries(["scope", "entity", "id", "client_id"].map((name) => [name, parameters.get(name)]).filter(([, given]) => given));
  const lines = new Lines(app, wanted, COLUMNS, WINDOW, "Changes, newest first");
  const told = h("p", { class: "told" });
  const older = h("button", { type: "button", on: { click: () => app.run(back) } }, "Older");
  const begin = h("p", { class: "faint" });
  const inputs = Object.fromEntries(
    [["scope", "Scope"], ["entity", "Entity"], ["id", "Id"], ["client_id", "Client"]].map(([name, title]) => [
      name,
      h("input", { id: `log-${name}`, value: wanted[name] ?? "", placeholder: title, "aria-label": title, autocomplete: "off", spellcheck: "false", maxlength: "255" }),
    ]),
  );
  const filter = h(
    "form",
    {
      class: "filter",
      role: "search",
      "aria-label": "Which changes",
      on: {
        submit: (event) => {
          event.preventDefault();
          const chosen = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]));
          location.hash = address("log", chosen);
        },
      },
    },
    Object.values(inputs),
    h("button", { type: "submit" }, "Show"),
    Object.keys(wanted).length > 0 && link("log", {}, { class: "button" }, "Show all"),
  );

  const show = () => {
    const kept = lines.begins > 0 ? ` History begins after cursor ${lines.begins}.` : "";
    told.textContent = `${plural(lines.size, "change")} shown.${kept}`;
    older.hidden = !lines.older;
    begin.textContent = lines.older ? `Looked back to cursor ${lines.after}.` : "That is the beginning of the log.";
  };
  const back = async () => {
    app.pause(); // who looks back does not want the rows to move
    await lines.back();
    show();
  };

  return {
    title: "Log",
    element: h("section", {}, heading("Log", filter), told, h("div", { class: "table" }, lines.element), h("div", { class: "more" }, older, begin)),
    begin: async () => {
      await lines.begin();
      show();
    },
    pulse: async (pulse) => {
      if (await lines.grow(pulse.head)) show();
    },
  };
}
