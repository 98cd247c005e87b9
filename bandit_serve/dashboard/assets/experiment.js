// Page of an experiment: values at a place of a picture, copies, times of axes, and forms of an earlier revision.
"use strict";

const tip = document.getElementById("tip");
const main = document.getElementById("content");
const experiment = document.querySelector("h1").textContent;
const SVG = "http://www.w3.org/2000/svg";
const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;
const FRESH_MS = 3_000;
const PNG_SCALE = 2;
let history_ = null;

// Axes of less than some days are in the reader's zone, as all other times.
function localAxes(within) {
  for (const picture of within.querySelectorAll("svg")) {
    const labels = [...picture.querySelectorAll("[data-at]")];
    const at = labels.map((label) => Number(label.dataset.at));
    const step = at.length > 1 ? at[1] - at[0] : 0;
    if (step >= DAY_MS) continue;
    const form = new Intl.DateTimeFormat(undefined, { timeStyle: step && step < MINUTE_MS ? "medium" : "short", hourCycle: "h23" });
    labels.forEach((label, k) => { label.textContent = form.format(at[k]); });
  }
}

// Results over time, as the API has them; asked for again when they are old and a picture is pointed at.
function resultsOverTime() {
  if (history_ === null || Date.now() - history_.asked > FRESH_MS) {
    const content = fetch(`/v1/experiments/${encodeURIComponent(experiment)}/results/history`).then((answer) => (answer.ok ? answer.json() : null));
    history_ = { asked: Date.now(), content: content.catch(() => null) };
  }
  return history_.content;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1e5 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
}

