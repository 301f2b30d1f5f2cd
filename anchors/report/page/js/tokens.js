// What hiding a sentence did to the tokens after it: a profile along them, and the ones it moved most in their words.
const COLUMNS = 300, MOVED = 6;

function tokenEffects(i) {
  const packed = data.tokens, row = packed?.sources[i];
  if (!packed) return null;
  const heading = el("h3", {}, "What hiding it did, token by token (nats of KL)");
  if (!row) return i < S - 1 ? el("div", {}, heading, el("p", { class: "note" }, `Kept for the ${plural(Object.keys(packed.sources).length, "sentence")} of largest effect; this is not one of them.`)) : null;
  const [first, cells, peak] = row, effects = Array.from(bytes(cells), (level) => root_(level, peak));
  const order = effects.map((_, k) => k).filter((k) => effects[k]).sort((a, b) => effects[b] - effects[a]).slice(0, MOVED);
  const readout = el("small", { class: "readout" }, "point at a token to read it");
  const at = (event) => { const box = plot.getBoundingClientRect(); return clamp(Math.floor((event.clientX - box.left) / box.width * effects.length), 0, effects.length - 1); };
  const plot = el("div", { class: "plot later", onpointermove: (event) => {
    const k = at(event), token = tokenAt(first + k);
    readout.replaceChildren(`${number(effects[k])} on `, el("bdi", { class: "token" }, token.text.trim() || "␣"), ` in ${token.sentence}`);
  }, onclick: (event) => pick(tokenAt(first + at(event)).sentence, { focus: false }) },
    svg("svg", { viewBox: `0 0 ${effects.length} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `Effect of hiding sentence ${i} on each of ${effects.length} later tokens, at most ${number(peak)} nats` },
      svg("path", { class: "pos", d: profile(effects, peak) })),
    el("span", { class: "top" }, number(peak)), el("span", { class: "bottom" }, "0"));
  const rows = order.map((k) => [tokenAt(first + k), effects[k]]).map(([token, effect]) => el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `#s${token.sentence},${state.by}` }, String(token.sentence))),
    el("td", { class: "words" }, el("bdi", {}, token.before, el("mark", {}, token.text), token.after)), el("td", { class: "num" }, number(effect))));
  return el("div", { class: "tokens" }, heading, plot, el("div", { class: "between" }, el("small", {}, "next token"), readout, el("small", {}, "end")),
    rows.length ? table(["in", "tokens it moved most", "nats"], rows, "strongest") : null);
}

// Bars of single tokens, or of the largest effect in each of as many columns as can be told apart.
function profile(effects, peak) {
  const wide = Math.max(1, effects.length / COLUMNS);
  let d = "";
  for (let x = 0; x < effects.length; x += wide) {
    const tall = Math.max(...effects.slice(Math.floor(x), Math.max(Math.floor(x) + 1, Math.floor(x + wide))));
    if (tall > 0) d += `M${x.toFixed(1)} 100V${(100 - 100 * tall / peak).toFixed(1)}h${(0.85 * wide).toFixed(2)}V100z`;
  }
  return d;
}

// A token with its sentence and the words around it, cut from the text on the page; lengths are in code points, and the
// tokens of the prompt have none.
function tokenAt(token) {
  const { ends, skips } = data.tokens;
  const sentence = ends.findIndex((end) => token < end), begin = sentence ? ends[sentence - 1] : 0;
  const view = tokenLengths(), text = [...sentences[sentence].querySelector(".w").textContent];
  let start = skips[sentence];
  for (let k = begin; k < token; k++) start += view.getUint16(2 * k, true);
  const end = start + view.getUint16(2 * token, true), cut = (a, b) => text.slice(Math.max(a, 0), b).join("");
  return { sentence, text: cut(start, end), before: `${start > 28 ? "…" : ""}${cut(start - 28, start)}`, after: `${cut(end, end + 16)}${end + 16 < text.length ? "…" : ""}` };
}

const tokenLengths = () => (tokenLengths.view ??= new DataView(bytes(data.tokens.lengths).buffer));
