// The curves of a cell, drawn by uPlot: the mean of each method with a band of one standard deviation, by epoch or wall time.

const figures = new Map(); // element that holds a figure: { figure, redraw, watch }
const CURVE_FONT = "14px system-ui, sans-serif";

/** Test accuracy per epoch in %, of a run whose curve is packed as differences of hundredths. */
function curveOf(run) {
  let sum = 0;
  return run.curve.map((step) => (sum += step) / 100);
}
/** {epochs, mean, low, high} per epoch over runs that finished. */
function meanCurve(runs) {
  const curves = runs.map(curveOf);
  const epochs = Array.from({ length: Math.min(...curves.map((curve) => curve.length)) }, (_, e) => e + 1);
  const means = epochs.map((_, e) => mean(curves.map((curve) => curve[e])));
  const std = epochs.map((_, e) => (curves.length < 2 ? 0
    : Math.sqrt(curves.reduce((sum, curve) => sum + (curve[e] - means[e]) ** 2, 0) / (curves.length - 1))));
  return { epochs, mean: means, std, low: means.map((value, e) => value - std[e]), high: means.map((value, e) => value + std[e]) };
}

/** A colour of the style sheet as "rgb(r, g, b)", which a canvas understands. */
function resolved(colour) {
  const probe = h("span", { hidden: "", style: `color: ${colour}` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

/** Draw the curves of some rows of one cell into `host`, in place of what it shows. options: {byTime, singleSeeds, height}. */
function drawCurves(host, readout, suite, rows, options) {
  removeFigure(host);
  const shown = rows.filter((row) => row.runs.length);
  readout.replaceChildren();
  host.replaceChildren(shown.length ? "" : h("p", { class: "notice" }, "There are no runs, so there are no curves yet."));
  if (!shown.length) return;
  const longest = Math.max(...shown.flatMap((row) => row.runs.map((run) => run.seconds)));
  const [unit, unitName] = longest > 7200 ? [3600, "hours"] : longest > 300 ? [60, "minutes"] : [1, "seconds"];
  const scale = (runs) => (options.byTime ? mean(runs.map((run) => run.seconds / run.epochs)) / unit : 1); // per epoch
  const [tables, series, bands, lines] = [[], [{}], [], []];
  for (const row of shown) {
    const style = methodStyle(suite, row.method);
    const stroke = resolved(style.colour);
    const finished = row.runs.filter((run) => !run.diverged);
    for (const run of options.singleSeeds || !finished.length ? row.runs : []) {
      const curve = curveOf(run);
      tables.push([curve.map((_, e) => (e + 1) * scale([run])), curve]);
      series.push({ stroke: faded(stroke, 0.5), width: 1, dash: run.diverged ? [4, 4] : style.dash });
    }
    if (!finished.length) continue;
    const curve = meanCurve(finished);
    const step = scale(finished);
    const first = series.length;
    tables.push([curve.epochs.map((epoch) => epoch * step), curve.mean, curve.low, curve.high]);
    series.push({ stroke, width: 2.5, dash: style.dash }, { stroke: "transparent" }, { stroke: "transparent" });
    bands.push({ series: [first + 2, first + 1], fill: faded(stroke, 0.16) });
    lines.push({ row, curve, step, stroke, seeds: finished.length });
  }
  for (const one of series) Object.assign(one, { spanGaps: true, points: { show: tables.every(([x]) => x.length === 1) } });

  /** Say the values at `x`, in units of the axis; null: after the last epoch. */
  const read = (x) => {
    const values = lines.map(({ row, curve, step, seeds }) => {
      const epoch = x === null ? curve.epochs.length : Math.round(x / step);
      if (epoch < 1 || epoch > curve.epochs.length) return null;
      const value = `${row.method} ${fixed(curve.mean[epoch - 1], 1)} %${seeds > 1 ? ` ± ${fixed(curve.std[epoch - 1], 1)}` : ""}`;
      return h("span", {}, dot(suite, row.method), value);
    });
    const place = x === null ? "last epoch" : options.byTime ? `after ${fixed(x, unit > 1 ? 1 : 0)} ${unitName}` : `epoch ${Math.round(x)}`;
    readout.replaceChildren(h("span", {}, `${place}:`), ...known(values));
  };
  const axis = { stroke: resolved("var(--muted)"), font: CURVE_FONT, labelFont: CURVE_FONT, labelSize: 22, labelGap: 0,
    grid: { stroke: resolved("var(--grid)"), width: 1 }, ticks: { stroke: resolved("var(--grid)"), width: 1 } };
  const xLabel = options.byTime ? `wall time (${unitName})` : "epoch";
  const ends = lines.map(({ row }) => `${row.method} ends at ${fixed(row.last_mean)} %`).join(", ");
  host.setAttribute("role", "img");
  host.setAttribute("aria-label", `Test accuracy by ${options.byTime ? "wall time" : "epoch"}. ${ends}.`);
  const size = () => ({ width: Math.max(host.clientWidth, 200), height: options.height });
  const figure = new uPlot({
    ...size(), series, bands,
    scales: { x: { time: false }, y: {} },
    legend: { show: false },
    cursor: { y: false, points: { show: false } },
    axes: [{ ...axis, label: xLabel, size: 34, incrs: options.byTime ? undefined : [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000] },
      { ...axis, label: "test accuracy (%)", size: 48 }],
    hooks: {
      draw: [(plot) => lines.forEach((line) => markReached(plot, line))],
      setCursor: [(plot) => read(plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)],
    },
  }, uPlot.join(tables), host);
  const watch = new ResizeObserver(() => {
    if (!host.isConnected) removeFigure(host);
    else if (figure.width !== size().width) figure.setSize(size());
  });
  watch.observe(host);
  figures.set(host, { figure, watch, redraw: () => drawCurves(host, readout, suite, rows, options) });
  read(null);
}
function removeFigure(host) {
  figures.get(host)?.watch.disconnect();
  figures.get(host)?.figure.destroy();
  figures.delete(host);
}

/** A circle where a method reaches the final accuracy of its baseline, with dashed lines to the axis and to the end. */
function markReached(plot, { row, step, stroke }) {
  if (row.method === BASELINE || row.epochs_to_reach_mean == null) return;
  const { ctx, bbox } = plot;
  const ratio = devicePixelRatio;
  const [x, y] = [plot.valToPos(row.epochs_to_reach_mean * step, "x", true), plot.valToPos(row.baseline.last_mean, "y", true)];
  const [bottom, right] = [bbox.top + bbox.height, bbox.left + bbox.width];
  if (x < bbox.left || x > right) return; // zoomed in elsewhere
  ctx.save();
  ctx.lineWidth = 1.5 * ratio;
  ctx.strokeStyle = resolved("var(--muted)");
  ctx.setLineDash([5 * ratio, 4 * ratio]);
  ctx.stroke(new Path2D(`M${x} ${bottom}L${x} ${y}L${right} ${y}`));
  ctx.setLineDash([]);
  ctx.strokeStyle = stroke;
  ctx.fillStyle = resolved("var(--surface)");
  const circle = new Path2D();
  circle.arc(x, y, 5.5 * ratio, 0, 7);
  ctx.fill(circle);
  ctx.stroke(circle);
  const before = x > bbox.left + bbox.width * 0.75; // the label stays inside the figure
  ctx.font = `600 ${14 * ratio}px system-ui, sans-serif`;
  ctx.fillStyle = resolved("var(--text)");
  ctx.textAlign = before ? "right" : "left";
  ctx.fillText(`epoch ${fixed(row.epochs_to_reach_mean, 1)}`, x + (before ? -8 : 8) * ratio, bottom - 8 * ratio);
  ctx.restore();
}
