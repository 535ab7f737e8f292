"use strict";
// The dialog that shows one image large, with all that is known of it.

let zoomed = null; // the samples that the dialog walks through, and the place in them

function zoom(walk, place, samples, scales) {
  const dialog = document.getElementById("zoom");
  zoomed = { walk, samples, scales, place };
  fillZoom();
  if (!dialog.open) dialog.showModal();
  dialog.querySelector("#next").focus();
}

function walkBy(by) {
  zoomed.place = (zoomed.place + by + zoomed.walk.length) % zoomed.walk.length;
  fillZoom();
}

function fillZoom() {
  const { walk, place, samples, scales } = zoomed,
    sample = walk[place],
    dialog = document.getElementById("zoom");
  const focused =
    document.activeElement && dialog.contains(document.activeElement)
      ? document.activeElement.id
      : "";
  const facts = [
    ["step", String(sample.step)],
    ["task", sample.task || "–"],
    ["seed", sample.seed || "–"],
    ["total", sample.total === null ? "failed" : number(sample.total)],
    ...("advantage" in sample
      ? [
          [
            "advantage",
            sample.advantage === null ? "none: not trained on" : signed(sample.advantage),
          ],
        ]
      : []),
    ...Object.entries(sample.rewards).map(([name, value]) => [name, worth(sample, name, value)]),
    ...Object.entries(sample.failures).map(([name, reason]) => [`${name} failed`, reason]),
    ...["cot", "image"]
      .filter((name) => sample[name + "Map"])
      .map((name) => [
        `${name === "cot" ? "CoT" : "image"} entropy`,
        `mean ${number(sample[name + "Map"].mean)} of ${sample[name + "Map"].levels.length} tokens`,
      ]),
  ];
  const views = el("div", { class: "views" }, picture(sample), map(sample, scales, 480, false));
  document.getElementById("zoomed").replaceChildren(
    el(
      "div",
      { class: "bar" },
      el("h3", {}, sample.prompt),
      el(
        "div",
        { class: "buttons" },
        el(
          "button",
          {
            class: "plain",
            id: "previous",
            onclick: () => walkBy(-1),
            "aria-label": "previous image",
          },
          "←",
        ),
        el(
          "button",
          { class: "plain", id: "next", onclick: () => walkBy(1), "aria-label": "next image" },
          "→",
        ),
        el("button", { class: "plain", id: "close", onclick: () => dialog.close() }, "close"),
      ),
    ),
    el(
      "p",
      { class: "small soft" },
      `${place + 1} of ${walk.length}; the arrow keys show the others`,
    ),
    el(
      "div",
      { class: "columns" },
      el("div", { class: "seen" }, views, over(sample, samples)),
      el(
        "div",
        { class: "facts" },
        el(
          "dl",
          {},
          facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
        ),
      ),
    ),
    cot(sample, scales),
  );
  const again = focused ? document.getElementById(focused) : null;
  if (again) again.focus();
}

// The same sample of a fixed set at every recorded step.
function over(sample, samples) {
  const same = samples.filter(
    (other) =>
      sample.fixed &&
      other.run === sample.run &&
      other.prompt_id === sample.prompt_id &&
      other.index === sample.index,
  );
  if (same.length < 2) return null;
  return el(
    "div",
    { class: "strip" },
    same.map((other) =>
      el(
        "button",
        {
          id: `of-step-${other.step}`,
          "aria-current": other.step === sample.step ? "true" : "false",
          onclick: () => {
            zoomed.walk = same;
            zoomed.place = same.indexOf(other);
            fillZoom();
          },
        },
        picture(other),
        `step ${other.step}`,
      ),
    ),
  );
}
