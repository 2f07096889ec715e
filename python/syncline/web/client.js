// Syncline in the browser: a replica of some scopes of a server, which goes on working without it.
//
//   import { Replica } from "/_sync/client.js";
//   const replica = await Replica.open({ name: "todos", scope: "list:1", mutators });
//   replica.mutate("todo/create", { id: newId(), title: "milk" });     // visible when it returns
//   replica.subscribe("todo", (todos) => render(todos));
//
// One module without dependencies, for browsers and Node 18 and newer. Its parts, each below in this order:
//
//   values    what documents hold, as JavaScript and as the protocol's JSON
//   ids       names, UUIDv7, and the numbers that derive from a mutation's seed
//   queries   the filters and the order of `find`
//   Core      confirmed documents, the queue, the optimistic view of both, and the rules for what is refused, lost
//             or restored: a machine without network, disk and timers. Every change of it is an *op*, plain data.
//   stores    where ops go: IndexedDB, or memory
//   Backoff, Live, Driver   when to ask the server for what
//   Tabs      which of a browser's tabs does that
//   Replica   the face of it all
//
// Of the tabs that have a replica open, one leads: it holds a Web Lock, talks to the server and is the only one to
// write the database's documents and queue. The others keep a copy, fed by the ops that the leader broadcasts once
// they are durable. A tab's mutation is durable by its own hand, in the `inbox`, out of which the leader queues it;
// so whichever tab is killed, nothing of the others is lost, and the next one leads.

// ================================================================================================ errors

/** What went wrong: `code` is the protocol's name of it, such as "not_found". */
export class SyncError extends Error {
  constructor(code, message, details = {}) {
    super(message);
    this.name = "SyncError";
    this.code = code;
    this.details = details;
  }
}

/** Raised in a mutator: this mutation must not be, here or on the server. */
export class Rejected extends SyncError {
  constructor(message = "rejected", { code = "rejected", details = {} } = {}) {
    super(code, message, details);
    this.name = "Rejected";
  }
}

// ================================================================================================ values
//
// A *wire* value is what JSON.parse makes of the protocol's JSON: null, booleans, numbers, strings, arrays, objects, and
// {"$date"}, {"$binary"}, {"$numberLong"}, {"$numberDouble"} for what JSON has not. Unlike in the protocol's text, a
// float that is whole is {"$numberDouble": "1.0"} too, as JavaScript would take `1.0` for an integer. Documents are kept
// like that; applications see JavaScript's own values.

const LARGEST = 2 ** 53;
const MAX_DEPTH = 64;

/** An instant to the microsecond: a Date that keeps what a Date leaves out, for as long as it is not set to another time. */
export class Instant extends Date {
  #milliseconds;
  #rest;

  constructor(milliseconds = Date.now(), microseconds = 0) {
    super(milliseconds);
    this.#milliseconds = this.getTime();
    this.#rest = microseconds;
  }

  /** Of the microseconds since 1970, a BigInt or a number. */
  static of(microseconds) {
    const whole = BigInt(microseconds);
    const rest = ((whole % 1000n) + 1000n) % 1000n;
    return new Instant(Number((whole - rest) / 1000n), Number(rest));
  }

  /** Of RFC 3339 with an offset. */
  static from(text) {
    const match = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:[Zz]|([+-])(\d\d):(\d\d))$/.exec(text);
    if (!match) throw new SyncError("invalid_request", `${JSON.stringify(text)} is no instant; write it as 2026-01-02T03:04:05.678901Z`);
    const [, year, month, day, hour, minute, second, fraction = "", sign, hours, minutes] = match;
    const micro = Number(fraction.padEnd(6, "0"));
    const date = new Date(0);
    date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
    const right = date.getUTCMonth() === month - 1 && date.getUTCDate() === Number(day);
    if (!right || hour > 23 || minute > 59 || second > 59) {
      throw new SyncError("invalid_request", `${JSON.stringify(text)} is no instant: there is no such day or time`);
    }
    date.setUTCHours(Number(hour), Number(minute), Number(second), Math.floor(micro / 1000));
    const offset = sign ? (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) : 0;
    return new Instant(date.getTime() - offset * 60_000, micro % 1000);
  }

  /** Since 1970, as a BigInt. */
  get microseconds() {
    return BigInt(this.getTime()) * 1000n + BigInt(this.getTime() === this.#milliseconds ? this.#rest : 0);
  }

  /** RFC 3339 in UTC with six digits, as the server writes it. */
  toString() {
    return instantText(this);
  }

  static textOf(date) {
    const milliseconds = date.getTime();
    const year = date.getUTCFullYear();
    if (!(year >= 1 && year <= 9999)) throw new SyncError("invalid_mutation", "an instant must lie in the years 1 to 9999");
    const rest = date instanceof Instant && milliseconds === date.#milliseconds ? date.#rest : 0;
    return date.toISOString().slice(0, -1) + String(rest).padStart(3, "0") + "Z";
  }
}

const instantText = Instant.textOf;

/** A float, also where it is whole: `tx.set("reading", id, {celsius: double(20)})` stores 20.0. */
export class Double {
  constructor(value) {
    this.value = Number(value);
  }

  valueOf() {
    return this.value;
  }
}

export const double = (value) => new Double(value);

function floatToWire(value) {
  if (Number.isNaN(value)) return { $numberDouble: "NaN" };
  if (!Number.isFinite(value)) return { $numberDouble: value > 0 ? "Infinity" : "-Infinity" };
  if (!Number.isInteger(value)) return value;
  if (Object.is(value, -0)) return { $numberDouble: "-0.0" };
  const text = String(value);
  return { $numberDouble: /[.e]/.test(text) ? text : text + ".0" };
}

const isFloat = (wire) =>
  (typeof wire === "number" && !Number.isInteger(wire)) || (typeof wire === "object" && wire !== null && "$numberDouble" in wire);

const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const wellFormed =
  typeof String.prototype.isWellFormed === "function" ? (text) => text.isWellFormed() : (text) => !LONE_SURROGATE.test(text);

function setKey(object, key, value) {
  // Assigned, this one key would change what the object is.
  if (key === "__proto__") Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
  else object[key] = value;
}

function binaryText(bytes) {
  if (typeof bytes.toBase64 === "function") return bytes.toBase64();
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

function binaryOf(text) {
  const decoded = atob(text);
  const bytes = new Uint8Array(decoded.length);
  for (let at = 0; at < decoded.length; at++) bytes[at] = decoded.charCodeAt(at);
  return bytes;
}

function refuseValue(what, path) {
  const at = path.length ? ` (at ${path.join(".")})` : "";
  throw new SyncError("invalid_mutation", `${what}${at}`);
}

/**
 * A JavaScript value as a wire value. `was` is the wire value that stood in its place: a whole number goes back as the
 * kind of number it was, a Date that is what it was keeps its microseconds.
 */
export function toWire(value, was, operators = false, path = []) {
  switch (typeof value) {
    case "string":
      if (!wellFormed(value)) refuseValue("a string with a lone surrogate is no text", path);
      return value;
    case "number":
      if (Number.isInteger(value) && Math.abs(value) <= LARGEST && !isFloat(was)) return value === 0 ? 0 : value;
      return floatToWire(value);
    case "boolean":
      return value;
    case "bigint":
      if (value >= -9007199254740992n && value <= 9007199254740992n) return Number(value);
      if (value < -(2n ** 63n) || value >= 2n ** 64n) refuseValue(`${value} does not fit 64 bits`, path);
      return { $numberLong: String(value) };
    case "object":
      break;
    default:
      refuseValue(
        value === undefined ? "undefined cannot be stored; write null, or leave the field out" : `a ${typeof value} cannot be stored`,
        path,
      );
  }
  if (value === null) return null;
  if (path.length > MAX_DEPTH) refuseValue(`values may be nested ${MAX_DEPTH} deep`, path.slice(0, 3));
  if (Array.isArray(value)) {
    const before = Array.isArray(was) ? was : [];
    return Array.from(value, (one, at) => {
      path.push(at); // left there when it throws, for the message
      const wire = toWire(one, before[at], operators, path);
      path.pop();
      return wire;
    });
  }
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) refuseValue("an invalid Date cannot be stored", path);
    if (!(value instanceof Instant) && was?.$date !== undefined) {
      if (Instant.from(was.$date).getTime() === value.getTime()) return was;
    }
    return { $date: instantText(value) };
  }
  if (value instanceof Double) return floatToWire(value.value);
  if (value instanceof ArrayBuffer) return { $binary: binaryText(new Uint8Array(value)) };
  if (ArrayBuffer.isView(value)) return { $binary: binaryText(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)) };
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    refuseValue(`a ${value.constructor?.name ?? "class"} cannot be stored; there are null, booleans, numbers, BigInt, strings, ` +
      "Uint8Array, arrays, plain objects and Date", path);
  }
  const before = typeof was === "object" && was !== null && !Array.isArray(was) ? was : {};
  const out = {};
  for (const key of Object.keys(value)) {
    if (key.startsWith("$") && !operators) refuseValue(`the key ${JSON.stringify(key)} begins with $, which no key may`, path);
    if (!wellFormed(key)) refuseValue("a key with a lone surrogate is no text", path);
    path.push(key);
    setKey(out, key, toWire(value[key], Object.hasOwn(before, key) ? before[key] : undefined, operators, path));
    path.pop();
  }
  return out;
}

const formOf = (wire) => {
  for (const key in wire) return key.startsWith("$") ? key : "";
  return "";
};

/** A wire value as a fresh JavaScript value. */
export function fromWire(wire) {
  if (typeof wire !== "object" || wire === null) return wire;
  if (Array.isArray(wire)) return wire.map(fromWire);
  switch (formOf(wire)) {
    case "$date":
      return Instant.from(wire.$date);
    case "$binary":
      return binaryOf(wire.$binary);
    case "$numberLong": {
      const whole = BigInt(wire.$numberLong);
      return whole >= -9007199254740992n && whole <= 9007199254740992n ? Number(whole) : whole;
    }
    case "$numberDouble":
      return Number(wire.$numberDouble);
  }
  const out = {};
  for (const key of Object.keys(wire)) setKey(out, key, fromWire(wire[key]));
  return out;
}

export function sameWire(a, b) {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length && a.every((one, at) => sameWire(one, b[at]));
  }
  if (Array.isArray(b)) return false;
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && sameWire(a[key], b[key]));
}

/** As an application sees them: 1 and 1.0 are one to it. */
const sameForApplications = (a, b) => sameWire(a, b) || compareWire(a, b) === 0;

// A string, or a number; and what a text may contain for which it is worth looking.
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const UNUSUAL = /\d\.0+(?!\d)|\d[eE]|\d{16}/;

/** The protocol's JSON as a wire value. */
export function parseJson(text) {
  if (UNUSUAL.test(text)) {
    text = text.replace(TOKENS, (token) => {
      if (token[0] === '"') return token;
      const value = Number(token);
      if (/[.eE]/.test(token)) return Number.isInteger(value) ? JSON.stringify(floatToWire(value)) : token;
      return Math.abs(value) < LARGEST || token === "9007199254740992" || token === "-9007199254740992"
        ? token
        : `{"$numberLong":"${token}"}`;
    });
  }
  return JSON.parse(text);
}

/** A wire value as the protocol's JSON. */
export function printJson(wire) {
  const text = JSON.stringify(wire);
  return text.includes('{"$numberDouble":"')
    ? text.replace(/\{"\$numberDouble":"(-?\d[^"]*)"\}/g, (form, number) => (number === "-0.0" ? form : number))
    : text;
}

/** The length in UTF-8. */
function byteLength(text) {
  let bytes = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit > 0x7f) bytes += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1;
  }
  return bytes;
}

/** The bytes of a wire value as msgpack, which the limits of documents are about. */
export function packedSize(wire) {
  const headed = (size, one, two) => size + (size < one ? 1 : size < 256 && two ? 2 : size < 65536 ? 3 : 5);
  switch (typeof wire) {
    case "boolean":
      return 1;
    case "number": {
      if (!Number.isInteger(wire)) return 9;
      const limits = wire >= 0 ? [128, 256, 65536, 2 ** 32] : [33, 129, 32769, 2 ** 31 + 1];
      const step = limits.findIndex((limit) => Math.abs(wire) < limit);
      return [1, 2, 3, 5, 9][step < 0 ? 4 : step];
    }
    case "string":
      return headed(byteLength(wire), 32, true);
  }
  if (wire === null) return 1;
  if (Array.isArray(wire)) return wire.reduce((sum, one) => sum + packedSize(one), wire.length < 16 ? 1 : wire.length < 65536 ? 3 : 5);
  switch (formOf(wire)) {
    case "$date": {
      const seconds = Math.floor(Instant.from(wire.$date).getTime() / 1000);
      if (seconds < 0 || seconds >= 2 ** 34) return 15;
      return seconds < 2 ** 32 && /\.0+Z$/.test(wire.$date) ? 6 : 10;
    }
    case "$binary":
      return headed(Math.floor((wire.$binary.replace(/=+$/, "").length * 3) / 4), 0, true);
    case "$numberLong":
    case "$numberDouble":
      return 9;
  }
  const keys = Object.keys(wire);
  return keys.reduce((sum, key) => sum + packedSize(key) + packedSize(wire[key]), keys.length < 16 ? 1 : keys.length < 65536 ? 3 : 5);
}

// =================================================================================================== ids

/** Refuses what is no name of a scope, entity or document. */
export function checkName(name, what, code = "invalid_mutation") {
  const refuse = (why) => {
    throw new SyncError(code, `${what} ${why}`);
  };
  if (typeof name !== "string") refuse(`must be a string, not ${name === null ? "null" : typeof name}`);
  if (name === "") refuse("is empty; it must have 1 to 255 bytes of UTF-8");
  if (!wellFormed(name)) refuse("has a lone surrogate; it must be UTF-8");
  if (name.length > 85 && byteLength(name) > 255) refuse(`has ${byteLength(name)} bytes; it must have 1 to 255 bytes of UTF-8`);
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) refuse("has a control character; it must have none");
  if (name[0] === "_") refuse(`${JSON.stringify(name)} begins with '_'; such names are reserved`);
}

