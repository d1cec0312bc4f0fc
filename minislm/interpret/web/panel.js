"use strict";
// The account of the selected token: which parts of the model raised its logit, and by how much.
const partName = (name) => {
  const match = /^(head|neuron):(\d+)\.(\d+)$/.exec(name), { L, H, F } = data.header.config;
  if (!match || +match[2] >= L || +match[3] >= (match[1] === "head" ? H : F)) return "";
  return `${match[1]} ${L > 1 ? match[2] + "." : ""}${match[3]}`;
};
const STRONG = 3;  // a change of the log-probability that has a full bar: 20 times as probable
const sum = (values) => values.reduce((total, each) => total + each, 0);
let latest = 0;

function showNext(next) {
  if (state.at > 0) return;
  const end = state.tokens.length ? quoted(state.tokens.at(-1).text) : "";
  $("account").replaceChildren(titled(`What comes after ${end}?`),
    ...next.map(({ text: name, p }) => meter(make("span", visible(name), "word"), p, 1, percent(p))),
    make("p", "Continue the text, then select a word to see why the model wrote it.", "hint"));
}

function titled(title) {
  const heading = make("h2", title);
  heading.id = "account-title";
  return heading;
}

// A line with a bar from the middle: to the right what speaks for the token, to the left against.
function bar(label, value, most, shown, control = null, name = "") {
  const axis = make("span", null, "axis"), fill = make("i", null, value < 0 ? "less" : "");
  const width = Math.min(50, (50 * Math.abs(value)) / most) || 0;
  fill.style.width = width + "%";
  fill.style.left = (value < 0 ? 50 - width : 50) + "%";
  axis.append(fill);
  axis.setAttribute("aria-hidden", "true");
  return row("div", "part " + name, label, axis, make("em", shown ?? signed(value)), control ?? make("span"));
}

// A line with a bar from the left.
function meter(label, value, most, shown) {
  const line = bar(label, value, most, shown), axis = line.querySelector(".axis");
  axis.classList.add("from-left");
  Object.assign(axis.firstChild.style, { left: "0", width: (100 * value) / most + "%" });
  return line;
}

function switchOf(name) {
  const off = state.off.includes(name);
  const element = button(off ? "on" : "off", () => toggle(name), off ? "is-off" : "");
  element.setAttribute("aria-label", `switch ${partName(name)} ${off ? "on" : "off"}`);
  element.setAttribute("aria-pressed", off);
  return element;
}

async function showAccount() {
  const t = state.at, panel = $("account"), number = ++latest;
  if (t < 0) return;
  const token = state.tokens[t];
  if (t === 0) {
    state.why = null;
    panel.replaceChildren(titled("The first token"), make("p", "Nothing came before it, so nothing predicted it.", "soft"));
    return;
  }
  const about = { ids: state.ids, switches: state.off, t, target: token.id };
  const why = await request("account", { ...about, rival: state.rival === token.id ? null : state.rival });
  if (number !== latest) return;
  const wordsBox = row("div", "", make("h3", "Words that it read"), make("p", "…", "soft"));
  const scale = largestPart(why), last = why.texts.at(-1);
  panel.replaceChildren(
    titled(titleOf(token)), ...summary(why, token, t), rivals(why),
    wordsBox, make("h3", "Parts of the model that made the difference"),
    bar(row("span", "", "the word before, ", make("span", quoted(last), "word"), ", alone (", term("direct path"), ")"), why.embedding, scale),
    why.position ? bar(make("span", "the position in the text"), why.position, scale) : "",
    ...headParts(why, scale), ...neuronParts(why, scale),
    bar(row("span", "", "constants (", term("bias", "biases"), ")"), why.biases, scale),
    bar(term("remainder"), why.remainder, scale, signed(why.remainder, 5)),
    bar(make("span", "sum = difference of the logits"), why.value, Math.max(scale, Math.abs(why.value)), signed(why.value), null, "total"),
    footnote());
  state.rivalShown = why.rival;
  const { found } = await request("words", about);
  if (number !== latest) return;
  state.why = found;
  colorTokens();
  showWords(wordsBox, why, found);
  panel.dataset.words = found.length;
  panel.dataset.milliseconds = why.milliseconds.toFixed(1);
  panel.dataset.remainder = why.remainder;
}

