// Filters and orders, held to what the server's `find` answers.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Core, fromWire, MemoryStore, vectors } from "./support.mjs";

const { documents, queries, refused } = vectors("queries.json");

const open = async () => {
  const core = new Core({ mutators: {} });
  core.load(await new MemoryStore().load());
  core.join("s");
  for (const [id, d] of Object.entries(documents)) core.apply(["doc", "s", "any", id, { d, v: 1 }]);
  core.refresh();
  return core.view("s");
};

for (const { filter, sort, limit, ids } of queries) {
  test(`find ${JSON.stringify(filter)} ${sort ? `by ${JSON.stringify(sort)}` : ""} ${limit ?? ""}`, async () => {
    const view = await open();
    assert.deepEqual(view.find("any", fromWire(filter), { sort, limit }).map(([id]) => id), ids);
  });
}

for (const { filter } of refused) {
  test(`no filter: ${JSON.stringify(filter)}`, async () => {
    const view = await open();
    assert.throws(() => view.find("any", fromWire(filter)), { code: "invalid_request" });
  });
}

test("scan and list are in byte order of id, of a prefix, up to a limit", async () => {
  const view = await open();
  const ids = Object.keys(documents).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  assert.deepEqual([...view.list("any").keys()], ids);
  assert.deepEqual(view.scan("any", { limit: 3 }).map(([id]) => id), ids.slice(0, 3));
  const prefix = ids[4][0];
  assert.deepEqual(view.scan("any", { prefix }).map(([id]) => id), ids.filter((id) => id.startsWith(prefix)));
});
