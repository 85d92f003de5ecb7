const { charts, dark } = JSON.parse(document.getElementById("data").textContent);
const night = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;

function recoloured(value, colours) {
  if (typeof value === "string") return colours[value] ?? value;
  if (Array.isArray(value)) return value.map((one) => recoloured(one, colours));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, recoloured(one, colours)]));
}

function draw(colours, width) {
  for (const [id, chart] of Object.entries(charts)) {
    const { data, layout } = recoloured(chart, colours);
    // On a touch screen a finger on a chart scrolls the page.
    if (touch) layout.dragmode = false;
    if (width) layout.width = width;
    Plotly.react(id, data, layout, { responsive: true, displayModeBar: false });
  }
}

const paint = () => draw(night.matches ? dark : {});
paint();
night.addEventListener("change", paint);
// Paper is light, and narrower than a screen: A4 or Letter within their margins.
addEventListener("beforeprint", () => draw({}, 660));
addEventListener("afterprint", paint);