function titleOf(token) {
  if (token.id === data.header.tokenizer.end) return "Why does the text end here?";
  return token.text ? `Why ${quoted(token.text)}?` : "Why this part of a character?";
}

function summary(why, token, t) {
  const by = t < state.given ? "It was given; the model found it" : "The model wrote it, and found it";
  const place = why.rank === 1 ? "the most probable token" : `number ${why.rank} of all tokens`;
  const lines = [make("p", `${by} ${percent(why.p)} probable here: ${place}.`)];
  if (state.off.length) {
    lines.unshift(make("p", `With all heads and neurons on: ${percent(why.whole)}. Now: ${percent(why.p)}.`));
  }
  return lines;
}

// The token that the account compares with; the visitor may take another one.
function rivals(why) {
  const box = make("div", null, "chips"), against = (name) => { state.rival = name; showAccount(); };
  const chip = (label, name) => {
    const element = button(label, () => against(name));
    element.setAttribute("aria-pressed", why.rival === name);
    box.append(element);
  };
  const shown = why.alternatives.filter((each) => each.id !== why.target).slice(0, 5);
  for (const each of shown) chip(`${visible(each.text)} ${percent(each.p)}`, each.id);
  if (typeof why.rival === "number" && !shown.some((each) => each.id === why.rival)) {
    chip(`${visible(why.rivalText)} ${percent(why.rivalP)}`, why.rival);
  }
  chip("the average token", "mean");
  const other = make("input");
  other.placeholder = "another word";
  other.setAttribute("aria-label", "compare with another word");
  other.size = 11;
  other.onchange = async () => {
    const { ids } = await request("tokens", { text: " " + other.value.trim() });
    if (!other.value.trim()) return;
    note(ids.length > 1 ? `“${other.value.trim()}” is ${ids.length} tokens; compared with the first of them.` : "");
    against(ids[0]);
  };
  box.append(other);
  const ratio = Math.exp(Math.abs(why.value));
  const times = why.rival === "mean" ? "" : `: ${ratio < 100 ? ratio.toFixed(1) : Math.round(ratio)} times as probable`;
  const more = why.value >= 0 ? "above" : "below";
  return row("div", "", row("p", "", "Its ", term("logit"), ` is ${Math.abs(why.value).toFixed(2)} ${more} that of `,
    why.rival === "mean" ? "the average token" : make("span", quoted(why.rivalText), "word"),
    why.value >= 0 ? times : times.replace("as probable", "less probable"), ". Compare with:"), box);
}

// The words whose loss from view changes the prediction most.
function showWords(box, why, found) {
  const shown = found.filter((each) => Math.abs(each.change) > 0.05);
  shown.sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).splice(5);
  const lines = shown.map(({ s, p, change }) => bar(row("span", "", make("span", quoted(why.texts[s]), "word"),
    `: without it ${percent(p)}`), change, STRONG, "", null, "short"));
  const hint = row("p", "hint", `The word before, ${quoted(why.texts.at(-1))}, is where the model stands. The others are `,
    term("masked", "hidden from it"), " one at a time.");
  box.replaceChildren(make("h3", "Words that it read"), hint, ...lines);
  if (!lines.length) box.append(make("p", "None of them matters here.", "soft"));
}

function largestPart(why) {
  const heads = why.heads.flatMap((each) => each.map(sum));
  const neurons = why.neurons.map(sum);
  return Math.max(0.5, ...[why.embedding, why.biases, ...heads, ...neurons].map(Math.abs));
}

