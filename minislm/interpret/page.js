"use strict";
// One state (selected token, selected head, what colours the tokens); the page is redrawn when it
// changes. All text from the model is set as textContent, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const [L, H, T, N] = data.attention.shape;
const positions = decode(data.attention.positions), weights = decode(data.attention.weights);
const $ = (id) => document.getElementById(id);
const state = { token: Math.min(1, T - 1), head: 0, color: "loss" };

function decode(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Uint16Array(bytes.buffer);
}

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function percent(x) {
  if (x > 0 && x < 0.0005) return "<0.1 %";
  return (x >= 0.0995 || x === 0 ? Math.round(100 * x) : (100 * x).toFixed(1)) + " %";
}
const signed = (x, digits) => (x >= 0 ? "+" : "") + x.toFixed(digits);
const visible = (text) => text.replace(/\n/g, "⏎") || "·";
const nameOf = (t) => (t === 0 ? "start" : visible(data.tokens[t].text.trimStart()));
const classColor = (name) => `rgba(var(--${name}), ${name === "other" ? 0.1 : 0.34})`;
const clamp = (t) => Math.max(0, Math.min(T - 1, t));

// Index of the first attention weight of query token t.
const rowStart = (head, t) => ((head.layer * H + head.index) * T + t) * N;

// The attention weights of query token t: [[position, weight], ...], largest first.
function row(head, t) {
  const begin = rowStart(head, t), found = [];
  for (let n = begin; n < begin + N; n++) {
    if (weights[n]) found.push([positions[n], weights[n] / 65535]);
  }
  return found;
}

const heads = data.heads.slice().sort((a, b) => b.loss_increase - a.loss_increase);
const largestIncrease = Math.max(1e-9, ...heads.map((head) => head.loss_increase));
const summary = (head) => `${head.target}, ${head.kind === "semantic" ? "+" : ""}${percent(head.weight)}`;

function colorTokens() {
  const attention = new Map(row(heads[state.head], state.token));
  spans.forEach((span, t) => {
    const token = data.tokens[t];
    let color = "";
    if (state.color === "loss" && token.loss !== null) {
      color = `rgba(var(--loss), ${Math.min(0.75, token.loss / 8).toFixed(3)})`;
    } else if (state.color === "class" && t > 0) {
      color = classColor(data.classes[token.class]);
    } else if (state.color === "attention" && attention.has(t)) {
      color = `rgba(var(--attention), ${(0.06 + 0.8 * attention.get(t)).toFixed(3)})`;
    }
    span.style.background = color;
    span.classList.toggle("at", t === state.token);
    span.tabIndex = t === state.token ? 0 : -1;
  });
}

function meter(name, value) {
  const line = make("div", undefined, "meter"), bar = make("i"), box = make("div");
  bar.style.width = Math.max(1, 100 * value) + "%";
  box.append(bar);
  line.append(make("b", name), box, make("em", percent(value)));
  return line;
}

function showToken() {
  const t = state.token, token = data.tokens[t], panel = $("token");
  panel.replaceChildren(make("div", nameOf(t), "name"));
  if (token.loss === null) {
    panel.append(make("p", "The end-of-text token that precedes every story.", "soft"));
  } else {
    const probability = percent(Math.exp(-token.loss));
    panel.append(make("div", `token ${t}, ${data.classes[token.class]}`, "soft"),
      make("div", `loss ${token.loss.toFixed(2)} nats, probability ${probability}`),
      make("h3", "Most probable alternatives"),
      ...token.alternatives.map(([text, p]) => meter(visible(text.trimStart()), p)));
  }
  const head = heads[state.head], largest = row(head, t).slice(0, 5);
  panel.append(make("h3", `Attention weights, head ${head.layer}.${head.index}`),
    ...largest.map(([position, weight]) => meter(nameOf(position), weight)));
  const rest = 1 - largest.reduce((sum, [, weight]) => sum + weight, 0);
  if (rest > 0.005) panel.append(meter("all others", rest));
}

// From dark through purple and orange to light, like matplotlib's magma.
function mapColor(weight) {
  const x = Math.pow(weight, 0.4), at = Math.min(3.999, 4 * x), k = Math.floor(at);
  const stops = [[12, 9, 32], [84, 24, 110], [186, 55, 85], [249, 142, 60], [252, 253, 191]];
  return stops[k].map((value, c) => value + (at - k) * (stops[k + 1][c] - value));
}
const mapColors = Array.from({ length: 256 }, (_, k) => mapColor(k / 255));

