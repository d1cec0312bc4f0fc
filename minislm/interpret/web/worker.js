"use strict";
// The worker thread of the page: it holds model, text and cache, and answers messages. A request is
// {id, kind, ...}; its answer has the same id, and a long one sends {id, part} messages before.
let model, tokenizer, ids = [], off = [], run = 0;

// Read the text up to n tokens, so that the model's buffers are those of position n - 1.
function readTo(n) {
  if (model.length >= n) model.rewind(n - 1);
  while (model.length < n) model.step(ids[model.length]);
}

// Use a text and switches; what both have in common with the last ones stays in the cache.
function use(text, switches = off) {
  if (switches.join() !== off.join()) {
    model.setOff(switches);
    if (model.L > 1) model.rewind(0);  // keys and values of the first block depend on tokens alone
  }
  let same = 0;
  while (same < model.length && text[same] === ids[same]) same++;
  model.rewind(Math.min(model.length, same));
  ids = text.slice(0, model.context);
  off = switches;
}

const names = (list) => list.map((id) => tokenizer.name(id));

// The k most probable tokens after the last position read.
function best(k, p = softmax(model.predict())) {
  return largest(p, k).map((id) => ({ id, text: tokenizer.name(id), p: p[id] }));
}

// Let messages arrive; a timer would wait for 4 ms.
const channel = new MessageChannel();
const pause = () => new Promise((resolve) => {
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(0);
});

