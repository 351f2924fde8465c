// The curves of a cell, drawn by uPlot: the mean of each method with a band of one standard deviation to each side.

const curveData = JSON.parse(byId("data").textContent); // {suite: {cell: [method]}}, see `_figure` in __init__.py
const figures = new Map(); // element that holds a figure: {figure, watch, redraw}
const FONT = "14px system-ui, sans-serif";
const EPOCH_STEPS = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000];

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
function std(values) {
  const middle = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / Math.max(values.length - 1, 1));
}

/** Accuracy per epoch in %, from the differences of hundredths that the page holds; null: not evaluated. */
function curveOf(run) {
  let sum = 0;
  return run.curve.map((step) => (step === null ? null : (sum += step) / 100));
}
/** The index of the last value that is not null, up to e; -1: there is none. */
const lastBefore = (values, e) => values.findLastIndex((value, i) => i <= e && value !== null);
const ofNumbers = (reduce) => (values) => (values.includes(null) ? null : reduce(values));

/** A colour of the style sheet as "rgb(r, g, b)", which a canvas understands. */
function resolved(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

/** What is drawn of each method: its single runs if wanted or if none finished, then the mean over those that finished.
 *
 * Returns {tables, series, bands} as uPlot takes them, and lines: one {method, step, stroke, mean, std} per mean, where step
 * is the length of an epoch on the x axis.
 */
function linesOf(methods, lengthOfEpoch, singleSeeds) {
  const out = { tables: [], series: [{}], bands: [], lines: [] };
  for (const method of methods) {
    const stroke = resolved(`method-${method.colour}`);
    const dash = method.dash ?? [];
    const finished = method.runs.filter((run) => !run.diverged);
    for (const run of singleSeeds || !finished.length ? method.runs : []) {
      const curve = curveOf(run);
      out.tables.push([curve.map((_, e) => (e + 1) * lengthOfEpoch([run])), curve]);
      out.series.push({ stroke: faded(stroke, 0.5), width: 1, dash: run.diverged ? [4, 4] : dash });
    }
    if (!finished.length) continue;
    const curves = finished.map(curveOf);
    const epochs = curves[0].slice(0, Math.min(...curves.map((curve) => curve.length)));
    const step = lengthOfEpoch(finished);
    const columns = epochs.map((_, e) => curves.map((curve) => curve[e])); // the values of all seeds, per epoch
    const line = { method, step, stroke, mean: columns.map(ofNumbers(mean)), std: columns.map(ofNumbers(std)) };
    const [low, high] = [-1, 1].map((sign) => line.mean.map((value, e) => (value === null ? null : value + sign * line.std[e])));
    out.tables.push([epochs.map((_, e) => (e + 1) * step), line.mean, low, high]);
    out.bands.push({ series: [out.series.length + 2, out.series.length + 1], fill: faded(stroke, 0.16) });
    out.series.push({ stroke, width: 2.5, dash }, { stroke: "transparent" }, { stroke: "transparent" });
    out.lines.push(line);
  }
  const points = { show: out.tables.every(([x]) => x.length === 1) };
  out.series.forEach((one) => Object.assign(one, { spanGaps: true, points }));
  return out;
}

/** Draw the curves of a cell into the `.chart` of an element, and their values into its `.readout`.
 *
 * options: methods, a Set of names, or nothing for all; looks: colours of those that have none, see `giveLooks`; byTime: by wall time, not epochs; singleSeeds; height in px.
 */
function drawCurves(element, suite, cell, options) {
  const [host, readout] = [".chart", ".readout"].map((kind) => element.querySelector(kind));
  removeFigure(host);
  const all = curveData[suite][cell];
  const methods = all.filter(({ method, runs }) => runs.length && (options.methods?.has(method) ?? true))
    .map((method) => ({ ...method, ...options.looks?.get(method.method) }));
  const longest = Math.max(...methods.flatMap(({ runs }) => runs.map((run) => run.seconds)));
  const [unit, unitName] = longest > 7200 ? [3600, "hours"] : longest > 300 ? [60, "minutes"] : [1, "seconds"];
  const lengthOfEpoch = (runs) => (options.byTime ? mean(runs.map((run) => run.seconds / run.epochs)) / unit : 1);
  const { tables, series, bands, lines } = linesOf(methods, lengthOfEpoch, options.singleSeeds);
  const target = all.find(({ reference }) => reference)?.last_mean;

  /** Show the values at x, in units of the axis; null: those of the last epoch. */
  const read = (x) => {
    let place = "last epoch";
    if (x !== null) place = options.byTime ? `after ${x.toFixed(unit > 1 ? 1 : 0)} ${unitName}` : `epoch ${Math.round(x)}`;
    const values = lines.map((line) => {
      const at = x === null ? line.mean.length - 1 : Math.round(x / line.step) - 1;
      const e = at < line.mean.length ? lastBefore(line.mean, at) : at;
      const text = document.createElement("span");
      text.style.setProperty("--colour", `var(--method-${line.method.colour})`);
      const spread = line.std[e] ? ` ± ${line.std[e].toFixed(1)}` : "";
      text.textContent = `${line.method.method} ${e in line.mean ? `${line.mean[e].toFixed(1)} %${spread}` : "—"}`;
      return text;
    });
    readout.replaceChildren(...(lines.length ? [`${place}:`, ...values] : ["No method is selected."]));
  };
  const axis = { stroke: resolved("muted"), font: FONT, labelFont: FONT, labelSize: 22, labelGap: 0 };
  axis.grid = axis.ticks = { stroke: resolved("grid"), width: 1 };
  const label = options.byTime ? `wall time (${unitName})` : "epoch";
  const ends = lines.map(({ method }) => `${method.method} ends at ${method.last_mean.toFixed(2)} %`).join(", ");
  host.ariaLabel = `Accuracy by ${label}. ${ends}.`;
  const size = () => ({ width: Math.max(host.clientWidth, 200), height: options.height });
  const figure = new uPlot({
    ...size(),
    series,
    bands,
    scales: { x: { time: false }, y: {} },
    legend: { show: false },
    cursor: { y: false, points: { show: false } },
    axes: [
      { ...axis, label, size: 34, incrs: options.byTime ? undefined : EPOCH_STEPS },
      { ...axis, label: "accuracy (%)", size: 48 },
    ],
    hooks: {
      draw: [(plot) => lines.forEach((line) => { markReached(plot, line, target, lines.length <= 2); markStops(plot, line); })],
      setCursor: [(plot) => read(plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)],
    },
  }, tables.length ? uPlot.join(tables) : [[]], host);
  const watch = new ResizeObserver(() => {
    if (!host.isConnected) removeFigure(host);
    else if (figure.width !== size().width) figure.setSize(size());
  });
  watch.observe(host);
  figures.set(host, { figure, watch, redraw: () => drawCurves(element, suite, cell, options) });
  read(null);
}

function removeFigure(host) {
  figures.get(host)?.watch.disconnect();
  figures.get(host)?.figure.destroy();
  figures.delete(host);
}

/** A tick on the mean where the guidance of a seed ended by itself. */
function markStops(plot, { method, step, stroke, mean: values }) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.strokeStyle = stroke;
  for (const { stop } of method.runs) {
    const [x, y] = [plot.valToPos(stop * step, "x", true), plot.valToPos(values[lastBefore(values, stop - 1)], "y", true)];
    if (stop && x >= bbox.left && x <= bbox.left + bbox.width) {
      ctx.stroke(new Path2D(`M${x} ${y - 9 * devicePixelRatio}V${y + 9 * devicePixelRatio}`));
    }
  }
  ctx.restore();
}

