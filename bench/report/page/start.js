// What is shown when, and the events of the whole page.

function showView() {
  const section = sectionNow();
  if (!section) return;
  sections.forEach((one) => { one.hidden = one !== section; });
  for (const button of byId("suites").children) button.setAttribute("aria-pressed", button.value === view.suite);
  for (const panel of section.querySelectorAll("[data-curves]")) {
    if (!figures.has(panel.querySelector(".chart"))) drawCurves(panel, view.suite, panel.dataset.curves, { height: 320 });
  }
  showTable(section);
  showCell(section);
}

const darkMedia = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (darkMedia.matches ? "dark" : "light")) === "dark";
function showTheme() {
  byId("theme").textContent = isDark() ? "Light theme" : "Dark theme";
  for (const { redraw } of [...figures.values()]) redraw();
}

/** Copy the text in a button's data-copy, else the code beside it. If the browser forbids copying, select that code. */
async function copy(button) {
  const code = button.parentElement.querySelector("pre, code");
  let result = "Copied";
  try {
    await navigator.clipboard.writeText(button.dataset.copy || code.textContent.trim());
  } catch {
    if (code) getSelection().selectAllChildren(code);
    result = code ? "Selected" : "Not allowed";
  }
  button.textContent = result;
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

document.addEventListener("submit", (event) => event.preventDefault()); // Enter in a field
document.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-copy]");
  if (button) copy(button);
});
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
byId("suites").addEventListener("click", ({ target }) => { if (target.value) go({ ...DEFAULTS, suite: target.value }); });
darkMedia.addEventListener("change", showTheme);
addEventListener("hashchange", () => { if (location.hash.slice(1) !== address() && readAddress()) showView(); });
showTheme();
readAddress();
showView();
