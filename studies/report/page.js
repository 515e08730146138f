const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|\s)/i;

function order(a, b) {
  const [x, y] = [NUMBER.exec(a), NUMBER.exec(b)];
  if (x && y) return parseFloat(x[0]) - parseFloat(y[0]);
  if (x || y) return x ? -1 : 1;
  return a.localeCompare(b);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [row.cells[heading.cellIndex].textContent.trim(), row]);
    keyed.sort(([a], [b]) => direction * order(a, b));
    body.append(...keyed.map(([, row]) => row));
  });
}

for (const input of document.querySelectorAll(".filter input")) {
  const rows = [...input.closest(".filter").nextElementSibling.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
  const status = input.closest(".filter").querySelector("[role=status]");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !words.every((word) => texts[i].includes(word));
      shown += !row.hidden;
    });
    status.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  });
}
