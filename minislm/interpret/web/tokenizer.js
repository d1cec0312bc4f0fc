"use strict";
// Byte-level BPE as in tokenizer.py: GPT-2's regular expression splits a text into words, a word is
// its UTF-8 bytes, and pairs of neighbouring tokens merge, those learned first before the others.

// White space as in Unicode; \s of JavaScript differs in U+0085 and U+FEFF.
const SPACE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+` +
  `|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`, "gu");

// GPT-2 writes each byte as a visible character: itself, or one from U+0100 on.
function byteCharacters() {
  const characters = [];
  for (let byte = 0, next = 256; byte < 256; byte++) {
    const shown = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    characters.push(String.fromCharCode(shown ? byte : next++));
  }
  return characters;
}

class Tokenizer {
  constructor(header, bytes) {
    const { vocab, merges, offset, digits, clean, end, bos } = header.tokenizer;
    this.end = end;
    this.bos = bos;
    this.digits = digits;
    this.clean = clean && new Map(Object.entries(clean));
    this.size = vocab.length;
    const characters = byteCharacters();
    const byteOf = new Map(characters.map((character, byte) => [character, byte]));
    const ids = new Map(vocab.map((token, id) => [token, id]));
    this.byteIds = characters.map((character) => ids.get(character));
    this.bytes = vocab.map((token, id) => {
      const found = token === null || id === end ? [] : Array.from(token, (c) => byteOf.get(c));
      return Uint8Array.from(found.includes(undefined) ? new TextEncoder().encode(token) : found);
    });
    const at = bytes.byteOffset + offset, Ids = vocab.length <= 65536 ? Uint16Array : Uint32Array;
    const pairs = new Ids(bytes.buffer.slice(at, at + 2 * Ids.BYTES_PER_ELEMENT * merges));
    this.merges = new Map();  // a pair of tokens, as one number: its rank and the token it becomes
    for (let rank = 0; rank < merges; rank++) {
      const a = pairs[2 * rank], b = pairs[2 * rank + 1];
      this.merges.set(a * this.size + b, [rank, ids.get(vocab[a] + vocab[b])]);
    }
    this.words = new Map();
  }

  // The ids of a text. A lone half of a surrogate pair is read as U+FFFD.
  encode(text) {
    if (this.clean) {
      text = Array.from(text.normalize("NFC"), (c) => this.clean.get(c) ?? c).join("");
    }
    const parts = this.digits ? text.match(/\p{N}|\P{N}+/gu) || [] : [text];
    return parts.flatMap((part) => (part.match(WORD) || []).flatMap((word) => this.word(word)));
  }

  word(word) {
    if (this.words.has(word)) return this.words.get(word);
    const ids = Array.from(new TextEncoder().encode(word), (byte) => this.byteIds[byte]);
    for (;;) {
      let best = null, place = -1;
      for (let i = 0; i + 1 < ids.length; i++) {
        const merge = this.merges.get(ids[i] * this.size + ids[i + 1]);
        if (merge && (!best || merge[0] < best[0])) [best, place] = [merge, i];
      }
      if (!best) break;
      ids.splice(place, 2, best[1]);
    }
    if (word.length < 40) this.words.set(word, ids);
    return ids;
  }

  // The text of each token; of the tokens that share one character, the last has all of it.
  texts(ids) {
    const stream = new Stream(this);
    const found = ids.map((id) => stream.push(id));
    if (found.length) found[found.length - 1] += stream.flush();
    return found;
  }

  decode(ids) {
    return this.texts(ids).join("");
  }

  // A token alone, for lists: bytes that are not a whole character in hexadecimal.
  name(id) {
    if (id === this.end) return "(end of text)";
    const bytes = this.bytes[id] || [], text = new TextDecoder().decode(bytes);
    if (!text.includes("\ufffd")) return text;
    return Array.from(bytes, (byte) => "\\x" + byte.toString(16).padStart(2, "0")).join("");
  }
}

// Text of a token stream, as soon as its characters are whole.
class Stream {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  }
  push(id) {
    return this.decoder.decode(this.tokenizer.bytes[id] || new Uint8Array(), { stream: true });
  }
  flush() {
    return this.decoder.decode();
  }
}
