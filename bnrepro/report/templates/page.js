"use strict";
const root = document.documentElement;
const remembered = { // a page from disk may not be allowed to remember
  get() { try { return localStorage.getItem("theme"); } catch { return null; } },
  set(theme) { try { localStorage.setItem("theme", theme); } catch { /* for this time only */ } },
};
const dark = () =>
  (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) ===
  "dark";
const toggle = document.getElementById("theme");
function apply(theme) {
  root.dataset.theme = theme;
  toggle.textContent = theme === "dark" ? "Light" : "Dark";
}
apply(remembered.get() || (dark() ? "dark" : "light"));
toggle.addEventListener("click", () => {
  const theme = dark() ? "light" : "dark";
  remembered.set(theme);
  apply(theme);
});

const ledger = document.getElementById("ledger");
if (ledger) {
  const body = ledger.tBodies[0];
  const rows = [...body.rows];
  const source = document.getElementById("source");
  const verdict = document.getElementById("verdict");
  const shown = document.getElementById("shown");
  function filter() {
    for (const row of rows) {
      const from = !source.value || row.dataset.source.split(" ").includes(source.value);
      row.hidden = !(from && (!verdict.value || row.dataset.verdict === verdict.value));
    }
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = `${count} of ${rows.length} statements`;
  }
  source.addEventListener("change", filter);
  verdict.addEventListener("change", filter);
  filter();
  const headers = [...ledger.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      // Numbers have the same number of decimals, so that their text sorts by size.
      const key = (row) => row.cells[column].textContent.trim();
      const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      body.append(...rows.sort((a, b) => (down ? order(b, a) : order(a, b))));
    });
  });
}
