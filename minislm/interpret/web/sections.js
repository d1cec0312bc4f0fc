"use strict";
// The sections below the text: attention heads, neurons, and what the weights alone show.
const headOf = (name) => data.heads.find((head) => `head:${head.layer}.${head.index}` === name);
const SVG = "http://www.w3.org/2000/svg";
const circuits = {};  // by head, once shown
let shownHead = "";

function showAbout() {
  const { model, parameters, blocks, text: source } = data.about;
  const size = `${parameters.toLocaleString()} parameters, ${blocks} block${blocks > 1 ? "s" : ""}`;
  $("about").replaceChildren(`${model}: ${size}, a vocabulary of ${data.header.tokenizer.vocab.length.toLocaleString()} `,
    term("token", "tokens"), `. It runs in this tab and needs no network. Means and losses are measured on ${data.stories} ${source}.`);
}

// A table; a cell is a text, a number with its digits, or an element.
function table(heads, rows) {
  const top = row("tr", "", ...heads.map((head) => {
    const cell = make("th", head);
    cell.scope = "col";
    return cell;
  }));
  const body = make("tbody");
  for (const cells of rows) {
    const line = make("tr");
    cells.forEach((cell) => {
      const isNumber = typeof cell === "string" && /^[+−]?[\d,.]+( %)?$/.test(cell);
      line.append(make("td", cell, isNumber ? "number" : ""));
    });
    body.append(line);
  }
  return row("div", "scroll", row("table", "", row("thead", "", top), body));
}

function showHeads() {
  const sorted = data.heads.slice().sort((a, b) => b.loss_increase - a.loss_increase);
  shownHead ||= `head:${sorted[0].layer}.${sorted[0].index}`;
  const rows = sorted.map((head) => {
    const name = `head:${head.layer}.${head.index}`;
    const open = button(partName(name).slice(5), () => { shownHead = name; showHeads(); });
    open.setAttribute("aria-label", `show ${partName(name)}`);
    open.setAttribute("aria-pressed", name === shownHead);
    const kind = head.kind === "mixed" ? "mixed" : term(`by ${head.kind}`);
    const cells = [open, kind, row("span", "", `${head.target}, ${percent(head.weight)} (`, term("uniform attention", "even"), `: ${percent(head.even)})`), signed(head.loss_increase, 3)];
    if (head.copying !== undefined) cells.push(signed(head.copying));
    return [...cells, switchOf(name)];
  });
  $("heads-hint").replaceChildren("Each ", term("head", "head"), " with what it reads most, beside what ",
    term("uniform attention"), " would read there, and how much the ", term("loss"), " on ", term("validation text"),
    " rises without it (", term("mean ablation"), ", ", term("nats"), " per token).");
  const heads = ["head", term("kind"), term("reads"), term("loss")];
  if (data.heads[0].copying !== undefined) heads.push(term("copying score", "copies"));
  $("heads").replaceChildren(table([...heads, ""], rows));
  for (const line of $("heads").querySelectorAll("tr")) {
    const pressed = line.querySelector("[aria-pressed=true][aria-label^=show]");
    line.classList.toggle("at", !!pressed);
  }
  showHead();
}

// One head: its map over the text, its score by distance, its strongest skip-trigrams.
async function showHead() {
  const head = headOf(shownHead), figure = $("head"), wanted = shownHead;
  const canvas = make("canvas"), children = [make("h3", `${partName(shownHead).replace("h", "H")} on the text above`), canvas];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `attention map of head ${head.layer}.${head.index}`);
  children.push(row("p", "hint", "A row is a token, a column a token that it reads; darker is a larger ", term("attention weight"), "."));
  if (wanted !== shownHead) return;
  figure.replaceChildren(...children);
  if (state.ids.length && !state.busy) paintMap(canvas, await request("map", { ids: state.ids, layer: head.layer, head: head.index, most: 96 }));
  if (!data.weights || state.busy) return;
  const { common, frequency, loss } = data.weights;
  circuits[wanted] ||= await request("circuit", { head: head.index, ids: common, frequency, scale: loss.scale });
  if (wanted === shownHead) figure.append(...circuitOf(circuits[wanted]));
}

