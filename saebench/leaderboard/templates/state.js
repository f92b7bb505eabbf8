// The state of the page; everything that is not the default is recorded in the address bar's hash.

const ROWS = DATA.rows, COUNT = ROWS.name.length;
const METRIC = new Map(DATA.metrics.map((metric, index) => [metric.path, index]));
const IMPORTED = new Set(ROWS.imported), CLAIMED = new Set(ROWS.claimed);
const ARCHITECTURES = [...new Set(ROWS.architecture)].sort();
const byWords = new Intl.Collator("en", {numeric: true, sensitivity: "base"}).compare;
const FIXED = ["name", "board", "architecture", "n", "l0"];
const LABELS = {name: "Autoencoder", board: "Model and hook", architecture: "Architecture", n: "Latents", l0: "L0"};
const DEFAULT_COLUMNS = DATA.headline.slice(0, 6);
const DEFAULTS = {
  q: "", model: DATA.boards[DATA.start]?.model ?? "", hook: DATA.boards[DATA.start]?.hook ?? "", source: "", min: "", max: "", hidden: [], sort: "name", down: false,
  columns: DEFAULT_COLUMNS, x: "l0", y: DATA.headline[0] ?? "n", log: true,
};
let state = structuredClone(DEFAULTS);

const control = (id) => document.getElementById(id);

function column(key) {
  if (METRIC.has(key)) return DATA.values[METRIC.get(key)];
  return key === "board" ? ROWS.board.map(boardName) : ROWS[key];
}

function errors(key) {
  return METRIC.has(key) ? DATA.errors[METRIC.get(key)] : null;
}

function boardName(index) {
  const board = DATA.boards[index];
  return `${board.model} · ${board.hook}`;
}

function label(key) {
  if (!METRIC.has(key)) return LABELS[key];
  const metric = DATA.metrics[METRIC.get(key)];
  const shared = DATA.metrics.some((other) => other.name === metric.name && other.path !== metric.path);
  return shared ? metric.path : metric.name;
}

function direction(key) {
  return METRIC.has(key) ? DATA.metrics[METRIC.get(key)].direction : "none";
}

function arrow(key) {
  return {lower: " ↓", higher: " ↑", none: ""}[direction(key)];
}

function hooksOf(model) {
  return [...new Set(DATA.boards.filter((board) => !model || board.model === model).map((board) => board.hook))].sort(byWords);
}

function isKey(key) {
  return METRIC.has(key) || FIXED.includes(key);
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const next = structuredClone(DEFAULTS);
  for (const key of ["q", "model", "hook", "source", "min", "max"]) if (given.has(key)) next[key] = given.get(key);
  for (const key of ["min", "max"]) if (!Number.isFinite(Number(next[key]))) next[key] = "";
  if (given.has("model") && !given.has("hook")) next.hook = "";
  if (!hooksOf(next.model).includes(next.hook)) next.hook = "";
  if (given.has("hide")) next.hidden = given.get("hide").split(",").filter((name) => ARCHITECTURES.includes(name));
  if (given.has("columns")) next.columns = given.get("columns").split(",").filter((path) => METRIC.has(path));
  if (given.has("sort")) {
    const wanted = given.get("sort"), key = wanted.replace(/^-/, "");
    if (isKey(key)) [next.sort, next.down] = [key, wanted.startsWith("-")];
  }
  for (const axis of ["x", "y"]) {
    const key = given.get(axis);
    if (METRIC.has(key) || key === "l0" || key === "n") next[axis] = key;
  }
  if (given.has("scale")) next.log = given.get("scale") !== "linear";
  return next;
}

function writeAddress() {
  const made = new URLSearchParams();
  for (const key of ["q", "model", "hook", "source", "min", "max", "x", "y"]) {
    if (state[key] !== DEFAULTS[key]) made.set(key, state[key]);
  }
  if (state.hidden.length) made.set("hide", state.hidden.join(","));
  if (state.model !== DEFAULTS.model) made.set("hook", state.hook);
  if (state.columns.join() !== DEFAULTS.columns.join()) made.set("columns", state.columns.join(","));
  if (state.sort !== DEFAULTS.sort || state.down) made.set("sort", (state.down ? "-" : "") + state.sort);
  if (!state.log) made.set("scale", "linear");
  const text = made.toString();
  if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function shownRows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const hidden = new Set(state.hidden);
  const [low, high] = [state.min, state.max].map((text) => (text.trim() === "" || !Number.isFinite(+text) ? null : +text));
  const kept = [];
  for (let row = 0; row < COUNT; row++) {
    const board = DATA.boards[ROWS.board[row]], l0 = ROWS.l0[row];
    if (state.model && board.model !== state.model) continue;
    if (state.hook && board.hook !== state.hook) continue;
    if (state.source && IMPORTED.has(row) !== (state.source === "elsewhere")) continue;
    if (hidden.has(ROWS.architecture[row])) continue;
    if (low !== null && (l0 === null || l0 < low)) continue;
    if (high !== null && (l0 === null || l0 > high)) continue;
    if (words.length) {
      const text = `${ROWS.name[row]} ${ROWS.architecture[row]}`.toLowerCase();
      if (!words.every((word) => text.includes(word))) continue;
    }
    kept.push(row);
  }
  return kept;
}

function sortRows(rows) {
  const values = column(state.sort), sign = state.down ? -1 : 1;
  const textual = ["name", "board", "architecture"].includes(state.sort);
  return rows.sort((a, b) => {
    const one = values[a], other = values[b];
    if (one === null || other === null) return (one === null) - (other === null) || a - b;
    return sign * (textual ? byWords(one, other) : one - other) || a - b;
  });
}

const FORMATS = Array.from({length: 8}, (_, decimals) =>
  new Intl.NumberFormat("en", {minimumFractionDigits: decimals, maximumFractionDigits: decimals}));

function formatValue(value, error) {
  if (value === null || value === undefined) return "";
  if (!error) {
    const whole = Number.isInteger(value) || Math.abs(value) >= 1e4;
    return whole ? FORMATS[0].format(value) : String(+value.toPrecision(4));
  }
  const decimals = Math.min(7, Math.max(0, 1 - Math.floor(Math.log10(error))));
  const format = FORMATS[decimals].format;
  return error < 1e-7 ? `${+value.toPrecision(4)} ± ${error.toExponential(0)}` : `${format(value)} ± ${format(error)}`;
}
