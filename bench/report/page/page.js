"use strict";
// The results page. What records say may have been written by anybody: it reaches the page through `h` alone, which makes
// text nodes and sets attributes that hold no code, and through the canvas.
(() => {
  const suites = JSON.parse(document.getElementById("data").textContent);
  const BASELINE = "baseline";
  const STATES = { recorded: "every arm recorded", "not run": "an arm not run", diverged: "a run diverged" };
  const DEFAULTS = { suite: suites.length ? suites[0].suite : "", sort: "", q: "", student: "", dataset: "", state: "", epoch: "last", cell: "" };
  const VERDICTS = { higher: "▲", lower: "▼", unclear: "≈", "too few seeds": "·" };
  const $ = (id) => document.getElementById(id);
  const view = { ...DEFAULTS };
  const charts = new Map(); // element that holds a chart -> what draws it again
  let shownSuite = null;
  let shownCell = "";

  // ---- Elements, numbers, words

  function h(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (name === "colour") element.style.setProperty("--colour", value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }
  const minus = (text) => text.replace("-", "−");
  const fixed = (value, digits = 2) => minus(value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  const signed = (value, digits = 2) => (value < 0 ? "" : "+") + fixed(value, digits);
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const spread = (s, digits = 2) => (s ? fixed(s.mean, digits) + (s.std === null ? "" : ` ± ${fixed(s.std, digits)}`) : "—");
  const times = (value) => `${fixed(value, 1)}×`;
  const duration = (s) => (s < 100 ? `${fixed(s, 0)} s` : s < 6000 ? `${fixed(s / 60, 1)} min` : `${fixed(s / 3600, 1)} h`);
  const millions = (count) => (count >= 1e6 ? `${fixed(count / 1e6, 1)} M` : `${fixed(count / 1e3, 0)} k`);
  const hidden = (text) => h("span", { class: "hidden" }, text);
  const interval = (gain) =>
    gain.low === null ? `${plural(gain.values, "seed")}: too few to say more` : `95 % interval ${signed(gain.low)} to ${signed(gain.high)} over ${plural(gain.values, "seed")}: ${gain.verdict}`;
  const seedsOf = (seeds) => {
    const parts = [];
    for (const seed of seeds.map(BigInt)) {
      const last = parts[parts.length - 1];
      if (last && last[1] === seed - 1n) last[1] = seed;
      else parts.push([seed, seed]);
    }
    return (seeds.length === 1 ? "seed " : "seeds ") + parts.map(([a, b]) => (a === b ? a : `${a}–${b}`)).join(", ");
  };
  const asText = (value) =>
    Array.isArray(value) ? value.map(asText).join(", ")
      : value && typeof value === "object" ? Object.entries(value).map(([name, inner]) => `${name} ${asText(inner)}`).join(", ")
        : String(value);

  const current = () => suites.find((suite) => suite.suite === view.suite) || suites[0];
  const nameOf = (cell) => `${cell.model}/${cell.dataset}`;
  const guidedOf = (suite) => suite.guidance.filter((name) => name !== BASELINE);
  const armOf = (cell, guidance) => cell.arms.find((arm) => arm.guidance === guidance);
  const accuracy = (arm) => (arm ? arm[view.epoch] : null);
  const gainOf = (arm) => (arm ? (view.epoch === "last" ? arm.gain : arm.gain_best) : null);
  const isIn = (cell, state) =>
    state === "recorded" ? cell.arms.every((arm) => arm.state === "recorded")
      : state === "diverged" ? cell.arms.some((arm) => arm.diverged.length) : cell.arms.some((arm) => arm.state === "not run");

  const styles = getComputedStyle(document.documentElement);
  let guidedColours = 0;
  while (styles.getPropertyValue(`--arm-${guidedColours + 1}`)) guidedColours++;
  /** Baselines have the first colour whether or not a suite has one; those of guided arms begin anew after the last. */
  function colour(suite, guidance) {
    const place = guidedOf(suite).indexOf(guidance);
    return `var(--arm-${place < 0 ? 0 : 1 + (place % guidedColours)})`;
  }
  const dot = (suite, guidance) => h("span", { class: guidance === BASELINE ? "dot hollow" : "dot", colour: colour(suite, guidance), "aria-hidden": "true" });
  const legend = (suite) => h("ul", { class: "legend" }, suite.guidance.map((name) => h("li", null, dot(suite, name), name)));

  function choice(label, options, chosen, choose) {
    const group = h("div", { class: "choice", role: "group", "aria-label": label }, Object.entries(options).map(([value, text]) =>
      h("button", { type: "button", value, click: () => { press(group, value); choose(value); } }, text)));
    press(group, chosen);
    return group;
  }
  const press = (group, value) => group.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(button.value === value)));

  function copyButton(text, label, from) {
    const button = h("button", {
      type: "button", "aria-label": label,
      click: async (event) => {
        event.stopPropagation();
        let said = "Copied";
        try {
          await navigator.clipboard.writeText(text());
        } catch {
          if (from) getSelection().selectAllChildren(from);
          said = from ? "Selected" : "Not allowed";
        }
        button.textContent = said;
        setTimeout(() => { button.textContent = "Copy"; }, 1500);
      },
    }, "Copy");
    return button;
  }
  function commandLine(text, label) {
    const code = h("code", null, text.split(" ").map((word, i) => [i ? " " : "", h("span", null, word)]));
    return h("div", { class: "command" }, code, copyButton(() => text, `Copy: ${label}`, code));
  }

  // ---- The view and the address that says it

  function readAddress() {
    const said = location.hash.slice(1);
    if (said && !said.includes("=")) return false; // a place on the page, not a view
    const given = new URLSearchParams(said);
    for (const name of Object.keys(DEFAULTS)) view[name] = given.get(name) || DEFAULTS[name];
    if (!suites.some((suite) => suite.suite === view.suite)) view.suite = DEFAULTS.suite;
    if (view.epoch !== "best") view.epoch = "last";
    return true;
  }
  function address() {
    const said = new URLSearchParams({ suite: view.suite }); // never empty: an empty one is the top of the page
    for (const [name, value] of Object.entries(view)) if (value !== DEFAULTS[name]) said.set(name, value);
    return said.toString();
  }
  /** Change the view; a cell that is opened is a step of its own in the browser's history, so that Back closes it. */
  function go(changes) {
    const opens = changes.cell && !view.cell;
    Object.assign(view, changes);
    const said = address();
    if (location.hash.slice(1) !== said) {
      if (opens) location.hash = said;
      else location.replace(`#${said}`);
    }
    apply();
  }
  function apply() {
    if (!suites.length) return;
    if (current() !== shownSuite) drawSuite();
    drawTiles();
    drawTable();
    drawDetail();
  }

  // ---- A suite: tiles, overview, table

  function drawSuite() {
    const suite = (shownSuite = current());
    if (suites.length > 1) press($("suites"), suite.suite);
    const field = (label, control) => h("label", { class: "field" }, label, control);
    const select = (name, all, options) =>
      h("select", { id: `filter-${name}`, change: (event) => go({ [name]: event.target.value }) },
        h("option", { value: "" }, all), options.map(([value, text]) => h("option", { value }, text)));
    const few = suite.cells.length <= 2 && suite.cells.some((cell) => cell.arms.some((arm) => arm.runs.length));
    const best = choice("Which epoch", { last: "Last epoch", best: "Best epoch" }, view.epoch, (epoch) => go({ epoch }));
    best.id = "epoch";
    $("again").replaceChildren(again(suite));
    $("suite").replaceChildren(
      h("div", { class: "controls" }, best, h("span", { class: "muted small", id: "epoch-note" })),
      h("div", { class: "tiles", id: "tiles" }),
      h("section", { class: "part", "aria-labelledby": "overview-heading" },
        h("h2", { id: "overview-heading" }, few ? "Test accuracy by epoch" : "Baseline and guided, student by student"),
        h("div", { id: "overview" }, few ? h("div", { class: "panels" }, suite.cells.map((cell) => curvePanel(suite, cell))) : "")),
      h("section", { class: "part", "aria-labelledby": "table-heading" },
        h("h2", { id: "table-heading", tabindex: "-1" }, "Every student and dataset"),
        h("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() },
          field("Search: all words must match", h("input", { type: "search", id: "filter-q", autocomplete: "off", input: (event) => go({ q: event.target.value }) })),
          field("Student", select("student", "all students", suite.models.map((name) => [name, name]))),
          field("Dataset", select("dataset", "all datasets", suite.datasets.map((name) => [name, name]))),
          field("State", select("state", "any state", Object.entries(STATES))),
          h("button", { type: "button", id: "clear", click: () => { go({ q: "", student: "", dataset: "", state: "" }); $("filter-q").focus(); } }, "Clear")),
        h("div", { class: "scroller", role: "region", "aria-label": "The table, which scrolls sideways", tabindex: "0" },
          h("table", { class: "results" },
            h("caption", { class: "hidden" }, "Test accuracy in per cent, mean and standard deviation over seeds. A row opens its curves and runs."),
            h("thead", null, h("tr", null, columns(suite).map((column) =>
              h("th", { scope: "col", class: column.kind, "data-key": column.key, title: column.title },
                h("button", { type: "button", click: () => sortBy(column) }, column.label))))),
            h("tbody", { id: "rows" }))),
        h("div", { class: "under small muted" },
          h("span", { id: "count", role: "status" }),
          h("span", null, "± : standard deviation over seeds. Interval: 95 %, of the gain seed by seed (Student's t).")),
        notes(suite)),
    );
  }

  function again(suite) {
    const { runs, seconds, machines, hours } = suite.summary;
    const took = seconds < 7200 ? `${duration(seconds)} one after the other` : Object.entries(hours).map(([unit, value]) => `${fixed(value, 0)} ${unit}`).join(" and ");
    const text = runs ? `The ${plural(runs, "run")} here took ${took}, on ${machines.join("; ") || "what they say"}.` : "Nothing of this suite has been run yet.";
    return h("section", { class: "again", "aria-labelledby": "again-heading" },
      h("h2", { id: "again-heading" }, "Run it yourself"), h("p", null, text),
      commandLine(`./run_all.sh ${suite.suite}`, "run this suite"));
  }

  function notes(suite) {
    const settings = Object.entries(suite.settings).map(([name, value]) => `${name}=${value}`).join(", ");
    const said = [
      ...suite.notes,
      ...(settings ? [`Settings of this suite over those of its protocol: ${settings}.`] : []),
      "Published numbers are of the best test epoch; a difference is our best epoch minus that. They stand beside a row only where the recipe is the published one.",
    ];
    const files = ["table.md", "table.csv", "table.tex", "table.json", "records.jsonl"];
    return [
      h("h3", { style: "margin-top:1.75rem" }, "Before comparing"),
      h("ul", { class: "plain" }, said.map((text) => h("li", null, text)),
        suite.deviations.length ? h("li", null, "Deviations from the published protocol:", h("ul", { class: "plain" }, suite.deviations.map((text) => h("li", null, text)))) : null),
      h("p", { style: "margin-top:1rem", class: "files" }, `Protocol ${suite.protocol}. Files of this suite: `,
        files.map((name, i) => [i ? " · " : "", h("a", { href: `./${encodeURIComponent(suite.suite)}/${name}` }, name)])),
    ];
  }

  function drawTiles() {
    const suite = current();
    const { summary } = suite;
    const guided = guidedOf(suite);
    const alone = guided.length === 1;
    const tile = (figure, name, ...more) => h("div", { class: "tile" }, h("div", { class: "figure" }, figure), h("div", { class: "name" }, name), more.map((text) => text && h("p", null, text)));
    const full = suite.cells.filter((cell) => isIn(cell, "recorded")).length;
    const missing = suite.cells.filter((cell) => isIn(cell, "not run")).length;
    const tiles = [tile([String(full), h("small", null, ` of ${plural(suite.cells.length, "cell")}`)], "recorded in every arm",
      `${plural(summary.runs, "run")}, ${summary.diverged ? `${summary.diverged} diverged` : "none diverged"}${missing ? `; ${plural(missing, "cell")} with an arm not run` : ""}`)];
    for (const name of guided) {
      const { [view.epoch]: of, speedup_epochs, reach_epochs, speedup_time, reach_time, speedup_time_with_guide, compared } = summary.guided[name];
      const sooner = speedup_epochs === null ? [] : [
        `in epochs, to the accuracy that the baseline ends with${compared === 1 ? "" : `, reached in ${reach_epochs} of ${compared} cells`}`,
        reach_time < reach_epochs ? null : `${times(speedup_time)} in wall time, ${times(speedup_time_with_guide)} with the guide’s own training added`];
      if (of.gain !== null) {
        const verdicts = Object.keys(VERDICTS).filter((verdict) => of[verdict]).map((verdict) => `${verdict} in ${of[verdict]}`).join(", ");
        const [single] = suite.cells.map((cell) => gainOf(armOf(cell, name))).filter(Boolean);
        tiles.push(tile([signed(of.gain), h("small", null, " points")], alone ? `${of.cells === 1 ? "" : "mean "}gain of ${name}` : name,
          `over the baseline, ${view.epoch} epoch${of.cells === 1 ? "" : `, mean of ${of.cells} cells`}`,
          of.cells === 1 ? interval(single) : `cell by cell: ${verdicts}`,
          alone || !sooner.length ? null : `median ${times(speedup_epochs)} sooner ${sooner[0]}`));
      }
      if (alone && sooner.length) tiles.push(tile([times(speedup_epochs), h("small", null, " sooner")], `${compared === 1 ? "" : "median "}speed-up of ${name}`, ...sooner));
    }
    $("tiles").replaceChildren(...tiles);
    $("epoch-note").textContent = view.epoch === "last" ? "The headline: nothing is chosen on the test set." : "Chosen on the test set, so it flatters; published numbers are of this kind.";
    press($("epoch"), view.epoch);
  }

  // A column: how it is called, what rows are sorted by (null: nothing there), and what stands in it.
  function columns(suite) {
    const guided = guidedOf(suite);
    const alone = guided.length === 1;
    const compares = suite.guidance.includes(BASELINE);
    const any = (value) => suite.cells.some((cell) => value(cell) !== null && value(cell) !== undefined);
    const each = (cell, text) => cell.arms.filter((arm) => text(arm) !== null).map((arm) => h("div", null, dot(suite, arm.guidance), hidden(`${arm.guidance}: `), " ", text(arm)));
    const last = (cell, value) => cell.arms.map(value).filter((v) => v !== null && v !== undefined).pop() ?? null;
    const cost = (value) => (cell) => last(cell, (arm) => (arm.cost ? value(arm.cost) : null));
    const out = [
      { key: "student", label: "Student", kind: "left", value: (cell) => cell.model },
      { key: "dataset", label: "Dataset", kind: "left dataset", value: (cell) => cell.dataset, draw: (cell) => cell.dataset },
    ];
    for (const name of suite.guidance) {
      out.push({ key: name, label: name, title: "Test accuracy in %", value: (cell) => accuracy(armOf(cell, name))?.mean ?? null, draw: (cell) => drawAccuracy(armOf(cell, name)) });
      if (name === BASELINE || !compares) continue;
      const named = (key, label) => ({ key: alone ? key : `${key}-${name}`, label: alone ? label : `${label} of ${name}` });
      const reached = (cell) => armOf(cell, name).reach;
      out.push({ ...named("gain", "Gain"), title: "Over the baseline, in points, with its 95 % interval", value: (cell) => gainOf(armOf(cell, name))?.mean ?? null, draw: (cell) => drawGain(gainOf(armOf(cell, name))) });
      out.push({
        ...named("epochs", "Epochs to baseline’s end"), title: "First epoch with the accuracy that the baseline of the same seed ends with", value: (cell) => reached(cell)?.epochs?.mean ?? null,
        draw: (cell) => reached(cell)?.pairs ? [reached(cell).epochs ? fixed(reached(cell).epochs.mean, 1) : h("span", { class: "none" }, "not reached"), h("small", null, `${reached(cell).reached} of ${reached(cell).pairs}`, hidden(" seeds"))] : "—",
      });
      out.push({
        ...named("speedup", "Speed-up"), title: "The baseline's epochs over those", value: (cell) => reached(cell)?.speedup_epochs?.mean ?? null,
        draw: (cell) => reached(cell)?.speedup_epochs ? [times(reached(cell).speedup_epochs.mean), reached(cell).speedup_time && h("small", null, `${times(reached(cell).speedup_time.mean)} in time`)] : "—",
      });
    }
    out.push({ key: "seeds", label: "Seeds", title: "Runs that came to an end, of each arm", value: (cell) => Math.min(...cell.arms.map((arm) => arm.seeds.length)), draw: (cell) => cell.arms.map((arm) => arm.seeds.length).join(" / ") });
    if (any((cell) => last(cell, (arm) => arm.difference)))
      out.push({
        key: "published", label: "Published (difference)", title: "Best test epoch, in %; sorted by the difference of the last arm", value: (cell) => last(cell, (arm) => arm.difference),
        draw: (cell) => either(each(cell, (arm) => arm.published.length ? `${fixed(arm.published[0].top1)}${arm.difference === null ? "" : ` (${signed(arm.difference)})`}` : null)),
      });
    if (any(cost((c) => c.parameters))) out.push({ key: "parameters", label: "Parameters", value: cost((c) => c.parameters), draw: (cell) => orDash(cost((c) => c.parameters)(cell), millions) });
    if (any(cost((c) => c.flops))) out.push({ key: "gflops", label: "GFLOPs", title: "Of the student's forward pass of one image", value: cost((c) => c.flops), draw: (cell) => orDash(cost((c) => c.flops)(cell), (flops) => fixed(flops / 1e9)) });
    if (any(cost((c) => c.seconds?.mean)))
      out.push({ key: "time", label: "Time a run", title: "Wall time, mean over seeds; sorted by the last arm", value: cost((c) => c.seconds?.mean ?? null), draw: (cell) => either(each(cell, (arm) => (arm.cost ? duration(arm.cost.seconds.mean) : null))) });
    return out;
  }
  const isMarked = (row) => !getSelection().isCollapsed && getSelection().containsNode(row, true);
  const either = (elements) => (elements.length ? elements : "—");
  const orDash = (value, format) => (value === null ? "—" : format(value));

  function drawAccuracy(arm) {
    if (arm.state !== "recorded")
      return [h("span", { class: "none" }, arm.state), arm.diverged.length ? h("small", null, `all ${plural(arm.diverged.length, "seed")}`) : null];
    const s = accuracy(arm);
    return [h("span", { class: "strong" }, fixed(s.mean)), s.std === null ? null : h("small", null, `± ${fixed(s.std)}`),
      arm.diverged.length ? h("small", null, `${arm.diverged.length} diverged`) : null];
  }
  function drawGain(gain) {
    if (!gain) return "—";
    return [h("span", { class: "strong" }, signed(gain.mean)), gain.low === null ? null : h("small", null, `${signed(gain.low)} to ${signed(gain.high)}`),
      h("div", { class: `verdict ${gain.verdict === "higher" || gain.verdict === "lower" ? gain.verdict : "muted"}` }, h("span", { "aria-hidden": "true" }, VERDICTS[gain.verdict], " "), gain.verdict)];
  }

  function sortBy(column) {
    const first = column.kind ? "asc" : "desc"; // names from a on, numbers from the largest
    const [key, direction] = sorting();
    const next = key !== column.key ? first : direction === first ? (first === "asc" ? "desc" : "asc") : "";
    go({ sort: next && `${column.key}-${next}` });
  }
  function sorting() {
    const cut = view.sort.lastIndexOf("-");
    return cut < 0 ? ["", ""] : [view.sort.slice(0, cut), view.sort.slice(cut + 1)];
  }

  function shown() {
    const suite = current();
    const words = view.q.toLowerCase().split(/\s+/).filter(Boolean);
    const cells = suite.cells.filter((cell) => {
      if ((view.student && cell.model !== view.student) || (view.dataset && cell.dataset !== view.dataset)) return false;
      if (view.state && !isIn(cell, view.state)) return false;
      const text = [cell.model, cell.dataset, ...cell.arms.flatMap((arm) => [arm.guidance, arm.state, arm.diverged.length ? "diverged" : "", gainOf(arm)?.verdict || ""])].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const [key, direction] = sorting();
    const column = columns(suite).find((one) => one.key === key);
    if (!column) return cells;
    const sign = direction === "asc" ? 1 : -1;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    return cells.map((cell) => [column.value(cell), cell]).sort(([a], [b]) =>
      a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)).map(([, cell]) => cell);
  }

  function drawTable() {
    const suite = current();
    const cells = shown();
    const drawn = columns(suite);
    const [key, direction] = sorting();
    document.querySelectorAll(".results thead th").forEach((th) => {
      if (th.dataset.key === key) th.setAttribute("aria-sort", direction === "asc" ? "ascending" : "descending");
      else th.removeAttribute("aria-sort");
    });
    for (const name of ["q", "student", "dataset", "state"]) if ($(`filter-${name}`).value !== view[name]) $(`filter-${name}`).value = view[name];
    $("rows").replaceChildren(...cells.map((cell) =>
      h("tr", { "data-cell": nameOf(cell), click: (event) => { if (!isMarked(event.currentTarget)) go({ cell: nameOf(cell) }); } },
        h("th", { scope: "row" }, h("button", { type: "button", "aria-haspopup": "dialog", click: (event) => { event.stopPropagation(); go({ cell: nameOf(cell) }); } }, cell.model, hidden(` on ${cell.dataset}`)),
          h("small", { "aria-hidden": "true" }, cell.dataset)),
        drawn.slice(1).map((column) => h("td", { class: column.kind }, column.draw(cell))))));
    if (!cells.length) $("rows").append(h("tr", null, h("td", { colspan: drawn.length, class: "left" }, "No row matches. ", h("button", { type: "button", click: () => $("clear").click() }, "Show all"))));
    $("count").textContent = `${cells.length} of ${plural(suite.cells.length, "row")} shown`;
    if (!suite.summary.runs) $("overview").replaceChildren(h("p", { class: "notice" }, "Nothing of this suite is recorded yet."));
    else if (suite.cells.length > 2) $("overview").replaceChildren(legend(suite), h("div", { class: "panels" }, suite.datasets.map((name) => bells(suite, name, cells.filter((cell) => cell.dataset === name)))));
  }

  /** A dataset's students, one a line: a mark an arm on a common scale of accuracy, and the gain. */
  function bells(suite, dataset, cells) {
    if (!cells.length) return null;
    const all = suite.cells.filter((cell) => cell.dataset === dataset).flatMap((cell) => cell.arms.map(accuracy)).filter(Boolean).map((s) => s.mean);
    const low = all.length ? Math.floor(Math.min(...all) / 5) * 5 : 0;
    const high = all.length ? Math.max(Math.ceil(Math.max(...all) / 5) * 5, low + 5) : 100;
    const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
    const lines = cells.map((cell) => {
      const there = cell.arms.filter(accuracy);
      const gains = cell.arms.map(gainOf).filter(Boolean);
      const gain = guidedOf(suite).length === 1 ? gains[0] : null; // of several there is no one gain
      const track = h("span", { class: "track", "aria-hidden": "true" });
      if (there.length > 1) {
        const means = there.map((arm) => accuracy(arm).mean);
        const span = h("i", { class: "span" });
        span.style.left = at(Math.min(...means));
        span.style.width = `${(100 * (Math.max(...means) - Math.min(...means))) / (high - low)}%`;
        track.append(span);
      }
      for (const arm of there) {
        const mark = h("i", { class: arm.guidance === BASELINE ? "dot hollow" : "dot", colour: colour(suite, arm.guidance) });
        mark.style.left = at(accuracy(arm).mean);
        track.append(mark);
      }
      const words = cell.arms.map((arm) => `${arm.guidance} ${accuracy(arm) ? fixed(accuracy(arm).mean) : arm.state}`).join(", ");
      return h("button", { type: "button", class: "bell", "aria-haspopup": "dialog", click: () => go({ cell: nameOf(cell) }), "data-bell": nameOf(cell), title: words },
        h("span", { class: "name" }, cell.model), hidden(` on ${dataset}: ${words}${gain ? "; gain " : ""}`), track,
        gain ? h("span", { class: `gain ${gain.verdict === "lower" ? "lower" : gain.verdict === "higher" ? "higher" : "muted"}` }, signed(gain.mean)) : h("span", { class: "gain none" }, there.length ? (guidedOf(suite).length > 1 ? "" : "—") : cell.arms[0].state));
    });
    return h("section", { class: "panel", "aria-label": dataset }, h("h3", null, dataset), h("div", { class: "bells" }, lines),
      h("div", { class: "scale", "aria-hidden": "true" }, h("span", null, [low, (low + high) / 2, high].map((value) => h("b", { style: "font-weight:400" }, `${fixed(value, value % 1 ? 1 : 0)} %`)))));
  }

  // ---- Curves

  function curvePanel(suite, cell) {
    const host = h("div", { class: "chart" });
    const readout = h("p", { class: "readout" });
    drawChart(host, readout, suite, cell, { axis: "epochs", seeds: false, height: 320 });
    return h("section", { class: "panel", "aria-label": nameOf(cell) },
      h("h3", null, `${cell.model} on ${cell.dataset}`), host, readout,
      h("p", { style: "margin:.75rem 0 0" }, h("button", { type: "button", "aria-haspopup": "dialog", "data-bell": nameOf(cell), click: () => go({ cell: nameOf(cell) }) }, "Curves of each seed, recipe, commands, environment")));
  }

  /** Accuracy in % by epoch, of a run whose curve is packed as page.py says. */
  function curveOf(run) {
    let sum = 0;
    return run.curve.map((step) => (sum += step) / 100);
  }

  /** [epochs from 1, mean, mean - std, mean + std] over the runs that came to an end; null where there is none. */
  function meanCurve(runs) {
    const curves = runs.filter((run) => !run.diverged).map(curveOf);
    if (!curves.length) return null;
    const length = Math.min(...curves.map((curve) => curve.length));
    const out = [[], [], [], []];
    for (let e = 0; e < length; e++) {
      const mean = curves.reduce((sum, curve) => sum + curve[e], 0) / curves.length;
      const std = curves.length > 1 ? Math.sqrt(curves.reduce((sum, curve) => sum + (curve[e] - mean) ** 2, 0) / (curves.length - 1)) : 0;
      [e + 1, mean, mean - std, mean + std].forEach((value, i) => out[i].push(value));
    }
    return out;
  }

  /** A colour of the style sheet as a canvas understands it. */
  function resolved(text) {
    const probe = h("span", { hidden: "" });
    probe.style.color = text;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }
  const faded = (rgb, alpha) => rgb.replace(/^rgba?\(([^,]+),([^,]+),([^,)]+).*$/, `rgba($1,$2,$3,${alpha})`);

  /** Draw, or draw again, the curves of a cell into `host`: for each arm the mean with a band of one standard deviation to
   * each side, and the seeds as thin lines; by epoch, or by wall time. */
  function drawChart(host, readout, suite, cell, options) {
    const font = "14px system-ui, sans-serif";
    const [text, grid] = [resolved("var(--muted)"), resolved("var(--grid)")];
    const byTime = options.axis === "time";
    const pace = (runs) => runs.reduce((sum, run) => sum + run.seconds / run.epochs, 0) / runs.length; // s an epoch
    const arms = cell.arms.filter((arm) => arm.runs.length);
    const finished = (arm) => (arm.seeds.length ? arm.runs.filter((run) => !run.diverged) : arm.runs);
    const longest = Math.max(...arms.flatMap((arm) => arm.runs.map((run) => run.seconds)), 1);
    const [unit, unitName] = longest > 7200 ? [3600, "hours"] : longest > 300 ? [60, "minutes"] : [1, "seconds"];
    const tables = [];
    const series = [{}];
    const bands = [];
    const means = [];
    const marks = [];
    const ends = [];
    for (const arm of arms) {
      const stroke = resolved(colour(suite, arm.guidance));
      const scale = (runs) => (byTime ? pace(runs) / unit : 1);
      if (options.seeds || !arm.seeds.length)
        for (const run of arm.runs) {
          const curve = curveOf(run);
          tables.push([curve.map((_, e) => (e + 1) * scale([run])), curve]);
          series.push({ stroke: faded(stroke, 0.5), width: 1, spanGaps: true, points: { show: curve.length === 1 }, dash: run.diverged ? [4, 4] : undefined });
        }
      const mean = meanCurve(arm.runs);
      if (!mean) continue;
      const step = scale(finished(arm));
      tables.push([mean[0].map((epoch) => epoch * step), ...mean.slice(1)]);
      const first = series.length;
      series.push({ stroke, width: 2.5, spanGaps: true, points: { show: mean[0].length === 1 } });
      for (let i = 0; i < 2; i++) series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
      bands.push({ series: [first + 2, first + 1], fill: faded(stroke, 0.16) });
      means.push({ arm, mean, step });
      ends.push({ text: arm.guidance, stroke, y: arm.last.mean });
      if (arm.reach && arm.reach.epochs && armOf(cell, BASELINE)?.last)
        marks.push({ stroke, x: arm.reach.epochs.mean * step, y: armOf(cell, BASELINE).last.mean, text: `epoch ${fixed(arm.reach.epochs.mean, 1)}` });
    }
    const say = (x) => { // in units of the axis; null: the end of each arm
      const spans = means.map(({ arm, mean, step }) => {
        const epoch = x === null ? mean[0].length : Math.round(x / step);
        if (epoch < 1 || epoch > mean[0].length) return null;
        const around = finished(arm).length > 1 ? ` ± ${fixed(mean[3][epoch - 1] - mean[1][epoch - 1], 1)}` : "";
        return h("span", null, dot(suite, arm.guidance), `${arm.guidance} ${fixed(mean[1][epoch - 1], 1)} %${around}`);
      }).filter(Boolean);
      const where = x === null ? "in the end" : byTime ? `after ${fixed(x, unit > 1 ? 1 : 0)} ${unitName}` : `epoch ${Math.round(x)}`;
      readout.replaceChildren(...(means.length ? [h("span", null, `${where}:`), ...spans] : []));
    };
    const draw = (u) => {
      const { ctx } = u;
      const ratio = devicePixelRatio || 1;
      ctx.save();
      ctx.lineWidth = 1.5 * ratio;
      ctx.font = `600 ${14 * ratio}px system-ui, sans-serif`;
      const [left, bottom] = [u.bbox.left, u.bbox.top + u.bbox.height];
      const inside = (x) => x >= left && x <= left + u.bbox.width;
      for (const mark of marks) {
        const [x, y] = [u.valToPos(mark.x, "x", true), u.valToPos(mark.y, "y", true)];
        if (!inside(x)) continue;
        ctx.strokeStyle = text;
        ctx.setLineDash([5 * ratio, 4 * ratio]);
        ctx.beginPath();
        ctx.moveTo(x, bottom);
        ctx.lineTo(x, y);
        ctx.lineTo(left + u.bbox.width, y);
        ctx.stroke();
        ctx.setLineDash([]);
        ctx.fillStyle = resolved("var(--surface)");
        ctx.strokeStyle = mark.stroke;
        ctx.beginPath();
        ctx.arc(x, y, 5.5 * ratio, 0, 7);
        ctx.fill();
        ctx.stroke();
        ctx.fillStyle = resolved("var(--text)");
        const right = x < left + u.bbox.width * 0.75;
        ctx.textAlign = right ? "left" : "right";
        ctx.fillText(mark.text, x + (right ? 8 : -8) * ratio, bottom - 8 * ratio);
      }
      ctx.restore();
    };
    charts.get(host)?.chart?.destroy();
    host.replaceChildren();
    if (!tables.length) {
      host.append(h("p", { class: "notice" }, "No run of this cell is recorded, so there are no curves yet."));
      charts.delete(host);
      return;
    }
    host.setAttribute("role", "img");
    host.setAttribute("aria-label", `Test accuracy by ${byTime ? "wall time" : "epoch"}. ${ends.map((end) => `${end.text} ends at ${fixed(end.y)} %`).join(", ")}.`);
    const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, labelFont: font, labelSize: 22, labelGap: 0 };
    const size = () => ({ width: Math.max(host.clientWidth || 600, 200), height: options.height });
    const chart = new uPlot({
      ...size(),
      scales: { x: { time: false }, y: {} },
      legend: { show: false },
      cursor: { y: false, points: { show: false } },
      axes: [{ ...axis, label: byTime ? `wall time (${unitName})` : "epoch", size: 34, incrs: byTime ? undefined : [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000] }, { ...axis, label: "test accuracy (%)", size: 48 }],
      series, bands,
      hooks: {
        draw: [draw],
        setCursor: [(u) => say(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)],
      },
    }, uPlot.join(tables), host);
    const again = () => drawChart(host, readout, suite, cell, options);
    const watch = charts.get(host)?.watch || new ResizeObserver(() => {
      if (!host.isConnected) return forget(host);
      const { width, height } = size();
      const now = charts.get(host).chart;
      if (now.width !== width) now.setSize({ width, height });
    });
    watch.observe(host);
    charts.set(host, { chart, again, watch });
    say(null);
  }
  function forget(host) {
    charts.get(host).watch.disconnect();
    charts.get(host).chart.destroy();
    charts.delete(host);
  }

  // ---- One cell: everything there is about it

  function drawDetail() {
    const dialog = $("detail");
    const suite = current();
    const wanted = view.cell && suite.cells.find((cell) => nameOf(cell) === view.cell);
    if (!wanted) {
      if (dialog.open) dialog.close();
      shownCell = "";
      return;
    }
    const key = `${suite.suite} ${view.cell} ${view.epoch}`;
    if (key !== shownCell) {
      dialog.replaceChildren(...detail(suite, wanted));
      dialog.scrollTop = 0;
    }
    shownCell = key;
    if (!dialog.open) dialog.showModal();
    dialog.querySelectorAll(".chart").forEach((host) => charts.get(host)?.chart.setSize({ width: host.clientWidth, height: charts.get(host).chart.height }));
  }
  function closed() {
    const cell = view.cell;
    shownCell = "";
    $("detail").replaceChildren();
    if (!cell) return;
    go({ cell: "" });
    const row = [...document.querySelectorAll("#rows tr")].find((tr) => tr.dataset.cell === cell);
    (row ? row.querySelector("button") : $("filter-q")).focus();
  }
  function step(by) {
    const cells = shown();
    const place = cells.findIndex((cell) => nameOf(cell) === view.cell);
    const next = cells[(place + by + cells.length) % cells.length];
    if (next) go({ cell: nameOf(next) });
  }

  function detail(suite, cell) {
    const host = h("div", { class: "chart" });
    const readout = h("p", { class: "readout" });
    const options = { axis: "epochs", seeds: false, height: innerWidth < 600 ? 300 : 380 };
    const redraw = (changes) => { Object.assign(options, changes); drawChart(host, readout, suite, cell, options); };
    const runs = cell.arms.flatMap((arm) => arm.runs.map((run) => [arm, run]));
    const data = cell.data;
    const titled = (title, ...content) => h("section", { "aria-label": title }, h("h3", null, title), content);
    queueMicrotask(() => redraw({}));
    return [
      h("header", null,
        h("h2", { id: "detail-title" }, cell.model, h("span", { class: "muted" }, " on "), cell.dataset),
        h("div", null,
          suite.cells.length > 1 ? [["‹", "Previous row", -1], ["›", "Next row", 1]].map(([sign, label, by]) => h("button", { type: "button", "aria-label": label, click: () => step(by) }, sign)) : null,
          h("button", { type: "button", id: "close", autofocus: "", click: () => $("detail").close() }, "Close"))),
      h("div", { class: "body" },
        h("div", { class: "answers" }, answers(suite, cell).map((text) => h("p", { class: "answer" }, text)),
          data ? h("p", { class: "muted small", style: "margin:0" }, `${plural(data.train_images, "training image")}, ${data.classes} classes, evaluated on ${plural(data.test_images, "image")} (${data.evaluated_on}).`) : null),
        h("section", { "aria-label": "Curves" },
          runs.length ? h("div", { class: "controls" }, choice("By", { epochs: "By epoch", time: "By wall time" }, options.axis, (axis) => redraw({ axis })),
            h("label", { class: "tick" }, h("input", { type: "checkbox", id: "seeds", change: (event) => redraw({ seeds: event.target.checked }) }), "Single seeds")) : null,
          host, readout,
          runs.length ? h("p", { class: "muted small", style: "margin:.4rem 0 0" }, "Lines: mean over the seeds that came to an end; bands: ± 1 standard deviation. Circle: where a guided run first has the accuracy that the baseline of its seed ends with, mean over seeds.") : null),
        titled("Run it yourself", h("div", { class: "copies" }, cell.arms.map((arm) => {
          const run = arm.runs[0];
          return h("div", null, h("p", null, dot(suite, arm.guidance), ` ${arm.guidance}${run ? "" : ", not run yet"}`), commandLine(run ? repeat(suite, run) : `${arm.command} --seed 0`, `run ${arm.guidance}`));
        })), h("p", { class: "muted small", style: "margin:.6rem 0 0" }, `A guided run trains its guide first, once.${runs.length ? " Every run below has its own command." : ""}`)),
        runs.length ? h("div", { class: cell.arms.length > 2 ? "pair stacked" : "pair" },
          titled("In numbers", numbers(suite, cell)),
          titled("Environment", environments(suite, cell, runs))) : null,
        runs.length ? titled("Every run", everyRun(suite, runs)) : null,
        titled("Recipes", cell.arms.map((arm) => recipe(suite, arm))),
        cell.related.length || cell.arms.some((arm) => arm.published.length) ? titled("Published numbers", published(cell)) : null),
    ];
  }
  const repeat = (suite, run) => `${suite.commands[run.command]} --seed ${run.seed}`;

  /** What the cell says, in words. */
  function answers(suite, cell) {
    const out = [];
    for (const arm of cell.arms) {
      if (arm.state === "not run") out.push(`${arm.guidance} has not been run.`);
      if (arm.state === "diverged") out.push(`${arm.guidance} diverged with every seed.`);
      const gain = gainOf(arm);
      if (gain) {
        const where = `${fixed(Math.abs(gain.mean))} points ${gain.mean < 0 ? "below" : "above"} the baseline`;
        out.push(`${view.epoch === "last" ? `${arm.guidance} ends ${where}` : `The best epoch of ${arm.guidance} is ${where}’s`} (${interval(gain)}).`);
      }
      const reach = arm.reach;
      if (reach && reach.epochs) {
        const inTime = reach.speedup_time ? `, ${times(reach.speedup_time.mean)} in wall time` : "";
        const withGuide = reach.speedup_time_with_guide && inTime ? `, ${times(reach.speedup_time_with_guide.mean)} with the guide’s own training added` : "";
        out.push(`It first has the accuracy that the baseline ends with after ${fixed(reach.epochs.mean, 1)} epochs (${reach.reached} of ${plural(reach.pairs, "seed")}): ${times(reach.speedup_epochs.mean)} sooner in epochs${inTime}${withGuide}.`);
      } else if (reach && reach.pairs) out.push("It never has the accuracy that the baseline ends with.");
    }
    return out;
  }

  function numbers(suite, cell) {
    const { arms } = cell;
    const gain = (g) => (g ? [signed(g.mean), g.low === null ? null : h("small", null, `${signed(g.low)} to ${signed(g.high)}`)] : null);
    const cost = (value) => (arm) => (arm.cost ? value(arm.cost) : null);
    const reach = (value) => (arm) => (arm.reach && arm.reach.pairs ? value(arm.reach) : null);
    const rows = [
      ["last epoch, %", (arm) => arm.last && spread(arm.last)],
      ["best epoch, %", (arm) => arm.best && spread(arm.best)],
      ["gain, last epoch", (arm) => gain(arm.gain)],
      ["gain, best epoch", (arm) => gain(arm.gain_best)],
      ["epochs to the baseline’s end", reach((r) => [r.epochs ? spread(r.epochs, 1) : "not reached", h("small", null, `${r.reached} of ${r.pairs}`, hidden(" seeds"))])],
      ["speed-up in epochs", reach((r) => r.speedup_epochs && times(r.speedup_epochs.mean))],
      ["speed-up in wall time", reach((r) => r.speedup_time && times(r.speedup_time.mean))],
      ["… with the guide’s training", reach((r) => r.speedup_time_with_guide && times(r.speedup_time_with_guide.mean))],
      ...Object.keys(arms[0].progress.epochs_to).map((part) => [`epochs to ${part} % of own end`, (arm) => arm.progress.epochs_to[part] && spread(arm.progress.epochs_to[part], 1)]),
      ["mean accuracy over epochs, %", (arm) => arm.progress.area && spread(arm.progress.area)],
      ["seeds", (arm) => (arm.seeds.length ? String(arm.seeds.length) : null)],
      ["seeds that diverged", (arm) => (arm.diverged.length ? String(arm.diverged.length) : null)],
      ["parameters", cost((c) => c.parameters && c.parameters.toLocaleString("en"))],
      ["GFLOPs an image, forward", cost((c) => c.flops && fixed(c.flops / 1e9, 3))],
      ["training images/s", cost((c) => c.images_per_second && spread(c.images_per_second, 0))],
      ["time a run", cost((c) => c.seconds && duration(c.seconds.mean))],
      ["all runs", cost((c) => `${fixed(c.device_hours, c.device_hours < 10 ? 2 : 0)} ${c.device_unit}`)],
      ["peak memory, MiB", cost((c) => c.peak_memory_mib && spread(c.peak_memory_mib, 0))],
    ].filter(([, value]) => arms.some((arm) => value(arm)));
    return scroller("In numbers", h("table", null,
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "mean ± std over seeds"), arms.map((arm) => h("th", { scope: "col" }, dot(suite, arm.guidance), " ", arm.guidance)))),
      h("tbody", null, rows.map(([name, value]) => h("tr", null, h("th", { scope: "row" }, name), arms.map((arm) => h("td", null, value(arm) || "—")))))));
  }
  const scroller = (label, table) => h("div", { class: "scroller", role: "region", "aria-label": `${label}: the table`, tabindex: "0" }, table);

  function everyRun(suite, runs) {
    return scroller("Every run", h("table", { class: "runs" },
      h("thead", null, h("tr", null, ["guidance", "seed", "last, %", "best, %", "time", "images/s", "command", "on", "code"].map((name, i) => h("th", { scope: "col", class: i === 0 || i > 6 ? "left" : "" }, name)))),
      h("tbody", null, runs.map(([arm, run]) => h("tr", null,
        h("th", { scope: "row" }, dot(suite, arm.guidance), " ", arm.guidance), h("td", null, run.seed),
        run.diverged ? h("td", { colspan: "2" }, `diverged in epoch ${run.epochs}`) : [h("td", null, fixed(run.last_accuracy)), h("td", null, fixed(run.best_accuracy), " ", h("small", null, `epoch ${run.best_epoch}`))],
        h("td", null, duration(run.seconds)), h("td", null, fixed(run.images_per_second, 0)),
        h("td", null, copyButton(() => repeat(suite, run), `Copy the command of ${arm.guidance}, seed ${run.seed}`)),
        h("td", { class: "left" }, suite.environments[run.on].on),
        h("td", { class: "left" }, run.commit ? h("code", null, String(run.commit).slice(0, 10)) : "not a checkout", run.dirty ? h("small", null, "with changes that were not committed") : null))))));
  }

  function recipe(suite, arm) {
    const text = h("pre", { tabindex: "0" }, arm.recipe || "");
    return h("details", null, h("summary", null, dot(suite, arm.guidance), ` ${arm.id} `, h("code", { class: "muted" }, arm.hash.slice(0, 8))),
      h("div", { class: "do" }, h("p", null, "Hash ", h("code", null, arm.hash)), arm.recipe ? copyButton(() => arm.recipe, `Copy the recipe of ${arm.guidance}`, text) : h("p", null, `Nothing has been run with it; python -m bench show ${arm.id} --suite ${suite.suite} prints it.`)),
      arm.recipe ? text : null);
  }

  function environments(suite, cell, runs) {
    const used = [...new Set(runs.map(([, run]) => run.on))];
    const guides = suite.guides.filter((guide) => guide.id.slice(guide.id.indexOf("/") + 1) === cell.dataset);
    const out = used.map((place) => {
      const { on, ...facts } = suite.environments[place];
      const who = cell.arms.map((arm) => [arm, arm.runs.filter((run) => run.on === place).map((run) => run.seed)]).filter(([, seeds]) => seeds.length).map(([arm, seeds]) => `${arm.guidance} ${seedsOf(seeds)}`).join("; ");
      return h("div", { class: "notice", style: "margin-bottom:.6rem" }, h("p", null, h("span", { class: "strong" }, on), h("span", { class: "muted" }, ` (${who})`)),
        h("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value !== null).map(([name, value]) => [h("dt", null, name), h("dd", null, asText(value))])));
    });
    for (const guide of guides)
      out.push(h("p", { style: "margin:.75rem 0 0" }, `Guide ${guide.id}, seed ${guide.seed}, one for all seeds of the students, ${guide.select} epoch kept: ${fixed(guide[`${guide.select}_accuracy`])} % after ${guide.epochs} epochs, ${duration(guide.seconds)}.`));
    return out;
  }

  function published(cell) {
    const rows = [...cell.arms.flatMap((arm) => arm.published.map((row) => [row, arm])), ...cell.related.map((row) => [row, null])];
    return [h("p", { class: "muted small" }, "Best test epoch, in %. Compared: with which arm here, where it is the same recipe; the others are of other methods, or of the same under other settings."),
      scroller("Published numbers", h("table", { class: "published" },
        h("thead", null, h("tr", null, ["work", "method", "%", "compared", "provenance", "source"].map((name, i) => h("th", { scope: "col", class: i < 2 || i > 3 ? "left" : "" }, name)))),
        h("tbody", null, rows.map(([row, arm]) => h("tr", null, h("th", { scope: "row" }, row.work), h("td", { class: "left" }, row.method, h("small", null, `${row.resolution} px, ${row.epochs} epochs`)), h("td", null, fixed(row.top1)),
          h("td", null, arm ? [arm.guidance, arm.best ? h("small", null, `here ${signed(arm.best.mean - row.top1)}`) : null] : "—"), h("td", { class: "left" }, row.provenance), h("td", { class: "text" }, row.source))))))];
  }

  // ---- The beginning

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function themed() {
    $("theme").textContent = isDark() ? "Light theme" : "Dark theme";
    for (const { again } of [...charts.values()]) again();
  }
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
  $("detail").addEventListener("close", closed);
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  addEventListener("hashchange", () => { if (location.hash.slice(1) !== address() && readAddress()) apply(); });
  if (suites.length > 1)
    $("suites").append(...suites.map((suite) => h("button", { type: "button", value: suite.suite, click: () => go({ ...DEFAULTS, epoch: view.epoch, suite: suite.suite }) }, suite.suite)));
  else $("suites").remove();
  if (!suites.length) $("suite").append(h("p", { class: "notice" }, "Nothing is recorded yet. ./run_all.sh quick records the first suite."));
  themed();
  readAddress();
  apply();
})();
