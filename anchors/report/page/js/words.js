// Numbers, words and elements.
window.onerror = (message) => { document.documentElement.dataset.error = String(message); };
const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

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

function percent(share) {
  return share < 0.001 ? "below 0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const range = (low, high) => high > low ? `[${number(low)}, ${number(high)}]` : "";
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

const SVG = document.querySelector("svg").namespaceURI;

function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const cells = (row, heading = "td") => row.map((cell, k) => el(heading, k ? { class: "num" } : {}, cell));

function table(heads, rows, kind = null) {
  const top = heads.map((name, k) => el("th", { scope: "col", class: k ? "num" : null }, name));
  return el("table", { class: kind }, el("thead", {}, el("tr", {}, ...top)), el("tbody", {}, ...rows));
}

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
