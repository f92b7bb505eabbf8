"use strict";
// All content is inserted as text nodes: no data is ever parsed as markup.

const main = document.getElementById("main");
const status = document.getElementById("status");
const query = document.getElementById("query");
const SHORT = [20, 10]; // tokens shown before and after an example's peak until it is expanded

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((each) => each !== null && each !== undefined && each !== false));
  return node;
}

// --- where the data comes from -------------------------------------------------------------------------------------

class ServerSource {
  async ask(path, parameters = {}) {
    const response = await fetch(`/api/${path}?${new URLSearchParams(parameters)}`);
    const data = await response.json();
    if (data && data.loading) { // weights are still being loaded: retry
      await new Promise((go) => setTimeout(go, 500));
      return this.ask(path, parameters);
    }
    if (!response.ok) throw new Error(data.error || response.statusText);
    return data;
  }
  overview() { return this.ask("overview"); }
  latents(show, sort, page) { return this.ask("latents", {show, sort, page}); }
  latent(latent) { return this.ask("latent", {latent}); }
  neighbours(latent) { return this.ask("neighbours", {latent}); }
  lens(latent) { return this.ask("lens", {latent}); }
  search(text) { return this.ask("search", {text}); }
  async jump(kind, shown) { return (await this.ask("jump", shown === null ? {kind} : {kind, shown})).latent; }
}

const parts = new Map();
window.saebenchData = (name, data) => { parts.get(name)?.resolve(data); };

class StaticSource {
  constructor(overview) { this.known = overview; }
  part(kind, number) {
    const name = `${kind}-${String(number).padStart(5, "0")}`;
    if (!parts.has(name)) {
      const entry = {};
      entry.promise = new Promise((resolve, reject) => Object.assign(entry, {resolve, reject}));
      parts.set(name, entry);
      const failed = () => { parts.delete(name); entry.reject(new Error(`The file data/${name}.js is missing.`)); };
      document.head.append(el("script", {src: `data/${name}.js`, onerror: failed}));
    }
    return parts.get(name).promise;
  }
  async rows() {
    const count = Math.ceil(this.known.n_latents / this.known.rows_per_file);
    this.all ??= Promise.all(Array.from({length: count}, (_, number) => this.part("list", number)));
    return (await this.all).flat();
  }
  async overview() { return this.known; }
  async chosen(show) {
    const rows = await this.rows(), dense = this.known.dense_from;
    const keep = {all: () => true, active: (row) => row.density > 0, dense: (row) => row.density > dense,
                  dead: (row) => row.density === 0, explained: (row) => row.explained}[show];
    return keep ? rows.filter(keep) : [];
  }
  async latents(show, sort, page) {
    const rows = await this.chosen(show), size = this.known.page;
    if (sort !== "number") rows.sort((a, b) => Math.abs(b[sort] ?? -1) - Math.abs(a[sort] ?? -1) || a.latent - b.latent);
    const pages = Math.max(1, Math.ceil(rows.length / size)), at = Math.min(Math.max(page, 0), pages - 1);
    return {rows: rows.slice(at * size, (at + 1) * size), page: at, pages, total: rows.length};
  }
  async latent(latent) {
    if (!(latent < this.known.n_latents)) throw new Error(`There is no latent ${latent}.`);
    const pages = await this.part("latents", Math.floor(latent / this.known.per_file));
    return pages[latent % this.known.per_file];
  }
  async neighbours(latent) { return (await this.latent(latent)).neighbours || []; }
  async lens(latent) { return (await this.latent(latent)).lens || {reason: "these pages were written without the language model"}; }
  async search() { throw new Error("Searching by text needs the language model: start `saebench view` without --static."); }
  async jump(kind, shown) {
    const every = await this.chosen(kind === "random" ? (this.known.has_examples ? "active" : "all") : kind);
    const others = every.filter((row) => row.latent !== shown), rows = others.length ? others : every;
    return rows.length ? rows[Math.floor(Math.random() * rows.length)].latent : null;
  }
}

