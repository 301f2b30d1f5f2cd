// Matrices on a canvas: [target, source] cells unpacked from int16 steps.
class Matrix {
  constructor(packed, host) {
    Object.assign(this, { packed, score: data.scores[packed.score], size: packed.size, host });
    const kind = this.score.label.replace(/ \(\d+\)$/, "");
    this.title = `${TITLES[kind] ?? `${this.score.label} on later sentences`} (${packed.unit})`;
    [this.cells, this.low, this.high] = ["cells", "low", "high"].map((name) => packed[name] ? new DataView(bytes(packed[name]).buffer) : null);
    this.readout = host.closest("figure").querySelector(".readout");
    this.canvas = el("canvas", { width: this.size, height: this.size, role: "img", "aria-label": `${this.score.label}: effect of every source sentence on every target sentence` });
    this.row = el("i", { class: "line row" });
    this.column = el("i", { class: "line column" });
    host.replaceChildren(this.canvas, this.row, this.column);
    host.addEventListener("pointermove", (event) => this.read(...this.cell(event)));
    host.addEventListener("click", (event) => pick(this.cell(event)[1], { focus: false }));
    this.draw();
  }

  at(view, target, source) {
    if (!view || (this.packed.below && source >= target)) return null;
    const place = this.packed.below ? target * (target - 1) / 2 + source : target * this.size + source;
    const steps = view.getInt16(2 * place, true);
    return steps === -32768 ? null : steps * this.packed.step;
  }

  value(target, source) { return this.at(this.cells, target, source); }

  bounds(target, source) { return [this.at(this.low, target, source), this.at(this.high, target, source)]; }

  cell(event) { return cellOf(event, this.canvas, this.size); }

  read(target, source) {
    const value = this.value(target, source), [low, high] = this.bounds(target, source);
    const bounds = low !== null && high > low ? ` ${range(low, high)}` : "";
    this.readout.textContent = `Sentence ${source} on sentence ${target}: ${number(value, true)}${bounds}${value === null ? "" : ` ${this.packed.unit}`}`;
  }

  mark(i) { cross(this.row, this.column, i, this.size); }

  draw() { paint(this.canvas, (i, j) => tint(this.value(i, j), [0, this.packed.bound])); }
}

function cellOf(event, canvas, size) {
  const box = canvas.getBoundingClientRect();
  const place = (x, start, length) => clamp(Math.floor((x - start) / length * size), 0, size - 1);
  return [place(event.clientY, box.top, box.height), place(event.clientX, box.left, box.width)];
}

function cross(row, column, i, size) {
  row.style.cssText = `top:${100 * i / size}%;height:${100 / size}%`;
  column.style.cssText = `left:${100 * i / size}%;width:${100 / size}%`;
}

// Each cell is [class, strength] of its colour.
function paint(canvas, cell) {
  const style = getComputedStyle(root), rgb = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
  const colours = { pos: rgb("--pos"), neg: rgb("--neg") };
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let i = 0, k = 0; i < canvas.height; i++) {
    for (let j = 0; j < canvas.width; j++, k += 4) {
      const [name, strength] = cell(i, j);
      if (name === "nan" || !strength) continue;
      const [r, g, b] = colours[name];
      image.data[k] = r; image.data[k + 1] = g; image.data[k + 2] = b; image.data[k + 3] = Math.round(255 * strength);
    }
  }
  context.putImageData(image, 0, 0);
}

const matrices = [...document.querySelectorAll("[data-matrix]")].map((host) => new Matrix(data.matrices[+host.dataset.matrix], host));
