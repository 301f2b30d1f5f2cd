// Controls, and the first view: the sentence in the address, else the strongest anchor.
select.addEventListener("change", () => {
  state.by = +select.value;
  colour();
  if (wanted.sort.value !== "text" || wanted.marked.checked) refilter();
  show();
  remember();
});
byId("cut").addEventListener("input", (event) => cutAt(+event.target.value));
byId("cut").addEventListener("change", () => show());
byId("chips").addEventListener("change", (event) => trace.classList.toggle("nochips", !event.target.checked));
for (const name of ["sort", "category", "marked"]) wanted[name].addEventListener("change", refilter);
wanted.search.addEventListener("input", refilter);
addEventListener("hashchange", () => { const i = recall(); colour(); if (i !== null) pick(i); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { matrices.forEach((matrix) => matrix.draw()); heads?.draw(); });

sentences.forEach((node) => { node.tabIndex = -1; });
root.classList.add("ready");
const asked = recall();
colour();
const sizeOf = (i) => Math.abs(current().values[i] ?? 0);
const strongest = current().anchors.reduce((best, i) => sizeOf(i) > sizeOf(best) ? i : best, current().anchors[0] ?? 0);
pick(asked ?? strongest, { focus: false, scroll: asked !== null, open: asked !== null });
graph?.layout();
root.dataset.ready = performance.now().toFixed(0);
