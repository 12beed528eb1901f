"use strict";
// Whatever the device sends is put in as text, never as HTML.

const KEPT = 50; // results, the newest included
const HEARD_S = 3; // without a word of the device, what is shown is the past
const OLD_S = 30; // an answer as old as that is the past, too
const BUSY_S = 5; // one sample in hand for so long: the loop may hang
const AGAIN_S = 6; // a connection as silent as that is given up
const RETRY_MS = 1000;
const TICK_MS = 250;
const MOST_TEXT = 16 << 20;
const MOST_NAMED = 5; // amended results that a screen reader hears of one by one
const TICKING = /(^|\s)\d+(\.\d+)?(?=[\s,;)]|$)/g; // ages and counts, not digits of names

const STATES = {
  final: ["Final", "its confidence reached the threshold"],
  provisional: ["Provisional", "in doubt; a second opinion is asked for"],
  confirmed: ["Confirmed", "a second opinion agrees"],
  amended: ["Amended", "a second opinion differs: the answer has changed"],
  unreviewed: ["Unreviewed", "no second opinion settled it; a person must look"],
};
const LINKS = {
  connected: ["Connected", "as of"],
  disconnected: ["Disconnected", "as of"],
  silent: ["Silent", "last heard"],
  unanswered: ["No receipts", "last heard"],
  unknown: ["Unknown", "never heard"],
};
const ADVICE =
  "What to do: take the sample again. If it is rejected again, check the sensor or the picture; " +
  "where the reason names the engine, they are fine: call whoever looks after this device. " +
  "Until there is an answer, judge without this device.";

const by = (id) => document.getElementById(id);

// A moment, on two clocks: one stands still while the machine sleeps, the other may be set back.
const moment = () => ({ steady: performance.now(), wall: Date.now() });
const since = (mark) =>
  Math.max(0, performance.now() - mark.steady, Date.now() - mark.wall) / 1000;

function make(tag, name, ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content);
  return element;
}

function drawn(tag, attributes, ...content) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...content);
  return element;
}

const icon = (name) =>
  drawn("svg", { class: "icon", "aria-hidden": "true" }, drawn("use", { href: `#${name}` }));

/** Sets a text only where it differs, so that a selection and a reader are left in peace. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function span(seconds) {
  const s = Math.floor(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

const ago = (seconds) => (seconds < 1 ? "just now" : `${span(seconds)} ago`);

function percent(share) {
  if (share < 1 && share >= 0.9995) return "over 99.9 %";
  return `${(share * 100).toFixed(1)} %`;
}

function bytes(count) {
  if (count < 1e6) return `${(count / 1e3).toFixed(count < 1e4 ? 1 : 0)} kB`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e9).toFixed(2)} GB`;
}

const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// ---- What is known

const known = {
  results: [], // newest first, each {shown, mark, run, missed}
  older: [], // the newest urgent and the newest amended one before them
  run: 0, // of the device's process: which one since the page was opened
  session: "",
  lastId: "",
  health: null,
  heard: null,
  opened: moment(),
  problem: "This page has not reached the device.",
  lostAt: null,
  late: 0,
  gone: 0,
  restarted: false,
};

const newest = () => known.results[0];
const age = (kept) => kept.shown.age_s + since(kept.mark);
const urgent = (kept) => kept.shown.urgent;
const amended = (kept) => kept.shown.state === "amended";

/** What now answers: the opinion where it changed the label, else the device's own. */
function answerOf(shown) {
  if (shown.result.rejected) return "No answer";
  if (shown.state === "amended") return shown.review?.label ?? "No answer";
  return shown.result.label ?? "No answer";
}

function takeResults(latest, id) {
  const session = id.split("-")[0];
  const returning = known.session !== "";
  if (returning && session !== known.session) {
    known.run += 1;
    known.restarted = true;
  }
  known.session = session;
  const absent = returning && known.lostAt !== null;
  const all = [...known.results, ...known.older];
  for (const shown of latest.results) keep(all, shown, absent);
  if (returning) known.gone += latest.missed;
  known.lastId = id;
  all.sort((a, b) => b.run - a.run || b.shown.seq - a.shown.seq);
  known.results = all.slice(0, KEPT);
  const older = all.slice(KEPT);
  const pinned = [older.find(urgent), older.find(amended)];
  known.older = older.filter((one) => pinned.includes(one));
  tellOf(latest.results);
}

function keep(all, shown, absent) {
  const before = all.find((one) => one.shown.id === shown.id);
  const kept = { shown, mark: moment(), run: before?.run ?? known.run, missed: before?.missed ?? absent };
  if (before === undefined) {
    all.push(kept);
    known.late += absent;
  } else {
    all[all.indexOf(before)] = kept;
  }
}

function takeHealth(health) {
  known.lostAt = null;
  known.health = health;
  known.heard = moment();
  known.problem = "";
}

// ---- The stream

