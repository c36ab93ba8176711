"use strict";

// Asks the daemon while somebody looks, and draws what has changed between two answers. Text of
// others comes into the page as text only: by textContent and attributes, never as HTML.

const ASK_MS = 1000;
const KEPT_S = 300;
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 60;

let last = null;
let pid = null;
// By "export" or "export initiator": samples {t, ...}, and the elements that show them.
const histories = new Map();
const cards = new Map();

const find = (id) => document.getElementById(id);

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// Figures, as `aoede status` has them.

function size(bytes) {
  for (const [unit, one] of [["PiB", 2 ** 50], ["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes < one) continue;
    const tenths = Math.floor((bytes * 10) / one);
    const whole = bytes % one === 0;
    return (whole ? String(bytes / one) : Math.floor(tenths / 10) + "." + (tenths % 10)) + " " + unit;
  }
  return Math.floor(bytes) + " bytes";
}

const rate = (bytes) => (bytes < 1 ? "0" : size(bytes)) + "/s";
const count = (number) => Math.round(number).toLocaleString("en");

function time(ns) {
  if (ns === null) return "-";
  const [figure, unit] = ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  return figure.toFixed(figure < 9.995 ? 2 : figure < 99.95 ? 1 : 0) + " " + unit;
}

function span(seconds) {
  const parts = [];
  for (const [unit, one] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (seconds >= one) parts.push(Math.floor(seconds / one) + unit);
    seconds %= one;
  }
  parts.push(Math.floor(seconds) + "s");
  return parts.slice(0, 2).join(" ");
}

// What two answers tell of the time between them.

const sum = (object) => Object.values(object).reduce((all, one) => all + one, 0);
const more = (before, now) => (now < before ? now : now - before);

// Of the bucket that ends there, as `aoede status` shows it: there are 16 in each power of two.
const middle = (longest) => {
  const width = Math.max(1, 2 ** (Math.floor(Math.log2(longest)) - 4));
  return longest - Math.floor((width - 1) / 2);
};

function quantile(before, now, share) {
  const old = new Map(before);
  const buckets = now.map(([longest, number]) => [longest, Math.max(0, number - (old.get(longest) ?? 0))]);
  const all = buckets.reduce((seen, [, number]) => seen + number, 0);
  if (all === 0) return null;
  let seen = 0;
  for (const [longest, number] of buckets) {
    seen += number;
    if (seen >= Math.ceil(all * share)) return middle(longest);
  }
  return null;
}

const NO_EXPORT = {
  read_bytes: 0, written_bytes: 0, reads: 0, writes: 0, drops: {}, initiators: [],
  latency: { reads: { buckets: [] }, writes: { buckets: [] }, flushes: { buckets: [] } },
};
const NO_INITIATOR = { read_bytes: 0, written_bytes: 0, requests: 0 };

function exportSample(before, now, seconds) {
  const latency = (kind, share) => quantile(before.latency[kind].buckets, now.latency[kind].buckets, share);
  return {
    read: more(before.read_bytes, now.read_bytes) / seconds,
    written: more(before.written_bytes, now.written_bytes) / seconds,
    operations: (more(before.reads, now.reads) + more(before.writes, now.writes)) / seconds,
    read50: latency("reads", 0.5),
    read99: latency("reads", 0.99),
    write50: latency("writes", 0.5),
    write99: latency("writes", 0.99),
    drops: more(sum(before.drops), sum(now.drops)) / seconds,
  };
}

function initiatorSample(before, now, seconds) {
  return {
    read: more(before.read_bytes, now.read_bytes) / seconds,
    written: more(before.written_bytes, now.written_bytes) / seconds,
    operations: more(before.requests, now.requests) / seconds,
  };
}

function keep(key, at, sample) {
  const history = histories.get(key) ?? [];
  history.push({ at, ...sample });
  while (history.length > 0 && history[0].at < at - KEPT_S) history.shift();
  histories.set(key, history);
}

// Charts: lines over the last minutes, in a picture that is stretched to the room there is.

function chart(title, lines, format) {
  const legend = element("figcaption", "", title);
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  picture.append(drawn("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }));
  const most = element("b", "");
  const parts = lines.map(([name, key, colour]) => {
    const value = element("b", "");
    legend.append(element("span", "key " + colour, name + " ", value));
    const path = drawn("path", { class: colour });
    picture.append(path);
    return { key, value, path };
  });
  legend.append(element("span", "", "most ", most));
  const draw = (history, now) => {
    const values = parts.flatMap(({ key }) => history.map((one) => one[key] ?? null));
    const known = values.filter((value) => value !== null);
    const top = Math.max(...known, 0);
    most.textContent = known.length > 0 ? format(top) : "-";
    picture.setAttribute("aria-label", `${title}, at most ${most.textContent}`);
    for (const { key, value, path } of parts) {
      const latest = history.at(-1)?.[key] ?? null;
      value.textContent = latest === null ? "-" : format(latest);
      path.setAttribute("d", line(history, key, now, top));
    }
  };
  return { figure: element("figure", "", legend, picture), draw };
}

function line(history, key, now, top) {
  let text = "";
  let pen = "M";
  for (const one of history) {
    const value = one[key];
    if (value === null || value === undefined) {
      pen = "M";
      continue;
    }
    const x = WIDTH - ((now - one.at) / KEPT_S) * WIDTH;
    const y = HEIGHT - 1 - (top > 0 ? value / top : 0) * (HEIGHT - 4);
    text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    // One sample alone is a dot.
    if (pen === "M") text += "h0.5";
    pen = "L";
  }
  return text;
}

// Cards: one for each export, and for each initiator at an export.

function card(key, parent, makeCharts) {
  let found = cards.get(key);
  if (!found) {
    const charts = makeCharts();
    const top = element("div", "top");
    const facts = element("dl", "");
    const room = element("div", "charts", ...charts.map((one) => one.figure));
    found = { root: element("article", "card", top, room, facts), top, facts, charts };
    cards.set(key, found);
    parent.append(found.root);
  }
  found.seen = true;
  return found;
}

function list(facts, pairs) {
  facts.replaceChildren(...pairs.map(([name, value, field]) => {
    const shown = element("dd", "", value);
    if (field) shown.dataset.field = field;
    return element("div", "", element("dt", "", name), shown);
  }));
}

const throughput = () => chart("throughput", [["read", "read", "a"], ["written", "written", "b"]], rate);
const latencies = () => chart("p99 latency", [["reads", "read99", "a"], ["writes", "write99", "b"]], time);
const operations = () => chart("requests", [["per second", "operations", "a"]], count);
const drops = () => chart("drops", [["per second", "drops", "c"]], count);

function state(one) {
  if (one.failure) return ["write failed", "bad"];
  if (one.freeze && one.freeze.phase !== "thawed") return [one.freeze.phase, ""];
  return [one.state, one.state === "serving" ? "good" : "bad"];
}

function showExport(one, now) {
  const shown = card(one.address, find("exports"), () => [throughput(), latencies(), drops()]);
  const [word, className] = state(one);
  shown.top.replaceChildren(
    element("h3", "", one.address), element("span", className, word), element("span", "path", one.path));
  shown.root.dataset.export = one.address;
  const history = histories.get(one.address) ?? [];
  const latest = history.at(-1) ?? {};
  for (const each of shown.charts) each.draw(history, now);
  const hits = one.cache.read_hits + one.cache.read_misses;
  const facts = [
    ["size", size(one.size_bytes), "size_bytes"],
    ["access", one.read_only ? "read" : "read, write"],
    ["worker", String(one.worker)],
    ["interfaces", one.interfaces.join(", ") || "none"],
    ["reads", count(one.reads), "reads"],
    ["read", size(one.read_bytes), "read_bytes"],
    ["writes", count(one.writes), "writes"],
    ["written", size(one.written_bytes), "written_bytes"],
    ["flushes", count(one.flushes), "flushes"],
    ["read p50", time(latest.read50 ?? null)],
    ["write p50", time(latest.write50 ?? null)],
    ["under way", `${one.outstanding} of ${one.buffers}`],
    ["dirty", `${size(one.cache.dirty_bytes)} of ${size(one.cache.dirty_limit_bytes)}`],
    ["cache hits", hits ? Math.floor((one.cache.read_hits * 100) / hits) + " %" : "-"],
    ["duplicates", count(one.duplicates_done + one.duplicates_in_progress + one.duplicates_stale)],
  ];
  for (const [reason, number] of Object.entries(one.drops)) {
    facts.push(["dropped: " + reason.replaceAll("_", " "), count(number)]);
  }
  if (one.failure) {
    facts.push(["failure", `${one.failure.error}; ${size(one.failure.at_risk_bytes)} at risk`]);
  }
  list(shown.facts, facts);
}

function showInitiator(one, initiator, now) {
  const key = one.address + " " + initiator.mac;
  const shown = card(key, find("initiators"), () => [throughput(), operations()]);
  shown.top.replaceChildren(
    element("h3", "", initiator.mac), element("span", "", "at " + one.address));
  const history = histories.get(key) ?? [];
  for (const each of shown.charts) each.draw(history, now);
  list(shown.facts, [
    ["requests", count(initiator.requests), "requests"],
    ["read", size(initiator.read_bytes), "read_bytes"],
    ["written", size(initiator.written_bytes), "written_bytes"],
    ["silent", initiator.idle_ms < 1000 ? initiator.idle_ms + " ms" : span(initiator.idle_ms / 1000)],
    ["under way", String(initiator.outstanding)],
    ["largest payload", size(initiator.largest_payload_bytes)],
    ["duplicates", count(initiator.duplicates_done + initiator.duplicates_in_progress + initiator.duplicates_stale)],
    ["extensions", initiator.extensions.join(", ") || "none"],
  ]);
}

function table(id, head, rows) {
  const cells = (name, texts) => element("tr", "", ...texts.map((text, index) =>
    element(name, head[index][1] ? "n" : "", text)));
  find(id).replaceChildren(cells("th", head.map(([text]) => text)), ...rows.map((row) => cells("td", row)));
}

function showTables(status) {
  const interfaces = status.interfaces.flatMap((one) => {
    const word = !one.present ? "gone" : one.up ? "up" : "down";
    const start = [one.name, word, one.mac, String(one.mtu_bytes)];
    const rings = one.rings.map((ring) => [
      ...start, String(ring.worker), `${ring.used_slots} of ${ring.slots}`, count(ring.received),
      count(ring.sent), count(ring.ring_drops), count(ring.send_lost)]);
    return rings.length > 0 ? rings : [[...start, "-", "-", "-", "-", "-", "-"]];
  });
  table("interfaces", [
    ["interface"], ["state"], ["MAC"], ["MTU", true], ["worker", true], ["ring", true],
    ["received", true], ["sent", true], ["ring full", true], ["not sent", true]], interfaces);
  const workers = status.workers.map((one) => [
    String(one.worker), count(one.exports), `${one.pool_used_buffers} of ${one.pool_buffers}`,
    count(one.waiting_requests), count(one.frames_received), count(one.responses), count(one.no_buffer),
    count(one.responses_lost)]);
  table("workers", [
    ["worker", true], ["exports", true], ["buffers", true], ["waiting", true], ["frames", true],
    ["responses", true], ["no buffer", true], ["lost", true]], workers);
}

// One answer.

function show(status) {
  if (pid !== status.daemon.pid) {
    // Another daemon counts from 0.
    pid = status.daemon.pid;
    last = null;
    histories.clear();
  }
  const now = status.uptime_us / 1e6;
  const seconds = last ? now - last.uptime_us / 1e6 : 0;
  if (seconds > 0) {
    for (const one of status.exports) {
      const before = last.exports.find((old) => old.address === one.address) ?? NO_EXPORT;
      keep(one.address, now, exportSample(before, one, seconds));
      for (const initiator of one.initiators) {
        const old = before.initiators.find((each) => each.mac === initiator.mac) ?? NO_INITIATOR;
        keep(one.address + " " + initiator.mac, now, initiatorSample(old, initiator, seconds));
      }
    }
  }
  last = status;
  const daemon = status.daemon;
  find("daemon").textContent =
    `${daemon.program_version}, process ${daemon.pid}, up ${span(now)}, as ${daemon.config_file} says`;
  for (const one of cards.values()) one.seen = false;
  for (const one of status.exports) showExport(one, now);
  for (const one of status.exports) {
    for (const initiator of one.initiators) showInitiator(one, initiator, now);
  }
  for (const [key, one] of cards) {
    if (one.seen) continue;
    one.root.remove();
    cards.delete(key);
    histories.delete(key);
  }
  showTables(status);
  const reload = daemon.last_reload;
  trouble(reload && !reload.succeeded ? "The last reload met errors: " + reload.errors.join("; ") : "");
}

function trouble(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = text === "";
}

async function ask() {
  try {
    const answer = await fetch("v1/status.json", { signal: AbortSignal.timeout(10_000) });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.message);
    show(told);
    document.documentElement.dataset.ready = String(Number(document.documentElement.dataset.ready ?? 0) + 1);
  } catch (error) {
    trouble("No answer of the daemon: " + error.message);
  }
}

// Nobody is asked for a page that is not seen. One question at a time.
async function look() {
  for (;;) {
    if (document.visibilityState === "visible") await ask();
    await new Promise((resolve) => setTimeout(resolve, ASK_MS));
  }
}

look();
