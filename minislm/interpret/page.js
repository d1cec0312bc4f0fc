"use strict";
// The page's behaviour: one state (token, head, paint), drawn anew when it changes. All text from
// the model goes in as textContent, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const [L, H, T, K] = data.attention.shape;
const places = unpack(data.attention.places), weights = unpack(data.attention.weights);
const $ = (id) => document.getElementById(id);
const state = { token: Math.min(1, T - 1), head: 0, paint: "loss" };

function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Uint16Array(bytes.buffer);
}

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

const percent = (share) => share > 0 && share < 0.0005 ? "<0.1 %" : (share >= 0.0995 || share === 0 ? Math.round(100 * share) : (100 * share).toFixed(1)) + " %";
const visible = (text) => text.replace(/\n/g, "⏎") || "·";
const nameOf = (t) => (t === 0 ? "start" : visible(data.tokens[t].text.trimStart()));

// What token t reads through a head: [[place, share], ...], largest first.
function row(head, t) {
  const begin = ((head.layer * H + head.number) * T + t) * K, found = [];
  for (let k = 0; k < K; k++) {
    if (weights[begin + k]) found.push([places[begin + k], weights[begin + k] / 65535]);
  }
  return found;
}

// Heads in two kinds, the costliest first.
const heads = data.heads.slice().sort((a, b) => b.cost - a.cost);
const mostCost = Math.max(1e-9, ...heads.map((head) => head.cost));
const looksAt = (head) => head.kind === "distance"
  ? (head.distance === 0 ? "itself" : head.distance + " back") + ", " + percent(head.at_distance)
  : (head.word_class === "other" ? "other words" : head.word_class + "s") + ", +" + percent(head.on_class);

function paintTokens() {
  const rest = state.paint === "attention" ? new Map(row(heads[state.head], state.token)) : null;
  spans.forEach((span, t) => {
    const token = data.tokens[t];
    let color = "";
    if (state.paint === "loss" && token.loss !== null) {
      color = `rgba(var(--hot), ${Math.min(0.75, token.loss / 8).toFixed(3)})`;
    } else if (state.paint === "class" && t > 0) {
      color = `rgba(var(--${data.classes[token.class]}), ${data.classes[token.class] === "other" ? 0.1 : 0.34})`;
    } else if (rest && rest.has(t)) {
      color = `rgba(var(--look), ${(0.06 + 0.8 * rest.get(t)).toFixed(3)})`;
    }
    span.style.background = color;
    span.classList.toggle("at", t === state.token);
    span.tabIndex = t === state.token ? 0 : -1;
  });
}

function share(name, value, label) {
  const line = make("div", undefined, "share"), bar = make("i");
  bar.style.width = Math.max(1, 100 * value) + "%";
  const box = make("div");
  box.append(bar);
  line.append(make("b", name), box, make("em", label));
  return line;
}

function showToken() {
  const t = state.token, token = data.tokens[t], panel = $("token");
  panel.replaceChildren(make("div", nameOf(t), "name"));
  if (token.loss === null) {
    panel.append(make("p", "The end of text that every story stands behind.", "soft"));
  } else {
    const chance = Math.exp(-token.loss);
    panel.append(make("div", `token ${t}, ${data.classes[token.class]}`, "soft"));
    panel.append(make("div", `loss ${token.loss.toFixed(2)} nats, probability ${percent(chance)}`));
    panel.append(make("h3", "It expected"));
    for (const [word, p] of token.instead) panel.append(share(visible(word.trimStart()), p, percent(p)));
  }
  const head = heads[state.head], read = row(head, t).slice(0, 5);
  panel.append(make("h3", `It reads through head ${head.layer}.${head.number}`));
  for (const [place, weight] of read) panel.append(share(nameOf(place), weight, percent(weight)));
  const rest = 1 - read.reduce((sum, [, weight]) => sum + weight, 0);
  if (rest > 0.005) panel.append(share("elsewhere", rest, percent(rest)));
}

// Magma-like: from the page's dark to light through purple and orange.
function shade(share) {
  const x = Math.pow(share, 0.4), stops = [[12, 9, 32], [84, 24, 110], [186, 55, 85], [249, 142, 60], [252, 253, 191]];
  const at = Math.min(3.999, 4 * x), k = Math.floor(at), part = at - k;
  return stops[k].map((value, c) => value + part * (stops[k + 1][c] - value));
}
const shades = Array.from({ length: 256 }, (_, k) => shade(k / 255));

