// The table of results: one row per student and method, grouped by dataset. A click on a column sorts within each dataset.

const VERDICT_SIGNS = { better: "▲", worse: "▼", unclear: "≈", "too few seeds": "·" };

/** The common axis of all gains of a suite: round ends, zero inside. */
function gainAxis(suite) {
  const gains = known(suite.compared.map(gainOf));
  const values = gains.flatMap((gain) => known([gain.mean, gain.low, gain.high])).concat(0);
  const range = Math.max(...values) - Math.min(...values) || 1;
  const power = 10 ** Math.floor(Math.log10(range / 3));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => range / size <= 4);
  const low = Math.floor(Math.min(...values) / step) * step;
  const high = Math.ceil(Math.max(...values) / step) * step;
  const ticks = Array.from({ length: Math.round((high - low) / step) + 1 }, (_, i) => low + i * step);
  return { low, high, ticks, digits: Math.max(0, -Math.floor(Math.log10(step))), at: (value) => (100 * (value - low)) / (high - low) };
}
const axisTicks = (axis) => h("div", { class: "axis", "aria-hidden": "true" }, axis.ticks.map((tick) =>
  h("span", { style: `left: ${axis.at(tick)}%` }, tick ? signed(tick, axis.digits) : "0")));
const zeroLine = (axis) => h("i", { class: "zero", style: `left: ${axis.at(0)}%` });
const mark = (axis, value, kind, colour = "var(--hairline)") =>
  h("i", { class: kind, style: `left: ${axis.at(value)}%; --colour: ${colour}` });

/** The gain of a row on the axis: a dot with its confidence interval, open unless the interval excludes zero. */
function gainPlot(suite, row, axis) {
  const gain = gainOf(row);
  if (!gain) return h("div", { class: "plot" }, zeroLine(axis));
  const { colour } = methodStyle(suite, row.method);
  const clear = gain.low == null ? false : gain.low > 0 || gain.high < 0;
  const width = gain.low == null ? 0 : axis.at(gain.high) - axis.at(gain.low);
  return h("div", { class: "plot", "aria-hidden": "true" }, zeroLine(axis),
    gain.low == null ? null : h("i", { class: "interval", style: `left: ${axis.at(gain.low)}%; width: ${width}%; --colour: ${colour}` }),
    mark(axis, gain.mean, clear ? "dot" : "dot hollow", colour));
}

// What stands in the cells of a row.

function drawAccuracy(row) {
  if (accuracy(row) == null) return none(row?.status ?? "—");
  return [h("b", {}, fixed(accuracy(row))), accuracyStd(row) == null ? null : small(`± ${fixed(accuracyStd(row))}`),
    row.diverged_seeds ? small(`${row.diverged_seeds} diverged`) : null];
}
function drawGain(row) {
  const gain = gainOf(row);
  if (!gain) return "—";
  const verdict = gain.verdict ? h("small", { class: `verdict ${gain.verdict}` }, h("span", { "aria-hidden": "true" }, VERDICT_SIGNS[gain.verdict], " "), gain.verdict) : null;
  return [h("b", {}, signed(gain.mean)), gain.low == null ? null : small(`${signed(gain.low)} to ${signed(gain.high)}`), verdict];
}
function drawSpeedup(row) {
  if (row.speedup_epochs != null) return [h("b", {}, times(row.speedup_epochs)), small(`${fixed(row.epochs_to_reach_mean, 1)} epochs`), row.speedup_seconds == null ? null : small(`${times(row.speedup_seconds)} in time`)];
  if (!row.gain_seeds) return "—";
  return none(row.reached_seeds ? `reached by ${row.reached_seeds} of ${plural(row.gain_seeds, "seed")}` : "not reached");
}
/** The columns of a suite. value: what rows are sorted by, null if there is none; draw: the content of a cell. */
function columns(suite) {
  const compares = suite.guided.length > 0 && suite.methods.includes(BASELINE);
  const single = suite.guided.length < 2;
  const axis = gainAxis(suite);
  const pair = (row, text) => (single && compares ? [row.baseline, row] : [row]).map((one) =>
    orDash(text(one), (value) => h("div", {}, single && compares ? [dot(suite, one.method), hidden(`${one.method}: `), " "] : null, value)));
  const out = [{ key: "student", label: "Student", kind: "text", value: (row) => row.model }];
  if (!single) out.push({ key: "method", label: "Method", kind: "text", value: (row) => row.method, draw: (row) => [dot(suite, row.method), " ", row.method] });
  if (compares) out.push({ key: "baseline", label: "Baseline", value: (row) => accuracy(row.baseline), draw: (row) => drawAccuracy(row.baseline) });
  out.push({ key: "accuracy", label: single ? suite.compared[0].method : "Accuracy", value: accuracy, draw: drawAccuracy });
  if (compares) {
    out.push({ key: "gain", label: "Gain", title: "Over the baseline with the same seed, in points", value: (row) => gainOf(row)?.mean, draw: drawGain });
    out.push({ label: axisTicks(axis), kind: "wide", draw: (row) => gainPlot(suite, row, axis) });
    out.push({ key: "speedup", label: "Speed-up", title: "The baseline's epochs until its own final accuracy, divided by the method's epochs until the same accuracy", value: (row) => row.speedup_epochs, draw: drawSpeedup });
  }
  out.push({ key: "seeds", label: "Seeds", title: "Number of seeds that finished", value: (row) => row.seeds, draw: (row) => pair(row, (one) => one.seeds) });
  if (suite.rows.some((row) => row.published_value != null)) {
    out.push({ key: "published", label: "Published", title: "Best epoch in per cent, and our best epoch minus that", value: (row) => row.published_difference,
      draw: (row) => pair(row, (one) => orDash(one.published_value, (value) => [fixed(value), one.published_mark, one.published_difference == null ? "" : ` (${signed(one.published_difference)})`])) });
  }
  out.push({ key: "parameters", label: "Parameters", value: (row) => row.parameters, draw: (row) => orDash(row.parameters, millions) });
  out.push({ key: "time", label: "Time per run", value: (row) => row.seconds_mean, draw: (row) => pair(row, (one) => orDash(one.seconds_mean, duration)) });
  return out;
}

