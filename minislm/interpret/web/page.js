"use strict";
// The text and its controls. The state of the page is one object; a link or a file keeps it.
const state = {
  ids: [], tokens: [], given: 0,  // the text, and how many of its tokens are the prompt
  at: -1, rival: null,  // the selected token; the token that it is compared with
  off: [],  // heads and neurons that are switched off, such as "head:0.3"
  color: "why", kept: null, why: null, busy: false, prompt: "",
  rivalShown: null, reading: Promise.resolve(),  // of the account; the prompt that is being read
};
let typing = 0;  // a timer: the prompt is read when a visitor pauses
const text = $("text");

// The sampling settings; one that is no number in its range is replaced.
function settings() {
  const number = (name, low, otherwise) => {
    const value = $(name).value.trim() === "" ? NaN : +$(name).value;
    const used = value >= low ? (name === "temperature" ? value : Math.floor(value)) : otherwise;
    $(name).value = used;
    return used;
  };
  return { count: number("count", 1, 200), temperature: number("temperature", 0, 0.7),
    topK: number("topk", 0, 0), seed: number("seed", 0, 1) };
}

function note(message) {
  $("note").textContent = message;
}

// One span per token. A token that is no visible text is shown as a mark.
function spanOf(token, made, first = false) {
  const isEnd = token.id === data.header.tokenizer.end;
  const span = make("span", isEnd ? (first ? "start" : "end of text") : token.text, made ? "made" : "");
  if (isEnd || token.text === "") span.classList.add("mark");
  if (!isEnd && token.text === "") span.textContent = "byte";
  span.setAttribute("role", "option");
  return span;
}

function appendToken(token, made) {
  const t = state.tokens.push(token) - 1, span = spanOf(token, made, t === 0);
  state.ids.push(token.id);
  span.id = "t" + t;
  span.onclick = () => select(t);
  text.append(span);
}

function colorTokens() {
  const reads = state.color === "why" && state.why ? new Map(state.why.map((each) => [each.s, each.change])) : null;
  state.tokens.forEach((token, t) => {
    let color = "";
    if (state.color === "probability" && token.p !== null) {
      color = `rgba(var(--against), ${Math.min(0.8, -Math.log(token.p) / 8).toFixed(3)})`;
    } else if (reads && reads.has(t)) {
      const strength = 0.75 * Math.min(1, Math.abs(reads.get(t)) / STRONG);
      if (strength > 0.03) color = `rgba(var(${reads.get(t) > 0 ? "--for" : "--against"}), ${strength.toFixed(3)})`;
    }
    const span = text.children[t];
    span.style.background = color;
    span.classList.toggle("at", t === state.at);
    span.setAttribute("aria-selected", t === state.at);
  });
  const legend = {
    why: "Without the blue words the selected word is less probable, without the orange ones more.",
    probability: "The darker a word, the less probable the model found it.", none: "",
  };
  $("legend").textContent = legend[state.color];
  for (const each of document.querySelectorAll("[data-color]")) {
    each.setAttribute("aria-checked", each.dataset.color === state.color);
  }
}

function select(t, rival = null) {
  if (!state.tokens.length) return;
  state.at = Math.max(0, Math.min(state.tokens.length - 1, t));
  state.rival = rival;
  text.setAttribute("aria-activedescendant", "t" + state.at);
  text.children[state.at].scrollIntoView({ block: "nearest" });
  state.why = null;
  colorTokens();
  return showAccount();
}

// Read a text from the beginning: the prompt, or the ids of a link.
async function readText(ids, given) {
  text.replaceChildren();
  Object.assign(state, { ids: [], tokens: [], given, at: -1, why: null });
  const answer = await request("read", { ids, switches: state.off });
  if (answer.stopped) return false;
  answer.tokens.forEach((token, t) => appendToken(token, t >= given));
  colorTokens();
  showNext(answer.next);
  return true;
}