function drawMap(canvas, head, size) {
  const cells = Math.min(T, size);
  canvas.width = canvas.height = cells;
  const context = canvas.getContext("2d"), image = context.createImageData(cells, cells);
  const best = new Uint16Array(cells * cells), scale = cells / T;
  for (let t = 0; t < T; t++) {
    const begin = ((head.layer * H + head.number) * T + t) * K, y = Math.floor(t * scale);
    for (let k = 0; k < K; k++) {
      const at = y * cells + Math.floor(places[begin + k] * scale);
      if (weights[begin + k] > best[at]) best[at] = weights[begin + k];
    }
  }
  for (let k = 0; k < best.length; k++) {
    const color = shades[best[k] >> 8];
    image.data[4 * k] = color[0];
    image.data[4 * k + 1] = color[1];
    image.data[4 * k + 2] = color[2];
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function drawChosen() {
  const canvas = $("map"), head = heads[state.head];
  drawMap(canvas, head, 1024);
  const context = canvas.getContext("2d"), scale = canvas.width / T;
  context.fillStyle = "rgba(255, 255, 255, 0.16)";
  context.fillRect(0, Math.floor(state.token * scale), canvas.width, Math.max(1, Math.ceil(scale)));
  caption();
}

function caption(place) {
  const head = heads[state.head], box = $("caption");
  box.replaceChildren(make("b", `Head ${head.layer}.${head.number}`),
    ` by ${head.kind}: ${looksAt(head)}; switched off ${head.cost >= 0 ? "+" : ""}${head.cost.toFixed(4)} nats per token.`);
  if (place !== undefined && place <= state.token) {
    const found = row(head, state.token).find(([p]) => p === place);
    box.append(make("br"), make("b", nameOf(state.token)), " reads ", make("b", nameOf(place)),
      found ? " with " + percent(found[1]) : K < T ? " with less than what the page keeps" : " with 0 %");
  }
}

function choose(change) {
  Object.assign(state, change);
  paintTokens();
  showToken();
  drawChosen();
  if (change.head !== undefined) {
    document.querySelectorAll(".head").forEach((button) =>
      button.setAttribute("aria-pressed", String(Number(button.dataset.head) === state.head)));
  }
}

function setPaint(paint) {
  document.querySelectorAll("[data-paint]").forEach((button) => {
    button.setAttribute("aria-checked", String(button.dataset.paint === paint));
    button.tabIndex = button.dataset.paint === paint ? 0 : -1;
  });
  const legend = $("legend");
  legend.replaceChildren();
  if (paint === "loss") legend.append("The redder, the less it was expected.");
  if (paint === "attention") legend.append("Blue is what the chosen token reads through the chosen head.");
  if (paint === "class") {
    for (const name of data.classes) {
      const key = make("span", name, "key");
      key.style.background = `rgba(var(--${name}), ${name === "other" ? 0.1 : 0.34})`;
      legend.append(key);
    }
  }
  choose({ paint });
}

// --- the text
const spans = data.tokens.map((token, t) => {
  const span = make("span", t === 0 ? "start" : token.text, t === 0 ? "start" : "");
  span.dataset.token = t;
  span.setAttribute("role", "button");
  span.setAttribute("aria-label", `${nameOf(t)}, ${token.loss === null ? "start" : "loss " + token.loss.toFixed(2)}`);
  return span;
});
$("text").append(...spans);
$("text").addEventListener("pointerover", (event) => {
  if (event.target.dataset.token) choose({ token: Number(event.target.dataset.token) });
});
$("text").addEventListener("focusin", (event) => {
  if (event.target.dataset.token) choose({ token: Number(event.target.dataset.token) });
});
$("text").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -T, End: T };
  if (!(event.key in steps)) return;
  event.preventDefault();
  spans[Math.max(0, Math.min(T - 1, state.token + steps[event.key]))].focus();
});

// --- the switch
document.querySelectorAll("[data-paint]").forEach((button) => {
  button.addEventListener("click", () => setPaint(button.dataset.paint));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...document.querySelectorAll("[data-paint]")];
    const next = all[(all.indexOf(button) + step + all.length) % all.length];
    setPaint(next.dataset.paint);
    next.focus();
  });
});