/** By the bytes of UTF-8, as the server orders ids and keys: where UTF-16 differs, surrogates come last. */
export function compareText(a, b) {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    let left = a.charCodeAt(at);
    let right = b.charCodeAt(at);
    if (left === right) continue;
    if (left >= 0xd800 && right >= 0xd800) {
      left += left >= 0xe000 ? -0x800 : 0x2000;
      right += right >= 0xe000 ? -0x800 : 0x2000;
    }
    return left < right ? -1 : 1;
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1;
}

/** SplitMix64, as BigInts of 64 bits. */
export function draws(seed) {
  let state = BigInt.asUintN(64, BigInt(seed));
  return () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let bits = state;
    bits = BigInt.asUintN(64, (bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
    bits = BigInt.asUintN(64, (bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
    return bits ^ (bits >> 31n);
  };
}

/** Of a time in microseconds and 64 random bits, both BigInts. */
export function uuid7(microseconds, bits) {
  const time = microseconds > 0n ? microseconds : 0n;
  const high = ((time / 1000n) << 16n) | 0x7000n | (((time % 1000n) * 4096n) / 1000n);
  const low = 0x8000000000000000n | (bits & 0x3fffffffffffffffn);
  const text = high.toString(16).padStart(16, "0") + low.toString(16);
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${text.slice(20)}`;
}

// Node has it as a global from 19 on.
const webCrypto = globalThis.crypto ?? (await import("node:crypto")).webcrypto;

const entropy = (() => {
  // One call for many numbers: a call costs more than a number.
  const pool = new BigUint64Array(64);
  let at = pool.length;
  return () => {
    if (at === pool.length) {
      webCrypto.getRandomValues(pool);
      at = 0;
    }
    return pool[at++];
  };
})();

const clock = (() => {
  // Milliseconds are all a browser tells reliably. Counted on within one, so that ids made after each other sort so.
  let last = 0;
  return () => {
    const now = Date.now() * 1000;
    last = now > last || now < last - 1_000_000 ? now : last + 1;
    return last;
  };
})();

/** A new id, in order of time: a UUIDv7. */
export const newId = () => uuid7(BigInt(clock()), entropy());

/** `tx.random`: Python's `random.Random` as far as it goes, on the same draws. */
class TxRandom {
  #draw;

  constructor(draw) {
    this.#draw = draw;
  }

  /** From 0 to 1. */
  random() {
    return Number(this.#draw() >> 11n) / LARGEST;
  }

  /** `k` bits, as a BigInt. */
  getrandbits(k) {
    const words = Math.ceil(k / 64);
    let number = 0n;
    for (let word = 0; word < words; word++) number = (number << 64n) | this.#draw();
    return number >> BigInt(64 * words - k);
  }

  #below(n) {
    if (!Number.isSafeInteger(n) || n < 1) throw new SyncError("invalid_mutation", `there is no number below ${n}`);
    const bits = n.toString(2).length;
    let number;
    do number = Number(this.getrandbits(bits));
    while (number >= n);
    return number;
  }

  /** A whole number from `start` on below `stop`; with one argument, from 0. */
  randrange(start, stop) {
    return stop === undefined ? this.#below(start) : start + this.#below(stop - start);
  }

  randint(first, last) {
    return this.randrange(first, last + 1);
  }

  choice(list) {
    return list[this.#below(list.length)];
  }

  shuffle(list) {
    for (let at = list.length - 1; at > 0; at--) {
      const other = this.#below(at + 1);
      [list[at], list[other]] = [list[other], list[at]];
    }
  }

  uniform(a, b) {
    return a + (b - a) * this.random();
  }
}

// =============================================================================================== queries
//
// MongoDB's rules, as the server has them. A missing field equals null, and meets no ordering operator but $gte and
// $lte null. Ordering operators compare within one class (numbers are one); $ne and $nin negate $eq and $in. A list
// matches when it equals the operand, or one of its elements meets the condition. Sorting orders classes: missing and
// null, numbers, strings, maps, lists, bytes, booleans, instants.

const CLASS_OF_FORM = { $numberLong: 1, $numberDouble: 1, $binary: 5, $date: 7 };

function classOf(wire) {
  switch (typeof wire) {
    case "number":
      return 1;
    case "string":
      return 2;
    case "boolean":
      return 6;
  }
  if (wire === null || wire === undefined) return 0;
  if (Array.isArray(wire)) return 4;
  return CLASS_OF_FORM[formOf(wire)] ?? 3;
}

const numberOf = (wire) =>
  typeof wire === "number" ? wire : wire.$numberLong !== undefined ? BigInt(wire.$numberLong) : Number(wire.$numberDouble);

function compareNumbers(a, b) {
  const left = Number.isNaN(a) ? 0 : 1;
  const right = Number.isNaN(b) ? 0 : 1;
  if (!left || !right) return left - right;
  return a < b ? -1 : a > b ? 1 : 0; // BigInt and number compare by exact value
}

/** Of two wire values, in sort order; undefined is a missing field. */
export function compareWire(a, b) {
  const kind = classOf(a);
  const classes = kind - classOf(b);
  if (classes !== 0) return classes;
  switch (kind) {
    case 0:
      return 0;
    case 1:
      return compareNumbers(numberOf(a), numberOf(b));
    case 2:
      return compareText(a, b);
    case 5: {
      const left = atob(a.$binary);
      const right = atob(b.$binary);
      return left < right ? -1 : left > right ? 1 : 0;
    }
    case 6:
      return Number(a) - Number(b);
    case 7: // in UTC with four digits of the year and six of the second, the text is in order
      return a.$date < b.$date ? -1 : a.$date > b.$date ? 1 : 0;
    case 4: {
      for (let at = 0; at < a.length && at < b.length; at++) {
        const order = compareWire(a[at], b[at]);
        if (order !== 0) return order;
      }
      return a.length - b.length;
    }
  }
  const left = Object.keys(a).sort(compareText);
  const right = Object.keys(b).sort(compareText);
  for (let at = 0; at < left.length && at < right.length; at++) {
    // As MongoDB: the class of the value comes before the name of the field.
    const kinds = classOf(a[left[at]]) - classOf(b[right[at]]);
    if (kinds !== 0) return kinds;
    const order = compareText(left[at], right[at]) || compareWire(a[left[at]], b[right[at]]);
    if (order !== 0) return order;
  }
  return left.length - right.length;
}

const OPERATORS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin"];

function refuseQuery(why) {
  throw new SyncError("invalid_request", why);
}

function splitPath(path) {
  const parts = path.split(".");
  if (parts.includes("")) refuseQuery("a field of the filter has an empty part; a path is written 'a.b'");
  return parts;
}

function refuseOperatorsWithin(wire) {
  if (typeof wire !== "object" || wire === null) return;
  if (!Array.isArray(wire) && CLASS_OF_FORM[formOf(wire)] !== undefined) return;
  for (const key of Object.keys(wire)) {
    if (!Array.isArray(wire) && key.startsWith("$")) {
      refuseQuery(`the operator ${JSON.stringify(key)} stands within a value; operators stand directly below a field`);
    }
    refuseOperatorsWithin(wire[key]);
  }
}

function valueAt(wire, path) {
  for (const part of path) {
    if (classOf(wire) !== 3 || !Object.hasOwn(wire, part)) return undefined;
    wire = wire[part];
  }
  return wire;
}

function meets(value, operator, operand) {
  switch (operator) {
    case "$eq":
    case "$ne":
      return compareWire(value, operand) === 0;
    case "$in":
    case "$nin":
      return operand.some((choice) => compareWire(value, choice) === 0);
  }
  if (classOf(value) !== classOf(operand)) return false;
  const order = compareWire(value, operand);
  return operator === "$gt" ? order > 0 : operator === "$gte" ? order >= 0 : operator === "$lt" ? order < 0 : order <= 0;
}

/** A filter as a function of a wire document. Throws where the filter is none. */
export function compileFilter(filter) {
  if (filter === undefined || filter === null) return () => true;
  let wire;
  try {
    wire = toWire(filter, undefined, true);
  } catch (error) {
    if (error instanceof SyncError) error.code = "invalid_request";
    throw error;
  }
  if (classOf(wire) !== 3) refuseQuery("a filter is a map of fields to conditions");
  const terms = [];
  for (const name of Object.keys(wire)) {
    if (name.startsWith("$")) refuseQuery(`the operator ${JSON.stringify(name)} is not known in place of a field`);
    const path = splitPath(name);
    const condition = wire[name];
    const given = filter[name];
    // What the application gave decides: {"$date": ...} is a value's form on the wire alone.
    const plain = typeof given === "object" && given !== null && classOf(condition) === 3 ? Object.keys(condition) : [];
    const dollars = plain.filter((key) => key.startsWith("$")).length;
    if (dollars === 0) {
      refuseOperatorsWithin(condition);
      terms.push([path, "$eq", condition]);
      continue;
    }
    if (dollars !== plain.length) refuseQuery(`the condition on ${JSON.stringify(name)} mixes operators with fields`);
    for (const operator of plain) {
      const operand = condition[operator];
      if (!OPERATORS.includes(operator)) {
        refuseQuery(`the operator ${JSON.stringify(operator)} is not known; there are ${OPERATORS.join(", ")}`);
      }
      if ((operator === "$in" || operator === "$nin") && !Array.isArray(operand)) {
        refuseQuery(`the operand of ${operator} on ${JSON.stringify(name)} is not a list`);
      }
      refuseOperatorsWithin(operand);
      terms.push([path, operator, operand]);
    }
  }
  return (document) =>
    terms.every(([path, operator, operand]) => {
      const value = valueAt(document, path) ?? null;
      const met = meets(value, operator, operand) || (Array.isArray(value) && value.some((one) => meets(one, operator, operand)));
      return met !== (operator === "$ne" || operator === "$nin");
    });
}

/** "field", "-field", ["field", -1] or a list of these, as a comparison of wire documents; null: by id. */
export function compileSort(sort) {
  if (sort === undefined || sort === null) return null;
  const pair = Array.isArray(sort) && sort.length === 2 && typeof sort[0] === "string" && typeof sort[1] === "number";
  const list = typeof sort === "string" || pair ? [sort] : sort;
  if (!Array.isArray(list)) refuseQuery('sort must be "field", "-field", ["field", -1] or a list of these');
  const keys = list.map((one) => {
    if (typeof one === "string") {
      const down = one.startsWith("-");
      return [splitPath(down ? one.slice(1) : one), down];
    }
    if (Array.isArray(one) && one.length === 2 && typeof one[0] === "string" && (one[1] === 1 || one[1] === -1)) {
      return [splitPath(one[0]), one[1] === -1];
    }
    return refuseQuery('sort must be "field", "-field", ["field", -1] or a list of these');
  });
  if (keys.length === 0) return null;
  return (a, b) => {
    for (const [path, down] of keys) {
      const order = compareWire(valueAt(a, path), valueAt(b, path));
      if (order !== 0) return down ? -order : order;
    }
    return 0;
  };
}

function checkLimit(limit) {
  if (limit === undefined || limit === null) return Infinity;
  if (!Number.isInteger(limit) || limit < 0) refuseQuery(`limit must be a whole number from 0, not ${String(limit)}`);
  return limit;
}

// ================================================================================================== core
//
// What is kept, and the op that changes it:
//
//   ["meta", record]                  {client_id, next, place, settled, epoch, successor}; next: the number of the next mutation;
//                                     successor: {id, next} of the client id that comes after this one
//   ["queue", place, entry | null]    {place, key, seq, scope, name, args, ts, seed, size, tries, voided, error, later, result}
//                                     voided: null, or why its number alone is sent: "discarded", "given_up" (for `error`, told when
//                                     the number is consumed), "told" (it was refused, and the application knows)
//                                     result: null, {ok: true}, {ok: false, code, message}, or {ok: false, consumed: true}
//                                     later: numbered under the successor
//   ["scope", name, record | null]    {name, cursor, epoch, open, loaded, resync, last_seq, staging}
//   ["doc", scope, entity, id, body | null]    {d: wire document, v: version}
//   ["docs", scope]                   all documents of the scope are forgotten
//   ["page", scope, n, changes]       a staged page; ["pages", scope] forgets them
//   ["refused", place, record | null]
//   ["inbox", number]                 what a tab left there is taken out
//
// Entries and records are never changed, only replaced: ops may keep them.

const FIRST_META = { next: 1, place: 1, settled: 0, epoch: null, successor: null };
const LIMITS = { body_bytes: 8 << 20, mutations: 1000, document_bytes: 1 << 20, nesting: 64 };
const NO_LAYER = new Map();

/** Rows of one entity in order of id: `docs` with what the layers, lowest first, say instead (null: gone). */
function mergedRows(docs, sorted, layers, prefix) {
  const rows = [];
  if (layers.length === 0) {
    for (const id of sorted) if (id.startsWith(prefix)) rows.push([id, docs.get(id)]);
    return rows;
  }
  const instead = layers.length === 1 ? layers[0] : new Map(layers.flatMap((layer) => [...layer]));
  const added = [];
  for (const [id, body] of instead) if (body !== null && !docs.has(id) && id.startsWith(prefix)) added.push(id);
  added.sort(compareText);
  let next = 0;
  for (const id of sorted) {
    if (!id.startsWith(prefix)) continue;
    while (next < added.length && compareText(added[next], id) < 0) rows.push([added[next], instead.get(added[next++])]);
    const body = instead.has(id) ? instead.get(id) : docs.get(id);
    if (body !== null) rows.push([id, body]);
  }
  for (; next < added.length; next++) rows.push([added[next], instead.get(added[next])]);
  return rows;
}

/** What `get`, `exists`, `version`, `list`, `scan` and `find` are, over whatever `_body` and `_rows` read. */
class Reader {
  /** The document, a fresh object each time; undefined: there is none. */
  get(entity, id) {
    const body = this._body(entity, id);
    return body === null ? undefined : fromWire(body.d);
  }

  exists(entity, id) {
    return this._body(entity, id) !== null;
  }

  /** 1 for the first; 0: absent. */
  version(entity, id) {
    return this._body(entity, id)?.v ?? 0;
  }

  /** id -> document of all of an entity, in byte order of id, as a Map. */
  list(entity) {
    return new Map(this.scan(entity));
  }

  /** [id, document] of those whose id begins with `prefix`, in byte order of id. */
  scan(entity, { prefix = "", limit } = {}) {
    const most = checkLimit(limit);
    const rows = this._rows(entity, prefix);
    return (rows.length > most ? rows.slice(0, most) : rows).map(([id, body]) => [id, fromWire(body.d)]);
  }

  /** [id, document] of those that match, after MongoDB's rules; `sort`: "field", "-field", ["field", -1] or a list of these. */
  find(entity, filter, { sort, limit } = {}) {
    return this._find(entity, filter, { sort, limit }).map(([id, body]) => [id, fromWire(body.d)]);
  }

  _find(entity, filter, { sort, limit } = {}) {
    const matches = compileFilter(filter);
    const order = compileSort(sort);
    const most = checkLimit(limit);
    let rows = this._rows(entity, "").filter(([, body]) => matches(body.d));
    // Rows come in order of id, and the sort is stable: equal keys stay in that order.
    if (order) rows = rows.sort(([, a], [, b]) => order(a.d, b.d));
    return rows.length > most ? rows.slice(0, most) : rows;
  }
}

/** One scope: confirmed, or with the pending mutations. */
class View extends Reader {
  #core;
  #confirmed;

  constructor(core, scope, confirmed) {
    super();
    this.#core = core;
    this.scope = scope;
    this.#confirmed = confirmed;
  }

  #layers() {
    return this.#confirmed ? [] : [this.#core.overlay(this.scope).map];
  }

  _body(entity, id) {
    return this.#core.lookUp(this.scope, this.#layers(), entity, id);
  }

  _rows(entity, prefix) {
    return this.#core.rows(this.scope, this.#layers(), entity, prefix);
  }
}

/** What a mutator reads and writes through: one scope. It reads its own writes, and is dead after its call. */
class Tx extends Reader {
  #core;
  #layers;
  #draft = new Map();
  #scope;
  #seed;
  #draw;
  #random;
  #now;
  #dead = false;

  constructor(core, entry, layers) {
    super();
    this.#core = core;
    this.#layers = [...layers, this.#draft];
    this.#scope = entry.scope;
    this.#seed = entry.seed;
    this.#now = entry.ts;
  }

  #draws() {
    return (this.#draw ??= draws(this.#seed)); // most mutators draw nothing
  }

  #live(entity, id) {
    if (this.#dead) {
      throw new SyncError("closed", "this tx is finished: a mutator may use its tx only until it returns; do not keep it");
    }
    checkName(entity, "entity");
    if (id !== undefined) checkName(id, "id");
  }

  get scope() {
    return this.#scope;
  }

  get user() {
    return this.#core.user;
  }

  get clientId() {
    return this.#core.meta.client_id;
  }

  /** When the mutation was made. */
  get now() {
    return Instant.from(this.#now);
  }

  /** A UUIDv7 that derives from the mutation: run again, here or on the server, it is the same one. */
  uuid() {
    this.#live("any");
    return uuid7(Instant.from(this.#now).microseconds, this.#draws()());
  }

  /** Derives from the mutation's seed: run again, it draws the same numbers. */
  get random() {
    this.#live("any");
    return (this.#random ??= new TxRandom(this.#draws()));
  }

  _body(entity, id) {
    this.#live(entity, String(id) === id ? id : "");
    return this.#core.lookUp(this.#scope, this.#layers, entity, id);
  }

  _rows(entity, prefix) {
    this.#live(entity);
    return this.#core.rows(this.#scope, this.#layers, entity, prefix);
  }

  #lower(entity, id) {
    return this.#core.lookUp(this.#scope, this.#layers.slice(0, -1), entity, id);
  }

  #put(entity, id, wire) {
    this.#core.checkDocument(entity, id, wire);
    // What a mutation has written is the next version, once, however often it wrote.
    layerOf(this.#draft, entity).set(id, wire === null ? null : { d: wire, v: (this.#lower(entity, id)?.v ?? 0) + 1 });
  }

  /** Puts a document, a plain object, in place, whatever was there. */
  set(entity, id, document) {
    this.#live(entity, id);
    const wire = toWire(document, this._body(entity, id)?.d);
    if (classOf(wire) !== 3) {
      throw new SyncError("invalid_mutation", `document ${entity}/${id} must be a plain object of fields, it is another value`);
    }
    this.#put(entity, id, wire);
  }

  /** Replaces the given fields. */
  update(entity, id, fields) {
    this.#live(entity, id);
    const old = this._body(entity, id)?.d;
    const wire = toWire(fields, old);
    if (classOf(wire) !== 3) throw new SyncError("invalid_mutation", `update of ${entity}/${id} must be a plain object of fields`);
    if (old === undefined) throw new SyncError("not_found", `no document ${entity}/${id} in ${this.#scope} to update`);
    const merged = { ...old };
    for (const key of Object.keys(wire)) setKey(merged, key, wire[key]);
    this.#put(entity, id, merged);
  }

  /** Whether there was one to delete. */
  delete(entity, id) {
    if (!this.exists(entity, id)) return false;
    this.#put(entity, id, null);
    return true;
  }

  /** Refuses the mutation unless the document is at `version`; 0: absent. */
  expect(entity, id, version) {
    const is = this.version(entity, id);
    if (is === version) return;
    const say = (at) => (at === 0 ? "absent" : `at version ${at}`);
    throw new SyncError("conflict", `${entity}/${id} is ${say(is)}, expected ${say(version)}`, { version: is });
  }

  _end() {
    this.#dead = true;
    return this.#draft;
  }
}

function layerOf(map, entity) {
  let layer = map.get(entity);
  if (layer === undefined) map.set(entity, (layer = new Map()));
  return layer;
}

const tsText = (microseconds) => {
  const milliseconds = Math.floor(microseconds / 1000);
  return new Date(milliseconds).toISOString().slice(0, -1) + String(microseconds - milliseconds * 1000).padStart(3, "0") + "Z";
};

/**
 * The machine. It says what to send (`nextPush`, `nextPull`) and is told what came back (`answer`, `lost`); whoever drives
 * it decides when. `take` hands out the ops that are to be made durable, with the events that may be told when they are,
 * and `flushed` says that they are: nothing is sent before.
 */
export class Core {
  constructor({
    mutators = {},
    user = null,
    clientId,
    limits,
    maxTries = 50,
    maxBatch = 1000,
    maxBatchBytes = 1 << 20,
    maxPending = 100_000,
    maxRefused = 1000,
    now = clock,
    bits = entropy,
    id = newId,
  } = {}) {
    this.mutators = new Map(mutators instanceof Map ? mutators : Object.entries(mutators));
    for (const [name, mutator] of this.mutators) {
      if (typeof mutator !== "function") throw new SyncError("usage", `the mutator ${JSON.stringify(name)} is no function`);
    }
    this.user = user;
    this.limits = { ...LIMITS, ...limits };
    this.options = { maxTries, maxBatch, maxBatchBytes, maxPending, maxRefused };
    this.now = now;
    this.bits = bits;
    this.newId = id;
    this.firstId = clientId;
    this.requests = 0;
    this.keys = `${entropy().toString(36)}.`; // with a number behind it, a mutation's name in all tabs
    this.made = 0;
    this.counts = { rebases: 0, replayed: 0, pulled: 0 };
    this.running = false;
    this.#reset();
  }

  #reset() {
    this.meta = null;
    this.queue = new Map();
    this.refused = new Map();
    this.scopes = new Map();
    this.docs = new Map();
    this.sorted = new Map();
    this.overlays = new Map();
    this.extras = []; // this tab's own, on their way to the one that leads
    this.staged = new Map(); // scope -> the pages of its pull so far, parsed
    this.unflushed = [];
    this.events = [];
    this.dirty = new Map();
    this.replayDirty = new Set();
    this.#forgetRequests();
    this.identified = false;
    this.durable = { place: 0, settled: 0 };
    this.shrunk = Infinity; // mutations a push, after one was too large
    this.sent = 0;
    this.unshown = new Set(); // refusals that are not durable yet
    this.openedNext = 1; // numbers from here on were given since this was opened
  }

  #forgetRequests() {
    this.out = new Map(); // "push" or "pull <scope>" -> the request that is outstanding
  }

  // ---- what is kept

  /** Takes over what a store had. Once it had something, the difference is told as events. */
  load(stored) {
    const before = this.meta === null ? null : this.#everything();
    const { events, extras } = this;
    this.#reset();
    this.meta = stored.meta ?? { client_id: this.firstId ?? this.newId(), ...FIRST_META };
    for (const entry of stored.queue) this.queue.set(entry.place, entry);
    const queued = new Set(stored.queue.map((entry) => entry.key));
    this.extras = extras.filter((entry) => !queued.has(entry.key));
    for (const record of stored.refused) this.refused.set(record.place, record);
    for (const record of stored.scopes) this.scopes.set(record.name, record);
    for (const [scope, entity, id, body] of stored.docs) layerOf(layerOf(this.docs, scope), entity).set(id, body);
    for (const [scope, n, changes] of stored.pages) {
      if (!this.staged.has(scope)) this.staged.set(scope, []);
      this.staged.get(scope)[n] = changes;
    }
    this.durable = { place: this.meta.place - 1, settled: this.meta.settled };
    this.openedNext = this.meta.next;
    if (stored.meta === undefined || stored.meta === null) this.unflushed.push(["meta", this.meta]);
    for (const scope of this.scopes.keys()) this.replayDirty.add(scope);
    this.refresh();
    this.events = before === null ? [] : events;
    if (before !== null) this.#tellDifference(before);
  }

  #everything() {
    const all = new Map();
    for (const scope of new Set([...this.docs.keys(), ...this.overlays.keys()])) {
      const layers = [this.overlay(scope).map];
      const entities = new Set([...(this.docs.get(scope)?.keys() ?? []), ...layers[0].keys()]);
      for (const entity of entities) {
        for (const [id, body] of this.rows(scope, layers, entity, "")) all.set(`${scope}\0${entity}\0${id}`, body.d);
      }
    }
    return all;
  }

  #tellDifference(before) {
    const after = this.#everything();
    for (const key of new Set([...before.keys(), ...after.keys()])) {
      const [scope, entity, id] = key.split("\0");
      this.#tellChange(scope, entity, id, before.get(key) ?? null, after.get(key) ?? null);
    }
  }

  #tellChange(scope, entity, id, before, after) {
    if (before === after || sameForApplications(before, after)) return;
    this.events.push({ kind: "changed", scope, entity, id, before, after });
  }

  /** Makes an op so. `refresh` follows, after the last of those that belong together. */
  apply(op) {
    const [kind, a, b, c, d] = op;
    switch (kind) {
      case "meta":
        if (this.meta.client_id !== a.client_id) this.events.push({ kind: "renamed", clientId: a.client_id, message: a.why ?? "" });
        this.meta = a;
        break;
      case "queue": {
        const old = this.queue.get(a);
        if (b === null) {
          this.queue.delete(a);
          if (old) this.events.push({ kind: "settled", key: old.key, result: old.result, voided: old.voided });
        } else {
          this.queue.set(a, b);
        }
        const entry = b ?? old;
        if (entry) this.replayDirty.add(entry.scope);
        if (b && !old && this.extras.length) this.extras = this.extras.filter((one) => one.key !== b.key);
        break;
      }
      case "scope": {
        const old = this.scopes.get(a);
        if (b === null) {
          this.scopes.delete(a);
          this.staged.delete(a);
        } else {
          this.scopes.set(a, b);
          if (b.loaded && !old?.loaded) this.events.push({ kind: "opened", scope: a });
          if (old?.open && !b.open) this.events.push({ kind: "closed", scope: a });
          if (b.resync === "restored" && old?.resync !== "restored") this.events.push({ kind: "restored", scope: a });
        }
        this.replayDirty.add(a);
        break;
      }
      case "doc": {
        const docs = layerOf(layerOf(this.docs, a), b);
        const old = docs.get(c) ?? null;
        this.#note(a, b, c, old);
        if (d === null) docs.delete(c);
        else docs.set(c, d);
        if ((old === null) !== (d === null)) this.sorted.get(a)?.delete(b);
        break;
      }
      case "docs":
        for (const [entity, docs] of this.docs.get(a) ?? []) for (const [id, body] of docs) this.#note(a, entity, id, body);
        this.docs.delete(a);
        this.sorted.delete(a);
        break;
      case "page":
      case "pages":
      case "inbox":
        break;
      case "refused":
        if (b === null) this.refused.delete(a);
        else {
          this.refused.set(a, b);
          this.events.push({ kind: "refused", scope: b.scope, place: a, key: b.key, code: b.code, message: b.message });
        }
        break;
      default:
        throw new SyncError("corrupt", `there is no op ${JSON.stringify(kind)}`);
    }
  }

  #note(scope, entity, id, old) {
    let noted = this.dirty.get(scope);
    if (noted === undefined) this.dirty.set(scope, (noted = new Map()));
    const layer = layerOf(noted, entity);
    if (!layer.has(id)) layer.set(id, old);
  }

  /** Runs again what has to be, and tells what became visible. */
  refresh() {
    const scopes = new Set([...this.dirty.keys(), ...this.replayDirty]);
    const dirty = this.dirty;
    this.dirty = new Map();
    this.replayDirty = new Set();
    for (const scope of scopes) {
      const noted = dirty.get(scope);
      const old = this.overlay(scope);
      const list = this.replayed(scope);
      const same = noted === undefined && list.length === old.list.length && list.every((entry, at) => entry.key === old.list[at].key);
      if (same) continue;
      const fresh = { list, map: new Map() };
      for (const entry of list) this.#runAgain(entry, fresh.map);
      if (list.length) {
        this.counts.rebases++;
        this.counts.replayed += list.length;
      }
      if (list.length) this.overlays.set(scope, fresh);
      else this.overlays.delete(scope);
      const touched = new Map();
      for (const map of [noted ?? NO_LAYER, old.map, fresh.map]) {
        for (const [entity, layer] of map) for (const id of layer.keys()) layerOf(touched, entity).set(id, null);
      }
      for (const [entity, ids] of touched) {
        const [was, said, says] = [noted?.get(entity), old.map.get(entity), fresh.map.get(entity)];
        const docs = this.docs.get(scope)?.get(entity) ?? NO_LAYER;
        for (const id of ids.keys()) {
          const before = said?.has(id) ? said.get(id) : was?.has(id) ? was.get(id) : (docs.get(id) ?? null);
          const after = says?.has(id) ? says.get(id) : (docs.get(id) ?? null);
          if (before !== after) this.#tellChange(scope, entity, id, before?.d ?? null, after?.d ?? null);
        }
      }
    }
  }

  /** Of the queue, in order, what runs on top of the scope's documents. */
  replayed(scope) {
    const list = [];
    for (const entry of this.queue.values()) {
      if (entry.scope !== scope || entry.voided || (entry.result !== null && !entry.result.ok) || this.isConfirmed(entry)) continue;
      list.push(entry);
    }
    for (const entry of this.extras) if (entry.scope === scope) list.push(entry);
    return list;
  }

  /** Whether its effect, or its refusal, is in the documents. */
  isConfirmed(entry) {
    const scope = this.scopes.get(entry.scope);
    return scope !== undefined && !entry.later && entry.seq <= scope.last_seq;
  }

  overlay(scope) {
    return this.overlays.get(scope) ?? { list: [], map: NO_LAYER };
  }

  lookUp(scope, layers, entity, id) {
    for (let at = layers.length - 1; at >= 0; at--) {
      const body = layers[at].get(entity)?.get(id);
      if (body !== undefined) return body;
    }
    return this.docs.get(scope)?.get(entity)?.get(id) ?? null;
  }

  rows(scope, layers, entity, prefix) {
    const docs = this.docs.get(scope)?.get(entity) ?? NO_LAYER;
    let sorted = this.sorted.get(scope)?.get(entity);
    if (sorted === undefined) {
      sorted = [...docs.keys()].sort(compareText);
      if (docs.size) layerOf(this.sorted, scope).set(entity, sorted);
    }
    const said = layers.map((layer) => layer.get(entity)).filter((layer) => layer?.size);
    return mergedRows(docs, sorted, said, prefix);
  }

  checkDocument(entity, id, wire) {
    const most = this.limits.document_bytes;
    if (wire === null || roughSize(wire) <= most) return;
    const size = packedSize(wire);
    if (size <= most) return;
    throw new SyncError("too_large", `document ${entity}/${id} is ${size} bytes encoded; at most ${most} are stored`, { limit: most });
  }

  /** Runs an entry's mutator on top of `map`; what it would write. */
  #run(entry, map) {
    const mutator = this.mutators.get(entry.name);
    if (mutator === undefined) {
      const known = [...this.mutators.keys()].join(", ") || "none";
      throw new SyncError("unknown_mutation", `there is no mutator ${JSON.stringify(entry.name)}; there are ${known}`);
    }
    const tx = new Tx(this, entry, [map]);
    this.running = true;
    let draft;
    try {
      const returned = mutator(tx, fromWire(entry.args));
      if (typeof returned?.then === "function") {
        returned.then(undefined, () => {});
        throw new SyncError("usage", `the mutator ${JSON.stringify(entry.name)} is async; a mutator runs at once, so write it without`);
      }
    } finally {
      this.running = false;
      draft = tx._end();
    }
    return draft;
  }

  /** Once more. What it refuses now, it does not do: the server has the last word on it. */
  #runAgain(entry, map) {
    let draft;
    try {
      draft = this.#run(entry, map);
    } catch {
      return;
    }
    for (const [entity, layer] of draft) {
      const into = layerOf(map, entity);
      for (const [id, body] of layer) into.set(id, body);
    }
  }

  #step(...ops) {
    for (const op of ops) {
      this.apply(op);
      this.unflushed.push(op);
    }
  }

  #noteMeta(change) {
    this.#step(["meta", { ...this.meta, ...change }]);
  }

  // ---- durability

  /** {ops, events, mark} since the last time; null: nothing. The events may be told when the ops are durable. */
  take() {
    if (this.unflushed.length === 0 && this.events.length === 0) return null;
    const mark = { place: this.meta.place - 1, settled: this.meta.settled, id: this.meta.client_id, refused: [...this.unshown] };
    const taken = { ops: this.unflushed, events: this.events, mark };
    this.unflushed = [];
    this.events = [];
    return taken;
  }

  flushed(mark) {
    if (mark.id === this.meta.client_id) this.durable = mark;
    for (const place of mark.refused) this.unshown.delete(place);
  }

  /** What could not be made durable goes back, to be taken again. */
  giveBack(taken) {
    this.unflushed = [...taken.ops, ...this.unflushed];
    this.events = [...taken.events, ...this.events];
  }

  // ---- the application's side

  join(scope) {
    checkName(scope, "scope", "invalid_scope");
    if (this.scopes.has(scope)) return;
    this.#step(["scope", scope, newScope(scope)]);
    this.refresh();
  }

  leave(scope) {
    if (!this.scopes.has(scope)) throw new SyncError("invalid_scope", `${JSON.stringify(scope)} is not joined`);
    this.out.delete(`pull ${scope}`);
    this.#step(["scope", scope, null], ["pages", scope], ["docs", scope]);
    this.#settle();
    this.refresh();
  }

  view(scope, confirmed = false) {
    if (!this.scopes.has(scope)) {
      throw new SyncError("invalid_scope", `${JSON.stringify(scope)} is not joined; joined are ${[...this.scopes.keys()].join(", ") || "none"}`);
    }
    return new View(this, scope, confirmed);
  }

  /** Runs the mutator on the view and queues the mutation. What it refuses is thrown, and nothing is queued. */
  mutate(scope, name, args = null, { queued = true } = {}) {
    if (this.running) throw new SyncError("usage", "a mutator may not call its own replica; what it reads and writes goes through tx");
    if (!this.scopes.has(scope)) throw new SyncError("invalid_scope", `${JSON.stringify(scope)} is not joined`);
    if (this.queue.size + this.extras.length >= this.options.maxPending) {
      throw new SyncError("rate_limited", `${this.options.maxPending} mutations wait for the server; more are not kept`);
    }
    const wire = toWire(args);
    const size = byteLength(printJson(wire)) + 3 * (name.length + scope.length) + 400;
    if (size > this.limits.body_bytes) {
      throw new SyncError("too_large", `the arguments of ${name} have ${size} bytes; the server takes ${this.limits.body_bytes}`, {
        limit: this.limits.body_bytes,
      });
    }
    const entry = {
      place: queued ? this.meta.place : null,
      key: `${this.keys}${++this.made}`,
      seq: queued ? this.meta.next : null,
      scope,
      name,
      args: wire,
      ts: tsText(this.now()),
      seed: String(this.bits()),
      size,
      tries: 0,
      voided: null,
      error: null,
      later: false,
      result: null,
    };
    let overlay = this.overlays.get(scope);
    if (overlay === undefined) overlay = { list: [], map: new Map() };
    const draft = this.#run(entry, overlay.map);
    this.overlays.set(scope, overlay);
    for (const [entity, layer] of draft) {
      for (const [id, body] of layer) {
        const old = this.lookUp(scope, [overlay.map], entity, id);
        layerOf(overlay.map, entity).set(id, body);
        this.#tellChange(scope, entity, id, old?.d ?? null, body?.d ?? null);
      }
    }
    overlay.list.push(entry);
    if (queued) {
      this.#queue(entry);
      this.replayDirty.delete(scope); // it ran already
    } else {
      this.extras.push(entry);
    }
    return entry;
  }

  #queue(entry) {
    const { place, next, successor } = this.meta;
    if (successor === null) {
      this.#step(["queue", place, { ...entry, place, seq: next }], ["meta", { ...this.meta, place: place + 1, next: next + 1 }]);
    } else {
      const meta = { ...this.meta, place: place + 1, successor: { ...successor, next: successor.next + 1 } };
      this.#step(["queue", place, { ...entry, place, seq: successor.next, later: true }], ["meta", meta]);
    }
  }

  /** Queues what other tabs left in the inbox: [number, entry] each. */
  absorb(inbox) {
    const known = new Set([...this.queue.values()].map((entry) => entry.key));
    for (const [number, entry] of inbox) {
      if (!known.has(entry.key)) this.#queue(entry);
      this.#step(["inbox", number]);
    }
    this.refresh();
  }

  /** Voids a mutation and takes its effect back. False: it is settled, or void already. */
  discard(key) {
    for (const entry of this.queue.values()) {
      if (entry.key !== key) continue;
      if (entry.voided || entry.result !== null) return false;
      this.#step(["queue", entry.place, { ...entry, voided: "discarded" }]);
      this.refresh();
      return true;
    }
    return false;
  }

  forgetRefused(place) {
    if (!this.refused.has(place)) return false;
    this.#step(["refused", place, null]);
    return true;
  }

  pending() {
    return [...this.queue.values(), ...this.extras].map((entry) => ({
      key: entry.key,
      place: entry.place,
      seq: entry.seq,
      scope: entry.scope,
      name: entry.name,
      args: fromWire(entry.args),
      ts: Instant.from(entry.ts),
      tries: entry.tries,
      durable: entry.place !== null && entry.place <= this.durable.place,
      sent: entry.place !== null && entry.place <= this.sent,
      voided: entry.voided !== null || (entry.result !== null && !entry.result.ok),
      confirmed: entry.seq !== null && this.isConfirmed(entry),
    }));
  }

  /** What may be told of refusals: those that are durable. */
  refusals() {
    return [...this.refused.values()].filter((record) => !this.unshown.has(record.place));
  }

  learnLimits(told) {
    for (const name of Object.keys(LIMITS)) if (Number.isInteger(told?.[name]) && told[name] > 0) this.limits[name] = told[name];
  }

  // ---- the server's side

  /** {request, path, body, mutations}; null: nothing to send, one is outstanding, or `last_seq` is not known yet. */
  nextPush() {
    if (this.out.has("push")) return null;
    // Without a scope that can be pulled there is nothing to learn it from; a number that was used before is noticed then.
    if (!this.identified && [...this.scopes.values()].some((scope) => scope.open)) return null;
    const { client_id, epoch } = this.meta;
    const most = Math.min(this.options.maxBatch, this.limits.mutations, this.shrunk);
    const mostBytes = Math.min(this.options.maxBatchBytes, this.limits.body_bytes - 1024);
    const entries = [];
    let bytes = 0;
    for (const entry of this.queue.values()) {
      if (entry.result !== null) continue;
      if (entry.later) continue;
      if (entry.place > this.durable.place || entries.length === most) break;
      const size = entry.voided ? 400 : entry.size;
      if (entries.length > 0 && bytes + size > mostBytes) break;
      bytes += size;
      entries.push(entry);
    }
    if (entries.length === 0) return null;
    const body = { mutations: entries.map((entry) => wireMutation(entry, client_id)), settled: { [client_id]: this.durable.settled } };
    if (epoch !== null) body.epoch = epoch;
    this.sent = Math.max(this.sent, entries[entries.length - 1].place);
    const request = ++this.requests;
    this.out.set("push", { request, sent: entries.map(({ place, seq, voided }) => ({ place, seq, asVoid: voided !== null })) });
    return { request, path: "/_sync/push", scopes: [...new Set(entries.map((entry) => entry.scope))], body: printJson(body), mutations: entries.length };
  }

  /** {request, path, scope, body}; null: one is outstanding, or not joined. */
  nextPull(name) {
    const scope = this.scopes.get(name);
    if (scope === undefined || this.out.has(`pull ${name}`)) return null;
    const { staging } = scope;
    const from = staging ?? (scope.resync || !scope.open ? { cursor: 0, epoch: null } : scope);
    const body = { scope: name, cursor: from.cursor };
    if (from.cursor > 0) body.epoch = from.epoch;
    if (staging) body.page = staging.page;
    body.client_id = this.meta.client_id;
    const request = ++this.requests;
    this.out.set(`pull ${name}`, { request, scope: name, cursor: from.cursor, page: staging !== null });
    return { request, path: "/_sync/pull", scope: name, body: printJson(body) };
  }

  /** No answer came, or none will be waited for. */
  lost(request) {
    for (const [what, out] of this.out) if (out.request === request) this.out.delete(what);
  }

  /** Whether a poke says something else than the scope has. */
  news(name, cursor, epoch) {
    const scope = this.scopes.get(name);
    return scope !== undefined && (scope.cursor !== cursor || scope.epoch !== epoch);
  }

  /**
   * What an answer comes to: {next: "done" | "ignored" | "wait" | "unauthenticated" | "failed", code, message, retryAfter}.
   * `text`: the body.
   */
  answer(request, status, text) {
    const found = [...this.out].find(([, out]) => out.request === request);
    if (found === undefined) return { next: "ignored" };
    const [what, out] = found;
    this.out.delete(what);
    let body;
    try {
      body = parseJson(text);
    } catch {
      return { next: "wait", code: "unavailable", message: `the answer (${status}) is no JSON` };
    }
    const answered = what === "push" ? this.#onPush(out, status, body) : this.#onPull(out, status, body);
    this.refresh();
    return answered;
  }

  #unexpected(status, body) {
    const error = body?.error ?? {};
    const told = {
      code: typeof error.code === "string" ? error.code : "unavailable",
      message: typeof error.message === "string" ? error.message : `the server answered with ${status}`,
    };
    if (Number.isFinite(error.retry_after)) told.retryAfter = error.retry_after;
    if (status === 401) return { next: "unauthenticated", ...told };
    const passing = status === 429 || status >= 500 || status < 400 || status === 408;
    return { next: passing ? "wait" : "failed", ...told };
  }

  #onPush(out, status, body) {
    const code = body?.error?.code;
    if (status === 200 && Array.isArray(body?.results)) {
      if (body.results.length === out.sent.length) return this.#onResults(out, body);
      return { next: "wait", code: "unavailable", message: `${body.results.length} results for ${out.sent.length} mutations` };
    }
    if (status === 410 && code === "epoch_mismatch" && typeof body.error.epoch === "string") {
      this.#learn(body.error.epoch);
      return { next: "done" };
    }
    if (this.#isForeign(status, body)) {
      this.#disown();
      return { next: "done" };
    }
    if (status === 413) {
      if (out.sent.length > 1) {
        this.shrunk = Math.floor(out.sent.length / 2);
        return { next: "done" };
      }
      const [{ place, asVoid }] = out.sent;
      const entry = this.queue.get(place);
      if (entry && !asVoid) {
        if (!entry.voided) this.#giveUp(entry, "too_large", body?.error?.message ?? "the server takes no mutation so large");
        return { next: "done" };
      }
    }
    return this.#unexpected(status, body);
  }

  /** Whether the server says that our client id is somebody else's. */
  #isForeign(status, body) {
    return status === 403 && body?.error?.code === "forbidden" && body.error.client_id === this.meta.client_id;
  }

  #onResults(out, body) {
    this.shrunk = this.shrunk >= this.options.maxBatch ? Infinity : 2 * this.shrunk;
    if (typeof body.epoch === "string" && this.meta.epoch === null) this.#learn(body.epoch);
    const set = (entry, change) => this.#step(["queue", entry.place, { ...entry, ...change }]);
    const reused = new Set();
    let stop = null;
    let gap = false;
    out.sent.forEach(({ place, seq, asVoid }, at) => {
      const entry = this.queue.get(place);
      if (entry === undefined || entry.seq !== seq || entry.result !== null) return;
      const one = body.results[at];
      const { code = null, message = "" } = one.ok ? {} : (one.error ?? { code: "internal_error" });
      switch (code) {
        case "unavailable": {
          if (stop !== null) return; // those behind the first were not run
          stop = { next: "wait", code, message };
          const tries = entry.tries + 1;
          if (tries >= this.options.maxTries && !asVoid && !entry.voided) {
            this.#giveUp({ ...entry, tries }, code, `the server asked to try again ${tries} times; given up`);
          } else {
            set(entry, { tries });
          }
          return;
        }
        case "sequence_gap":
          gap = true;
          return;
        case "sequence_reused":
          if (asVoid || entry.voided) set(entry, { result: { ok: false, consumed: true } });
          else reused.add(place);
          return;
        case "result_expired": // it was answered before
          set(entry, { result: asVoid ? { ok: false, consumed: true } : { ok: true } });
          return;
      }
      if (code !== null) {
        if (!entry.voided || entry.voided === "given_up") this.#tellRefused(entry, code, message);
        set(entry, { result: { ok: false, code, message } });
      } else if (!asVoid || (one.duplicate && one.changes?.length > 0 && entry.voided !== "told")) {
        set(entry, { result: { ok: true }, voided: null, error: null }); // it was done, whatever was wished for it since
      } else {
        if (entry.voided === "given_up") this.#tellRefused(entry, entry.error.code, entry.error.message);
        set(entry, { result: { ok: false, consumed: true } });
      }
    });
    if (reused.size) {
      // A state of this storage that is lost gave these numbers to others. They were never run; they and what is behind them move.
      const [first] = reused;
      this.#numberLater((entry) => entry.later || reused.has(entry.place) || (entry.place > first && entry.result === null && !entry.voided));
    }
    const before = this.meta.settled;
    this.#settle();
    if (gap) {
      // From the front, where `settled` lifts the server over what it has lost.
      this.#forgetResults();
      if (out.sent[0].seq === before + 1 && this.meta.settled === before) {
        stop ??= { next: "wait", code: "sequence_gap", message: "the server misses what was settled" };
      }
    }
    return stop ?? { next: "done" };
  }

  #tellRefused(entry, code, message) {
    const { place, key, seq, scope, name, args, ts } = entry;
    const at = tsText(this.now());
    this.unshown.add(place);
    this.#step(["refused", place, { place, key, client_id: this.meta.client_id, seq, scope, name, args, ts, at, code, message }]);
    const surplus = this.refused.size - this.options.maxRefused;
    for (const oldest of [...this.refused.keys()].slice(0, Math.max(0, surplus))) this.#step(["refused", oldest, null]);
  }

  #giveUp(entry, code, message) {
    this.#step(["queue", entry.place, { ...entry, voided: "given_up", error: { code, message } }]);
  }

  /** What the server has forgotten is asked again; a refusal that was told stays one: its number goes as a void. */
  #forgetResults() {
    for (const entry of [...this.queue.values()]) {
      if (entry.result === null) continue;
      const told = !entry.result.ok && (!entry.result.consumed || entry.voided === "given_up");
      this.#step(["queue", entry.place, { ...entry, result: null, voided: told ? "told" : entry.voided }]);
    }
  }

  #learn(epoch) {
    if (this.meta.epoch === epoch) return;
    const known = this.meta.epoch !== null;
    this.#noteMeta({ epoch });
    this.#forgetResults();
    this.out.delete("push");
    if (known) this.#abandon();
  }

  #abandon() {
    this.#forgetRequests();
    for (const scope of [...this.scopes.values()]) if (scope.staging) this.#unstage(scope);
  }

  #unstage(scope, change = {}) {
    this.staged.delete(scope.name);
    this.#step(["pages", scope.name], ["scope", scope.name, { ...this.scopes.get(scope.name), staging: null, ...change }]);
  }

  #isDone(entry) {
    if (entry.result === null) return false;
    if (!entry.result.ok || this.isConfirmed(entry)) return true;
    const scope = this.scopes.get(entry.scope);
    return scope === undefined || !scope.open;
  }

  /** The queue shrinks from its front: by what is answered, and in the documents or in none that are held. */
  #settle() {
    let { settled } = this.meta;
    let held = false;
    for (const entry of [...this.queue.values()]) {
      if (entry.later) continue;
      if (!this.#isDone(entry)) {
        held = true;
        break;
      }
      this.#step(["queue", entry.place, null]);
      settled = Math.max(settled, entry.seq);
    }
    if (settled !== this.meta.settled) this.#noteMeta({ settled });
    if (!held && this.meta.successor !== null) this.#succeed();
  }

  /** Learns the last number that the server has of us. */
  #identify(lastSeq) {
    if (this.identified) return;
    this.identified = true;
    if (lastSeq < this.openedNext) return;
    // Numbers that were never given here: this storage was set back. What was queued in it asks for its fate under the old id, what
    // was made since moves behind, under a new one.
    this.#numberLater((entry) => entry.later || entry.seq >= this.openedNext);
    this.#settle();
  }

  #numberLater(chosen) {
    let next = 1;
    for (const entry of [...this.queue.values()]) {
      if (chosen(entry)) this.#step(["queue", entry.place, { ...entry, later: true, seq: next++ }]);
    }
    this.#noteMeta({ successor: { id: this.meta.successor?.id ?? this.newId(), next } });
  }

  /** Nothing is left under the old client id. */
  #succeed() {
    const { id, next } = this.meta.successor;
    for (const entry of [...this.queue.values()]) this.#step(["queue", entry.place, { ...entry, later: false }]);
    this.#rename(id, next, "the storage had been set back to an earlier state; what comes is sent under a new client id");
  }

  /** The client id is somebody else's, so nothing of ours was ever done under it: all is numbered anew, with its seeds. */
  #disown() {
    let next = 1;
    for (const entry of [...this.queue.values()]) {
      if (entry.voided || (entry.result !== null && !entry.result.ok)) {
        if (entry.voided === "given_up" && entry.result === null) this.#tellRefused(entry, entry.error.code, entry.error.message);
        this.#step(["queue", entry.place, null]);
      } else {
        this.#step(["queue", entry.place, { ...entry, seq: next++, result: null, later: false }]);
      }
    }
    this.#rename(this.newId(), next, "the client id belongs to another user; what is pending is sent under a new one");
  }

  #rename(clientId, next, why) {
    this.#noteMeta({ client_id: clientId, next, settled: 0, successor: null, why });
    for (const scope of [...this.scopes.values()]) this.#unstage(scope, { last_seq: 0 });
    this.durable = { place: 0, settled: 0 };
    this.#forgetRequests();
    this.identified = true; // nobody has had this id
    this.openedNext = next;
  }

  #onPull(out, status, body) {
    const scope = this.scopes.get(out.scope);
    const code = body?.error?.code;
    if (status === 200) {
      const whole = Array.isArray(body?.changes) && typeof body.epoch === "string" && Number.isInteger(body.cursor);
      if (whole) return this.#onPage(scope, out, body);
      return { next: "wait", code: "unavailable", message: "the answer to a pull has not what it must have" };
    }
    if (status === 410) {
      if (out.cursor === 0 && !out.page) return { ...this.#unexpected(status, body), next: "wait" };
      const restored = code === "epoch_mismatch" && out.cursor > 0 && !scope.resync;
      this.#unstage(scope, { resync: restored ? "restored" : (scope.resync ?? "too old") });
      return { next: "done", again: true };
    }
    if (this.#isForeign(status, body)) {
      this.#disown();
      return { next: "done", again: true };
    }
    if (status === 403 && code === "forbidden") {
      if (scope.open) {
        this.staged.delete(scope.name);
        this.#step(["pages", scope.name], ["docs", scope.name], ["scope", scope.name, { ...newScope(scope.name), open: false }]);
        this.#settle();
      }
      return { ...this.#unexpected(status, body), closed: true };
    }
    if (status === 400 && out.page) {
      this.#unstage(scope); // a token that the server does not know any more
      return { next: "done", again: true };
    }
    return this.#unexpected(status, body);
  }

  #onPage(scope, out, body) {
    const asked = this.meta.client_id;
    const lastSeq = body.last_seq ?? 0;
    this.#learn(body.epoch);
    this.#identify(lastSeq);
    if (this.meta.client_id !== asked) return { next: "done", again: true }; // it speaks of the old id's numbers
    const begun = scope.staging;
    scope = this.scopes.get(scope.name);
    if (begun && !scope.staging) return { next: "done", again: true }; // pages of two epochs do not belong together
    const pages = this.staged.get(scope.name) ?? [];
    if (body.has_more) {
      const number = pages.length;
      this.staged.set(scope.name, [...pages, body.changes]);
      this.#step(
        ["page", scope.name, number, body.changes],
        ["scope", scope.name, { ...scope, staging: { cursor: out.cursor, epoch: out.cursor > 0 ? scope.epoch : null, page: body.page } }],
      );
      return { next: "done", again: true };
    }
    // All of it at once: the documents, the cursor, and which mutations they contain.
    if (out.cursor === 0) this.#step(["docs", scope.name]);
    for (const changes of [...pages, body.changes]) {
      for (const change of changes) {
        const gone = change.op === "delete";
        this.#step(["doc", scope.name, change.entity, change.id, gone ? null : { d: change.data, v: change.version }]);
        this.counts.pulled++;
      }
    }
    this.staged.delete(scope.name);
    if (scope.staging) this.#step(["pages", scope.name]);
    this.#step([
      "scope",
      scope.name,
      { ...newScope(scope.name), cursor: body.cursor, epoch: body.epoch, loaded: true, last_seq: lastSeq },
    ]);
    this.#settle();
    return { next: "done" };
  }
}

