"use strict";
// One function per kind of chart: it takes the chart's data, a width and the view's state, and returns elements.

const STYLE = { fontSize: "11px", background: "none" };
const tip = { fill: "var(--plot-background)", stroke: "var(--line)", fontSize: 12, lineWidth: 24 };
const visible = (data, state) => data.series.map((_, series) => !state.hidden.has(series));
const nice = (values, least, most) => {
  const [low, high] = d3.extent(values);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [Math.max(low - room, least), Math.min(high + room, most)];
};

function dots(data, width, state) {
  const shown = visible(data, state);
  const scale = data.percent ? 100 : 1;
  const marks = data.row.map((row, mark) => ({
    row, of: data.of[mark], x: scale * data.value[mark],
    low: data.low[mark] === null ? null : scale * data.low[mark],
    high: data.high[mark] === null ? null : scale * data.high[mark],
    known: data.value[mark] !== null,
  })).filter((mark) => mark.known && shown[mark.of]);
  const left = margin(data.rows, width);
  const paint = (mark) => data.series[mark.of].colour;
  const say = (mark) => [data.rows[mark.row], `${data.series[mark.of].name}: ` + (data.percent ? `${mark.x.toFixed(1)} %` : significant(mark.x))
    + (mark.low === null ? "" : ` [${mark.low.toFixed(1)}, ${mark.high.toFixed(1)}]`)].join("\n");
  const thin = marks.filter((mark) => data.series[mark.of].thin);
  const main = marks.filter((mark) => !data.series[mark.of].thin);
  const [least, most] = d3.extent(marks, (mark) => mark.x);
  const ends = main.flatMap((mark) => [mark.low, mark.high]).filter((value) => value !== null && value >= 100 * (data.zoom?.[0] ?? 0) - 15);
  const zoomed = state.zoom && data.zoom ? nice([...data.zoom.map((value) => 100 * value), ...ends], 0, 100) : null;
  const domain = zoomed ?? (data.percent ? [0, 100] : data.log ? [least * 0.8, most * 1.2] : [Math.min(0, least ?? 0), most ?? 1]);
  const start = domain[0], within = (mark) => mark.x >= domain[0] && mark.x <= domain[1];
  return [Plot.plot({
    width, height: 54 + 21 * data.rows.length, marginLeft: left, marginTop: 4, marginRight: 18, marginBottom: 38, style: STYLE,
    x: { label: data.x + (data.log ? ", log scale" : ""), labelAnchor: "center", labelArrow: "none", domain, type: data.log ? "log" : "linear",
      ticks: width < 500 ? 4 : 10, tickFormat: data.log ? "~g" : undefined, nice: !data.percent && !data.log },
    y: { type: "point", domain: d3.range(data.rows.length), padding: 0.6, label: null, tickSize: 0,
      tickFormat: (row) => short(data.rows[row], Math.floor((left - 20) / 6)) },
    marks: [
      Plot.ruleY(d3.range(data.rows.length), { stroke: "var(--line)", strokeOpacity: 0.7 }),
      Plot.ruleX([start], { stroke: "var(--line)" }),
      Plot.link(main.filter((mark) => mark.low !== null), { x1: "low", x2: "high", y1: "row", y2: "row", stroke: paint, strokeWidth: 1.6, clip: zoomed !== null }),
      Plot.dot(thin.filter(within), { x: "x", y: "row", r: 2.6, fill: paint, fillOpacity: 0.75, symbol: (mark) => data.series[mark.of].symbol }),
      Plot.dot(main.filter(within), { x: "x", y: "row", r: 4, fill: (mark) => (data.series[mark.of].hollow ? "var(--paper)" : paint(mark)), stroke: paint, strokeWidth: 1.6 }),
      Plot.tip(marks.filter(within), Plot.pointer({ x: "x", y: "row", title: say, maxRadius: 30, ...tip })),
    ],
    color: { type: "identity" }, symbol: { type: "identity" },
  })];
}

const SPARSITIES = [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999];
// A sparsity of 1 would lie at infinity.
const stretched = (sparsity) => -Math.log10(Math.max(1 - sparsity, 1e-4));

