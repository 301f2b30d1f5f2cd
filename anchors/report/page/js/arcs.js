// The sentence graph: arcs over the trace, strongest first; a click isolates the ancestors and descendants of a sentence.
class Graph {
  constructor(host) {
    this.host = host;
    [this.which, this.direction, this.slider, this.count, this.one, this.all, this.words] = ["edges", "direction", "strength", "edgecount", "alone", "everything", "lineage"].map(byId);
    this.alone = null;
    this.which.addEventListener("change", () => this.open(+this.which.value));
    this.slider.addEventListener("input", () => this.cut(+this.slider.value));
    this.direction.addEventListener("change", () => this.isolate(this.alone));
    this.one.addEventListener("click", () => { this.isolate(state.selected); this.all.focus(); });
    this.all.addEventListener("click", () => { this.isolate(null); this.one.focus(); });
    host.addEventListener("click", (event) => { const i = this.place(event); if (i !== null) { pick(i, { focus: false, scroll: false }); this.isolate(i); } });
    host.addEventListener("pointermove", (event) => this.hint(event));
    host.addEventListener("pointerleave", hush);
    new ResizeObserver(() => requestAnimationFrame(() => { if (host.clientWidth && host.clientWidth !== this.width) this.layout(); })).observe(host);
    this.open(0);
  }

  open(k) {
    this.packed = data.matrices[k];
    const matrix = matrices[k];
    this.edges = this.packed.edges.map(([source, target, p, q]) => {
      const [low, high] = matrix.bounds(target, source);
      return { source, target, value: matrix.value(target, source), low, high, p: p ?? null, q };
    });
    this.shown = this.packed.shown;
    this.slider.max = this.edges.length;
    this.slider.value = this.shown;
    this.layout();
  }

  layout() {
    this.width = Math.max(this.host.clientWidth, 260);
    this.height = clamp(this.width * 0.27, 130, 270);
    const x = (i) => (i + 0.5) / S * this.width, peak = Math.max(...this.edges.map((edge) => Math.abs(edge.value)), 1e-12);
    this.paths = this.edges.map((edge, k) => svg("path", { class: `arc ${edge.value < 0 ? "neg" : "pos"}`, style: `--t:${(0.25 + 0.65 * Math.abs(edge.value) / peak).toFixed(2)}`, d: this.outline(x(edge.source), x(edge.target)), "data-edge": k }));
    const gap = S <= 30 ? 1 : S <= 120 ? 5 : 20, r = clamp(this.width / S / 3, 1.2, 4);
    this.nodes = sentences.map((_, i) => svg("circle", { cx: x(i).toFixed(1), cy: this.height, r: r.toFixed(1), class: "node" }));
    const labels = sentences.flatMap((_, i) => i % gap ? [] : [svg("text", { x: x(i).toFixed(1), y: this.height + 16 }, String(i))]);
    const label = `Graph of ${data.scores[this.packed.score].label}; the table of numbers and the panel give the same effects as text`;
    this.drawing = svg("svg", { width: this.width, height: this.height + 22, viewBox: `0 0 ${this.width} ${this.height + 22}`, role: "img", "aria-label": label }, svg("g", {}, ...[...this.paths].reverse()), svg("path", { class: "zero", d: `M0 ${this.height}h${this.width}` }), ...this.nodes, ...labels);
    this.host.replaceChildren(this.drawing);
    this.cut(this.shown);
    if (state.selected >= 0) this.select(state.selected);
  }

  // Half an ellipse out, and back by a lower one that meets it at the target: thick at the source, thin at the target.
  // Radii are a little too small, so that the browser widens them to just half an ellipse: see `graph.radii`.
  outline(a, b, thick = 5) {
    const side = Math.sign(b - a), half = side * thick / 2, far = Math.abs(b - a), sweep = side > 0 ? 1 : 0;
    const tall = (this.height - 8) * Math.sqrt(far / this.width), y = this.height;
    const radii = (wide, high) => { const less = Math.max(wide - 0.2, 0.1); return `${less.toFixed(1)} ${(Math.max(high, 1) * less / wide).toFixed(1)}`; };
    return `M${(a - half).toFixed(1)} ${y}A${radii(far / 2 + thick / 4, tall)} 0 0 ${sweep} ${b.toFixed(1)} ${y}`
      + `A${radii(Math.max(far / 2 - thick / 4, 0.1), tall - thick / 2)} 0 0 ${1 - sweep} ${(a + half).toFixed(1)} ${y}z`;
  }