const newScope = (name) => ({ name, cursor: 0, epoch: null, open: true, loaded: false, resync: null, last_seq: 0, staging: null });

/** An upper bound of `packedSize`, quickly. */
function roughSize(wire) {
  if (typeof wire === "string") return 3 * wire.length + 5;
  if (typeof wire !== "object" || wire === null) return 9;
  let sum = 5;
  for (const key of Object.keys(wire)) sum += 3 * key.length + 5 + roughSize(wire[key]);
  return sum;
}

const wireNumber = (text) => (text.length < 16 ? Number(text) : { $numberLong: text });

function wireMutation(entry, clientId) {
  const { name, args, seq, scope, ts, seed, voided } = entry;
  const told = { name: voided ? null : name, args: voided ? null : args, client_id: clientId, client_seq: seq, scope, ts };
  return { ...told, seed: wireNumber(seed) };
}

// ================================================================================================ stores

const emptyStore = () => ({ rev: 0, meta: null, queue: [], refused: [], scopes: [], docs: [], pages: [], inbox: [] });

/** Ops in memory: for tests, and where nothing is to be left behind. */
export class MemoryStore {
  constructor() {
    this.shared = false;
    this.tables = { meta: new Map(), queue: new Map(), refused: new Map(), scopes: new Map(), docs: new Map(), pages: new Map() };
    this.rev = 0;
  }

