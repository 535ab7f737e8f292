"use strict";
// Charts as SVG. A chart shows its values at the step under the pointer, or at the one that the
// arrow keys have chosen. Text from a run is only ever put into text nodes.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8,
  DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const FEW = 20; // a line of at most so many points has a mark at each and is not smoothed
const MANY_ERRORS = 40; // more points get a band instead of error bars
const HEIGHTS = { line: 210, stack: 220 };
const MINUS = "\u2212";

function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", MINUS);
}

function signed(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return (value < 0 ? MINUS : "+") + Math.abs(value).toFixed(digits);
}

// A value of a chart: as many digits as its size asks for.
function reading(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace("-", MINUS);
  return number(value, size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 4);
}

function ticks(low, high, most, whole = false) {
  const rough = Math.max((high - low) / most, whole ? 1 : 0);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const width = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / width - 1e-9); at * width <= high + width * 1e-6; at++)
    found.push(at * width);
  return [found, Math.max(0, Math.min(8, -Math.floor(Math.log10(width) + 1e-9)))];
}

function smoothed(values) {
  const reach = Math.floor(values.length / 60) + 1;
  return values.map((value, place) => {
    if (value === null) return null;
    const known = values
      .slice(Math.max(0, place - reach), place + reach + 1)
      .filter((v) => v !== null);
    return known.reduce((sum, v) => sum + v, 0) / known.length;
  });
}

function colour(chart, line) {
  const several = new Set(chart.lines.map((other) => other.run)).size > 1;
  return `var(--c${(several ? line.run : line.part) % COLOURS})`;
}

function dash(chart, line) {
  const several = new Set(chart.lines.map((other) => other.run)).size > 1;
  return several ? DASHES[line.part % DASHES.length] : "";
}

function swatch(chart, line) {
  const drawn = { stroke: colour(chart, line), "stroke-width": chart.kind === "stack" ? 8 : 3 };
  return svg(
    "svg",
    { viewBox: "0 0 18 8", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 18, y1: 4, y2: 4, "stroke-dasharray": dash(chart, line), ...drawn }),
  );
}

let told = null; // the chart whose values show, and the step that they are of

// New charts show the values that the old ones showed.
function showCharts(section, charts) {
  const shown = told;
  const drawn = charts.map((chart, place) => (isFlat(chart) ? null : chartFigure(chart, place)));
  const flat = charts.filter(isFlat);
  const parts = [drawn.some(Boolean) ? el("div", { class: "charts" }, drawn) : null];
  parts.push(flat.length ? flatCharts(flat) : null);
  fill(section, "Over training steps", parts.filter(Boolean));
  told = shown;
}

// Whether each line has the same value at all steps. A line with one step is not known to be flat.
function isFlat(chart) {
  const flat = (line) => {
    const known = line.values.filter((value) => value !== null);
    return !line.errors && known.length > 1 && known.every((value) => value === known[0]);
  };
  return chart.kind === "line" && chart.lines.every(flat);
}

function flatCharts(charts) {
  const text = (value) => (Number.isInteger(value) ? number(value, 0) : reading(value));
  const row = (chart) => {
    const values = chart.lines.map((line) => text(line.values.find((value) => value !== null)));
    const one = values.every((value) => value === values[0]);
    const said = one ? values[0] : chart.lines.map((line, at) => `${line.label} ${values[at]}`);
    const parts = [el("td", {}, [said].flat().join(", ")), el("td", { class: "soft" }, chart.text)];
    return el("tr", {}, el("th", {}, chart.title), parts);
  };
  return el(
    "div",
    { class: "scroll" },
    el("h3", {}, "The same at every step"),
    el("table", { class: "flat" }, el("tbody", {}, charts.map(row))),
  );
}

