// The frontier plot: one path for the points of each architecture, so that thousands of points cost as much as a few.

const COLOURS = {
  light: ["#1f6fb4", "#c2410c", "#15803d", "#9333a8", "#8a6a00", "#0f766e", "#be185d", "#475569"],
  dark: ["#6fb1ee", "#f59e6c", "#5fcf8f", "#d39bea", "#e3c34f", "#4fd1c5", "#f48fb9", "#a9b4c4"],
};
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
const MOST_BARS = 400, REACH = 28;
const MARKERS = [
  (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
  (x, y) => `M${x - 3.6} ${y - 3.6}h7.2v7.2h-7.2z`,
  (x, y) => `M${x} ${y - 5}l4.8 8.4h-9.6z`,
  (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
  (x, y) => `M${x} ${y + 5}l4.8 -8.4h-9.6z`,
  (x, y) => `M${x - 1.5} ${y - 5}h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z`,
];
const plot = document.getElementById("plot"), tip = document.getElementById("tip"), said = document.getElementById("plot-said");
const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");
let dots = [], chosen = -1, vertical = state.y;

function colour(architecture) {
  const palette = darkTheme.matches ? COLOURS.dark : COLOURS.light;
  return palette[ARCHITECTURES.indexOf(architecture) % palette.length];
}

function marker(architecture) {
  return MARKERS[ARCHITECTURES.indexOf(architecture) % MARKERS.length];
}

function svg(tag, attributes, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

function makeScale(values, from, to) {
  const logarithmic = state.log && values.every((value) => value > 0);
  const map = logarithmic ? Math.log10 : (value) => value;
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, map(value)); high = Math.max(high, map(value)); }
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [low - margin, high + margin];
  const scale = (value) => from + ((map(value) - low) / (high - low)) * (to - from);
  scale.ticks = logarithmic ? logTicks(10 ** low, 10 ** high) : evenTicks(low, high);
  return scale;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return evenTicks(low, high);
  const factors = decades > 3 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let exponent = Math.floor(Math.log10(low)); 10 ** exponent <= high; exponent++) {
    for (const factor of factors) {
      const tick = factor * 10 ** exponent;
      if (tick >= low && tick <= high) ticks.push(tick);
    }
  }
  return ticks;
}

function evenTicks(low, high) {
  const rough = (high - low) / 5, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((each) => each >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) ticks.push(index * step);
  return ticks;
}

function tickText(value) {
  return Math.abs(value) >= 1e4 ? value.toLocaleString("en", {notation: "compact"}) : String(+value.toPrecision(3));
}

// The chosen metric; where the default is chosen and no row has it, the first that some rows have.
function pickVertical(rows) {
  const has = (key) => rows.some((row) => column(key)[row] !== null);
  vertical = state.y === DEFAULTS.y && !has(state.y) ? DATA.headline.find(has) ?? state.y : state.y;
  control("y").value = vertical;
}

function drawPlot(rows) {
  pickVertical(rows);
  chosen = -1;
  tip.hidden = true;
  const xs = column(state.x), ys = column(vertical), bars = errors(vertical);
  const known = rows.filter((row) => xs[row] !== null && ys[row] !== null);
  const width = plot.clientWidth, height = plot.clientHeight;
  const [left, right, top, bottom] = [60, width - 10, 10, height - 42];
  plot.setAttribute("aria-label", `Scatter plot of ${label(vertical)} over ${label(state.x)}: ${known.length} autoencoders`);
  if (!known.length) {
    dots = [];
    plot.replaceChildren(make("p", "No entry shown here has both values.", {class: "empty"}));
    return;
  }
  const sx = makeScale(known.map((row) => xs[row]), left, right);
  const sy = makeScale(known.flatMap((row) => withInterval(ys[row], bars?.[row], known.length)), bottom, top);
  dots = known.map((row) => ({row, x: sx(xs[row]), y: sy(ys[row])})).sort((a, b) => a.x - b.x || a.y - b.y);
  const picture = svg("svg", {"aria-hidden": "true", focusable: "false"});
  drawAxes(picture, sx, sy, {left, right, top, bottom});
  for (const architecture of ARCHITECTURES) {
    const own = dots.filter((dot) => ROWS.architecture[dot.row] === architecture);
    if (own.length) drawSeries(picture, architecture, own, {ys, bars, sy, top, bottom});
  }
  picture.append(svg("circle", {id: "ring", r: 9, fill: "none", stroke: "var(--ink)", "stroke-width": 2, visibility: "hidden"}));
  plot.replaceChildren(picture);
}

// A value and the ends of its interval that the axis can show.
function withInterval(value, error, count) {
  if (!error || count > MOST_BARS) return [value];
  return [value, value + 1.96 * error, value - 1.96 * error].filter((end) => !state.log || end > 0 || value <= 0);
}

