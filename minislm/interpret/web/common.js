"use strict";
// Helpers of the page. All text of a model or a visitor is set as textContent, never as HTML.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.append(text);
  if (name) element.className = name;
  return element;
}

// An element with several children: texts and elements.
function row(tag, name, ...children) {
  const element = make(tag, null, name);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function button(text, onclick, name) {
  const element = make("button", text, name);
  element.type = "button";
  element.onclick = onclick;
  return element;
}

function percent(x) {
  if (x > 0 && x < 0.0005) return "<0.1 %";
  return (x >= 0.0995 || x === 0 ? Math.round(100 * x) : (100 * x).toFixed(1)) + " %";
}
const signed = (x, digits = 2) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
const visible = (text) => text.replace(/\n/g, "⏎").replace(/ /g, "·");
// A token in a sentence: quoted, its leading space left out.
const quoted = (text) => `“${text.replace(/\n/g, "⏎").replace(/^ (?=.)/, "") || "…"}”`;

// What the terms of the field mean: shown on hover and on focus.
const TERMS = {
  "token": "The unit that the model reads and writes: a word, a part of a word or a sign, each with its space. The model has a fixed vocabulary of them.",
  "temperature": "Divides the logits before a token is sampled. 0: always the most probable token; below 1: fewer surprises; above 1: more.",
  "top-k": "Sample only among the k most probable tokens; 0: all of them.",
  "seed": "The number that the random numbers start from: the same seed and settings give the same text.",
  "logit": "The model's score of a token, before the scores become probabilities. A difference of 1 between two tokens makes one 2.7 times as probable as the other; of 2.3, ten times.",
  "head": "Attention reads earlier words. Each attention head decides how much of each earlier word it reads, and adds what it read to the model's state.",
  "neuron": "One unit of the MLP: active when the model's state has a certain pattern, it then raises some tokens and lowers others.",
  "MLP": "The second half of a block: hundreds of neurons that work on the state of each position by itself, after attention.",
  "direct path": "What the model would predict from the last word alone, before attention and MLP: its table of which word follows which.",
  "bias": "Constant numbers of the model: they are added whatever the text is.",
  "remainder": "What rounding leaves: the logit minus the sum of all parts. It shows that nothing is missing.",
  "mean ablation": "The output of a head or neuron is replaced by its mean over validation text. So the model loses what the part adds for this text, not a constant that it always adds.",
  "attention weight": "How much a head reads of each earlier token: the weights of one position sum to 100 %.",
  "reads": "Where the head's attention exceeds that of uniform attention most.",
  "loss": "How badly the model predicts a text: the mean of −log(probability) of each token. 0.69 means one token in two would be guessed.",
  "copying score": "From −1 to 1, from the weights alone: near 1, reading a word makes the same word more probable; near −1, less (Elhage et al. 2021).",
  "skip-trigram": "Three words A … B → C: the head stands at B, reads A some words before, and so makes C more probable.",
  "PPMI": "Positive pointwise mutual information: which words occur together more often than by chance. Factorising its table gives word vectors, as Word2Vec and GloVe do in effect (Levy & Goldberg 2014).",
  "masked": "The model predicts once more at this place while no head can read that word; everything else stays. So the effect through heads and neurons together is measured.",
  "nats": "The unit of a loss with natural logarithms: 0.69 nats are one bit.",
  "kind": "What a head reads by: distance, meaning, or clearly neither (mixed).",
  "validation text": "Stories that the model was not trained on.",
  "uniform attention": "Attention that reads all earlier tokens equally. What a head reads counts only where it is more than that.",
  "by distance": "The head reads a fixed number of tokens back, whatever stands there.",
  "by meaning": "The head reads words of a class (nouns, verbs, ...) wherever they stand.",
};
function term(name, shown = name) {
  const element = make("span", shown, "term");
  element.tabIndex = 0;
  element.dataset.term = name;
  element.setAttribute("aria-label", `${shown}: ${TERMS[name]}`);
  return element;
}

function setUpTerms() {
  const tip = make("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  for (const element of document.querySelectorAll("[data-term]")) element.replaceWith(term(element.dataset.term));
  const show = ({ target }) => {
    const element = target.closest && target.closest(".term");
    tip.hidden = !element;
    if (!element) return;
    tip.textContent = TERMS[element.dataset.term];
    const box = element.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + scrollX + "px";
    tip.style.top = box.bottom + 6 + scrollY + "px";
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
}

// The worker thread: request(kind, ...) returns a promise of its answer; onPart gets what comes before.
const worker = new Worker(URL.createObjectURL(new Blob([$("worker").textContent], { type: "text/javascript" })));
const waiting = new Map();
let requests_sent = 0;

function request(kind, values = {}, onPart = null) {
  const id = ++requests_sent;
  worker.postMessage({ id, kind, ...values });
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject, onPart }));
}

worker.onmessage = ({ data: { id, part, answer, error } }) => {
  const open = waiting.get(id);
  if (part) return open.onPart && open.onPart(part);
  waiting.delete(id);
  if (error) open.reject(new Error(error));
  else open.resolve(answer);
};
