"""How does the page of a report look? Light and dark, on a telephone and on paper; no font, image or script is fetched."""

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --quiet: #59636e; --line: #d5dae0;
  --accent: #0b63c5; --up: #147a3d; --down: #b3261e; --band: #e3e7ec; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --card: #1c2026; --ink: #e8ebef; --quiet: #a0aab5; --line: #343b44;
  --accent: #6db3ff; --up: #5fcf8c; --down: #ff8f87; --band: #2a3039; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p { margin: 0.4rem 0; max-width: 48rem; }
ul { margin: 0.4rem 0; padding-left: 1.2rem; max-width: 60rem; }
.quiet, caption, dt { color: var(--quiet); font-size: 0.9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.6rem; margin: 1rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.55rem 0.75rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts dd.up { color: var(--up); } .facts dd.down { color: var(--down); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0.8rem 2rem; align-items: start; margin: 1rem 0 1.8rem; }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: 0.3rem; }
svg { display: block; width: 100%; max-width: 30rem; height: auto; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: var(--ink); }
svg .tick, svg .caption { font-size: 11px; fill: var(--quiet); }
svg .label, svg .effect .number { paint-order: stroke; stroke: var(--ground); stroke-width: 4px; stroke-linejoin: round; }
svg .number { font-variant-numeric: tabular-nums; font-weight: 600; }
svg .axis, svg .zero { stroke: var(--quiet); } svg .zero { stroke-width: 1.5; } svg .grid { stroke: var(--line); }
svg .margin { fill: var(--band); }
svg .effect line { stroke-width: 2; } svg .effect line, svg .effect circle { stroke: var(--quiet); } svg .effect circle { fill: var(--quiet); }
svg .up line, svg .up circle { stroke: var(--up); } svg .up circle { fill: var(--up); }
svg .down line, svg .down circle { stroke: var(--down); } svg .down circle { fill: var(--down); }
svg .bar { fill: var(--accent); }
svg .area { fill: var(--accent); fill-opacity: 0.25; stroke: var(--accent); stroke-width: 1.5; }
svg .mean { stroke: var(--ink); stroke-dasharray: 6 4; } svg .break { stroke: var(--down); stroke-dasharray: 2 3; }
.scroll { overflow: auto; max-height: 30rem; border: 1px solid var(--line); border-radius: 0.5rem; }
.scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
caption { text-align: left; padding: 0.4rem 0.6rem; }
th, td { padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); overflow-wrap: break-word; }
th { font-weight: 600; } thead th { border-top: 0; background: var(--card); position: sticky; top: 0; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.pair th, .pair td { padding: 0.35rem 0.4rem; font-size: 0.85rem; }
td.t { white-space: nowrap; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 0.3rem 1.5rem; }
.query { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.6rem 0.8rem; margin: 0.7rem 0; break-inside: avoid; }
.query h3 { margin-top: 0; } .query ol { margin: 0.2rem 0; padding-left: 1.4rem; }
footer { margin-top: 2.5rem; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .scroll { max-height: none; overflow: visible; }
  thead th { position: static; } figure, .facts div { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
