"use strict";
window.onerror = (message) => { document.documentElement.dataset.error = String(message); };
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const trace = byId("trace"), panel = byId("panel"), tip = byId("tip"), select = byId("by");
  const sentences = [...trace.querySelectorAll(".s")];
  const S = sentences.length;
  const noInterval = (score, i) => !(score.high[i] > score.low[i]);
  let by = 0, selected = -1;

  // --- words and numbers -------------------------------------------------------------------------------------------
  function number(value, signed = false) {
    if (value === null) return "not measured";
    const size = Math.abs(value);
    if (size === 0) return "0";
    let text;
    if (size > 1e300) text = "∞";
    else if (size < 0.0005 || size >= 1e5) text = size.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2");
    else text = size.toFixed(size < 10 ? 3 : 1);
    return (value < 0 ? "−" : signed ? "+" : "") + text;
  }
  const interval = (score, i) => noInterval(score, i) ? "" : `[${number(score.low[i])}, ${number(score.high[i])}]`;
  const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // --- colour ------------------------------------------------------------------------------------------------------
  function tint(value, [low, high]) {
    if (value === null) return ["nan", 0];
    return [value < 0 ? "neg" : "pos", Math.min(Math.max((Math.abs(value) - low) / (high - low), 0), 1)];
  }

  function colour() {
    const score = data.scores[by], anchors = new Set(score.anchors);
    sentences.forEach((node, i) => {
      const [name, strength] = tint(score.values[i], score.scale);
      node.className = `s ${name}${anchors.has(i) ? " anchor" : ""}${i === selected ? " on" : ""}`;
      node.style.setProperty("--t", strength.toFixed(3));
    });
    trace.classList.toggle("untested", !score.tested);
    byId("rule").textContent = score.tested ? "anchor, false-discovery rate 5%" : "top 3, not tested";
    const legend = byId("legend");
    legend.querySelector(".bar").classList.toggle("half", score.legend[0] === "");
    legend.querySelectorAll(".ends span").forEach((span, k) => { span.textContent = score.legend[k]; });
    byId("rows").querySelectorAll("[data-row]").forEach((row) => row.classList.toggle("by", +row.dataset.row === by));
  }

  // --- the selected sentence ---------------------------------------------------------------------------------------
  function describe(i) {
    const score = data.scores[by], value = score.values[i];
    if (value === null) return `${i} · ${score.label}: not measured`;
    const parts = [`${i} · ${score.label} ${number(value, true)}`];
    if (!noInterval(score, i)) parts.push(`95% ${interval(score, i)}`);
    parts.push(`n = ${score.n[i]}`);
    if (score.p[i] !== null) parts.push(`p = ${number(score.p[i])}`);
    if (score.anchors.includes(i)) parts.push(score.tested ? "anchor" : "top 3");
    return parts.join(" · ");
  }

  function rank(score, i) {
    if (score.values[i] === null) return "";
    return 1 + score.values.filter((v) => v !== null && v > score.values[i]).length;
  }

  function methodTable(i) {
    const head = el("tr", {}, ...["method", "value, 95% interval", "n", "p", "rank"].map((name, k) => el("th", { scope: "col", class: k ? "num" : null }, name)));
    const rows = data.scores.map((score, k) => {
      const measured = score.values[i] !== null;
      const mark = score.anchors.includes(i) ? el("i", { class: `diamond${score.tested ? "" : " open"}` }) : null;
      const value = el("td", { class: "num" }, number(score.values[i], true), measured && !noInterval(score, i) ? el("small", {}, interval(score, i)) : null);
      const rest = [measured ? score.n[i] : "", measured && score.p[i] !== null ? number(score.p[i]) : "", rank(score, i)];
      return el("tr", { class: k === by ? "by" : null }, el("th", { scope: "row" }, mark, score.label), value, ...rest.map((cell) => el("td", { class: "num" }, String(cell))));
    });
    return el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows));
  }

  const answerClass = (k) => `a${data.answers.colours[k]}`;

  function stack(counts, total) {
    const fills = counts.map((count, k) => count ? el("span", { class: `fill ${answerClass(k)}`, style: `width:${100 * count / total}%` }) : null);
    return el("span", { class: "stack", "aria-hidden": "true" }, ...fills);
  }

  function answerTable(i) {
    if (!data.answers) return null;
    const [before, after] = [data.answers.counts[i], data.answers.counts[i + 1]];
    const totals = [before, after].map((counts) => counts.reduce((a, b) => a + b, 0));
    if (!totals[0] && !totals[1]) return el("div", {}, el("h3", {}, "Answers"), "No rollouts at this sentence.");
    const share = (counts, total, k) => total ? (counts[k] / total).toFixed(2) : "–";
    const rows = data.answers.labels.map((label, k) => before[k] || after[k] ? el("tr", {},
      el("th", { scope: "row" }, el("i", { class: `swatch ${answerClass(k)}` }), el("bdi", {}, label)),
      el("td", { class: "num" }, share(before, totals[0], k)), el("td", { class: "num" }, share(after, totals[1], k))) : null);
    return el("div", {}, el("h3", {}, "Answers without and with the sentence"),
      el("div", { class: "pair" }, "before", stack(before, totals[0] || 1), "after", stack(after, totals[1] || 1)),
      el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "answer"), el("th", { scope: "col", class: "num" }, `before, n = ${totals[0]}`), el("th", { scope: "col", class: "num" }, `after, n = ${totals[1]}`))), el("tbody", {}, ...rows.filter(Boolean))));
  }

  function alternatives(i) {
    if (!data.alternatives || !data.alternatives[i].length) return null;
    const groups = data.alternatives[i].map(([answer, count, texts], k) => {
      const more = count - texts.reduce((sum, [, times]) => sum + times, 0);
      const items = texts.map(([text, times]) => el("li", {}, el("bdi", {}, text), times > 1 ? el("small", {}, ` × ${times}`) : null));
      return el("details", { class: "group", open: k < 2 },
        el("summary", {}, el("i", { class: `swatch ${answerClass(answer)}` }), el("bdi", {}, data.answers.labels[answer]), el("small", {}, `  ${plural(count, "rollout")}`)),
        el("ul", {}, ...items, more ? el("li", {}, el("small", {}, `and ${more} more`)) : null));
    });
    return el("div", {}, el("h3", {}, "What was written instead, by the answer it led to"), ...groups);
  }

  function show() {
    const node = sentences[selected], chip = node.querySelector(".chip");
    const step = (by_, label, sign, end) => el("button", { type: "button", "aria-label": label, disabled: selected === end, onclick: () => pick(selected + by_) }, sign);
    panel.replaceChildren(
      el("header", {}, el("b", {}, `Sentence ${selected}`), chip ? chip.cloneNode(true) : null,
        el("span", { class: "go" }, step(-1, "Previous sentence", "←", 0), step(1, "Next sentence", "→", S - 1),
          el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => root.classList.remove("open") }, "×"))),
      el("div", { class: "quote", dir: "auto", tabindex: "0", role: "region", "aria-label": "Text of the sentence" }, node.querySelector(".w").textContent),
      methodTable(selected), ...[answerTable(selected), alternatives(selected)].filter(Boolean));
    panel.scrollTop = 0;
  }

  function cursor(i) {
    byId("rows").querySelectorAll(".plot").forEach((plot) => {
      plot.classList.add("now");
      plot.style.setProperty("--x", `${100 * i / S}%`);
      plot.style.setProperty("--w", `${100 / S}%`);
    });
    matrices.forEach((matrix) => matrix.mark(i));
  }

  function pick(i, { focus = true, scroll = true, open = true } = {}) {
    i = Math.min(Math.max(i, 0), S - 1);
    if (selected >= 0) { sentences[selected].classList.remove("on"); sentences[selected].tabIndex = -1; sentences[selected].removeAttribute("aria-current"); }
    selected = i;
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

  // --- the address keeps the state, so a sentence can be linked to -------------------------------------------------
  const remember = () => { try { history.replaceState(null, "", `#s${selected},${by}`); } catch (error) { /* a sandboxed page has no history */ } };

  function recall() {
    const found = /^#s(\d+)(?:,(\d+))?$/.exec(location.hash);
    if (found && found[2] !== undefined && +found[2] < data.scores.length) by = +found[2];
    select.value = String(by);
    return found ? +found[1] : null;
  }

  // --- matrices ----------------------------------------------------------------------------------------------------
  class Matrix {
    constructor(host) {
      this.score = data.scores[+host.dataset.matrix];
      const { cells, rows, columns } = this.score.matrix;
      const bytes = Uint8Array.from(atob(cells), (c) => c.charCodeAt(0));
      this.cells = new DataView(bytes.buffer);
      this.rows = rows;
      this.columns = columns;
      this.host = host;
      this.readout = host.closest("figure").querySelector(".readout");
      this.canvas = el("canvas", { width: columns, height: rows, role: "img", "aria-label": `${this.score.label}: effect of every source sentence on every target sentence` });
      this.row = el("i", { class: "line row" });
      this.column = el("i", { class: "line column" });
      host.replaceChildren(this.canvas, this.row, this.column);
      host.addEventListener("pointermove", (event) => this.read(...this.cell(event)));
      host.addEventListener("click", (event) => pick(this.cell(event)[1]));
      this.draw();
    }

    value(i, j) {
      const steps = this.cells.getInt16(2 * (i * this.columns + j), true);
      return steps === -32768 ? null : steps * this.score.matrix.step;
    }

    cell(event) {
      const box = this.canvas.getBoundingClientRect();
      const place = (x, start, size, count) => Math.min(Math.max(Math.floor((x - start) / size * count), 0), count - 1);
      return [place(event.clientY, box.top, box.height, this.rows), place(event.clientX, box.left, box.width, this.columns)];
    }

    read(i, j) {
      const value = this.value(i, j);
      this.readout.textContent = `Sentence ${j} on sentence ${i}: ${number(value, true)}${value === null ? "" : ` ${this.score.unit}`}`;
    }

    mark(i) {
      this.row.style.cssText = `top:${100 * i / this.rows}%;height:${100 / this.rows}%`;
      this.column.style.cssText = `left:${100 * i / this.columns}%;width:${100 / this.columns}%`;
    }

    draw() {
      const style = getComputedStyle(root), rgb = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
      const colours = { pos: rgb("--pos"), neg: rgb("--neg") };
      const context = this.canvas.getContext("2d"), image = context.createImageData(this.columns, this.rows);
      for (let i = 0, k = 0; i < this.rows; i++) {
        for (let j = 0; j < this.columns; j++, k += 4) {
          const [name, strength] = tint(this.value(i, j), [0, this.score.matrix.bound]);
          if (name === "nan") continue;
          image.data.set([...colours[name], Math.round(255 * strength)], k);
        }
      }
      context.putImageData(image, 0, 0);
    }
  }

  const matrices = [...document.querySelectorAll("[data-matrix]")].map((host) => new Matrix(host));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => matrices.forEach((matrix) => matrix.draw()));

  // --- pointer and keyboard ----------------------------------------------------------------------------------------
  function hint(i, x, y) {
    tip.textContent = describe(i);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
  }
  const hush = () => { tip.hidden = true; };
  const sentenceOf = (target) => target.closest ? sentences.indexOf(target.closest(".s")) : -1;

  trace.addEventListener("pointermove", (event) => { const i = sentenceOf(event.target); if (i < 0) hush(); else hint(i, event.clientX, event.clientY); });
  trace.addEventListener("pointerleave", hush);
  trace.addEventListener("click", (event) => { const i = sentenceOf(event.target); if (i >= 0) { hush(); pick(i, { scroll: false }); } });
  trace.addEventListener("focusin", (event) => {
    const i = sentenceOf(event.target);
    if (i < 0 || !event.target.matches(":focus-visible")) return;
    const box = event.target.getBoundingClientRect();
    hint(i, box.left, box.bottom - 14);
  });
  trace.addEventListener("focusout", hush);

  byId("rows").querySelectorAll(".plot").forEach((plot) => {
    const at = (event) => { const box = plot.getBoundingClientRect(); return Math.min(Math.max(Math.floor((event.clientX - box.left) / box.width * S), 0), S - 1); };
    plot.addEventListener("pointermove", (event) => {
      const i = at(event), was = by;
      if (plot.dataset.row !== undefined) by = +plot.dataset.row;
      hint(i, event.clientX, event.clientY);
      by = was;
    });
    plot.addEventListener("pointerleave", hush);
    plot.addEventListener("click", (event) => pick(at(event), { focus: false }));
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, .scroll, .raw")) return;
    const inside = trace.contains(event.target) && event.target !== trace;
    const steps = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1, ...(inside ? { ArrowDown: 1, ArrowUp: -1, Home: -S, End: S } : {}) };
    if (event.key === "Escape") { hush(); root.classList.remove("open"); }
    if (!(event.key in steps)) return;
    event.preventDefault();
    pick(selected + steps[event.key]);
  });

  select.addEventListener("change", () => { by = +select.value; colour(); show(); remember(); });
  byId("chips").addEventListener("change", (event) => trace.classList.toggle("nochips", !event.target.checked));
  addEventListener("hashchange", () => { const i = recall(); colour(); if (i !== null) pick(i); });

  sentences.forEach((node) => { node.tabIndex = -1; });
  root.classList.add("ready");
  const asked = recall();
  colour();
  const sizeOf = (i) => Math.abs(data.scores[by].values[i] ?? 0);
  const strongest = data.scores[by].anchors.reduce((best, i) => sizeOf(i) > sizeOf(best) ? i : best, data.scores[by].anchors[0] ?? 0);
  pick(asked ?? strongest, { focus: false, scroll: asked !== null, open: asked !== null });
  root.dataset.ready = "1";
})();