async function listen() {
  for (;;) {
    const stop = new AbortController();
    known.stop = () => stop.abort();
    known.opened = moment();
    try {
      const headers = known.lastId ? { "Last-Event-ID": known.lastId } : {};
      const answer = await fetch("events", { headers, signal: stop.signal, cache: "no-store" });
      if (!answer.ok) throw new Error(`The device refused to tell (${answer.status}).`);
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
      known.problem = "The device has ended the connection.";
    } catch (error) {
      known.problem =
        error instanceof Unreadable || error.message.startsWith("The device")
          ? error.message
          : "The connection to the device is lost.";
    }
    stop.abort();
    if (known.problem) lose();
    render();
    await new Promise((done) => setTimeout(done, RETRY_MS));
  }
}

class Unreadable extends Error {}

async function read(reader) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    if (text.length > MOST_TEXT) throw new Unreadable("The device sent more than this page reads.");
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) take(event);
    render();
  }
}

function take(event) {
  const fields = {};
  for (const line of event.split("\n")) {
    const colon = line.indexOf(": ");
    fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  try {
    if (fields.event === "results") takeResults(JSON.parse(fields.data), fields.id);
    if (fields.event === "health") takeHealth(JSON.parse(fields.data));
  } catch (error) {
    console.error(error);
    throw new Unreadable("The device sent what this page cannot read.");
  }
}

function lose() {
  known.lostAt ??= known.heard ?? known.opened;
}

// ---- Whether what is shown is now

/** Why what is shown is not now; empty when it is. */
function past() {
  if (known.heard === null) return known.problem || "Waiting for the device.";
  const silence = since(known.heard);
  if (known.problem) return `${known.problem} Last heard ${span(silence)} ago.`;
  if (silence > HEARD_S) return `The device is silent. Last heard ${span(silence)} ago.`;
  if (!known.health.serving) return "The device does not answer now; see the alarms.";
  const busy = (known.health.run.busy_s ?? 0) + silence;
  if (known.health.run.busy_s > BUSY_S) {
    return `The engine has been at one sample for ${span(busy)}.`;
  }
  const last = newest();
  if (last !== undefined && age(last) > OLD_S) {
    return `No new result. The last one is ${span(age(last))} old.`;
  }
  return "";
}

function tick() {
  const silence = known.heard === null ? since(known.opened) : since(known.heard);
  if (silence > HEARD_S) lose();
  if (silence > AGAIN_S && since(known.opened) > AGAIN_S) known.stop?.();
  render();
}

// ---- What a screen reader is told: changes only, never each result

const told = { live: null, alarms: "", urgent: new Map(), degraded: "" };
const unsaid = { said: [], called: [], urgent: [] };
const say = (text) => unsaid.said.push(text);
const call = (text, urgent = false) => unsaid[urgent ? "urgent" : "called"].push(text);

/** Writes what came up in this turn at once, urgent results first: a reader hears the last change. */
function speak() {
  const { said, called, urgent } = unsaid;
  const pressing = [...urgent, ...called];
  if (said.length > 0) by("said").replaceChildren(said.join(" ")); // anew, though it may be the same
  if (pressing.length > 0) by("called").replaceChildren(pressing.join(" "));
  said.length = called.length = urgent.length = 0;
}

function tellOf(changed) {
  const amendments = changed.filter((shown) => shown.state === "amended");
  const named = amendments.filter((shown, i) => shown.urgent || i < MOST_NAMED);
  for (const shown of named) {
    const which = shown.urgent ? `Urgent: result ${shown.seq}` : `Result ${shown.seq}`;
    call(`${which} is amended: was ${shown.result.label}, now ${answerOf(shown)}.`, shown.urgent);
  }
  const more = amendments.length - named.length;
  if (more > 0) call(`${counted(more, "more result")} amended.`);
  const fresh = new Set();
  for (const shown of changed) {
    if (!shown.urgent || shown.state === "amended" || shown.age_s >= OLD_S) continue;
    const what = `Urgent: ${answerOf(shown)}, stream ${shown.result.source}.`;
    const before = told.urgent.get(what);
    if (before === undefined || since(before) > OLD_S) fresh.add(what);
    told.urgent.set(what, moment());
  }
  for (const [what, at] of told.urgent) if (since(at) > OLD_S) told.urgent.delete(what);
  for (const what of fresh) call(what, true);
}

function tellOfDevice(why) {
  const live = why === "";
  if (live !== told.live) {
    (live ? say : call)(live ? "Live." : `Not live. ${why}`);
    told.live = live;
  }
  const health = known.health;
  if (health === null) return;
  const alarms = health.alarms.join(" ").replace(TICKING, "$1n");
  if (alarms && alarms !== told.alarms) call(`Alarm: ${health.alarms.join(". ")}`);
  if (!alarms && told.alarms) say("No alarm any more.");
  told.alarms = alarms;
  const degraded = health.run.degraded ?? "";
  if (degraded && degraded !== told.degraded) say(`Degraded: ${degraded}`);
  told.degraded = degraded;
}

// ---- Putting it on the page

let stays = null;

function render() {
  const why = past();
  renderLife(why);
  renderDevice();
  renderResults();
  renderSample();
  tellOfDevice(why);
  speak();
  stays ??= document.querySelector(".frozen").getAnimations()[0];
  if (stays) stays.currentTime = 0; // still here
}

function renderLife(why) {
  const live = why === "";
  const last = newest();
  document.body.dataset.live = live ? "yes" : "no";
  by("bar-icon").setAttribute("href", !live ? "#not-live" : last ? "#live" : "#waiting");
  write(by("bar-word"), live ? "LIVE" : "NOT LIVE");
  const fresh = last ? `Newest result ${ago(age(last))}.` : "Waiting for the first result.";
  write(by("bar-why"), live ? fresh : `${why} What is shown is the past.`);
  write(by("newest-title"), live ? "Newest result" : "Last known result, not live");
  const health = known.health;
  const alarm = health?.alarms.length ? "ALARM" : live && last && urgent(last) ? "URGENT" : "";
  const words = [live ? "" : "NOT LIVE", alarm].filter(Boolean).join(", ") || "Live";
  const title = `${words}: ${health?.device ?? "edgeclin"}`;
  if (document.title !== title) document.title = title;
}

/** Makes an element's content anew only when what it shows has changed. */
function fill(element, value, content) {
  const text = JSON.stringify(value);
  if (element.filled === text) return;
  element.filled = text;
  element.replaceChildren(...content());
}

function renderDevice() {
  const health = known.health;
  renderAlarms();
  renderNews();
  const streams = new Set(known.results.map((one) => one.shown.result.source)).size;
  const stream = newest()?.shown.result.source ?? "none yet";
  write(by("stream"), streams > 1 ? `${stream} (newest of ${streams})` : stream);
  if (health === null) return;
  write(by("place"), `${health.device}, ${health.site}`);
  write(by("model"), health.model);
  fill(by("signature"), health.signed, () =>
    health.signed ? [icon("signed"), "Signed"] : [icon("unsigned"), "NOT signed"],
  );
  const degraded = health.run.degraded ?? "";
  by("degraded-device").hidden = !degraded;
  fill(by("degraded-device"), degraded, () => [
    icon("degraded"),
    make("p", "", `Degraded: ${degraded}`),
  ]);
  renderLink(health.link);
  renderQueue(health.queue);
  renderCounts(health);
}

function renderAlarms() {
  const alarms = known.health?.alarms ?? [];
  by("alarms").hidden = alarms.length === 0;
  fill(by("alarms"), alarms, () =>
    alarms.map((alarm) =>
      make("div", "alarm", icon("alarm"), make("p", "", make("strong", "", "ALARM "), alarm)),
    ),
  );
}

function renderLink(link) {
  const [word, how] = LINKS[link.state] ?? [link.state, ""];
  fill(by("link"), link.state, () => [icon(LINKS[link.state] ? link.state : "unknown"), word]);
  const aged = link.age_s ?? null;
  write(by("link-age"), aged === null ? how : `${how} ${ago(aged + since(known.heard))}`);
}

function renderQueue(queue) {
  if (queue === null || queue === undefined) {
    write(by("queue"), "The queue cannot be read");
    write(by("room"), "");
    return;
  }
  const { questions, ...tiers } = queue.waiting;
  const parts = Object.entries(tiers).map(([tier, usage]) => `${usage.count} ${tier}`);
  write(by("queue"), parts.join(", "));
  const asked = counted(questions?.count ?? 0, "question for a second opinion", "questions for a second opinion");
  const full = queue.max_bytes ? (queue.bytes / queue.max_bytes) * 100 : 0;
  write(
    by("room"),
    `${asked}; ${bytes(queue.bytes)} of ${bytes(queue.max_bytes)} used (${full.toFixed(full < 10 ? 1 : 0)} %)`,
  );
}

function renderCounts(health) {
  const run = health.run;
  const answers = Object.values(run.states ?? {}).reduce((sum, n) => sum + n, 0);
  write(
    by("counts"),
    [
      counted(answers, "answer"),
      counted(run.urgent ?? 0, "urgent", "urgent"),
      counted(run.rejected ?? 0, "rejected", "rejected"),
    ].join(", "),
  );
  const dropped = Object.entries(health.dropped ?? {}).filter(([, n]) => n > 0);
  const losses = dropped.map(([stream, n]) => `${counted(n, "sample")} of ${stream} dropped`);
  if (run.late) losses.push(`${counted(run.late, "answer")} late`);
  if (run.waiting) losses.push(`${counted(run.waiting, "sample")} waiting to be judged`);
  write(by("losses"), losses.join("; ") || "none dropped, none late");
}

function renderNews() {
  const { late, gone, restarted } = known;
  const parts = [];
  if (restarted) {
    parts.push("The device has restarted; its last results before that may not be shown.");
  }
  if (late) {
    parts.push(`${counted(late, "result")} came while this page was not live, marked “missed”.`);
  }
  if (gone) parts.push(`${counted(gone, "result")} came that can no longer be shown here.`);
  by("news").hidden = parts.length === 0;
  write(by("news-text"), parts.join(" "));
}

// ----

by("news-seen").addEventListener("click", () => {
  known.late = known.gone = 0;
  known.restarted = false;
  renderNews();
});
setInterval(tick, TICK_MS);
document.addEventListener("visibilitychange", tick);
window.addEventListener("pageshow", tick);
listen();
