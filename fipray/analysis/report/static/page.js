"use strict";
// Start: charts and tables are made as they come near the window, and all of them before the page is printed.

const sections = JSON.parse(document.getElementById("report-data").textContent);
const found = (place, kind) => {
  const [section, number] = place.split(".").map(Number);
  return sections[section][kind][number];
};

const views = new Map();
const pending = new Map();
for (const figure of document.querySelectorAll("[data-chart]")) {
  pending.set(figure, () => {
    const view = new View(figure, found(figure.dataset.chart, "charts"));
    views.set(figure, view);
    view.fit();
  });
}
for (const place of document.querySelectorAll("[data-table]")) {
  pending.set(place, () => new Sheet(place, found(place.dataset.table, "tables")));
}

function make(place) {
  const now = pending.get(place);
  pending.delete(place);
  place.style.minHeight = "";
  if (now) now();
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); make(entry.target); }
}, { rootMargin: "800px" });
// What is not made yet has the height of a typical figure, so that the contents lead to the right place.
for (const place of pending.keys()) { place.style.minHeight = "320px"; near.observe(place); }
const makeAll = () => { for (const place of [...pending.keys()]) make(place); };

let waiting = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => { for (const view of views.values()) view.fit(); });
});

// Theme: that of the system until the switch is used.
const root = document.documentElement, theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
function dress(name) {
  root.dataset.theme = name;
  theme.textContent = name === "dark" ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to the ${theme.textContent.toLowerCase()} theme`);
}
const current = () => chosen ?? (system.matches ? "dark" : "light");
theme.addEventListener("click", () => { chosen = current() === "dark" ? "light" : "dark"; dress(chosen); });
system.addEventListener("change", () => dress(current()));
theme.hidden = false;
dress(current());

// Ink on white paper, whatever the screen shows.
window.addEventListener("beforeprint", () => { makeAll(); root.dataset.theme = "light"; });
window.addEventListener("afterprint", () => dress(current()));

// The section at the top of the window is marked in the contents.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const passing = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(entry.target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-10% 0px -80% 0px" });
for (const section of document.querySelectorAll("main > section")) passing.observe(section);
