"use strict";
// The entropies of tokens: the map of an image, and the shades of a CoT.

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// The range of entropies that the shades of a view run through: all but the outermost 2%.
function range(samples, name) {
  const levels = samples
    .flatMap((sample) => (sample[name] ? sample[name].levels : []))
    .sort((a, b) => a - b);
  if (!levels.length) return [0, 1];
  const at = (share) => levels[Math.round(share * (levels.length - 1))];
  const [low, high] = [at(0.02), at(0.98)];
  return high > low ? [low, high] : [0, 1];
}

const LETTERS = { l: "low set", h: "high set", "-": "neither set" };

function described(packed, at) {
  return `h ${number(packed.levels[at], 2)}, ${LETTERS[packed.sets[at]]}`;
}

// The map of an image's tokens: a grid of their entropies, with the outlines of both sets. It has
// about as many pixels on a side as `side` says.
function map(sample, scales, side, over) {
  const packed = sample.imageMap;
  if (!packed) return null;
  const columns = Math.round(Math.sqrt(packed.levels.length)),
    rows = Math.ceil(packed.levels.length / columns);
  const cell = Math.max(4, Math.floor(side / columns));
  const canvas = el("canvas", {
    width: cell * columns,
    height: cell * rows,
    role: "img",
    "aria-label": `token entropies, mean ${number(packed.mean)}`,
  });
  const paint = (image) =>
    paintMap(canvas, packed, columns, cell, scales.image, image, sample.pixelated);
  if (over && sample.source) {
    const image = new Image();
    image.onload = () => paint(image);
    image.src = sample.source;
  } else {
    paint(null);
  }
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns),
      row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const at = row * columns + column;
    if (at < 0 || at >= packed.levels.length) return;
    hint(event, `row ${row + 1}, column ${column + 1}: ${described(packed, at)}`);
  });
  canvas.addEventListener("pointerleave", () => {
    document.getElementById("hint").hidden = true;
  });
  return canvas;
}

function paintMap(canvas, packed, columns, cell, [low, high], image, pixelated) {
  const pen = canvas.getContext("2d"),
    style = getComputedStyle(document.documentElement);
  pen.globalCompositeOperation = "source-over";
  if (image) {
    pen.imageSmoothingEnabled = !pixelated;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    pen.globalCompositeOperation = "multiply";
  }
  packed.levels.forEach((level, at) => {
    const shade = Math.max(0, Math.min(1, (level - low) / (high - low)));
    const grey = Math.round(image ? 70 + 185 * shade : 20 + 225 * shade);
    pen.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
    pen.fillRect((at % columns) * cell, Math.floor(at / columns) * cell, cell, cell);
  });
  pen.globalCompositeOperation = "source-over";
  for (const [letter, name] of [
    ["l", "--low"],
    ["h", "--high"],
  ]) {
    pen.strokeStyle = style.getPropertyValue(name);
    pen.lineWidth = Math.max(2, cell / 9);
    pen.beginPath();
    [...packed.sets].forEach((set, at) => {
      if (set === letter) outline(pen, packed.sets, letter, at, columns, cell);
    });
    pen.stroke();
  }
}

// The sides of a cell whose neighbour is in another set, drawn just inside of the cell.
function outline(pen, sets, letter, at, columns, cell) {
  const column = at % columns,
    inset = pen.lineWidth / 2;
  const [left, top] = [column * cell + inset, Math.floor(at / columns) * cell + inset];
  const [right, bottom] = [left + cell - 2 * inset, top + cell - 2 * inset];
  const sides = [
    [at - columns, true, left, top, right, top],
    [at + columns, true, left, bottom, right, bottom],
    [at - 1, column > 0, left, top, left, bottom],
    [at + 1, column < columns - 1, right, top, right, bottom],
  ];
  for (const [other, inside, x1, y1, x2, y2] of sides) {
    if (inside && sets[other] === letter) continue;
    pen.moveTo(x1 - (x1 === x2 ? 0 : inset), y1 - (y1 === y2 ? 0 : inset));
    pen.lineTo(x2 + (x1 === x2 ? 0 : inset), y2 + (y1 === y2 ? 0 : inset));
  }
}

function hint(event, text) {
  const box = document.getElementById("hint");
  box.textContent = text;
  const dialog = document.getElementById("zoom");
  const parent = dialog.open ? dialog : document.body;
  if (box.parentNode !== parent) parent.append(box); // a dialog covers what is outside of it
  box.hidden = false;
  const furthest = document.documentElement.clientWidth - box.offsetWidth - 4;
  box.style.left = `${Math.max(4, Math.min(event.clientX + 12, furthest))}px`;
  box.style.top = `${event.clientY + 16}px`;
}

function cot(sample, scales) {
  const packed = sample.cotMap;
  if (!packed) return el("p", { class: "cot" }, sample.cot);
  const [low, high] = scales.cot;
  return el(
    "p",
    { class: "cot" },
    packed.pieces.map((piece, at) => {
      const last = at === packed.pieces.length - 1 && piece === "";
      if (piece === "" && !last) return null;
      const set = packed.sets[at];
      const token = el(
        "span",
        {
          class: set === "-" ? null : set,
          title: described(packed, at) + (last ? ", end of the CoT" : ""),
        },
        last ? " ⏎" : piece,
      );
      const shade = Math.max(0, Math.min(1, (packed.levels[at] - low) / (high - low)));
      token.style.backgroundColor = `rgba(var(--heat), ${(0.6 * shade).toFixed(2)})`;
      return token;
    }),
  );
}
