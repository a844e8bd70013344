"use strict";
/* Speaks JSON-RPC with the host by postMessage (MCP Apps, 2026-01-26). Texts of others become text nodes, never markup. */

const PROTOCOL = "2026-01-26";
const PATIENCE_S = 60;
const MOVING_MS = 2000;
const RESTING_MS = 10000;
const CLOSED = ["finished", "abandoned", "none"];
const CONTROLLED = ["target_created", "backfilling", "backfilled", "verified"];

const host = window.parent;
const at = (id) => document.getElementById(id);

// --- the host

const waiting = new Map();
let lastId = 0;
let canCall = false;
let hasEnded = false;

function post(message) {
  host.postMessage({ jsonrpc: "2.0", ...message }, "*");
}

function request(method, params) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      waiting.delete(id);
      reject(new Error(`The host did not answer within ${PATIENCE_S} s.`));
    }, PATIENCE_S * 1000);
    waiting.set(id, { resolve, reject, timer });
    post({ id, method, params });
  });
}

/* The structured answer of a tool; what it refuses is an error with its words. */
async function call(tool, given) {
  const answer = await request("tools/call", { name: tool, arguments: given });
  const text = (answer.content ?? []).map((part) => part.text ?? "").join("\n");
  if (answer.isError) throw new Error(text || `${tool} failed.`);
  return answer.structuredContent ?? JSON.parse(text);
}

window.addEventListener("message", (event) => {
  const message = event.data;
  if (event.source !== host || message?.jsonrpc !== "2.0") return;
  if (message.method === undefined) {
    const asked = waiting.get(message.id);
    if (asked === undefined) return;
    waiting.delete(message.id);
    clearTimeout(asked.timer);
    if (message.error) asked.reject(new Error(message.error.message || "The host refused."));
    else asked.resolve(message.result);
  } else if (message.id !== undefined) {
    if (message.method === "ui/resource-teardown") end();
    const isKnown = ["ui/resource-teardown", "ping"].includes(message.method);
    post({ id: message.id, ...(isKnown ? { result: {} } : { error: { code: -32601, message: "Method not found" } }) });
  } else {
    notified(message.method, message.params ?? {});
  }
});

function notified(method, params) {
  if (method === "ui/notifications/tool-result") take(params);
  if (method === "ui/notifications/tool-cancelled") at("waiting").textContent = "The call was cancelled.";
  if (method === "ui/notifications/host-context-changed") dress(params);
}

/* Colours of the host only where it names both ink and ground: half of a palette is illegible. */
function dress(context) {
  const root = document.documentElement.style;
  if (context.theme) root.colorScheme = context.theme;
  const theirs = context.styles?.variables ?? {};
  if (theirs["--color-background-primary"] && theirs["--color-text-primary"]) {
    root.setProperty("--ground", theirs["--color-background-primary"]);
    root.setProperty("--ink", theirs["--color-text-primary"]);
  }
  if (theirs["--font-sans"]) root.setProperty("--sans", theirs["--font-sans"]);
}

// --- parts of the page

