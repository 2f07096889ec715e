// Values and what derives from a mutation, held to the vectors that the server is held to.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  compareText, Core, Double, draws, fromWire, Instant, newId, packedSize, parseJson, printJson, sameWire, toWire, uuid7, vectors, MemoryStore,
} from "./support.mjs";

const values = JSON.parse(readFileSync(new URL("../vectors/values.json", import.meta.url), "utf8"));

for (const { say, json, msgpack } of values.values) {
  test(`a value comes back as what it was: ${say}`, () => {
    const wire = parseJson(json);
    assert.ok(sameWire(toWire(fromWire(wire), wire), wire), printJson(wire));
    assert.ok(sameWire(parseJson(printJson(wire)), wire));
    assert.equal(packedSize(wire), msgpack.length / 2);
  });
}

for (const { say, json, same_as } of values.also_read.filter(({ json }) => json !== undefined)) {
  test(`another spelling is read: ${say}`, () => {
    const meant = values.values.find((one) => one.say === same_as);
    const canonical = parseJson(meant?.json ?? same_as);
    assert.deepEqual(fromWire(parseJson(json)), fromWire(canonical));
  });
}

test("a whole number goes back as the kind that the field had", () => {
  const was = parseJson('{"float": 2.0, "whole": 2, "half": 0.5, "list": [1.0, 1], "in": {"f": 1e300}}');
  const doc = fromWire(was);
  assert.deepEqual(doc, { float: 2, whole: 2, half: 0.5, list: [1, 1], in: { f: 1e300 } });
  doc.half = 3;
  doc.float = 4;
  doc.whole = 5;
  doc.fresh = 6;
  assert.equal(
    printJson(toWire(doc, was)),
    '{"float":4.0,"whole":5,"half":3.0,"list":[1.0,1],"in":{"f":1e+300},"fresh":6}',
  );
  assert.equal(printJson(toWire({ at: new Double(20) })), '{"at":20.0}');
});

test("an instant keeps its microseconds for as long as it is the same", () => {
  const was = parseJson('{"at": {"$date": "2026-01-02T03:04:05.678901Z"}}');
  const { at } = fromWire(was);
  assert.equal(at.getTime(), Date.UTC(2026, 0, 2, 3, 4, 5, 678));
  assert.equal(at.microseconds, 1767323045678901n);
  assert.deepEqual(toWire({ elsewhere: at }), { elsewhere: was.at });
  // A library that copied it into a plain Date lost them; the field has them still.
  assert.deepEqual(toWire({ at: new Date(at) }, was), was);
  at.setUTCHours(4);
  assert.deepEqual(toWire({ at }, was), { at: { $date: "2026-01-02T04:04:05.678000Z" } });
  assert.equal(String(Instant.of(-1n)), "1969-12-31T23:59:59.999999Z");
  assert.equal(String(Instant.from("2026-01-02T03:04:05.5+02:30")), "2026-01-02T00:34:05.500000Z");
});

test("what is no value is refused where it is written, and where is said", () => {
  const refused = (value, message) => assert.throws(() => toWire(value), { code: "invalid_mutation", message });
  refused({ a: { b: undefined } }, /undefined.*\(at a\.b\)/);
  refused({ a: [() => 1] }, /function.*\(at a\.0\)/);
  refused({ $set: 1 }, /begins with \$/);
  refused({ a: "\ud800" }, /surrogate/);
  refused({ a: new Map() }, /Map/);
  refused({ a: new Date(NaN) }, /invalid Date/);
  refused({ a: 2n ** 64n }, /64 bits/);
  const loop = {};
  loop.loop = loop;
  refused(loop, /nested/);
});

test("a key that JavaScript treats as its own is a key like others", () => {
  const wire = parseJson('{"__proto__": {"a": 1}, "constructor": 2}');
  const value = fromWire(wire);
  assert.deepEqual(Object.keys(value), ["__proto__", "constructor"]);
  assert.equal(value.a, undefined);
  assert.equal(printJson(toWire(value)), '{"__proto__":{"a":1},"constructor":2}');
});

test("a text that looks like a number or a form stays a text", () => {
  const text = '{"a": "1.0", "b": "x 12345678901234567890 1e5", "c": "{\\"$numberDouble\\":\\"1.0\\"}"}';
  const wire = parseJson(text);
  assert.deepEqual(wire, JSON.parse(text));
  assert.equal(printJson(wire), JSON.stringify(JSON.parse(text)));
});

test("texts are in the order of their bytes", () => {
  const sorted = ["", "A", "a", "a\u0000", "é", "\u{ffff}", "\u{10000}", "\u{10ffff}"];
  const bytes = (text) => Buffer.from(text, "utf8");
  assert.deepEqual([...sorted].reverse().sort(compareText), [...sorted].sort((a, b) => Buffer.compare(bytes(a), bytes(b))));
});

test("ids made after each other sort after each other", () => {
  const ids = Array.from({ length: 1000 }, () => newId());
  assert.deepEqual([...ids].sort(), ids);
  assert.match(ids[0], /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

const derived = vectors("flows/derived.json").steps;

test("what a mutator draws derives from ts and seed, as on the server", () => {
  const documents = derived[1].answer.json.changes;
  derived[0].request.json.mutations.forEach(({ ts, seed }, at) => {
    const draw = draws(seed.$numberLong ?? seed);
    const micro = Instant.from(ts).microseconds;
    const { id, data } = documents[at];
    assert.equal(uuid7(micro, draw()), id);
    assert.equal(Number(draw() >> 11n) / 2 ** 53, data.random);
    assert.equal(uuid7(micro, draw()), data.next);
    assert.equal(String(Instant.from(ts)), data.now.$date);
  });
});

for (const { seed, ts, drawn } of vectors("draws.json").cases) {
  test(`tx.random is Python's, from the seed ${seed.$numberLong ?? seed}`, async () => {
    let made;
    const mutators = {
      draw: (tx) => {
        const list = [0, 1, 2, 3, 4, 5, 6, 7];
        made = {
          random: tx.random.random(), uuid: tx.uuid(), randrange: tx.random.randrange(10), wide: tx.random.randrange(5, 2 ** 40),
          randint: tx.random.randint(1, 6), choice: tx.random.choice(["a", "b", "c"]), uniform: tx.random.uniform(-1, 1),
          bits: toWire(tx.random.getrandbits(60)), shuffled: (tx.random.shuffle(list), list), now: toWire(tx.now),
        };
      },
    };
    const core = new Core({ mutators, now: () => Number(Instant.from(ts).microseconds), bits: () => BigInt(seed.$numberLong ?? seed) });
    core.load(await new MemoryStore().load());
    core.join("s");
    core.mutate("s", "draw");
    assert.deepEqual(made, drawn);
  });
}
