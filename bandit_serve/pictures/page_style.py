"""Style sheet of a page with pictures and tables, on screens and on paper."""

from __future__ import annotations

from bandit_serve.pictures.style import STYLE
from bandit_serve.pictures.theme import FONTS, ROOT

PAGE_STYLE = (
    ROOT
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 32px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 """
    + FONTS
    + """; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.25; font-weight: 650; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; font-weight: 650; margin: 36px 0 8px; }
h2 small { font-weight: 400; font-size: 13px; color: var(--soft); }
h3 { font-size: 15px; font-weight: 650; margin: 28px 0 4px; }
h2 .flag { color: var(--ink); background: var(--faint); border: 1px solid var(--axis); padding: 1px 6px; }
p { margin: 0; color: var(--soft); }
.aside { font-size: 13px; max-width: 88ch; margin-top: 4px; }
dl { margin: 16px 0 0; display: grid; gap: 6px 32px;
  grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); }
dl div { display: grid; grid-template-columns: 100px 1fr; font-size: 14px; }
dt { color: var(--soft); }
dd { margin: 0; }
.verdict { margin: 14px 0 0; padding: 10px 14px; border-left: 4px solid var(--s0); background: var(--faint);
  color: var(--ink); }
.told { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px 32px; margin-top: 8px; }
.told h3 { font-size: 14px; font-weight: 650; margin: 16px 0 4px; }
.told ul { margin: 0; padding-left: 18px; font-size: 14px; }
code { font-size: .92em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); gap: 20px 40px;
  margin-top: 12px; }
.pictures > .picture { max-width: 488px; }
.picture { display: block; width: 100%; height: auto; font-family: inherit; }
.wide { overflow-x: auto; margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 6px 0 6px 16px; border-bottom: 1px solid var(--grid); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; white-space: normal; min-width: 90px; }
table:not(.grouped) :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.grouped th[rowspan] { text-align: left; vertical-align: top; color: var(--ink); font-weight: 600;
  white-space: normal; }
.grouped :is(th:nth-child(2), td:first-child, th[rowspan] + td) { text-align: left; padding-left: 16px;
  font-weight: 400; white-space: normal; min-width: 90px; }
.grouped :is(thead th:first-child, th[rowspan]) { min-width: 76px; padding-left: 0; }
.narrow { max-width: 440px; }
.harm { font-weight: 650; border-bottom: 2px solid var(--s1); }
.safe { border-bottom: 2px solid var(--s2); }
td small { color: var(--soft); font-size: 12px; display: block; }
.note { margin-top: 28px; font-size: 13px; max-width: 78ch; }
@media (max-width: 640px) { body { padding: 20px 16px 32px; } table { font-size: 13px; } }
@media print {
  body { padding: 0; max-width: none; font-size: 11pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 14px 24px; }
  .picture, tr, .verdict, li, .aside { break-inside: avoid; }
  h2, h3, h2 + p, .aside { break-after: avoid; }
  table:not(.grouped) :is(th, td):first-child { position: static; }
  .wide { overflow: visible; }
  table { font-size: 9.5pt; }
  th, td { padding: 4px 0 4px 10px; }
}
"""
    + STYLE
)