  async open() {}

  async load() {
    const { meta, queue, refused, scopes, docs, pages } = this.tables;
    const places = [...queue].sort(([a], [b]) => a - b).map(([, entry]) => entry);
    const keyed = (table) => [...table].map(([key, value]) => [...JSON.parse(key), value]);
    return {
      ...emptyStore(),
      rev: this.rev,
      meta: meta.get("self") ?? null,
      queue: places,
      refused: [...refused].sort(([a], [b]) => a - b).map(([, record]) => record),
      scopes: [...scopes.values()],
      docs: keyed(docs),
      pages: keyed(pages),
    };
  }

  async commit(ops, rev) {
    const put = (table, key, value) => (value === null ? table.delete(key) : table.set(key, value));
    for (const [kind, a, b, c, d] of ops) {
      const forget = (table) => {
        for (const key of [...table.keys()]) if (JSON.parse(key)[0] === a) table.delete(key);
      };
      if (kind === "meta") this.tables.meta.set("self", a);
      else if (kind === "queue") put(this.tables.queue, a, b);
      else if (kind === "refused") put(this.tables.refused, a, b);
      else if (kind === "scope") put(this.tables.scopes, a, b);
      else if (kind === "doc") put(this.tables.docs, JSON.stringify([a, b, c]), d);
      else if (kind === "page") put(this.tables.pages, JSON.stringify([a, b]), c);
      else if (kind === "docs") forget(this.tables.docs);
      else if (kind === "pages") forget(this.tables.pages);
    }
    this.rev = rev;
  }

