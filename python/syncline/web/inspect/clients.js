// The clients that named themselves when they pulled: how far each is behind, and what is known of what it pushed.

import { ask } from "./api.js";
import { address, ago, count, digits, h, heading, link, nothing, plural, roving, row, table } from "./dom.js";

const COLUMNS = [
  ["Client", "name"], ["User", "name"], ["Scope", "name"], ["Cursor", "number"], ["Lag", "number"], ["Pulled", "time"],
  ["Last mutation", "number"], ["Unconfirmed", "number"], ["Pushed", "time"],
];
const REFRESH_EVERY = 2; // pulses

export function clientsView(app, parameters) {
  const scope = parameters.get("scope");
  const order = parameters.get("order") === "last_seen" ? "last_seen" : "lag";
  const body = h("tbody");
  const list = table("Clients", COLUMNS, []);
  list.tBodies[0].replaceWith(body);
  const settle = roving(list);
  const told = h("p", { class: "told" });
  const live = h("p", { class: "note" });
  const empty = nothing("No client has said its name in a pull yet.");
  let waited = 0;

  const unconfirmed = (one) => {
    const last = BigInt(digits(one.last_seq));
    const settled = BigInt(digits(one.settled));
    if (last === 0n) return h("span", { class: "faint" }, "–");
    if (settled === 0n) return h("span", { class: "faint", title: "It never said which answers it has stored." }, "not told");
    return String(last > settled ? last - settled : 0n);
  };
  const clientRow = (one, now, most) =>
    row(COLUMNS, [
      link("log", { client_id: one.client_id }, { "data-row": true, class: "client", "aria-label": `Changes of ${one.client_id} in ${one.scope}` }, one.client_id),
      one.user === null ? h("span", { class: "faint" }, "nobody") : h("span", { class: "user" }, one.user),
      link("scope", { scope: one.scope }, { tabindex: "-1", class: "plain" }, one.scope),
      one.cursor === 0 ? h("span", { class: "faint", title: "It has not finished a pull yet." }, "0") : String(one.cursor),
      h("span", { class: one.lag > 0 ? "lag" : "faint" }, h("progress", { max: Math.max(1, most), value: one.lag, "aria-hidden": "true" }), h("span", {}, count(one.lag))),
      ago(one.last_seen, now),
      digits(one.last_seq) === "0" ? h("span", { class: "faint" }, "none") : digits(one.last_seq),
      unconfirmed(one),
      one.pushed_at === null ? h("span", { class: "faint" }, "never") : ago(one.pushed_at, now),
    ]);
  const load = async () => {
    const answer = await ask("clients", { order, ...(scope ? { scope } : {}) }, app.signal);
    const now = app.latest?.now ?? new Date().toISOString();
    const open = app.latest?.live;
    live.textContent = open ? `Connected live now: ${plural(open.connections, "connection")} with ${plural(open.subscriptions, "subscription")}. Others poll.` : "";
    const most = Math.max(0, ...answer.rows.map((one) => one.lag));
    const focused = document.activeElement?.closest?.("tr");
    const at = focused && body.contains(focused) ? focused.rowIndex - 1 : null;
    body.replaceChildren(...answer.rows.map((one) => clientRow(one, now, most)));
    settle();
    if (at !== null) body.rows[Math.min(at, body.rows.length - 1)]?.querySelector("[data-row]").focus();
    list.hidden = answer.rows.length === 0;
    empty.hidden = answer.rows.length > 0;
    told.textContent = answer.rows.length === 0 ? "" : `${plural(answer.rows.length, "position")} shown of ${count(answer.known)}${scope ? ` in ${scope}` : ""}.`;
  };
  const chosen = (name, words) => link("clients", { scope, order: name }, { class: "tab", "aria-current": order === name ? "true" : null }, words);
  return {
    title: "Clients",
    element: h(
      "section",
      {},
      heading("Clients", h("div", { class: "tabs" }, chosen("lag", "Furthest behind"), chosen("last_seen", "Seen last")), scope && h("a", { class: "button", href: address("clients", { order }) }, "All scopes")),
      h(
        "p",
        { class: "note" },
        "What a client has not sent yet only that client knows. Here stands what the server knows: the number of its last mutation, and how many answers it has not confirmed to have stored.",
      ),
      live,
      told,
      h("div", { class: "table" }, list, empty),
    ),
    begin: load,
    pulse: async () => {
      waited += 1;
      if (waited % REFRESH_EVERY === 0) await load();
    },
  };
}
