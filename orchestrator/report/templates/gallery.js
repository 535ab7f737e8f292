"use strict";
// The images: one view for each fixed set and one for the groups of training. The state lives
// outside of the page, so that a page that is served keeps it when new data come.

const view = {
  name: null,
  step: null,
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

function showGallery(section, data, samples) {
  const names = [...new Set(samples.map((sample) => sample.view))];
  if (!names.length) {
    section.replaceChildren();
    return;
  }
  if (!names.includes(view.name)) {
    view.name = names[0];
    view.step = null;
  }
  const list = el("div");
  const controls = el("div", { class: "controls", role: "group", "aria-label": "Choose images" });
  const note = el("p", { class: "soft small quiet" });
  section.replaceChildren(el("h2", {}, "Images"), controls, key(), note, list);
  let found = [],
    scales = {};
  const changed = () => {
    view.pages = 1;
    showBlocks(list, data, found, scales);
  };

  function select(id, label, options, apply = changed) {
    const box = el(
      "select",
      {
        id,
        onchange: () => {
          view[id] = box.value;
          apply();
        },
      },
      options.map(([value, text]) => el("option", { value }, text)),
    );
    if (!options.some(([value]) => value === view[id])) view[id] = options[0][0];
    box.value = view[id];
    return el("label", {}, label, box);
  }
  function bound(id, label) {
    const box = el("input", {
      id,
      type: "number",
      step: "any",
      placeholder: "any",
      oninput: () => {
        view[id] = box.value;
        changed();
      },
    });
    box.value = view[id];
    return el("label", {}, label, box);
  }
  function fillControls() {
    found = samples.filter((sample) => sample.view === view.name);
    scales = { cot: range(found, "cotMap"), image: range(found, "imageMap") };
    const at = [...new Set(found.map((sample) => sample.step))].sort((a, b) => a - b);
    const rewards = [...new Set(found.flatMap((sample) => Object.keys(sample.rewards)))];
    const tasks = [...new Set(found.map((sample) => sample.task).filter(Boolean))].sort();
    const text = (name) =>
      name === "training" ? "groups of training" : name.replace(/^fixed /, "fixed prompts: ");
    if (view.step === null || !at.includes(view.step)) view.step = at[at.length - 1];
    const output = el("output", { for: "step" });
    const slider = el("input", {
      id: "step",
      type: "range",
      min: 0,
      max: at.length - 1,
      step: 1,
      oninput: () => {
        view.step = at[slider.value];
        said();
        changed();
      },
    });
    slider.value = at.indexOf(view.step);
    const said = () => {
      output.textContent = `${view.step} (${at.indexOf(view.step) + 1} of ${at.length} recorded)`;
      slider.setAttribute("aria-valuetext", `step ${view.step}`);
    };
    said();
    slider.disabled = view.every || at.length < 2;
    const every = el("input", {
      id: "every",
      type: "checkbox",
      onchange: () => {
        view.every = every.checked;
        slider.disabled = view.every || at.length < 2;
        changed();
      },
    });
    every.checked = view.every;
    controls.replaceChildren(
      select(
        "name",
        "Show",
        names.map((name) => [name, text(name)]),
        () => {
          view.step = null;
          fillControls();
          changed();
        },
      ),
      el(
        "div",
        { class: "field slider" },
        el("label", { for: "step" }, "Training step "),
        output,
        slider,
      ),
      el("label", { class: "inline" }, every, "all steps"),
      select("task", "Task", [["", "all tasks"], ...tasks.map((task) => [task, task])]),
      select("score", "Score", [["total", "total"], ...rewards.map((reward) => [reward, reward])]),
      bound("least", "at least"),
      bound("most", "at most"),
      select("shown", "Samples", [
        ["all", "all"],
        ["scored", "scored"],
        ["failed", "failed, with reason"],
      ]),
      select(
        "sort",
        "Order",
        Object.entries(SORTS).map(([name, [label]]) => [name, label]),
      ),
      select("map", "Entropy map", [
        ["beside", "beside the image"],
        ["over", "over the image"],
        ["off", "hidden"],
      ]),
    );
  }
  fillControls();
  note.textContent = data.thinned;
  note.hidden = !data.thinned;
  showBlocks(list, data, found, scales);
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
  const blocks = new Map();
  const latest = new Map(); // the last recorded step of each run that is not after the chosen one
  for (const sample of samples) {
    if (sample.step <= view.step)
      latest.set(
        sample.run,
        Math.max(sample.step, latest.has(sample.run) ? latest.get(sample.run) : -1),
      );
  }
  for (const sample of samples) {
    const fixed = sample.fixed;
    if (!view.every && sample.step !== (fixed ? latest.get(sample.run) : view.step)) continue;
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

function showBlocks(list, data, samples, scales) {
  const blocks = blocksOf(samples),
    several = data.runs.length > 1;
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
            card(sample, walk, samples, scales),
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
            showBlocks(list, data, samples, scales);
          },
        },
        `show more: ${blocks.length - shown.length} others`,
      ),
    );
  }
  list.replaceChildren(...shown);
}

function card(sample, walk, samples, scales) {
  const place = walk.push(sample) - 1;
  const words = `Image of step ${sample.step}, score ${number(sample.total)}: open it`;
  return el(
    "div",
    { class: sample.imageMap ? "sample" : "sample plain" },
    el(
      "button",
      { class: "views", "aria-label": words, onclick: () => zoom(walk, place, samples, scales) },
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