  close() {}
}

const promised = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const TABLES = ["meta", "queue", "refused", "scopes", "docs", "pages"];
const TABLE_OF = { meta: "meta", queue: "queue", refused: "refused", scope: "scopes", doc: "docs", docs: "docs", page: "pages", pages: "pages", inbox: "inbox" };

/** Ops in IndexedDB, those of one flush in one transaction. */
export class IndexedDbStore {
  #factory;
  #name;
  #durability;
  #db = null;
  #closed = false;

  constructor(factory, name, durability) {
    this.shared = true;
    this.onlost = () => {};
    this.#factory = factory;
    this.#name = name;
    this.#durability = durability === "full" ? "strict" : "relaxed";
  }

  async open() {
    const request = this.#factory.open(this.#name, 1);
    request.onupgradeneeded = () => {
      for (const table of TABLES) request.result.createObjectStore(table);
      request.result.createObjectStore("inbox", { autoIncrement: true });
    };
    const db = await promised(request);
    this.#db = db;
    // The user, or the browser, cleared the storage: what we have open is nowhere any more.
    db.onclose = () => this.#lost(db);
    db.onversionchange = () => {
      db.close();
      this.#lost(db);
    };
  }

  #lost(db) {
    if (this.#closed || this.#db !== db) return;
    this.#db = null;
    this.onlost();
  }

