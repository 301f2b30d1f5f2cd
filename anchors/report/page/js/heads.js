// Attention head by head: a ranked picker, the head's profile over sentences, and its pooled attention where it is kept.
class Heads {
  constructor(host, packed) {
    this.packed = packed;
    this.chosen = packed.chosen.map(String);
    this.kurtosis = ([layer, head]) => packed.kurtosis[layer][head];
    const name = (pair) => `layer ${pair[0]}, head ${pair[1]} · kurtosis ${number(this.kurtosis(pair))}${this.chosen.includes(String(pair)) ? " · receiver" : ""}`;
    this.picker = el("select", { id: "head", onchange: () => this.show(+this.picker.value) }, ...packed.ranked.map((pair, k) => el("option", { value: k }, name(pair))));
    this.profile = el("div", { class: "plot profile" });
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.canvas = el("canvas", { width: packed.side || 1, height: packed.side || 1, role: "img" });
    this.row = el("i", { class: "line row" });
    this.column = el("i", { class: "line column" });
    this.map = el("div", { class: "map" }, el("span", { class: "ylab" }, "target sentence"), el("div", { class: "cells", onpointermove: (event) => this.read(event), onclick: (event) => pick(this.sentence(event)[1], { focus: false }) }, this.canvas, this.row, this.column));
    this.note = el("p", { class: "note" });
    host.append(el("label", {}, "Head, sharpest first ", this.picker), el("h3", {}, "Attention each sentence receives from later ones"), this.profile, this.map, el("p", { class: "xlab" }, "source sentence"), this.readout, this.note);
    this.profile.addEventListener("click", (event) => { const box = this.profile.getBoundingClientRect(); pick(clamp(Math.floor((event.clientX - box.left) / box.width * S), 0, S - 1), { focus: false }); });
    this.grid();
    this.show(0);
  }

  // Clicking a cell of the kurtosis figure picks that head.
  grid() {
    const figure = document.querySelector(".kurtosis"), layers = this.packed.kurtosis.length, across = this.packed.kurtosis[0].length;
    this.box = svg("rect", { class: "box", width: 1, height: 1 });
    this.chosenBoxes = this.packed.chosen.map(([layer, head]) => svg("rect", { class: "box kept", x: head, y: layer, width: 1, height: 1 }));
    figure.append(...this.chosenBoxes, this.box);
    figure.classList.add("live");
    figure.addEventListener("click", (event) => {
      const box = figure.getBoundingClientRect();
      const pair = [Math.floor((event.clientY - box.top) / box.height * layers), Math.floor((event.clientX - box.left) / box.width * across)];
      const k = this.packed.ranked.findIndex((other) => String(other) === String(pair));
      if (k >= 0) { this.picker.value = String(k); this.show(k); }
    });
  }

  show(k) {
    const pair = this.packed.ranked[k], [text, peak] = this.packed.profiles[k], levels = bytes(text);
    const weights = Array.from(levels, (level) => root_(level, peak)), top = Math.max(...weights.filter((w) => w !== null), 0) || 1;
    let bars = "";
    weights.forEach((weight, i) => { if (weight) bars += `M${i + 0.12} 100V${(100 - 100 * weight / top).toFixed(1)}h.76V100z`; });
    this.profile.replaceChildren(svg("svg", { viewBox: `0 0 ${S} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `Attention received by every sentence in layer ${pair[0]}, head ${pair[1]}` }, svg("path", { class: "pos", d: bars })), el("span", { class: "top" }, number(top)), el("span", { class: "bottom" }, "0"));
    this.box.setAttribute("x", pair[1]);
    this.box.setAttribute("y", pair[0]);
    const kept = this.chosen.indexOf(String(pair));
    this.current = kept >= 0 && this.packed.maps[kept] ? { levels: bytes(this.packed.maps[kept][0]), peak: this.packed.maps[kept][1], pair } : null;
    this.map.hidden = this.map.nextSibling.hidden = !this.current;
    const blocks = this.packed.side < S ? ` Drawn in ${this.packed.side} blocks a side, each showing its strongest cell.` : "";
    this.note.textContent = this.current ? `Shades follow the square root of the attention weight; the darkest is ${number(this.current.peak)}.${blocks}` : "Its matrix is not kept: only receiver heads keep theirs.";
    this.readout.textContent = this.current ? "Point at a cell to read it." : "";
    this.canvas.setAttribute("aria-label", `Pooled attention of layer ${pair[0]}, head ${pair[1]}`);
    this.draw();
  }

  draw() {
    if (this.current) paint(this.canvas, (i, j) => { const level = this.level(i, j); return level ? ["pos", (level - 1) / 254] : ["nan", 0]; });
  }

  level(i, j) { return j > i ? 0 : this.current.levels[i * (i + 1) / 2 + j]; }

  sentence(event) {
    return cellOf(event, this.canvas, this.packed.side).map((block) => Math.floor((block + 0.5) * S / this.packed.side));
  }

  read(event) {
    const [i, j] = cellOf(event, this.canvas, this.packed.side), [target, source] = this.sentence(event);
    const weight = root_(this.level(i, j), this.current.peak);
    this.readout.textContent = `Sentence ${target} attends to sentence ${source}: ${number(weight)}`;
  }

  mark(i) { cross(this.row, this.column, i, S); }
}

const root_ = (level, peak) => level ? peak * ((level - 1) / 254) ** 2 : null;
const heads = data.heads ? new Heads(byId("headview"), data.heads) : null;
