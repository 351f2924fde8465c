// The table of a suite: its rows are sorted within each dataset, and filtered.

const FILTERS = ["search", "dataset", "student", "variant", "method", "status"];

/** The column that sorts, and the direction: "asc", "desc", or "" for none. */
function sorting() {
  const cut = view.sort.lastIndexOf("-");
  return cut < 0 ? ["", ""] : [view.sort.slice(0, cut), view.sort.slice(cut + 1)];
}

/** The first click sorts numbers from the largest and names from a; the second reverses that; the third ends it. */
function sortBy(header) {
  const { key } = header.dataset;
  const [column, direction] = sorting();
  const [first, second] = header.classList.contains("text") ? ["asc", "desc"] : ["desc", "asc"];
  const next = column !== key ? first : direction === first ? second : "";
  go({ sort: next && `${key}-${next}` });
}

/** The rows in the order of a column; without one, in the order of the suite. Rows without a value are last. */
function inOrder(rows, header) {
  if (!header) return rows.sort((a, b) => a.dataset.place - b.dataset.place);
  const sign = sorting()[1] === "asc" ? 1 : -1;
  const valueOf = (row) => row.cells[header.cellIndex].dataset.value;
  const byName = new Intl.Collator("en", { numeric: true }).compare;
  const compare = header.classList.contains("text") ? byName : (a, b) => a - b;
  return rows.sort((a, b) => {
    const [left, right] = [valueOf(a), valueOf(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
    return sign * compare(left, right);
  });
}

/** Whether a row passes all filters of the view. */
function passes({ dataset }) {
  const text = ["student", "dataset", "variant", "method", "status", "verdict"].map((name) => dataset[name]).join(" ").toLowerCase();
  const words = view.search.toLowerCase().split(/\s+/);
  return words.every((word) => text.includes(word))
    && (!view.status || dataset.status.split(",").includes(view.status))
    && ["dataset", "student", "variant", "method"].every((name) => !view[name] || dataset[name] === view[name]);
}

const rowsOf = (section) => [...section.querySelectorAll(".results tr[data-id]")];
const shownRows = (section) => rowsOf(section).filter((row) => !row.hidden);

function showTable(section) {
  const [column, direction] = sorting();
  const headers = [...section.querySelectorAll(".results th[data-key]")];
  const header = headers.find((one) => one.dataset.key === column);
  headers.forEach((one) => { one.ariaSort = null; });
  if (header) header.ariaSort = direction === "asc" ? "ascending" : "descending";
  const { elements } = section.querySelector(".filters");
  for (const name of FILTERS) {
    if (elements[name] && elements[name].value !== view[name]) elements[name].value = view[name];
  }
  for (const body of section.querySelectorAll(".results tbody")) {
    const rows = inOrder([...body.querySelectorAll("tr[data-id]")], header);
    body.append(...rows);
    rows.forEach((row) => { row.hidden = !passes(row); });
    const shown = rows.filter((row) => !row.hidden);
    shown.forEach((row, i) => row.classList.toggle("repeated", shown[i - 1]?.dataset.group === row.dataset.group));
    body.hidden = !shown.length;
  }
  const count = shownRows(section).length;
  section.querySelector(".shown").textContent = count
    ? `Rows shown: ${count} of ${rowsOf(section).length}` : "No row passes the filters.";
}

for (const section of sections) {
  rowsOf(section).forEach((row, place) => { row.dataset.place = place; });
  const filters = section.querySelector(".filters");
  for (const kind of ["input", "change"]) { // some browsers send only the second for a choice
    filters.addEventListener(kind, ({ target }) => go({ [target.name]: target.value }));
  }
  filters.addEventListener("reset", (event) => {
    event.preventDefault();
    go(Object.fromEntries(FILTERS.map((name) => [name, ""])));
    filters.elements.search.focus();
  });
  section.querySelector(".results").addEventListener("click", ({ target }) => {
    const header = target.closest("th[data-key]");
    const row = target.closest("tr[data-id]");
    if (header) sortBy(header);
    else if (row && getSelection().isCollapsed) go({ cell: row.dataset.id }); // not while text is selected
  });
}
