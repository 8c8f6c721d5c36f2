/* A list's cells are patched in place. Rows that came or went are only counted: what one is reading does not move. */

import { patchChildren } from "./patch.js";

const rowsOf = (table) => [...table.querySelectorAll("tr.data-row")];

const keyOf = (row) => row.dataset.key;

/* The boxes one has ticked and the menus one has opened are his, not the server's. */
const isOwn = (cell) => cell.querySelector("input, select, button, [x-data]") !== null;

function patchRow(here, there) {
  const cells = [...there.children];
  if (here.children.length !== cells.length) return;
  [...here.children].forEach((cell, index) => {
    if (!isOwn(cell) && !cell.isEqualNode(cells[index])) patchChildren(cell, cells[index]);
  });
}

/* Gives how many rows the fresh list has that this one has not, or the other way round. */
export function patchList(table, fresh) {
  const there = new Map(fresh ? rowsOf(fresh).map((row) => [keyOf(row), row]) : []);
  let gone = 0;
  for (const row of rowsOf(table)) {
    const match = there.get(keyOf(row));
    if (match) patchRow(row, match);
    else gone += 1;
    there.delete(keyOf(row));
  }
  return Math.max(there.size, gone);
}
