"""The style sheet of the page. It names no address, so nothing is loaded."""

CSS = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem 1.25rem 4rem; background: #fff; color: #1a1a1a;
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; border-bottom: 1px solid #ccc; padding-bottom: 0.25rem; }
.name { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0; margin: 0; }
a { color: #00508a; }
.verdict { font-weight: 600; padding: 0.6rem 0.9rem; border-left: 0.4rem solid; }
.good { background: #e8f3fa; border-color: #0072b2; }
.bad { background: #fbeadf; border-color: #d55e00; }
.open { background: #f3f3f3; border-color: #555; }
figure { margin: 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { max-width: 48rem; margin: 0.5rem 0 0.75rem; color: #333; }
.legend { font-size: 0.85rem; max-width: 60rem; color: #333; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 0.5rem 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.25rem 0; }
th, td { padding: 0.2rem 0.55rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th { border-bottom: 1px solid #888; font-weight: 600; }
thead th { max-width: 9rem; white-space: normal; vertical-align: bottom; }
.sub { padding-left: 1.2em; }
tr.last th, tr.last td { border-bottom-color: #888; }
tr > :nth-child(2):last-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; color: #00508a; }
@media print { .legend { font-size: 0.85rem; max-width: 60rem; color: #333; padding-left: 1.2rem; }
.scroll { overflow: visible; } }
"""