  cut(count) {
    this.shown = clamp(count, 0, this.edges.length);
    this.count.textContent = this.rule();
    this.slider.setAttribute("aria-valuetext", this.rule());
    this.isolate(this.alone);
  }

  rule() {
    const last = this.edges[this.shown - 1], pairs = `of ${this.packed.pairs} pairs`;
    if (!this.shown) return `no edges ${pairs}`;
    if (this.packed.tested) return `${plural(this.shown, "edge")} ${pairs}, p ≤ ${number(last.p)} · false-discovery rate ${percent(last.q)}`;
    return `${plural(this.shown, "edge")} ${pairs}, effect ≥ ${number(Math.abs(last.value))} · no p-values`;
  }

  // The sentences reached from one along the edges shown, forwards or backwards, with the edges walked.
  reach(start, from, to) {
    const found = new Set(), walked = new Set(), waiting = [start];
    while (waiting.length) {
      const at = waiting.pop();
      for (let k = 0; k < this.shown; k++) {
        if (this.edges[k][from] !== at) continue;
        walked.add(k);
        const next = this.edges[k][to];
        if (next !== start && !found.has(next)) { found.add(next); waiting.push(next); }
      }
    }
    return [found, walked];
  }

  isolate(i) {
    this.alone = i;
    this.all.hidden = i === null;
    this.one.hidden = i !== null;
    const none = [new Set(), new Set()], way = this.direction.value;
    const [above, into] = i === null || way === "out" ? none : this.reach(i, "target", "source");
    const [below, out] = i === null || way === "into" ? none : this.reach(i, "source", "target");
    this.paths.forEach((path, k) => {
      path.classList.toggle("gone", k >= this.shown);
      path.classList.toggle("faint", i !== null && !into.has(k) && !out.has(k));
    });
    this.nodes.forEach((node, k) => node.setAttribute("class", `node${above.has(k) ? " above" : ""}${below.has(k) ? " below" : ""}${k === state.selected ? " on" : ""}`));
    sentences.forEach((node, k) => { if (above.has(k)) node.dataset.kin = "above"; else if (below.has(k)) node.dataset.kin = "below"; else delete node.dataset.kin; });
    const list = (set) => set.size ? `${plural(set.size, "sentence")} (${[...set].sort((a, b) => a - b).slice(0, 40).join(", ")}${set.size > 40 ? ", …" : ""})` : "none";
    const parts = [way === "out" ? null : `acting on it, directly or through others: ${list(above)}`, way === "into" ? null : `it acts on: ${list(below)}`];
    this.words.textContent = i === null ? "" : `Sentence ${i}; ${parts.filter(Boolean).join("; ")}.`;
  }

  select(i) {
    this.nodes.forEach((node, k) => node.classList.toggle("on", k === i));
    if (this.alone !== null && this.alone !== i) this.isolate(i);
  }

  place(event) {
    const edge = event.target.dataset?.edge;
    if (edge !== undefined) return this.edges[+edge].source;
    const box = this.drawing.getBoundingClientRect();
    return event.clientY - box.top < this.height - 14 ? null : clamp(Math.floor((event.clientX - box.left) / box.width * S), 0, S - 1);
  }

  hint(event) {
    const edge = event.target.dataset?.edge === undefined ? null : this.edges[+event.target.dataset.edge];
    if (!edge) { const i = this.place(event); if (i === null) hush(); else hintAt(describe(i), event); return; }
    const bounds = edge.low !== null && edge.high > edge.low ? ` ${range(edge.low, edge.high)}` : "";
    hintAt(`${edge.source} → ${edge.target}: ${number(edge.value, true)}${bounds} ${this.packed.unit}${edge.p === null ? "" : ` · p = ${number(edge.p)}`}`, event);
  }
}

const graph = data.matrices.length ? new Graph(byId("arcs")) : null;
