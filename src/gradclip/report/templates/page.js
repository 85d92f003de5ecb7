const touch = matchMedia("(pointer: coarse)").matches;
const said = document.getElementById("said");

function draw(id, colours, width) {
  const { data, layout } = recoloured(charts[id], colours);
  const place = document.getElementById(id);
  place.querySelector(".sketch")?.remove();
  // On a touch screen a finger on a chart scrolls the page.
  if (touch) layout.dragmode = false;
  if (width) layout.width = width;
  Plotly.react(id, data, layout, { responsive: true, displayModeBar: false });
}

function paint(colours, width) {
  if (window.Plotly) for (const id of Object.keys(charts)) draw(id, colours, width);
  else sketchAll(colours, width);
}

const colours = () => (night.matches ? dark : {});
night.addEventListener("change", () => paint(colours()));
// Paper is light, and narrower than a screen: A4 or Letter within their margins.
addEventListener("beforeprint", () => paint({}, 660));
addEventListener("afterprint", () => paint(colours()));

// By keyboard: arrows walk from point to point of a chart, up and down from line to line, and what is there is said.
function walk(chart, key) {
  const lines = chart.data.map((one) => one.x.length * (one.type === "heatmap" ? one.y?.length ?? one.z.length : 1));
  const at = chart.walked ?? { line: 0, point: -1 };
  const far = Math.max(1, Math.round(lines[at.line] / 20));
  const moves = { ArrowRight: 1, ArrowLeft: -1, PageDown: far, PageUp: -far, Home: -Infinity, End: Infinity };
  if (key === "ArrowUp" || key === "ArrowDown") {
    const step = chart.data[at.line].x[Math.max(at.point, 0)];
    at.line = (at.line + (key === "ArrowDown" ? 1 : lines.length - 1)) % lines.length;
    at.point = nearest(chart.data[at.line].x, step);
  } else at.point = Math.min(Math.max(at.point + moves[key], 0), lines[at.line] - 1);
  chart.walked = at;
  show(chart, at);
}

function nearest(values, wanted) {
  return values.reduce((best, value, place) => (Math.abs(value - wanted) < Math.abs(values[best] - wanted) ? place : best), 0);
}

function show(chart, { line, point }) {
  const one = chart.data[line];
  const row = one.type === "heatmap" ? Math.floor(point / one.x.length) : 0, column = point % one.x.length;
  const pointNumber = one.type === "heatmap" ? [row, column] : point;
  const label = one.type === "heatmap" ? one.customdata[row][column] : one.customdata[point];
  const value = one.hovertemplate.replace("%{x}", one.x[column]).replace("%{fullData.name}", one.name);
  said.textContent = value.replace("%{customdata}", label).replace("<extra></extra>", "").replaceAll("<br>", ", ");
  Plotly.Fx.hover(chart, [{ curveNumber: line, pointNumber }]);
}

const KEYS = ["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];

function byKeyboard(chart) {
  chart.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !window.Plotly) return;
    if (KEYS.includes(event.key)) walk(chart, event.key);
    else if (event.key === "Escape") Plotly.Fx.unhover(chart);
    else if (event.key === "+" || event.key === "=" || event.key === "-") zoom(chart, event.key === "-" ? 2 : 0.5);
    else if (event.key === "0") Plotly.relayout(chart, { "xaxis.range": charts[chart.id].layout.xaxis.range, "xaxis.autorange": !charts[chart.id].layout.xaxis.range });
    else return;
    event.preventDefault();
  });
  chart.addEventListener("blur", () => window.Plotly && chart.data && Plotly.Fx.unhover(chart));
}

// Around the point that was walked to last, or the middle.
function zoom(chart, factor) {
  const [low, high] = chart.layout.xaxis.range, at = chart.walked;
  const middle = at ? chart.data[at.line].x[at.point % chart.data[at.line].x.length] : (low + high) / 2;
  Plotly.relayout(chart, { "xaxis.range": [middle - ((high - low) * factor) / 2, middle + ((high - low) * factor) / 2] });
}

for (const id of Object.keys(charts)) byKeyboard(document.getElementById(id));

// The library is read when the page is seen, beside it, and draws one chart at a time.
async function wake() {
  const library = new Blob([document.getElementById("library").textContent], { type: "text/javascript" });
  const script = document.createElement("script");
  script.src = URL.createObjectURL(library);
  await new Promise((done) => { script.onload = done; document.head.append(script); });
  URL.revokeObjectURL(script.src);
  for (const id of Object.keys(charts)) {
    draw(id, colours());
    await new Promise((done) => setTimeout(done));
  }
  performance.mark("awake");
}
requestAnimationFrame(() => setTimeout(wake));
