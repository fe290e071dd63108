"use strict";
// Pages through every row. Text only ever enters the page as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const size = 50;
  const numeric = new Set(["knob", "calibration", "queries", "steps", "seed", "value", "ci_low", "ci_high", "n", "n_truncated"]);
  const fractional = new Set(["value", "ci_low", "ci_high"]);
  const body = document.getElementById("rows-body");
  const filter = document.getElementById("rows-filter");
  const place = document.getElementById("rows-place");
  const previous = document.getElementById("rows-previous");
  const next = document.getElementById("rows-next");
  let found = data.rows;
  let page = 0;

  const shown = (column, value) => {
    if (value === null) return column === "value" ? "missing" : "";
    return fractional.has(column) ? Number(value).toFixed(4).replace(/^-/, "\u2212") : String(value);
  };
  const draw = () => {
    const first = page * size;
    body.replaceChildren(...found.slice(first, first + size).map((row) => {
      const line = document.createElement("tr");
      data.columns.forEach((column, index) => {
        const cell = document.createElement("td");
        cell.textContent = shown(column, row[index]);
        if (numeric.has(column)) cell.className = "num";
        if (column === "value" && row[index] === null) cell.className = "num missing";
        line.append(cell);
      });
      return line;
    }));
    place.textContent = found.length
      ? `${(first + 1).toLocaleString("en")} to ${Math.min(first + size, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}`
      : "no row fits";
    previous.disabled = page === 0;
    next.disabled = first + size >= found.length;
  };
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = data.rows.filter((row) => {
      const text = row.map((value, index) => (index === data.columns.indexOf("value") && value === null ? "missing" : value)).join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    page = 0;
    draw();
  });
  previous.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  draw();
})();
