const SERIES = {
  light: ["#1f6fb4", "#c2410c", "#15803d", "#9333a8", "#8a6a00", "#0f766e", "#be185d", "#475569"],
  dark: ["#6fb1ee", "#f59e6c", "#5fcf8f", "#d39bea", "#e3c34f", "#4fd1c5", "#f48fb9", "#a9b4c4"],
};
const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");

function paint(trace, palette) {
  const color = palette[trace.meta % palette.length];
  const painted = {...trace, marker: {...trace.marker, color}};
  if (trace.line) painted.line = {...trace.line, color};
  if (trace.fill) painted.fillcolor = color;
  return painted;
}

function draw() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
  const palette = darkTheme.matches ? SERIES.dark : SERIES.light;
  for (const {id, traces, layout} of FIGURES) {
    const painted = traces.map((trace) => {
      const one = paint(trace, palette);
      for (const bars of ["error_x", "error_y"]) if (one[bars]) one[bars] = {...one[bars], color: one.type === "bar" ? ink : palette[one.meta % palette.length]};
      if (one.texttemplate) one.insidetextfont = {color: paper};
      return one;
    });
    const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: narrow.matches};
    Plotly.react(`plot-${id}`, painted, {
      ...layout,
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: {color: soft, family: "system-ui, sans-serif", size: 12.5},
      margin: {l: 52, r: 8, t: 12, b: 44}, hoverlabel: {bgcolor: paper, bordercolor: line, font: {color: ink}},
      showlegend: new Set(traces.map((trace) => trace.meta)).size > 1,
      legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: {size: 12}},
      xaxis: {showgrid: false, ...axis, ...layout.xaxis}, yaxis: {...axis, ...layout.yaxis},
    }, {responsive: true, displayModeBar: false});
  }
}

draw();
darkTheme.addEventListener("change", draw);
narrow.addEventListener("change", draw);