  #begin(tables, mode) {
    if (this.#db === null) throw new SyncError("storage", "the browser's storage was cleared, or is closed");
    const transaction = this.#db.transaction(tables, mode, { durability: this.#durability });
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new SyncError("storage", "the browser ended a transaction"));
    });
    return [transaction, done];
  }

  async load() {
    const [transaction, done] = this.#begin([...TABLES, "inbox"], "readonly");
    const all = async (table) => {
      const store = transaction.objectStore(table);
      const [keys, values] = await Promise.all([promised(store.getAllKeys()), promised(store.getAll())]);
      return keys.map((key, at) => [key, values[at]]);
    };
    const [meta, queue, refused, scopes, docs, pages, inbox] = await Promise.all([...TABLES, "inbox"].map(all));
    await done;
    const named = new Map(meta);
    const values = (rows) => rows.map(([, value]) => value);
    const keyed = (rows) => rows.map(([key, value]) => [...key, value]);
    return {
      rev: named.get("rev") ?? 0,
      meta: named.get("self") ?? null,
      queue: values(queue),
      refused: values(refused),
      scopes: values(scopes),
      docs: keyed(docs),
      pages: keyed(pages),
      inbox,
    };
  }

  async commit(ops, rev) {
    const [transaction, done] = this.#begin([...new Set(["meta", ...ops.map(([kind]) => TABLE_OF[kind])])], "readwrite");
    const stores = {};
    const store = (table) => (stores[table] ??= transaction.objectStore(table));
    const put = (table, key, value) => (value === null ? store(table).delete(key) : store(table).put(value, key));
    let meta = null;
    for (const [kind, a, b, c, d] of ops) {
      if (kind === "meta") meta = a;
      else if (kind === "doc") put("docs", [a, b, c], d);
      else if (kind === "page") put("pages", [a, b], c);
      else if (kind === "docs" || kind === "pages") store(kind).delete(KeyRange.bound([a], [a, []]));
      else if (kind === "inbox") store("inbox").delete(a);
      else put(TABLE_OF[kind], a, b);
    }
    if (meta) store("meta").put(meta, "self");
    store("meta").put(rev, "rev");
    transaction.commit?.();
    await done;
  }

  /** Entries of a tab that does not lead. */
  async leave(entries) {
    const [transaction, done] = this.#begin(["inbox"], "readwrite");
    for (const entry of entries) transaction.objectStore("inbox").add(entry);
    transaction.commit?.();
    await done;
  }

  /** [number, entry] of what other tabs left. */
  async readInbox() {
    const [transaction] = this.#begin(["inbox"], "readonly");
    const store = transaction.objectStore("inbox");
    const [keys, entries] = await Promise.all([promised(store.getAllKeys()), promised(store.getAll())]);
    return keys.map((key, at) => [key, entries[at]]);
  }

  close() {
    this.#closed = true;
    this.#db?.close();
    this.#db = null;
  }
}

// Of the same realm as the factory, where a test brings its own.
const KeyRange = globalThis.IDBKeyRange;

// ================================================================================================ driver

/** Milliseconds to wait: longer each time, up to a cap, half of it by chance, so that clients do not come back together. */
export class Backoff {
  #failures = 0;

  constructor({ first = 500, cap = 60_000, random = Math.random } = {}) {
    Object.assign(this, { first, cap, random });
  }

