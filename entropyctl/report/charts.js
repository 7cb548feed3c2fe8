"use strict";
// Figures: their colours by theme, their size by screen, and the keyboard.

const figures = island("figures");
const narrow = window.matchMedia("(max-width: 640px)");
const coarse = window.matchMedia("(pointer: coarse)");
const CONFIG = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" };

function role(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

/** The figure with roles replaced by the colours that they have in this theme. */
function themed(value, key = "") {
  if (typeof value === "string" && value.startsWith("@") && /color/.test(key)) {
    if (value !== "@sequence") return role(value.slice(1));
    return [1, 2, 3, 4, 5, 6].map((i) => [(i - 1) / 5, role(`seq${i}`)]);
  }
  if (Array.isArray(value)) return value.map((entry) => (typeof entry === "object" ? themed(entry, key) : entry));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, themed(entry, name)]));
}

function heightOf(layout) {
  return narrow.matches ? Math.round(layout.height * 0.88) : layout.height;
}

function laidOut(layout, data) {
  const [ink, muted, grid] = ["ink", "muted", "grid"].map(role);
  const clear = "rgba(0,0,0,0)";
  const small = narrow.matches;
  const found = {
    ...themed(layout),
    font: { family: getComputedStyle(document.body).fontFamily, size: small ? 12 : 13, color: ink },
    paper_bgcolor: clear,
    plot_bgcolor: clear,
    margin: { l: small ? 44 : 62, r: small ? 6 : 14, t: 10, b: 50 },
    height: heightOf(layout),
    hovermode: "closest",
    dragmode: coarse.matches ? false : "zoom",
    hoverlabel: { bgcolor: ink, bordercolor: ink, font: { color: role("surface"), size: 13 }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom", traceorder: "normal", font: { size: small ? 12 : 13 }, itemsizing: "constant" },
  };
  for (const trace of data) {
    const bar = trace.marker?.colorbar;
    if (bar) Object.assign(bar, { title: { ...bar.title, font: { size: 13 } }, tickfont: { size: 12 } });
  }
  for (const name of Object.keys(found).filter((key) => /^[xy]axis\d*$/.test(key))) {
    const own = found[name];
    found[name] = {
      gridcolor: grid, linecolor: grid, zerolinecolor: muted, zeroline: false, automargin: true,
      exponentformat: "power", tickfont: { color: muted }, nticks: small ? 6 : undefined,
      ...own,
      title: { ...own.title, standoff: small ? 6 : 12, font: { color: muted, size: small ? 12 : 13 } },
    };
  }
  return found;
}

/** Points that the keyboard can go to: places in the figure's traces. */
function places(figure) {
  return figure.data
    .map((trace, index) => ({ index, count: trace.hoverinfo === "skip" ? 0 : trace.x.length, trace }))
    .filter(({ count }) => count);
}

function atKeyboard(chart, figure) {
  const traces = places(figure);
  let series = 0;
  let point = -1;
  const show = () => {
    const { index, trace } = traces[series];
    const subplot = `${trace.xaxis || "x"}${trace.yaxis || "y"}`;
    Plotly.Fx.hover(chart, [{ curveNumber: index, pointNumber: point }], [subplot]);
    say(`${trace.name}: ${trace.x[point]}, ${trace.y[point]}`);
  };
  const moves = {
    ArrowRight: () => (point = Math.min(point + 1, traces[series].count - 1)),
    ArrowLeft: () => (point = Math.max(point - 1, 0)),
    ArrowDown: () => (series = (series + 1) % traces.length),
    ArrowUp: () => (series = (series + traces.length - 1) % traces.length),
    Home: () => (point = 0),
    End: () => (point = traces[series].count - 1),
  };
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") Plotly.Fx.unhover(chart);
    if (!(event.key in moves) || !traces.length) return;
    event.preventDefault();
    moves[event.key]();
    point = Math.max(0, Math.min(point, traces[series].count - 1));
    show();
  });
  chart.addEventListener("focus", () => chart.dataset.drawn || draw(chart));
  chart.addEventListener("blur", () => Plotly.Fx.unhover(chart));
}

/** The figure's numbers as a table, made when somebody asks for it. */
function numbersOf(figure, most = 400) {
  const title = (name) => figure.layout[name].title.text;
  const rows = places(figure).flatMap(({ trace }) =>
    trace.x.map((x, i) => [trace.name, x, trace.y[i]]).filter((row) => row[2] !== null),
  );
  const heads = ["", title("xaxis"), figure.layout.yaxis2 ? "value" : title("yaxis")];
  const cells = (tag, values) =>
    values.map((value, i) => element(tag, { text: value ?? "", className: i ? "" : "text" }));
  const body = rows.slice(0, most).map((row) => element("tr", {}, ...cells("td", row)));
  if (rows.length > most) body.push(element("tr", {}, element("td", { text: `… ${rows.length - most} more`, className: "text" })));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", heads))), element("tbody", {}, ...body));
  return element("div", { className: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" }, table);
}

function draw(chart) {
  const figure = figures[chart.dataset.figure];
  chart.dataset.drawn = "yes";
  chart.style.minHeight = "";
  const data = themed(figure.data);
  return Plotly.react(chart, data, laidOut(figure.layout, data), CONFIG);
}

/** Figures are drawn when they come near, so that the page opens at once; all of them before it is printed. */
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.dataset.drawn) draw(target);
    }
  },
  { rootMargin: "900px" },
);

const charts = [...document.querySelectorAll(".chart")];
for (const chart of charts) {
  const figure = figures[chart.dataset.figure];
  chart.style.minHeight = `${heightOf(figure.layout)}px`;
  atKeyboard(chart, figure);
  near.observe(chart);
  const details = chart.closest("section").querySelector("details.numbers");
  details.addEventListener("toggle", () => details.open && !details.querySelector("table") && details.append(numbersOf(figure)), { once: true });
}
const redraw = () => charts.filter((chart) => chart.dataset.drawn).forEach(draw);
document.addEventListener("themed", redraw);
narrow.addEventListener("change", redraw);
window.addEventListener("beforeprint", () => charts.forEach(draw));
