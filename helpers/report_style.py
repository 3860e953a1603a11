"""The style sheet and the script of a report; both are inlined, and neither loads anything."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1c1d20; --muted-foreground: #62656b; --line: #e2e4e8; --soft: #f5f6f8;
  --accent: #0a63a8; --muted: var(--soft); --border: var(--line); --foreground: var(--ink);
  --background: var(--page);
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #16181c; --ink: #e6e7ea; --muted-foreground: #a0a4ab; --line: #32363d; --soft: #1f2227;
    --accent: #74b6ee;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
.columns { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
a { color: var(--accent); }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.87em; }
header { border-bottom: 1px solid var(--line); padding-bottom: 1.25rem; margin-bottom: 1.5rem; }
header .run { color: var(--muted-foreground); margin: 0 0 0.3rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; letter-spacing: -0.01em; }
h2 { font-size: 1.45rem; line-height: 1.25; margin: 3.2rem 0 0.6rem; }
h3 { font-size: 1.12rem; margin: 2rem 0 0.4rem; }
h1, h2, h3 { break-after: avoid; }
header .headline { border-left: 3px solid var(--accent); padding: 0.1rem 0 0.1rem 1rem; }
header .headline p { margin: 0; }
header details { margin-top: 0.8rem; }
header .written, footer { color: var(--muted-foreground); font-size: 0.88rem; }
footer { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1rem; }
.prose { max-width: 46rem; margin: 1.1rem 0; }
.prose .paragraph { display: block; margin: 0.8rem 0; }
.prose li { margin: 0.3rem 0; }
.prose > :first-child { margin-top: 0; }
.prose > h2:first-child { margin-top: 3.2rem; }
.prose pre { overflow-x: auto; background: var(--soft); padding: 0.8rem 1rem; border-radius: 6px; }
.view { margin: 1.1rem 0; }
.view > p { max-width: 46rem; }
/* A shade at the right says that a wide table goes on; it leaves at the table's end. */
@media screen {
  .view div[style*="overflow-x:auto"] {
    background:
      linear-gradient(to left, var(--page) 40%, transparent) right / 2.5rem 100% no-repeat local,
      linear-gradient(to left, rgba(128, 128, 128, 0.4), transparent) right / 0.8rem 100% no-repeat;
  }
}
@media screen and (max-width: 56rem) {
  .view table { font-size: 0.93em; }
  .view td, .view th { padding-right: 0.7rem !important; }
}
figure.plot { margin: 1.1rem 0; break-inside: avoid; }
table { border-spacing: 0; }
tr { break-inside: avoid; }
summary { cursor: pointer; }
details.code { margin: 0.5rem 0; font-size: 0.88rem; }
details.code > summary { color: var(--muted-foreground); }
details.code pre {
  overflow-x: auto; margin: 0.4rem 0; padding: 0.8rem 1rem; border-radius: 6px;
  background: var(--soft); line-height: 1.45;
}
nav { margin: 0 0 1.5rem; font-size: 0.92rem; }
nav p { font-weight: 600; margin: 0 0 0.4rem; color: var(--muted-foreground); }
nav ol { list-style: none; margin: 0; padding: 0; columns: 2 14rem; column-gap: 2rem; }
nav li { margin: 0 0 0.4rem; break-inside: avoid; line-height: 1.35; }
nav li.level-3 { padding-left: 1rem; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus { text-decoration: underline; }
@media screen and (min-width: 84rem) {
  .columns {
    display: grid; max-width: 79rem; column-gap: 3rem; align-items: start;
    grid-template: "nav header" auto "nav main" auto "nav footer" auto / 14rem minmax(0, 60rem);
  }
  header { grid-area: header; }
  main { grid-area: main; min-width: 0; }
  footer { grid-area: footer; }
  nav {
    grid-area: nav; position: sticky; top: 0; max-height: 100vh; overflow-y: auto;
    padding: 0.4rem 0 2rem;
  }
  nav ol { columns: 1; }
}
@media print {
  :root { color-scheme: light; }
  @page { margin: 15mm; }
  .columns { max-width: none; padding: 0; }
  body { font-size: 10.5pt; }
  nav a { color: inherit; }
  h2 { margin-top: 1.6rem; }
  .modebar { display: none; }
  .view div { overflow: visible !important; }
  .view table { font-size: 0.8em; }
  .view td, .view th {
    white-space: normal !important; min-width: 0 !important; padding-right: 0.6rem !important;
    overflow-wrap: anywhere;
  }
}
"""

SCRIPT = """
"use strict";
(() => {
  const config = {
    displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
  const waiting = [...document.querySelectorAll("figure.plot")];
  const place = (figure) => figure.querySelector("div");
  const draw = (figure) => {
    if (figure.dataset.drawn) return;
    figure.dataset.drawn = "yes";
    const parts = JSON.parse(figure.querySelector("script").textContent);
    Plotly.newPlot(place(figure), { ...parts, config });
  };
  // One figure at a time, so that the page can be read and scrolled while it draws.
  const next = () => {
    const figure = waiting.find((f) => !f.dataset.drawn && f.checkVisibility());
    if (!figure) return;
    draw(figure);
    setTimeout(next, 0);
  };
  next();
  // A figure in something folded is drawn when that is opened.
  document.addEventListener("toggle", next, true);
  addEventListener("beforeprint", () => {
    for (const figure of waiting) {
      draw(figure);
      Plotly.relayout(place(figure), { width: 660 });
    }
  });
  addEventListener("afterprint", () => {
    for (const figure of waiting) Plotly.relayout(place(figure), { width: null, autosize: true });
  });
})();
"""
