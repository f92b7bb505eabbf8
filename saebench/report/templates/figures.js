// Draws the figures of a page; a trace's meta is the number of its colour. Where colours repeat, symbols and dashes differ.
const SYMBOLS = ["circle", "diamond", "square", "cross"], DASHES = ["solid", "dash", "dot", "dashdot"];

function paint(trace, palette) {
  const color = palette[trace.meta % palette.length], again = Math.floor(trace.meta / palette.length) % SYMBOLS.length;
  const painted = {...trace, marker: {...trace.marker, color}};
  if (trace.line) painted.line = {...trace.line, color};
  if (again > 0) {
    painted.marker.symbol = SYMBOLS[again];
    if (trace.line) painted.line.dash = DASHES[again];
  }
  if (trace.fill) painted.fillcolor = trace.fill === "tonexty" ? `${color}40` : color;
  for (const bars of ["error_x", "error_y"]) {
    if (trace[bars]) painted[bars] = {...trace[bars], color: trace.type === "bar" ? themeColour("--ink") : color};
  }
  if (trace.texttemplate) painted.insidetextfont = {color: themeColour("--paper")};
  return painted;
}

function drawFigures() {
  const palette = darkTheme.matches ? SERIES.dark : SERIES.light;
  for (const {id, traces, layout} of FIGURES) {
    const series = new Set(traces.map((trace) => trace.meta)).size;
    Plotly.react(`plot-${id}`, traces.map((trace) => paint(trace, palette)), themed(layout, series > 1), CONFIG);
  }
}

drawFigures();
darkTheme.addEventListener("change", drawFigures);
narrow.addEventListener("change", drawFigures);
