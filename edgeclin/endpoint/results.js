"use strict";
// How results are shown; `bedside.js` calls this.

function stateLine(shown, explained) {
  const state = STATES[shown.state] ? shown.state : "unreviewed";
  const [word, meaning] = STATES[state];
  if (shown.result.rejected) {
    return make("p", "state", icon("rejected"), make("span", "", `Rejected, ${shown.state}`));
  }
  const text = make("span", "", word);
  if (explained) text.append(" ", make("small", "", meaning));
  const line = make("p", "state", icon(state), text);
  line.dataset.state = shown.state;
  return line;
}

const urgency = () => make("p", "urgency", icon("urgent"), "URGENT");

function was(shown) {
  const { label, confidence } = shown.result;
  return make(
    "p",
    "was",
    "Was: ",
    make("s", "", label ?? "no answer"),
    label ? `, ${percent(confidence ?? 0)} by this device` : "",
  );
}

function degradedLine(shown) {
  return make("p", "degraded", icon("degraded"), make("span", "", `Degraded: ${shown.result.degraded}`));
}

function reasonLine(shown) {
  const review = shown.review;
  if (!review) return make("p", "reason", shown.result.reason);
  const by = [review.model, review.confidence && percent(review.confidence)].filter(Boolean);
  const reason = `${review.reason}${by.length ? ` (${by.join(", ")})` : ""}; this device: ${shown.result.reason}`;
  return make("p", "reason", reason);
}

/** Results of a bundle that judges no more stay, but not as if the present one had given them. */
const elsewhere = (shown) =>
  known.health !== null && shown.result.bundle !== known.health.run.bundle;

const ROUNDED = 1e-4; // a record's confidence is; the device compared what it was before

function confidenceBar(shown) {
  const confidence = shown.result.confidence ?? 0;
  const threshold = shown.threshold ?? null;
  const near = threshold !== null && Math.abs(confidence - threshold) < ROUNDED;
  const reached = near ? shown.result.state === "final" : threshold !== null && confidence >= threshold;
  const mark = threshold === null ? "no threshold" : `threshold ${percent(threshold)}, ${reached ? "reached" : "not reached"}`;
  const bar = drawn(
    "svg",
    { class: "bars", viewBox: "0 0 1000 20", preserveAspectRatio: "none", role: "img" },
    drawn("rect", { class: "track", x: 0, y: 3, width: 1000, height: 14 }),
    drawn("rect", { class: "value", x: 0, y: 3, width: Math.round(1000 * confidence), height: 14 }),
  );
  bar.setAttribute("aria-label", `confidence ${percent(confidence)}, ${mark}`);
  if (threshold !== null) {
    const x = Math.round(1000 * threshold);
    bar.append(drawn("path", { class: "mark", d: `M${x} -4V24`, "vector-effect": "non-scaling-stroke" }));
  }
  const whose =
    shown.state === "amended" ? ` confidence of this device in ${shown.result.label}` : " confidence";
  const words = make(
    "div",
    "confidence",
    make("p", "", make("strong", "", percent(confidence)), whose),
    make("p", "small", mark),
  );
  return make("div", "", words, bar);
}

function large(kept) {
  const { shown } = kept;
  const { result } = shown;
  const parts = [];
  if (urgent(kept)) parts.push(urgency());
  parts.push(make("p", "label", answerOf(shown)));
  parts.push(stateLine(shown, true));
  if (result.rejected) parts.push(make("p", "advice", ADVICE));
  else if (shown.state === "amended") parts.push(was(shown));
  if (!result.rejected) parts.push(confidenceBar(shown));
  parts.push(reasonLine(shown));
  if (result.degraded) parts.push(degradedLine(shown));
  if (result.unsigned_bundle) {
    parts.push(make("p", "degraded", icon("unsigned"), "Judged by a bundle that is NOT signed"));
  }
  if (elsewhere(shown)) parts.push(make("p", "reason", "Judged by another bundle than the present"));
  parts.push(make("p", "small", `Result ${shown.seq} of stream ${result.source}`));
  return parts;
}

function small(kept, always = false) {
  const { shown } = kept;
  const { result } = shown;
  const confidence = result.rejected || shown.state === "amended" ? "" : `, ${percent(result.confidence ?? 0)}`;
  const parts = [
    make("p", "label", answerOf(shown)),
    make("p", "age", ""),
  ];
  if (urgent(kept)) parts.push(urgency());
  const line = stateLine(shown, false);
  line.lastChild.append(confidence, kept.missed ? ", missed" : "");
  parts.push(line);
  if (shown.state === "amended" && !result.rejected) parts.push(was(shown));
  parts.push(reasonLine(shown));
  if (result.rejected) parts.push(make("p", "advice", ADVICE));
  if (result.degraded) parts.push(degradedLine(shown));
  if (elsewhere(shown)) parts.push(make("p", "reason", "Judged by another bundle than the present"));
  if (always || result.source !== newest().shown.result.source) {
    parts.push(make("p", "reason", `Stream ${result.source}`));
  }
  return parts;
}

const items = new Map();

/** The element of a result in the list, made anew when the result has changed. */
function item(kept) {
  const id = kept.shown.id;
  const key = [kept.shown.state, newest().shown.result.source, elsewhere(kept.shown)].join("\n");
  let entry = items.get(id);
  if (entry?.key !== key) {
    entry = { key, element: make("li", "", ...small(kept)) };
    entry.age = entry.element.querySelector(".age");
    items.set(id, entry);
  }
  write(entry.age, ago(age(kept)));
  return entry.element;
}

function renderResults() {
  const [last, ...earlier] = known.results;
  by("no-earlier").hidden = earlier.length > 0;
  if (last === undefined) return;
  fill(by("answer"), [{ ...last.shown, age_s: 0 }, elsewhere(last.shown)], () => large(last));
  const elements = earlier.map(item);
  const list = by("earlier");
  if (elements.length !== list.children.length || elements[0] !== list.firstChild || elements.some((one, i) => list.children[i] !== one)) {
    list.replaceChildren(...elements);
    const here = new Set(known.results.map((one) => one.shown.id));
    for (const id of items.keys()) if (!here.has(id)) items.delete(id);
  }
  renderPinned([...earlier, ...known.older]);
}

/** The last urgent and the last amended one: they must not scroll away under newer ones. */
function renderPinned(earlier) {
  const pins = [
    ["Last urgent result", earlier.find(urgent)],
    ["Last amended result", earlier.find(amended)],
  ].filter(([, kept], i, all) => kept !== undefined && (i === 0 || kept !== all[0][1]));
  const keys = pins.map(([title, { shown }]) => [title, shown.id, shown.state, elsewhere(shown)]);
  fill(by("pinned"), keys, () =>
    pins.map(([title, kept]) => make("div", "pin", make("h2", "", title), ...small(kept, true))),
  );
  [...by("pinned").querySelectorAll(".age")].forEach((element, i) =>
    write(element, ago(age(pins[i][1]))),
  );
}