// The score by distance and the strongest skip-trigrams of a head.
function circuitOf({ profile, share, trigrams }) {
  const word = (name) => make("span", visible(name), "word");
  return [make("h3", "Score by distance, averaged over words"), curve(profile),
    make("p", `The distance alone explains ${percent(share)} of the variance of this head's scores; the rest is which words meet.`, "hint"),
    row("h3", "", "Strongest ", term("skip-trigram", "skip-trigrams"), ": A … B → C"),
    table(["A (read)", "back", "B (last)", "C (raised)", "logit"], trigrams.map(({ names, distance, effect }) => [
      word(names[0]), String(distance), word(names[1]), word(names[2]), signed(effect)])),
    make("p", "Direct effects on the logit; most of what a head does passes through the neurons.", "hint")];
}

function paintMap(canvas, { T, weights }) {
  canvas.width = canvas.height = T;
  const context = canvas.getContext("2d"), image = context.createImageData(T, T);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const from = dark ? [28, 33, 39] : [246, 244, 239], to = dark ? [150, 205, 255] : [10, 60, 110];
  weights.forEach((weight, k) => {
    const x = Math.sqrt(weight / 255);
    image.data.set([...from.map((c, i) => c + x * (to[i] - c)), 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
}

// A small line plot of scores by distance.
function curve(values) {
  const svg = document.createElementNS(SVG, "svg"), low = Math.min(...values), high = Math.max(...values);
  const place = (d, value) => `${(40 + (d * 350) / (values.length - 1)).toFixed(1)},${(8 + (76 * (high - value)) / (high - low || 1)).toFixed(1)}`;
  svg.setAttribute("viewBox", "0 0 400 106");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `mean score from distance 0 to ${values.length - 1}: between ${low.toFixed(1)} and ${high.toFixed(1)}`);
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", values.map((value, d) => place(d, value)).join(" "));
  line.setAttribute("fill", "none");
  line.setAttribute("stroke", "currentColor");
  line.setAttribute("stroke-width", "1.5");
  svg.append(line);
  for (const [x, y, label] of [[0, 14, high.toFixed(1)], [0, 86, low.toFixed(1)], [40, 102, "0"], [372, 102, `${values.length - 1} back`]]) {
    const mark = document.createElementNS(SVG, "text");
    mark.setAttribute("x", x);
    mark.setAttribute("y", y);
    mark.setAttribute("text-anchor", x > 300 ? "end" : "start");
    mark.textContent = label;
    if (x > 300) mark.setAttribute("x", 392);
    svg.append(mark);
  }
  return svg;
}

// --- neurons --------------------------------------------------------------------------------------

const PAGE = 12;  // neurons that are shown at a time
let storyTexts = [], neuronsShown = PAGE;

async function setUpNeurons() {
  for (const ids of data.peaks.stories) storyTexts.push((await request("texts", { ids })).texts);
  $("search").oninput = () => { neuronsShown = PAGE; showNeurons(); };
  $("more").onclick = () => { neuronsShown += PAGE; showNeurons(); };
  showNeurons();
}

function found(query) {
  const all = data.peaks.neurons.flatMap((layer, l) => layer.map((peaks, n) => ({ l, n, peaks })));
  const number = /^(?:(\d+)\.)?(\d+)$/.exec(query.trim());
  if (number) return all.filter(({ l, n }) => l === +(number[1] || 0) && n === +number[2]);
  const word = query.trim().toLowerCase();
  if (!word) return all.sort((a, b) => b.peaks[0][2] - a.peaks[0][2]);
  const hits = (each) => each.peaks.filter(([story, t]) => storyTexts[story][t].trim().toLowerCase() === word).length;
  return all.map((each) => [hits(each), each]).filter(([count]) => count).sort((a, b) => b[0] - a[0]).map(([, each]) => each);
}

async function showNeurons() {
  const query = $("search").value, hits = found(query), box = $("neurons");
  const shown = hits.slice(0, neuronsShown);
  $("neurons-hint").textContent = query
    ? `${hits.length} ${hits.length === 1 ? "neuron is" : "neurons are"} most active at this word.`
    : `All ${hits.length.toLocaleString()}, the most active first: the places in ${storyTexts.length} texts where each is most active, and the words that it raises.`;
  const cards = await Promise.all(shown.map(async ({ l, n, peaks }) => {
    const name = `neuron:${l}.${n}`, { up } = await request("promoted", { layer: l, index: n, count: 6 });
    const lines = peaks.map(([story, t, activation]) => {
      const texts = storyTexts[story], line = (a, b) => texts.slice(a, b).join("").replace(/\n/g, "⏎");
      return row("p", "peak", make("span", line(Math.max(0, t - 8), t)), make("mark", t ? visible(texts[t]) : "(start)"),
        make("span", line(t + 1, t + 5)), make("em", "\u2002" + activation.toFixed(1)));
    });
    return row("div", "neuron", row("div", "bar", make("b", partName(name)), switchOf(name)), ...lines,
      row("p", "soft", "raises ", make("span", up.map(visible).join("  "), "word")));
  }));
  if (query !== $("search").value) return;
  box.replaceChildren(...cards);
  $("more").hidden = shown.length >= hits.length;
}

// --- what the weights alone show ------------------------------------------------------------------

async function showWeights() {
  const weights = data.weights;
  $("weights-section").hidden = !weights;
  if (!weights) return;
  const { unigram, direct, heads, whole } = weights.loss, most = Math.max(unigram, direct, heads);
  const line = (label, value) => meter(label, value, most, value.toFixed(2));
  const loss = row("div", "", make("h3", "Loss by path"),
    row("p", "hint", "The ", term("loss"), " in nats per token, with the missing parts replaced by their means."),
    line(make("span", "how often each word occurs, nothing else"), unigram), line(row("span", "", "the last word alone (", term("direct path"), ")"), direct),
    line(row("span", "", "and what the heads read"), heads), line(row("span", "", "and the ", term("neuron", "neurons"), ": the whole model"), whole),
    data.header.config.tied ? row("p", "hint", "Embedding and head share their weights here, so the direct path mostly repeats the last word; ",
      "the neurons turn it into what follows. That is why the first paths can be worse than word frequencies.") : null);
  $("weights").replaceChildren(loss, await afterWords(weights), await neighbours(weights));
}

// A search box over some tokens, and what it shows for the one that is found.
async function lookup(title, hint, ids, show) {
  const { names } = await request("names", { ids }), input = make("input"), view = make("div"), list = make("datalist");
  list.id = "words-" + title.length;
  list.append(...names.map((name) => Object.assign(make("option"), { value: name.trim() })));
  input.setAttribute("list", list.id);
  input.setAttribute("aria-label", `${title}: a word`);
  input.value = names.find((name) => /^ [a-z]{4,}$/.test(name))?.trim() ?? names[0].trim();
  const update = async () => {
    const at = names.findIndex((name) => name.trim() === input.value.trim());
    view.replaceChildren(at < 0 ? make("p", "Not among the words that are frequent enough.", "hint") : await show(at));
  };
  input.oninput = update;
  await update();
  return row("div", "", make("h3", title), hint, input, list, view);
}

async function afterWords({ words, counted, loss }) {
  const cell = ({ text: name, p }) => row("span", "word", `${visible(name)} `, make("span", percent(p), "soft"));
  const names = new Map();
  const followers = [...new Set(counted.flatMap((each) => each.map(([id]) => id)))];
  (await request("names", { ids: followers })).names.forEach((name, k) => names.set(followers[k], name));
  const hint = row("p", "hint", "What the model predicts from the last word alone, by the ", term("direct path"), " and with the neurons (the heads at their means), beside what follows it in the text as counted. ",
    `Over the text, the counts have an entropy of ${loss.bigram.toFixed(2)} nats; the last word and the neurons reach a loss of ${loss.token.toFixed(2)}.`);
  return lookup("What follows a word", hint, words, async (at) => {
    const found = await request("afterToken", { token: words[at], scale: loss.scale });
    return table(["direct path", "with neurons", "counted"], found.direct.map((each, k) => {
      const pair = counted[at][k];
      return [cell(each), cell(found.token[k]), pair ? cell({ text: names.get(pair[0]), p: pair[1] }) : ""];
    }));
  });
}

async function neighbours({ words, ppmi }) {
  const { names } = await request("names", { ids: words }), name = new Map(words.map((id, k) => [id, names[k]]));
  const cell = (text) => make("span", visible(text), "word");
  const hint = row("p", "hint", "In the model's embedding, and in a factorised ", term("PPMI"), " table of the same text.");
  return lookup("Nearest neighbours of a word", hint, words, async (at) => {
    const found = await request("neighbours", { ids: words, at });
    return table(["embedding", "PPMI"], found.names.map((each, k) => [cell(each), cell(name.get(ppmi[at][k]))]));
  });
}
