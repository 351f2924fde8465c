// The filters: a form whose fields have the names of the view, and the rows that they leave.

const STATUSES = { complete: "complete", incomplete: "incomplete", "not run": "not run", diverged: "with diverged seeds" };

/** The choices of a suite in the form. */
function fillFilters(suite) {
  const fill = (name, all, options) => {
    const entries = Array.isArray(options) ? options.map((option) => [option, option]) : Object.entries(options);
    const elements = [["", all], ...entries].map(([value, text]) => h("option", { value }, text));
    byId("filters").elements[name].replaceChildren(...elements);
  };
  fill("dataset", "all datasets", suite.datasets);
  fill("student", "all students", suite.models);
  fill("method", "all methods", suite.guided);
  fill("status", "any status", STATUSES);
  byId("method-field").hidden = suite.guided.length < 2;
}

/** Bring the form in line with the view. */
function showFilters() {
  const { elements } = byId("filters");
  for (const name of ["search", "dataset", "student", "method", "status", "epoch"]) {
    if (elements[name].value !== view[name]) elements[name].value = view[name];
  }
  byId("epoch-note").textContent =
    view.epoch === "last" ? "The headline: nothing is chosen on the test set."
      : "Chosen on the test set, so it is too high; published numbers are of this kind.";
}

/** The rows of a suite that pass all filters, in the suite's order. */
function filteredRows(suite) {
  const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
  return suite.compared.filter((row) => {
    const pair = [row.baseline, row].filter(Boolean);
    const text = [row.model, row.dataset, row.method, row.status, row.verdict].join(" ").toLowerCase();
    return (!view.dataset || row.dataset === view.dataset)
      && (!view.student || row.model === view.student)
      && (!view.method || row.method === view.method)
      && (!view.status || pair.some((one) => one.status === view.status || (view.status === "diverged" && one.diverged_seeds)))
      && words.every((word) => text.includes(word));
  });
}
const clearFilters = () => go({ search: "", dataset: "", student: "", method: "", status: "" });
