// Threshold, filters and sorting of a review page. The page is whole without it; this only hides, counts and orders.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const annotated = byId("recall") !== null;
  const rows = all("#finding-table tbody tr");
  const scanRows = all("#scan-table tbody tr[data-scan]");
  const otherRows = all("#scan-table tbody tr.other"); // scans that failed, or were done earlier
  const many = Number(byId("scan-table").dataset.many);
  const partners = new Map(rows.map((row) => [row.dataset.key, []])); // card, chip and marks of each row
  for (const item of all(".card, .mark, .chip")) partners.get(item.dataset.key).push(item);

  const words = {
    candidate: ["C", "candidate"],
    hit: ["H", "hit"],
    again: ["H", "hit on a fracture that is found already"],
    false: ["X", "false positive"],
    missed: ["M", "missed fracture"],
  };

  // What a finding is at a threshold: a fracture whose best candidate does not count is missed.
  function stateAt(row, threshold) {
    if (row.dataset.score === undefined || Number(row.dataset.score) >= threshold) return row.dataset.outcome;
    return row.dataset.outcome === "hit" ? "missed" : "";
  }

  function setState(row, state) {
    const [letter, word] = words[state];
    for (const item of [row, ...partners.get(row.dataset.key)]) {
      item.dataset.state = state;
      for (const badge of all(".badge, .letter", item)) badge.textContent = letter;
      for (const text of all(".word", item)) {
        const below = state === "missed" && row.dataset.outcome === "hit";
        text.textContent = below ? "missed: its candidate scores less" : word;
      }
    }
  }

  function setCell(cell, value) {
    cell.textContent = value;
    cell.dataset.value = value;
  }

  function update() {
    const threshold = Number(byId("threshold").value);
    const name = byId("name-filter").value.trim().toLowerCase();
    const side = byId("side-filter").value;
    const outcome = annotated ? byId("outcome-filter").value : "";
    const verdict = byId("verdict-filter").value;
    const total = { candidates: 0, hit: 0, missed: 0, false: 0 };
    const perScan = scanRows.map(() => ({ candidates: 0, hit: 0, missed: 0, false: 0, shown: 0 }));
    const foundOfType = new Map();
    let shownRows = 0;
    for (const row of rows) {
      const state = stateAt(row, threshold);
      const own = perScan[Number(row.dataset.scan)];
      if (state) {
        for (const count of [total, own]) {
          if (state !== "missed") count.candidates += 1;
          if (state in count) count[state] += 1;
        }
        if (state === "hit") foundOfType.set(row.dataset.type, (foundOfType.get(row.dataset.type) || 0) + 1);
        if (row.dataset.state !== state) setState(row, state);
      }
      const shown = state !== "" &&
        row.dataset.name.toLowerCase().includes(name) &&
        (side === "" || row.dataset.side === side) &&
        (outcome === "" || state === outcome || (outcome === "hit" && state === "again")) &&
        (verdict === "" || row.dataset.verdict === verdict);
      row.hidden = !shown;
      for (const item of partners.get(row.dataset.key)) item.toggleAttribute("hidden", !shown);
      shownRows += shown;
      own.shown += shown;
    }
    byId("nothing").hidden = shownRows > 0;
    showCounts(total, perScan, foundOfType);
    showScans(perScan, name);
    document.dispatchEvent(new Event("shown"));
  }

  function showCounts(total, perScan, foundOfType) {
    byId("n-candidates").textContent = total.candidates;
    byId("n-noun").textContent = total.candidates === 1 ? "candidate" : "candidates";
    byId("at-score").textContent = Number(byId("threshold").value);
    byId("n-scans").textContent = perScan.filter((scan) => scan.candidates > 0).length;
    byId("n-many").textContent = perScan.filter((scan) => scan.candidates >= many).length;
    if (!annotated) return;
    const fractures = total.hit + total.missed;
    const recall = fractures ? total.hit / fractures : NaN;
    const falsePerScan = total.false / scanRows.length;
    byId("recall").textContent = fractures ? recall.toFixed(3) : "–";
    byId("n-found").textContent = total.hit;
    byId("n-missed").textContent = total.missed;
    byId("n-false").textContent = total.false;
    byId("fp").textContent = falsePerScan.toFixed(2);
    for (const row of all("#types tbody tr")) {
      const found = foundOfType.get(row.dataset.type) || 0;
      row.querySelector(".found").textContent = found;
      row.querySelector(".recall").textContent = (found / Number(row.dataset.fractures)).toFixed(3);
    }
    const dot = byId("froc-now");
    const { left, right, top, bottom, most } = dot.dataset;
    const along = (from, to, share) => Number(from) + (Number(to) - Number(from)) * share;
    dot.setAttribute("cx", along(left, right, Math.min(falsePerScan / Number(most), 1)));
    dot.setAttribute("cy", along(bottom, top, recall || 0));
  }

  function showScans(perScan, name) {
    for (const row of otherRows) row.hidden = !row.dataset.name.toLowerCase().includes(name);
    for (const row of scanRows) {
      const counts = perScan[Number(row.dataset.scan)];
      const named = row.dataset.name.toLowerCase().includes(name);
      row.hidden = !named;
      setCell(row.querySelector(".candidates"), counts.candidates);
      setCell(row.querySelector(".many"), counts.candidates >= many ? "yes" : "no");
      if (annotated) {
        setCell(row.querySelector(".hits"), counts.hit);
        setCell(row.querySelector(".missed"), counts.missed);
        setCell(row.querySelector(".false"), counts.false);
      }
      const section = byId(`s${row.dataset.scan}`);
      section.hidden = !named;
      section.querySelector(".none").hidden = counts.shown > 0;
    }
  }

  function sortBy(header) {
    const table = header.closest("table");
    const column = [...header.parentElement.children].indexOf(header);
    const up = header.getAttribute("aria-sort") !== "ascending";
    const numeric = header.classList.contains("number");
    const value = (row) => row.children[column].dataset.value;
    const order = numeric
      ? (a, b) => Number(value(a)) - Number(value(b))
      : (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
    for (const other of all("th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
  }

  // The list shows the axial view of each card; the page holds it once.
  for (const row of rows) {
    const card = byId(row.dataset.key);
    const picture = card.querySelector(".views img");
    const key = row.querySelector("img.key");
    if (picture) key.src = picture.src;
    else key.remove();
  }
  // What a link leads to must not lie below the bar, whose rows depend on the width of the window.
  const bar = document.querySelector(".tool");
  let linked = document.getElementById(location.hash.slice(1)); // the page was opened at it
  new ResizeObserver(() => {
    document.documentElement.style.setProperty("--covered", `${bar.offsetHeight + 8}px`);
    linked?.scrollIntoView();
    linked = null;
  }).observe(bar);
  // Pictures that were never in view would be missing in print and in a picture of the whole page.
  const loadAll = () => { for (const picture of all("img[loading]")) picture.removeAttribute("loading"); };
  window.addEventListener("beforeprint", loadAll);
  if (!document.body.classList.contains("many")) loadAll();
  for (const button of all("th[aria-sort] button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }
  const slider = byId("threshold");
  const exact = byId("threshold-number");
  slider.addEventListener("input", () => { exact.value = slider.value; update(); });
  exact.addEventListener("input", () => { slider.value = exact.value; update(); });
  for (const id of ["name-filter", "side-filter", "outcome-filter", "verdict-filter"]) {
    if (byId(id)) byId(id).addEventListener("input", update);
  }
  byId("lines").addEventListener("change", (event) => {
    document.body.classList.toggle("bare", !event.target.checked);
  });
  document.addEventListener("verdict", () => { if (byId("verdict-filter").value) update(); });
  const form = byId("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    document.body.classList.remove("bare");
    setTimeout(update); // when the fields have their first values again
  });
  update();
})();
