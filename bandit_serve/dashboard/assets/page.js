// Follows a page, shows times in the reader's zone, and lets fields write JSON. Pages read without it.
"use strict";

const liveness = document.getElementById("liveness");
const AGAIN_MS = 5000;

const shownTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

function age(at) {
  const seconds = Math.max(0, (Date.now() - at) / 1000);
  const unit = UNITS.find(([, size]) => seconds >= size);
  return unit ? `${Math.floor(seconds / unit[1])} ${unit[0]}` : "just now";
}

function localTimes(within) {
  for (const each of within.querySelectorAll("time[datetime]")) {
    const at = new Date(each.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const aged = each.classList.contains("age");
    each.textContent = aged ? age(at) : shownTime.format(at);
    if (aged) each.title = `${shownTime.format(at)}, ${each.dateTime.slice(0, 19).replace("T", " ")} UTC`;
  }
}

function values(within) {
  return new Map([...within.querySelectorAll("[data-name]")].map((each) => [each.dataset.name, each.dataset.value]));
}

// Replaces a part, and keeps what its reader did there: the focus, and what was folded out or scrolled.
function replace(part, html) {
  const before = values(part);
  const opened = [...part.querySelectorAll("details")].map((each) => each.open);
  const scrolled = [...part.querySelectorAll(".wide")].map((each) => each.scrollLeft);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const place = focused ? [...part.querySelectorAll("a, button, summary, [tabindex]")].indexOf(focused) : -1;
  part.innerHTML = html;
  localTimes(part);
  for (const each of part.querySelectorAll("[data-name]")) {
    const was = before.get(each.dataset.name);
    if (was !== undefined && was !== each.dataset.value && each.dataset.name !== "as_of") each.classList.add("moved");
  }
  [...part.querySelectorAll("details")].forEach((each, k) => { each.open = opened[k] || false; });
  [...part.querySelectorAll(".wide")].forEach((each, k) => { each.scrollLeft = scrolled[k] || 0; });
  part.dispatchEvent(new CustomEvent("replaced", { bubbles: true }));
  if (place >= 0) [...part.querySelectorAll("a, button, summary, [tabindex]")][place]?.focus({ preventScroll: true });
}

function say(text, lost) {
  if (!liveness || liveness.textContent === text) return;
  liveness.textContent = text;
  liveness.classList.toggle("lost", lost);
}

function take(event) {
  const parts = JSON.parse(event.data);
  if ("failure" in parts) say(parts.failure ? `Not live: ${parts.failure}` : "live", Boolean(parts.failure));
  delete parts.failure;
  for (const [name, html] of Object.entries(parts)) {
    const part = document.querySelector(`[data-part="${CSS.escape(name)}"]`);
    if (part) replace(part, html);
  }
}

async function lost(path) {
  try {
    const answer = await fetch(path, { method: "HEAD", headers: { Accept: "text/html" } });
    say(answer.status === 401 ? "Signed out: load the page again to sign in" : "Not live: the service is busy or away", true);
  } catch {
    say("Not live: the service does not answer", true);
  }
}

function follow(path) {
  const stream = new EventSource(path);
  stream.onmessage = take;
  stream.onerror = () => {
    lost(path);
    if (stream.readyState !== EventSource.CLOSED) return;
    setTimeout(() => follow(path), AGAIN_MS * (1 + Math.random()));
  };
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

// A form whose fields write the JSON that it sends: each names its place in it.
function build(fields) {
  const document_ = document.getElementById(fields.dataset.builds);
  const inputs = [...fields.querySelectorAll("[data-json]")];
  const at = (content, path) => path.split(".").reduce((part, name) => part?.[name], content);
  function put(content, path, value) {
    const names = path.split(".");
    const last = names.pop();
    const part = names.reduce((of, name) => (of[name] ??= {}), content);
    if (value === undefined) delete part[last];
    else part[last] = value;
    if (names.length && !Object.keys(part).length) put(content, names.join("."), undefined);
  }
  const shown = {
    arms: (value) => (value || []).map((arm) => arm.name).join(", "),
    numbers: (value) => [].concat(value ?? []).join(", "),
    texts: (value) => [].concat(value ?? []).map((each) => (typeof each === "string" ? each : JSON.stringify(each))).join(" "),
    number: (value) => value ?? "",
  };
  function read() {
    let content;
    try { content = JSON.parse(document_.value); } catch { return; }
    for (const input of inputs) {
      const value = at(content, input.dataset.json);
      input.value = (shown[input.dataset.as] || ((each) => each ?? ""))(value);
    }
  }
  function write(event) {
    let content;
    try { content = JSON.parse(document_.value); } catch { return; }
    const { json, as, optional } = event.target.dataset;
    const text = event.target.value.trim();
    const parts = text.split(/[\s,]+/).filter(Boolean);
    // What is no number stays a text, and the service says so.
    const number = (each) => (Number.isNaN(Number(each)) ? each : Number(each));
    if (as === "numbers") put(content, json, parts.map(number));
    else if (as === "texts") put(content, json, text.split(/\s+/).filter(Boolean));
    else if (as === "number") put(content, json, text ? number(text) : undefined);
    else if (as === "arms") {
      const known = new Map((content.arms || []).map((arm) => [arm.name, arm]));
      content.arms = text.split(",").map((name) => name.trim()).filter(Boolean).map((name) => known.get(name) || { name });
    } else put(content, json, !text && optional !== undefined ? undefined : text);
    document_.value = JSON.stringify(content, null, 2);
  }
  fields.hidden = false;
  read();
  for (const input of inputs) input.addEventListener("input", write);
  document_.addEventListener("input", read);
}

localTimes(document);
setInterval(() => localTimes(document), 30_000);
document.querySelectorAll("[data-builds]").forEach(build);
if (document.body.dataset.live) follow(document.body.dataset.live);
