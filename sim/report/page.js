"use strict";
// A click on a heading sorts its table: numbers by value, what is no number last, and again the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      const value = (row) => {
        const cell = row.cells[column];
        const given = cell.dataset.value;
        return given === undefined ? cell.textContent : given === "" ? NaN : Number(given);
      };
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (typeof x === "string" || typeof y === "string") return String(x).localeCompare(String(y), "en", {numeric: true});
        return x - y;
      };
      const rows = Array.from(table.tBodies[0].rows);
      const absent = (row) => Number.isNaN(value(row));
      const there = rows.filter((row) => !absent(row)).sort(compare);
      if (descending) there.reverse();
      table.tBodies[0].append(...there, ...rows.filter(absent));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
document.documentElement.dataset.sortable = String(document.querySelectorAll("table.sortable").length);