function scatter(data, width, state) {
  const shown = visible(data, state);
  const placed = (axis) => (value) => (value === null ? null : axis.sparsity ? stretched(value) : axis.percent ? 100 * value : value);
  const [x, y] = [placed(data.x), placed(data.y)];
  const points = data.xs.map((value, at) => ({
    at, of: data.of[at], x: x(value), y: y(data.ys[at]), label: data.label[at],
    ends: Object.fromEntries(Object.entries(data.bars ?? {}).map(([name, [low, high]]) => [name, [low[at], high[at]].map(name === "x" ? x : y)])),
  })).filter((point) => point.x !== null && point.y !== null && shown[point.of]);
  const clip = state.zoom;
  const rules = (data.rules ?? []).filter((rule) => rule.y !== null).map((rule) => ({ ...rule, y: y(rule.y) }));
  // Whiskers of many networks would hide the networks.
  const whiskers = points.length <= 60 ? points : [];
  const known = (list) => list.filter((value) => value !== null && value !== undefined);
  const zoom = (axis) => (state.zoom && data.zoom?.[axis] ? data.zoom[axis].map((value) => 100 * value) : null);
  const along = zoom("x") ?? known([...points.map((point) => point.x), ...whiskers.flatMap((point) => point.ends.x ?? [])]);
  const up = zoom("y") ?? known([...points.map((point) => point.y), ...whiskers.flatMap((point) => point.ends.y ?? []), ...rules.map((rule) => rule.y)]);
  const limits = (axis) => (axis.percent ? [0, 100] : [-Infinity, Infinity]);
  const xDomain = data.x.sparsity ? [0, Math.max(0.35, d3.max(along) ?? 1) * 1.04] : along.length ? nice(along, ...limits(data.x)) : [0, 1];
  const yDomain = up.length ? nice(up, ...limits(data.y)) : [0, 1];
  const inside = (point) => point.x >= xDomain[0] && point.x <= xDomain[1] && point.y >= yDomain[0] && point.y <= yDomain[1];
  const fronts = (data.fronts ?? []).filter((front) => front.x.length && (front.series === null || shown[front.series])).map((front) => {
    const steps = front.x.map((value, at) => ({ x: x(value), y: y(front.y[at]) }));
    // Everything left of the first network and below the last is reached, too.
    return { paint: front.series === null ? "var(--soft)" : colour(front.series),
      steps: [{ x: xDomain[0], y: steps[0].y }, ...steps, { x: steps.at(-1).x, y: yDomain[0] }] };
  });
  const number = data.series.length;
  const paint = (point) => colour(point.of);
  const text = (axis, value) => (axis.sparsity ? `${(100 * (1 - 10 ** -value)).toFixed(1)} %` : axis.percent ? `${value.toFixed(1)} %` : significant(value));
  const say = (point) => `${point.label}\n${data.x.label.split(",")[0]}: ${text(data.x, point.x)}\n${data.y.label.split(",")[0]}: ${text(data.y, point.y)}`
    + (point.ends.y && point.ends.y[0] !== null ? ` [${point.ends.y[0].toFixed(1)}, ${point.ends.y[1].toFixed(1)}]` : "");
  const size = Math.min(width, data.joined ? 720 : 680);
  const xTicks = data.x.sparsity ? { ticks: SPARSITIES.map(stretched).filter((tick) => tick <= xDomain[1]),
    tickFormat: (tick) => `${+(100 * (1 - 10 ** -tick)).toFixed(1)}` } : { ticks: size < 500 ? 5 : 8 };
  const [low, high] = [(axis) => (point) => point.ends[axis][0], (axis) => (point) => point.ends[axis][1]];
  const has = (axis) => whiskers.filter((point) => point.ends[axis] && point.ends[axis][0] !== null);
  const faint = data.joined ? 0.9 : 0.4;
  return [Plot.plot({
    width: size, height: Math.max(280, Math.min(420, 0.62 * size)), marginLeft: 52, marginRight: 20, marginTop: 22, marginBottom: 40, style: STYLE,
    x: { label: data.x.label, labelAnchor: "center", labelArrow: "none", domain: xDomain, ...xTicks },
    y: { label: data.y.label, labelArrow: "none", domain: yDomain, ticks: 6, grid: true },
    marks: [
      ...rules.map((rule) => Plot.ruleY([rule.y], { stroke: "var(--soft)", strokeDasharray: "4 3", clip })),
      Plot.text(rules.filter((rule) => rule.y >= yDomain[0]), { x: xDomain[0], y: "y", text: (rule) => short(rule.label), textAnchor: "start", dx: 4, dy: -6, fill: "var(--soft)" }),
      ...fronts.map((front) => Plot.line(front.steps, { x: "x", y: "y", curve: "step-before", stroke: front.paint, strokeWidth: 1.3, clip })),
      data.joined ? Plot.line(points, { x: "x", y: "y", z: "of", sort: "x", stroke: paint, strokeWidth: 1, strokeDasharray: "2 3", clip }) : null,
      Plot.link(has("y"), { x1: "x", x2: "x", y1: low("y"), y2: high("y"), stroke: paint, strokeOpacity: faint, clip }),
      Plot.link(has("x"), { y1: "y", y2: "y", x1: low("x"), x2: high("x"), stroke: paint, strokeOpacity: faint, clip }),
      Plot.dot(points.filter(inside), { x: "x", y: "y", r: points.length > 200 ? 2.6 : 4, symbol: (point) => symbol(point.of, number),
        fill: (point) => (data.series[point.of].hollow ? "var(--paper)" : paint(point)), stroke: (point) => (data.series[point.of].hollow ? paint(point) : "var(--paper)"), strokeWidth: 1 }),
      Plot.tip(points.filter(inside), Plot.pointer({ x: "x", y: "y", title: say, ...tip })),
    ],
    color: { type: "identity" }, symbol: { type: "identity" },
  })];
}

