// The dialog of a cell (a student on a dataset): curves, numbers, runs, environments, recipes, published numbers.

const dialog = byId("cell");
let shownCell = ""; // the suite, row and epoch that the dialog shows
let shownMethods = new Set(); // in the figure, and with a command

const openRow = (suite) => suite.rows.find((row) => row.id === view.cell);

function showCell(suite) {
  const row = view.cell && openRow(suite);
  if (!row) {
    if (dialog.open) dialog.close();
    shownCell = "";
    return;
  }
  if (!dialog.open) dialog.showModal();
  const key = [suite.name, row.id, view.epoch].join(" ");
  if (key !== shownCell) fillCell(suite, row);
  shownCell = key;
}

function fillCell(suite, row) {
  const rows = suite.cells.get(cellName(row));
  const used = rows.filter((one) => one.runs.length);
  shownMethods = new Set(rows.length > 4 ? [BASELINE, row.method] : suite.methods);
  byId("cell-title").replaceChildren(row.model, h("span", { class: "muted" }, " on "), row.dataset);
  byId("previous").hidden = byId("next").hidden = suite.cells.size < 2;
  byId("answers").replaceChildren(...answers(suite, rows.filter((one) => shownMethods.has(one.method))).map((text) => h("p", { class: "answer" }, text)),
    h("p", { class: "muted small" }, [imagesInWords(suite, row), suite.protocol_note].join(" ")));
  byId("curve-methods").replaceChildren(...(used.length > 2 ? used.map((one) => methodToggle(suite, rows, one.method)) : []));
  showMethodsOf(suite, rows);
  byId("numbers").replaceChildren(...numbers(suite, rows));
  byId("runs").replaceChildren(everyRun(suite, used));
  byId("environments").replaceChildren(...environments(suite, used));
  byId("recipes").replaceChildren(...rows.map((one) => recipe(suite, one)));
  const published = suite.published.filter((one) => one.model === row.model && one.dataset === row.dataset);
  byId("published").hidden = !published.length;
  byId("published-table").replaceChildren(publishedTable(rows, published));
  dialog.scrollTop = 0;
}

/** The curves and the commands of the methods that are chosen. */
function showMethodsOf(suite, rows) {
  const shown = rows.filter((row) => shownMethods.has(row.method));
  const byTime = dialog.querySelector("[name=axis]:checked").value === "time";
  drawCurves(byId("chart"), byId("readout"), suite, shown, { byTime, singleSeeds: byId("single-seeds").checked, height: innerWidth < 600 ? 300 : 380 });
  byId("commands").replaceChildren(...shown.map((row) => h("div", {}, h("p", {}, dot(suite, row.method), ` ${row.method}${row.runs.length ? "" : ", not run yet"}`),
    commandLine(row.runs.length ? commandOf(suite, row.runs[0]) : `${suite.new_commands[row.id]} --seed 0`, `run ${row.method}`))));
}
function methodToggle(suite, rows, method) {
  const toggle = () => {
    if (!shownMethods.delete(method)) shownMethods.add(method);
    button.setAttribute("aria-pressed", shownMethods.has(method));
    showMethodsOf(suite, rows);
  };
  const button = h("button", { type: "button", "aria-pressed": String(shownMethods.has(method)), click: toggle }, dot(suite, method), " ", method);
  return button;
}
const commandOf = (suite, run) => `${suite.commands[run.command]} --seed ${run.seed}`;

function imagesInWords(suite, row) {
  const images = suite.images.find(({ dataset }) => dataset === row.dataset);
  if (!images) return "";
  return `${plural(images.train_images, "training image")}, ${images.classes} classes, evaluated on ${plural(images.test_images, "image")} (${images.evaluated_on}).`;
}

