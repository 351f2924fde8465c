// The dialog of a cell, a student on a dataset with its varied values. Its content is in a <template>; this file fills in the curves.

const MAX_CURVES = 4; // of more methods, only the reference and that of the row are drawn at first
const dialog = byId("cell");
let shownCell = ""; // the suite and row that the dialog shows

/** The cell in a row's id, which ends with the method: a method's name has no slash, but a dataset's may. */
const cellOf = (id) => id.slice(0, id.lastIndexOf("/"));

function showCell(section) {
  const template = [...section.querySelectorAll("template")].find(({ dataset }) => dataset.cell === cellOf(view.cell));
  if (!template) {
    dialog.close();
    return;
  }
  const key = `${view.suite} ${view.cell}`;
  if (key === shownCell) return;
  shownCell = key;
  removeFigures();
  byId("cell-title").textContent = template.dataset.title;
  byId("previous").hidden = byId("next").hidden = section.querySelectorAll("template").length < 2;
  byId("cell-body").replaceChildren(template.content.cloneNode(true));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const form = dialog.querySelector("form");
  if (!form) return; // there are no runs
  const boxes = [...form.querySelectorAll("[name=method]")];
  const row = view.cell.slice(view.cell.lastIndexOf("/") + 1);
  for (const box of boxes) box.checked = boxes.length <= MAX_CURVES || "reference" in box.dataset || box.value === row;
  const draw = () => drawCurves(form.parentElement, view.suite, cellOf(view.cell), {
    methods: boxes.length ? new Set(boxes.filter((box) => box.checked).map((box) => box.value)) : null,
    byTime: form.elements.axis.value === "time",
    singleSeeds: form.elements.seeds.checked,
    height: innerWidth < 600 ? 300 : 380,
  });
  form.addEventListener("input", draw);
  draw();
}

/** Open the cell that is `by` cells further in the table. */
function step(by) {
  const ids = shownRows(sectionNow()).map(({ dataset }) => dataset.id);
  const cells = [...new Set(ids.map(cellOf))];
  const next = cells[(cells.indexOf(cellOf(view.cell)) + by + cells.length) % cells.length];
  if (next) go({ cell: ids.find((id) => cellOf(id) === next) });
}

const removeFigures = () => dialog.querySelectorAll(".chart").forEach(removeFigure);

dialog.addEventListener("close", () => {
  const { cell } = view;
  shownCell = "";
  removeFigures();
  byId("cell-body").replaceChildren();
  if (!cell) return;
  go({ cell: "" });
  const row = rowsOf(sectionNow()).find(({ dataset }) => dataset.id === cell);
  row?.querySelector("button").focus();
});
dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); }); // outside its content
byId("close").addEventListener("click", () => dialog.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
