// What is drawn when, and the events of the page.

let shownSuite = null;

function showView() {
  const suite = suiteNow();
  if (!suite) return;
  if (suite !== shownSuite) showSuite(suite);
  showFilters();
  showTiles(suite);
  showMethods(suite, filteredRows(suite));
  showTable(suite);
  showCell(suite);
}

/** What of a suite does not depend on the rest of the view. */
function showSuite(suite) {
  shownSuite = suite;
  byId("suites").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", button.value === suite.name));
  fillFilters(suite);
  byId("protocol-note").textContent = suite.protocol_note;
  showCost(suite);
  const cells = [...suite.cells.values()];
  const few = cells.length <= 2 && suite.methods.length <= 4 && suite.rows.some((row) => row.runs.length);
  byId("overview").hidden = !few;
  byId("panels").replaceChildren(...(few ? cells.map(() => h("section", { class: "panel" })) : []));
  for (const [i, panel] of [...byId("panels").children].entries()) {
    const [host, readout] = [h("div", { class: "chart" }), h("p", { class: "readout" })];
    panel.append(h("h3", {}, `${cells[i][0].model} on ${cells[i][0].dataset}`), host, readout);
    drawCurves(host, readout, suite, cells[i], { height: 320 });
  }
  const published = "Published numbers are of the best epoch; a difference is our best epoch minus that. They are shown only for runs of the published recipe.";
  byId("notes").replaceChildren(...[suite.protocol_note, ...suite.notes, published].map((text) => h("li", {}, text)),
    suite.deviations.length ? h("li", {}, "Deviations from the released code:", h("ul", { class: "plain" }, suite.deviations.map((text) => h("li", {}, text)))) : "");
  const files = ["table.md", "table.csv", "table.tex", "records.jsonl"];
  byId("files").replaceChildren("Files of this suite: ", ...files.flatMap((name, i) => [i ? " · " : "", h("a", { href: `./${encodeURIComponent(suite.name)}/${name}` }, name)]));
}

function showCost(suite) {
  const runs = suite.rows.flatMap((row) => row.runs);
  const seconds = runs.reduce((sum, run) => sum + run.seconds, 0);
  const hours = Object.entries(suite.hours).map(([unit, value]) => `${fixed(value, 0)} ${unit}`).join(" and ");
  const machines = [...new Set(runs.map((run) => run.machine))].sort().join("; ");
  byId("again-text").textContent = `These ${plural(runs.length, "run")} took ${seconds < 7200 ? `${duration(seconds)} one after the other` : hours}, on ${machines}.`;
  byId("again-command").replaceChildren(commandLine(`./run_all.sh ${suite.name}`, "run this suite"));
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
function showTheme() {
  byId("theme").textContent = isDark() ? "Light theme" : "Dark theme";
  for (const { redraw } of [...figures.values()]) redraw();
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
byId("filters").addEventListener("input", (event) => go({ [event.target.name]: event.target.value }));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => { clearFilters(); byId("filters").elements.search.focus(); });
addEventListener("hashchange", () => { if (location.hash.slice(1) !== address() && readAddress()) showView(); });
if (suites.length > 1) {
  byId("suites").append(...suites.map(({ name }) =>
    h("button", { type: "button", value: name, click: () => go({ ...DEFAULTS, epoch: view.epoch, suite: name }) }, name)));
}
byId("empty").hidden = suites.length > 0;
byId("suite").hidden = byId("again-heading").parentElement.hidden = !suites.length;
showTheme();
readAddress();
showView();
