// What a suite shows in total: the tiles of the whole suite, and the mean gain of each method over the filtered rows.

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : mean(sorted.slice(middle - 1, middle + 1));
}
const known = (values) => values.filter((value) => value != null);

/** "better in 3, unclear in 1" of some gains. */
function verdictCounts(gains) {
  const counts = ["better", "worse", "unclear", "too few seeds"].map((verdict) =>
    [verdict, gains.filter((gain) => gain.verdict === verdict).length]);
  return counts.filter(([, count]) => count).map(([verdict, count]) => `${verdict} in ${count}`).join(", ");
}
/** The confidence interval of a gain and its verdict, in words. */
function intervalInWords(gain) {
  const seeds = plural(gain.seeds, "seed");
  if (gain.low == null) return gain.verdict === "too few seeds" ? `${seeds}: too few seeds to say` : seeds;
  return `95 % interval ${signed(gain.low)} to ${signed(gain.high)} over ${seeds}: ${gain.verdict}`;
}

function showTiles(suite) {
  const cells = [...suite.cells.values()];
  const complete = cells.filter((rows) => rows.every((row) => row.status === "complete")).length;
  const runs = suite.rows.flatMap((row) => row.runs);
  const diverged = runs.filter((run) => run.diverged).length;
  const tile = (figure, unit, name, ...notes) => h("div", { class: "tile" }, h("div", { class: "figure" }, figure, " ", small(unit)),
    h("div", { class: "name" }, name), notes.filter(Boolean).map((text) => h("p", {}, text)));
  const tiles = [tile(complete, `of ${plural(cells.length, "cell")}`, "complete",
    "A cell is a student on a dataset.",
    `${plural(runs.length, "run")}, ${diverged ? `${diverged} diverged` : "none diverged"}`)];
  const [method] = suite.guided;
  if (suite.guided.length > 1) {
    const [methods, students, datasets] = [suite.methods, suite.models, suite.datasets].map((names) => names.length);
    tiles.push(tile(methods, "methods", `${plural(students, "student")} on ${plural(datasets, "dataset")}`, "The mean gain of each method is below."));
  } else if (method) {
    const gains = known(suite.compared.map(gainOf));
    if (gains.length === 1) tiles.push(tile(signed(gains[0].mean), "points", `gain of ${method}`, `over the baseline, ${view.epoch} epoch`, intervalInWords(gains[0])));
    else if (gains.length) tiles.push(tile(signed(mean(gains.map((gain) => gain.mean))), "points", `mean gain of ${method}`, `over the baseline, ${view.epoch} epoch, ${gains.length} cells`, verdictCounts(gains)));
    const column = (name) => known(suite.compared.map((row) => row[name]));
    const [epochs, seconds, withTeacher] = ["speedup_epochs", "speedup_seconds", "speedup_seconds_with_teacher"].map(column);
    if (epochs.length) {
      const of = gains.length > 1 ? `, by all seeds in ${epochs.length} of ${gains.length} cells` : "";
      tiles.push(tile(times(median(epochs)), "faster", `${gains.length > 1 ? "median " : ""}speed-up of ${method}`,
        `in epochs, until the baseline’s final accuracy is reached${of}`,
        seconds.length && `${times(median(seconds))} in wall time${withTeacher.length ? `, ${times(median(withTeacher))} with the teacher’s training` : ""}`));
    }
  }
  byId("tiles").replaceChildren(...tiles);
}

/** One row per method, the largest mean gain first: a small mark per cell, a large one for the mean. */
function showMethods(suite, rows) {
  byId("methods").hidden = suite.guided.length < 2;
  if (suite.guided.length < 2) return;
  const axis = gainAxis(suite);
  const lines = suite.guided.map((method) => {
    const own = rows.filter((row) => row.method === method);
    const gains = known(own.map(gainOf));
    const speedups = known(own.map((row) => row.speedup_epochs));
    return { method, gains, speedups, mean: gains.length ? mean(gains.map((gain) => gain.mean)) : null };
  }).filter((line) => line.gains.length).sort((a, b) => b.mean - a.mean);
  const button = (method) => h("button", { type: "button", class: "link", click: () => go({ method: method === view.method ? "" : method }) }, dot(suite, method), " ", method);
  byId("methods-table").replaceChildren(dataTable("Mean gain of each method",
    ["Method", "Gain, points", axisTicks(axis), "Cells", "Verdicts", "Speed-up"],
    lines.map(({ method, gains, speedups, mean: value }) => [button(method), h("b", {}, signed(value)),
      h("div", { class: "plot" }, zeroLine(axis), gains.map((gain) => mark(axis, gain.mean, "cell")), mark(axis, value, "dot", methodStyle(suite, method).colour)),
      gains.length, verdictCounts(gains), speedups.length ? [times(median(speedups)), small(`median of ${plural(speedups.length, "cell")}`)] : "—"]), "methods"));
}
