"use strict"; // Sorting and filtering of what has data-list; the page is complete without it.
for (const list of document.querySelectorAll("[data-list]")) {
  const body = list.tBodies ? list.tBodies[0] : list;
  const items = [...body.children];
  const box = document.createElement("input");
  box.type = "search";
  box.className = "filter";
  box.placeholder = "filter " + list.dataset.list;
  box.setAttribute("aria-label", box.placeholder);
  (list.closest(".wide") || list).before(box);
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const item of items) {
      const text = item.textContent.toLowerCase();
      item.hidden = !item.matches(".kind") && !words.every((word) => text.includes(word));
    }
  });
  const heads = [...list.querySelectorAll("thead th")];
  for (const [column, head] of heads.entries()) {
    const sort = () => {
      const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
      let part = 0; // rows stay below the heading of their kind
      const keyed = items.map((row) => {
        const title = row.matches(".kind");
        const cell = title ? row : row.cells[column];
        const text = (head.matches(".number") ? cell : cell.firstChild).textContent.trim(); // without a flag
        const number = head.matches(".number") ? parseFloat(text.replaceAll(",", "")) : 0;
        return { row, part: (part += title), title, text, number, none: Number.isNaN(number) };
      });
      keyed.sort((a, b) => a.part - b.part || b.title - a.title || a.none - b.none
        || turn * ((a.none ? 0 : a.number - b.number) || a.text.localeCompare(b.text, undefined, { numeric: true })));
      body.append(...keyed.map((key) => key.row));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  }
}