const source = typeof STATIC === "undefined" ? new ServerSource() : new StaticSource(STATIC);
const overview = source.overview();

// --- words and numbers ---------------------------------------------------------------------------------------------

const plain = (value) => value === null || value === undefined ? "–"
  : Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(3)).toString();

function share(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const percent = value * 100;
  return percent >= 0.01 ? `${Number(percent.toPrecision(3))} %` : `1 in ${Math.round(1 / value).toLocaleString("en")}`;
}

// A token as nodes: line ends and tabs get a visible mark; lines are only broken where `broken`.
function tokenNodes(text, broken = false) {
  const nodes = [];
  for (const piece of text.split(/(\n|\t|\r)/)) {
    if (piece === "\n") nodes.push(el("span", {class: "mark"}, "↵"), broken ? "\n" : "\u200b");
    else if (piece === "\t") nodes.push(el("span", {class: "mark"}, "⇥"), broken ? "\t" : "\u200b");
    else if (piece === "\r") nodes.push(el("span", {class: "mark"}, "␍"));
    else if (piece) nodes.push(broken ? piece : piece.replace(/ {2,}/g, " "));
  }
  return nodes.length ? nodes : [el("span", {class: "mark"}, "∅")];
}

// A token with its colour; a leading space stays before the colour.
function token(text, {value, largest, peak = false, broken = false}) {
  const [, space, rest] = /^( ?)(.*)$/s.exec(text);
  const node = colour(el("span", {class: peak ? "t peak" : "t"}, tokenNodes(rest ? rest : text, broken)), value, largest);
  return rest && space ? [space, node] : [node];
}

const hexed = (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
const word = (text, extra = "") => el("code", {class: `word ${extra}`},
  text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍")
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, hexed) || "∅");

function colour(node, value, largest) {
  if (!value) return node;
  node.classList.add("on");
  if (value < 0) node.classList.add("cold");
  node.style.setProperty("--a", (0.12 + 0.68 * Math.min(1, Math.abs(value) / (largest || 1))).toFixed(3));
  node.title = `${plain(value)}`;
  return node;
}

const link = (latent) => el("a", {href: `#/latent/${latent}`}, String(latent));

// --- figures -------------------------------------------------------------------------------------------------------

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Bars over logarithmic bins; the text below is the alternative.
function bars({edges, counts}, label, tick) {
  const width = 320, height = 110, foot = 18, most = Math.max(...counts), step = width / counts.length;
  const shown = counts.map((count, place) => {
    const tall = count ? Math.max(1.5, count / most * (height - 4)) : 0;
    const title = svg("title", {}, `${tick(edges[place])} to ${tick(edges[place + 1])}: ${count.toLocaleString("en")}`);
    return svg("rect", {x: place * step + 0.5, y: height - tall, width: Math.max(step - 1, 0.5), height: tall}, title);
  });
  const places = [0, Math.floor(counts.length / 2), counts.length];
  const words = places.map((place, index) => svg("text",
    {x: place * step, y: height + 14, "text-anchor": ["start", "middle", "end"][index]}, tick(edges[place])));
  const frame = svg("line", {x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5});
  return svg("svg", {viewBox: `0 0 ${width} ${height + foot}`, role: "img", "aria-label": label}, ...shown, frame, ...words);
}

// --- a latent ------------------------------------------------------------------------------------------------------

function exampleText(example, words, largest, whole) {
  const active = new Map(example.active), {tokens, position} = example;
  const first = whole ? 0 : Math.max(0, position - SHORT[0]);
  const last = whole ? tokens.length - 1 : Math.min(tokens.length - 1, position + SHORT[1]);
  const shown = [];
  for (let place = first; place <= last; place++) {
    const text = words[tokens[place]] ?? `[${tokens[place]}]`;
    shown.push(token(place === first ? text.trimStart() || text : text,
      {value: active.get(place), largest, peak: place === position, broken: whole}));
  }
  return {shown, cut: first > 0 || last < tokens.length - 1};
}

