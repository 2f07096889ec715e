// The rules for what is refused, lost, repeated or restored, on the core alone.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Bench, change } from "./support.mjs";

test("a mutation and its number are sent only when they are durable", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  assert.equal(bench.core.nextPush(), null);
  assert.deepEqual((await bench.push()).numbers, [[1, "note/set"]]);
});

test("a mutation that was not durable is gone with the tab, and its number is free", async () => {
  const bench = await Bench.open();
  bench.set("a", "kept");
  await bench.flush();
  bench.set("b", "lost");
  await bench.crash();
  assert.deepEqual(bench.texts(), { a: "kept" });
  assert.equal(bench.set("c", "next").seq, 2);
});

test("a refusal is told when it is durable", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  bench.results(await bench.push(), ["closed_shop"]);
  assert.deepEqual(bench.told("refused"), []);
  await bench.flush();
  assert.deepEqual(bench.told("refused").map(({ code }) => code), ["closed_shop"]);
  assert.deepEqual(bench.texts(), {});
  assert.equal(bench.core.refused.size, 1);
  assert.equal(bench.core.queue.size, 0);
});

test("one push is outstanding, and only its answer counts", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  const first = await bench.push();
  bench.set("b", "2");
  assert.equal(await bench.push(), null);
  bench.core.lost(first.request);
  const second = await bench.push();
  assert.deepEqual(second.numbers.map(([seq]) => seq), [1, 2]);
  assert.equal(bench.results(first, [true]).next, "ignored");
  assert.equal(bench.results(second, [true, true]).next, "done");
  assert.equal(bench.results(second, [true, true]).next, "ignored");
});

test("what a pull confirms leaves the replay, and the queue only with its result", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.core.mutate("s", "count/add", { id: "x" });
  const lost = await bench.push();
  bench.core.lost(lost.request); // it arrived, and the answer did not
  const out = bench.core.nextPull("s");
  bench.answer(out, 200, {
    changes: [{ cursor: 2, scope: "s", entity: "count", id: "x", op: "create", data: { n: 1 }, version: 1, ts: "" }],
    cursor: 2, epoch: "e1", has_more: false, last_seq: 1,
  });
  assert.deepEqual(bench.core.view("s").get("count", "x"), { n: 1 });
  assert.equal(bench.core.queue.size, 1);
  const again = await bench.push();
  assert.deepEqual(again.numbers, [[1, "count/add"]]);
  bench.results(again, [true]);
  assert.equal(bench.core.queue.size, 0);
  await bench.flush();
  bench.set("a", "1");
  assert.deepEqual((await bench.push()).json.settled, { c1: 1 });
});

test("a result alone takes nothing out of the view", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  bench.results(await bench.push(), [true]);
  assert.deepEqual(bench.texts(), { a: "1" });
  assert.deepEqual(bench.texts("s", true), {});
  assert.equal(bench.core.queue.size, 1);
  bench.pull({ a: "1" }, { cursor: 2, last_seq: 1 });
  assert.equal(bench.core.queue.size, 0);
  await bench.flush();
  assert.equal(bench.told("changed").length, 1); // the document never changed for who looks at it
});

test("a pull confirms its own scope alone", async () => {
  const bench = await Bench.open();
  bench.core.join("t");
  bench.pull();
  bench.pull({}, { scope: "t" });
  bench.set("a", "1", "s");
  bench.set("b", "2", "t");
  bench.results(await bench.push(), [true, true]);
  bench.pull({ b: "2" }, { scope: "t", cursor: 3, last_seq: 2 });
  assert.deepEqual([bench.texts("s"), bench.texts("t")], [{ a: "1" }, { b: "2" }]);
  assert.equal(bench.core.queue.size, 2); // it shrinks from its front
  bench.pull({ a: "1" }, { cursor: 3, last_seq: 2 });
  assert.equal(bench.core.queue.size, 0);
});

test("pages are kept, survive the tab, and are shown all at once", async () => {
  const bench = await Bench.open();
  bench.pull({ old: "x" }, { cursor: 5 });
  await bench.flush();
  bench.events = [];
  const page = (out, changes, more) => bench.answer(out, 200, { changes, epoch: "e1", last_seq: 0, cursor: 5, ...more });
  let out = bench.core.nextPull("s");
  page(out, [change("a", "1"), change("b", "1")], { has_more: true, page: "p1" });
  assert.deepEqual(bench.texts(), { old: "x" });
  await bench.flush();
  await bench.crash();
  out = bench.core.nextPull("s");
  assert.deepEqual(JSON.parse(out.body), { scope: "s", cursor: 5, epoch: "e1", page: "p1", client_id: "c1" });
  page(out, [change("b", "2"), change("old", null)], { has_more: false, cursor: 9 });
  await bench.flush();
  assert.deepEqual(bench.texts(), { a: "1", b: "2" });
  assert.equal(bench.core.scopes.get("s").cursor, 9);
  assert.deepEqual(bench.told("changed").map(({ id }) => id).sort(), ["a", "b", "old"]);
  await bench.crash();
  assert.deepEqual(bench.texts(), { a: "1", b: "2" });
});

