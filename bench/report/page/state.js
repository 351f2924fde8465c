// The view, which is what the page shows now, and the address, which holds the view so that a link restores it.

const byId = (id) => document.getElementById(id);
const sections = [...document.querySelectorAll("section.suite")]; // one per suite
const DEFAULTS = {
  suite: sections[0]?.dataset.suite ?? "",
  sort: "", // the key of a column and a direction: "gain-desc"
  search: "",
  dataset: "",
  student: "",
  variant: "", // the values of varied keys
  method: "",
  status: "",
  cell: "", // the id of the row whose dialog is open
};
const view = { ...DEFAULTS };

const sectionNow = () => sections.find((section) => section.dataset.suite === view.suite);

/** Take the view from the address. Returns false if the address names a place on the page, not a view. */
function readAddress() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return false;
  const given = new URLSearchParams(text);
  for (const name of Object.keys(DEFAULTS)) view[name] = given.get(name) || DEFAULTS[name];
  if (!sectionNow()) view.suite = DEFAULTS.suite;
  return true;
}

function address() {
  const changed = Object.entries(view).filter(([name, value]) => name === "suite" || value !== DEFAULTS[name]);
  return new URLSearchParams(changed).toString(); // never empty: an empty address scrolls to the top of the page
}

/** Change the view. A dialog that opens is a step in the browser's history, so that Back closes it. */
function go(changes) {
  if (Object.entries(changes).every(([name, value]) => view[name] === value)) return;
  const opens = changes.cell && !view.cell;
  Object.assign(view, changes);
  if (location.hash.slice(1) !== address()) {
    if (opens) location.hash = address();
    else location.replace(`#${address()}`);
  }
  showView();
}
