// Pictures open large in a dialog, which steps through those of one card.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const dialog = byId("large");
  let figure = null; // the one that is shown

  const group = () => [...figure.parentElement.querySelectorAll("figure")];

  function nameIt() {
    const card = figure.closest(".card");
    const name = card ? [...card.querySelectorAll("h4 > *")].map((part) => part.textContent).join(" ") : "Rib cage";
    const scan = figure.closest(".scan").querySelector("h3").textContent;
    const verdict = card?.dataset.verdict ?? "open";
    byId("large-name").textContent =
      `${name} in ${scan}, ${figure.dataset.name}${verdict === "open" ? "" : `: ${verdict}`}`;
  }

  function show(shown) {
    figure = shown;
    nameIt();
    const view = figure.querySelector(".view").cloneNode(true);
    view.style.cssText = figure.style.cssText;
    view.dataset.state = figure.closest(".card")?.dataset.state ?? "";
    byId("large-view").replaceChildren(view);
    if (!dialog.open) dialog.showModal();
  }

  function step(direction) {
    const views = group();
    show(views[(views.indexOf(figure) + direction + views.length) % views.length]);
  }

  for (const picture of document.querySelectorAll(".scan figure")) {
    picture.addEventListener("click", (event) => {
      if (!event.target.closest("a")) show(picture);
    });
  }
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("a")) dialog.close();
  });
  dialog.addEventListener("close", () => figure.querySelector(".enlarge").focus({ preventScroll: true }));
  document.addEventListener("verdict", () => { if (dialog.open) nameIt(); });
  // Another candidate: the same view of it, where it has one.
  document.addEventListener("step", ({ detail: card }) => {
    if (!dialog.open || !figure.closest(".card") || card.contains(figure)) return;
    const views = [...card.querySelectorAll("figure")];
    if (views.length) show(views[Math.min(group().indexOf(figure), views.length - 1)]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("textarea, input, select")) return;
    if (dialog.open && event.key === "ArrowLeft") step(-1);
    else if (dialog.open && event.key === "ArrowRight") step(1);
    else if (!dialog.open && event.key === "v") document.querySelector(".card.here figure")?.dispatchEvent(new Event("click"));
    else return;
    event.preventDefault();
  });
})();