test("what came from 0 replaces the documents, and an unchanged one is no event", async () => {
  const bench = await Bench.open();
  bench.pull({ a: "1", b: "1" }, { cursor: 5 });
  await bench.flush();
  bench.events = [];
  bench.refuse(bench.core.nextPull("s"), 410, "cursor_too_old", { floor: 9 });
  assert.deepEqual(bench.texts(), { a: "1", b: "1" });
  assert.equal(bench.pull({ b: "1", c: "1" }, { cursor: 12 }).cursor, 0);
  await bench.flush();
  assert.deepEqual(bench.texts(), { b: "1", c: "1" });
  assert.deepEqual(bench.told("changed").map(({ id }) => id).sort(), ["a", "c"]);
});

test("pages of two epochs do not belong together", async () => {
  const bench = await Bench.open();
  bench.pull({}, { cursor: 5 });
  let out = bench.core.nextPull("s");
  bench.answer(out, 200, { changes: [change("a", "1")], epoch: "e1", last_seq: 0, cursor: 5, has_more: true, page: "p1" });
  out = bench.core.nextPull("s");
  bench.answer(out, 200, { changes: [change("b", "1")], epoch: "e2", last_seq: 0, cursor: 9, has_more: false });
  assert.deepEqual(bench.texts(), {});
  assert.deepEqual(JSON.parse(bench.core.nextPull("s").body), { scope: "s", cursor: 5, epoch: "e1", client_id: "c1" });
});

test("in a new epoch what is queued is asked again, and what was refused goes as a void", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  bench.set("b", "2");
  bench.set("c", "3");
  bench.results(await bench.push(), [true, "closed_shop", true]);
  bench.set("d", "4");
  bench.refuse(await bench.push(), 410, "epoch_mismatch", { epoch: "e2" });
  const again = await bench.push();
  assert.deepEqual(again.numbers, [[1, "note/set"], [2, null], [3, "note/set"], [4, "note/set"]]);
  assert.equal(again.json.epoch, "e2");
  assert.equal(again.json.mutations[0].client_id, "c1"); // the id and the numbers stay
  bench.results(again, [true, true, true, true], { epoch: "e2" });
  bench.pull({ a: "1", c: "3", d: "4" }, { cursor: 4, epoch: "e2", last_seq: 4 });
  await bench.flush();
  assert.equal(bench.core.queue.size, 0);
  assert.equal(bench.core.refused.size, 1);
});

test("a new epoch that a pull tells of abandons the outstanding push", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  const out = await bench.push();
  bench.pull({}, { epoch: "e2" });
  assert.equal(bench.results(out, [true]).next, "ignored");
  assert.equal((await bench.push()).json.epoch, "e2");
});

test("a server that came back from a backup is told, and pulled from 0", async () => {
  const bench = await Bench.open();
  bench.pull({ a: "1", b: "1" }, { cursor: 7 });
  bench.refuse(bench.core.nextPull("s"), 410, "epoch_mismatch", { epoch: "e2" });
  await bench.flush();
  assert.equal(bench.told("restored").length, 1);
  assert.equal(bench.pull({ a: "1" }, { cursor: 3, epoch: "e2" }).cursor, 0);
  assert.deepEqual(bench.texts(), { a: "1" });
});

test("a gap is sent again from the front, over what was settled", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  bench.results(await bench.push(), [true]);
  bench.pull({ a: "1" }, { cursor: 2, last_seq: 1 });
  bench.set("b", "2");
  bench.set("c", "3");
  bench.results(await bench.push(), [true, "sequence_gap"]);
  const out = await bench.push();
  assert.deepEqual(out.numbers.map(([seq]) => seq), [2, 3]);
  assert.deepEqual(out.json.settled, { c1: 1 });
});

test("unavailable waits, and is given up after a stated number of tries", async () => {
  const bench = await Bench.open({ maxTries: 3 });
  bench.pull();
  bench.set("a", "1");
  bench.set("b", "2");
  for (let tries = 1; tries < 3; tries++) {
    assert.equal(bench.results(await bench.push(), ["unavailable", "unavailable"]).next, "wait");
    assert.deepEqual(bench.core.pending().map((entry) => entry.tries), [tries, 0]);
  }
  bench.results(await bench.push(), ["unavailable", "unavailable"]);
  const out = await bench.push();
  assert.deepEqual(out.numbers, [[1, null], [2, "note/set"]]);
  assert.deepEqual(bench.texts(), { b: "2" });
  bench.results(out, [true, true]);
  await bench.flush();
  assert.deepEqual(bench.told("refused").map(({ code }) => code), ["unavailable"]);
});

