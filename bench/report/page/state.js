// The data of all suites, and the view: what is shown. The address holds the view, so that a link restores it.

const BASELINE = "baseline";
const suites = JSON.parse(byId("data").textContent).map(readSuite);
const DEFAULTS = {
  suite: suites[0]?.name ?? "",
  sort: "", // the key of a column and a direction: "gain-desc"
  search: "", dataset: "", student: "", method: "", status: "",
  epoch: "last",
  cell: "", // the id of the row whose dialog is open
};
const view = { ...DEFAULTS };

const suiteNow = () => suites.find((suite) => suite.name === view.suite);
const cellName = (row) => `${row.model}/${row.dataset}`;
const accuracy = (row) => row?.[`${view.epoch}_mean`];
const accuracyStd = (row) => row?.[`${view.epoch}_std`];

/** The gain of a row over its baseline, in the epoch that the view asks for; null if there is none. */
function gainOf(row) {
  const of = (name) => row[view.epoch === "best" ? `best_gain_${name}` : `gain_${name}`];
  if (of("mean") == null) return null;
  const verdict = view.epoch === "best" ? row.best_verdict : row.verdict;
  return { mean: of("mean"), low: of("low"), high: of("high"), seeds: row.gain_seeds, verdict };
}

/** Rows as objects, from the columns and data of a frame. */
function objects({ columns, data }) {
  return data.map((values) => Object.fromEntries(columns.map((name, i) => [name, values[i]])));
}

/** A suite with each row (student, dataset, method) joined to its runs and to the row of its baseline. */
function readSuite(suite) {
  const runs = Map.groupBy(objects(suite.runs), (run) => run.id);
  const rows = objects(suite.rows);
  for (const row of rows) row.runs = runs.get(row.id) ?? [];
  const cells = Map.groupBy(rows, cellName);
  for (const row of rows) row.baseline = cells.get(cellName(row)).find((other) => other.method === BASELINE);
  const guided = suite.methods.filter((name) => name !== BASELINE);
  const compared = guided.length ? rows.filter((row) => row.method !== BASELINE) : rows;
  return { ...suite, rows, cells, guided, compared, images: objects(suite.images), published: objects(suite.published) };
}

const styles = getComputedStyle(document.documentElement);
let guidedColours = 0;
while (styles.getPropertyValue(`--method-${guidedColours + 1}`)) guidedColours++;

/** The colour of a method, and its dashes in figures: colours begin again after the last one, with other dashes. */
function methodStyle(suite, method) {
  const place = suite.guided.indexOf(method);
  if (place < 0) return { colour: "var(--method-0)", dash: [] };
  const dashes = [[], [9, 4], [3, 3]];
  const round = Math.floor(place / guidedColours);
  return { colour: `var(--method-${1 + (place % guidedColours)})`, dash: dashes[round % dashes.length] };
}
function dot(suite, method) {
  const style = `--colour: ${methodStyle(suite, method).colour}`;
  return h("span", { class: method === BASELINE ? "dot hollow" : "dot", style, "aria-hidden": "true" });
}

/** Take the view from the address. Returns false if the address names a place on the page, not a view. */
function readAddress() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return false;
  const given = new URLSearchParams(text);
  for (const name of Object.keys(DEFAULTS)) view[name] = given.get(name) || DEFAULTS[name];
  if (!suiteNow()) view.suite = DEFAULTS.suite;
  if (view.epoch !== "best") view.epoch = DEFAULTS.epoch;
  return true;
}
function address() {
  const changed = Object.entries(view).filter(([name, value]) => name === "suite" || value !== DEFAULTS[name]);
  return new URLSearchParams(changed).toString(); // never empty: an empty address scrolls to the top of the page
}

/** Change the view. A dialog that opens is a step in the browser's history, so that Back closes it. */
function go(changes) {
  const opens = changes.cell && !view.cell;
  Object.assign(view, changes);
  if (location.hash.slice(1) !== address()) {
    if (opens) location.hash = address();
    else location.replace(`#${address()}`);
  }
  showView();
}
