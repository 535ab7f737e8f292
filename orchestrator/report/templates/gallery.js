"use strict";
// The images: one view for each fixed set and one for the groups of training. What is chosen is
// kept here, and holds when the data of a page that is served change.

const view = {
  name: null,
  step: null, // the newest
  every: false,
  task: "",
  score: "total",
  least: "",
  most: "",
  shown: "all",
  sort: "order",
  map: "beside",
  pages: 1,
};
const BLOCKS = 24; // prompts or groups that show before "more" is asked for

// Each sample gets its run, its view, and its entropies as numbers from 0 to 1.
function prepared(data) {
  const samples = [];
  data.runs.forEach((run, place) =>
    run.samples.forEach((row, order) => {
      const sample = {
        ...row,
        run: place,
        order,
        view: row.fixed ? `fixed ${row.set}` : "training",
      };
      for (const name of ["cot", "image"]) {
        const packed = row.tokens ? row.tokens[name] : null;
        sample[name + "Map"] = packed
          ? { ...packed, levels: [...bytes(packed.entropy)].map((level) => level / 255) }
          : null;
      }
      samples.push(sample);
    }),
  );
  return samples;
}

function scoreOf(sample, name) {
  const value = name === "total" ? sample.total : sample.rewards[name];
  return value === undefined ? null : value;
}

function meanOf(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

// [label, what is sorted by, 1 for ascending or -1]
const SORTS = {
  order: ["as recorded", null, 1],
  best: ["score, highest first", (sample) => scoreOf(sample, view.score), -1],
  worst: ["score, lowest first", (sample) => scoreOf(sample, view.score), 1],
  imageHigh: [
    "image entropy, highest first",
    (sample) => sample.imageMap && sample.imageMap.mean,
    -1,
  ],
  imageLow: ["image entropy, lowest first", (sample) => sample.imageMap && sample.imageMap.mean, 1],
  cotHigh: ["CoT entropy, highest first", (sample) => sample.cotMap && sample.cotMap.mean, -1],
  cotLow: ["CoT entropy, lowest first", (sample) => sample.cotMap && sample.cotMap.mean, 1],
};

function sorted(list, valueOf) {
  const [, of, sign] = SORTS[view.sort];
  if (!of) return list;
  const keyed = list.map((item) => [valueOf(item, of), item]);
  keyed.sort(([a], [b]) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : sign * (a - b)));
  return keyed.map(([, item]) => item);
}

// The samples that are shown, and the controls. The controls stay when new samples come, because
// a user may have one of them in hand.
let gallery = null;

function showGallery(section, data, samples) {
  const names = [...new Set(samples.map((sample) => sample.view))];
  if (!names.length) {
    gallery = null;
    section.replaceChildren();
    return;
  }
  if (!names.includes(view.name)) {
    view.name = names[0];
    view.step = null;
  }
  gallery = { ...(gallery || builtGallery(section)), data, samples, names };
  gallery.note.textContent = data.thinned;
  gallery.note.hidden = !data.thinned;
  showView();
}

function builtGallery(section) {
  const changed = () => {
    view.pages = 1;
    showBlocks();
  };
  const select = (id, apply = changed) =>
    el("select", {
      id,
      onchange: (event) => {
        view[id] = event.target.value;
        apply();
      },
    });
  const bound = (id) =>
    el("input", {
      id,
      type: "number",
      step: "any",
      placeholder: "any",
      oninput: (event) => {
        view[id] = event.target.value;
        changed();
      },
    });
  const boxes = {
    name: select("name", () => {
      view.step = null;
      view.pages = 1;
      showView();
    }),
    task: select("task"),
    score: select("score"),
    least: bound("least"),
    most: bound("most"),
    shown: select("shown"),
    sort: select("sort"),
    map: select("map"),
    step: el("input", {
      id: "step",
      type: "range",
      min: 0,
      step: 1,
      oninput: (event) => {
        const at = Number(event.target.value);
        view.step = at === gallery.steps.length - 1 ? null : gallery.steps[at];
        showStep();
        changed();
      },
    }),
    every: el("input", {
      id: "every",
      type: "checkbox",
      onchange: (event) => {
        view.every = event.target.checked;
        showStep();
        changed();
      },
    }),
  };
  const output = el("output", { for: "step" });
  const controls = el(
    "div",
    { class: "controls", role: "group", "aria-label": "Choose images" },
    el("label", {}, "Show", boxes.name),
    el(
      "div",
      { class: "field slider" },
      el("label", { for: "step" }, "Training step "),
      output,
      boxes.step,
    ),
    el("label", { class: "inline" }, boxes.every, "all steps"),
    el("label", {}, "Task", boxes.task),
    el("label", {}, "Score", boxes.score),
    el("label", {}, "at least", boxes.least),
    el("label", {}, "at most", boxes.most),
    el("label", {}, "Samples", boxes.shown),
    el("label", {}, "Order", boxes.sort),
    el("label", {}, "Entropy map", boxes.map),
  );
  const note = el("p", { class: "soft small quiet" });
  const list = el("div");
  section.replaceChildren(el("h2", {}, "Images"), controls, key(), note, list);
  return { boxes, output, note, list, drawn: null };
}

