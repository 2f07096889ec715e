// What these tests share: the client, the vectors, and a core whose disk and network are in the test's hand.

import { readFileSync } from "node:fs";

import * as client from "../../python/syncline/web/client.js";

export * from "../../python/syncline/web/client.js";

export const vectors = (name) => client.parseJson(readFileSync(new URL(`../vectors/${name}`, import.meta.url), "utf8"));

export const mutators = {
  "note/set": (tx, { id, text }) => tx.set("note", id, { text }),
  "note/delete": (tx, { id }) => void tx.delete("note", id),
  "count/add": (tx, { id }) => tx.set("count", id, { n: (tx.get("count", id)?.n ?? 0) + 1 }),
  "note/cas": (tx, { id, version, text }) => {
    tx.expect("note", id, version);
    tx.set("note", id, { text });
  },
  "mint": (tx) => tx.set("minted", tx.uuid(), { at: tx.now, n: tx.random.random() }),
};

/** A core, its disk, and whoever answers it. */
export class Bench {
  constructor(options = {}) {
    this.options = { mutators, ...options };
    this.store = new client.MemoryStore();
    this.ids = 0;
    this.events = [];
  }

  static async open(options) {
    const bench = new Bench(options);
    await bench.boot();
    bench.core.join("s");
    await bench.flush();
    return bench;
  }

  async boot() {
    this.core = new client.Core({ ...this.options, id: () => `c${++this.ids}` });
    this.core.load(await this.store.load());
    await this.flush();
  }

  /** Makes durable what there is; what is told then. */
  async flush() {
    const taken = this.core.take();
    if (taken === null) return [];
    await this.store.commit(taken.ops, this.store.rev + 1);
    this.core.flushed(taken.mark);
    this.events.push(...taken.events);
    return taken.events;
  }

  /** As a killed tab: what was not flushed is gone. */
  async crash() {
    await this.boot();
  }

  told(kind) {
    return this.events.filter((event) => event.kind === kind);
  }

  set(id, text, scope = "s") {
    return this.core.mutate(scope, "note/set", { id, text });
  }

  texts(scope = "s", confirmed = false) {
    return Object.fromEntries(this.core.view(scope, confirmed).scan("note").map(([id, { text }]) => [id, text]));
  }

  answer(out, status, body) {
    return this.core.answer(out.request, status, client.printJson(body));
  }

  refuse(out, status, code, more = {}) {
    return this.answer(out, status, { error: { code, message: "a sentence", ...more } });
  }

  /** Answers the next pull: `notes` are id -> text, null for a deletion. */
  pull(notes = {}, { scope = "s", cursor = 1, epoch = "e1", last_seq = 0, ...more } = {}) {
    const out = this.core.nextPull(scope);
    const changes = Object.entries(notes).map(([id, text], at) =>
      change(id, text, { scope, cursor: cursor - Object.keys(notes).length + at + 1 }));
    this.answer(out, 200, { changes, cursor, epoch, has_more: false, last_seq, ...more });
    return JSON.parse(out.body);
  }

  /** The next push's mutations as [number, name], and its body. */
  async push() {
    await this.flush();
    const out = this.core.nextPush();
    if (out === null) return null;
    out.json = JSON.parse(out.body);
    out.numbers = out.json.mutations.map(({ client_seq, name }) => [client_seq, name]);
    return out;
  }

  /** Answers a push, each mutation with true or a code. */
  results(out, results, { cursor = 1, epoch = "e1" } = {}) {
    const told = results.map((result) =>
      result === true ? { ok: true, cursor, changes: [] } : { ok: false, error: { code: result, message: "a sentence" } });
    return this.answer(out, 200, { results: told, cursor, epoch });
  }
}

export const change = (id, text, { scope = "s", cursor = 1, version = 1 } = {}) => ({
  cursor, scope, entity: "note", id, version, ts: "2026-01-02T03:04:05.678901Z",
  ...(text === null ? { op: "delete" } : { op: "create", data: { text } }),
});
