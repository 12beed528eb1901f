"use strict";
// The sample of the newest result, drawn; `bedside.js` calls this.

const DRAW_MS = 500;

const sample = { of: null, what: "", tried: null, busy: false, at: -DRAW_MS };

async function renderSample() {
  const last = newest();
  if (sample.of !== null) {
    const kept = known.results.find((one) => one.shown.id === sample.of.shown.id);
    const which = kept === last ? "this result" : `result ${sample.of.shown.seq}, not the newest`;
    write(by("caption"), `${sample.what} of ${which}, ${ago(age(sample.of))}`);
  }
  const due = last !== undefined && last.shown.id !== sample.of?.shown.id && last.shown.id !== sample.tried;
  if (!due || past() !== "" || sample.busy || performance.now() - sample.at < DRAW_MS) return;
  sample.busy = true;
  sample.tried = last.shown.id;
  try {
    sample.of = (await renderDrawing(last.shown)) ? last : null;
    by("sample").hidden = sample.of === null;
  } catch {
    sample.tried = null; // the device was not reached, or sent half of it: again
  }
  sample.busy = false;
  sample.at = performance.now();
}

/** Whether there is one. */
async function renderDrawing(shown) {
  if (!shown.drawn) return false;
  const limit = AbortSignal.timeout(5000);
  const answer = await fetch(`results/${shown.seq}/drawing`, { signal: limit });
  if (!answer.ok) return false;
  const type = answer.headers.get("content-type") ?? "";
  if (type.startsWith("image/")) await picture(await answer.blob());
  else signal(await answer.json());
  return true;
}

async function picture(blob) {
  const pixels = await createImageBitmap(blob);
  const canvas = make("canvas");
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The picture that was judged");
  canvas.getContext("2d").drawImage(pixels, 0, 0);
  pixels.close();
  by("drawing").replaceChildren(canvas);
  sample.what = "Picture";
}

function signal({ leads, units, seconds, left_out: leftOut }) {
  const marks = seconds === null || seconds === undefined ? [] : ticks(seconds);
  const parts = leads.map((lead) => strip(lead, units, marks, seconds));
  if (marks.length) {
    const axis = make("div", "axis");
    for (const mark of marks) {
      const text = make("span", "", `${Number(mark.toPrecision(6))}${mark === marks.at(-1) ? " s" : ""}`);
      text.style.left = `${(mark / seconds) * 100}%`;
      axis.append(text);
    }
    parts.push(axis);
  }
  if (leftOut) parts.push(make("p", "small", `${counted(leftOut, "more lead")} not drawn`));
  by("drawing").replaceChildren(...parts);
  sample.what = marks.length ? "Signal" : "Signal (its sampling rate is not stated)";
}

/** Round numbers of seconds, five or so, from 0 on. */
function ticks(seconds) {
  const rough = seconds / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((one) => one * power >= rough) * power;
  return Array.from({ length: Math.floor(seconds / step + 1e-9) + 1 }, (_, i) => i * step);
}

function strip(lead, units, marks, seconds) {
  const finite = [...lead.low, ...lead.high].filter((value) => value !== null);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const range = finite.length ? `${short(low)} to ${short(high)} ${units}`.trim() : "no value";
  const name = [lead.name, range].filter(Boolean).join(": ");
  const svg = drawn("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", `Signal ${name}`);
  for (const mark of marks) {
    const x = (mark / seconds) * 1000;
    svg.append(drawn("path", { class: "grid", d: `M${x} 0V100` }));
  }
  svg.append(drawn("path", { class: "curve", d: curve(lead, low, high) }));
  return make("div", "lead", make("p", "", name), svg);
}

const short = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

function curve(lead, low, high) {
  const y = (value) => (98 - ((value - low) / (high - low || 1)) * 96).toFixed(2);
  let path = "";
  let pen = "M";
  lead.low.forEach((bottom, i) => {
    if (bottom === null) {
      pen = "M";
      return;
    }
    const x = ((i / lead.low.length) * 1000).toFixed(2);
    path += `${pen}${x} ${y(bottom)}`;
    if (lead.high[i] !== bottom) path += `L${x} ${y(lead.high[i])}`;
    pen = "L";
  });
  return path;
}
