// One document: how it stood at any cursor, by a slider over its life, and its versions with what changed in each.

import { ask, Refused } from "./api.js";
import { author, changes, count, digits, h, heading, link, mutation, nothing, operation, plural, roving, row, table, time, value } from "./dom.js";

const VERSIONS = [["Version", "number"], ["Cursor", "number"], ["Time", "time"], ["Change", "kind"], ["By", "name"], ["Mutation", "name"], ["Fields", "wide"]];
const FIELDS = [["Field", "name"], ["Value", "wide"]];
const PAGES = [50, 500]; // versions at first, and when more are asked for

export function documentView(app, parameters) {
  const key = Object.fromEntries(["scope", "entity", "id"].map((name) => [name, parameters.get(name) ?? ""]));
  let at = parameters.has("at") ? Number(parameters.get("at")) : null; // null: now, and it moves on
  let told = null;
  let head = 0;
  let asked = 0; // the latest question about a state; answers to earlier ones are late
  let limit = PAGES[0];
  let busy = false;

  // ------------------------------------------------------------------------------------------------- the slider

  const slider = h("input", { type: "range", id: "cursor-slider", "aria-label": "Cursor", step: "1" });
  const ticks = h("svg", { class: "ticks", viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const exact = h("input", { type: "number", id: "cursor-exact", min: "0", step: "1", inputmode: "numeric", "aria-label": "At cursor" });
  const before = h("button", { type: "button", title: "The change before", on: { click: () => step(-1) } }, "‹ Before");
  const after = h("button", { type: "button", title: "The change after", on: { click: () => step(1) } }, "After ›");
  const now = h("button", { type: "button", on: { click: () => select(null) } }, "Now");
  const moment = h("p", { class: "moment", "aria-live": "polite" });
  const state = h("div", { class: "state" });
  const history = h("div");
  const explained = h("p", { class: "note" });
  const badge = h("span", { class: "badge" });

  const position = () => at ?? head;
  /** The version that was in force at a cursor, of those that are known. */
  const versionAt = (cursor) => told.versions.find((one) => one.cursor <= cursor);

  const step = (direction) => {
    const cursors = told.versions.map((one) => one.cursor);
    const here = position();
    const target = direction < 0 ? cursors.find((one) => one < here) : cursors.filter((one) => one > here).at(-1);
    if (target !== undefined) select(target);
    else if (direction > 0) select(null);
    else select(Number(slider.min));
  };
  slider.addEventListener("input", () => select(Number(slider.value) >= head ? null : Number(slider.value)));
  slider.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (direction === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (event.shiftKey) {
      const to = Math.max(Number(slider.min), position() + direction);
      select(to >= head ? null : to);
    } else step(direction);
  });
  exact.addEventListener("change", () => {
    const to = Number(exact.value);
    if (exact.value === "" || !Number.isInteger(to) || to < 0) exact.value = String(position());
    else select(to >= head ? null : to);
  });

  const place = () => {
    slider.max = String(head);
    slider.value = String(position());
    if (document.activeElement !== exact || at !== null) exact.value = String(position());
    exact.max = String(head);
    now.setAttribute("aria-pressed", String(at === null));
    const version = told === null ? undefined : versionAt(position());
    slider.setAttribute("aria-valuetext", `cursor ${position()}${version ? `, version ${digits(version.version)}` : ""}`);
    for (const tr of history.querySelectorAll("tbody tr")) tr.classList.toggle("chosen", tr.dataset.cursor === String(version?.cursor));
    const least = Number(slider.min);
    const length = Math.max(1, head - least);
    ticks.replaceChildren(
      ...(told?.versions ?? []).filter((one) => one.cursor >= least).map((one) => {
        const x = (((one.cursor - least) / length) * 1000).toFixed(2);
        return h("line", { x1: x, x2: x, y1: 0, y2: 10, class: one.op });
      }),
    );
  };

  const select = (cursor) => {
    at = cursor;
    place();
    app.place("document", { ...key, at });
    app.run(look);
  };

  // -------------------------------------------------------------------------------------------------- the state

  const whole = async (name, cell) => {
    const answer = await ask("state", { ...key, cursor: Number(state.dataset.cursor), whole: name }, app.signal);
    cell.replaceChildren(value(answer.fields[0].value));
  };
  const fieldRow = (one, changed) => {
    const shown = h("div", {}, value(one.value));
    if (one.value.size > one.value.text.length) {
      shown.append(" ", h("button", { type: "button", class: "small", on: { click: () => app.run(() => whole(one.name, shown)) } }, "Show whole"));
    }
    return row(FIELDS, [h("span", { class: "field" }, one.name), shown], { class: changed.has(one.name) ? "changed" : null });
  };
  const look = async () => {
    const number = (asked += 1);
    const cursor = position();
    let answer;
    try {
      answer = await ask("state", { ...key, cursor }, app.signal);
    } catch (error) {
      if (number !== asked) return;
      if (error instanceof Refused && error.code === "history_gone") {
        state.dataset.cursor = String(cursor);
        state.replaceChildren(nothing("What came before is forgotten: ", error.message));
        return;
      }
      throw error;
    }
    if (number !== asked) return;
    const version = versionAt(cursor);
    state.dataset.cursor = String(answer.cursor);
    // Told to who listens: so without what changes each second, and only when it changed.
    const words = h(
      "span",
      {},
      at === null ? "Now" : `At cursor ${cursor}`,
      answer.version === 0 ? ": there is no such document." : `: version ${digits(answer.version)}`,
      version && answer.version !== 0 ? [", since ", time(version.ts), " by ", author(version), " through ", mutation(version)] : null,
    );
    if (words.textContent !== moment.textContent) moment.replaceChildren(words);
    if (answer.fields === null) {
      state.replaceChildren(nothing(version?.op === "delete" ? "It was deleted." : "It was not there."));
      return;
    }
    const changed = new Set((version?.cursor === undefined ? [] : (version.changes ?? [])).map((diff) => diff.field.split(".")[0]));
    state.replaceChildren(
      h("div", { class: "table" }, table("Fields", FIELDS, answer.fields.map((one) => fieldRow(one, changed)), { class: "fields" })),
      answer.fields.length === 0 ? nothing("It has no field.") : "",
      answer.more_fields > 0 ? h("p", { class: "faint" }, `and ${plural(answer.more_fields, "field")} more`) : "",
    );
  };

  // ------------------------------------------------------------------------------------------------ the history

  const load = async () => {
    told = await ask("document", { ...key, limit }, app.signal);
    head = Math.max(head, told.head);
    const oldest = told.versions.at(-1);
    const least = oldest === undefined ? told.begins : told.complete ? oldest.cursor - 1 : oldest.cursor;
    slider.min = String(Math.max(0, Math.min(Math.max(told.begins, least), head)));
    badge.textContent = told.state === "live" ? `version ${digits(told.version)}` : told.state;
    badge.className = `badge ${told.state}`;
    explained.textContent = told.words;
    const rows = told.versions.map((one) =>
      row(
        VERSIONS,
        [
          link("document", { ...key, at: one.cursor }, { "data-row": true, class: "version", "aria-label": `Version ${digits(one.version)}, ${one.op}, cursor ${one.cursor}` }, digits(one.version)),
          String(one.cursor),
          time(one.ts),
          operation(one.op),
          author(one),
          mutation(one),
          changes(one, 8),
        ],
        { "data-cursor": String(one.cursor) },
      ),
    );
    const list = table("Versions, newest first", VERSIONS, rows);
    roving(list)();
    list.addEventListener("click", (event) => {
      // The same page, at another cursor: nothing is loaded anew, and the focus stays.
      const chosen = event.target.closest("a.version");
      if (!chosen || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      select(Number(chosen.closest("tr").dataset.cursor));
    });
    const end =
      told.versions.length === 0 ? nothing(told.state === "unknown" ? "There is no history." : "Its history is no longer kept.")
      : told.complete === true ? null
      : told.complete === false ? h("p", { class: "faint" }, "What came before is forgotten.")
      : limit < PAGES[1] ? h("button", { type: "button", on: { click: () => app.run(more) } }, "Older versions")
      : h("p", { class: "faint" }, `Only the last ${count(limit)} versions are shown here; the command “syncline history” shows all.`);
    const focused = history.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.cursor : undefined;
    history.replaceChildren(told.versions.length > 0 ? h("div", { class: "table" }, list) : "", end ?? "");
    if (focused) history.querySelector(`tr[data-cursor="${CSS.escape(focused)}"] [data-row]`)?.focus();
    place();
  };
  const more = async () => {
    limit = PAGES[1];
    await load();
  };

  return {
    title: `${key.entity} ${key.id}`,
    element: h(
      "section",
      {},
      heading(
        h(
          "span",
          {},
          h("span", { class: "crumb" }, link("scope", { scope: key.scope }, {}, key.scope), " › ", link("scope", { scope: key.scope, entity: key.entity }, {}, key.entity), " › "),
          h("span", { class: "id" }, key.id),
        ),
        badge,
        link("log", key, { class: "button" }, "Its log"),
      ),
      explained,
      h(
        "div",
        { class: "travel", role: "group", "aria-label": "The document at a cursor" },
        h("div", { class: "track" }, ticks, slider),
        h("div", { class: "controls" }, before, after, now, h("label", { for: "cursor-exact" }, "Cursor"), exact),
        moment,
      ),
      state,
      h("h2", {}, "Versions"),
      history,
    ),
    begin: async () => {
      head = app.latest?.head ?? 0;
      await load();
      if (at !== null && at >= head) at = null;
      place();
      await look();
    },
    pulse: async (pulse) => {
      if (busy || told === null || pulse.head === head) return;
      busy = true;
      try {
        const since = head;
        head = pulse.head;
        if (head < since) {
          await load(); // a backup was restored
          await look();
          return;
        }
        const fresh = await ask("log", { ...key, since, limit: 1 }, app.signal);
        if (fresh.rows.length === 0 && fresh.through >= head) place();
        else {
          await load();
          if (at === null) await look();
        }
      } finally {
        busy = false;
      }
    },
  };
}