test("what the application discards goes as a void, and blocks nothing", async () => {
  const bench = await Bench.open();
  bench.pull();
  const first = bench.set("a", "1");
  bench.set("b", "2");
  await bench.flush();
  assert.equal(bench.core.discard(first.key), true);
  assert.equal(bench.core.discard(first.key), false);
  assert.deepEqual(bench.texts(), { b: "2" });
  const out = await bench.push();
  assert.deepEqual(out.numbers, [[1, null], [2, "note/set"]]);
  bench.results(out, [true, true]);
  bench.pull({ b: "2" }, { cursor: 2, last_seq: 2 });
  assert.equal(bench.core.queue.size, 0);
  assert.equal(bench.core.refused.size, 0);
});

test("a push that is too large is made smaller, and a mutation that is, is voided", async () => {
  const bench = await Bench.open();
  bench.pull();
  for (const id of ["a", "b", "c"]) bench.set(id, "1");
  bench.refuse(await bench.push(), 413, "too_large", { limit: 10 });
  let out = await bench.push();
  assert.equal(out.mutations, 1);
  bench.refuse(out, 413, "too_large", { limit: 10 });
  out = await bench.push();
  assert.deepEqual(out.numbers, [[1, null]]);
  bench.results(out, [true]);
  assert.deepEqual((await bench.push()).numbers, [[2, "note/set"], [3, "note/set"]]);
  assert.deepEqual(bench.told("refused").map(({ code }) => code), ["too_large"]);
});

test("what is larger than the server takes is refused when it is made", async () => {
  const bench = await Bench.open();
  bench.core.learnLimits({ body_bytes: 2000, document_bytes: 100 });
  assert.throws(() => bench.set("a", "x".repeat(3000)), { code: "too_large" });
  assert.throws(() => bench.set("a", "x".repeat(120)), { code: "too_large" });
  bench.set("a", "x".repeat(80));
  assert.equal(bench.core.queue.size, 1);
});

test("forbidden closes the scope, forgets its documents and keeps what is unanswered", async () => {
  const bench = await Bench.open();
  bench.pull({ a: "1" }, { cursor: 3 });
  bench.set("b", "2");
  await bench.flush();
  assert.equal(bench.refuse(bench.core.nextPull("s"), 403, "forbidden").next, "failed");
  await bench.flush();
  assert.deepEqual(bench.told("closed").map(({ scope }) => scope), ["s"]);
  assert.deepEqual(bench.texts("s", true), {});
  assert.equal(bench.core.queue.size, 1);
  bench.results(await bench.push(), ["forbidden"]);
  assert.equal(bench.core.queue.size, 0);
  assert.equal(bench.pull({ a: "1" }, { cursor: 4, last_seq: 1 }).cursor, 0);
  await bench.flush();
  assert.equal(bench.told("opened").length, 2);
  assert.deepEqual(bench.texts(), { a: "1" });
});

test("leaving a scope forgets its documents and keeps its unanswered mutations", async () => {
  const bench = await Bench.open();
  bench.pull({ a: "1" }, { cursor: 3 });
  bench.set("b", "2");
  const pull = bench.core.nextPull("s");
  bench.core.leave("s");
  assert.equal(bench.answer(pull, 200, { changes: [], cursor: 4, epoch: "e1", has_more: false, last_seq: 0 }).next, "ignored");
  assert.throws(() => bench.core.view("s"), { code: "invalid_scope" });
  const out = await bench.push();
  assert.deepEqual(out.numbers, [[1, "note/set"]]);
  bench.results(out, [true]);
  assert.equal(bench.core.queue.size, 0);
  bench.core.join("s");
  assert.deepEqual(bench.texts(), {});
});

test("a client id that belongs to someone else: a new one, numbered from 1, with the seeds", async () => {
  for (const how of ["push", "pull"]) {
    const bench = await Bench.open();
    bench.pull();
    const entry = bench.core.mutate("s", "mint");
    const [[id]] = bench.core.view("s").scan("minted");
    if (how === "push") {
      bench.refuse(await bench.push(), 403, "forbidden", { client_id: "c1" });
    } else {
      bench.refuse(bench.core.nextPull("s"), 403, "forbidden", { client_id: "c1" });
    }
    const out = await bench.push();
    assert.equal(out.json.mutations[0].client_id, "c2");
    assert.equal(out.json.mutations[0].client_seq, 1);
    assert.equal(String(out.json.mutations[0].seed.$numberLong ?? out.json.mutations[0].seed), entry.seed);
    assert.deepEqual(out.json.settled, { c2: 0 });
    assert.deepEqual(bench.core.view("s").scan("minted").map(([one]) => one), [id]);
    assert.equal(bench.told("renamed").length, 1);
  }
});