function exampleRow(example, words, largest) {
  const text = el("p", {class: "text"});
  const value = new Map(example.active).get(example.position);
  const fill = (whole) => {
    const {shown, cut} = exampleText(example, words, largest, whole);
    const button = cut || whole ? el("button", {class: "more", type: "button", "aria-expanded": String(whole),
      onclick: () => { fill(!whole); text.querySelector(".more")?.focus(); }}, whole ? "less" : "more") : null;
    text.replaceChildren(...shown.flat(), ...(button ? [" ", button] : []));
  };
  fill(false);
  return el("div", {class: "example"},
    el("div", {class: "value", title: `row ${example.row}, position ${example.row_position}`}, plain(value)), text);
}

function groupSection(group, words, largest) {
  return el("section", {class: "group"},
    el("h2", {}, group.name, el("small", {class: "soft"}, group.name === "Strongest" ? "one a row of text" : "of a random sample")),
    group.examples.map((example) => exampleRow(example, words, largest)));
}

function lensLists(lens) {
  if (lens.reason) return el("p", {class: "soft"}, `Undefined: ${lens.reason}.`);
  const list = (rows) => el("ol", {}, rows.map(([text, value]) => el("li", {}, word(text), el("span", {class: "number soft"}, plain(value)))));
  return el("div", {class: "lens"}, el("div", {}, el("h3", {}, "Raises"), list(lens.top)), el("div", {}, el("h3", {}, "Lowers"), list(lens.bottom)));
}

function neighbourTable(rows) {
  if (!rows.length) return el("p", {class: "soft"}, "None.");
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "Latent"),
    el("th", {scope: "col", class: "number"}, "Cosine"), el("th", {scope: "col", class: "number"}, "Density"))),
    el("tbody", {}, rows.map((row) => el("tr", {}, el("th", {scope: "row"}, link(row.latent)),
      el("td", {class: "number"}, row.cosine.toFixed(3)), el("td", {class: "number"}, share(row.density))))));
}

function metaTable(parts) {
  if (!parts.length) return el("p", {class: "soft"}, "No meta-latent is active on this direction.");
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "Meta-latent"),
    el("th", {scope: "col", class: "number"}, "Value"), el("th", {scope: "col"}, "Shared with"))),
    el("tbody", {}, parts.map((part) => el("tr", {}, el("th", {scope: "row"}, plain(part.meta_latent)),
      el("td", {class: "number"}, part.value.toFixed(3)),
      el("td", {}, part.others.map((other) => [link(other), " "]),
        part.latents - 1 > part.others.length ? el("span", {class: "soft"}, `and ${plain(part.latents - 1 - part.others.length)} more`) : null)))));
}

const isPath = (value) => value && typeof value === "object" && Array.isArray(value.text);

// Any JSON value; lists of n-grams and nested children have their own form.
function anyValue(value) {
  if (value === null) return "–";
  if (typeof value === "number") return plain(value);
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) {
    if (value.length && value.every(isPath)) return gramTable(value);
    if (value.every((each) => each === null || typeof each !== "object")) {
      return value.every((each) => typeof each === "number") ? value.map(plain).join(" to ") : value.map((each) => el("span", {}, word(String(each)), " "));
    }
    return el("ol", {}, value.map((each) => el("li", {}, anyValue(each))));
  }
  return dataList(value);
}

function dataList(record) {
  return el("dl", {class: "data"}, Object.entries(record).flatMap(([key, value]) => {
    const nested = value !== null && typeof value === "object" && !Array.isArray(value);
    const name = el("dt", {}, key.replaceAll("_", " "));
    return nested ? [name, el("dd", {}), anyValue(value)] : [name, el("dd", {}, anyValue(value))];
  }));
}

function gramTable(paths) {
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "N-gram (last token fires)"),
    el("th", {scope: "col", class: "number"}, "Value"))),
    el("tbody", {}, paths.map((path) => el("tr", {},
      el("td", {class: "gram"}, path.at_start ? el("code", {class: "word any", title: "start of the text"}, "⊢") : null,
        path.text.map((text, place) => (path.tokens ? path.tokens[place] === null : text === "*")
          ? el("code", {class: "word any", title: "any token"}, "*") : word(String(text)))),
      el("td", {class: "number"}, plain(path.value))))));
}