// One pixel per token pair, or the largest weight of the pairs that share a pixel.
function renderMap(canvas, head, size) {
  const cells = Math.min(T, size), scale = cells / T;
  canvas.width = canvas.height = cells;
  const context = canvas.getContext("2d"), image = context.createImageData(cells, cells);
  const largest = new Uint16Array(cells * cells);
  for (let t = 0; t < T; t++) {
    const begin = rowStart(head, t), y = Math.floor(t * scale);
    for (let n = begin; n < begin + N; n++) {
      const at = y * cells + Math.floor(positions[n] * scale);
      largest[at] = Math.max(largest[at], weights[n]);
    }
  }
  largest.forEach((weight, k) => image.data.set([...mapColors[weight >> 8], 255], 4 * k));
  context.putImageData(image, 0, 0);
}

function showMap() {
  const canvas = $("map");
  renderMap(canvas, heads[state.head], 1024);
  const context = canvas.getContext("2d"), scale = canvas.width / T;
  context.fillStyle = "rgba(255, 255, 255, 0.16)";
  context.fillRect(0, Math.floor(state.token * scale), canvas.width, Math.max(1, Math.ceil(scale)));
  showCaption();
}

function showCaption(position) {
  const head = heads[state.head], box = $("caption");
  const kind = head.kind === "distance" ? "distance-based" : "semantic";
  box.replaceChildren(make("b", `Head ${head.layer}.${head.index}`),
    ` (${kind}): ${summary(head)}; ablated: ${signed(head.loss_increase, 4)} nats per token.`);
  if (position === undefined || position > state.token) return;
  const found = row(head, state.token).find(([p]) => p === position);
  const rest = N < T ? "a weight smaller than those in this page" : "weight 0 %";
  box.append(make("br"), make("b", nameOf(state.token)), " attends to ",
    make("b", nameOf(position)), " with " + (found ? "weight " + percent(found[1]) : rest));
}

function select(change) {
  Object.assign(state, change);
  colorTokens();
  showToken();
  showMap();
  document.querySelectorAll(".head").forEach((button) =>
    button.setAttribute("aria-pressed", String(Number(button.dataset.head) === state.head)));
}

function setColor(color) {
  document.querySelectorAll("[data-color]").forEach((button) => {
    button.setAttribute("aria-checked", String(button.dataset.color === color));
    button.tabIndex = button.dataset.color === color ? 0 : -1;
  });
  const legend = $("legend");
  legend.replaceChildren();
  if (color === "loss") legend.append("Redder: larger loss.");
  if (color === "attention") {
    legend.append("Bluer: larger attention weight of the selected token, in the selected head.");
  }
  if (color === "class") {
    for (const name of data.classes) {
      const key = make("span", name, "key");
      key.style.background = classColor(name);
      legend.append(key);
    }
  }
  select({ color });
}

// --- tokens
const spans = data.tokens.map((token, t) => {
  const span = make("span", t === 0 ? "start" : token.text, t === 0 ? "start" : "");
  const label = token.loss === null ? "start" : "loss " + token.loss.toFixed(2);
  span.dataset.token = t;
  span.setAttribute("role", "button");
  span.setAttribute("aria-label", `${nameOf(t)}, ${label}`);
  return span;
});
$("text").append(...spans);
for (const event of ["pointerover", "focusin"]) {
  $("text").addEventListener(event, ({ target }) => {
    if (target.dataset.token) select({ token: Number(target.dataset.token) });
  });
}
$("text").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -T, End: T };
  if (!(event.key in steps)) return;
  event.preventDefault();
  spans[clamp(state.token + steps[event.key])].focus();
});

// --- colour buttons
document.querySelectorAll("[data-color]").forEach((button, k, all) => {
  button.addEventListener("click", () => setColor(button.dataset.color));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[(k + step + all.length) % all.length];
    setColor(next.dataset.color);
    next.focus();
  });
});

