// The rows of all methods, drawn over the sentences that are kept, in the order that is chosen.
class Strip {
  constructor(node) {
    this.node = node;
    this.score = data.scores[+node.dataset.row];
    this.svg = node.querySelector("svg");
    this.paths = Object.fromEntries([...this.svg.querySelectorAll("path")].map((path) => [path.classList[0], path]));
    this.diamonds = [...node.querySelectorAll(".diamond")];
  }

  draw() {
    const { score } = this, order = state.order, [low, high] = score.axis;
    const y = (value) => (100 * (high - clamp(value, low, high)) / (high - low)).toFixed(1);
    const base = y(Math.max(low, 0)), parts = { pos: "", neg: "", interval: "", floor: "", unmeasured: "" };
    order.forEach((i, x) => {
      const value = score.values[i];
      if (value === null) parts.unmeasured += `M${x + 0.3} ${base}h.4`;
      else if (y(value) !== base) parts[value < 0 ? "neg" : "pos"] += `M${x + 0.12} ${base}V${y(value)}h.76V${base}z`;
      if (value !== null && !noInterval(score, i)) parts.interval += `M${x + 0.5} ${y(score.low[i])}V${y(score.high[i])}`;
      if (score.floor[i] !== null) parts.floor += `M${x} ${y(score.floor[i])}h1`;
    });
    this.svg.setAttribute("viewBox", `0 0 ${Math.max(order.length, 1)} 100`);
    for (const [name, path] of Object.entries(parts)) this.paths[name].setAttribute("d", path);
    this.paths.zero.setAttribute("d", `M0 ${base}h${order.length}`);
    this.marks();
  }

  // One diamond a marked sentence; they are made once and moved.
  marks() {
    const order = state.order, places = order.flatMap((i, x) => isMarked(this.score, i) ? [x] : []);
    while (this.diamonds.length < places.length) this.diamonds.push(this.node.appendChild(diamond(this.score)));
    this.diamonds.forEach((node, k) => {
      node.hidden = k >= places.length;
      if (!node.hidden) node.style.left = `${(100 * (places[k] + 0.5) / order.length).toFixed(3)}%`;
    });
  }
}

const rows = byId("rows");
const plots = [...rows.querySelectorAll(".plot")];
const strips = plots.filter((plot) => plot.dataset.row !== undefined).map((plot) => new Strip(plot));

// Category and answers follow the order too; answers are boundaries, so under another order each sentence shows its own "after".
function drawFlat() {
  const order = state.order, written = order.length === S && order.every((i, x) => i === x);
  const flat = rows.querySelector("[data-flat] svg"), answers = rows.querySelector(".answers svg");
  if (flat) {
    flat.setAttribute("viewBox", `0 0 ${Math.max(order.length, 1)} 1`);
    flat.replaceChildren(...order.map((i, x) => svg("path", { "data-cat": categoryOf[i], d: `M${x} 0h1v1h-1z` })));
  }
  if (answers) {
    drawFlat.written ??= [...answers.childNodes];
    answers.setAttribute("viewBox", `0 0 ${written ? S : Math.max(order.length, 1)} 100`);
    answers.replaceChildren(...(written ? drawFlat.written : stacked(order)));
  }
  byId("axis").hidden = !written;
}

function stacked(order) {
  const paths = data.answers.labels.map(() => "");
  order.forEach((i, x) => {
    const counts = data.answers.counts[i + 1], total = sum(counts);
    let y = 100;
    counts.forEach((count, k) => { if (count) { paths[k] += `M${x} ${y}v${-100 * count / total}h1v${100 * count / total}z`; y -= 100 * count / total; } });
  });
  return paths.map((d, k) => svg("path", { class: `a${data.answers.colours[k]}`, d }));
}

function cursor(i) {
  const x = state.order.indexOf(i), size = state.order.length;
  plots.forEach((plot) => {
    plot.classList.toggle("now", x >= 0);
    plot.style.setProperty("--x", `${100 * x / size}%`);
    plot.style.setProperty("--w", `${100 / size}%`);
  });
  matrices.forEach((matrix) => matrix.mark(i));
  heads?.mark(i);
  graph?.select(i);
}