// Fills the controls for the view that is chosen, and shows its samples.
function showView() {
  const found = gallery.samples.filter((sample) => sample.view === view.name);
  gallery.found = found;
  gallery.scales = { cot: range(found, "cotMap"), image: range(found, "imageMap") };
  gallery.steps = [...new Set(found.map((sample) => sample.step))].sort((a, b) => a - b);
  if (!gallery.steps.includes(view.step)) view.step = null;
  const rewards = [...new Set(found.flatMap((sample) => Object.keys(sample.rewards)))];
  const tasks = [...new Set(found.map((sample) => sample.task).filter(Boolean))].sort();
  const text = (name) =>
    name === "training" ? "groups of training" : name.replace(/^fixed /, "fixed prompts: ");
  offer(
    "name",
    gallery.names.map((name) => [name, text(name)]),
  );
  offer("task", [["", "all tasks"], ...tasks.map((task) => [task, task])]);
  offer("score", [["total", "total"], ...rewards.map((reward) => [reward, reward])]);
  offer("shown", [
    ["all", "all"],
    ["scored", "scored"],
    ["failed", "failed, with reason"],
  ]);
  offer(
    "sort",
    Object.entries(SORTS).map(([name, [label]]) => [name, label]),
  );
  offer("map", [
    ["beside", "beside the image"],
    ["over", "over the image"],
    ["off", "hidden"],
  ]);
  showStep();
  showBlocks();
}

// A box whose options are the same is left alone: it may be open.
function offer(id, options) {
  const box = gallery.boxes[id];
  const values = options.map(([value]) => value);
  if ([...box.options].map((option) => option.value).join("\n") !== values.join("\n"))
    box.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (!values.includes(view[id])) view[id] = values[0];
  if (box.value !== view[id]) box.value = view[id];
}

// The step that is shown. At the end of the slider it is the newest one, in a run that goes on too.
function shownStep() {
  return view.step === null ? gallery.steps[gallery.steps.length - 1] : view.step;
}

function showStep() {
  const { boxes, output, steps } = gallery,
    step = shownStep();
  boxes.step.max = steps.length - 1;
  boxes.step.value = steps.indexOf(step);
  boxes.step.disabled = view.every || steps.length < 2;
  boxes.step.setAttribute("aria-valuetext", `step ${step}`);
  output.textContent = `${step} (${steps.indexOf(step) + 1} of ${steps.length} recorded)`;
}

function key() {
  return el(
    "p",
    { class: "key small soft" },
    el("span", {}, el("i", { class: "ramp" }), "image token: entropy, black low and white high"),
    el("span", {}, el("i", { class: "heat" }), "CoT token: entropy"),
    el("span", {}, el("i", { class: "low" }), "low set: advantage 0"),
    el("span", {}, el("i", { class: "high" }), "high set: advantage and bonus"),
  );
}

function passes(sample) {
  const score = scoreOf(sample, view.score),
    failed = sample.total === null;
  if (view.task && sample.task !== view.task) return false;
  if (view.shown !== "all" && failed !== (view.shown === "failed")) return false;
  if (view.least !== "" && (score === null || score < Number(view.least))) return false;
  return view.most === "" || (score !== null && score <= Number(view.most));
}