/** What the cell shows, in sentences. */
function answers(suite, rows) {
  return rows.flatMap((row) => {
    if (row.status === "not run") return [`${row.method} has not been run.`];
    if (row.status === "diverged") return [`${row.method} diverged with every seed.`];
    const gain = gainOf(row);
    if (row.method === BASELINE || !gain) return [];
    const epoch = view.epoch === "last" ? "" : "In the best epoch, ";
    const text = [`${epoch}${row.method} is ${fixed(Math.abs(gain.mean))} points ${gain.mean < 0 ? "below" : "above"} the baseline (${intervalInWords(gain)}).`];
    if (row.speedup_epochs != null) {
      const time = row.speedup_seconds == null ? "" : `, ${times(row.speedup_seconds)} in wall time`;
      const withTeacher = row.speedup_seconds_with_teacher == null ? "" : `, ${times(row.speedup_seconds_with_teacher)} with the teacher’s training`;
      text.push(`It reaches the baseline’s final accuracy after ${fixed(row.epochs_to_reach_mean, 1)} epochs: ${times(row.speedup_epochs)} faster in epochs${time}${withTeacher}.`);
    } else if (row.gain_seeds) {
      text.push(row.reached_seeds ? `The baseline’s final accuracy is reached by ${row.reached_seeds} of ${plural(row.gain_seeds, "seed")}.` : "It never reaches the baseline’s final accuracy.");
    }
    return text;
  });
}

/** All quantities of the cell, a row per method. Columns without any value are left out. */
function numbers(suite, rows) {
  const gain = (name) => (row) => orDash(row[`${name}_mean`], (value) => [signed(value), row[`${name}_low`] == null ? null : small(`${signed(row[`${name}_low`])} to ${signed(row[`${name}_high`])}`)]);
  const stat = (name, digits) => (row) => meanStd(row[`${name}_mean`], row[`${name}_std`], digits);
  const number = (name, draw) => (row) => orDash(row[name], draw);
  const table = (label, quantities) => {
    const there = Object.entries(quantities).filter(([, draw]) => rows.some((row) => draw(row) !== "—"));
    return dataTable(label, [label, ...there.map(([name]) => name)],
      rows.map((row) => [[dot(suite, row.method), " ", row.method], ...there.map(([, draw]) => draw(row))]), "numbers");
  };
  return [
    table("Accuracy, %", { "last epoch": stat("last"), "best epoch": stat("best"), "gain, last epoch": gain("gain"), "gain, best epoch": gain("best_gain"),
      "mean over epochs": stat("area"), seeds: number("seeds", String), diverged: (row) => (row.diverged_seeds ? String(row.diverged_seeds) : "—") }),
    table("Convergence", { "epochs to the baseline’s final accuracy": stat("epochs_to_reach", 1), "speed-up in epochs": number("speedup_epochs", times),
      "in wall time": number("speedup_seconds", times), "with the teacher’s training": number("speedup_seconds_with_teacher", times),
      ...Object.fromEntries([50, 90, 95].map((part) => [`epochs to ${part} % of own final accuracy`, stat(`epochs_to_${part}`, 1)])) }),
    table("Cost", { parameters: number("parameters", (value) => value.toLocaleString("en")), "GFLOPs per image, forward": number("flops_per_image", (value) => fixed(value / 1e9, 3)),
      "training images/s": number("images_per_second", (value) => fixed(value, 0)), "time per run": number("seconds_mean", duration),
      "all runs": (row) => orDash(row.device_hours || null, (value) => `${fixed(value, value < 10 ? 2 : 0)} ${row.device_unit}`), "peak memory, MiB": number("peak_memory_mib", (value) => fixed(value, 0)) }),
  ];
}