// --- heads
for (const [kind, title] of [["distance", "Distance-based"], ["semantic", "Semantic"]]) {
  const group = heads.map((head, k) => [head, k]).filter(([head]) => head.kind === kind);
  const grid = make("div", undefined, "grid");
  for (const [head, k] of group) {
    const button = make("button", undefined, "head"), name = make("span");
    const number = `${head.layer}.${head.index}`, increase = make("span", undefined, "increase");
    button.dataset.head = k;
    button.setAttribute("aria-label",
      `Head ${number}, ${summary(head)}, ablated: ${signed(head.loss_increase, 4)}`);
    increase.style.width = Math.max(2, 100 * Math.max(0, head.loss_increase) / largestIncrease) + "%";
    name.append(make("b", number), " " + signed(head.loss_increase, 3));
    button.append(make("canvas"), name, make("span", summary(head), "soft"), increase);
    button.addEventListener("click", () => { select({ head: k }); setColor("attention"); });
    grid.append(button);
  }
  $("heads").append(make("h3", `${title}: ${group.length}`), grid);
}
// A small map is rendered when it is scrolled into view, so that a page of a hundred heads opens fast.
const observer = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    renderMap(target.querySelector("canvas"), heads[target.dataset.head], 96);
    observer.unobserve(target);
  }
});
document.querySelectorAll(".head").forEach((button) => observer.observe(button));

for (const event of ["pointermove", "pointerdown"]) {
  $("map").addEventListener(event, ({ clientX, clientY }) => {
    const box = $("map").getBoundingClientRect();
    select({ token: clamp(Math.floor((clientY - box.top) / box.height * T)) });
    showCaption(clamp(Math.floor((clientX - box.left) / box.width * T)));
  });
}
$("map").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  select({ token: clamp(state.token + step) });
});

// --- neurons
const neurons = data.neurons.flatMap((layer, l) => layer.map((peaks, n) => ({ name: `${l}.${n}`, peaks })));
let found = neurons, listed = 0;

// An exact match of a token counts ten times as much as one of a part of it.
function score(neuron, query) {
  if (neuron.name === query) return Infinity;
  const tokens = neuron.peaks.map(([, , token]) => token.toLowerCase());
  return 10 * tokens.filter((token) => token.trim() === query).length
    + tokens.filter((token) => token.includes(query)).length;
}

function search() {
  const query = $("search").value.trim().toLowerCase();
  found = !query ? neurons : neurons.map((neuron) => [neuron, score(neuron, query)])
    .filter(([, points]) => points).sort((a, b) => b[1] - a[1]).map(([neuron]) => neuron);
  listed = 0;
  $("neurons").replaceChildren();
  const all = neurons.length.toLocaleString("en"), matches = query ? ` match “${query}”` : "";
  $("count").textContent = `${found.length.toLocaleString("en")} of ${all} neurons${matches}. `
    + `Of each, the tokens of ${data.stories} stories with the largest activations.`;
  list(query);
}

function list(query) {
  const line = ([, before, token, after]) => {
    const p = make("p"), left = make("span");
    left.append(make("i", before.replace(/\n/g, " ")));
    const hit = query && token.toLowerCase().includes(query) ? "found" : "";
    p.append(left, make("mark", visible(token), hit), make("span", after.replace(/\n/g, " ")));
    return p;
  };
  for (const { name, peaks } of found.slice(listed, listed + 24)) {
    const card = make("article", undefined, "neuron");
    card.append(make("h4", `neuron ${name}, largest activation ${peaks[0][0].toFixed(2)}`),
      ...peaks.map(line));
    $("neurons").append(card);
  }
  listed = Math.min(found.length, listed + 24);
  $("more").hidden = listed >= found.length;
}
$("search").addEventListener("input", search);
$("more").addEventListener("click", () => list($("search").value.trim().toLowerCase()));

const losses = data.tokens.slice(1).map((token) => token.loss);
const mean = losses.reduce((sum, loss) => sum + loss, 0) / Math.max(1, losses.length);
$("model").textContent = data.model;
$("about").textContent = `${data.parameters.toLocaleString("en")} parameters, ${L} block${L > 1 ? "s" : ""} of ${H} heads. `
  + `This text: ${losses.length} tokens, ${mean.toFixed(2)} nats per token.`
  + (data.ablated ? ` Ablated: ${data.ablated}.` : "");
setColor("loss");
search();
