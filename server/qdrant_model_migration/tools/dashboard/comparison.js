/* The comparison: figures, intervals and results side by side. Uses the parts of the page that script.js makes. */

function showComparison(found) {
  at("comparison").hidden = false;
  at("comparison-summary").textContent = found.summary;
  const isOver = found.state !== "running" && found.metrics.length > 0;
  for (const id of ["sides", "differences", "metrics"]) at(id).hidden = !isOver;
  const candidates = found.candidates_table ?? [];
  at("candidates").hidden = !isOver || candidates.length === 0;
  at("changed").hidden = !isOver || found.most_changed.length === 0;
  listed("notes", isOver ? found.warnings : []);
  if (!isOver) return;
  const base = found.metrics.filter((m) => m.model === found.baseline);
  const models = [...new Set([found.baseline, ...found.metrics.map((m) => m.model)])];
  at("sides").replaceChildren(...models.map((model) => side(found, model)));
  const differing = found.metrics.filter((m) => m.difference != null && m.ci_low != null);
  at("differences").replaceChildren(...(differing.length ? [forest(differing, found.margin, models.length > 2)] : []));
  const rows = found.metrics.filter((m) => m.model !== found.baseline).map((m) => row(m, base, models.length > 2));
  at("metrics").replaceChildren(table("Metrics in numbers", ["metric", "old", "new", "difference", "95 % interval"], rows));
  const costs = ["model", found.primary_metric, "difference", "95 % interval", "documents/s", "USD per million", "bytes a point"];
  at("candidates").replaceChildren(table("Candidates: quality and cost", costs, candidates.map(candidate)));
  at("queries").replaceChildren(...found.most_changed.map((one) => query(one, found.primary_metric)));
}

function side(found, model) {
  const metric = found.metrics.find((m) => m.model === model && m.metric === found.primary_metric);
  const latency = found.latency_ms.find((l) => l.model === model);
  const kind = model === found.baseline ? "old" : found.verdicts[model] ?? found.verdict ?? "new";
  const look = { better: "up", worse: "down" }[kind] ?? "";
  return made(
    "div",
    { class: "side" },
    made("strong", {}, model),
    ...(metric ? [made("b", {}, metric.value.toFixed(3)), ` ${found.primary_metric} `] : []),
    made("span", { class: look }, kind),
    ...(latency ? [made("div", { class: "quiet" }, `search ${latency.p50.toFixed(1)} ms, p95 ${latency.p95.toFixed(1)} ms`)] : []),
  );
}

function table(caption, columns, rows) {
  const head = columns.map((name, place) => made("th", { scope: "col", ...(place ? { class: "n" } : {}) }, name));
  return made("table", {}, made("caption", {}, caption), made("thead", {}, made("tr", {}, ...head)), made("tbody", {}, ...rows));
}

const cells = (name, values) => made("tr", {}, made("td", {}, name), ...values.map((value) => made("td", { class: "n" }, value)));
const change = (of) => (of.difference == null ? "" : signed(of.difference));
/* Of the difference, where there is one; else of the value. */
const interval = (of) => (of.ci_low == null ? "" : of.difference == null ? `${of.ci_low.toFixed(3)} to ${of.ci_high.toFixed(3)}` : `${signed(of.ci_low)} to ${signed(of.ci_high)}`);

function row(m, base, isNamed) {
  const before = base.find((b) => b.metric === m.metric);
  return cells(isNamed ? `${m.metric} ${m.model}` : m.metric, [before ? before.value.toFixed(3) : "", m.value.toFixed(3), change(m), interval(m)]);
}

/* What was not measured or is not known stays empty: nothing is said to be free. */
function candidate(one) {
  const known = (value, digits = 0) => (value == null ? "" : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  const costs = [known(one.documents_per_second), known(one.usd_per_million_points, 2), known(one.bytes_per_point)];
  return cells(one.model, [known(one.value, 3), change(one), interval(one), ...costs]);
}

/* Each difference with its interval, against zero and the margin. */
function forest(metrics, margin, isNamed) {
  const low = Math.min(0, -margin, ...metrics.map((m) => m.ci_low));
  const high = Math.max(0, margin, ...metrics.map((m) => m.ci_high));
  const room = (high - low || 1) * 0.06;
  const x = (value) => (12 + ((value - low + room) / (high - low + 2 * room)) * 316).toFixed(2);
  const bottom = 8 + 42 * metrics.length;
  const effects = metrics.map((m, place) => {
    const y = 38 + 42 * place;
    const kind = m.ci_low > 0 ? "up" : m.ci_high < 0 ? "down" : "open";
    return made(
      "g",
      { class: kind },
      made("text", { x: 12, y: y - 14 }, (isNamed ? `${m.metric} ${m.model}` : m.metric).slice(0, 28)),
      made("text", { x: 328, y: y - 14, "text-anchor": "end" }, signed(m.difference)),
      made("line", { x1: x(m.ci_low), x2: x(m.ci_high), y1: y, y2: y }),
      made("circle", { cx: x(m.difference), cy: y, r: 4.5 }),
    );
  });
  const said = metrics.map((m) => `${m.metric} ${signed(m.difference)}, interval ${signed(m.ci_low)} to ${signed(m.ci_high)}`).join("; ");
  return made(
    "svg",
    { viewBox: `0 0 340 ${bottom + 20}`, role: "img", "aria-labelledby": "forest-title forest-desc" },
    made("title", { id: "forest-title" }, "Differences to the old model"),
    made("desc", { id: "forest-desc" }, `Within ${margin} of zero a difference does not matter. ${said}.`),
    made("rect", { class: "band", x: x(-margin), y: 4, width: Math.max(0.5, x(margin) - x(-margin)), height: bottom - 4 }),
    made("line", { class: "zero", x1: x(0), x2: x(0), y1: 4, y2: bottom }),
    ...effects,
    made("text", { class: "tick", x: x(0), y: bottom + 14, "text-anchor": "middle" }, "0"),
  );
}

function query(one, metric) {
  const change = one.difference == null ? "" : `${metric} ${signed(one.difference)}, `;
  const hits = (name, list) =>
    made("div", { class: "side" }, made("strong", {}, name), made("ol", {}, ...list.map((hit) => made("li", {}, `${hit.point_id}${hit.is_relevant ? " (relevant)" : ""}: ${bare(hit.text)}`))));
  return made(
    "div",
    { class: "query" },
    made("strong", {}, bare(one.query)),
    made("div", { class: "quiet" }, `${change}${Math.round(one.overlap * 100)} % of the results in common`),
    made("div", { class: "sides" }, hits("old", one.baseline), hits("new", one.candidate)),
  );
}
