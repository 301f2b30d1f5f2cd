// What the page shows now: the method that colours, the sentence selected, what is marked, and the order of the strip.
const data = JSON.parse(byId("data").textContent);
const trace = byId("trace"), panel = byId("panel"), tip = byId("tip"), select = byId("by");
const sentences = [...trace.querySelectorAll(".s")];
const S = sentences.length;
const state = { by: 0, selected: -1, order: sentences.map((_, i) => i), kept: sentences.map(() => true) };
const noInterval = (score, i) => !(score.high[i] > score.low[i]);
const interval = (score, i) => noInterval(score, i) ? "" : range(score.low[i], score.high[i]);
const current = () => data.scores[state.by];

function tint(value, [low, high]) {
  if (value === null) return ["nan", 0];
  return [value < 0 ? "neg" : "pos", clamp((Math.abs(value) - low) / (high - low), 0, 1)];
}

// A method's cuts: the sets of sentences that a threshold can mark, smallest first, as counts along `ranked`.
for (const score of data.scores) {
  const key = score.tested ? (i) => score.p[i] : (i) => -score.values[i];
  score.ranked = score.values.map((_, i) => i).filter((i) => (score.tested ? score.p[i] : score.values[i]) !== null);
  score.ranked.sort((a, b) => key(a) - key(b) || Math.abs(score.values[b]) - Math.abs(score.values[a]) || a - b);
  score.cuts = [0];
  score.ranked.forEach((i, k) => { if (k + 1 === score.ranked.length || key(score.ranked[k + 1]) > key(i)) score.cuts.push(k + 1); });
  score.cut = score.cuts.reduce((best, count, k) => count <= score.anchors.length ? k : best, 0);
  score.marks = new Set(score.anchors);
}

const isMarked = (score, i) => score.marks.has(i);
const diamond = (score) => el("i", { class: `diamond${score.tested ? "" : " open"}` });

// --- the address keeps the state, so a sentence can be linked to
function remember() {
  try { history.replaceState(null, "", `#s${state.selected},${state.by}`); } catch (error) { /* a sandboxed page has no history */ }
}

function recall() {
  const found = /^#s(\d+)(?:,(\d+))?$/.exec(location.hash);
  if (found && found[2] !== undefined && +found[2] < data.scores.length) state.by = +found[2];
  select.value = String(state.by);
  return found ? +found[1] : null;
}
