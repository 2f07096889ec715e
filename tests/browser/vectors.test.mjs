// The schedules that the C++ replica is held to as well; tests/vectors/README.md says what their steps mean.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { Core, fromWire, MemoryStore, parseJson, printJson, Rejected, toWire } from "./support.mjs";

const FOLDER = new URL("../vectors/replica/", import.meta.url);
const ENTITY = "k";

const mutators = {
  set: (tx, { id, value }) => tx.set(ENTITY, id, { value }),
  add: (tx, { id, by }) => tx.set(ENTITY, id, { n: (tx.get(ENTITY, id)?.n ?? 0) + by }),
  delete: (tx, { id }) => void tx.delete(ENTITY, id),
  cas: (tx, { id, version, value }) => {
    tx.expect(ENTITY, id, version);
    tx.set(ENTITY, id, { value });
  },
  refuse: (tx, { id }) => {
    tx.set(ENTITY, id, { half: true });
    throw new Rejected("there is no room", { code: "no_room" });
  },
};

class Player {
  constructor({ client_id, max_tries }) {
    this.options = { mutators, clientId: client_id, ...(max_tries && { maxTries: max_tries }) };
    this.store = new MemoryStore();
    this.requests = new Map();
    this.names = new Map(); // "$new" -> what it stood for
    this.events = [];
  }

  async boot() {
    this.core = new Core(this.options);
    this.core.load(await this.store.load());
    await this.flush();
  }

  async flush() {
    const taken = this.core.take();
    if (taken === null) return;
    await this.store.commit(taken.ops, this.store.rev + 1);
    this.core.flushed(taken.mark);
    this.events.push(...taken.events);
  }

  /** Whether what is there has what is expected: of objects, the fields that are named. "$name" is anything, always the same. */
  matches(is, expected, where) {
    if (typeof expected === "string" && expected.startsWith("$")) {
      const told = JSON.stringify(is);
      if (!this.names.has(expected)) {
        assert.ok(![...this.names.values()].includes(told), `${where}: ${expected} is not another one`);
        this.names.set(expected, told);
      }
      assert.equal(told, this.names.get(expected), where);
    } else if (Array.isArray(expected)) {
      assert.equal(is?.length, expected.length, `${where}: ${JSON.stringify(is)}`);
      expected.forEach((one, at) => this.matches(is[at], one, `${where}[${at}]`));
    } else if (typeof expected === "object" && expected !== null) {
      assert.ok(typeof is === "object" && is !== null, `${where}: ${JSON.stringify(is)}`);
      for (const [key, one] of Object.entries(expected)) {
        if (key.startsWith("$")) this.matches(Object.values(is), Object.values(expected), where);
        else this.matches(is[key], one, `${where}.${key}`);
      }
    } else {
      assert.deepEqual(is, expected, where);
    }
  }

  async answer(request, { status, json }, next) {
    const answered = this.core.answer(request, status, typeof json === "string" ? json : printJson(json));
    await this.flush(); // as the C++ replica does with what an answer brought
    if (next !== undefined) assert.equal(answered.next, next, JSON.stringify(answered));
  }

  views(confirmed, expected, where) {
    for (const [scope, documents] of Object.entries(expected)) {
      const is = this.core.view(scope, confirmed).scan(ENTITY).map(([id, document]) => [id, toWire(document)]);
      assert.deepEqual(Object.fromEntries(is), documents, `${where} ${scope}`);
    }
  }

  async step(step, where) {
    const { core } = this;
    if ("join" in step) core.join(step.join);
    else if ("leave" in step) core.leave(step.leave);
    else if ("mutate" in step) {
      const mutate = () => core.mutate(step.scope, step.mutate, fromWire(step.args));
      if (step.raises) assert.throws(mutate, { code: step.raises }, where);
      else mutate();
    } else if ("push" in step || "pull" in step) {
      if ("push" in step) await this.flush();
      const out = "push" in step ? core.nextPush() : core.nextPull(step.pull);
      const expected = "push" in step ? step.push : step.request;
      if (expected === null) {
        assert.equal(out, null, where);
        return;
      }
      assert.notEqual(out, null, `${where}: nothing is sent`);
      if (expected !== undefined) this.matches(parseJson(out.body), expected, where);
      if (step.as) this.requests.set(step.as, out.request);
      if (step.answer) await this.answer(out.request, step.answer, step.next);
    } else if ("answer" in step) await this.answer(this.requests.get(step.answer), step, step.next);
    else if ("lost" in step) core.lost(this.requests.get(step.lost));
    else if ("flush" in step) await this.flush();
    else if ("crash" in step) await this.boot();
    else if ("reopen" in step) {
      await this.flush();
      await this.boot();
    } else if ("view" in step) this.views(false, step.view, where);
    else if ("confirmed" in step) this.views(true, step.confirmed, where);
    else if ("events" in step) {
      const events = this.events.filter(({ kind }) => kind !== "settled"); // what the C++ replica does not tell
      this.events = [];
      this.matches(sorted(events), sorted(step.events), where);
    } else if ("pending" in step) this.matches(core.pending(), step.pending, where);
    else if ("refused" in step) this.matches(core.refusals(), step.refused, where);
    else if ("status" in step) this.matches({ identified: core.identified, client_id: core.meta.client_id }, step.status, where);
    else if ("scopes" in step) {
      const is = Object.fromEntries([...core.scopes].map(([name, scope]) =>
        [name, { ...scope, staged_pages: core.staged.get(name)?.length ?? 0 }]));
      assert.deepEqual(Object.keys(is).sort(), Object.keys(step.scopes).sort(), where);
      this.matches(is, step.scopes, where);
    } else if ("limits" in step) core.learnLimits(step.limits);
    else if ("news" in step) assert.equal(core.news(...step.news), step.is, where);
    else if ("discard" in step) {
      const entry = core.pending().find(({ place }) => place === step.discard);
      assert.equal(entry ? core.discard(entry.key) : false, step.is, where);
    } else assert.fail(`${where}: a step that nobody knows: ${JSON.stringify(step)}`);
  }
}

/** Whatever the order: what came of one document stays as it came. */
const sorted = (events) => {
  const key = ({ kind, scope, entity, id, place }) => JSON.stringify([kind, scope, entity, id, place]);
  return [...events].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
};

for (const file of readdirSync(FOLDER).filter((name) => name.endsWith(".json")).sort()) {
  const { about, replica, steps } = parseJson(readFileSync(new URL(file, FOLDER), "utf8"));
  test(`${file}: ${about}`, async () => {
    const player = new Player(replica ?? {});
    await player.boot();
    for (const [at, step] of steps.entries()) await player.step(step, `step ${at + 1} ${JSON.stringify(step).slice(0, 80)}`);
  });
}