  next(atLeast = 0) {
    const full = Math.min(this.cap, this.first * 2 ** Math.min(this.#failures++, 30));
    return Math.max(full / 2, atLeast) + (full / 2) * this.random();
  }

  reset() {
    this.#failures = 0;
  }
}

/** The WebSocket over which pokes come. Without one, whoever drives polls. */
class Live {
  #socket = null;
  #timer = null;
  #backoff;
  #stopped = true;
  #subscribed = new Set();

  constructor({ url, WebSocket, token, scopes, onPoke, onChange, random }) {
    Object.assign(this, { url, WebSocket, token, scopes, onPoke, onChange });
    this.#backoff = new Backoff({ first: 1000, cap: 120_000, random });
    this.open = false;
  }

  start() {
    if (!this.#stopped || !this.WebSocket) return;
    this.#stopped = false;
    this.#connect(false);
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#drop();
  }

  /** At once, where it waits to connect again. */
  wake() {
    if (this.#stopped || this.#socket) return;
    this.#backoff.reset();
    clearTimeout(this.#timer);
    this.#connect(false);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#subscribed.clear();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close();
    }
    this.#set(false);
  }

  #set(open) {
    if (this.open === open) return;
    this.open = open;
    this.onChange();
  }

  async #connect(refresh) {
    let token;
    try {
      token = await this.token(refresh);
    } catch {
      this.#again(this.#backoff.next());
      return;
    }
    if (this.#stopped || this.#socket) return;
    let socket;
    try {
      socket = new this.WebSocket(this.url);
    } catch {
      this.#again(this.#backoff.next());
      return;
    }
    this.#socket = socket;
    let wait = null;
    socket.onopen = () => {
      socket.send(JSON.stringify(token === undefined ? { type: "auth" } : { type: "auth", token }));
      this.subscribe();
    };
    socket.onmessage = ({ data }) => {
      let frame;
      try {
        frame = JSON.parse(data);
      } catch {
        return;
      }
      switch (frame?.type) {
        case "poke":
          this.#backoff.reset();
          this.#set(true);
          this.onPoke(frame.scope, frame.cursor, frame.epoch);
          break;
        case "welcome":
          this.#set(true);
          break;
        case "ping":
          socket.send('{"type":"pong"}');
          break;
        case "refused":
        case "revoked":
          // What became of the scope, the pull's answer says.
          this.#subscribed.delete(frame.scope);
          this.onPoke(frame.scope, null, null);
          break;
        case "goodbye":
          wait = 1000 * (Number(frame.retry_after) || 1) * (1 + Math.random());
          break;
      }
    };
    socket.onclose = ({ code }) => {
      if (this.#socket !== socket) return;
      this.#drop();
      this.#again(wait ?? this.#backoff.next(), code === 4401);
    };
    socket.onerror = () => {};
  }

  #again(wait, refresh = false) {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => this.#connect(refresh), wait);
  }

  /** Brings what is subscribed to in line with what is joined. */
  subscribe() {
    const socket = this.#socket;
    if (!socket || socket.readyState !== 1) return;
    const wanted = new Set(this.scopes());
    const more = [...wanted].filter((scope) => !this.#subscribed.has(scope));
    const less = [...this.#subscribed].filter((scope) => !wanted.has(scope));
    if (more.length) socket.send(JSON.stringify({ type: "subscribe", scopes: more }));
    if (less.length) socket.send(JSON.stringify({ type: "unsubscribe", scopes: less }));
    this.#subscribed = wanted;
  }
}

const PULLS_AT_ONCE = 4;
const REQUEST_TIMEOUT = 60_000;

/** Asks the server, for the tab that leads. */
class Driver {
  #options;
  #core;
  #flush;
  #wants = new Set();
  #active = new Map(); // request -> AbortController
  #backoff;
  #blockedUntil = 0;
  #timer = null;
  #pollAt = 0;
  #running = false;
  #reached = false;
  #refreshed = false;
  #told = false;
  #pulled = new Map(); // scope -> the number of the request of its last whole pull
  #waiters = new Set();
  #live;

  constructor(core, options, { flush, onState }) {
    this.#core = core;
    this.#options = options;
    this.#flush = flush;
    this.onState = onState;
    this.state = "offline";
    this.error = null;
    this.#backoff = new Backoff({ first: options.backoff?.first, cap: options.backoff?.cap, random: options.random });
    this.#live = new Live({
      url: options.url.replace(/^http/, "ws") + "/_sync/live",
      WebSocket: options.live ? options.WebSocket : null,
      token: (refresh) => this.#token(refresh),
      scopes: () => [...core.scopes.keys()],
      random: options.random,
      onPoke: (scope, cursor, epoch) => {
        if (cursor !== null && !core.news(scope, cursor, epoch)) return;
        this.want(scope);
      },
      onChange: () => {},
    });
  }

  get live() {
    return this.#live.open;
  }

  get paused() {
    return !this.#running;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    this.#reached = false;
    this.#blockedUntil = 0;
    this.#backoff.reset();
    this.#poll();
    this.#live.start();
    this.kick();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#live.stop();
    for (const [request, controller] of this.#active) {
      this.#core.lost(request);
      controller.abort();
    }
    this.#active.clear();
    this.#update();
  }

  /** The network may be back: at once, instead of after the wait. */
  wake() {
    if (!this.#running) return;
    this.#blockedUntil = 0;
    this.#backoff.reset();
    this.#live.wake();
    this.#poll();
    this.kick();
  }

  want(scope) {
    this.#wants.add(scope);
    this.kick();
  }

  joined() {
    this.#live.subscribe();
    for (const [name, scope] of this.#core.scopes) if (!scope.loaded) this.#wants.add(name);
    this.kick();
  }

  #poll() {
    for (const scope of this.#core.scopes.keys()) this.#wants.add(scope);
    this.#pollAt = Date.now() + this.#options.poll * 1000;
  }

  /** Sends what can be sent now, and sees to it that it is called again when there may be more. */
  kick() {
    if (!this.#running) return;
    const now = Date.now();
    if (now >= this.#blockedUntil) {
      if (now >= this.#pollAt) this.#poll();
      const push = this.#core.nextPush();
      if (push) this.#send(push);
      let pulls = [...this.#active.keys()].length - (this.#core.out.has("push") ? 1 : 0);
      for (const scope of this.#wants) {
        if (pulls >= PULLS_AT_ONCE) break;
        if (!this.#core.scopes.has(scope)) this.#wants.delete(scope);
        const pull = this.#core.nextPull(scope);
        if (pull === null) continue;
        this.#wants.delete(scope);
        this.#send(pull);
        pulls++;
      }
      if (this.#reached && !this.#told) this.#learnLimits();
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.kick(), Math.max(0, (now < this.#blockedUntil ? this.#blockedUntil : this.#pollAt) - now));
    this.#timer?.unref?.(); // in Node a replica keeps no process alive
    this.#update();
  }

  #update() {
    const { queue } = this.#core;
    const unsent = () => {
      for (const entry of queue.values()) if (entry.result === null) return true;
      return false;
    };
    let state = "live";
    if (!this.#running || Date.now() < this.#blockedUntil) state = "offline";
    else if (!this.#reached) state = "connecting";
    else if (this.#active.size || this.#wants.size || unsent()) state = "syncing";
    if (state !== this.state) {
      this.state = state;
      this.onState(state);
    }
    for (const wake of [...this.#waiters]) wake();
  }

  async #token(refresh) {
    const { token } = this.#options;
    return typeof token === "function" ? await token({ refresh }) : token;
  }

  async #fetch(path, body, signal, refresh) {
    const headers = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const token = await this.#token(refresh);
    if (token !== undefined && token !== null) headers.Authorization = `Bearer ${token}`;
    const { fetch, url, credentials } = this.#options;
    const response = await fetch(url + path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body,
      signal,
      credentials,
      cache: "no-store",
    });
    return { status: response.status, text: await response.text(), retryAfter: Number(response.headers.get("retry-after")) || 0 };
  }

  async #learnLimits() {
    this.#told = true;
    try {
      const { status, text } = await this.#fetch("/_sync/health");
      if (status === 200) this.#core.learnLimits(JSON.parse(text).limits);
      else this.#told = false;
    } catch {
      this.#told = false;
    }
  }

  async #send(out) {
    const controller = new AbortController();
    this.#active.set(out.request, controller);
    const timer = setTimeout(() => controller.abort(), REQUEST_TIMEOUT);
    let response = null;
    let failure = null;
    try {
      response = await this.#fetch(out.path, out.body, controller.signal, this.#refreshed);
    } catch (error) {
      failure = error;
    }
    clearTimeout(timer);
    if (!this.#active.delete(out.request)) return; // stopped meanwhile
    if (response === null) {
      this.#core.lost(out.request);
      this.#block(out, 0, { code: "unavailable", message: String(failure?.message ?? failure) });
      return;
    }
    const answered = this.#core.answer(out.request, response.status, response.text);
    switch (answered.closed ? "done" : answered.next) {
      case "done":
      case "ignored":
        this.error = null;
        this.#reached = true;
        this.#refreshed = false;
        this.#backoff.reset();
        if (out.scope === undefined) for (const scope of out.scopes) this.#wants.add(scope);
        else if (answered.again) this.#wants.add(out.scope);
        else if (answered.next === "done") this.#pulled.set(out.scope, out.request);
        else this.#wants.add(out.scope);
        break;
      case "unauthenticated":
        if (!this.#refreshed && typeof this.#options.token === "function") {
          this.#refreshed = true; // with a fresh one at once; if that is no good either, later
          if (out.scope !== undefined) this.#wants.add(out.scope);
          break;
        }
        this.#refreshed = typeof this.#options.token === "function";
        this.#block(out, response.retryAfter, answered);
        break;
      case "wait":
        this.#block(out, answered.retryAfter ?? response.retryAfter, answered);
        break;
      case "failed":
        this.#block(out, Math.max(response.retryAfter, this.#options.poll), answered);
        break;
    }
    this.#flush();
    this.kick();
  }

  #block(out, seconds, { code, message }) {
    if (out.scope !== undefined) this.#wants.add(out.scope);
    this.error = { code, message };
    this.#blockedUntil = Date.now() + this.#backoff.next(seconds * 1000);
    this.kick();
  }

  /** Returns when all that was made is sent, answered and pulled. */
  async sync(seconds) {
    const until = Date.now() + seconds * 1000;
    const core = this.#core;
    await this.#flush();
    const changed = async () => {
      const left = until - Date.now();
      if (left <= 0) {
        const why = this.error ? `: ${this.error.message}` : this.#running ? "" : ": it is paused";
        throw new SyncError("timeout", `not in sync after ${seconds} s${why}`);
      }
      let wake, timer;
      await new Promise((resolve) => {
        wake = resolve;
        this.#waiters.add(wake);
        timer = setTimeout(resolve, left);
      });
      clearTimeout(timer);
      this.#waiters.delete(wake);
    };
    for (;;) {
      const unsent = () => [...core.queue.values()].some((entry) => entry.result === null);
      while (unsent()) {
        for (const scope of core.scopes.keys()) if (!core.identified) this.#wants.add(scope);
        this.kick();
        if (unsent()) await changed();
      }
      const mark = core.requests;
      for (const scope of core.scopes.keys()) this.#wants.add(scope);
      this.kick();
      const behind = () => [...core.scopes.keys()].some((scope) => !(this.#pulled.get(scope) > mark));
      while (behind()) await changed();
      await this.#flush();
      if (core.queue.size === 0) return;
    }
  }
}

// =============================================================================================== replica

/** A mutation that was made here. */
export class Pending {
  #replica;
  #answered = null;
  #answer = null;

  constructor(replica, entry) {
    this.#replica = replica;
    this.key = entry.key;
    this.scope = entry.scope;
    this.name = entry.name;
  }

  /** A promise: it is on the disk. */
  get durable() {
    return this.#replica.flush();
  }

  /** A promise of what the server made of it: {ok: true}, or {ok: false, code, message}. */
  get answered() {
    return (this.#answered ??= new Promise((resolve) => {
      if (this.result) resolve(this.result);
      else this.#answer = resolve;
    }));
  }

  _settle(result) {
    if (this.result) return;
    /** What the server made of it, once it is known. */
    this.result = result;
    this.#answer?.(result);
  }
}

const defaultUrl = () => {
  const served = /^(https?:\/\/.*)\/_sync\/client\.js$/.exec(import.meta.url.replace(/[?#].*$/, ""));
  return served ? served[1] : globalThis.location?.origin;
};

function readOptions(given) {
  const known = ["name", "url", "scope", "scopes", "mutators", "token", "user", "clientId", "durability", "poll", "live", "start", "fetch", "WebSocket",
    "indexedDB", "locks", "BroadcastChannel", "credentials", "limits", "maxTries", "maxBatch", "maxPending", "backoff", "random", "store"];
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) throw new SyncError("usage", `Replica.open knows no option ${JSON.stringify(name)}; there are ${known.join(", ")}`);
  }
  const options = {
    name: "syncline",
    url: defaultUrl(),
    scopes: [],
    durability: "full",
    poll: 30,
    live: true,
    start: true,
    credentials: "same-origin",
    fetch: globalThis.fetch?.bind(globalThis),
    WebSocket: globalThis.WebSocket,
    indexedDB: globalThis.indexedDB,
    locks: globalThis.navigator?.locks,
    BroadcastChannel: globalThis.BroadcastChannel,
    random: Math.random,
    ...given,
  };
  if (typeof options.url !== "string") throw new SyncError("usage", "url says where the server is, as in https://example.org");
  options.url = new URL(options.url, globalThis.location?.href).href.replace(/\/$/, "");
  options.scopes = [...new Set([...(options.scope === undefined ? [] : [options.scope]), ...options.scopes])];
  options.scope ??= options.scopes.length === 1 ? options.scopes[0] : undefined;
  if (!options.mutators) throw new SyncError("usage", "mutators are missing: an object of functions (tx, args) by name");
  if (!["full", "normal"].includes(options.durability)) throw new SyncError("usage", 'durability must be "full" or "normal"');
  if (!(options.poll > 0)) throw new SyncError("usage", `poll must be seconds above 0, not ${options.poll}`);
  if (!options.store && options.indexedDB === undefined) {
    throw new SyncError("usage", "there is no IndexedDB here; with indexedDB: null the replica is kept in memory alone");
  }
  if (!options.store && options.indexedDB !== null && !(options.locks && options.BroadcastChannel)) {
    throw new SyncError("usage", "the tabs of a browser share a replica by Web Locks, which pages have over https and on localhost alone; " +
      "with indexedDB: null the replica is kept in memory, each tab's its own");
  }
  return options;
}

/** The reads of a replica, over the optimistic view or the confirmed documents. `scope` may be left out where there is one. */
class Reads {
  #view;

  constructor(view) {
    this.#view = view;
  }

  get(entity, id, { scope } = {}) {
    return this.#view(scope).get(entity, id);
  }

  exists(entity, id, { scope } = {}) {
    return this.#view(scope).exists(entity, id);
  }

  version(entity, id, { scope } = {}) {
    return this.#view(scope).version(entity, id);
  }

  list(entity, { scope } = {}) {
    return this.#view(scope).list(entity);
  }

  scan(entity, { scope, ...options } = {}) {
    return this.#view(scope).scan(entity, options);
  }

  find(entity, filter, { scope, ...options } = {}) {
    return this.#view(scope).find(entity, filter, options);
  }
}

/** Notes which entities a subscription's function read. */
class WatchedView extends Reader {
  constructor(view, read) {
    super();
    Object.assign(this, { view, read, scope: view.scope });
  }

  _body(entity, id) {
    this.read.add(`${this.scope}\0${entity}`);
    return this.view._body(entity, id);
  }

  _rows(entity, prefix) {
    this.read.add(`${this.scope}\0${entity}`);
    return this.view._rows(entity, prefix);
  }
}

const OWN = Symbol("Replica.open makes them");

/** A replica of some scopes. Made by `Replica.open`. */
export class Replica extends Reads {
  #options;
  #core;
  #store;
  #driver = null;
  #channel = null;
  #abort = new AbortController();
  #release = () => {};
  #leading = false;
  #term = null;
  #rev = 0;
  #held = null; // messages of the one that leads, while the store is being read
  #state = "connecting";
  #paused = false;
  #closed = false;
  #flushing = null;
  #following = Promise.resolve();
  #storageError = null;
  #unsaved = []; // of a tab that does not lead: [entry] not yet in the inbox
  #unsavedEvents = [];
  #asks = new Map();
  #handles = new Map();
  #subscriptions = new Set();
  #listeners = { state: new Set(), pending: new Set(), event: new Set() };
  #wakers = [];

  /** The same reads of the confirmed documents alone. */
  confirmed = new Reads((scope) => this.read(scope, { confirmed: true }));

  constructor(own, options) {
    if (own !== OWN) throw new SyncError("usage", "a replica is opened: await Replica.open({...})");
    super((scope) => this.read(scope));
    this.#options = options;
    this.#paused = !options.start;
    this.#core = new Core(options);
    this.#store =
      options.store ??
      (options.indexedDB === null ? new MemoryStore() : new IndexedDbStore(options.indexedDB, `syncline:${options.name}`, options.durability));
  }

  static async open(given) {
    const replica = new Replica(OWN, readOptions(given ?? {}));
    await replica.#open();
    return replica;
  }

  async #open() {
    const { name, locks, BroadcastChannel, scopes } = this.#options;
    this.#store.onlost = () => this.#storageLost();
    await this.#store.open();
    if (!this.#store.shared) {
      await this.#lead();
    } else {
      this.#channel = new BroadcastChannel(`syncline:${name}`);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
      const lock = `syncline:${name}`;
      const granted = await new Promise((resolve, reject) => {
        locks
          .request(lock, { ifAvailable: true }, (held) => {
            resolve(held !== null);
            return held && new Promise((release) => (this.#release = release));
          })
          .catch(reject);
      });
      if (granted) {
        await this.#lead();
      } else {
        locks
          .request(lock, { signal: this.#abort.signal }, async () => {
            const until = new Promise((release) => (this.#release = release));
            await this.#lead();
            return until;
          })
          .catch((error) => {
            if (error?.name !== "AbortError") this.#storageFailed(error);
          });
        await this.#follow();
      }
    }
    for (const scope of scopes) await this.join(scope);
    this.#listenToThePage();
  }

  #listenToThePage() {
    const page = globalThis.document;
    const options = { signal: this.#abort.signal };
    const wake = () => this.#wakeUp();
    globalThis.addEventListener?.("online", wake, options);
    page?.addEventListener?.("visibilitychange", () => page.visibilityState === "visible" && wake(), options);
  }

  #wakeUp() {
    if (this.#closed) return;
    if (this.#leading) this.#driver?.wake();
    else this.#post({ type: "wake" });
  }

  // ---- leading and following

  async #lead() {
    if (this.#closed) return;
    this.#held ??= []; // what the one before still says, the store has
    const stored = await this.#store.load();
    if (this.#closed) return;
    this.#leading = true;
    this.#held = null;
    this.#rev = stored.rev;
    this.#term = newId();
    this.#core.load(stored);
    this.#core.absorb(stored.inbox);
    this.#driver = new Driver(this.#core, this.#options, {
      flush: () => this.#flush(),
      onState: (state) => {
        this.#setState(state);
        this.#post({ type: "state", state, term: this.#term });
      },
    });
    await this.#flush();
    this.#post({ type: "term", term: this.#term, rev: this.#rev, lost: [], state: this.#driver.state });
    for (const [id, ask] of this.#asks) {
      this.#asks.delete(id);
      this.#perform(ask.method, ask.args).then(ask.resolve, ask.reject);
    }
    if (this.#paused) this.#setState("offline");
    else this.#driver.start();
    this.#leave();
  }

  /** Reads anew what the one that leads has written. */
  #follow() {
    this.#held ??= [];
    this.#following = this.#following.then(() => this.#readAnew());
    return this.#following;
  }

  async #readAnew() {
    if (this.#closed || this.#leading) return;
    for (;;) {
      const stored = await this.#store.load();
      if (this.#closed || this.#leading) return;
      if (stored.meta !== null) {
        this.#core.load(stored);
        this.#core.unflushed = [];
        this.#rev = stored.rev;
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, 20)); // the one that leads is about to write the first of it
    }
    const held = this.#held ?? [];
    this.#held = null;
    this.#tell(this.#core.take()?.events ?? []);
    for (const message of held) this.#hear(message);
    this.#post({ type: "hello" });
  }

  #post(message) {
    if (!this.#closed) this.#channel?.postMessage(message);
  }

  #hear(message) {
    if (this.#closed) return;
    if (this.#leading) this.#hearTab(message);
    else if (this.#held !== null) this.#held.push(message);
    else this.#hearLeader(message);
  }

  #hearLeader(message) {
    switch (message.type) {
      case "ops":
        if (message.rev <= this.#rev && (this.#term === null || message.term === this.#term)) return;
        if (message.rev !== this.#rev + 1) {
          this.#follow().catch((error) => this.#storageFailed(error));
          return;
        }
        this.#rev = message.rev;
        for (const op of message.ops) this.#core.apply(op);
        this.#core.refresh();
        this.#tell(this.#core.take()?.events ?? []);
        break;
      case "state":
        this.#term ??= message.term;
        this.#setState(message.state);
        break;
      case "term":
        this.#term = message.term;
        for (const key of message.lost) this.#core.extras = this.#core.extras.filter((entry) => entry.key !== key);
        if (message.cleared) this.#reopen().catch((error) => this.#storageFailed(error));
        else this.#follow().catch((error) => this.#storageFailed(error));
        for (const [id, { method, args }] of this.#asks) this.#post({ type: "ask", id, method, args });
        this.#setState(message.state);
        break;
      case "reply": {
        const ask = this.#asks.get(message.id);
        if (!ask) return;
        this.#asks.delete(message.id);
        if (message.error) ask.reject(new SyncError(message.error.code, message.error.message));
        else ask.resolve(message.value);
        break;
      }
    }
  }

  #hearTab(message) {
    switch (message.type) {
      case "inbox":
        this.#readInbox();
        break;
      case "hello":
        this.#post({ type: "state", state: this.#driver.state, term: this.#term });
        break;
      case "wake":
        this.#driver.wake();
        break;
      case "ask":
        this.#perform(message.method, message.args).then(
          (value) => this.#post({ type: "reply", id: message.id, value }),
          (error) => this.#post({ type: "reply", id: message.id, error: { code: error.code ?? "internal_error", message: error.message } }),
        );
        break;
    }
  }

  async #readInbox() {
    if (!this.#store.shared) return;
    try {
      const inbox = await this.#store.readInbox();
      if (!this.#leading || this.#closed || inbox.length === 0) return;
      this.#core.absorb(inbox);
      await this.#flush();
    } catch (error) {
      this.#storageFailed(error);
    }
  }

  /** Has the tab that leads do it. */
  #ask(method, ...args) {
    if (this.#leading) return this.#perform(method, args);
    const id = newId();
    return new Promise((resolve, reject) => {
      this.#asks.set(id, { method, args, resolve, reject });
      this.#post({ type: "ask", id, method, args });
    });
  }

  async #perform(method, args) {
    const core = this.#core;
    switch (method) {
      case "join":
        core.join(args[0]);
        this.#driver.joined();
        break;
      case "leave":
        core.leave(args[0]);
        this.#driver.joined();
        break;
      case "discard": {
        await this.#readInbox(); // it may lie there still
        const discarded = core.discard(args[0]);
        await this.#flush();
        return discarded;
      }
      case "forget": {
        const forgotten = core.forgetRefused(args[0]);
        await this.#flush();
        return forgotten;
      }
      case "pause":
        this.#paused = true;
        this.#driver.stop();
        return undefined;
      case "resume":
        this.#paused = false;
        this.#driver.start();
        return undefined;
      case "sync":
        await this.#readInbox();
        return this.#driver.sync(args[0]);
      default:
        throw new SyncError("usage", `a tab of another version asks for ${method}; reload the pages`);
    }
    await this.#flush();
    return undefined;
  }

  // ---- durability

  /** Returns when all that was done here so far is on the disk. */
  flush() {
    return this.#leading ? this.#flush() : this.#leave();
  }

  #flush() {
    // What comes while one transaction commits goes into the next one, all of it.
    this.#flushing ??= this.#flushAll().finally(() => (this.#flushing = null));
    return this.#flushing;
  }

  async #flushAll() {
    await null; // what the caller still does in this turn belongs to it
    for (;;) {
      const taken = this.#core.take();
      if (taken === null) break;
      if (taken.ops.length) {
        const rev = this.#rev + 1;
        try {
          await this.#store.commit(taken.ops, rev);
        } catch (error) {
          this.#core.giveBack(taken);
          this.#storageFailed(error);
          throw new SyncError("storage", `the browser's storage refuses: ${error?.message ?? error}`);
        }
        this.#storageError = null;
        this.#rev = rev;
        this.#core.flushed(taken.mark);
        this.#post({ type: "ops", rev, ops: taken.ops, term: this.#term });
      }
      this.#tell(taken.events);
      if (taken.ops.length) this.#driver?.kick();
    }
  }

  /** A tab that does not lead puts its mutations into the inbox. */
  #leave() {
    if (this.#unsaved.length === 0 && this.#flushing === null) return Promise.resolve();
    this.#flushing ??= this.#leaveAll().finally(() => (this.#flushing = null));
    return this.#flushing;
  }

  async #leaveAll() {
    await null;
    while (this.#unsaved.length) {
      const [entries, events] = [this.#unsaved, this.#unsavedEvents];
      this.#unsaved = [];
      this.#unsavedEvents = [];
      try {
        await this.#store.leave(entries);
      } catch (error) {
        this.#unsaved = [...entries, ...this.#unsaved];
        this.#unsavedEvents = [...events, ...this.#unsavedEvents];
        this.#storageFailed(error);
        throw new SyncError("storage", `the browser's storage refuses: ${error?.message ?? error}`);
      }
      this.#tell(events);
      if (this.#leading) await this.#readInbox();
      else this.#post({ type: "inbox" });
    }
  }

  #storageFailed(error) {
    if (this.#closed) return;
    this.#storageError = { code: "storage", message: String(error?.message ?? error) };
    setTimeout(() => {
      if (!this.#closed && this.#storageError) this.flush().catch(() => {});
    }, 1000);
  }

  /** The user, or the browser, cleared the storage under us: begin anew, and say so. */
  async #storageLost() {
    if (this.#closed || !this.#leading) return; // a tab that follows is told by the one that leads
    this.#leading = false;
    this.#driver.stop();
    const lost = this.#core.pending();
    const at = tsText(clock());
    const scopes = [...this.#core.scopes.keys()];
    const clientId = this.#core.meta.client_id;
    const message = "the browser's storage was cleared before the server had it";
    for (;;) {
      try {
        await this.#flushing?.catch(() => {});
        await this.#store.open();
        const meta = { client_id: newId(), ...FIRST_META, place: this.#core.meta.place };
        const refused = lost
          .filter((entry) => !entry.voided && !entry.confirmed)
          .map(({ place, key, seq, scope, name, args, ts }) => ({
            ...{ place, key, client_id: clientId, seq, scope, name, args: toWire(args), ts: instantText(ts), at },
            ...{ code: "storage_cleared", message },
          }));
        const ops = [["meta", meta], ...scopes.map((name) => ["scope", name, newScope(name)]), ...refused.map((one) => ["refused", one.place, one])];
        await this.#store.commit(ops, 1);
        this.#core.extras = [];
        this.#core.load(await this.#store.load());
        const told = this.#core.events;
        this.#core.events = [];
        this.#rev = 1;
        this.#term = newId();
        this.#leading = true;
        this.#post({ type: "term", term: this.#term, rev: 1, lost: lost.map(({ key }) => key), cleared: true, state: "offline" });
        this.#tell([
          ...told,
          { kind: "renamed", clientId: meta.client_id, message: "the browser's storage was cleared; all begins anew" },
          ...refused.map((one) => ({ kind: "refused", ...one })),
        ]);
        break;
      } catch (error) {
        this.#storageError = { code: "storage", message: String(error?.message ?? error) };
        await new Promise((resolve) => setTimeout(resolve, 500));
        if (this.#closed) return;
      }
    }
    this.#storageError = null;
    if (!this.#paused) this.#driver.start();
  }

  async #reopen() {
    this.#held ??= [];
    await this.#store.open();
    await this.#follow();
    this.#tell([{ kind: "renamed", clientId: this.#core.meta.client_id, message: "the browser's storage was cleared; all begins anew" }]);
    await this.#leave();
  }

  // ---- what is told

  #tell(events) {
    if (this.#closed) return;
    const changes = [];
    for (const event of events) {
      switch (event.kind) {
        case "changed":
          changes.push(event);
          continue;
        case "settled": {
          const result = event.result;
          this.#settleHandle(event.key, result?.ok ? { ok: true } : { ok: false, code: result?.code ?? "discarded", message: result?.message ?? "" });
          break;
        }
        case "refused":
          this.#settleHandle(event.key, { ok: false, code: event.code, message: event.message });
          break;
        case "opened":
          this.#driver?.joined();
          break;
      }
      for (const listener of this.#listeners.event) this.#call(listener, event);
    }
    if (changes.length) for (const subscription of [...this.#subscriptions]) subscription.changed(changes);
    if (this.#listeners.pending.size) {
      const { pending } = this;
      for (const listener of this.#listeners.pending) this.#call(listener, pending);
    }
  }

  #settleHandle(key, result) {
    this.#handles.get(key)?._settle(result);
    this.#handles.delete(key);
  }

  #call(callback, ...args) {
    try {
      callback(...args);
    } catch (error) {
      // The application's own fault, told where its others are told, and no reason to stop.
      if (typeof globalThis.reportError === "function") globalThis.reportError(error);
      else queueMicrotask(() => { throw error; });
    }
  }

  #setState(state) {
    if (this.#state === state) return;
    this.#state = state;
    for (const listener of this.#listeners.state) this.#call(listener, state);
    this.#wakers = this.#wakers.filter(({ wanted, resolve }) => wanted !== state || resolve());
  }

  #listen(kind, callback) {
    this.#listeners[kind].add(callback);
    return () => this.#listeners[kind].delete(callback);
  }

  // ---- the face

  get name() {
    return this.#options.name;
  }

  /** "offline", "connecting", "syncing", "live" or "stopped". */
  get state() {
    return this.#state;
  }

  /** Calls with the state whenever it changes. Returns a function that ends it. */
  onState(callback) {
    return this.#listen("state", callback);
  }

  /** Calls with `pending` whenever the queue or what it shows may have changed. Returns a function that ends it. */
  onPending(callback) {
    return this.#listen("pending", callback);
  }

  /** Calls with each event besides changed documents: kind "refused", "opened", "closed", "restored", "renamed", "settled". */
  onEvent(callback) {
    return this.#listen("event", callback);
  }

  /** A promise that the state is, or comes to be, this one; rejects after `timeout` seconds. */
  waitFor(state, { timeout } = {}) {
    if (this.#state === state) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const waker = { wanted: state, resolve: () => { clearTimeout(timer); resolve(); return false; } };
      this.#wakers.push(waker);
      const timer = timeout === undefined ? undefined : setTimeout(() => {
        this.#wakers = this.#wakers.filter((one) => one !== waker);
        reject(new SyncError("timeout", `not ${state} after ${timeout} s; it is ${this.#state}`));
      }, timeout * 1000);
    });
  }

  get status() {
    const core = this.#core;
    let unsent = core.extras.length;
    for (const entry of core.queue.values()) if (entry.result === null) unsent++;
    return {
      state: this.#state,
      leading: this.#leading,
      live: this.#driver?.live ?? false,
      clientId: core.meta.client_id,
      epoch: core.meta.epoch,
      pending: core.queue.size + core.extras.length,
      unsent,
      unflushed: core.unflushed.length + this.#unsaved.length,
      refused: core.refused.size,
      error: this.#storageError ?? this.#driver?.error ?? null,
      ...core.counts,
    };
  }

  get clientId() {
    return this.#core.meta.client_id;
  }

  #scope(scope) {
    const chosen = scope ?? this.#options.scope;
    if (chosen !== undefined) return chosen;
    throw new SyncError("invalid_scope", `say which scope: {scope: ...}; joined are ${[...this.#core.scopes.keys()].join(", ") || "none"}`);
  }

  /** A view of one scope, with `get`, `exists`, `version`, `list`, `scan` and `find`. */
  read(scope, { confirmed = false } = {}) {
    return this.#core.view(this.#scope(scope), confirmed);
  }

  /** Runs the mutator on the view, throws what it refuses, and queues the mutation. It is visible when this returns. */
  mutate(name, args = null, { scope } = {}) {
    if (this.#closed) throw new SyncError("closed", "the replica is closed");
    const core = this.#core;
    const entry = core.mutate(this.#scope(scope), name, args, { queued: this.#leading });
    const handle = new Pending(this, entry);
    this.#handles.set(entry.key, handle);
    if (!this.#leading) {
      this.#unsaved.push(entry);
      this.#unsavedEvents.push(...(core.take()?.events ?? []));
    }
    this.flush().catch(() => {}); // `status.error` has it, and it is tried again
    return handle;
  }

  /** What the server has not settled, oldest first. */
  get pending() {
    return this.#core.pending();
  }

  /** Ids of an entity whose documents are not as the server confirmed them: pending mutations wrote them. */
  unconfirmed(entity, { scope } = {}) {
    return new Set(this.#core.overlay(this.#scope(scope)).map.get(entity)?.keys() ?? []);
  }

  /** What the server refused, or was given up, with its code. Kept until `forget` takes it out. */
  get refused() {
    return this.#core.refusals().map(({ args, ts, at, ...rest }) => ({
      ...rest,
      args: fromWire(args),
      ts: Instant.from(ts),
      at: Instant.from(at),
    }));
  }

  /** Takes one out of `refused`; whether it was there. */
  forget(refused) {
    return this.#ask("forget", refused.place ?? refused);
  }

  /** Voids a pending mutation and takes its effect back. False: it is settled. */
  async discard(pending) {
    await this.flush();
    return this.#ask("discard", pending.key ?? pending);
  }

  async join(scope) {
    checkName(scope, "scope", "invalid_scope");
    if (!this.#core.scopes.has(scope)) await this.#ask("join", scope);
  }

  /** Forgets the scope's documents, in all tabs. Its unanswered mutations stay queued. */
  leave(scope) {
    return this.#ask("leave", scope);
  }

  get scopes() {
    return [...this.#core.scopes.values()].map(({ name, cursor, epoch, open, loaded, staging }) => ({ name, cursor, epoch, open, loaded, pulling: staging !== null }));
  }

  /**
   * Calls `callback(result, changes)` now and whenever the result may have changed, once that is on the disk.
   *
   * `query`: an entity's name, {scope, entity, filter, sort, limit}, or a function of a view; the result of the first
   * two is what `find` returns. `changes`: [{kind: "added" | "modified" | "removed", scope, entity, id, old, new}].
   * Returns a function that ends it.
   */
  subscribe(query, callback) {
    const asked = typeof query === "string" ? { entity: query } : query;
    const scope = this.#scope(asked.scope);
    let shown = null;
    let read = new Set();
    const show = (changes) => {
      const view = this.#core.view(scope);
      if (typeof asked === "function") {
        read = new Set();
        this.#call(() => callback(asked(new WatchedView(view, read)), changes));
        return;
      }
      const rows = view._find(asked.entity, asked.filter, asked);
      const same = shown !== null && rows.length === shown.length && rows.every(([id, body], at) => id === shown[at][0] && sameForApplications(body.d, shown[at][1].d));
      if (same) return;
      shown = rows;
      this.#call(callback, rows.map(([id, body]) => [id, fromWire(body.d)]), changes);
    };
    const subscription = {
      changed: (events) => {
        const concerned = events.filter((event) =>
          typeof asked === "function" ? read.has(`${event.scope}\0${event.entity}`) : event.scope === scope && event.entity === asked.entity);
        if (concerned.length === 0 || !this.#core.scopes.has(scope)) return;
        show(concerned.map(({ scope, entity, id, before, after }) => ({
          kind: before === null ? "added" : after === null ? "removed" : "modified",
          scope, entity, id,
          old: before === null ? undefined : fromWire(before),
          new: after === null ? undefined : fromWire(after),
        })));
      },
    };
    if (typeof asked !== "function") {
      checkName(asked.entity, "entity", "invalid_request");
      compileFilter(asked.filter); // refused here rather than when something changes
      compileSort(asked.sort);
    }
    this.#subscriptions.add(subscription);
    show([]);
    return () => this.#subscriptions.delete(subscription);
  }

  /** Returns when everything is sent, answered and pulled; rejects with "timeout" after `timeout` seconds. */
  async sync({ timeout = 30 } = {}) {
    await this.flush();
    return this.#ask("sync", timeout);
  }

  /** Stops talking to the server, in all tabs, until `resume`: the offline switch. */
  pause() {
    this.#paused = true;
    return this.#ask("pause");
  }

  resume() {
    this.#paused = false;
    return this.#ask("resume");
  }

  /** Makes all durable and ends. Another tab that has the replica open goes on with it. */
  async close() {
    if (this.#closed) return;
    await this.flush().catch(() => {});
    this.#closed = true;
    if (this.#driver) {
      this.#driver.onState = () => {}; // "stopped" is all there is to tell
      this.#driver.stop();
    }
    this.#abort.abort();
    this.#channel?.close();
    this.#store.close();
    this.#release();
    this.#setState("stopped");
    for (const ask of this.#asks.values()) ask.reject(new SyncError("closed", "the replica was closed"));
    this.#subscriptions.clear();
  }

  async [Symbol.asyncDispose ?? Symbol.for("Symbol.asyncDispose")]() {
    await this.close();
  }
}