function drawAxes(picture, sx, sy, {left, right, top, bottom}) {
  for (const tick of sy.ticks) {
    picture.append(svg("path", {class: "rule", d: `M${left} ${sy(tick)}H${right}`}));
    picture.append(svg("text", {x: left - 8, y: sy(tick) + 4, class: "end"}, tickText(tick)));
  }
  let end = -Infinity;
  for (const tick of sx.ticks) {
    if (sx(tick) - end < 36) continue;
    end = sx(tick);
    picture.append(svg("path", {class: "rule", d: `M${end} ${top}V${bottom}`}));
    picture.append(svg("text", {x: end, y: bottom + 18, class: "middle"}, tickText(tick)));
  }
  picture.append(svg("path", {class: "axis", d: `M${left} ${top}V${bottom}H${right}`}));
  picture.append(svg("text", {x: (left + right) / 2, y: bottom + 36, class: "middle"}, label(state.x) + arrow(state.x)));
  const middle = (top + bottom) / 2;
  picture.append(svg("text", {x: 14, y: middle, class: "middle", transform: `rotate(-90 14 ${middle})`}, label(vertical) + arrow(vertical)));
}

function drawSeries(picture, architecture, own, {ys, bars, sy, top, bottom}) {
  const stroke = colour(architecture), shape = marker(architecture), round = (value) => Math.round(value * 10) / 10;
  const front = frontier(own, ys);
  if (front.length > 1) {
    picture.append(svg("path", {d: "M" + front.map((dot) => `${round(dot.x)} ${round(dot.y)}`).join("L"), fill: "none", stroke,
      "stroke-width": 1.5, "stroke-dasharray": DASHES[ARCHITECTURES.indexOf(architecture) % DASHES.length], opacity: 0.75}));
  }
  if (bars && dots.length <= MOST_BARS) {
    const clip = (y) => round(Math.min(bottom, Math.max(top, y)));
    const d = own.filter((dot) => bars[dot.row]).map((dot) => {
      const half = 1.96 * bars[dot.row], low = ys[dot.row] - half;
      const end = state.log && low <= 0 ? bottom : sy(low);
      return `M${round(dot.x)} ${clip(end)}V${clip(sy(ys[dot.row] + half))}`;
    });
    picture.append(svg("path", {d: d.join(""), stroke, "stroke-width": 1.2, fill: "none"}));
  }
  const filled = own.length > MOST_BARS ? 0.5 : 0.9;
  picture.append(svg("path", {class: "dots", d: own.map((dot) => shape(round(dot.x), round(dot.y))).join(""), fill: stroke, "fill-opacity": filled}));
}

// The Pareto frontier of a series: no point with a smaller x has a better y.
function frontier(own, ys) {
  const way = direction(vertical);
  if (way === "none" || direction(state.x) === "higher") return [];
  const sign = way === "lower" ? 1 : -1, kept = [];
  let best = Infinity;
  for (const dot of [...own].sort((a, b) => a.x - b.x || sign * (ys[a.row] - ys[b.row]))) {
    if (sign * ys[dot.row] < best) { kept.push(dot); best = sign * ys[dot.row]; }
  }
  return kept;
}

function choose(index, aloud) {
  chosen = index;
  const ring = document.getElementById("ring"), dot = dots[index];
  tip.hidden = !dot;
  if (!ring) return;
  ring.setAttribute("visibility", dot ? "visible" : "hidden");
  if (!dot) return;
  ring.setAttribute("cx", dot.x);
  ring.setAttribute("cy", dot.y);
  const parts = [state.x, vertical].map((key) => `${label(key)} ${formatValue(column(key)[dot.row], errors(key)?.[dot.row])}`);
  tip.replaceChildren(make("strong", ROWS.name[dot.row]), make("div", ROWS.architecture[dot.row]), ...parts.map((part) => make("div", part)));
  const frame = tip.parentElement, spare = frame.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(4, Math.min(dot.x + 24, spare))}px`;
  tip.style.top = `${dot.y > 110 ? dot.y - tip.offsetHeight - 2 : dot.y + 28}px`;
  if (aloud) said.textContent = [ROWS.name[dot.row], ROWS.architecture[dot.row], ...parts].join(", ");
}

function nearest(event) {
  const box = plot.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let found = -1, least = REACH ** 2;
  dots.forEach((dot, index) => {
    const distance = (dot.x - x) ** 2 + (dot.y - y) ** 2;
    if (distance < least) [least, found] = [distance, index];
  });
  return found;
}

plot.addEventListener("pointermove", (event) => choose(nearest(event), false));
plot.addEventListener("pointerleave", () => choose(-1, false));
plot.addEventListener("click", (event) => {
  const index = nearest(event);
  if (index >= 0 && event.detail > 0) location.assign(ROWS.page[dots[index].row]);
});
plot.addEventListener("keydown", (event) => {
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -dots.length, End: dots.length};
  if (event.key in steps && dots.length) {
    event.preventDefault();
    choose(Math.min(dots.length - 1, Math.max(0, (chosen < 0 && steps[event.key] > 0 ? -1 : chosen) + steps[event.key])), true);
  } else if (event.key === "Enter" && dots[chosen]) location.assign(ROWS.page[dots[chosen].row]);
  else if (event.key === "Escape") choose(-1, false);
});