// A block is a prompt of a fixed set, or a group of training. It has a row for each run and step.
function blocksOf(samples) {
  const blocks = new Map(),
    step = shownStep();
  const latest = new Map(); // the last recorded step of each run that is not after the chosen one
  for (const sample of samples) {
    if (sample.step <= step)
      latest.set(
        sample.run,
        Math.max(sample.step, latest.has(sample.run) ? latest.get(sample.run) : -1),
      );
  }
  for (const sample of samples) {
    const fixed = sample.fixed;
    if (!view.every && sample.step !== (fixed ? latest.get(sample.run) : step)) continue;
    if (!passes(sample)) continue;
    // Two runs with different prompt files may use one id for two prompts.
    const block = fixed
      ? `${sample.prompt_id} ${sample.prompt}`
      : `${sample.run} ${sample.step} ${sample.group}`;
    if (!blocks.has(block))
      blocks.set(block, { prompt: sample.prompt, task: sample.task, rows: new Map(), samples: [] });
    const found = blocks.get(block),
      row = `${sample.run} ${sample.step}`;
    if (!found.rows.has(row))
      found.rows.set(row, { run: sample.run, step: sample.step, samples: [] });
    found.rows.get(row).samples.push(sample);
    found.samples.push(sample);
  }
  return sorted([...blocks.values()], (block, of) => meanOf(block.samples.map(of)));
}

// Images that are drawn already stay: new samples of another view disturb nobody.
function showBlocks() {
  const { data, list, scales, found: samples } = gallery;
  const blocks = blocksOf(samples),
    several = data.runs.length > 1;
  const wanted = JSON.stringify([blocks.map((block) => block.samples), view, scales]);
  if (gallery.drawn === wanted) return;
  gallery.drawn = wanted;
  const walk = [];
  list.className = `map-${view.map} blocks ${samples[0].fixed && !several ? "" : "groups"}`;
  const shown = blocks.slice(0, BLOCKS * view.pages).map((block) => {
    const rows = [...block.rows.values()].sort((a, b) => a.step - b.step || a.run - b.run);
    const labelled = several || rows.length > 1 || !samples[0].fixed;
    return el(
      "article",
      { class: "block" },
      el("h3", {}, block.prompt),
      block.task ? el("span", { class: "chip" }, block.task) : null,
      el(
        "div",
        { class: several ? "sides" : "" },
        rows.map((row) => {
          const cards = sorted(row.samples, (sample, of) => of(sample)).map((sample) =>
            card(sample, walk, scales),
          );
          const mean = meanOf(row.samples.map((sample) => scoreOf(sample, view.score)));
          const run = several ? `${data.runs[row.run].name}, ` : "";
          const score = view.score === "total" ? "score" : view.score;
          const words = `${run}step ${row.step}, mean ${score} ${number(mean)}`;
          return el(
            "div",
            { class: "row" },
            labelled ? el("p", { class: "small soft runlabel" }, words) : null,
            el("div", { class: labelled ? "samples labelled" : "samples" }, cards),
          );
        }),
      ),
    );
  });
  if (!blocks.length) shown.push(el("p", { class: "empty" }, "No sample passes these filters."));
  if (blocks.length > shown.length) {
    shown.push(
      el(
        "button",
        {
          class: "plain more",
          onclick: () => {
            view.pages++;
            showBlocks();
          },
        },
        `show more: ${blocks.length - shown.length} others`,
      ),
    );
  }
  list.replaceChildren(...shown);
}

function card(sample, walk, scales) {
  const place = walk.push(sample) - 1;
  const words = `Image of step ${sample.step}, score ${number(sample.total)}: open it`;
  return el(
    "div",
    { class: sample.imageMap ? "sample" : "sample plain" },
    el(
      "button",
      {
        class: "views",
        "aria-label": words,
        onclick: () => zoom(walk, place, gallery.found, scales),
      },
      picture(sample),
      view.map === "off" ? null : map(sample, scales, 240, view.map === "over"),
    ),
    el(
      "p",
      { class: "caption" },
      sample.total === null
        ? el("b", { class: "bad" }, "failed")
        : el("b", {}, number(sample.total)),
      "advantage" in sample
        ? el(
            "span",
            { class: "soft" },
            sample.advantage === null
              ? "not trained on"
              : `advantage ${signed(sample.advantage, 2)}`,
          )
        : null,
    ),
    el(
      "dl",
      {},
      Object.entries(sample.rewards).flatMap(([name, value]) => [
        el("dt", { title: name }, name),
        el("dd", {}, worth(sample, name, value)),
      ]),
    ),
    Object.entries(sample.failures).map(([name, reason]) =>
      el("p", { class: "bad" }, `${name}: ${reason}`),
    ),
    cot(sample, scales),
  );
}

function worth(sample, name, value) {
  return (sample.not_applicable || []).includes(name) ? "not judged" : number(value);
}

function picture(sample) {
  return sample.source
    ? el("img", { src: sample.source, alt: "", class: sample.pixelated ? "pixels" : null })
    : el("div", { class: "missing" }, "no picture");
}
