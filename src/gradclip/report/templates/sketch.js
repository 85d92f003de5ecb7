// The charts at once, in plain lines: the library that lets them be pointed at and zoomed takes a second to wake up.
const { charts, dark } = JSON.parse(document.getElementById("data").textContent);
const night = matchMedia("(prefers-color-scheme: dark)");
const SPACE = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
const MARGIN = { left: 58, right: 8, top: 8, bottom: 42 };

function recoloured(value, colours) {
  if (typeof value === "string") return colours[value] ?? value;
  if (Array.isArray(value)) return value.map((one) => recoloured(one, colours));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, recoloured(one, colours)]));
}

function add(parent, name, attributes, text) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

// Where a value lies between two pixels; the range of a logarithmic axis is one of logarithms.
function scale(axis, from, to) {
  const [low, high] = axis.range;
  return (value) => from + (((axis.type === "log" ? Math.log10(value) : value) - low) / (high - low)) * (to - from);
}

function ticks(axis) {
  if (axis.tickvals) return axis.tickvals.map((value, place) => [value, axis.ticktext?.[place] ?? value.toLocaleString("en")]);
  const [low, high] = axis.range;
  const found = [];
  if (axis.type === "log") {
    const stride = Math.max(1, Math.ceil((high - low) / 8));
    for (let decade = Math.floor(low); decade <= high; decade += stride)
      for (const digit of axis.dtick === "D2" ? [1, 2, 5] : [1]) found.push(digit * 10 ** decade);
    return found.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high).map((value) => [value, value.toPrecision(1) * 1]);
  }
  const rough = (high - low) / 6, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((digit) => digit * unit >= rough) * unit;
  for (let count = Math.ceil(low / step); count * step <= high; count++) found.push(+(count * step).toPrecision(12));
  return found.map((value) => [value, value >= 1e4 ? `${+(value / 1000).toPrecision(6)}k` : value]);
}

function line(points, shape) {
  let path = "", before = null;
  for (const point of points) {
    if (point === null) { before = null; continue; }
    const [x, y] = point.map((pixel) => pixel.toFixed(1));
    if (before === null) path += `M${x},${y}`;
    else path += shape === "hvh" ? `H${((before + point[0]) / 2).toFixed(1)}V${y}H${x}` : `L${x},${y}`;
    before = point[0];
  }
  return path;
}

const MARKS = {
  circle: (r) => `m${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  x: (r) => `m${-r},${-r}l${2 * r},${2 * r}m0,${-2 * r}l${-2 * r},${2 * r}`,
  "triangle-up": (r) => `m0,${-r}l${r},${2 * r}h${-2 * r}z`,
};

function trace(svg, one, points, floor, gap) {
  const group = add(svg, "g", { opacity: one.opacity });
  const colour = one.line?.color ?? one.marker?.color;
  if (one.type === "bar") {
    const width = (points[1][0] - points[0][0]) * (1 - gap);
    for (const [x, y] of points) if (y < floor) add(group, "rect", { x: x - width / 2, y, width, height: floor - y, fill: one.marker.color });
  } else if (one.mode.includes("lines")) {
    const look = { fill: "none", stroke: colour, "stroke-width": one.line.width, "stroke-dasharray": one.line.dash };
    add(group, "path", { d: line(points, one.line.shape), ...look });
  } else {
    const symbol = one.marker.symbol ?? "circle", radius = (one.marker.size ?? 6) / 2;
    const d = points.filter(Boolean).map(([x, y]) => `M${x.toFixed(1)},${y.toFixed(1)}${MARKS[symbol](radius)}`).join("");
    add(group, "path", symbol === "x" ? { d, stroke: colour, "stroke-width": 2.5, fill: "none" } : { d, fill: colour });
  }
}

function sketch(place, { data, layout }, width) {
  place.replaceChildren();
  if (data[0].type === "heatmap") return;
  const right = width - MARGIN.right, floor = layout.height - MARGIN.bottom, { xaxis, yaxis } = layout;
  const svg = add(place, "svg", { width, height: layout.height, class: "sketch", "font-family": layout.font.family, "font-size": 12 });
  const across = scale(xaxis, MARGIN.left, right), up = scale(yaxis, floor, MARGIN.top);
  const muted = { fill: xaxis.tickfont.color };
  for (const [value, label] of ticks(yaxis)) {
    add(svg, "path", { d: `M${MARGIN.left},${up(value)}H${right}`, stroke: yaxis.gridcolor });
    add(svg, "text", { x: MARGIN.left - 6, y: up(value) + 4, "text-anchor": "end", ...muted }, label);
  }
  for (const [value, label] of ticks(xaxis)) {
    add(svg, "path", { d: `M${across(value)},${MARGIN.top}V${floor}`, stroke: xaxis.gridcolor });
    add(svg, "text", { x: across(value), y: floor + 16, "text-anchor": "middle", ...muted }, label);
  }
  add(svg, "text", { x: (MARGIN.left + right) / 2, y: layout.height - 6, "text-anchor": "middle", ...muted }, xaxis.title.text);
  add(svg, "text", { transform: `translate(14,${(MARGIN.top + floor) / 2})rotate(-90)`, "text-anchor": "middle", ...muted }, yaxis.title.text);
  const inside = add(svg, "svg", { x: 0, y: MARGIN.top, width: right, height: floor - MARGIN.top, overflow: "hidden", viewBox: `0 ${MARGIN.top} ${right} ${floor - MARGIN.top}` });
  for (const { x0, x1, line: edge, fillcolor, opacity } of layout.shapes ?? []) {
    if (x0 === x1) add(inside, "path", { d: `M${across(x0)},${MARGIN.top}V${floor}`, stroke: edge.color, "stroke-width": edge.width, "stroke-dasharray": edge.dash });
    else add(inside, "rect", { x: across(x0), y: MARGIN.top, width: across(x1) - across(x0), height: floor - MARGIN.top, fill: fillcolor, opacity });
  }
  for (const one of data) {
    const points = one.x.map((x, index) => (one.y[index] === null ? null : [across(x), up(one.y[index])]));
    trace(inside, one, points, floor, layout.bargap ?? 0);
  }
}

function sketchAll(colours, width) {
  for (const [id, chart] of Object.entries(charts)) {
    const place = document.getElementById(id);
    sketch(place, recoloured(chart, colours), width ?? place.clientWidth);
  }
}

sketchAll(night.matches ? dark : {});
performance.mark("drawn");
