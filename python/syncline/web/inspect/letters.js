// Dead letters: mutations whose mutator failed of its own code; to look at, to retry, to discard.

import { ask, command } from "./api.js";
import { count, digits, h, heading, link, nothing, plural, roving, row, table, time, value } from "./dom.js";

const COLUMNS = [["Letter", "number"], ["Mutation", "name"], ["Scope", "name"], ["User", "name"], ["Failed", "time"], ["Attempts", "number"], ["Error", "wide"]];
const RETRY = "dead-letters/retry";
const DISCARD = "dead-letters/discard";

export function lettersView(app) {
  const body = h("tbody");
  const list = table("Dead letters, oldest first", COLUMNS, []);
  list.tBodies[0].replaceWith(body);
  const settle = roving(list);
  const told = h("p", { class: "told" });
  const empty = nothing("No mutator has failed of its own code.");
  const more = h("button", { type: "button", hidden: true, on: { click: () => app.run(() => load(next)) } }, "More");
  let next = null;
  let shown = null; // how many there are

  const load = async (after = 0) => {
    const answer = await ask("letters", { after }, app.signal);
    const rows = answer.rows.map((one) =>
      row(COLUMNS, [
        link("letter", { id: one.id }, { "data-row": true, "aria-label": `Letter ${one.id}: ${one.name}` }, String(one.id)),
        h("span", { class: "mutation" }, one.name),
        link("scope", { scope: one.scope }, { tabindex: "-1", class: "plain" }, one.scope),
        one.user === null ? h("span", { class: "faint" }, "nobody") : h("span", { class: "user" }, one.user),
        time(one.at),
        count(one.attempts),
        h("span", {}, h("span", { class: "error" }, one.error), one.message ? ` ${one.message}` : ""),
      ]),
    );
    if (after === 0) body.replaceChildren(...rows);
    else body.append(...rows);
    next = answer.next;
    shown = answer.kept;
    more.hidden = next === null;
    list.hidden = body.rows.length === 0;
    empty.hidden = body.rows.length > 0;
    const dropped = answer.dropped > 0 ? ` ${count(answer.dropped)} went unread.` : "";
    told.textContent = `${plural(body.rows.length, "letter")} shown of ${count(answer.kept)}.${dropped}`;
    settle();
  };
  return {
    title: "Dead letters",
    element: h("section", {}, heading("Dead letters"), told, h("div", { class: "table" }, list, empty), h("div", { class: "more" }, more)),
    begin: () => load(),
    pulse: async (pulse) => {
      if (shown !== null && pulse.dead_letters !== shown && body.rows.length <= 50) await load();
    },
  };
}

export function letterView(app, parameters) {
  const id = Number(parameters.get("id"));
  const holder = h("div");
  const outcome = h("p", { class: "outcome", role: "status" });

  const retry = async () => {
    const done = await command(RETRY, { id });
    if (done.ok) {
      app.say(`Letter ${id} was retried, and is done at cursor ${done.cursor}.`);
      location.hash = "#/letters";
    } else {
      outcome.textContent = `It failed again: ${done.code}${done.message ? `, ${done.message}` : ""}.`;
      await load();
    }
  };
  const discard = async () => {
    await command(DISCARD, { id });
    app.say(`Letter ${id} is discarded.`);
    location.hash = "#/letters";
  };
  let may = []; // which commands the admin hook allows
  const buttons = () => {
    if (may.length === 0) return h("p", { class: "faint" }, "Retrying and discarding is for whom the admin hook allows it.");
    // The second press within the same button discards: what is gone cannot be brought back.
    const sure = h("button", { type: "button", class: "danger", hidden: true, on: { click: () => app.run(discard), blur: () => ask_(false) } }, "Discard for good");
    const first = h("button", { type: "button", on: { click: () => ask_(true) } }, "Discard");
    const ask_ = (asked) => {
      sure.hidden = !asked;
      first.hidden = asked;
      if (asked) sure.focus();
    };
    return h(
      "div",
      { class: "buttons" },
      may.includes(RETRY) && h("button", { type: "button", class: "primary", on: { click: () => app.run(retry) } }, "Retry"),
      may.includes(DISCARD) && first,
      may.includes(DISCARD) && sure,
    );
  };
  const load = async () => {
    const told = await ask("letter", { id }, app.signal);
    const fact = (name, shown, kind = "") => h("div", { class: `fact ${kind}` }, h("dt", {}, name), h("dd", {}, shown));
    holder.replaceChildren(
      h("p", { class: "lead" }, h("span", { class: "error" }, told.error), told.message ? ` ${told.message}` : ""),
      buttons(),
      h(
        "dl",
        { class: "facts" },
        fact("Mutation", h("span", { class: "mutation" }, told.name)),
        fact("Scope", link("scope", { scope: told.scope }, {}, told.scope)),
        fact("User", told.user ?? h("span", { class: "faint" }, "nobody")),
        fact("Client", told.client_id === null ? h("span", { class: "faint" }, "backend") : `${told.client_id} #${digits(told.client_seq)}`),
        fact("Failed first", time(told.at)),
        fact("Tried last", time(told.tried_at)),
        fact("Attempts", count(told.attempts)),
        fact("Its time", time(told.ts)),
        fact("Seed", h("code", {}, told.seed), "wide"),
      ),
      h("h2", {}, "Arguments"),
      h("pre", { class: "trace" }, value(told.args)),
      h("h2", {}, "Traceback"),
      told.traceback ? h("pre", { class: "trace", tabindex: "0", "aria-label": "Traceback" }, told.traceback) : nothing("It was refused when it was retried; there is none."),
    );
  };
  return {
    title: `Dead letter ${id}`,
    element: h("section", {}, heading(h("span", {}, h("span", { class: "crumb" }, link("letters", {}, {}, "Dead letters"), " › "), `Letter ${id}`)), outcome, holder),
    begin: async () => {
      ({ may } = app.latest ?? (await ask("pulse", {}, app.signal)));
      await load();
    },
  };
}
