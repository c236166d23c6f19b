"use strict";
// Tooltips for whatever carries data-tip, and tables that sort by a click on a column's head. Text is only ever set as text.
(() => {
  const tip = document.getElementById("tip");
  const show = (target, x, y) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x - box.width / 2), innerWidth - box.width - 8);
    const above = y - box.height - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 4 ? y + 18 : above}px`;
  };
  addEventListener("pointermove", (event) => {
    const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (target) show(target, event.clientX, event.clientY);
    else tip.hidden = true;
  });
  addEventListener("pointerout", (event) => {
    if (!event.relatedTarget) tip.hidden = true;
  });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return "";
    const value = cell.dataset.sort ?? cell.textContent;
    const number = Number(value);
    return value !== "" && !Number.isNaN(number) ? number : value;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = head.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row, index) => ({ row, index, key: key(row, column) }));
        rows.sort((a, b) => sign * compare(a.key, b.key) || a.index - b.index);
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }
})();
