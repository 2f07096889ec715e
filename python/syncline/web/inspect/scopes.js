// The scopes, and one of them with its entities, documents and changes.

import { ask } from "./api.js";
import { address, count, h, heading, link, nothing, plural, roving, row, table, value } from "./dom.js";
import { latest } from "./log.js";

const SCOPES = [["Scope", "name"], ["Documents", "number"], ["Head", "number"], ["Floor", "number"], ["History begins", "number"]];
const DOCUMENTS = [["Id", "name"], ["Document", "wide"]];
const REFRESH_EVERY = 3; // pulses

function atLeast(number, exact) {
  return h("span", {}, exact ? "" : h("span", { title: "at least", "aria-label": "at least" }, "≥ "), count(number));
}

export function scopesView(app, parameters) {
  const contains = parameters.get("contains") ?? "";
  const body = h("tbody");
  const list = table("Scopes", SCOPES, []);
  list.tBodies[0].replaceWith(body);
  const settle = roving(list);
  const told = h("p", { class: "told" });
  const more = h("button", { type: "button", hidden: true, on: { click: () => app.run(() => load(next)) } }, "More");
  const search = h("input", { id: "scope-search", type: "search", value: contains, placeholder: "Name contains …", "aria-label": "Name contains", autocomplete: "off", spellcheck: "false", maxlength: "255" });
  let next = null;
  let known = 0;
  let drawn = null; // the head that is shown
  let waited = 0;

  const scopeRow = (one) =>
    row(SCOPES, [
      link("scope", { scope: one.scope }, { "data-row": true }, one.scope),
      atLeast(one.documents, one.exact),
      String(one.head),
      one.floor === 0 ? h("span", { class: "faint" }, "0") : String(one.floor),
      one.log_floor === 0 ? h("span", { class: "faint" }, "0") : String(one.log_floor),
    ]);
  const load = async (after = "") => {
    const answer = await ask("scopes", { contains, after: after ?? "" }, app.signal);
    if (after === "") body.replaceChildren();
    body.append(...answer.rows.map(scopeRow));
    next = answer.next;
    known = answer.known;
    more.hidden = next === null;
    told.textContent = `${plural(body.rows.length, "scope")} shown of ${count(known)}.`;
    settle();
  };
  // While nobody has gone on to a further page the list is kept fresh, its rows where they are.
  const refresh = async () => {
    const answer = await ask("scopes", { contains }, app.signal);
    const focused = document.activeElement?.closest?.("tr");
    const at = focused && body.contains(focused) ? focused.rowIndex - 1 : null;
    body.replaceChildren(...answer.rows.map(scopeRow));
    settle();
    if (at !== null) body.rows[Math.min(at, body.rows.length - 1)]?.querySelector("[data-row]").focus();
    told.textContent = `${plural(body.rows.length, "scope")} shown of ${count(answer.known)}.`;
    next = answer.next;
    more.hidden = next === null;
  };
  return {
    title: "Scopes",
    element: h(
      "section",
      {},
      heading(
        "Scopes",
        h(
          "form",
          {
            class: "filter", role: "search", "aria-label": "Which scopes",
            on: {
              submit: (event) => {
                event.preventDefault();
                location.hash = address("scopes", { contains: search.value.trim() });
              },
            },
          },
          search,
          h("button", { type: "submit" }, "Show"),
        ),
      ),
      told,
      h("div", { class: "table" }, list),
      h("div", { class: "more" }, more),
    ),
    begin: () => load(),
    pulse: async (pulse) => {
      drawn ??= pulse.head;
      waited += 1;
      if (pulse.head === drawn || waited % REFRESH_EVERY !== 0 || body.rows.length > 100) return;
      drawn = pulse.head;
      await refresh();
    },
  };
}

export function scopeView(app, parameters) {
  const scope = parameters.get("scope") ?? "";
  const facts = h("dl", { class: "facts" });
  const entities = h("div", { class: "tabs" });
  const holder = h("div");
  const changes = latest(app, { scope }, 12);
  let entity = parameters.get("entity");
  const prefix = h("input", { id: "id-prefix", type: "search", value: parameters.get("prefix") ?? "", placeholder: "Id begins with …", "aria-label": "Id begins with", autocomplete: "off", spellcheck: "false", maxlength: "255" });

  const show = (told) => {
    entity ??= told.entities[0]?.entity ?? null;
    facts.replaceChildren(
      ...[
        ["Documents", atLeast(told.entities.reduce((sum, one) => sum + one.documents, 0), told.exact)],
        ["Head", String(told.head)],
        ["Floor", String(told.floor)],
        ["History begins", String(told.log_floor)],
      ].map(([name, shown]) => h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, shown))),
    );
    entities.replaceChildren(
      ...told.entities.map((one) =>
        link(
          "scope",
          { scope, entity: one.entity },
          { "aria-current": one.entity === entity ? "true" : null, class: "tab" },
          one.entity,
          " ",
          h("span", { class: "faint" }, atLeast(one.documents, told.exact)),
        ),
      ),
    );
  };
  const documents = async () => {
    if (!entity) {
      holder.replaceChildren(nothing("There is no document in this scope."));
      return;
    }
    const told = await ask("documents", { scope, entity, prefix: prefix.value, limit: 100 }, app.signal);
    const list = table(
      `Documents of ${entity}`,
      DOCUMENTS,
      told.documents.map((one) => row(DOCUMENTS, [link("document", { scope, entity, id: one.id }, { "data-row": true, class: "id" }, one.id), value(one.data)])),
      { class: "fields" },
    );
    roving(list)();
    holder.replaceChildren(
      told.documents.length === 0 ? nothing(`No id of ${entity} begins like that.`) : h("div", { class: "table" }, list),
      told.more ? h("p", { class: "faint" }, "There are more; a longer beginning of the id finds them.") : "",
    );
  };
  const search = h(
    "form",
    {
      class: "filter", role: "search", "aria-label": "Which documents",
      on: {
        submit: (event) => {
          event.preventDefault();
          app.place("scope", { scope, entity, prefix: prefix.value });
          app.run(documents);
        },
      },
    },
    prefix,
    h("button", { type: "submit" }, "Show"),
  );
  return {
    title: scope,
    element: h(
      "section",
      {},
      heading(h("span", {}, h("span", { class: "crumb" }, link("scopes", {}, {}, "Scopes"), " › "), scope), link("log", { scope }, { class: "button" }, "Its log"), link("clients", { scope }, { class: "button" }, "Its clients")),
      facts,
      h("div", { class: "between" }, entities, search),
      holder,
      h("h2", {}, "Latest changes"),
      changes.element,
    ),
    begin: async () => {
      show(await ask("scope", { scope }, app.signal));
      await Promise.all([documents(), changes.begin()]);
    },
    pulse: (pulse) => changes.pulse(pulse),
  };
}