function usePrompt() {
  clearTimeout(typing);
  state.prompt = $("prompt").value;
  const read = async () => {
    const { ids, dropped } = await request("tokens", { text: state.prompt });
    note(dropped ? `The last ${dropped} tokens are left out: the model reads ${ids.length} at most.` : "");
    const done = await readText(ids, ids.length);
    if (done && !state.busy) showHead();
    return done;
  };
  state.reading = read();
  return state.reading;
}

async function generate(count) {
  const options = { ...settings(), ...(count && { count }) };
  if (state.tokens.length >= data.header.config.context) return note("The context of the model is full.");
  if (state.ids.at(-1) === data.header.tokenizer.end && state.tokens.length > 1) return note("The text has ended.");
  busy(true);
  options.seed += state.tokens.length - state.given;  // a second continuation is not the same again
  const answer = await request("generate", { ids: state.ids, switches: state.off, ...options },
    ({ token }) => {
      appendToken(token, true);
      text.scrollTop = text.scrollHeight;
    });
  busy(false);
  $("speed").textContent = answer.made > 1 ? `${Math.round(answer.made / answer.seconds)} tokens per second` : "";
  colorTokens();
  if (state.kept) showComparison();
  showHead();
}

function busy(is) {
  state.busy = is;
  $("continue").disabled = $("one").disabled = $("prompt").readOnly = is;
  $("stop").disabled = !is;
}

async function continueText(count) {
  if (state.busy) return;
  busy(true);
  try {
    clearTimeout(typing);
    await state.reading;
    if ($("prompt").value !== state.prompt) await usePrompt();
    await generate(count);
  } finally {
    busy(false);
  }
  if (state.at < 0 && state.tokens.length > 1) await select(firstOfInterest());
}

// A word of its own that the model found neither certain nor improbable.
function firstOfInterest() {
  const isOne = ({ text: word, p }, t) => t >= state.given && /^ ?\p{L}{3,}$/u.test(word) && p > 0.1 && p < 0.7;
  const t = state.tokens.findIndex(isOne);
  return t > 0 ? t : Math.min(state.given, state.tokens.length - 1);
}

// Switch a head or neuron off or on: the account changes at once; "again" samples the text anew.
async function toggle(name) {
  state.rival ??= state.rivalShown;  // so that the logits before and after are of the same two tokens
  state.off = state.off.includes(name) ? state.off.filter((each) => each !== name) : [...state.off, name];
  await switched();
}

async function switched() {
  showOff();
  showHeads();
  if (state.at > 0) await showAccount();
}

function showOff() {
  $("off").hidden = !state.off.length;
  $("off").replaceChildren(row("span", "", "Switched off (", term("mean ablation"), "):"),
    ...state.off.map((name) => button(`${partName(name)} ✕`, () => toggle(name), "is-off")),
    button("all on", () => { state.off = []; switched(); }),
    button("Continue the beginning again without them", again, "main"));
}

// Continue the prompt again, beside the text as it is now.
async function again() {
  if (state.busy) return;
  const at = state.at;
  if (!state.kept) keep();
  await readText(state.ids.slice(0, state.given), state.given);
  await generate();
  select(Math.min(at, state.tokens.length - 1));
}

function keep() {
  state.kept = { ids: state.ids.slice(), tokens: state.tokens.slice(), given: state.given, off: state.off.slice() };
  showComparison();
}

function showComparison() {
  const box = $("compare"), kept = state.kept;
  box.hidden = !kept;
  if (!kept) return;
  let parted = 0;
  while (parted < kept.ids.length && kept.ids[parted] === state.ids[parted]) parted++;
  const side = (title, tokens, given) => {
    const view = make("div", null, "side");
    tokens.forEach((token, t) => {
      const span = spanOf(token, t >= given, t === 0);
      span.removeAttribute("role");
      if (t === parted) span.classList.add("parted");
      view.append(span);
    });
    return row("div", "", make("h3", title), view);
  };
  const without = (off) => (off.length ? `without ${off.map(partName).join(", ")}` : "as it is");
  const why = button("Why do they part here?", () => select(parted, kept.ids[parted]));
  const both = parted < kept.ids.length && parted < state.ids.length && parted > 0;
  box.replaceChildren(side(`Kept: ${without(kept.off)}`, kept.tokens, kept.given),
    side(`Now: ${without(state.off)}`, state.tokens, state.given),
    row("div", "bar", both ? why : make("span", "The two are equal so far.", "soft"),
      button("Drop", () => { state.kept = null; showComparison(); })));
}

