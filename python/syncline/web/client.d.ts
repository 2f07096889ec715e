// The types of client.js.

/** What documents and arguments hold. A whole `number` is an integer unless the field held a float; `double` says float. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Date
  | Double
  | Uint8Array
  | ArrayBuffer
  | readonly Value[]
  | { readonly [key: string]: Value };

/** A document as it is read: fresh each time, yours to change. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Document = { [field: string]: any };

/** What went wrong; `code` is the protocol's name of it, such as "not_found". */
export class SyncError extends Error {
  constructor(code: string, message: string, details?: Record<string, unknown>);
  code: string;
  details: Record<string, unknown>;
}

/** Thrown in a mutator: this mutation must not be, here or on the server. */
export class Rejected extends SyncError {
  constructor(message?: string, options?: { code?: string; details?: Record<string, unknown> });
}

/** An instant to the microsecond, which it keeps for as long as it is not set to another time. */
export class Instant extends Date {
  constructor(milliseconds?: number, microseconds?: number);
  static of(microseconds: bigint | number): Instant;
  static from(text: string): Instant;
  static textOf(date: Date): string;
  readonly microseconds: bigint;
}

export class Double {
  constructor(value: number);
  value: number;
}
/** A float, also where it is whole. */
export function double(value: number): Double;

/** A new id, in order of time: a UUIDv7. */
export function newId(): string;

export type Sort = string | readonly [field: string, direction: 1 | -1] | readonly (string | readonly [string, 1 | -1])[];
export interface Operators {
  $eq?: Value;
  $ne?: Value;
  $gt?: Value;
  $gte?: Value;
  $lt?: Value;
  $lte?: Value;
  $in?: readonly Value[];
  $nin?: readonly Value[];
}
/** After MongoDB's rules; "a.b" reaches into maps. */
export type Filter = { readonly [field: string]: Value | Operators };
export interface FindOptions {
  sort?: Sort | null;
  limit?: number | null;
}
export interface ScanOptions {
  prefix?: string;
  limit?: number | null;
}
export type Row = [id: string, document: Document];

/** One scope. */
export interface View {
  readonly scope: string;
  get(entity: string, id: string): Document | undefined;
  exists(entity: string, id: string): boolean;
  /** 1 for the first; 0: absent. */
  version(entity: string, id: string): number;
  /** In byte order of id. */
  list(entity: string): Map<string, Document>;
  scan(entity: string, options?: ScanOptions): Row[];
  find(entity: string, filter?: Filter | null, options?: FindOptions): Row[];
}

/** Python's `random.Random`, as far as it goes, on the mutation's draws. */
export interface TxRandom {
  random(): number;
  getrandbits(k: number): bigint;
  randrange(stop: number): number;
  randrange(start: number, stop: number): number;
  randint(first: number, last: number): number;
  choice<T>(list: readonly T[]): T;
  shuffle(list: unknown[]): void;
  uniform(a: number, b: number): number;
}

/** What a mutator reads and writes through. It reads its own writes, and is dead after its call. */
export interface Tx extends View {
  set(entity: string, id: string, document: { readonly [field: string]: Value }): void;
  /** Replaces the given fields; throws "not_found" where there is no document. */
  update(entity: string, id: string, fields: { readonly [field: string]: Value }): void;
  delete(entity: string, id: string): boolean;
  /** Throws "conflict" unless the document is at `version`; 0: absent. */
  expect(entity: string, id: string, version: number): void;
  /** A UUIDv7 that derives from the mutation: run again, here or on the server, it is the same one. */
  uuid(): string;
  readonly random: TxRandom;
  /** When the mutation was made. */
  readonly now: Instant;
  readonly user: string | null;
  readonly clientId: string;
}

/** Runs at once, and again whenever the server's changes come beneath it: it must draw on `tx` and `args` alone. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type Mutator = (tx: Tx, args: any) => void | boolean;

export type State = "offline" | "connecting" | "syncing" | "live" | "stopped";

export interface Answer {
  ok: boolean;
  code?: string;
  message?: string;
}

/** A mutation that was made here. */
export interface Pending {
  readonly key: string;
  readonly scope: string;
  readonly name: string;
  readonly durable: Promise<void>;
  /** What the server made of it. */
  readonly answered: Promise<Answer>;
  readonly result?: Answer;
}

/** A mutation that the server has not settled. */
export interface PendingMutation {
  readonly key: string;
  /** Its place in the queue, never reused; null: another tab's to give. */
  readonly place: number | null;
  readonly seq: number | null;
  readonly scope: string;
  readonly name: string;
  readonly args: unknown;
  readonly ts: Instant;
  /** How often the server said "unavailable" to it. */
  readonly tries: number;
  readonly durable: boolean;
  readonly sent: boolean;
  readonly voided: boolean;
  readonly confirmed: boolean;
}

/** A mutation that was refused, or given up. */
export interface RefusedMutation {
  readonly key: string;
  readonly place: number;
  readonly client_id: string;
  readonly seq: number;
  readonly scope: string;
  readonly name: string;
  readonly args: unknown;
  readonly ts: Instant;
  readonly at: Instant;
  readonly code: string;
  readonly message: string;
}

export interface DocumentChange {
  readonly kind: "added" | "modified" | "removed";
  readonly scope: string;
  readonly entity: string;
  readonly id: string;
  readonly old?: Document;
  readonly new?: Document;
}

