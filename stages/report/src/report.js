(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
  dark.addEventListener("change", label);
  button.hidden = false;
  label();

  // Where a link leads is seen, and so is all of the page on paper.
  const folded = [...document.querySelectorAll("details")];
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    const around = target && target.closest("details");
    if (around && !around.open) { around.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", unfold);
  unfold();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = folded.filter((it) => !it.open);
    closed.forEach((it) => { it.open = true; });
  });
  addEventListener("afterprint", () => { closed.forEach((it) => { it.open = false; }); });

  // Rows stay within their section; cells without a value come last in both directions.
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
  };
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    if (cell.classList.contains("number")) return null;
    return cell.textContent.trim() || null;
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    const bodies = [...table.querySelectorAll("tbody.rows")];
    const original = bodies.map((body) => [...body.rows]);
    const sort = (column) => {
      const head = heads[column];
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const next = { [first]: second, [second]: null }[head.getAttribute("aria-sort")];
      const order = next === undefined ? first : next;
      heads.forEach((it) => it.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      bodies.forEach((body, place) => {
        const rows = [...original[place]];
        if (order) rows.sort((a, b) => compare(key(a, column), key(b, column), sign));
        body.append(...rows);
      });
    };
    heads.forEach((head, column) => {
      const inner = document.createElement("button");
      inner.type = "button";
      inner.append(...head.childNodes);
      inner.addEventListener("click", () => sort(column));
      head.append(inner);
    });
  }
})();