// Heads by size, each with the words that it read.
function headParts(why, scale) {
  const found = why.heads.flatMap((heads, layer) => heads.map((reads, h) => (
    { name: `head:${layer}.${h}`, reads, value: sum(reads) + why.off[layer][h] })));
  found.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const lines = [];
  found.slice(0, 8).forEach(({ name, reads, value }) => {
    const about = headOf(name), off = state.off.includes(name);
    const label = row("span", "", term("head", partName(name)), off ? " (off: its mean)" : about && about.kind !== "mixed" ? ` (often reads ${about.target})` : "");
    lines.push(bar(label, value, scale, null, switchOf(name)));
    const order = [...reads.keys()].sort((a, b) => Math.abs(reads[b]) - Math.abs(reads[a]));
    for (const s of order.slice(0, 3)) {
      if (Math.abs(reads[s]) < 0.08 * scale || off) continue;
      const back = why.texts.length - 1 - s;
      const where = back === 0 ? "itself" : back === 1 ? "1 token back" : `${back} tokens back`;
      lines.push(bar(row("span", "", "read ", make("span", quoted(why.texts[s]), "word"), ` ${where}`), reads[s], scale, null, null, "sub"));
    }
  });
  if (found.length > 8) lines.push(bar(make("span", `${found.length - 8} other heads`), sum(found.slice(8).map((each) => each.value)), scale));
  return lines;
}

function neuronParts(why, scale) {
  const found = why.neurons.flatMap((values, layer) => [...values].map((value, n) => ({ name: `neuron:${layer}.${n}`, value })));
  found.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const lines = [bar(row("span", "", `all ${found.length.toLocaleString()} `, term("neuron", "neurons")), sum(found.map((each) => each.value)), scale)];
  for (const { name, value } of found.slice(0, 6)) {
    const show = button(partName(name), () => showNeuron(name), "");
    show.setAttribute("aria-label", `details of ${partName(name)}`);
    const words = (why.strongest[name] || []).map(visible).join("  ");
    const label = state.off.includes(name) ? " (off: its mean)" : row("span", "", " raises ", make("span", words, "word"));
    lines.push(bar(row("span", "", show, label), value, scale, null, switchOf(name), "sub"));
  }
  return lines;
}

function footnote() {
  const deep = data.header.config.L > 1;
  const what = deep
    ? "Direct logit attribution: the parts are exact and sum to the logit, but a head of a later block reads what earlier blocks wrote."
    : "The parts are exact: one block, so a head reads single words, and the neurons read words and heads.";
  return row("p", "hint", `${what} A bar is the direct effect of a part. “off” replaces the part by its mean over `, term("validation text"),
    ", which changes what the neurons read too: so the probability can change by more, or the other way.");
}

// What a neuron reads at this position, and which tokens it raises.
async function showNeuron(name) {
  const [, layer, index] = /(\d+)\.(\d+)/.exec(name).map(Number), t = state.at;
  const found = await request("neuron", { ids: state.ids, switches: state.off, t, layer, index });
  const list = (words) => words.map((word) => visible(word)).join("  ");
  const box = row("div", "", make("h3", `${partName(name)}, at ${quoted(found.texts.at(-1))}: activation ${found.activation.toFixed(2)}`),
    row("p", "", "raises ", make("span", list(found.up), "word")),
    row("p", "", "lowers ", make("span", list(found.down), "word")));
  for (const [input, parts] of Object.entries(found.inputs)) {
    const reads = parts.heads.flatMap((heads, l) => heads.flatMap((values, h) => [...values].map((value, s) => (
      { label: `${quoted(found.texts[s])} through head ${l}.${h}`, value }))));
    reads.push({ label: `${quoted(found.texts.at(-1))} itself`, value: parts.embedding }, { label: "constants", value: parts.biases });
    reads.sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const scale = Math.max(0.2, Math.abs(reads[0].value));
    box.append(make("h3", `its ${input}: ${signed(parts.value)}, of which`), ...reads.slice(0, 5).map((each) => bar(make("span", each.label), each.value, scale)));
  }
  const old = $("neuron-detail");
  if (old) old.remove();
  box.id = "neuron-detail";
  $("account").append(box);
  box.scrollIntoView({ block: "nearest" });
}
