"""The look of the report: light and dark as the reader's system is, wide and narrow."""

CSS = """
:root {
  color-scheme: light dark;
  --back: #fbfbfa; --card: #ffffff; --line: #e4e4e0; --text: #1d1d1b; --soft: #6b6b66;
  --data: 37, 99, 172; --good: #23754a; --bad: #b3362b; --track: #ecece8; --whisker: #1d1d1b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #161617; --card: #1f1f21; --line: #343437; --text: #ececea; --soft: #a0a09b;
    --data: 104, 162, 228; --good: #6fc596; --bad: #ef8b80; --track: #2c2c2f; --whisker: #f4f4f2;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2rem 1rem 3rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main, header, footer { max-width: 60rem; margin: 0 auto; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.05rem; margin: 0 0 .8rem; }
p { margin: 0 0 .5rem; }
.soft, th, footer { color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.1rem 1.2rem; margin-top: 1rem;
}
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.fact b { display: block; font-size: 1.35rem; line-height: 1.2; font-weight: 600; }
.fact span { display: block; color: var(--soft); font-size: .85rem; line-height: 1.3; }
.hero { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; align-items: end; margin-bottom: .8rem; }
.hero b { font-size: 3.2rem; line-height: 1; font-weight: 650; letter-spacing: -.02em; }
.hero .said { flex: 1 1 18rem; }
ul.verdict { margin: .9rem 0 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; margin: 0 -1.2rem; padding: 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td {
  text-align: right; padding: .3rem .6rem; white-space: nowrap; border-top: 1px solid var(--line);
}
thead th { border-top: 0; font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
td.wide { width: 40%; min-width: 9rem; }
td.name { white-space: normal; min-width: 8.5rem; max-width: 26rem; overflow-wrap: break-word; }
tr.first td.name { font-weight: 600; }
.bar { position: relative; height: .95rem; background: var(--track); border-radius: 3px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: rgb(var(--data)); border-radius: 3px; }
.bar u {
  position: absolute; top: calc(50% - 1px); height: 2px; background: var(--whisker); opacity: .75;
}
.bar u::before, .bar u::after {
  content: ""; position: absolute; top: -3px; left: 0; width: 2px; height: 8px;
  background: inherit;
}
.bar u::after { left: auto; right: 0; }
.matrix td, .matrix th { text-align: center; border: 1px solid var(--line); padding: .3rem .5rem; }
.matrix tbody th { text-align: right; font-weight: 400; color: var(--text); }
.matrix td { min-width: 2.6rem; }
.matrix td.zero { color: var(--line); }
.matrix td.right { outline: 2px solid var(--good); outline-offset: -3px; }
svg { display: block; width: 100%; height: auto; max-height: 20rem; overflow: visible; }
svg text { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--line); }
.s0 { --ink: var(--data); } .s1 { --ink: 191, 112, 20; }
.s2 { --ink: 30, 140, 110; } .s3 { --ink: 150, 90, 180; }
svg .band { fill: rgba(var(--ink), .18); }
svg .line { fill: none; stroke: rgb(var(--ink)); stroke-width: 2.5; stroke-linejoin: round; }
svg .dot { fill: rgb(var(--ink)); stroke: var(--card); stroke-width: 1.5; }
.names span { color: rgb(var(--ink)); font-weight: 600; margin-right: 1rem; }
.answer { border-top: 1px solid var(--line); padding: .7rem 0; }
.answer:first-of-type { border-top: 0; padding-top: 0; }
.answer dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: .25rem 0 0; }
.answer dt { color: var(--soft); }
.answer dd { margin: 0; min-width: 0; }
code {
  font: .88em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap;
}
.good { color: var(--good); } .bad { color: var(--bad); }
details > summary { cursor: pointer; color: var(--soft); padding: .5rem 0 .3rem; }
footer { margin-top: 1.4rem; font-size: .85rem; }
@media (max-width: 34rem) {
  body { padding: 1.2rem .7rem 2rem; }
  section { padding: .9rem; } .scroll { margin: 0 -.9rem; padding: 0 .9rem; }
  .hero b { font-size: 2.5rem; } td.wide { min-width: 6rem; } svg text { font-size: 20px; }
  .answer dl { grid-template-columns: 1fr; } .answer dt { margin-top: .3rem; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