function made(tag, attributes, ...children) {
  const isDrawn = ["svg", "title", "desc", "g", "rect", "line", "circle", "text"].includes(tag);
  const node = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

const signed = (value, digits = 3) => (value < 0 ? "" : "+") + value.toFixed(digits);
const counted = (value) => value.toLocaleString("en-US");
/* A payload text without the marks that tell a model where it ends. */
const bare = (text) => /^«([0-9a-f]{6}): (.*) :\1»$/s.exec(text)?.[2] ?? text;

function listed(id, texts) {
  const place = at(id);
  place.hidden = texts.length === 0;
  (place.tagName === "UL" ? place : place.querySelector("ul")).replaceChildren(...texts.map((text) => made("li", {}, text)));
}

function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// --- the migration

let status = null;
let shownNumber = 0;
let askedNumber = 0;
let isAsking = false;
let isLooking = false;
let timer = null;

const isMoving = () => status != null && (status.phase === "backfilling" || status.is_filling) && !status.is_paused && !status.error;

/* Whatever was asked before something that is shown already is older than that. */
function showStatus(found, number) {
  if (number < shownNumber) return;
  shownNumber = number;
  status = found;
  const { progress, worker } = found;
  at("migration").hidden = false;
  at("migration-title").textContent = `Migration ${found.migration_id}`;
  at("route").textContent = `${found.source} → ${found.target}, ${found.strategy}${found.model ? `, ${found.model}` : ""}`;
  const rate = progress.points_per_second == null ? "–" : `${counted(progress.points_per_second)}/s`;
  const left = progress.eta_seconds == null ? "–" : span(progress.eta_seconds);
  const figures = { phase: found.phase + (found.is_paused ? ", paused" : ""), written: counted(progress.written), rate, left, failed: counted(progress.failed), worker: worker.state };
  at("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, value))));
  at("going").hidden = progress.total === 0;
  at("bar").value = progress.total === 0 ? 0 : progress.read / progress.total;
  const unit = ["backfilling", "filling"].includes(progress.stage) ? " points" : "";
  at("reading").textContent = `${progress.stage}: ${counted(progress.read)} of ${counted(progress.total)}${unit}`;
  listed("warnings", found.warnings);
  listed("trail", found.events.map((event) => `${event.at.slice(0, 19).replace("T", " ")} ${event.event}: ${event.text}`));
  showControls();
}

function showControls() {
  const toggle = at("toggle");
  const hadFocus = document.activeElement === toggle;
  at("controls").hidden = !canCall;
  toggle.hidden = status == null || !(status.is_filling || CONTROLLED.includes(status.phase)) || !(status.is_paused || isMoving());
  toggle.textContent = status?.is_paused ? "Resume" : "Pause";
  toggle.disabled = at("again").disabled = isAsking;
  at("controls").setAttribute("aria-busy", String(isAsking));
  if (hadFocus && toggle.hidden) at("again").focus();
}

/* One call at a time that a person asks for: the buttons wait for its answer, and say so, instead of dropping a click. */
async function ask(tool, given, words) {
  const pressed = document.activeElement;
  isAsking = true;
  at("problem").textContent = "";
  at("said").textContent = `${words} …`;
  showControls();
  const number = ++askedNumber;
  let isDone = false;
  try {
    showStatus(await call(tool, { migration_id: status.migration_id, ...given }), number);
    at("said").textContent = `${words}: done.`;
    isDone = true;
  } catch (error) {
    at("said").textContent = "";
    at("problem").textContent = error.message;
  }
  isAsking = false;
  showControls();
  if (pressed instanceof HTMLButtonElement) (pressed.hidden ? at("again") : pressed).focus();
  next();
  return isDone;
}

at("toggle").addEventListener("click", async () => {
  const action = status.is_paused ? "resume" : "pause";
  const isDone = await ask("control_backfill", { action }, action === "pause" ? "Pausing" : "Resuming");
  if (!isDone) return;
  // The model was not asked: without this it would go on believing what it was told last. Hosts that cannot say no, which changes nothing.
  const text = `In the dashboard the person chose to ${action} migration ${status.migration_id}: it is ${status.phase}, ${status.is_paused ? "paused" : "not paused"}.`;
  request("ui/update-model-context", { content: [{ type: "text", text }] }).catch(() => {});
});
at("again").addEventListener("click", () => ask("migration_status", {}, "Looking"));

async function look(migrationId) {
  if (!canCall || hasEnded || isLooking || isAsking) return;
  isLooking = true;
  const number = ++askedNumber;
  try {
    const found = await call("migration_status", { migration_id: migrationId });
    if (!isAsking) showStatus(found, number);
  } catch (error) {
    at("problem").textContent = error.message;
  }
  isLooking = false;
  next();
}

function next() {
  clearTimeout(timer);
  const isDue = !hasEnded && status != null && !CLOSED.includes(status.phase);
  if (isDue) timer = setTimeout(() => look(status.migration_id), isMoving() && !document.hidden ? MOVING_MS : RESTING_MS);
}

function end() {
  hasEnded = true;
  clearTimeout(timer);
}

// --- from the beginning

function take(answer) {
  const found = answer.structuredContent;
  const isShown = found != null && !answer.isError && found.migration_id !== "";
  at("waiting").hidden = isShown;
  if (!isShown) {
    at("waiting").textContent = found?.summary ?? (answer.content ?? []).map((part) => part.text ?? "").join("\n");
    return;
  }
  if (found.progress && found.worker) {
    showStatus(found, ++askedNumber);
    next();
  } else if (found.metrics) {
    showComparison(found);
    if (found.migration_id) look(found.migration_id);
  }
}

let lastHeight = 0;
new ResizeObserver(() => {
  const height = Math.ceil(document.documentElement.getBoundingClientRect().height);
  if (height === lastHeight) return;
  lastHeight = height;
  post({ method: "ui/notifications/size-changed", params: { width: document.documentElement.clientWidth, height } });
}).observe(document.documentElement);

request("ui/initialize", {
  protocolVersion: PROTOCOL,
  appInfo: { name: "qdrant-model-migration", version: "1" },
  appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
}).then(
  (found) => {
    canCall = found.hostCapabilities?.serverTools !== undefined;
    dress(found.hostContext ?? {});
    post({ method: "ui/notifications/initialized", params: {} });
  },
  (error) => {
    at("waiting").textContent = error.message;
  },
);