// --- the heads
for (const [kind, title] of [["distance", "By distance"], ["meaning", "By meaning"]]) {
  const group = heads.map((head, k) => [head, k]).filter(([head]) => head.kind === kind);
  const grid = make("div", undefined, "grid");
  for (const [head, k] of group) {
    const button = make("button", undefined, "head"), cost = make("span", undefined, "cost");
    button.dataset.head = k;
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `Head ${head.layer}.${head.number}, ${looksAt(head)}, cost ${head.cost.toFixed(4)}`);
    cost.style.width = Math.max(2, 100 * Math.max(0, head.cost) / mostCost) + "%";
    const name = make("span");
    name.append(make("b", `${head.layer}.${head.number}`), " " + (head.cost >= 0 ? "+" : "") + head.cost.toFixed(3));
    button.append(make("canvas"), name, make("span", looksAt(head), "soft"), cost);
    button.addEventListener("click", () => { choose({ head: k }); setPaint("attention"); });
    grid.append(button);
  }
  $("heads").append(make("h3", `${title}: ${group.length}`), grid);
}
// Small maps are drawn when they come into sight, so that a hundred heads do not hold up the page.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    drawMap(entry.target.querySelector("canvas"), heads[entry.target.dataset.head], 96);
    seen.unobserve(entry.target);
  }
});
document.querySelectorAll(".head").forEach((button) => seen.observe(button));

function pointAt(event) {
  const box = $("map").getBoundingClientRect();
  const at = (value) => Math.max(0, Math.min(T - 1, Math.floor(value * T)));
  choose({ token: at((event.clientY - box.top) / box.height) });
  caption(at((event.clientX - box.left) / box.width));
}
$("map").addEventListener("pointermove", pointAt);
$("map").addEventListener("pointerdown", pointAt);
$("map").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  choose({ token: Math.max(0, Math.min(T - 1, state.token + step)) });
});

// --- the neurons
const neurons = data.neurons.flatMap((layer, l) => layer.map((peaks, n) => ({ place: `${l}.${n}`, peaks })))
  .filter((neuron) => neuron.peaks.length);
let found = neurons, listed = 0;

function list(more) {
  const query = $("search").value.trim().toLowerCase();
  if (!more) {
    const hits = (neuron) => neuron.peaks.filter((peak) => peak[2].trim().toLowerCase() === query).length;
    const holds = (neuron) => neuron.peaks.filter((peak) => peak[2].toLowerCase().includes(query)).length;
    found = !query ? neurons : neurons
      .map((neuron) => [neuron, neuron.place === query ? 99 : 10 * hits(neuron) + holds(neuron)])
      .filter(([, score]) => score).sort((a, b) => b[1] - a[1]).map(([neuron]) => neuron);
    listed = 0;
    $("neurons").replaceChildren();
  }
  for (const neuron of found.slice(listed, listed + 24)) {
    const card = make("article", undefined, "neuron");
    card.append(make("h4", `neuron ${neuron.place}, up to ${neuron.peaks[0][0]}`));
    for (const [, before, token, after] of neuron.peaks) {
      const line = make("p");
      const hit = query && token.toLowerCase().includes(query);
      const left = make("span");
      left.append(make("i", before.replace(/\n/g, " ")));
      line.append(left, make("mark", visible(token), hit ? "found" : ""),
        make("span", after.replace(/\n/g, " ")));
      card.append(line);
    }
    $("neurons").append(card);
  }
  listed = Math.min(found.length, listed + 24);
  $("count").textContent = `${found.length.toLocaleString("en")} of ${neurons.length.toLocaleString("en")} neurons`
    + (query ? ` are excited most by “${query}”` : "") + `: the tokens of ${data.stories} stories that excite each most.`;
  $("more").hidden = listed >= found.length;
}
$("search").addEventListener("input", () => list(false));
$("more").addEventListener("click", () => list(true));

// --- begin
const counted = data.tokens.filter((token) => token.loss !== null);
const mean = counted.reduce((sum, token) => sum + token.loss, 0) / Math.max(1, counted.length);
$("model").textContent = data.model;
$("about").textContent = `${data.parameters.toLocaleString("en")} parameters, ${L} block${L > 1 ? "s" : ""} of ${H} heads. `
  + `This text: ${counted.length} tokens, ${mean.toFixed(2)} nats per token.`
  + (data.off ? ` Switched off: ${data.off}.` : "");
setPaint("loss");
choose({ head: 0 });
list(false);
