// Colours and axes of every figure, in the light and the dark theme.
const SERIES = {
  light: ["#1f6fb4", "#c2410c", "#15803d", "#9333a8", "#8a6a00", "#0f766e", "#be185d", "#475569"],
  dark: ["#6fb1ee", "#f59e6c", "#5fcf8f", "#d39bea", "#e3c34f", "#4fd1c5", "#f48fb9", "#a9b4c4"],
};
const CONFIG = {responsive: true, displayModeBar: false};
const darkTheme = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");

function themeColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function themed(layout, showlegend) {
  const [ink, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map(themeColour);
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: narrow.matches};
  return {
    ...layout,
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: {color: soft, family: "system-ui, sans-serif", size: 12.5},
    margin: {l: 52, r: 8, t: 12, b: 44}, hoverlabel: {bgcolor: paper, bordercolor: line, font: {color: ink}, align: "left"},
    showlegend, legend: {orientation: "h", traceorder: "normal", x: 0, y: 1.02, yanchor: "bottom", font: {size: 12}},
    xaxis: {showgrid: false, ...axis, ...layout.xaxis}, yaxis: {...axis, ...layout.yaxis},
  };
}
