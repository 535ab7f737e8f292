"use strict";
// Builds the page from its data. A page that is served asks for newer data and is built again.

const POLL_MS = 3000;

const built = {}; // the data of each section, as text

// A section is built again only if its data are new: what a user has open or types there stays.
function show(data) {
  const focused = document.activeElement ? document.activeElement.id : "";
  const several = data.runs.length > 1;
  const runs = data.runs.map(({ samples, ...run }) => run);
  const named = data.runs.map(({ name, samples }) => ({ name, samples }));
  const sections = {
    overview: [
      [runs, data.comparison],
      (section) =>
        section.replaceChildren(
          ...runs.flatMap((run) => overview(run, several)),
          comparison(data.comparison),
        ),
    ],
    charts: [data.charts, (section) => showCharts(section, data.charts)],
    images: [[named, data.thinned], (section) => showGallery(section, data, prepared(data))],
    dropped: [
      runs.map((run) => [run.dropped, run.more_dropped]),
      (section) =>
        fill(
          section,
          "Dropped",
          runs.flatMap((run) => dropped(run, several)),
        ),
    ],
    settings: [
      runs.map((run) => run.settings),
      (section) =>
        fill(
          section,
          "Settings",
          runs
            .filter((run) => run.settings)
            .map((run) =>
              el(
                "details",
                {},
                el("summary", {}, several ? run.name : "config.yaml"),
                el("pre", { tabindex: 0 }, run.settings),
              ),
            ),
        ),
    ],
  };
  for (const [id, [part, build]] of Object.entries(sections)) {
    const text = JSON.stringify(part);
    if (built[id] === text) continue;
    built[id] = text;
    build(document.getElementById(id));
  }
  head(data);
  const again =
    focused && !document.getElementById("zoom").open ? document.getElementById(focused) : null;
  if (again && again !== document.activeElement) again.focus({ preventScroll: true });
}

function fill(section, title, children) {
  section.replaceChildren(...(children.length ? [el("h2", {}, title), ...children] : []));
}

function head(data) {
  const links = [
    ["charts", "Charts"],
    ["images", "Images"],
    ["dropped", "Dropped"],
    ["settings", "Settings"],
  ]
    .filter(([id]) => document.getElementById(id).childElementCount)
    .map(([id, text]) => el("a", { href: `#${id}` }, text));
  document
    .getElementById("head")
    .replaceChildren(
      el(
        "div",
        {},
        el("h1", {}, data.title),
        ...data.runs.map((run) =>
          el("p", { class: "soft" }, (data.runs.length > 1 ? `${run.name}: ` : "") + progress(run)),
        ),
      ),
      el("nav", { "aria-label": "Parts of the page" }, links),
    );
}

function progress(run) {
  const all = run.planned || run.step;
  const planned = run.planned ? ` of ${run.planned}` : "";
  const time = run.step ? ` in ${run.duration}` : "";
  return `${run.step}${planned} training step${all === 1 ? "" : "s"}${time}`;
}

function overview(run, several) {
  const parts = several
    ? []
    : [
        el(
          "div",
          { class: "cards" },
          run.cards.length
            ? run.cards.map((set) => headline(set, run))
            : el("div", { class: "card" }, el("p", {}, "No evaluation on fixed prompts yet.")),
        ),
      ];
  if (run.alarms.length) {
    parts.push(
      el(
        "ul",
        { class: "alarms" },
        several ? el("li", {}, el("b", {}, run.name)) : null,
        run.alarms.map((alarm) =>
          el(
            "li",
            {},
            alarm.text + " ",
            el(
              "span",
              { class: "soft" },
              alarm.count === 1
                ? `– step ${alarm.first}`
                : `– ${alarm.count} times, steps ${alarm.first} to ${alarm.last}`,
            ),
          ),
        ),
        run.more_alarms
          ? el("li", { class: "soft" }, `and ${run.more_alarms} others: see metrics.jsonl`)
          : null,
      ),
    );
  } else if (run.step && !several) {
    parts.push(el("p", { class: "soft small quiet" }, "No alarms."));
  }
  if (!several && run.table.length)
    parts.push(el("h2", { id: "table" }, "Before and after"), table(run));
  return parts;
}