function everyRun(suite, rows) {
  const line = (row) => (run) => [[dot(suite, row.method), " ", row.method], run.seed,
    run.diverged ? none(`diverged in epoch ${run.epochs}`) : fixed(run.last_accuracy), run.diverged ? "" : [fixed(run.best_accuracy), small(`epoch ${run.best_epoch}`)],
    duration(run.seconds), fixed(run.images_per_second, 0), copyButton(commandOf(suite, run), `Copy the command of ${row.method}, seed ${run.seed}`), run.machine,
    run.commit ? [h("code", {}, run.commit.slice(0, 10)), run.dirty ? small("with uncommitted changes") : null] : "not a checkout"];
  return dataTable("Every run", ["method", "seed", "last, %", "best, %", "time", "images/s", "command", "machine", "code"], rows.flatMap((row) => row.runs.map(line(row))), "runs");
}

function environments(suite, rows) {
  const runs = rows.flatMap((row) => row.runs.map((run) => ({ ...run, name: `${row.method} ${run.seed}` })));
  const boxes = [...Map.groupBy(runs, (run) => run.environment)].map(([place, own]) => {
    const { machine, ...facts } = suite.environments[place];
    const entries = Object.entries(facts).filter(([, value]) => value !== null);
    const which = own.length === runs.length ? "all runs" : `method and seed: ${own.map((run) => run.name).join(", ")}`;
    return h("div", { class: "notice" }, h("p", {}, h("b", {}, machine), h("span", { class: "muted" }, ` (${which})`)),
      h("dl", { class: "facts" }, entries.map(([name, value]) => [h("dt", {}, name.replace("_", " ")), h("dd", {}, inWords(value))])));
  });
  const teachers = [...new Set(runs.map((run) => run.teacher))].map((place) => suite.teachers[place]).filter((teacher) => teacher.teacher_id);
  return [...boxes, ...teachers.map((t) => h("p", {}, `Teacher ${t.teacher_id}, seed ${t.teacher_seed}, one for all seeds of the student, weights of its ${t.teacher_select} epoch: ${fixed(t.teacher_accuracy)} % after ${t.teacher_epochs} epochs, ${duration(t.teacher_seconds)}.`))];
}

function recipe(suite, row) {
  const text = suite.recipes[row.id].map((place) => suite.texts[place]).join("");
  const shown = h("pre", { tabindex: "0" }, text);
  return h("details", {}, h("summary", {}, dot(suite, row.method), ` ${row.id} `, h("code", { class: "muted" }, row.hash.slice(0, 8))),
    h("div", { class: "do" }, copyButton(text, `Copy the recipe of ${row.method}`, shown)), shown);
}

function publishedTable(rows, published) {
  const compared = (one) => rows.find((row) => row.id === one.comparable_to);
  const line = (one) => {
    const row = compared(one);
    return [one.work, [one.method, small(`${one.resolution} px, ${one.epochs} epochs`)], fixed(one.top1),
      row ? [row.method, row.best_mean == null ? null : small(`ours ${signed(row.best_mean - one.top1)}`)] : "—", one.provenance, one.source];
  };
  return dataTable("Published numbers, best epoch", ["work", "method", "%", "comparable with", "provenance", "source"], published.map(line), "published");
}

/** Open the cell that is `by` places further in the table. */
function step(by) {
  const suite = suiteNow();
  const firsts = [...Map.groupBy(shownRows(suite), cellName).values()].map(([row]) => row);
  const place = firsts.findIndex((row) => cellName(row) === cellName(openRow(suite)));
  const next = firsts[(place + by + firsts.length) % firsts.length];
  if (next) go({ cell: next.id });
}

dialog.addEventListener("close", () => {
  const { cell } = view;
  shownCell = "";
  removeFigure(byId("chart"));
  if (!cell) return;
  go({ cell: "" });
  const row = [...document.querySelectorAll(".results tr")].find((line) => line.dataset.id === cell);
  (row?.querySelector("button") ?? byId("filters").elements.search).focus();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside the dialog
byId("curves").addEventListener("change", () => showMethodsOf(suiteNow(), suiteNow().cells.get(cellName(openRow(suiteNow())))));
byId("close").addEventListener("click", () => dialog.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
