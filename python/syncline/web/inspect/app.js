// The page: which view is shown, what keys do, whether the server is there. The views bring what they show; every
// second while the page follows, and is looked at, one small question (the pulse) tells them what is new.

import { ask, Refused, setToken } from "./api.js";
import { clientsView } from "./clients.js";
import { documentView } from "./document.js";
import { address, count, h, link, nothing } from "./dom.js";
import { letterView, lettersView } from "./letters.js";
import { logView } from "./log.js";
import { healthView, overviewView } from "./overview.js";
import { Rates } from "./plots.js";
import { scopesView, scopeView } from "./scopes.js";

const EVERY = 1000; // milliseconds between pulses
const SLOWEST = 8000; // between tries while the server is away

// [address, name, view]; the digit keys go in this order.
const VIEWS = [
  ["overview", "Overview", overviewView],
  ["log", "Log", logView],
  ["scopes", "Scopes", scopesView],
  ["clients", "Clients", clientsView],
  ["letters", "Dead letters", lettersView],
  ["health", "Health", healthView],
];
const WITHIN = { scope: ["scopes", scopeView], document: ["scopes", documentView], letter: ["letters", letterView] };

const byId = (id) => document.getElementById(id);
const main = byId("main");
const status = byId("status");

// ------------------------------------------------------------------------------------------------ what views know

/** What each view is given. `signal` ends with the view. */
const app = {
  latest: null, // the last pulse
  rates: new Rates(),
  signal: null,
  /** Says something that just happened. */
  say: (words) => tell("", words),
  /** Does something a person asked for; a failure is told, and stays told until something goes well. */
  run: async (work) => {
    try {
      await work();
      if (status.dataset.kind === "failed") tell("", "");
    } catch (error) {
      failed(error);
    }
  },
  pause: () => follow(false),
  /** Keeps the address true without leaving the view. */
  place: (view, parameters) => {
    history.replaceState(null, "", address(view, parameters));
    shown = location.hash;
  },
};

function tell(kind, words, ...more) {
  status.dataset.kind = kind;
  if (words === "" || (status.firstChild?.textContent ?? "") !== words || more.length > 0) {
    status.replaceChildren(...(words ? [h("span", {}, words), ...more] : []));
  }
}

function failed(error) {
  if (error?.name === "AbortError" || leaving.signal.aborted) return;
  if (!(error instanceof Refused)) {
    tell("failed", "This page has a fault; what it shows may be old.");
    throw error;
  }
  if (error.passing) lost(error);
  else if (error.status === 401) askForToken();
  else if (error.status === 403) {
    tell("failed", `This is not for you: ${error.message}.`, h("button", { type: "button", on: { click: askForToken } }, "Use another token"));
  } else tell("failed", `The server refused: ${error.message}.`);
}

// ---------------------------------------------------------------------------------------------------------- views

let view = null;
let shown = null; // the address of what is shown
let leaving = new AbortController();

function route() {
  const hash = location.hash.startsWith("#/") ? location.hash : "#/overview";
  const [name, query = ""] = hash.slice(2).split(/\?(.*)/s);
  const parameters = new URLSearchParams(query);
  const [within, made] = WITHIN[name] ?? [name, VIEWS.find(([own]) => own === name)?.[2]];
  return { hash, within, made, parameters };
}

async function open(focus) {
  const { hash, within, made, parameters } = route();
  shown = location.hash;
  leaving.abort();
  leaving = new AbortController();
  const mine = leaving;
  app.signal = mine.signal;
  view = made ? made(app, parameters) : { title: "Not here", element: nothing(`There is no ${hash}.`), begin: async () => {} };
  document.title = `${view.title} – Syncline inspector`;
  main.replaceChildren(view.element);
  for (const entry of byId("views").querySelectorAll("a")) {
    if (entry.dataset.view === within) entry.setAttribute("aria-current", "page");
    else entry.removeAttribute("aria-current");
  }
  if (focus) {
    scrollTo(0, 0);
    (main.querySelector("h1") ?? main).focus({ preventScroll: true });
  }
  await begin(mine);
}

async function begin(mine) {
  const begun = view;
  if (begun.beginning) return; // a pulse came before it was ready
  begun.beginning = true;
  begun.ready = false;
  main.setAttribute("aria-busy", "true");
  try {
    await begun.begin();
    begun.ready = true;
    if (status.dataset.kind === "failed") tell("", "");
  } catch (error) {
    if (mine.signal.aborted) return;
    // What is refused for good is not asked again and again; another token, or address, begins anew.
    begun.ready = error instanceof Refused && !error.passing && error.status !== 401;
    if (error instanceof Refused && error.status === 404) main.append(nothing(error.message));
    else failed(error);
  } finally {
    begun.beginning = false;
    if (!mine.signal.aborted) main.removeAttribute("aria-busy");
  }
}

