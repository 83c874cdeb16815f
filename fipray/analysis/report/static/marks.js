"use strict";
// Elements, colours and labels that charts and tables share. Text from results reaches the page as text nodes only.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const COLOURS = 7;
const colour = (series) => `var(--c${series % COLOURS})`;
const SYMBOLS = ["circle", "square", "triangle", "diamond", "cross", "star", "wye"];
const symbol = (series, number) => SYMBOLS[number > 1 ? series % SYMBOLS.length : 0];

// The middle is cut, as names of members differ at their end.
function short(text, most = 30) {
  if (text.length <= most) return text;
  const half = Math.max(Math.floor((most - 1) / 2), 1);
  return `${text.slice(0, half)}…${text.slice(text.length - half)}`;
}

const percent = (value) => (100 * value).toFixed(1);
const significant = (value) =>
  !Number.isFinite(value) ? (value > 0 ? "∞" : "−∞") : value === 0 ? "0" : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4 ? value.toExponential(2) : String(+value.toPrecision(4));

// Width of labels in a margin, in pixels at 11 px type.
function margin(labels, width) {
  const longest = Math.max(0, ...labels.map((label) => label.length));
  return Math.min(24 + 6.3 * Math.min(longest, 36), Math.max(80, 0.38 * width));
}

// A mark of Plot with all points as one element: thousands of circles would be slow.
function specks(points, radius, fill) {
  return (_, { x, y }) => {
    const path = d3.create("svg:path");
    const drawn = points.map((point) => `M${x(point.x).toFixed(1)},${y(point.y).toFixed(1)}h0`).join("");
    return path.attr("d", drawn).attr("fill", "none").attr("stroke", fill).attr("stroke-width", 2 * radius)
      .attr("stroke-linecap", "round").node();
  };
}

function swatch(series) {
  const { hollow, index } = series;
  const svg = d3.create("svg").attr("width", 12).attr("height", 12).attr("viewBox", "-6 -6 12 12").attr("aria-hidden", "true");
  const kinds = { circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond,
    cross: d3.symbolCross, star: d3.symbolStar, wye: d3.symbolWye };
  const paint = series.colour ?? colour(index);
  svg.append("path").attr("d", d3.symbol(kinds[series.symbol ?? "circle"], series.thin ? 26 : 48)())
    .attr("fill", hollow ? "var(--paper)" : paint).attr("stroke", paint).attr("stroke-width", 1.4);
  return svg.node();
}
