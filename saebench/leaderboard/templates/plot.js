// The frontier plot: a series of points for each architecture, and a line along the best of them. Plotly draws it.

const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross"], GLYPHS = "●■▲◆▼✚";
const DASHES = ["solid", "dash", "dot", "dashdot"];
const MOST_BARS = 400;
const plot = document.getElementById("plot"), said = document.getElementById("plot-said");
let dots = [], chosen = -1, vertical = state.y, plotted = "";

function styleOf(architecture, of) {
  return of[ARCHITECTURES.indexOf(architecture) % of.length];
}

function colour(architecture) {
  return styleOf(architecture, darkTheme.matches ? SERIES.dark : SERIES.light);
}

// Plotly reads a few tags in texts: names stay what they are.
function asText(text) {
  return String(text).replace(/[&<>]/g, (character) => ({"&": "&amp;", "<": "&lt;", ">": "&gt;"})[character]);
}

// The metric chosen; where it is the default and none of the rows has it, the first headline metric that some have.
function pickVertical(rows) {
  const has = (key) => rows.some((row) => column(key)[row] !== null);
  vertical = state.y === DEFAULTS.y && !has(state.y) ? DATA.headline.find(has) ?? state.y : state.y;
  control("y").value = vertical;
}

function drawPlot(rows) {
  pickVertical(rows);
  const xs = column(state.x), ys = column(vertical), bars = errors(vertical);
  const known = rows.filter((row) => xs[row] !== null && ys[row] !== null).sort((a, b) => xs[a] - xs[b] || ys[b] - ys[a]);
  const now = JSON.stringify([state.x, vertical, state.log, darkTheme.matches, narrow.matches, known]);
  if (now === plotted) return;
  [plotted, chosen, dots] = [now, -1, []];
  plot.setAttribute("aria-label", `Scatter plot of ${label(vertical)} over ${label(state.x)}: ${known.length} autoencoders`);
  if (!known.length) {
    Plotly.purge(plot);
    plot.replaceChildren(make("p", "No entry shown here has both values.", {class: "empty"}));
    return;
  }
  plot.querySelector(".empty")?.remove();
  const traces = ARCHITECTURES.flatMap((architecture) => series(architecture, known, xs, ys, bars));
  traces.forEach((trace, curveNumber) => trace.customdata?.forEach((row, pointNumber) => dots.push({row, curveNumber, pointNumber})));
  dots.sort((a, b) => known.indexOf(a.row) - known.indexOf(b.row));
  const axis = (key, values) => ({title: {text: asText(label(key) + arrow(key))}, type: state.log && values.every((value) => value > 0) ? "log" : "linear"});
  const layout = {xaxis: axis(state.x, known.map((row) => xs[row])), yaxis: axis(vertical, known.map((row) => ys[row]))};
  Plotly.react(plot, traces, themed(layout, false), CONFIG);
  plot.removeAllListeners?.("plotly_click");
  plot.on("plotly_click", ({points}) => location.assign(ROWS.page[points[0].customdata]));
}

function series(architecture, known, xs, ys, bars) {
  const own = known.filter((row) => ROWS.architecture[row] === architecture);
  if (!own.length) return [];
  const color = colour(architecture), x = own.map((row) => xs[row]), y = own.map((row) => ys[row]);
  const words = (row) => [ROWS.name[row], architecture, ...figures(row)].map(asText).join("<br>");
  const points = {
    type: "scatter", mode: "markers", name: asText(architecture), x, y, customdata: own, text: own.map(words), hovertemplate: "%{text}<extra></extra>",
    marker: {color, symbol: styleOf(architecture, SYMBOLS), size: 9, opacity: own.length > MOST_BARS ? 0.5 : 0.9},
  };
  if (bars && known.length <= MOST_BARS) points.error_y = {type: "data", array: own.map((row) => 1.96 * (bars[row] ?? 0)), color, thickness: 1.2, width: 0};
  const front = frontier(own, xs, ys), dash = styleOf(architecture, DASHES);
  const line = {type: "scatter", mode: "lines", hoverinfo: "skip", x: front.map((row) => xs[row]), y: front.map((row) => ys[row]), line: {color, dash, width: 1.5}};
  return front.length > 1 ? [points, line] : [points];
}

// The points of a series that no other betters: nothing with a smaller x has a better y.
function frontier(own, xs, ys) {
  const better = direction(vertical);
  if (better === "none" || direction(state.x) === "higher") return [];
  const sign = better === "lower" ? 1 : -1, kept = [];
  let best = Infinity;
  for (const row of [...own].sort((a, b) => xs[a] - xs[b] || sign * (ys[a] - ys[b]))) {
    if (sign * ys[row] < best) { kept.push(row); best = sign * ys[row]; }
  }
  return kept;
}

function figures(row) {
  return [state.x, vertical].map((key) => `${label(key)} ${formatValue(column(key)[row], errors(key)?.[row])}`);
}

// A point chosen with the keys is shown as if the pointer were on it, and read aloud.
function choose(index) {
  chosen = index;
  const dot = dots[index];
  if (!dot) return Plotly.Fx.unhover(plot);
  Plotly.Fx.hover(plot, [{curveNumber: dot.curveNumber, pointNumber: dot.pointNumber}]);
  said.textContent = [ROWS.name[dot.row], ROWS.architecture[dot.row], ...figures(dot.row)].join(", ");
}

plot.addEventListener("keydown", (event) => {
  const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -dots.length, End: dots.length};
  if (event.key in steps && dots.length) {
    event.preventDefault();
    choose(Math.min(dots.length - 1, Math.max(0, (chosen < 0 && steps[event.key] > 0 ? -1 : chosen) + steps[event.key])));
  } else if (event.key === "Enter" && dots[chosen]) location.assign(ROWS.page[dots[chosen].row]);
  else if (event.key === "Escape") choose(-1);
});