const requests = {
  load({ header, blob }) {
    const bytes = fromBase64(blob);
    model = new Model(header, bytes);
    tokenizer = new Tokenizer(header, bytes);
    return { context: model.context };
  },

  // The tokens of a text, as a prompt.
  tokens({ text }) {
    const found = [...tokenizer.bos, ...tokenizer.encode(text)];
    const kept = found.length ? found.slice(0, model.context) : [tokenizer.end];
    return { ids: kept, dropped: Math.max(0, found.length - kept.length) };
  },

  // The text and probability of every token, and the most probable next ones.
  async read({ ids: text, switches }, send, number) {
    use(text, switches);
    const texts = tokenizer.texts(text), found = [];
    for (let t = 0; t < text.length; t++) {
      let p = null;
      if (t > 0) {
        readTo(t);
        p = softmax(model.predict())[text[t]];
      }
      found.push({ id: text[t], text: texts[t], p });
      if (t % 16 === 15) await pause();
      if (number !== run) return { stopped: true };
    }
    readTo(text.length);
    return { tokens: found, next: best(6) };
  },

  // Continue a text; every token is sent as soon as it is sampled.
  async generate({ ids: text, switches, count, temperature, topK, seed, stop = true }, send, number) {
    use(text, switches);
    const uniform = uniforms(seed), stream = new Stream(tokenizer), begin = performance.now();
    let own = text.slice(), made = 0, last = begin;
    for (const id of own) stream.push(id);
    while (made < count && own.length < model.context) {
      use(own, switches);
      readTo(own.length);
      const logits = model.predict(), id = sample(logits, temperature, topK, uniform());
      own.push(id);
      made++;
      send({ token: { id, text: stream.push(id), p: softmax(logits)[id] } });
      if (stop && id === tokenizer.end) break;
      if (performance.now() - last > 12) {
        await pause();
        last = performance.now();
      }
      if (number !== run) break;
    }
    return { made, seconds: (performance.now() - begin) / 1000 };
  },

  stop() {
    return {};
  },

  // Which parts made token t what it is? Against `rival`: an id, "mean", or null for the most probable other.
  account({ ids: text, switches, t, target, rival }) {
    const begin = performance.now(), probabilities = (off) => {
      use(text, off);
      readTo(t);
      return softmax(model.predict());
    };
    const allOn = switches.length ? probabilities([])[target] : null, p = probabilities(switches);
    const whole = allOn ?? p[target];
    const alternatives = best(7, p);
    const other = rival ?? alternatives.find((each) => each.id !== target).id;
    const rank = 1 + p.reduce((higher, each) => higher + (each > p[target]), 0);
    const found = accountOf(model, target, other === "none" ? null : other), strongest = {};
    found.neurons.forEach((values, l) => {
      for (const n of largest(values.map(Math.abs), 6)) {
        strongest[`neuron:${l}.${n}`] = names(promoted(model, l, n, 3).up);
      }
    });
    return { ...found, strongest, target, rival: other, p: p[target], whole, rank, alternatives,
      rivalText: typeof other === "number" ? tokenizer.name(other) : "",
      rivalP: typeof other === "number" ? p[other] : null, texts: tokenizer.texts(text.slice(0, t)),
      milliseconds: performance.now() - begin };
  },

  // What each word that a head reads is worth for token t: its log-probability minus that when the
  // last position cannot read the word, through heads and neurons alike.
  words({ ids: text, switches, t, target }) {
    use(text, switches);
    readTo(t);
    const most = new Float32Array(t - 1);
    for (const { weights } of model.blocks) {
      for (let h = 0; h < model.H; h++) {
        for (let s = 0; s < t - 1; s++) most[s] = Math.max(most[s], weights[h * model.context + s]);
      }
    }
    const probability = (masked) => {
      model.rewind(t - 1);
      model.masked = masked;
      try {
        model.step(text[t - 1]);
      } finally {
        model.masked = -1;
      }
      return softmax(model.predict())[target];
    };
    const whole = probability(-1);
    const found = largest(most, 24).map((s) => {
      const p = probability(s);
      return { s, p, change: Math.log(whole / p) };
    });
    return { found };
  },

  neuron({ ids: text, switches, t, layer, index }) {
    use(text, switches);
    readTo(t);
    const { up, down } = promoted(model, layer, index, 8);
    return { inputs: neuronInputs(model, layer, index), up: names(up), down: names(down),
      activation: model.blocks[layer].activations[index], texts: tokenizer.texts(text.slice(0, t)) };
  },

  // The attention weights of a head over the first tokens of a text: bytes [T, T], 255 is 1.
  map({ ids: text, layer, head, most }) {
    use(text, []);
    const T = Math.min(most, text.length), found = new Uint8Array(T * T);
    model.rewind(0);
    for (let t = 0; t < T; t++) {
      model.step(text[t]);
      const weights = model.blocks[layer].weights, base = head * model.context;
      for (let s = 0; s <= t; s++) found[t * T + s] = Math.round(255 * weights[base + s]);
    }
    return { T, weights: found };
  },

  // Nats of the tokens of a text, each after those before it.
  loss({ ids: text, switches }) {
    use(text, switches);
    let nats = 0;
    for (let t = 1; t < text.length; t++) {
      readTo(t);
      nats -= Math.log(softmax(model.predict())[text[t]]);
    }
    return { nats };
  },

  names({ ids: list }) {
    return { names: names(list) };
  },

  texts({ ids: list }) {
    return { texts: tokenizer.texts(list) };
  },

  // One block: the score of a head by distance, and its strongest skip-trigrams.
  circuit({ head, ids: common, frequency, scale }) {
    const found = skipTrigrams(model, head, common, frequency, scale, 12);
    const named = found.trigrams.map((each) => ({ ...each, names: names([each.read, each.query, each.predicted]) }));
    return { ...found, trigrams: named, profile: distanceProfile(model, head, common, frequency, 64) };
  },

  afterToken({ token, scale }) {
    const found = afterToken(model, token, scale), named = {};
    for (const [name, p] of Object.entries(found)) named[name] = largest(p, 5).map((id) => ({ text: tokenizer.name(id), p: p[id] }));
    return named;
  },

  neighbours({ ids: words, at }) {
    return { names: names(embeddingNeighbours(model, words, at, 5)) };
  },

  promoted({ layer, index, count }) {
    return { up: names(promoted(model, layer, index, count).up) };
  },
};

// Requests are answered one after the other, except for generation, which lets others in between;
// a new text or continuation, and "stop", end the one that runs.
onmessage = async ({ data }) => {
  const { id, kind } = data, send = (part) => postMessage({ id, part });
  if (["read", "generate", "stop"].includes(kind)) run++;
  try {
    postMessage({ id, answer: await requests[kind](data, send, run) });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