addEventListener("hashchange", () => {
  if (location.hash !== shown && (location.hash === "" || location.hash.startsWith("#/"))) open(true);
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

byId("views").append(
  ...VIEWS.map(([name, title], at) =>
    h("li", {}, link(name, {}, { "data-view": name, "aria-keyshortcuts": String(at + 1) }, title, name === "letters" && h("span", { class: "count", id: "letters-count", hidden: true }))),
  ),
);

// ---------------------------------------------------------------------------------------------------------- pulse

let following = true;
let away = 0; // how often in a row the server did not answer
let waiting = 0; // the timer of the next pulse
let asking = false;
let forbidden = false; // the pulse was: it may be allowed later, and is asked for now and then

function next(milliseconds) {
  clearTimeout(waiting);
  if (!document.hidden) waiting = setTimeout(pulse, milliseconds);
}

async function pulse() {
  if (asking) return;
  asking = true;
  try {
    const told = await ask("pulse");
    const previous = app.latest;
    const returned = away > 0;
    app.latest = told;
    away = 0;
    forbidden = false;
    app.rates.add(told);
    arrived(told, previous, returned);
    if (!view.ready) await begin(leaving);
    else if (following && view.pulse) await view.pulse(told, previous);
  } catch (error) {
    forbidden = error instanceof Refused && error.status === 403;
    if (error?.name !== "AbortError") failed(error);
  } finally {
    asking = false;
    // While a token is asked for there is nothing to ask with.
    if (!byId("token-dialog").open && (following || away > 0)) next(forbidden ? SLOWEST : away > 0 ? Math.min(SLOWEST, EVERY * 2 ** (away - 1)) : EVERY);
  }
}

function arrived(told, previous, returned) {
  document.body.dataset.server = "here";
  byId("head-cursor").textContent = String(told.head);
  byId("letters-count").textContent = told.dead_letters > 0 ? count(told.dead_letters) : "";
  byId("letters-count").hidden = told.dead_letters === 0;
  byId("server").textContent = `Syncline ${told.version} · epoch ${told.epoch} · ${told.user}`;
  if (previous !== null && told.epoch !== previous.epoch) {
    const restored = told.head < previous.head ? " Its head is lower than before: a backup was restored." : "";
    tell("restarted", `The server was started again; it goes on in epoch ${told.epoch}.${restored}`, dismiss());
    view.ready = false; // what it shows may be of a history that is gone: from the beginning
  } else if (returned) tell("", "The server is back.");
  else if (status.dataset.kind === "failed" && previous === null) tell("", "");
}

function dismiss() {
  return h("button", { type: "button", class: "small", on: { click: () => tell("", "") } }, "Dismiss");
}

function lost(error) {
  away += 1;
  document.body.dataset.server = "away";
  app.rates.gap();
  view?.away?.();
  const why = error.status === 0 ? "The server does not answer" : `The server cannot answer now (${error.message})`;
  tell("away", `${why}. It is asked again until it does.`);
  if (!asking) next(EVERY);
}

function follow(on) {
  following = on;
  byId("follow").setAttribute("aria-pressed", String(on));
  byId("follow-words").textContent = on ? "Following" : "Paused";
  document.body.dataset.following = String(on);
  clearTimeout(waiting);
  if (on) {
    app.rates.gap();
    next(0);
  }
}

byId("follow").addEventListener("click", () => follow(!following));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(waiting);
  else if (following || away > 0) next(0);
});

// -------------------------------------------------------------------------------------------------------- dialogs

function askForToken() {
  const dialog = byId("token-dialog");
  if (dialog.open) return;
  clearTimeout(waiting);
  byId("token").value = "";
  dialog.showModal();
}

byId("token-dialog").addEventListener("close", () => {
  setToken(byId("token").value.trim());
  byId("token").value = "";
  tell("", "");
  next(0);
  open(false);
});

const goDialog = byId("go-dialog");
const fields = { scope: byId("go-scope"), entity: byId("go-entity"), id: byId("go-id") };

function goTo() {
  const { parameters } = route();
  const named = parameters.has("scope");
  for (const [name, input] of Object.entries(fields)) input.value = (named && parameters.get(name)) || "";
  goDialog.showModal();
  fields.scope.select();
  suggest("scope");
}

// What begins or goes on like what was typed; the answer to an earlier letter is late, and dropped.
let typed = 0;
async function suggest(name) {
  const number = (typed += 1);
  const { scope, entity, id } = Object.fromEntries(Object.entries(fields).map(([own, input]) => [own, input.value]));
  try {
    let found = [];
    if (name === "scope") found = (await ask("scopes", { contains: scope, limit: 20 })).rows.map((one) => one.scope);
    else if (name === "entity" && scope) found = (await ask("scope", { scope })).entities.map((one) => one.entity);
    else if (name === "id" && scope && entity) {
      found = (await ask("documents", { scope, entity, prefix: id, limit: 20 })).documents.map((one) => one.id);
    }
    if (number === typed) byId(fields[name].getAttribute("list")).replaceChildren(...found.map((one) => h("option", { value: one })));
  } catch {
    // there is nothing to suggest; going there says why
  }
}
for (const [name, input] of Object.entries(fields)) {
  input.addEventListener("focus", () => suggest(name));
  input.addEventListener("input", () => suggest(name));
}
byId("go-form").addEventListener("submit", () => {
  const [scope, entity, id] = [fields.scope.value, fields.entity.value, fields.id.value];
  location.hash = entity && id ? address("document", { scope, entity, id }) : address("scope", { scope, entity });
});

byId("go").addEventListener("click", goTo);
byId("help").addEventListener("click", () => byId("help-dialog").showModal());
for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

// ----------------------------------------------------------------------------------------------------------- keys

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
  if (document.querySelector("dialog[open]") || event.target.closest("input:not([type=range])")) return;
  const digit = VIEWS[Number(event.key) - 1];
  if (digit) location.hash = address(digit[0]);
  else if (event.key === "/") goTo();
  else if (event.key === "f") follow(!following);
  else if (event.key === "?") byId("help-dialog").showModal();
  else if (["j", "k", "ArrowDown"].includes(event.key) && !event.target.closest("[data-row]")) {
    // Into the first list of the view; from then on the list has the key.
    const first = main.querySelector("[data-row][tabindex='0']");
    if (!first || (event.key === "ArrowDown" && event.target !== main && event.target.tagName !== "H1")) return;
    first.focus();
  } else return;
  event.preventDefault();
});

follow(true);
open(false);