function headline(set, run) {
  const grade = set.errors >= 2 ? "good" : set.errors <= -2 && set.errors !== null ? "bad" : "";
  return el(
    "div",
    { class: "card" },
    el("p", { class: "soft" }, "Reward on fixed prompts: ", el("b", {}, set.label)),
    set.once
      ? el("p", { class: "values" }, el("b", {}, number(set.before)))
      : el(
          "p",
          { class: "values" },
          `${number(set.before)} `,
          el("span", { class: "soft" }, "→ "),
          el("b", {}, number(set.after)),
        ),
    set.once
      ? el(
          "p",
          { class: "difference" },
          `evaluated at step ${set.before_step} only: nothing to compare yet`,
        )
      : el(
          "p",
          { class: "difference" },
          el("b", { class: grade }, signed(set.difference)),
          ` ± ${number(set.error)}`,
          set.errors === null
            ? null
            : el("span", { class: "soft" }, ` (${number(set.errors, 1)} standard errors)`),
        ),
    el(
      "p",
      { class: "soft small" },
      `${set.prompts} prompts, ${set.samples} samples`,
      set.failed ? el("span", { class: "bad" }, `, ${set.failed} failed`) : null,
      set.once ? null : `; step ${set.before_step} → ${set.after_step}, paired by prompt`,
    ),
    set.after_step < run.step
      ? el(
          "p",
          { class: "bad small" },
          `No evaluation of the last step: training is at step ${run.step}.`,
        )
      : null,
  );
}

function table(run) {
  const section = (row, at) =>
    at && run.table[at - 1].section !== row.section
      ? [
          el(
            "tr",
            { class: "section" },
            el("th", { colspan: 1 + 3 * run.sets.length }, row.section),
          ),
        ]
      : [];
  return el(
    "div",
    { class: "scroll" },
    el(
      "table",
      { class: "numbers" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th"),
          run.sets.map((name) => el("th", { class: "start", colspan: 3 }, name)),
        ),
        el(
          "tr",
          {},
          el("th"),
          run.sets.flatMap(() => [
            el("th", { class: "start" }, "before"),
            el("th", {}, "after"),
            el("th", {}, "change"),
          ]),
        ),
      ),
      el(
        "tbody",
        {},
        run.table.flatMap((row, at) => [
          ...section(row, at),
          el(
            "tr",
            {},
            el("th", {}, row.name),
            row.changes.flatMap(([before, after, change]) => [
              el("td", { class: "start" }, number(before)),
              el("td", {}, number(after)),
              el("td", {}, signed(change)),
            ]),
          ),
        ]),
      ),
    ),
  );
}

function comparison(tables) {
  if (!tables.length) return el("div");
  return el(
    "div",
    {},
    el("h2", {}, "Reward on fixed prompts"),
    el(
      "div",
      { class: "tables" },
      tables.map((found) =>
        el(
          "div",
          { class: "scroll" },
          el("h3", {}, `${found.set}, step ${found.step}`),
          el(
            "table",
            { class: "numbers" },
            el(
              "thead",
              {},
              el(
                "tr",
                {},
                el("th"),
                el("th", {}, "reward"),
                el("th", {}, "samples"),
                el("th", {}, "against the first"),
              ),
            ),
            el(
              "tbody",
              {},
              found.rows.map((row) =>
                el(
                  "tr",
                  {},
                  el("th", {}, row.run),
                  el("td", {}, `${number(row.mean)} ± ${number(row.error)}`),
                  el("td", {}, String(row.samples)),
                  el(
                    "td",
                    {},
                    row.difference !== null
                      ? `${signed(row.difference)} ± ${number(row.difference_error)}`
                      : row.unlike || "–",
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
    el(
      "p",
      { class: "soft small" },
      "Plus and minus one standard error over prompts. The difference is paired by prompt.",
    ),
  );
}

function dropped(run, several) {
  if (!run.dropped.length) return [];
  return [
    several ? el("h3", {}, run.name) : null,
    el(
      "p",
      { class: "soft small" },
      "Groups of which too few trajectories were scored, or that lost their workers, and updates" +
        " that were skipped. A group that was sampled again has a line for each attempt.",
    ),
    el(
      "table",
      { class: "list" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", {}, "step"),
          el("th", {}, "what"),
          el("th", {}, "prompt"),
          el("th", {}, "reason"),
        ),
      ),
      el(
        "tbody",
        {},
        run.dropped.map((row) =>
          el(
            "tr",
            {},
            el("td", {}, String(row.step)),
            el("td", {}, row.what),
            el("td", {}, row.prompt),
            el("td", {}, row.reason),
          ),
        ),
      ),
    ),
    run.more_dropped
      ? el("p", { class: "soft small" }, `and ${run.more_dropped} before them: see dropped.jsonl`)
      : null,
  ].filter(Boolean);
}

// A page that is served

async function follow() {
  let tag = null;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      const answer = await fetch("data.json", tag ? { headers: { "If-None-Match": tag } } : {});
      document.body.classList.toggle("stale", answer.status !== 200 && answer.status !== 304);
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        show(await answer.json());
      }
    } catch {
      document.body.classList.add("stale"); // the server has ended; what was shown stays
    }
  }
}

// The focus leaves the dialog when what had it is replaced, so the whole page listens.
document.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && document.getElementById("zoom").open) {
    event.preventDefault();
    walkBy(by);
  }
});
show(JSON.parse(document.getElementById("data").textContent));
if (document.body.dataset.live === "true") follow();
