// Everything about the selected sentence.
function describe(i, score = current()) {
  const value = score.values[i];
  if (value === null) return `${i} · ${score.label}: not measured`;
  const parts = [`${i} · ${score.label} ${number(value, true)}`];
  if (!noInterval(score, i)) parts.push(`95% ${interval(score, i)}`);
  parts.push(`n = ${score.n[i]}`);
  if (score.floor[i]) parts.push(`null floor ${number(score.floor[i])}`);
  if (score.p[i] !== null) parts.push(`p = ${number(score.p[i])}`);
  if (isMarked(score, i)) parts.push(score.tested ? "marked" : "marked, not tested");
  if (sentences[i].querySelector(".leak")) parts.push("states the answer");
  return parts.join(" · ");
}

function rank(score, i) {
  return score.values[i] === null ? "" : 1 + score.values.filter((v) => v !== null && v > score.values[i]).length;
}

function methodTable(i) {
  const rows = data.scores.map((score, k) => {
    const measured = score.values[i] !== null;
    const value = el("td", { class: "num" }, number(score.values[i], true), measured && !noInterval(score, i) ? el("small", {}, interval(score, i)) : null);
    const rest = [measured ? score.n[i] : "", measured && score.p[i] !== null ? number(score.p[i]) : "", rank(score, i)];
    return el("tr", { class: k === state.by ? "by" : null },
      el("th", { scope: "row" }, isMarked(score, i) ? diamond(score) : null, score.label), value,
      ...rest.map((cell) => el("td", { class: "num" }, String(cell))));
  });
  return table(["method", "value, 95%", "n", "p", "rank"], rows);
}

const answerClass = (k) => `a${data.answers.colours[k]}`;
const swatch = (k) => el("i", { class: `swatch ${answerClass(k)}` });

function stack(pairs, total) {
  const fills = pairs.map(([k, count]) => count ? el("span", { class: `fill ${answerClass(k)}`, style: `width:${100 * count / total}%` }) : null);
  return el("span", { class: "stack", "aria-hidden": "true" }, ...fills);
}

function answerTable(i) {
  if (!data.answers) return null;
  const sides = [data.answers.counts[i], data.answers.counts[i + 1]], totals = sides.map(sum);
  if (!totals[0] && !totals[1]) return el("div", {}, el("h3", {}, "Answers"), "No rollouts at this sentence.");
  const share = (side, k) => totals[side] ? sides[side][k] / totals[side] : null;
  const bar = (side, k) => el("span", { class: `bar ${side ? answerClass(k) : "was"}`, style: `width:${100 * (share(side, k) ?? 0)}%` });
  const rows = data.answers.labels.map((label, k) => sides[0][k] || sides[1][k] ? el("tr", {},
    el("th", { scope: "row" }, swatch(k), el("bdi", {}, label)),
    el("td", { class: "bars", "aria-hidden": "true" }, bar(0, k), bar(1, k)),
    ...[0, 1].map((side) => el("td", { class: "num" }, share(side, k) === null ? "–" : share(side, k).toFixed(2)))) : null);
  return el("div", {}, el("h3", {}, "Answers without and with the sentence"),
    table(["answer", "", "before", "after"], [...rows.filter(Boolean), el("tr", { class: "total" }, ...cells(["rollouts", "", ...totals.map(String)]))], "answertable"));
}

const KINDS = ["Means the same", "", "All other meanings"];
const pairsOf = (flat) => flat.reduce((pairs, x, k) => k % 2 ? pairs : [...pairs, [x, flat[k + 1]]], []);

function meanings(i) {
  if (!data.meanings || !data.meanings[i].length) return null;
  const total = sum(data.meanings[i].map(([, count]) => count));
  const groups = data.meanings[i].map(([kind, count, answers, texts], k) => {
    const more = count - sum(texts.map(([, times]) => times)), [first, ...others] = texts;
    const items = (kind === 1 ? others : texts).map(([text, times, own]) => el("li", {}, ...pairsOf(own).slice(0, 3).map(([a]) => swatch(a)), el("bdi", {}, text), times > 1 ? el("small", {}, ` × ${times}`) : null));
    if (more > 0) items.push(el("li", {}, el("small", {}, `and ${more} more`)));
    const words = pairsOf(answers).map(([a, n]) => `${data.answers.labels[a]} × ${n}`).join(", ");
    return el("details", { class: "group", open: k < 2 && kind !== 2 },
      el("summary", {}, el("bdi", { class: kind === 1 ? null : "kind" }, KINDS[kind] || first[0]), el("small", {}, ` ${plural(count, "rollout")}, ${percent(count / total)}`)),
      el("div", { class: "led", title: words }, stack(pairsOf(answers), count), el("small", {}, "led to ", el("bdi", {}, words))),
      items.length ? el("ul", {}, ...items) : null);
  });
  return el("div", {}, el("h3", {}, "What rollouts wrote here, by meaning, and the answers it led to"), ...groups);
}