function nearest(times, at) {
  let best = 0;
  times.forEach((time, k) => { if (Math.abs(time - at) < Math.abs(times[best] - at)) best = k; });
  return best;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function rowsAt(content, way, k) {
  const rows = [];
  Object.entries(content.arms).forEach(([arm, known], place) => {
    const column = way.reduce((part, name) => part?.[name], known);
    if (!column || (way.at(-1) === "difference" && column.every((value) => value === null))) return;
    const row = element("div", "");
    row.append(element("span", `swatch s${place % 8}${Math.floor(place / 8) % 2 ? " dashed" : ""}`), `${arm} `, element("b", "", number(column[k])));
    const ends = { mean: "interval", difference: "difference_interval" }[way.at(-1)];
    const interval = ends && way.slice(0, -1).reduce((part, name) => part?.[name], known)?.[ends][k];
    if (interval) row.append(element("span", "ends", ` ${number(interval[0])} to ${number(interval[1])}`));
    rows.push(row);
  });
  return rows;
}

// Shows the values at one of the times of a picture: `choose` gives its number, of all times and where they are drawn.
async function point(picture, choose) {
  const [left, right, top, base] = picture.dataset.frame.split(" ").map(Number);
  const [from, until] = picture.dataset.span.split(" ").map(Number);
  const content = await resultsOverTime();
  if (!content || pointed !== picture) return;
  const box = picture.getBoundingClientRect();
  const scale = box.width / picture.viewBox.baseVal.width;
  const times = content.at.map((at) => Date.parse(at));
  const k = choose(times, (clientX) => {
    const wanted = from + ((until - from) * ((clientX - box.left) / scale - left)) / (right - left);
    return Math.min(Math.max(wanted, from), until);
  });
  Object.assign(shown_, { of: picture.dataset.of, at: times[k] });
  const x = left + ((right - left) * (Math.min(Math.max(times[k], from), until) - from)) / Math.max(until - from, 1);
  let line = picture.querySelector(".crosshair");
  if (!line) picture.append((line = document.createElementNS(SVG, "line")));
  line.setAttribute("class", "crosshair");
  Object.entries({ x1: x, x2: x, y1: top, y2: base }).forEach(([name, value]) => line.setAttribute(name, value));
  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" }).format(times[k]);
  tip.replaceChildren(element("div", "when", shown), ...rowsAt(content, JSON.parse(picture.dataset.of), k), element("div", "ends", `${content.at[k].slice(0, 19).replace("T", " ")} UTC`));
  tip.hidden = false;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left + x * scale + 14, room)) + scrollX}px`;
  tip.style.top = `${box.top + scrollY + (base + 8) * scale}px`;
}

let pointed = null;
// What is shown, and of which time: a picture that is drawn anew goes on from there.
const shown_ = { of: null, at: null };
function leave() {
  pointed?.querySelector(".crosshair")?.remove();
  pointed = null;
  tip.hidden = true;
}

main.addEventListener("pointermove", (event) => {
  const picture = event.target.closest?.("svg[data-of]");
  if (picture !== pointed) leave();
  if (!picture) return;
  pointed = picture;
  point(picture, (times, timeAt) => nearest(times, timeAt(event.clientX)));
});
main.addEventListener("pointerleave", leave);

const STEPS = {
  ArrowLeft: (k) => k - 1,
  ArrowRight: (k) => k + 1,
  Home: () => 0,
  End: (k, last) => last,
};

function step(picture, way) {
  if (picture !== pointed) leave();
  pointed = picture;
  point(picture, (times) => {
    const last = times.length - 1;
    const k = shown_.of === picture.dataset.of ? nearest(times, shown_.at) : last;
    return Math.min(Math.max(way(k, last), 0), last);
  });
}

main.addEventListener("focusin", (event) => {
  const picture = event.target.closest?.("svg[data-of]");
  if (picture && picture !== pointed) step(picture, (k) => k);
});
main.addEventListener("focusout", leave);
main.addEventListener("keydown", (event) => {
  const picture = event.target.closest?.("svg[data-of]");
  if (event.key === "Escape") leave();
  if (!picture || !STEPS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  step(picture, STEPS[event.key]);
});

// Pictures are stops of the keyboard only where a script shows their values.
function reachable(within) {
  for (const picture of within.querySelectorAll("svg[data-of]")) picture.setAttribute("tabindex", "0");
}

function said(button, text) {
  const before = (button.dataset.says ??= button.textContent);
  button.textContent = text;
  setTimeout(() => { button.textContent = before; }, 1500);
}

// Only pages of a secure origin have a clipboard that takes pictures; others get a file, and a field to copy from.
async function copyText(button, text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return said(button, "Copied");
  }
  prompt("Copy this link", text);
}

async function png(svg) {
  const picture = new Image();
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth * PNG_SCALE;
  canvas.height = picture.naturalHeight * PNG_SCALE;
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

async function copyPicture(button) {
  const path = button.dataset.copyPicture;
  const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const answer = await fetch(`${path}${path.includes("?") ? "&" : "?"}theme=${theme}`);
  if (!answer.ok) return said(button, "Not now");
  const blob = await png(await answer.text());
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
    said(button, "Copied");
  } catch {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${experiment}.png`;
    link.click();
    URL.revokeObjectURL(link.href);
    said(button, "Saved");
  }
}

main.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-copy-link]");
  if (link) {
    event.preventDefault();
    copyText(link, new URL(link.getAttribute("href"), new URL(document.querySelector("a[data-copy-link]").href, location)).href).catch(() => said(link, "Not copied"));
  }
  const picture = event.target.closest("[data-copy-picture]");
  if (picture) copyPicture(picture).catch(() => said(picture, "Not copied"));
  if (event.target.closest("[data-print]")) print();
});

function noteRevision() {
  const shown = document.querySelector("[data-etag]")?.dataset.etag;
  const sent = document.querySelector("#change input[name=revision]")?.value;
  const stale = document.querySelector("[data-stale]");
  if (stale) stale.hidden = sent === undefined || shown === sent;
}

document.addEventListener("replaced", (event) => {
  if (pointed && !pointed.isConnected) leave();
  localAxes(event.target);
  reachable(event.target);
  noteRevision();
});
localAxes(document);
reachable(document);
noteRevision();
