// Controls and drawing: a change of the state redraws everything and writes the address.

function option(value, text) {
  return make("option", text, {value});
}

function fillControls() {
  const models = [...new Set(DATA.boards.map((board) => board.model))].sort(byWords);
  control("model").append(...models.map((name) => option(name, name)));
  for (const axis of ["x", "y"]) {
    control(axis).append(option("l0", "L0"), option("n", "Latents"));
    for (const [evaluator, metrics] of byEvaluator()) {
      const group = make("optgroup", null, {label: evaluator});
      group.append(...metrics.map((metric) => option(metric.path, metric.name)));
      control(axis).append(group);
    }
  }
  for (const [evaluator, metrics] of byEvaluator()) {
    const set = make("fieldset", null);
    set.append(make("legend", evaluator), ...metrics.map(columnChoice));
    control("column-list").append(set);
  }
  control("architectures").append(...ARCHITECTURES.map(architectureChip));
  const marks = [];
  if (Object.keys(ROWS.verified).length) marks.push("✓ a random part was evaluated again from the checkpoint, and agreed.");
  if (IMPORTED.size) marks.push("† measured by another suite and not vouched for.");
  if (CLAIMED.size) marks.push("‡ L0 as claimed in the name, not measured.");
  control("marks").textContent = marks.join(" ");
}

function byEvaluator() {
  const groups = new Map();
  for (const metric of DATA.metrics) {
    if (!groups.has(metric.evaluator)) groups.set(metric.evaluator, []);
    groups.get(metric.evaluator).push(metric);
  }
  return groups;
}

function columnChoice(metric) {
  const line = make("label", null), box = make("input", null, {type: "checkbox", value: metric.path});
  box.addEventListener("change", () => {
    const wanted = new Set(state.columns);
    if (box.checked) wanted.add(metric.path); else wanted.delete(metric.path);
    change({columns: DATA.metrics.map((each) => each.path).filter((path) => wanted.has(path))});
  });
  line.append(box, ` ${metric.name}`);
  line.title = metric.description;
  return line;
}

function architectureChip(name) {
  const chip = make("button", null, {type: "button"});
  chip.append(make("span", styleOf(name, [...GLYPHS]), {"aria-hidden": "true"}), name);
  chip.dataset.name = name;
  chip.addEventListener("click", () => {
    const hidden = new Set(state.hidden);
    if (!hidden.delete(name)) hidden.add(name);
    change({hidden: ARCHITECTURES.filter((each) => hidden.has(each))});
  });
  return chip;
}

function showControls() {
  control("hook").replaceChildren(option("", "all"), ...hooksOf(state.model).map((name) => option(name, name)));
  for (const key of ["q", "model", "hook", "source", "min", "max", "x"]) {
    if (control(key).value !== state[key]) control(key).value = state[key];
  }
  control("log").checked = state.log;
  for (const box of document.querySelectorAll("#column-list input")) box.checked = state.columns.includes(box.value);
  for (const chip of document.querySelectorAll("#architectures button")) {
    chip.setAttribute("aria-pressed", String(!state.hidden.includes(chip.dataset.name)));
    chip.querySelector("span").style.color = colour(chip.dataset.name);
  }
}

function show() {
  const rows = shownRows();
  showControls();
  const boards = new Set(rows.map((row) => `${ROWS.board[row]}${IMPORTED.has(row)}`));
  const note = control("note");
  note.hidden = boards.size < 2;
  note.textContent = "Entries of different leaderboards or suites were measured on different text or models: "
    + "choose a model, a hook and who measured, to compare like with like.";
  control("count").textContent = `${rows.length.toLocaleString("en")} of ${COUNT.toLocaleString("en")} entries, by ${label(state.sort)}`
    + (state.down ? ", descending" : "");
  drawPlot(rows.slice());
  drawTable(sortRows(rows));
}

function change(changes) {
  const top = Object.keys(changes).every((key) => key === "columns") ? grid.scrollTop : 0;
  Object.assign(state, changes);
  if (!hooksOf(state.model).includes(state.hook)) state.hook = "";
  writeAddress();
  grid.scrollTop = top;
  show();
}

for (const key of ["q", "min", "max"]) control(key).addEventListener("input", () => change({[key]: control(key).value}));
control("model").addEventListener("change", () => change({model: control("model").value, hook: ""}));
for (const key of ["hook", "source", "x", "y"]) control(key).addEventListener("change", () => change({[key]: control(key).value}));
control("log").addEventListener("change", () => change({log: control("log").checked}));
control("reset").addEventListener("click", () => change(structuredClone(DEFAULTS)));
control("filters").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => { state = readAddress(); show(); });
darkTheme.addEventListener("change", show);
narrow.addEventListener("change", show);

fillControls();
state = readAddress();
show();