function lines(data, width, state) {
  const shown = visible(data, state);
  const query = state.query.toLowerCase();
  const matches = data.names.map((name) => query !== "" && name.toLowerCase().includes(query));
  const many = data.names.length;
  const strength = query ? 0.12 : many > 100 ? 0.3 : many > 20 ? 0.55 : 0.95;
  const gap = 26, columns = Math.max(1, Math.min(data.panels.length, Math.floor((width + gap) / (336 + gap))));
  const each = (width - gap * (columns - 1)) / columns;
  const overlays = [];
  const panels = data.panels.map((panel) => {
    const points = [];
    for (let at = 0; at < panel.y.length; at += 1) {
      const line = data.line[at];
      if (panel.y[at] !== null && shown[data.of[line]]) points.push({ x: data.step[at], y: panel.y[at], line, of: data.of[line] });
    }
    const bright = points.filter((point) => matches[point.line]);
    const radius = many > 100 ? 1.1 : many > 20 ? 1.7 : 2.2;
    // A constant has no extent, so the axis would have no ticks.
    const [low, high] = d3.extent(points, (point) => point.y);
    const constant = low === high && low !== undefined ? { domain: panel.log ? [low / 2, low * 2] : [low - (Math.abs(low) || 1) / 10, low + (Math.abs(low) || 1) / 10] } : {};
    const plot = Plot.plot({
      width: each, height: 230, marginLeft: 52, marginRight: 12, marginTop: 8, marginBottom: 34, style: STYLE,
      x: { label: "step", labelAnchor: "center", labelArrow: "none", ticks: 5 },
      y: { label: null, type: panel.log ? "log" : "linear", grid: true, ticks: 5, nice: true, ...constant, tickFormat: panel.log ? "~g" : undefined },
      marks: points.length === 0 ? [Plot.text(["nothing to show"], { frameAnchor: "middle" })] : [
        Plot.line(points, { x: "x", y: "y", z: "line", stroke: (point) => colour(point.of), strokeWidth: many > 20 ? 0.9 : 1.3, strokeOpacity: strength }),
        ...d3.groups(points, (point) => point.of).map(([of, some]) => withOpacity(specks(some, radius, colour(of)), query ? 0.2 : many > 20 ? 0.7 : 1)),
        ...(bright.length ? [Plot.line(bright, { x: "x", y: "y", z: "line", stroke: (point) => colour(point.of), strokeWidth: 2 }), specks(bright, 2.4, "var(--ink)")] : []),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (point) => `${data.names[point.line]}\nstep ${point.x}: ${significant(point.y)}`, maxRadius: 24, ...tip })),
      ],
      color: { type: "identity" },
    });
    follow(plot, points, overlays);
    const caption = element("p", {}, panel.label);
    return element("div", { class: "panel" }, caption, plot);
  });
  const grid = element("div", { class: "panels", style: `grid-template-columns: repeat(${columns}, minmax(0, 1fr)); gap: 1rem ${gap}px` }, ...panels);
  return [grid];
}