// The state as a short text: ids in base 36.
function saved() {
  return { ids: state.ids.map((id) => id.toString(36)).join("."), given: state.given, at: state.at,
    off: state.off.join(","), prompt: state.prompt, color: state.color, model: data.about.model,
    check: checksum(state.ids), ...settings() };
}
const checksum = (ids) => ids.reduce((sum, id) => (31 * sum + id) % 99991, 7).toString(36);

async function restore(from) {
  const ids = String(from.ids || "").split(".").filter(Boolean).map((each) => parseInt(each, 36));
  const { V, context } = data.header.config;
  const inside = ids.length <= context && ids.every((id) => id >= 0 && id < V);
  if (!ids.length || from.check !== checksum(ids)) throw new Error("it is not a text that such a page has saved");
  if (!inside) throw new Error("its text is from another model");
  for (const name of ["temperature", "seed", "count"]) if (from[name] !== undefined) $(name).value = from[name];
  if (from.topK !== undefined) $("topk").value = from.topK;
  state.prompt = $("prompt").value = String(from.prompt || "");
  state.off = String(from.off || "").split(",").filter((name) => partName(name));
  if (["why", "probability", "none"].includes(from.color)) state.color = from.color;
  showOff();
  showHeads();
  await readText(ids, Math.min(ids.length, +from.given || 0));
  if (+from.at >= 0) select(+from.at);
  if (from.model && from.model !== data.about.model) note(`The text is from the model ${from.model}.`);
}

function setUpText() {
  $("continue").onclick = () => continueText();
  $("one").onclick = () => continueText(1);
  $("stop").onclick = () => request("stop");
  $("keep").onclick = keep;
  $("prompt").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => { if (!state.busy) usePrompt(); }, 200);
  };
  $("to-account").onclick = () => $("account").scrollIntoView();
  $("prompt").onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) continueText();
  };
  text.onkeydown = (event) => {
    const move = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    select(state.at + move);
  };
  for (const each of document.querySelectorAll("[data-color]")) {
    each.onclick = () => { state.color = each.dataset.color; colorTokens(); };
  }
  $("link").onclick = async () => {
    location.hash = new URLSearchParams(saved()).toString();
    try {
      await navigator.clipboard.writeText(location.href);
      note("The link is in the clipboard, and in the address bar.");
    } catch {
      note("The link is in the address bar.");
    }
  };
  $("save").onclick = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(saved(), null, 1)], { type: "application/json" }));
    link.download = "minislm-text.json";
    link.click();
  };
  $("open-label").onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") $("open").click(); };
  $("open").onchange = async () => {
    const [file] = $("open").files;
    try {
      if (file) await restore(JSON.parse(await file.text()));
    } catch (error) {
      note(`The file cannot be opened: ${error.message}.`);
    }
    $("open").value = "";
  };
}

async function start() {
  setUpTerms();
  showAbout();
  await request("load", { header: data.header, blob: $("blob").textContent });
  $("blob").textContent = "";
  setUpText();
  showHeads();
  setUpNeurons();
  showWeights();
  const from = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  let problem = "";
  if (location.hash.length > 1) {
    try {
      await restore(from);
      return document.body.setAttribute("data-ready", "yes");
    } catch (error) {
      problem = `The link cannot be used: ${error.message}.`;
    }
  }
  $("prompt").value = data.about.prompt;
  state.off = data.about.off.split(",").filter((name) => partName(name));
  showOff();
  await usePrompt();
  if (problem) note(problem);
  document.body.setAttribute("data-ready", "yes");
  await continueText();
}
addEventListener("unhandledrejection", ({ reason }) => note(`Something went wrong: ${reason.message}. Reload the page.`));
start().catch((error) => note(`The page cannot run here: ${error.message}`));
