// What the page does beyond being read: filters layers, tells the figures of a mark, opens what is folded for printing.
"use strict";

for (const filter of document.querySelectorAll(".filter")) {
  const field = filter.querySelector("input"), told = filter.querySelector("output");
  const rows = [...document.getElementById(filter.dataset.filters).querySelectorAll("tr[data-layer]")];
  filter.hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !words.every(word => name.includes(word));
      if (row.hidden) continue;
      shown += 1;
      const fold = row.closest("details.more");
      if (fold && words.length) fold.open = true;
    }
    told.textContent = words.length ? `${shown} of ${rows.length} layers` : "";
  });
}

const tip = document.body.appendChild(document.createElement("div"));
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
let leaving = 0, told = null;
const hide = () => { tip.hidden = true; };
const leave = () => { leaving = setTimeout(hide, 200); };
const stay = () => clearTimeout(leaving);
const place = () => {
  const at = told.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(at.left + at.width / 2 - own.width / 2, 4), document.documentElement.clientWidth - own.width - 4);
  const above = at.top - own.height - 4;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${above < 4 ? at.bottom + 4 : above}px`;
};
const tell = mark => {
  stay();
  told = mark;
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  place();
};
tip.addEventListener("pointerenter", stay);
tip.addEventListener("pointerleave", leave);
addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
addEventListener("scroll", () => { if (!tip.hidden) place(); }, {passive: true, capture: true});

for (const plot of document.querySelectorAll("svg.plot")) {
  const marks = [...plot.querySelectorAll(".mark")];
  const steps = {
    ArrowRight: at => at + 1, ArrowDown: at => at + 1, ArrowLeft: at => at - 1, ArrowUp: at => at - 1,
    Home: () => 0, End: () => marks.length - 1,
  };
  marks.forEach((mark, at) => {
    const title = mark.querySelector("title");
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
    mark.addEventListener("pointerenter", () => tell(mark));
    mark.addEventListener("pointerleave", leave);
    mark.addEventListener("blur", hide);
    mark.addEventListener("focus", () => {
      for (const other of marks) other.setAttribute("tabindex", other === mark ? "0" : "-1");
      tell(mark);
    });
    mark.addEventListener("keydown", event => {
      const next = steps[event.key] && marks[steps[event.key](at)];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  });
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const fold of opened) fold.open = true;
});
addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
