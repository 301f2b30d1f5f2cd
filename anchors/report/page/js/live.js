// Asks for the state of the run every two seconds and draws it.
const PAUSE = 2000;
const sentences = [...document.querySelectorAll(".s")], S = sentences.length;
const history_ = [];

function drawEffect({ values, low, high }) {
  const ends = values.flatMap((v, i) => v === null ? [] : [v, low[i], high[i]]);
  const top = Math.max(0.05, ...ends), bottom = Math.min(-0.05, ...ends);
  const y = (v) => (100 * (top - v) / (top - bottom)).toFixed(1), parts = { zero: `M0 ${y(0)}h${S}`, pos: "", neg: "", interval: "" };
  const peak = Math.max(...values.map((v) => Math.abs(v ?? 0)), 1e-9);
  values.forEach((v, i) => {
    sentences[i].className = `s ${v === null ? "nan" : v < 0 ? "neg" : "pos"}`;
    sentences[i].style.setProperty("--t", (Math.abs(v ?? 0) / peak).toFixed(3));
    if (v === null) return;
    parts[v < 0 ? "neg" : "pos"] += `M${i + 0.12} ${y(0)}V${y(v)}h.76V${y(0)}z`;
    parts.interval += `M${i + 0.5} ${y(low[i])}V${y(high[i])}`;
  });
  for (const [name, d] of Object.entries(parts)) byId("effect").querySelector(`.${name}`).setAttribute("d", d);
  byId("top").textContent = number(top);
  byId("bottom").textContent = number(bottom);
}

function drawAnswers({ areas, labels, colours }) {
  byId("answers").replaceChildren(...areas.map((d, k) => svg("path", { class: `a${colours[k]}`, d })));
  byId("keys").replaceChildren(...labels.flatMap((label, k) => areas[k] ? [el("span", {}, el("i", { class: `swatch a${colours[k]}` }), colours[k] < 6 ? "answer " : "", el("bdi", {}, label))] : []));
}

function drawCounts({ counts }) {
  const most = Math.max(...counts, 1);
  byId("counts").querySelector("path").setAttribute("d", counts.map((n, k) => n ? `M${k + 0.08} 100V${(100 - 100 * n / most).toFixed(1)}h.84V100z` : "").join(""));
  byId("most").textContent = String(most);
  const least = Math.min(...counts);
  byId("spread").textContent = least === Math.max(...counts) ? String(least) : `${least} to ${most}`;
}

// The rate over the last minute of looking.
function rate(rollouts, tokens) {
  const now = performance.now();
  history_.push([now, rollouts, tokens]);
  while (history_.length > 2 && now - history_[0][0] > 60000) history_.shift();
  const [then, before, spent] = history_[0], seconds = (now - then) / 1000;
  if (seconds < 1) return "–";
  return rollouts === before ? "no new rollouts" : `${((rollouts - before) / seconds).toFixed(1)} rollouts a second, ${Math.round((tokens - spent) / seconds)} tokens a second`;
}

function draw(state) {
  byId("rollouts").textContent = state.rollouts.toLocaleString("en");
  byId("tokens").textContent = state.tokens.toLocaleString("en");
  byId("rate").textContent = rate(state.rollouts, state.tokens);
  const shares = state.answered.filter((share) => share !== null);
  byId("answered").textContent = shares.length ? percent(sum(shares) / shares.length) : "–";
  drawEffect(state);
  drawAnswers(state);
  drawCounts(state);
  latest = state;
}

let latest = null;
sentences.forEach((node, i) => {
  node.addEventListener("pointermove", (event) => {
    if (!latest) return;
    const v = latest.values[i];
    tip.textContent = v === null ? `${i} · not measured` : `${i} · ${number(v, true)} ${range(latest.low[i], latest.high[i])} · n = ${Math.min(latest.counts[i], latest.counts[i + 1])}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 260)}px`;
    tip.style.top = `${event.clientY + 18}px`;
  });
  node.addEventListener("pointerleave", () => { tip.hidden = true; });
});
const tip = byId("tip");

async function look() {
  const pulse = byId("pulse");
  try {
    const answer = await fetch(`/state?trace=${document.body.dataset.trace}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    draw(await answer.json());
    pulse.className = "";
    pulse.textContent = "";
    root.dataset.ready = String(latest.rollouts);
  } catch (error) {
    pulse.className = "lost";
    pulse.textContent = "not reachable; the numbers below are the last ones";
  }
  setTimeout(look, PAUSE);
}
root.classList.add("ready");
look();