function withOpacity(mark, opacity) {
  return (...given) => {
    const node = mark(...given);
    node.setAttribute("stroke-opacity", opacity);
    return node;
  };
}

// The path under the pointer is drawn bold in every panel.
function follow(plot, points, overlays) {
  if (points.length === 0) return;
  const of = d3.group(points, (point) => point.line);
  const [x, y] = [plot.scale("x").apply, plot.scale("y").apply];
  const svg = d3.select(plot.tagName === "svg" ? plot : plot.querySelector("svg"));
  const bold = svg.append("path").attr("fill", "none").attr("stroke", "var(--ink)").attr("stroke-width", 1.8).attr("pointer-events", "none");
  const draw = d3.line().x((point) => x(point.x)).y((point) => y(point.y));
  overlays.push((line) => bold.attr("d", line !== null && of.has(line) ? draw(of.get(line)) : null));
  plot.addEventListener("input", () => {
    const line = plot.value ? plot.value.line : null;
    for (const overlay of overlays) overlay(line);
  });
}

function heat(data, width) {
  const left = margin(data.rows, width);
  const cell = Math.max(16, Math.min(46, (width - left - 20) / data.columns.length));
  const deep = 18 + 6.2 * Math.min(24, Math.max(...data.columns.map((name) => name.length)));
  const cells = data.values.flatMap((row, r) => row.map((value, c) => ({ r, c, value }))).filter((one) => one.value !== null);
  const framed = data.frames.map(([r, c]) => ({ r, c }));
  const inside = cell >= 25;
  return [element("p", { class: "axes" }, `row: ${data.y}; column: ${data.x}; accuracy in %`), Plot.plot({
    width: left + cell * data.columns.length + 20, height: deep + 12 + Math.max(20, Math.min(cell, 32)) * data.rows.length,
    marginLeft: left, marginTop: deep + 6, marginRight: 20, marginBottom: 6, style: STYLE, padding: 0.04,
    x: { domain: d3.range(data.columns.length), axis: "top", tickSize: 0, tickRotate: -90, label: null, tickFormat: (c) => short(data.columns[c], 23) },
    y: { domain: d3.range(data.rows.length), tickSize: 0, label: null, tickFormat: (r) => short(data.rows[r], Math.floor((left - 20) / 6)) },
    color: { type: "identity" },
    marks: [
      Plot.cell(cells, { x: "c", y: "r", fill: (one) => `color-mix(in oklab, var(--heat) ${Math.round(100 * one.value)}%, var(--surface))` }),
      Plot.cell(framed, { x: "c", y: "r", stroke: "var(--c1)", strokeWidth: 2, fill: "none" }),
      inside ? Plot.text(cells, { x: "c", y: "r", text: (one) => (100 * one.value).toFixed(0), fill: (one) => (one.value > 0.6 ? "var(--on-heat)" : "var(--ink)") }) : null,
      Plot.tip(cells, Plot.pointer({ x: "c", y: "r", title: (one) => `${data.y}: ${data.rows[one.r]}\n${data.x}: ${data.columns[one.c]}\naccuracy ${percent(one.value)} %`, ...tip })),
    ],
  })];
}

