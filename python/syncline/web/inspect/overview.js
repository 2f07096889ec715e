// The overview: rates, and the newest changes. Health: sizes, limits, mutators, feeds, upkeep.

import { ask } from "./api.js";
import { ago, bytes, count, h, heading, link, nothing, plural, row, seconds, table } from "./dom.js";
import { latest } from "./log.js";
import { plot } from "./plots.js";

const LATEST = 12;
const HEALTH_EVERY = 5; // pulses

function fact(name, value, kind = "") {
  return h("div", { class: `fact ${kind}` }, h("dt", {}, name), h("dd", {}, value));
}

export function overviewView(app) {
  const plots = [
    plot("Pushes", "pushes", app.rates),
    plot("Mutations", "mutations", app.rates),
    plot("Pulls", "pulls", app.rates),
    plot("Refused", "refused", app.rates, "warn"),
  ];
  const facts = h("dl", { class: "facts" });
  const changes = latest(app, {}, LATEST);
  const show = (pulse) => {
    const { counters } = pulse;
    facts.replaceChildren(
      fact("Waiting now", count(pulse.waiting), pulse.waiting > 100 ? "warn" : ""),
      fact("Mutations", count(counters.mutations)),
      fact("Refused", count(counters.refused)),
      fact("Repeated", count(counters.duplicates)),
      fact("Changes", count(counters.changes)),
      fact("Pulls", count(counters.pulls)),
      fact("Live connections", count(pulse.live.connections)),
      fact("Dead letters", link("letters", {}, {}, count(pulse.dead_letters)), pulse.dead_letters > 0 ? "warn" : ""),
    );
    for (const one of plots) one.draw();
  };
  return {
    title: "Overview",
    element: h(
      "section",
      {},
      heading("Overview", h("p", { class: "faint" }, "Counted since the engine was opened.")),
      h("div", { class: "plots" }, plots.map((one) => one.element)),
      facts,
      h("h2", {}, "Latest changes"),
      changes.element,
    ),
    begin: async () => {
      if (app.latest) show(app.latest);
      await changes.begin();
    },
    pulse: async (pulse) => {
      show(pulse);
      await changes.pulse(pulse);
    },
    away: () => plots.forEach((one) => one.draw()),
  };
}

const MUTATORS = [["Mutator", "name"], ["Calls", "number"], ["Failed", "number"], ["Mean", "number"], ["Slowest", "number"], ["In all", "number"]];
const FEEDS = [["Feed", "name"], ["Behind, in cursors", "number"]];
const HOLDS = {
  documents: "Documents", tombstones: "Deletions kept", log_lines: "Log lines", scopes: "Scopes", clients: "Clients",
  results: "Stored results", unlogged: "Notes of the engine",
};
const LIMITS = {
  body_bytes: ["Request body", bytes], mutations: ["Mutations in a push", count], page_bytes: ["Page of a pull", bytes],
  document_bytes: ["Document", bytes], nesting: ["Nesting", count], snapshot_bytes: ["Snapshot", bytes],
};

export function healthView(app) {
  const holder = h("div");
  let holds = null;
  let waited = 0;
  const counting = h(
    "button",
    { type: "button", on: { click: () => app.run(() => load(true)) } },
    "Count what is stored",
  );
  const draw = (told, now) => {
    holds = told.holds ?? holds;
    const upkeep = told.upkeep;
    const forgotten = Object.values(upkeep.forgotten).reduce((sum, one) => sum + one, 0);
    holder.replaceChildren(
      h(
        "dl",
        { class: "facts" },
        fact("Database", told.database),
        fact("File", bytes(told.storage.bytes)),
        fact("Write-ahead log", bytes(told.storage.wal_bytes)),
        fact("Free disk", bytes(told.storage.free_disk_bytes), told.storage.free_disk_bytes < 2 * told.storage.bytes ? "warn" : ""),
        fact("Opened for", told.read_only ? "reading" : "writing"),
        fact("Waiting pushes", count(told.waiting)),
        fact("Dead letters", count(told.dead_letters), told.dead_letters > 0 ? "warn" : ""),
        fact("Dropped unread", count(told.dead_letters_dropped), told.dead_letters_dropped > 0 ? "warn" : ""),
      ),
      h("h2", {}, "Mutators"),
      told.mutators.length === 0 ? nothing("None ran since the engine was opened.") : h("div", { class: "table" }, table("Mutators", MUTATORS, told.mutators.map((one) =>
        row(MUTATORS, [
          h("span", { class: "mutation" }, one.name), count(one.calls), count(one.failures), seconds(one.seconds / Math.max(1, one.calls)), seconds(one.slowest),
          seconds(one.seconds),
        ]),
      ))),
      h("h2", {}, "Upkeep"),
      h(
        "dl",
        { class: "facts" },
        fact("Rounds", count(upkeep.rounds)),
        fact("Failed", count(upkeep.failures), upkeep.failures > 0 ? "warn" : ""),
        fact("Last round", upkeep.last_round_at === null ? "none yet" : ago(upkeep.last_round_at, now)),
        fact("It took", upkeep.last_round_at === null ? "–" : seconds(upkeep.last_round_took)),
        fact("Rows forgotten", count(forgotten)),
      ),
      upkeep.last_error === null ? "" : h("pre", { class: "trace" }, upkeep.last_error),
      told.feeds.length === 0 ? "" : h("h2", {}, "Feeds"),
      told.feeds.length === 0 ? "" : h("div", { class: "table" }, table("Feeds", FEEDS, told.feeds.map((one) => row(FEEDS, [one.name, count(one.lag)])))),
      h("h2", {}, "Limits"),
      h("dl", { class: "facts" }, Object.entries(LIMITS).map(([name, [title, words]]) => fact(title, words(told.limits[name])))),
      h("h2", {}, "Stored"),
      holds === null ? "" : h("dl", { class: "facts" }, Object.entries(HOLDS).map(([name, title]) => fact(title, count(holds[name])))),
    );
  };
  const load = async (counted = false) => {
    const told = await ask("health", { count: counted }, app.signal);
    draw(told, app.latest?.now ?? new Date().toISOString());
    if (counted) app.say(`${plural(told.holds.documents, "document")} counted.`);
  };
  return {
    title: "Health",
    element: h("section", {}, heading("Health"), holder, h("p", {}, counting, h("span", { class: "faint" }, " scans the keys of the whole database."))),
    begin: () => load(),
    pulse: async () => {
      waited += 1;
      if (waited % HEALTH_EVERY === 0) await load();
    },
  };
}
