// Choosing a sentence, pointing at it, and moving between sentences by keys.
function hintAt(text, { clientX: x, clientY: y }) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}

function hush() { tip.hidden = true; }

function pick(i, { focus = true, scroll = true, open = true } = {}) {
  i = clamp(i, 0, S - 1);
  if (state.selected >= 0) {
    const old = sentences[state.selected];
    old.classList.remove("on");
    old.tabIndex = -1;
    old.removeAttribute("aria-current");
  }
  state.selected = i;
  const node = sentences[i];
  node.classList.add("on");
  node.tabIndex = 0;
  node.setAttribute("aria-current", "true");
  root.classList.toggle("open", open);
  if (focus) node.focus({ preventScroll: true });
  if (scroll) node.scrollIntoView({ block: "nearest" });
  show();
  cursor(i);
  remember();
}

// The next sentence in that direction among those a filter keeps.
function move(step) {
  if (Math.abs(step) >= S) return pick(state.selected + step);
  let i = state.selected + step;
  while (i >= 0 && i < S && !state.kept[i]) i += step;
  return pick(i >= 0 && i < S ? i : state.selected);
}

const sentenceOf = (target) => target.closest ? sentences.indexOf(target.closest(".s")) : -1;

trace.addEventListener("pointermove", (event) => { const i = sentenceOf(event.target); if (i < 0) hush(); else hintAt(describe(i), event); });
trace.addEventListener("pointerleave", hush);
trace.addEventListener("click", (event) => { const i = sentenceOf(event.target); if (i >= 0) { hush(); pick(i, { scroll: false }); } });
trace.addEventListener("focusin", (event) => {
  const i = sentenceOf(event.target);
  if (i < 0 || !event.target.matches(":focus-visible")) return;
  const box = event.target.getBoundingClientRect();
  hintAt(describe(i), { clientX: box.left, clientY: box.bottom - 14 });
});
trace.addEventListener("focusout", hush);

plots.forEach((plot) => {
  const at = (event) => {
    const box = plot.getBoundingClientRect(), size = state.order.length;
    return size ? state.order[clamp(Math.floor((event.clientX - box.left) / box.width * size), 0, size - 1)] : null;
  };
  const score = () => plot.dataset.row === undefined ? current() : data.scores[+plot.dataset.row];
  plot.addEventListener("pointermove", (event) => { const i = at(event); if (i !== null) hintAt(describe(i, score()), event); });
  plot.addEventListener("pointerleave", hush);
  plot.addEventListener("click", (event) => { const i = at(event); if (i !== null) pick(i, { focus: false }); });
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, .scroll, .raw, .quote")) return;
  const inside = trace.contains(event.target) && event.target !== trace;
  const steps = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ...(inside ? { ArrowDown: 1, ArrowUp: -1, Home: -S, End: S } : {}) };
  if (event.key === "Escape") { hush(); root.classList.remove("open"); graph?.isolate(null); }
  if (!(event.key in steps)) return;
  event.preventDefault();
  move(steps[event.key]);
});
