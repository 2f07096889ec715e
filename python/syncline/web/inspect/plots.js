// Rates as small plots: what the server's counters rose by from one sample to the next.

import { h, count } from "./dom.js";

const SAMPLES = 120; // one a second: two minutes
const WIDTH = 240;
const HEIGHT = 48;

/** The last samples of all counters. Lives as long as the page, so that changing views loses nothing. */
export class Rates {
  constructor() {
    this.samples = []; // {rates: {name: per second}}, or null where the counting began anew
    this.last = null;
  }

  /** Takes in a pulse. */
  add(pulse) {
    const last = this.last;
    this.last = pulse;
    if (last === null) return;
    const passed = (Date.parse(pulse.now) - Date.parse(last.now)) / 1000;
    if (passed <= 0) return;
    // After a restart the counters begin at 0; after a pause the mean of it would be taken for a second's.
    if (pulse.epoch !== last.epoch || passed > 5) this.#push(null);
    else {
      const rates = {};
      for (const [name, value] of Object.entries(pulse.counters)) rates[name] = Math.max(0, value - last.counters[name]) / passed;
      this.#push(rates);
    }
  }

  /** The server is away. */
  gap() {
    this.last = null;
    if (this.samples.at(-1) !== null) this.#push(null);
  }

  of(name) {
    return this.samples.map((rates) => (rates === null ? null : rates[name]));
  }

  #push(rates) {
    this.samples.push(rates);
    if (this.samples.length > SAMPLES) this.samples.shift();
  }
}

function shown(rate) {
  return rate >= 100 || Number.isInteger(rate) ? count(Math.round(rate)) : rate.toFixed(1);
}

/** One counter's plot. Returns its element, and how to draw it anew. */
export function plot(title, name, rates, kind = "") {
  const area = h("path", { class: "area" });
  const line = h("path", { class: "line" });
  const drawing = h(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    h("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
    area,
    line,
  );
  const now = h("span", { class: "now" }, "0");
  const most = h("span", { class: "most" });
  const element = h(
    "figure",
    { class: `plot ${kind}` },
    h("figcaption", {}, h("span", { class: "title" }, title), h("span", { class: "rate" }, now, h("span", { class: "unit" }, "/s"))),
    drawing,
    most,
  );
  const draw = () => {
    const values = rates.of(name);
    const known = values.filter((value) => value !== null);
    const top = Math.max(...known, 0);
    const scale = top > 0 ? (HEIGHT - 4) / top : 0;
    const step = WIDTH / (SAMPLES - 1);
    const first = SAMPLES - values.length;
    let outline = "";
    let filled = "";
    let begun = null;
    values.forEach((value, at) => {
      const x = ((first + at) * step).toFixed(1);
      if (value !== null) {
        const point = `${x} ${(HEIGHT - 1 - value * scale).toFixed(1)}`;
        outline += `${begun === null ? "M" : "L"}${point}`;
        filled += begun === null ? `M${x} ${HEIGHT}L${point}` : `L${point}`;
        begun ??= x;
      }
      if (begun !== null && (value === null || at === values.length - 1)) {
        const end = value === null ? ((first + at - 1) * step).toFixed(1) : x;
        filled += `L${end} ${HEIGHT}Z`;
        begun = null;
      }
    });
    line.setAttribute("d", outline);
    area.setAttribute("d", filled);
    const latest = values.at(-1) ?? null;
    now.textContent = latest === null ? "–" : shown(latest);
    most.textContent = known.length > 1 ? `at most ${shown(top)}/s in ${known.length} s` : "";
    drawing.setAttribute("aria-label", `${title} per second: now ${now.textContent}, at most ${shown(top)}`);
  };
  draw();
  return { element, draw };
}
