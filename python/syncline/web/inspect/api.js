// Asking the server: JSON out, JSON in, with the token of this tab.

const HERE = new URL("./", import.meta.url); // .../_sync/inspect/
const KEPT = "syncline.inspector.token";
const PATIENCE = 15_000; // milliseconds: what has not answered by then is taken for gone

let token = kept();

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return ""; // storage is forbidden: the token lives as long as the page
  }
}

/** Uses another token from now on; "" is none. */
export function setToken(given) {
  token = given;
  try {
    if (given) sessionStorage.setItem(KEPT, given);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // see above
  }
}

/** The server answered, and not with 200. `status` 0: it did not answer. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Worth another try, without anybody doing anything. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

async function post(url, body, signal) {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  const late = AbortSignal.timeout(PATIENCE);
  let response;
  let told;
  try {
    response = await fetch(url, {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, late]) : late,
    });
    told = await response.json();
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (response && error instanceof SyntaxError) throw new Refused(response.status || 0, "unreadable", "the answer is no JSON");
    throw new Refused(0, "unreachable", "the server does not answer");
  }
  if (response.ok) return told;
  const { code = "unknown", message = response.statusText } = told?.error ?? {};
  throw new Refused(response.status, code, message);
}

/** A question of the inspector. Raises `Refused`, or the reason of `signal`. */
export function ask(question, body = {}, signal = undefined) {
  return post(new URL(question, HERE), body, signal);
}

/** A command of the admin's: retry or discard a dead letter. */
export function command(name, body) {
  return post(new URL(`../admin/${name}`, HERE), body);
}
