// Elements, numbers and words. Text from records reaches the page through `h` alone: as text nodes, or as values of
// attributes that cannot hold code.

const byId = (id) => document.getElementById(id);

/** An element. Attributes that are functions become event listeners; null and false ones, and null children, are left out. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value != null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== ""));
  return element;
}
const small = (...children) => h("small", {}, ...children);
const hidden = (text) => h("span", { class: "hidden" }, text); // for screen readers only
const none = (text) => h("span", { class: "none" }, text);

const fixed = (value, digits = 2) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
const signed = (value, digits = 2) => (value < 0 ? "" : "+") + fixed(value, digits);
const times = (value) => `${fixed(value, 1)}×`;
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const duration = (seconds) =>
  seconds < 100 ? `${fixed(seconds, 0)} s` : seconds < 6000 ? `${fixed(seconds / 60, 1)} min` : `${fixed(seconds / 3600, 1)} h`;
const millions = (count) => (count >= 1e6 ? `${fixed(count / 1e6, 1)} M` : `${fixed(count / 1e3, 0)} k`);

/** What `draw` makes of a value, or a dash if there is none. */
const orDash = (value, draw) => (value == null ? "—" : draw(value));
const meanStd = (mean, std, digits = 2) =>
  orDash(mean, () => fixed(mean, digits) + (std == null ? "" : ` ± ${fixed(std, digits)}`));

/** A nested value of a record as one line of text. */
function inWords(value) {
  if (Array.isArray(value)) return value.map(inWords).join(", ");
  if (value === null || typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, inner]) => `${name} ${inWords(inner)}`).join(", ");
}

/** A table that scrolls sideways. headers: texts; rows: arrays of cells, the first of which is the header of its row. */
function dataTable(label, headers, rows, kind = "") {
  return h("div", { class: "scroller", role: "region", "aria-label": `${label}, scrolls sideways`, tabindex: "0" },
    h("table", { class: kind },
      h("thead", {}, h("tr", {}, headers.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, rows.map(([first, ...others]) =>
        h("tr", {}, h("th", { scope: "row" }, first), others.map((content) => h("td", {}, content)))))));
}

/** A button that copies a text; where the browser forbids that, it selects the element `shown`, which holds the text. */
function copyButton(text, label, shown = null) {
  const copy = async () => {
    let result = "Copied";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      if (shown) getSelection().selectAllChildren(shown);
      result = shown ? "Selected" : "Not allowed";
    }
    button.textContent = result;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const button = h("button", { type: "button", "aria-label": label, click: copy }, "Copy");
  return button;
}

function commandLine(text, label) {
  const words = text.split(" ").map((word, i) => [i ? " " : "", h("span", {}, word)]); // a line breaks between words only
  const code = h("code", {}, words);
  return h("div", { class: "command" }, code, copyButton(text, `Copy: ${label}`, code));
}