export type ReplicaEvent =
  | { kind: "refused"; scope: string; place: number; key: string; code: string; message: string }
  | { kind: "opened" | "closed" | "restored"; scope: string }
  | { kind: "renamed"; clientId: string; message: string }
  | { kind: "settled"; key: string };

export interface ScopeState {
  readonly name: string;
  readonly cursor: number;
  readonly epoch: string | null;
  readonly open: boolean;
  readonly loaded: boolean;
  readonly pulling: boolean;
}

export interface Status {
  readonly state: State;
  /** Whether this tab is the one that talks to the server. */
  readonly leading: boolean;
  /** Whether pokes come over the WebSocket; without it, the replica polls. */
  readonly live: boolean;
  readonly clientId: string;
  readonly epoch: string | null;
  readonly pending: number;
  readonly unsent: number;
  readonly unflushed: number;
  readonly refused: number;
  readonly error: { code: string; message: string } | null;
  readonly rebases: number;
  readonly replayed: number;
  readonly pulled: number;
}

export interface Query {
  entity: string;
  scope?: string;
  filter?: Filter | null;
  sort?: Sort | null;
  limit?: number | null;
}

export interface Options {
  /** Of the local database; the tabs that open the same name share it. */
  name?: string;
  /** Where the endpoints are, without /_sync; default: where client.js was served from. */
  url?: string;
  /** The scope that is meant where none is said. */
  scope?: string;
  scopes?: readonly string[];
  mutators: Record<string, Mutator> | Map<string, Mutator>;
  /** Sent as `Authorization: Bearer`. A function is called for each request, with `refresh` after the server refused one. */
  token?: string | ((asked: { refresh: boolean }) => string | null | undefined | Promise<string | null | undefined>);
  /** What `tx.user` says. */
  user?: string | null;
  /** Of a new database; default: a random one. */
  clientId?: string;
  /** "normal" does not wait for the disk itself: a power cut may take the last moments. */
  durability?: "full" | "normal";
  /** Seconds between pulls where no poke comes. */
  poll?: number;
  /** Whether to listen for pokes over a WebSocket. */
  live?: boolean;
  /** false: begins paused. */
  start?: boolean;
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  /** null: in memory alone. */
  indexedDB?: IDBFactory | null;
  locks?: LockManager;
  BroadcastChannel?: typeof BroadcastChannel;
  credentials?: RequestCredentials;
  limits?: Partial<Record<"body_bytes" | "mutations" | "document_bytes", number>>;
  maxTries?: number;
  maxBatch?: number;
  maxPending?: number;
  /** Milliseconds. */
  backoff?: { first?: number; cap?: number };
  random?: () => number;
}

interface InScope {
  scope?: string;
}

export interface Reads {
  get(entity: string, id: string, options?: InScope): Document | undefined;
  exists(entity: string, id: string, options?: InScope): boolean;
  version(entity: string, id: string, options?: InScope): number;
  list(entity: string, options?: InScope): Map<string, Document>;
  scan(entity: string, options?: ScanOptions & InScope): Row[];
  find(entity: string, filter?: Filter | null, options?: FindOptions & InScope): Row[];
}

/** A replica of some scopes: reads see the confirmed documents with the pending mutations on top. */
export class Replica implements Reads {
  private constructor();
  static open(options: Options): Promise<Replica>;

  get(entity: string, id: string, options?: InScope): Document | undefined;
  exists(entity: string, id: string, options?: InScope): boolean;
  version(entity: string, id: string, options?: InScope): number;
  list(entity: string, options?: InScope): Map<string, Document>;
  scan(entity: string, options?: ScanOptions & InScope): Row[];
  find(entity: string, filter?: Filter | null, options?: FindOptions & InScope): Row[];
  /** The same reads of the confirmed documents alone. */
  readonly confirmed: Reads;
  read(scope?: string, options?: { confirmed?: boolean }): View;

  /** Runs the mutator on the view and queues the mutation. Throws what the mutator refuses. */
  mutate(name: string, args?: Value, options?: InScope): Pending;
  /** Returns when all that was done here so far is on the disk. */
  flush(): Promise<void>;
  readonly pending: PendingMutation[];
  /** Ids of an entity whose documents pending mutations wrote. */
  unconfirmed(entity: string, options?: InScope): Set<string>;
  readonly refused: RefusedMutation[];
  forget(refused: RefusedMutation | number): Promise<boolean>;
  /** Voids a pending mutation and takes its effect back. False: it is settled. */
  discard(pending: Pending | PendingMutation | string): Promise<boolean>;

  /** Calls now and whenever the result may have changed, once that is durable. Returns what ends it. */
  subscribe(query: string | Query, callback: (rows: Row[], changes: DocumentChange[]) => void): () => void;
  subscribe<T>(query: (view: View) => T, callback: (result: T, changes: DocumentChange[]) => void): () => void;

  readonly name: string;
  readonly clientId: string;
  readonly state: State;
  readonly status: Status;
  onState(callback: (state: State) => void): () => void;
  onPending(callback: (pending: PendingMutation[]) => void): () => void;
  onEvent(callback: (event: ReplicaEvent) => void): () => void;
  /** Seconds. */
  waitFor(state: State, options?: { timeout?: number }): Promise<void>;

  readonly scopes: ScopeState[];
  join(scope: string): Promise<void>;
  leave(scope: string): Promise<void>;
  /** Returns when everything is sent, answered and pulled; rejects with "timeout" after `timeout` seconds. */
  sync(options?: { timeout?: number }): Promise<void>;
  /** The offline switch, for all tabs. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  close(): Promise<void>;
}