function bars(data, width, state) {
  const shown = visible(data, state);
  const marks = data.row.map((row, at) => ({ row, of: data.of[at], value: data.value[at], shown: data.shown[at] })).filter((mark) => shown[mark.of] && mark.value > 0);
  const left = margin(data.rows, width), size = Math.min(width, 720);
  const several = data.series.length;
  return [Plot.plot({
    width: size, height: 46 + data.rows.length * (12 + 18 * several), marginLeft: left, marginRight: 90, marginTop: 4, marginBottom: 36, style: STYLE,
    x: { label: data.x, labelAnchor: "center", labelArrow: "none", ticks: 5, grid: true },
    y: { domain: d3.range(several), axis: null, padding: 0.15 },
    fy: { domain: d3.range(data.rows.length), label: null, padding: 0.2, axis: "left", tickFormat: (row) => data.rows[row] },
    color: { type: "identity" },
    marks: [
      Plot.barX(marks, { x: "value", y: "of", fy: "row", fill: (mark) => colour(mark.of) }),
      Plot.text(marks, { x: "value", y: "of", fy: "row", text: "shown", textAnchor: "start", dx: 5, fill: "var(--ink)" }),
    ],
  })];
}

const DRAW = { dots, scatter, lines, heat, bars };

// Colours and symbols of the series; networks without attack and the worst attack keep theirs in every chart.
function dressed(chart) {
  const { data, kind } = chart;
  if (!data.series) data.series = [];
  let next = 1;
  data.series.forEach((series, index) => {
    series.index = index;
    if (kind === "dots") {
      series.colour = series.hollow ? "var(--soft)" : series.thin ? colour(next) : "var(--accent)";
      series.symbol = series.thin ? SYMBOLS[1 + (next - 1) % (SYMBOLS.length - 1)] : "circle";
      if (series.thin) next += 1;
    }
    if (kind === "scatter") series.symbol = symbol(index, data.series.length);
  });
  return chart;
}

class View {
  constructor(figure, chart) {
    this.chart = dressed(chart);
    this.state = { hidden: new Set(), query: "", zoom: false };
    this.place = element("div", { class: "drawing", tabindex: chart.kind === "heat" ? 0 : null, role: chart.kind === "heat" ? "region" : null, "aria-label": chart.kind === "heat" ? chart.title : null });
    this.width = 0;
    const controls = element("div", { class: "controls" });
    const { series } = chart.data;
    if (series.length > 1) controls.append(...series.map((one) => this.legend(one)));
    if (chart.kind === "lines" && chart.data.names.length > 1) controls.append(this.search());
    const { zoom } = chart.data;
    if (zoom && (Array.isArray(zoom) || zoom.x || zoom.y)) controls.append(this.zoom());
    if (controls.childElementCount) figure.append(controls);
    figure.append(this.place);
  }

  legend(series) {
    const button = element("button", { type: "button", class: "legend", "aria-pressed": "true", title: "show or hide" }, swatch(series), short(series.name, 40));
    button.addEventListener("click", () => {
      const { hidden } = this.state;
      if (!hidden.delete(series.index)) hidden.add(series.index);
      button.setAttribute("aria-pressed", String(!hidden.has(series.index)));
      this.draw();
    });
    return button;
  }

  zoom() {
    const button = element("button", { type: "button", class: "zoom", "aria-pressed": "false" }, "Zoom to the upper part");
    button.addEventListener("click", () => {
      this.state.zoom = !this.state.zoom;
      button.setAttribute("aria-pressed", String(this.state.zoom));
      button.textContent = this.state.zoom ? "Show all" : "Zoom to the upper part";
      this.draw();
    });
    return button;
  }

  search() {
    const input = element("input", { type: "search", "aria-label": "Highlight paths by a part of their names", placeholder: "highlight paths" });
    input.addEventListener("input", () => { this.state.query = input.value.trim(); this.draw(); });
    return element("span", { class: "search" }, input);
  }

  draw() {
    const { chart } = this;
    const drawn = DRAW[chart.kind](chart.data, Math.max(this.width, 240), this.state);
    for (const one of drawn) {
      for (const svg of one.tagName === "svg" ? [one] : one.querySelectorAll("svg")) {
        svg.setAttribute("role", "img");
        const panel = svg.parentElement?.matches(".panel") ? `${svg.parentElement.firstChild.textContent}. ` : "";
        svg.setAttribute("aria-label", `${panel}${chart.title}. ${chart.reading}`);
      }
    }
    this.place.replaceChildren(...drawn);
  }

  fit() {
    const width = Math.floor(this.place.clientWidth);
    if (width > 0 && width !== this.width) { this.width = width; this.draw(); }
  }
}