/** A circle where a method reaches `target`, the reference's final accuracy, with dashed lines to the axis and to the end.
 *
 * named: whether there is room for the epoch.
 */
function markReached(plot, { method, step, stroke }, target, named) {
  const epoch = method.epochs_to_reach_mean;
  if (method.reference || epoch === null) return;
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const [x, y] = [plot.valToPos(epoch * step, "x", true), plot.valToPos(target, "y", true)];
  const [bottom, right] = [bbox.top + bbox.height, bbox.left + bbox.width];
  if (x < bbox.left || x > right) return; // the figure shows another part, enlarged
  ctx.save();
  ctx.lineWidth = 1.5 * ratio;
  ctx.strokeStyle = resolved("muted");
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  ctx.stroke(new Path2D(`M${x} ${bottom}L${x} ${y}L${right} ${y}`));
  const circle = new Path2D();
  circle.arc(x, y, 5.5 * ratio, 0, 7);
  ctx.setLineDash([]);
  ctx.strokeStyle = stroke;
  ctx.fillStyle = resolved("surface");
  ctx.fill(circle);
  ctx.stroke(circle);
  const nearEnd = x > bbox.left + bbox.width * 0.75; // the label goes to the other side
  ctx.font = `600 ${14 * ratio}px system-ui, sans-serif`;
  ctx.fillStyle = resolved("text");
  ctx.textAlign = nearEnd ? "right" : "left";
  if (named) ctx.fillText(`epoch ${epoch.toFixed(1)}`, x + (nearEnd ? -8 : 8) * ratio, bottom - 8 * ratio);
  ctx.restore();
}