function explainedSections(explained, shown) {
  return Object.entries(explained).map(([evaluator, record]) => {
    const {explanation, trie, ...rest} = record;
    return el("section", {"data-explained": evaluator}, el("h2", {}, evaluator),
      typeof explanation === "string" && explanation !== shown ? el("p", {}, explanation) : null,
      trie !== undefined ? [el("h3", {}, "Neuron2Graph trie"), anyValue(trie)] : null,
      Object.keys(rest).length ? el("details", {open: trie === undefined}, el("summary", {}, "Scores and figures"), dataList(rest)) : null);
  });
}

function facts(pairs) {
  return el("dl", {class: "facts"}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

// A panel that fills itself in when its data arrives.
function later(title, promise, render) {
  const section = el("section", {}, el("h2", {}, title), el("p", {class: "soft"}, "Loading…"));
  promise.then((data) => section.lastChild.replaceWith(render(data)),
    (error) => section.lastChild.replaceWith(el("p", {class: "failure"}, error.message)));
  return section;
}

async function showLatent(number) {
  const [about, one] = await Promise.all([overview, source.latent(number)]);
  const step = (to, label, name) => el("button", {type: "button", title: `Latent ${to}`, "aria-label": name,
    disabled: to < 0 || to >= about.n_latents, onclick: () => { location.hash = `#/latent/${to}`; }}, label);
  const explanation = Object.values(one.explained || {}).map((record) => record.explanation).find((each) => typeof each === "string");
  const side = el("aside", {}, one.histogram ? el("section", {}, el("h2", {}, "Activations"),
    bars(one.histogram, `Histogram of the ${plain(one.count)} activations`, plain)) : null,
    explainedSections(one.explained || {}, explanation),
    one.meta_latents ? el("section", {"data-meta": ""}, el("h2", {}, "Meta-latents"), metaTable(one.meta_latents)) : null,
    about.live || typeof STATIC !== "undefined" ? later("Logit lens", source.lens(number), lensLists) : null,
    about.weights ? later("Nearest decoder directions", source.neighbours(number), neighbourTable) : null);
  const missing = !about.has_examples ? el("p", {class: "soft"}, "There are no examples: write them with `saebench examples` and name them with --examples.")
    : !one.groups.length && el("p", {class: "soft"}, "This latent is dead: it was never active on this text.");
  const groups = (one.groups || []).map((group) => groupSection(group, one.words, Math.abs(one.maximum)));
  return [`Latent ${number}`,
    el("div", {class: "title"}, el("h1", {}, `Latent ${number}`), el("div", {class: "row"},
      step(number - 1, "←", "Previous latent"), step(number + 1, "→", "Next latent"))),
    explanation ? el("p", {class: "explanation"}, explanation) : null,
    about.has_examples ? facts([["Density", share(one.density)], ["Active on", `${plain(one.count)} tokens`],
      ["Mean when active", plain(one.mean)], ["Maximum", plain(one.maximum)]]) : null,
    el("div", {class: "page"}, el("div", {class: "first"}, missing, groups.slice(0, 1)), side, el("div", {class: "rest"}, groups.slice(1)))];
}

// --- the list ------------------------------------------------------------------------------------------------------

const SHOWS = {all: "all latents", active: "active", dense: "dense", dead: "dead", explained: "explained"};
const SORTS = {number: "number", density: "density", maximum: "maximum"};

function rowText(row) {
  if (row.explanation) return row.explanation;
  if (!row.text) return el("span", {class: "soft"}, row.density === 0 ? "dead" : "");
  return el("p", {class: "text"}, row.text.map((text, place) => token(place ? text : text.trimStart() || text,
    place === row.position ? {value: row.maximum, largest: Math.abs(row.maximum) * 2, peak: true} : {})));
}

async function showList(parameters) {
  const show = parameters.get("show") || "all", sort = parameters.get("sort") || "number", page = Number(parameters.get("page")) || 0;
  const [about, found] = await Promise.all([overview, source.latents(show, sort, page)]);
  const go = (changes) => { location.hash = `#/?${new URLSearchParams({show, sort, page: 0, ...changes})}`; };
  const pick = (name, choices, value) => el("select", {onchange: (event) => go({[name]: event.target.value})},
    Object.entries(choices).map(([key, words]) => el("option", {value: key, selected: key === value}, words)));
  const pager = () => el("div", {class: "pager"},
    el("button", {type: "button", disabled: found.page === 0, onclick: () => go({page: found.page - 1})}, "Previous"),
    el("span", {class: "soft"}, `Page ${plain(found.page + 1)} of ${plain(found.pages)}`),
    el("button", {type: "button", disabled: found.page + 1 >= found.pages, onclick: () => go({page: found.page + 1})}, "Next"));
  const rows = found.rows.map((row) => el("tr", {}, el("th", {scope: "row", class: "number"}, link(row.latent)),
    about.has_examples ? [el("td", {class: "number"}, share(row.density)), el("td", {class: "number optional"}, plain(row.maximum))] : null,
    el("td", {class: "words"}, rowText(row))));
  return ["Latents", el("div", {class: "title"}, el("h1", {}, about.name)), facts(about.facts),
    about.densities ? el("section", {class: "panel"}, el("h2", {}, "Densities"),
      el("div", {class: "densities"}, bars(about.densities, "Histogram of the latents' densities", share),
        el("ul", {class: "soft"}, el("li", {}, el("a", {href: "#/?show=dead"}, plain(about.dead)), " never fired on this text"),
          el("li", {}, el("a", {href: "#/?show=dense&sort=density"}, plain(about.dense)), ` fire on more than ${share(about.dense_from)} of the tokens`),
          about.explained ? el("li", {}, el("a", {href: "#/?show=explained"}, plain(about.explained)), " are explained") : null))) : null,
    about.has_examples || about.explained ? el("div", {class: "controls"}, el("label", {}, "Show ", pick("show", SHOWS, show)),
      el("label", {}, "sorted by ", pick("sort", SORTS, sort)), el("span", {class: "soft"}, `${plain(found.total)} latents`)) : null,
    el("table", {class: "list"}, el("thead", {}, el("tr", {}, el("th", {scope: "col", class: "number"}, "Latent"),
      about.has_examples ? [el("th", {scope: "col", class: "number"}, "Density"), el("th", {scope: "col", class: "number optional"}, "Maximum")] : null,
      el("th", {scope: "col"}, about.has_examples ? "Where it fires most strongly" : ""))), el("tbody", {}, rows)),
    pager()];
}

// --- search by text ------------------------------------------------------------------------------------------------

async function showSearch(text) {
  const found = await source.search(text);
  const byNumber = new Map(found.latents.map((each) => [each.latent, each]));
  const results = el("div", {}), heading = el("h2", {});
  let pressed = null;
  const fill = () => {
    const chosen = pressed === null ? found.ranking : found.of_tokens[pressed];
    heading.replaceChildren(pressed === null ? "Strongest latents" : "Strongest latents at the chosen token",
      el("small", {class: "soft"}, pressed === null ? ` ${plain(chosen.length)} of ${plain(found.total)} that fire on this text` : ""));
    const rows = chosen.map((latent) => {
      const one = byNumber.get(latent), active = new Map(one.active);
      const tokens = found.tokens.map((text, place) => token(text, {value: active.get(place), largest: one.strongest, peak: place === pressed}));
      const value = pressed === null ? one.strongest : active.get(pressed);
      return el("tr", {}, el("th", {scope: "row", class: "number"}, link(latent)), el("td", {class: "number"}, plain(value)),
        el("td", {class: "number optional"}, share(one.density)), el("td", {class: "words"}, el("p", {class: "text"}, tokens)));
    });
    results.replaceChildren(el("table", {class: "list"}, el("thead", {}, el("tr", {}, el("th", {scope: "col", class: "number"}, "Latent"),
      el("th", {scope: "col", class: "number"}, "Activation"), el("th", {scope: "col", class: "number optional"}, "Density"), el("th", {scope: "col"}, "Where it fires"))),
      el("tbody", {}, rows)));
    for (const [place, button] of buttons.entries()) button.setAttribute("aria-pressed", String(place === pressed));
  };
  const buttons = found.tokens.map((text, place) => el("button", {class: "t", type: "button", "aria-pressed": "false",
    onclick: () => { pressed = pressed === place ? null : place; fill(); }}, tokenNodes(text)));
  fill();
  return [`Search: ${text.slice(0, 40)}`, el("div", {class: "title"}, el("h1", {}, "Which latents fire on this text?")),
    el("div", {class: "panel"}, el("p", {class: "text"}, buttons), el("p", {class: "soft"}, "Choose a token to see the latents that fire there.")), heading, results];
}

// --- navigation ----------------------------------------------------------------------------------------------------

let turn = 0;

async function route() {
  const mine = ++turn, [path, parameters] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const latent = /^\/latent\/(\d{1,11})$/.exec(path);
  main.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => { if (mine === turn) main.replaceChildren(el("p", {class: "soft"}, path === "/search" ? "Running the language model…" : "Loading…")); }, 300);
  let title, nodes;
  try {
    [title, ...nodes] = latent ? await showLatent(Number(latent[1]))
      : path === "/search" ? await showSearch(new URLSearchParams(parameters).get("text") || "")
      : await showList(new URLSearchParams(parameters));
  } catch (error) {
    [title, nodes] = ["Error", [el("p", {class: "failure", role: "alert"}, error.message)]];
  }
  clearTimeout(slow);
  if (mine !== turn) return; // the reader has moved to another page
  main.replaceChildren(...nodes.filter(Boolean));
  main.removeAttribute("aria-busy");
  const about = await overview.catch(() => ({name: "viewer"}));
  document.title = `${title} · ${about.name} · saebench`;
  status.textContent = title;
  if (path === "/search") query.value = new URLSearchParams(parameters).get("text") || "";
  if (!latent || mine > 1) window.scrollTo(0, 0);
}

async function jump(kind) {
  try {
    const shown = /^#\/latent\/(\d+)$/.exec(location.hash), latent = await source.jump(kind, shown && Number(shown[1]));
    if (latent === null) status.textContent = `There is no ${kind} latent.`;
    else if (location.hash === `#/latent/${latent}`) route();
    else location.hash = `#/latent/${latent}`;
  } catch (error) { status.textContent = error.message; }
}

document.getElementById("go").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = query.value.trim();
  if (!text) return;
  const to = /^\d{1,11}$/.test(text) ? `#/latent/${Number(text)}` : `#/search?${new URLSearchParams({text: query.value})}`;
  query.blur();
  if (location.hash === to) route(); else location.hash = to;
});
for (const button of document.querySelectorAll("[data-jump]")) button.addEventListener("click", () => jump(button.dataset.jump));
overview.then((about) => {
  for (const kind of ["dense", "dead"]) document.querySelector(`[data-jump="${kind}"]`).disabled = !about[kind];
}, () => {});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const latent = /^#\/latent\/(\d+)$/.exec(location.hash);
  const kind = {r: "random", d: "dense", x: "dead"}[event.key];
  if (kind) { if (!document.querySelector(`[data-jump="${kind}"]`).disabled) jump(kind); }
  else if (event.key === "/") { event.preventDefault(); query.focus(); query.select(); }
  else if (event.key === "l") location.hash = "#/";
  else if (latent && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const to = Number(latent[1]) + (event.key === "ArrowLeft" ? -1 : 1);
    overview.then((about) => { if (to >= 0 && to < about.n_latents) location.hash = `#/latent/${to}`; });
  }
});
window.addEventListener("hashchange", route);
route();
