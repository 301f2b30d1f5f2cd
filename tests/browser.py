"""What the browser tests ask of a page: names of its controls, contrast of its texts, the time of a slider step."""

from __future__ import annotations

NAMES = """() => {
  const asked = 'button, select, input, [role=img], [role=region], summary, canvas';
  const named = (node) => node.getAttribute('aria-label')
    || [...(node.labels ?? [])].map((label) => label.textContent).join('')
    || (/SUMMARY|BUTTON/.test(node.tagName) && node.textContent);
  return [...document.querySelectorAll(asked)].filter((node) => !(named(node) || '').trim()).map((node) => node.outerHTML);
}"""

CONTRAST = """() => {
  const probe = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = (text) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = text;
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, k) => c * a + under[k] * (1 - a));
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (node) => node
    ? over(parse(getComputedStyle(node).backgroundColor), ground(node.parentElement)) : [255, 255, 255];
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const skipped = 'svg, script, style, button:disabled, select';
  let seen = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest(skipped)) continue;
    seen++;
    const back = ground(node), front = over(parse(getComputedStyle(node).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push([node.tagName, node.className, node.textContent.slice(0, 30), ratio]);
  }
  return [seen, low];
}"""

STEPS = """async () => {
  const slider = document.getElementById('cut'), times = [];
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  for (let k = 0; k <= 30; k++) {
    const begun = performance.now();
    slider.value = Math.round(k * slider.max / 30);
    slider.dispatchEvent(new Event('input'));
    document.body.getBoundingClientRect();
    await painted();
    times.push(performance.now() - begun);
  }
  return times;
}"""

OPENED = """() => {
  const { loadEventEnd, navigationStart } = performance.timing;
  return Math.max(+document.documentElement.dataset.ready, loadEventEnd - navigationStart);
}"""

SLIDE = """([name, value]) => {
  const slider = document.getElementById(name);
  slider.value = value;
  slider.dispatchEvent(new Event('input'));
}"""

ROWS = "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
INDICES = "nodes => nodes.map((node) => +node.id.slice(1))"
POINT = "node => node.dispatchEvent(new PointerEvent('pointermove', {bubbles: true, clientX: 9, clientY: 9}))"
VISIBLE = "nodes => nodes.filter((node) => node.checkVisibility()).length"
