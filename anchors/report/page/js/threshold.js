// Colour of the text, and the threshold that marks sentences with the false-discovery rate it implies.
function colour() {
  const score = current();
  sentences.forEach((node, i) => {
    const [name, strength] = tint(score.values[i], score.scale);
    node.className = `s ${name}${isMarked(score, i) ? " anchor" : ""}${i === state.selected ? " on" : ""}${state.kept[i] ? "" : " out"}`;
    node.style.setProperty("--t", strength.toFixed(3));
  });
  trace.classList.toggle("untested", !score.tested);
  const legend = byId("legend");
  legend.querySelector(".bar").classList.toggle("half", score.legend[0] === "");
  legend.querySelectorAll(".ends span").forEach((span, k) => { span.textContent = score.legend[k]; });
  strips.forEach((row) => row.node.classList.toggle("by", row.score === score));
  const slider = byId("cut");
  slider.max = score.cuts.length - 1;
  slider.value = score.cut;
  slider.closest("label").querySelector(".diamond").classList.toggle("open", !score.tested);
  rule();
}

// The rule in words: how many are marked, by what threshold, and what share of them is expected to be false.
function ruleOf(score) {
  const count = score.cuts[score.cut], last = score.ranked[count - 1];
  if (!score.ranked.length) return "nothing measured";
  if (!score.tested) return `${count} highest marked${count ? `, score ≥ ${number(score.values[last])}` : ""} · no p-values, so no false-discovery rate`;
  if (!count) return `none marked of ${score.ranked.length} tested`;
  const rate = score.q[last];
  return `${count} marked, p ≤ ${number(score.p[last])} · false-discovery rate ${percent(rate)} (${(rate * count).toFixed(1)} expected false)`;
}

function rule() {
  const text = ruleOf(current());
  byId("rule").textContent = text;
  byId("cut").setAttribute("aria-valuetext", text);
}

// A step of the slider touches only the sentences whose mark changes.
function cutAt(position) {
  const score = current(), was = score.marks;
  score.cut = clamp(position, 0, score.cuts.length - 1);
  score.marks = new Set(score.ranked.slice(0, score.cuts[score.cut]));
  for (const i of score.ranked) if (was.has(i) !== score.marks.has(i)) sentences[i].classList.toggle("anchor", score.marks.has(i));
  rule();
  strips.find((row) => row.score === score).marks();
  if (byId("marked").checked) refilter();
}

// --- order and filter
const wanted = { sort: byId("sort"), category: byId("category"), marked: byId("marked"), search: byId("search"), count: byId("count") };
const categoryOf = sentences.map((node) => node.querySelector(".chip")?.dataset.cat ?? "");
const lowered = sentences.map((node) => node.querySelector(".w").textContent.toLowerCase());

function refilter() {
  const score = current(), words = wanted.search.value.trim().toLowerCase();
  const keep = (i) => (!wanted.category.value || categoryOf[i] === wanted.category.value)
    && (!wanted.marked.checked || isMarked(score, i)) && lowered[i].includes(words);
  state.kept = sentences.map((_, i) => keep(i));
  state.order = sorted(score, wanted.sort.value).filter((i) => state.kept[i]);
  sentences.forEach((node, i) => node.classList.toggle("out", !state.kept[i]));
  wanted.count.textContent = state.order.length === S ? "" : `${state.order.length} of ${plural(S, "sentence")}`;
  strips.forEach((row) => row.draw());
  drawFlat();
  if (state.selected >= 0) cursor(state.selected);
}

// Measured sentences first; ties as written.
function sorted(score, by) {
  const all = sentences.map((_, i) => i);
  const key = { high: (i) => -score.values[i], size: (i) => -Math.abs(score.values[i]), p: (i) => score.p[i] ?? 2 }[by];
  return key ? all.sort((a, b) => (score.values[a] === null) - (score.values[b] === null) || key(a) - key(b) || a - b) : all;
}
