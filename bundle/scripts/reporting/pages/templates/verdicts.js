// The reader's verdicts: kept by the browser, apart for each page and scan, and exported as CSV and JSON.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const COLUMNS = ["scan", "id", "center_x_mm", "center_y_mm", "center_z_mm", "score", "verdict", "comment"];
  const VERDICTS = { a: "accepted", r: "rejected", d: "doubtful" };
  const FORMAT = "rib fracture review 1";
  const rows = all("#finding-table tbody tr");
  const candidates = rows.filter((row) => row.dataset.score !== undefined);
  const reviews = new Map(candidates.map((row) => [row, { verdict: "", comment: "" }]));
  const rowOf = new Map(rows.map((row) => [row.dataset.key, row]));
  const chipOf = new Map(all(".chip").map((chip) => [chip.dataset.key, chip]));
  let here = null; // the row whose card the keys are about

  const cardOf = (row) => byId(row.dataset.key);
  const idOf = (row) => Number(row.dataset.key.split("-c")[1]);
  const storeOf = (row) => `rib fracture review ${document.body.dataset.run} ${row.dataset.name}`;
  const tell = (words) => { byId("review-state").textContent = words; };

  function show(row) {
    const { verdict, comment } = reviews.get(row);
    const card = cardOf(row);
    for (const item of [row, card, chipOf.get(row.dataset.key)]) item.dataset.verdict = verdict || "open";
    const cell = row.querySelector(".said");
    cell.textContent = verdict || "none yet";
    cell.dataset.value = verdict;
    for (const button of all("[data-verdict]", card)) {
      button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    }
    const field = card.querySelector("textarea");
    if (field.value !== comment) field.value = comment;
    card.querySelector(".said").textContent = [verdict, comment].filter(Boolean).join(": "); // for print
  }

  function count() {
    const least = Number(byId("threshold").value);
    const due = candidates.filter((row) => Number(row.dataset.score) >= least);
    byId("n-to-review").textContent = due.length;
    byId("n-reviewed").textContent = due.filter((row) => reviews.get(row).verdict).length;
  }

  function save(row) {
    const name = row.dataset.name;
    const said = candidates.filter((other) => other.dataset.name === name).map((other) => [idOf(other), reviews.get(other)]);
    try {
      localStorage.setItem(storeOf(row), JSON.stringify(Object.fromEntries(said)));
    } catch {
      tell("This browser does not keep verdicts: export them before you close the page.");
    }
  }

  function change(row, review) {
    reviews.set(row, { ...reviews.get(row), ...review });
    show(row);
    save(row);
    count();
    document.dispatchEvent(new Event("verdict"));
  }

  // A second press takes a verdict back.
  function judge(row, verdict) {
    change(row, { verdict: reviews.get(row).verdict === verdict ? "" : verdict });
  }

  function kept(row) {
    try {
      return JSON.parse(localStorage.getItem(storeOf(row)) ?? "{}")[idOf(row)] ?? {};
    } catch {
      return {};
    }
  }

  function addControls(row) {
    const form = byId("verdict-form").content.cloneNode(true);
    for (const button of all("button", form)) button.addEventListener("click", () => judge(row, button.dataset.verdict));
    const field = form.querySelector("textarea");
    field.addEventListener("input", () => change(row, { comment: field.value }));
    cardOf(row).querySelector("h4").after(form);
    reviews.set(row, { ...reviews.get(row), ...kept(row) });
    show(row);
  }

  // What the least score shows, and what is reviewed below it.
  function listed() {
    const least = Number(byId("threshold").value);
    return candidates
      .map((row) => ({ row, ...reviews.get(row) }))
      .filter(({ row, verdict, comment }) => Number(row.dataset.score) >= least || verdict || comment)
      .map(({ row, verdict, comment }) => {
        const place = cardOf(row).dataset.place.split(" ").map(Number);
        const values = [row.dataset.name, idOf(row), ...place, Number(row.dataset.score), verdict, comment];
        return Object.fromEntries(COLUMNS.map((column, at) => [column, values[at]]));
      });
  }

  function download(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function exportJson() {
    const content = { format: FORMAT, page: document.body.dataset.run, candidates: listed() };
    download("review.json", "application/json", `${JSON.stringify(content, null, 1)}\n`);
  }

  // With a byte order mark, by which spreadsheets know UTF-8.
  function exportCsv() {
    const cell = (value) => (/[",\r\n;]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
    const lines = [COLUMNS, ...listed().map((item) => COLUMNS.map((column) => item[column]))];
    download("review.csv", "text/csv", `\ufeff${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`);
  }

  function parsed(text) {
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }

  // All of an exported file, or nothing of it.
  async function load(file) {
    const byName = new Map(candidates.map((row) => [`${row.dataset.name} ${idOf(row)}`, row]));
    try {
      const content = parsed(await file.text());
      if (content?.format !== FORMAT) throw new Error("choose a file that Export JSON wrote");
      const pairs = content.candidates.map((item) => {
        const row = byName.get(`${item.scan} ${item.id}`);
        if (!row || Math.abs(Number(row.dataset.score) - item.score) > 1e-6) {
          throw new Error(`C${item.id} in ${item.scan} is another candidate here, or none`);
        }
        return [row, { verdict: item.verdict, comment: item.comment }];
      });
      for (const [row, review] of pairs) change(row, review);
      tell(`${pairs.length} candidate${pairs.length === 1 ? "" : "s"} loaded.`);
    } catch (error) {
      tell(`${file.name} does not fit this page: ${error.message}.`);
    }
  }

  function mark(row) {
    if (here) cardOf(here).classList.remove("here");
    here = row;
    cardOf(row).classList.add("here");
  }

  // Through what is shown, in the order of the list.
  function step(direction) {
    const shown = all("#finding-table tbody tr").filter((row) => !row.hidden);
    const at = shown.indexOf(here);
    const next = at < 0 ? (direction > 0 ? 0 : shown.length - 1) : at + direction;
    if (!shown[next]) return;
    mark(shown[next]);
    cardOf(here).scrollIntoView({ block: "nearest" });
    cardOf(here).focus({ preventScroll: true });
    document.dispatchEvent(new CustomEvent("step", { detail: cardOf(here) }));
  }

  function press(event) {
    if (event.target.matches("textarea, select, input:not([type=checkbox], [type=range], [type=file])")) {
      if (event.key === "Escape" && event.target.matches("textarea")) cardOf(here).focus();
      return;
    }
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "n" || event.key === "p") step(event.key === "n" ? 1 : -1);
    else if (here && reviews.has(here) && event.key in VERDICTS) judge(here, VERDICTS[event.key]);
    else if (here && reviews.has(here) && event.key === "c") cardOf(here).querySelector("textarea").focus();
    else return;
    event.preventDefault();
  }

  for (const row of candidates) addControls(row);
  for (const card of all(".card")) {
    const row = rowOf.get(card.dataset.key);
    card.addEventListener("focusin", () => { if (row !== here) mark(row); });
  }
  byId("export-csv").addEventListener("click", exportCsv);
  byId("export-json").addEventListener("click", exportJson);
  byId("load-review").addEventListener("change", ({ target }) => {
    if (target.files[0]) load(target.files[0]);
    target.value = "";
  });
  document.addEventListener("keydown", press);
  document.addEventListener("shown", count);
  document.dispatchEvent(new Event("verdict"));
  count();
})();
