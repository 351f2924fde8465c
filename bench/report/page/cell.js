// The dialog of a cell, a student on a dataset with its varied values. Its content is in a <template>; this file fills in the curves.

const MAX_CURVES = 4; // of more methods, only the reference, the best ones and that of the row are drawn at first
const COLOURS = 5; // beside the reference's
const DASHES = [[], [10, 3], [3, 3]]; // of lines whose colour another one has
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
  const [body, form] = [byId("cell-body"), dialog.querySelector("form")];
  if (!form) return; // there are no runs
  const boxes = [...body.querySelectorAll("[name=method]")];
  const best = curveData[view.suite][cellOf(view.cell)].filter(({ reference }) => !reference)
    .sort((a, b) => b.last_mean - a.last_mean).slice(0, MAX_CURVES - 1).map(({ method }) => method);
  const row = view.cell.slice(view.cell.lastIndexOf("/") + 1);
  for (const box of boxes) {
    box.checked = boxes.length <= MAX_CURVES || "reference" in box.dataset || [row, ...best].includes(box.value);
  }
  const looks = new Map();
  const draw = () => {
    const chosen = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    giveLooks(looks, chosen, curveData[view.suite][cellOf(view.cell)]);
    for (const box of boxes) showLook(box, looks.get(box.value));
    drawCurves(form.parentElement, view.suite, cellOf(view.cell), {
      methods: boxes.length ? chosen : null,
      looks,
      byTime: form.elements.axis.value === "time",
      singleSeeds: form.elements.seeds.checked,
      height: innerWidth < 600 ? 300 : 380,
    });
  };
  body.oninput = draw;
  body.onclick = ({ target }) => { // anywhere in a row of the table that chooses curves
    if (!target.closest("label")) target.closest(".chooser tr")?.querySelector("input")?.click();
  };
  draw();
}

/** Give each chosen method that has no colour of its own the first one that is free; looks: {method: {colour, dash}}. */
function giveLooks(looks, chosen, methods) {
  for (const method of [...looks.keys()]) if (!chosen.has(method)) looks.delete(method);
  for (const { method, colour } of methods) {
    if (colour !== null || !chosen.has(method) || looks.has(method)) continue;
    const taken = [...looks.values()].map(({ place }) => place);
    const place = [...taken, 0].findIndex((_, free) => !taken.includes(free));
    looks.set(method, { place, colour: 1 + (place % COLOURS), dash: DASHES[Math.floor(place / COLOURS) % DASHES.length] });
  }
}

/** Colour the dot of a box whose method has no colour of its own. */
function showLook(box, look) {
  const dot = box.parentElement.querySelector(".dot");
  if ("shared" in box.dataset) dot.style.setProperty("--colour", look ? `var(--method-${look.colour})` : "var(--hairline)");
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