// The figure of one chart. It is drawn again when its width changes.
function chartFigure(chart, place) {
  const height = HEIGHTS[chart.kind];
  const picture = svg("svg", { tabindex: 0, id: `chart-${place}`, role: "img", height });
  const legend =
    chart.lines.length > 1 || chart.kind === "stack"
      ? el(
          "ul",
          { class: "legend" },
          chart.lines.map((line) => el("li", {}, swatch(chart, line), line.label)),
        )
      : null;
  const tip = el("div", { class: "tip", role: "status", hidden: true });
  const figure = el(
    "figure",
    { class: chart.kind === "stack" ? "chart wide" : "chart" },
    el("figcaption", {}, el("b", {}, chart.title), el("span", { class: "soft small" }, chart.text)),
    legend,
    picture,
    tip,
  );
  picture.setAttribute("aria-label", `${chart.title}: ${chart.text}. Arrow keys show the values.`);
  const steps = [...new Set(chart.lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  let scale = null,
    width = 0,
    chosen = -1;

  function show(index) {
    chosen = Math.max(0, Math.min(steps.length - 1, index));
    told = { title: chart.title, step: steps[chosen] };
    showValues(chart, picture, tip, scale, steps[chosen]);
  }
  function nearest(step) {
    return steps.reduce(
      (best, other, at) => (Math.abs(other - step) < Math.abs(steps[best] - step) ? at : best),
      0,
    );
  }
  function hide() {
    if (!figure.isConnected) return; // new figures have taken its place
    told = null;
    tip.hidden = true;
    picture.querySelector(".pointer").replaceChildren();
  }
  picture.addEventListener("pointermove", (event) => {
    const step = scale.step(event.clientX - picture.getBoundingClientRect().left);
    show(nearest(step));
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const from = chosen < 0 ? steps.length : chosen;
    const to = { ArrowLeft: from - 1, ArrowRight: chosen + 1, Home: 0, End: steps.length - 1 }[
      event.key
    ];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
  new ResizeObserver(() => {
    if (Math.abs(figure.clientWidth - width) < 1) return;
    width = figure.clientWidth;
    tip.hidden = true;
    scale = draw(chart, picture, width);
    if (told && told.title === chart.title) show(nearest(told.step));
  }).observe(figure);
  return figure;
}

function draw(chart, picture, width) {
  const height = HEIGHTS[chart.kind],
    right = width - 8,
    bottom = height - 22,
    top = 8;
  const stacked = chart.kind === "stack" ? stack(chart) : null;
  const values = stacked
    ? stacked.flatMap((layer) => layer.map((bar) => bar.top)).concat(0)
    : chart.lines.flatMap((line) =>
        line.values.flatMap((value, at) => {
          const error = line.errors ? line.errors[at] || 0 : 0;
          return value === null ? [] : [value - error, value + error];
        }),
      );
  let low = Math.min(...values),
    high = Math.max(...values);
  // A flat line is shown with 0, or the axis would magnify rounding.
  if (low === high) [low, high] = low === 0 ? [0, 1] : low > 0 ? [0, 2 * low] : [2 * low, 0];
  const [marks, digits] = ticks(low, high, 5);
  const room = (high - low) * 0.05;
  if (!stacked) [low, high] = [low - room, high + room];
  else high += room;
  const label = (value) => value.toFixed(digits).replace("-", MINUS);
  const left = 14 + 6.4 * Math.max(...marks.map((mark) => label(mark).length));
  const steps = chart.lines.flatMap((line) => line.steps);
  let first = Math.min(...steps),
    last = Math.max(...steps);
  if (last - first < 2) [first, last] = [first - 1, last + 1];
  const margin = stacked ? 10 : 6;
  const x = (step) =>
    left + margin + ((step - first) / (last - first)) * (right - left - 2 * margin);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);

  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const drawn = [];
  for (const mark of marks) {
    drawn.push(
      svg("line", { class: "grid", x1: left, x2: right, y1: y(mark), y2: y(mark) }),
      svg("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, label(mark)),
    );
  }
  for (const mark of ticks(first, last, width < 420 ? 5 : 9, true)[0]) {
    drawn.push(svg("text", { x: x(mark), y: height - 6, "text-anchor": "middle" }, String(mark)));
  }
  if (stacked) {
    const each = Math.max(1, Math.min(14, ((right - left) / stacked[0].length) * 0.9));
    chart.lines.forEach((line, at) =>
      drawn.push(
        svg("path", {
          fill: colour(chart, line),
          d: stacked[at]
            .map(
              (bar) => `M${x(bar.step) - each / 2},${y(bar.top)}h${each}V${y(bar.base)}h${-each}z`,
            )
            .join(""),
        }),
      ),
    );
  } else {
    for (const line of chart.lines) drawn.push(...drawLine(chart, line, x, y));
  }
  picture.replaceChildren(...drawn, svg("g", { class: "pointer" }));
  return {
    x,
    y,
    top,
    bottom,
    step: (at) => first + ((at - left - margin) / (right - left - 2 * margin)) * (last - first),
  };
}

function stack(chart) {
  const base = chart.lines[0].steps.map(() => 0);
  return chart.lines.map((line) =>
    line.steps.map((step, at) => {
      const bar = { step, base: base[at], top: base[at] + (line.values[at] || 0) };
      base[at] = bar.top;
      return bar;
    }),
  );
}

function drawLine(chart, line, x, y) {
  const stroke = colour(chart, line),
    known = line.values.filter((value) => value !== null).length;
  const style = { stroke, fill: "none", "stroke-dasharray": dash(chart, line) };
  const drawn = [];
  if (line.errors && known > MANY_ERRORS) {
    drawn.push(svg("path", { fill: stroke, opacity: 0.18, d: band(line, x, y) }));
  } else if (line.errors) {
    line.values.forEach((value, at) => {
      const error = line.errors[at];
      if (value === null || !error) return;
      drawn.push(
        svg("path", {
          stroke,
          opacity: 0.55,
          d: `M${x(line.steps[at])},${y(value - error)}V${y(value + error)}`,
        }),
      );
    });
  }
  const path = (values) => {
    let pen = "M";
    return values
      .map((value, at) => {
        if (value === null) {
          pen = "M";
          return "";
        }
        const point = `${pen}${x(line.steps[at]).toFixed(1)},${y(value).toFixed(1)}`;
        pen = "L";
        return point;
      })
      .join("");
  };
  if (known > FEW && !line.errors && !isMonotone(line.values)) {
    drawn.push(
      svg("path", { ...style, "stroke-width": 1, opacity: 0.3, d: path(line.values) }),
      svg("path", { ...style, "stroke-width": 1.8, d: path(smoothed(line.values)) }),
    );
    return drawn;
  }
  drawn.push(svg("path", { ...style, "stroke-width": 1.6, d: path(line.values) }));
  if (known <= FEW) {
    line.values.forEach((value, at) => {
      if (value !== null)
        drawn.push(svg("circle", { cx: x(line.steps[at]), cy: y(value), r: 2.6, fill: stroke }));
    });
  }
  return drawn;
}

// A line that only rises or only falls has no noise to smooth: a learning rate that warms up.
function isMonotone(values) {
  const known = values.filter((value) => value !== null);
  const changes = known.slice(1).map((value, at) => value - known[at]);
  return changes.every((change) => change >= 0) || changes.every((change) => change <= 0);
}

function band(line, x, y) {
  const upper = [],
    lower = [];
  line.values.forEach((value, at) => {
    if (value === null) return;
    const error = line.errors[at] || 0;
    upper.push(`${x(line.steps[at])},${y(value + error)}`);
    lower.unshift(`${x(line.steps[at])},${y(value - error)}`);
  });
  return `M${[...upper, ...lower].join("L")}z`;
}

// The values at one step, beside a rule at that step. A line whose nearest point is further away
// than it reaches is left out.
function showValues(chart, picture, tip, scale, step) {
  const rows = [],
    dots = [];
  let total = 0;
  for (const line of chart.lines) {
    const away = line.steps.map((other) => Math.abs(other - step));
    const at = away.indexOf(Math.min(...away));
    if (away[at] > line.reach) continue;
    const value = line.values[at],
      error = line.errors ? line.errors[at] : null;
    total += value || 0;
    const text = error ? `${reading(value)} ± ${reading(error)}` : reading(value);
    rows.push(el("tr", {}, el("th", {}, swatch(chart, line), line.label), el("td", {}, text)));
    if (chart.kind !== "stack" && value !== null) {
      dots.push(
        svg("circle", {
          cx: scale.x(line.steps[at]),
          cy: scale.y(value),
          r: 4,
          fill: colour(chart, line),
        }),
      );
    }
  }
  if (chart.kind === "stack")
    rows.push(el("tr", {}, el("th", {}, "sum"), el("td", {}, reading(total))));
  picture.querySelector(".pointer").replaceChildren(
    svg("line", {
      class: "rule",
      x1: scale.x(step),
      x2: scale.x(step),
      y1: scale.top,
      y2: scale.bottom,
    }),
    ...dots,
  );
  tip.replaceChildren(
    el("b", {}, `step ${Number.isInteger(step) ? step : step.toFixed(1)}`),
    el("table", {}, ...rows),
  );
  tip.hidden = false;
  const at = scale.x(step),
    wide = picture.clientWidth;
  const beside = at + 14 + tip.offsetWidth > wide ? at - 14 - tip.offsetWidth : at + 14;
  tip.style.left = `${Math.max(0, Math.min(beside, wide - tip.offsetWidth))}px`;
  const above = picture.getBoundingClientRect().top - tip.parentNode.getBoundingClientRect().top;
  tip.style.top = `${above + scale.top}px`;
}
