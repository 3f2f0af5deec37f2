// What a reader would see and do; the answers are left in the page.
{
  const found = {};
  const table = document.getElementById("scores-1").nextElementSibling.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent === "SFT");
  const order = () => [...table.tBodies].filter((body) => body.className === "rows")
    .map((body) => [...body.rows].map((row) => row.cells[0].textContent).join(" ")).join(" | ");
  const click = () => heads[column].querySelector("button").click();
  found.unsorted = order();
  click();
  found.descending = order();
  click();
  found.ascending = order();
  click();
  found.again = order();
  const links = [...document.querySelectorAll("a")];
  found.links = links.length;
  found.broken = links.filter((link) => !document.querySelector(link.getAttribute("href"))).length;
  const folded = () => [...document.querySelectorAll("details")].filter((it) => !it.open).length;
  found.folded = folded();
  dispatchEvent(new Event("beforeprint"));
  found.foldedInPrint = folded();
  dispatchEvent(new Event("afterprint"));
  found.foldedAfterwards = folded();
  // A mean leads to a row that is folded away.
  const mean = table.querySelector("tbody.summary a");
  location.hash = mean.getAttribute("href");
  dispatchEvent(new Event("hashchange"));
  found.unfolded = document.querySelector(":target").closest("details").open;
  found.marked = getComputedStyle(mean).textDecorationLine;
  const background = () => getComputedStyle(document.body).backgroundColor;
  const light = background();
  document.getElementById("theme").click();
  found.themes = new Set([light, background()]).size;
  found.overflow = document.documentElement.scrollWidth > innerWidth;
  found.errors = window.errors;
  const answer = document.createElement("pre");
  answer.textContent = `FOUND${JSON.stringify(found)}FOUND`;
  document.body.append(answer);
}