function sorting() {
  const cut = view.sort.lastIndexOf("-");
  return cut < 0 ? ["", ""] : [view.sort.slice(0, cut), view.sort.slice(cut + 1)];
}
/** The first click on a column sorts numbers from the largest and names from a; the second reverses; the third ends it. */
function sortBy({ key, kind }) {
  const [now, direction] = sorting();
  const [first, second] = kind === "text" ? ["asc", "desc"] : ["desc", "asc"];
  const next = now !== key ? first : direction === first ? second : "";
  go({ sort: next && `${key}-${next}` });
}
function sorted(rows, column) {
  if (!column) return rows;
  const sign = sorting()[1] === "asc" ? 1 : -1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  return rows.map((row) => [column.value(row) ?? null, row]).sort(([a], [b]) =>
    (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b))).map(([, row]) => row); // missing: last
}

/** The rows as the table shows them. */
function shownRows(suite) {
  const column = columns(suite).find(({ key }) => key && key === sorting()[0]);
  const groups = Map.groupBy(filteredRows(suite), (row) => row.dataset);
  return suite.datasets.flatMap((dataset) => sorted(groups.get(dataset) ?? [], column));
}

function showTable(suite) {
  const drawn = columns(suite);
  const [key, direction] = sorting();
  const rows = shownRows(suite);
  const order = { asc: "ascending", desc: "descending" };
  const focused = document.activeElement?.closest?.("#head th")?.dataset.key;
  byId("head").replaceChildren(h("tr", {}, drawn.map((column) =>
    h("th", { scope: "col", class: column.kind, title: column.title, "data-key": column.key, "aria-sort": column.key === key ? order[direction] : null },
      column.key ? h("button", { type: "button", click: () => sortBy(column) }, column.label) : column.label))));
  if (focused) byId("head").querySelector(`th[data-key="${focused}"] button`)?.focus();
  const line = (row, i, all) => h("tr", { "data-id": row.id, click: (event) => { if (!event.target.closest("button") && getSelection().isCollapsed) go({ cell: row.id }); } },
    h("th", { scope: "row", class: all[i - 1]?.model === row.model ? "repeated" : null },
      h("button", { type: "button", class: "link", "aria-haspopup": "dialog", click: () => go({ cell: row.id }) }, row.model, hidden(` on ${row.dataset}, ${row.method}`))),
    drawn.slice(1).map((column) => h("td", { class: column.kind }, column.draw(row))));
  const group = ([dataset, own]) => h("tbody", {}, h("tr", { class: "group" }, h("th", { colspan: drawn.length, scope: "rowgroup" }, h("span", {}, dataset))), own.map(line));
  const bodies = [...Map.groupBy(rows, (row) => row.dataset)].map(group);
  const empty = h("tbody", {}, h("tr", {}, h("td", { colspan: drawn.length, class: "text" }, "No row passes the filters. ", h("button", { type: "button", click: clearFilters }, "Show all"))));
  const table = byId("head").parentElement;
  table.querySelectorAll("tbody").forEach((body) => body.remove());
  table.append(...(bodies.length ? bodies : [empty]));
  byId("count").textContent = `${rows.length} of ${plural(suite.compared.length, "row")}`;
}
