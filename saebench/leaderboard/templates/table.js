// The table renders only visible rows, so that ten thousand of them scroll and sort as fast as a hundred.

const ROW_HEIGHT = 36, MARGIN = 10;
const grid = document.getElementById("table"), tableElement = grid.querySelector("table");
const head = tableElement.querySelector("thead tr"), body = tableElement.querySelector("tbody");
const narrowScreen = window.matchMedia("(max-width: 40rem)");
const drawn = new Map(), above = gap(), below = gap();
let order = [], columns = [], first = -1, last = -1, waiting = false;

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function drawTable(rows) {
  order = rows;
  const manyBoards = new Set(order.map((row) => ROWS.board[row])).size > 1;
  columns = [...FIXED.filter((key) => key !== "board" || manyBoards), ...chosenColumns()];
  drawHead();
  tableElement.setAttribute("aria-rowcount", order.length + 1);
  tableElement.setAttribute("aria-colcount", columns.length);
  const rowsHeight = order.length ? order.length * ROW_HEIGHT : 90;
  grid.style.height = `${head.offsetHeight + rowsHeight + 18}px`;  // the style sheet limits it
  forgetRows();
  drawRows();
}

// The chosen columns; of the default ones, only those with values.
function chosenColumns() {
  if (state.columns.join() !== DEFAULT_COLUMNS.join()) return state.columns;
  return state.columns.filter((key) => order.some((row) => column(key)[row] !== null));
}

function drawHead() {
  const focused = head.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  head.replaceChildren(...columns.map((key) => {
    const cell = make("th", null, {scope: "col"});
    if (isNumber(key)) cell.className = "number";
    const sorted = state.sort === key;
    if (sorted) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    const button = make("button", label(key) + arrow(key) + (sorted ? (state.down ? " ▾" : " ▴") : ""), {type: "button"});
    button.dataset.key = key;
    if (METRIC.has(key)) {
      const metric = DATA.metrics[METRIC.get(key)];
      button.title = [metric.path, metric.description, metric.unit].filter(Boolean).join("\n");
    }
    button.setAttribute("aria-label", `${label(key)}${direction(key) === "none" ? "" : `, ${direction(key)} is better`}: sort`);
    button.addEventListener("click", () => sortBy(key));
    cell.append(button);
    return cell;
  }));
  if (focused) head.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function isNumber(key) {
  return key === "n" || key === "l0" || METRIC.has(key);
}

function sortBy(key) {
  const down = direction(key) === "higher";  // the best first
  change({sort: key, down: state.sort === key ? !state.down : down});
}

// Rows that stay visible are kept; only the others are added or removed.
function drawRows() {
  waiting = false;
  const from = Math.max(0, Math.floor(grid.scrollTop / ROW_HEIGHT) - MARGIN);
  const to = Math.min(order.length, Math.ceil((grid.scrollTop + grid.clientHeight) / ROW_HEIGHT) + MARGIN);
  if (from === first && to === last) return;
  const focused = body.contains(document.activeElement) ? +document.activeElement.dataset.place : null;
  [first, last] = [from, to];
  for (const [place, row] of drawn) {
    if (place < from || place >= to) { row.remove(); drawn.delete(place); }
  }
  let next = above.nextSibling;
  for (let place = from; place < to; place++) {
    if (drawn.has(place)) { next = drawn.get(place).nextSibling; continue; }
    const row = drawRow(place);
    body.insertBefore(row, next);
    drawn.set(place, row);
  }
  stretch(above, from);
  stretch(below, order.length - to);
  if (focused !== null && !drawn.has(focused)) grid.focus({preventScroll: true});
}

function forgetRows() {
  drawn.clear();
  first = last = -1;
  body.replaceChildren(above, ...(order.length ? [] : [nothing()]), below);
}

function gap() {
  const row = make("tr", null, {class: "gap", "aria-hidden": "true"});
  row.append(make("td", null));
  return row;
}

function stretch(row, places) {
  row.hidden = places === 0;
  row.firstChild.colSpan = columns.length;
  row.firstChild.style.height = `${places * ROW_HEIGHT}px`;
}

function nothing() {
  const row = make("tr", null);
  row.append(make("td", "No entry fits these filters.", {class: "empty", colspan: columns.length}));
  return row;
}

function drawRow(place) {
  const index = order[place], row = make("tr", null, {"aria-rowindex": place + 2});
  for (const key of columns) row.append(drawCell(key, index, place));
  return row;
}

function drawCell(key, index, place) {
  if (key === "name") {
    const cell = make("th", null, {scope: "row", title: ROWS.name[index]});
    if (IMPORTED.has(index)) cell.append(make("abbr", "†", {class: "mark", title: "measured by another suite; not vouched for"}), " ");
    const link = make("a", shortened(ROWS.name[index]), {href: ROWS.page[index], "aria-label": ROWS.name[index]});
    link.dataset.place = place;
    cell.append(link);
    if (ROWS.verified[index]) cell.append(" ", make("abbr", "✓", {class: "mark", title: ROWS.verified[index]}));
    return cell;
  }
  if (key === "board" || key === "architecture") {
    const text = key === "board" ? boardName(ROWS.board[index]) : ROWS.architecture[index];
    return make("td", text, {title: text});
  }
  const value = column(key)[index], error = errors(key)?.[index];
  const cell = make("td", formatValue(value, error), {class: "number"});
  if (key === "l0" && CLAIMED.has(index)) cell.append(make("abbr", " ‡", {class: "mark", title: "claimed in the name, not measured"}));
  if (error) cell.title = `95 % interval: ${+(value - 1.96 * error).toPrecision(5)} to ${+(value + 1.96 * error).toPrecision(5)}`;
  return cell;
}

// Long names keep their end, which distinguishes them.
function shortened(name) {
  const room = narrowScreen.matches ? 18 : 56, letters = [...name];
  if (letters.length <= room) return name;
  const start = Math.floor(room / 3);
  return letters.slice(0, start).join("") + "…" + letters.slice(start + 1 - room).join("");
}

function goTo(place) {
  place = Math.min(order.length - 1, Math.max(0, place));
  const top = place * ROW_HEIGHT, room = grid.clientHeight - 2 * ROW_HEIGHT;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top > grid.scrollTop + room) grid.scrollTop = top - room;
  drawRows();
  body.querySelector(`a[data-place="${place}"]`)?.focus({preventScroll: true});
}

grid.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(drawRows);
}, {passive: true});

grid.addEventListener("keydown", (event) => {
  const link = event.target.closest("a[data-place]");
  const page = Math.floor(grid.clientHeight / ROW_HEIGHT) - 2;
  const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -order.length, End: order.length};
  if (!link && event.target !== grid) return;
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const here = link ? +link.dataset.place : Math.floor(grid.scrollTop / ROW_HEIGHT) - 1;
  goTo(here + steps[event.key]);
});

new ResizeObserver(drawRows).observe(grid);
narrowScreen.addEventListener("change", () => { forgetRows(); drawRows(); });