// What a sentence did to every later one, as bars with intervals.
function laterEffects(matrix, i) {
  const points = [];
  for (let t = i + 1; t < S; t++) if (matrix.value(t, i) !== null) points.push([t, matrix.value(t, i), ...matrix.bounds(t, i)]);
  if (!points.length) return null;
  const ends = points.flatMap(([, value, low, high]) => [value, low ?? value, high ?? value]);
  const top = Math.max(0, ...ends), bottom = Math.min(0, ...ends), span = top - bottom || 1, y = (v) => 100 * (top - v) / span;
  const wide = S - i - 1, parts = { pos: "", neg: "", interval: "" };
  for (const [t, value, low, high] of points) {
    const x = t - i - 1;
    parts[value < 0 ? "neg" : "pos"] += `M${x + 0.12} ${y(0).toFixed(1)}V${y(value).toFixed(1)}h.76V${y(0).toFixed(1)}z`;
    if (low !== null && high > low) parts.interval += `M${x + 0.5} ${y(low).toFixed(1)}V${y(high).toFixed(1)}`;
  }
  const strongest = points.reduce((a, b) => Math.abs(b[1]) > Math.abs(a[1]) ? b : a);
  const words = ([t, value, low, high]) => `${t}: ${number(value, true)} ${low !== null ? range(low, high) : ""}`;
  const readout = el("small", { class: "readout" }, `strongest on sentence ${words(strongest)}`);
  const at = (event, box) => i + 1 + clamp(Math.floor((event.clientX - box.left) / box.width * wide), 0, wide - 1);
  const plot = el("div", { class: "plot later", onpointermove: (event) => {
    const found = points.find(([t]) => t === at(event, plot.getBoundingClientRect()));
    if (found) readout.textContent = `on sentence ${words(found)}`;
  }, onclick: (event) => pick(at(event, plot.getBoundingClientRect()), { focus: false }) },
    svg("svg", { viewBox: `0 0 ${wide} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `${matrix.title} of sentence ${i} on sentences ${i + 1} to ${S - 1}` },
      svg("path", { class: "zero", d: `M0 ${y(0)}h${wide}` }), ...Object.entries(parts).map(([name, d]) => svg("path", { class: name, d }))),
    el("span", { class: "top" }, number(top)), el("span", { class: "bottom" }, number(bottom)));
  return el("div", {}, el("h3", {}, matrix.title), plot, el("div", { class: "between" }, el("small", {}, String(i + 1)), readout, el("small", {}, String(S - 1))));
}

const TITLES = { suppression: "What hiding it did to later sentences", effects: "What keeping it did to later sentences being said", attention: "How later sentences attend to it" };

function show() {
  const i = state.selected, node = sentences[i], chip = node.querySelector(".chip");
  const step = (by, label, sign, end) => el("button", { type: "button", "aria-label": label, disabled: i === end, onclick: () => pick(i + by) }, sign);
  panel.replaceChildren(
    el("header", {}, el("b", {}, `Sentence ${i}`), chip ? chip.cloneNode(true) : null, node.querySelector(".says")?.cloneNode(true),
      el("span", { class: "go" }, step(-1, "Previous sentence", "←", 0), step(1, "Next sentence", "→", S - 1),
        el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => root.classList.remove("open") }, "×"))),
    el("div", { class: "quote", dir: "auto", tabindex: "0", role: "region", "aria-label": "Text of the sentence" }, node.querySelector(".w").textContent),
    methodTable(i), ...[answerTable(i), meanings(i), ...matrices.flatMap((matrix) => [laterEffects(matrix, i), matrix.packed.score === data.tokens?.score ? tokenEffects(i) : null])].filter(Boolean));
  panel.scrollTop = 0;
}
