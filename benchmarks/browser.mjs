// What benchmarks/browser.py measures, in a browser and in Node alike. Each function returns figures, times in milliseconds.

const title = (n) => `something to be done, number ${n}`;

/** Mutations a second until the last is visible, and until the last is as durable as this store makes it. */
export async function mutateSyncline({ Replica }, { count, memory }) {
  const mutators = { create: (tx, { id, title }) => tx.set("todo", id, { title, done: false }) };
  const replica = await Replica.open({
    name: `bench-${Math.random()}`, url: "http://127.0.0.1:9", scope: "s", mutators, start: false, ...(memory && { indexedDB: null }),
  });
  const begun = performance.now();
  for (let n = 0; n < count; n++) replica.mutate("create", { id: `todo-${n}`, title: title(n) });
  const visible = performance.now() - begun;
  await replica.flush();
  const durable = performance.now() - begun;
  await replica.close();
  return { visible: (count / visible) * 1000, durable: (count / durable) * 1000 };
}

/** The same with npm's replicache, whose mutators are asynchronous; it writes to its store in idle moments, later. */
export async function mutateReplicache({ Replicache, TEST_LICENSE_KEY }, { count, memory }) {
  const mutators = { create: async (tx, { id, title }) => void (await tx.set(`todo/${id}`, { title, done: false })) };
  const replica = new Replicache({
    name: `bench-${Math.random()}`, licenseKey: TEST_LICENSE_KEY, logLevel: "error", mutators, pullURL: "", pushURL: "", ...(memory && { kvStore: "mem" }),
  });
  const begun = performance.now();
  for (let n = 0; n < count; n++) await replica.mutate.create({ id: `todo-${n}`, title: title(n) });
  const visible = performance.now() - begun;
  await replica.close();
  return { visible: (count / visible) * 1000 };
}

/** A hundred pending mutations over a pull of a thousand changes: the answer's text in, the new view there. */
export async function rebase({ Core, MemoryStore }) {
  const mutators = { add: (tx, { id }) => tx.set("count", id, { n: (tx.get("count", id)?.n ?? 0) + 1, text: "x".repeat(100) }) };
  const core = new Core({ mutators });
  core.load(await new MemoryStore().load());
  core.join("s");
  const pull = (from) => {
    const changes = Array.from({ length: 1000 }, (_, n) => ({
      cursor: from + n, scope: "s", entity: "count", id: `c${n}`, op: "update", version: 2, ts: "", data: { n: from, text: "x".repeat(100) },
    }));
    const text = JSON.stringify({ changes, cursor: from + 1000, epoch: "e", has_more: false, last_seq: 0 });
    const { request } = core.nextPull("s");
    const begun = performance.now();
    core.answer(request, 200, text);
    return performance.now() - begun;
  };
  pull(1);
  for (let n = 0; n < 100; n++) core.mutate("s", "add", { id: `c${n}` });
  const times = Array.from({ length: 21 }, (_, n) => pull(2000 * (n + 1))).sort((a, b) => a - b);
  return { median: times[10], worst: times[20] };
}

/** A first sync of a scope that the server has: until all is visible, until it is durable; and opening it again from the disk. */
export async function firstSync({ Replica }, { documents, scope }) {
  const options = { name: `bench-${Math.random()}`, scope, mutators: {} };
  const begun = performance.now();
  let replica = await Replica.open(options);
  const visible = new Promise((resolve) => replica.subscribe("doc", (rows) => rows.length === documents && resolve(performance.now() - begun)));
  await replica.sync();
  const shown = await visible;
  const synced = performance.now() - begun;
  await replica.close();
  const again = performance.now();
  replica = await Replica.open({ ...options, start: false });
  const count = replica.list("doc").size;
  const reopened = performance.now() - again;
  await replica.close();
  if (count !== documents) throw new Error(`${count} documents instead of ${documents}`);
  return { shown, synced, reopened };
}