test("a server that lets nobody push is no reason for another client id", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  assert.equal(bench.refuse(await bench.push(), 403, "forbidden").next, "failed");
  assert.equal(bench.core.meta.client_id, "c1");
});

test("before it pushes it learns last_seq, each time it is opened", async () => {
  const bench = await Bench.open();
  bench.set("a", "1");
  assert.equal(await bench.push(), null);
  bench.pull();
  assert.notEqual(await bench.push(), null);
  await bench.crash();
  assert.equal(await bench.push(), null);
  bench.pull();
  assert.notEqual(await bench.push(), null);
});

test("a storage that was set back asks for its fate under the old id, then takes a new one", async () => {
  const bench = await Bench.open();
  bench.pull();
  bench.set("a", "1");
  await bench.flush();
  // The server knows numbers up to 3; ours had 1, and in a life before this one made another 2 while offline.
  bench.set("b", "other");
  await bench.flush();
  await bench.crash();
  bench.pull({ a: "1", b: "2", c: "3" }, { cursor: 4, last_seq: 3 });
  const out = await bench.push();
  assert.deepEqual(out.numbers.map(([seq]) => seq), [1, 2]);
  bench.results(out, ["result_expired", "sequence_reused"]);
  await bench.flush();
  assert.equal(bench.told("renamed").length, 1);
  const anew = await bench.push();
  assert.deepEqual(anew.json.mutations.map(({ client_id, client_seq, args }) => [client_id, client_seq, args.text]), [["c2", 1, "other"]]);
  assert.equal(bench.texts().b, "other");
  bench.results(anew, [true]);
  bench.pull({ b: "other" }, { cursor: 5, last_seq: 1 });
  assert.equal(bench.core.queue.size, 0);
  assert.deepEqual(bench.texts(), { a: "1", b: "other", c: "3" });
});

test("a storage that was set back with nothing queued takes a new id at once", async () => {
  const bench = await Bench.open();
  bench.pull({}, { last_seq: 7 });
  await bench.flush();
  bench.set("a", "1");
  const out = await bench.push();
  assert.equal(out.json.mutations[0].client_id, "c2");
  assert.equal(out.json.mutations[0].client_seq, 1);
});

test("a poke is news when its cursor or its epoch differs, not only when it is larger", async () => {
  const bench = await Bench.open();
  bench.pull({}, { cursor: 5 });
  assert.equal(bench.core.news("s", 5, "e1"), false);
  assert.equal(bench.core.news("s", 4, "e1"), true);
  assert.equal(bench.core.news("s", 6, "e1"), true);
  assert.equal(bench.core.news("s", 5, "e2"), true);
  assert.equal(bench.core.news("t", 6, "e1"), false);
});

test("a failure is waited for, a token refreshed, a mistake not repeated at once", async () => {
  const bench = await Bench.open();
  for (const [status, next] of [[503, "wait"], [429, "wait"], [500, "wait"], [502, "wait"], [401, "unauthenticated"], [400, "failed"], [404, "failed"]]) {
    assert.equal(bench.refuse(bench.core.nextPull("s"), status, "some_code").next, next, String(status));
  }
  const out = bench.core.nextPull("s");
  assert.equal(bench.core.answer(out.request, 200, "<html>").next, "wait");
});

test("others' changes and one's own run together: the pending ones on top", async () => {
  const bench = await Bench.open();
  bench.pull({}, { cursor: 1 });
  bench.core.mutate("s", "count/add", { id: "x" });
  const out = bench.core.nextPull("s");
  bench.answer(out, 200, {
    changes: [{ cursor: 2, scope: "s", entity: "count", id: "x", op: "create", data: { n: 10 }, version: 4, ts: "" }],
    cursor: 2, epoch: "e1", has_more: false, last_seq: 0,
  });
  const view = bench.core.view("s");
  assert.deepEqual([view.get("count", "x"), view.version("count", "x")], [{ n: 11 }, 5]);
  assert.deepEqual(bench.core.view("s", true).get("count", "x"), { n: 10 });
});

test("a mutation that others' changes make impossible has no effect here, and the server has the last word", async () => {
  const bench = await Bench.open();
  bench.pull({ a: "1" }, { cursor: 1 });
  bench.core.mutate("s", "note/cas", { id: "a", version: 1, text: "mine" });
  assert.deepEqual(bench.texts(), { a: "mine" });
  const out = bench.core.nextPull("s");
  bench.answer(out, 200, { changes: [change("a", "theirs", { cursor: 2, version: 2 })], cursor: 2, epoch: "e1", has_more: false, last_seq: 0 });
  assert.deepEqual(bench.texts(), { a: "theirs" });
  bench.results(await bench.push(), ["conflict"]);
  await bench.flush();
  assert.deepEqual(bench.told("refused").map(({ code }) => code), ["conflict"]);
});
