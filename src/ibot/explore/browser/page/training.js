/* The view "training": the curves of a run, its verdicts and results; live while it trains. */
"use strict";

(() => {
  const { el } = ibot;
  const { nearest } = ibot.chartScale;
  const RUNNING = 5000, RESTING = 30000; // milliseconds between two questions
  const GONE = [404, 410];

  async function open(root, params, signal) {
    ibot.loading(root, 4);
    const page = { root, signal, told: null, charts: new Map(), timer: 0, built: false, gone: false };
    page.common = {
      domain: [0, 1], zoomed: false, cursor: null, unit: params.x || "images", factor: 1, marks: [],
      log: new Set((params.log || "").split(",").filter(Boolean)),
    };
    const told = { cursor: (x) => point(page, x), domain: (range) => zoom(page, range),
      xs: (chart) => [...new Set(chart.curve.series.flatMap(({ points }) => points.map(([x]) => x)))]
        .sort((a, b) => a - b),
      said: (chart) => ibot.announce(`${where(page)}: ${chart.said()}`) };
    page.common.gesture = ibot.chartGestures(page.common, told);
    signal.addEventListener("abort", () => clearTimeout(page.timer));
    document.addEventListener("visibilitychange", () => {
      clearTimeout(page.timer);
      if (!document.hidden) ask(page);
    }, { signal });
    await ask(page, true);
    const resized = new ResizeObserver(() => page.charts.forEach((chart) => chart.draw()));
    resized.observe(root);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  /* ---- asking ---- */

  async function ask(page, first = false) {
    let told = null, failure = null;
    try {
      told = await ibot.api.get("/api/training", null, { fresh: true });
    } catch (error) {
      failure = error;
    }
    if (page.signal.aborted) return;
    if (failure) answerMissing(page, failure, first);
    else if (told.state === "none" && page.told && page.told.curves.length) gone(page, told.why);
    else answer(page, told);
    again(page);
  }

  function again(page) {
    const running = page.told && page.told.state === "running" && !page.gone;
    // A page nobody looks at asks nothing; `visibilitychange` asks at once when it is seen again.
    if (ibot.state.exported || document.hidden) return;
    page.timer = setTimeout(() => ask(page), running ? RUNNING : RESTING);
  }

  function answerMissing(page, failure, first) {
    if (first && !page.told) throw failure;
    if (GONE.includes(failure.status)) gone(page, failure.message);
    else page.line.replaceChildren(`${failure.message} What was read last stays.`);
  }
  function gone(page, why) {
    page.gone = true;
    page.line.replaceChildren(el("strong", { class: "warned" }, "The run's folder is gone"),
      ` ${why ? `(${why.replace(/\.$/, "")})` : ""}; these are its numbers of `,
      clock(page.told.updated), ", when they were read last.");
  }

  function answer(page, told) {
    const same = page.told && JSON.stringify(page.told) === JSON.stringify(told);
    page.gone = false;
    if (same && page.built) return status(page);
    page.told = told;
    if (!told.curves.length) return nothing(page, told);
    if (!page.built) build(page);
    refresh(page);
  }

  function nothing(page, { state, why }) {
    page.built = false;
    page.charts.clear();
    if (state === "running")
      ibot.empty(page.root, "The training has begun; it has no numbers yet.",
        "The first come with its first line of the log. This page shows them by itself.");
    else ibot.empty(page.root, "There is no training to show.",
      why || "Start `ibot explore` on the folder of a run; weights alone do not tell how they were trained.");
  }

  /* ---- layout ---- */

  function build(page) {
    page.built = true;
    const { common } = page;
    page.line = el("p", { class: "training-line", role: "status" });
    page.reading = el("output", { class: "reading numbers" });
    page.units = el("fieldset", { class: "choice", "aria-label": "Horizontal axis" });
    page.reset = el("button", { class: "button", hidden: true, onclick: () => zoom(page, null) }, "Show all");
    page.verdicts = el("div", {});
    page.grid = el("div", { class: "charts" });
    page.results = el("div", {});
    page.settings = el("div", {});
    page.root.replaceChildren(page.line, page.verdicts,
      el("div", { class: "toolbar training-bar" }, page.units, page.reset, page.reading),
      page.grid, el("div", { class: "training-tables" }, page.results, page.settings));
    common.unit = unitsOf(page.told).some(({ id }) => id === common.unit) ? common.unit : "images";
  }

  /* How x may be read, as far as the run tells it. */
  function unitsOf({ batch, epoch_images: epoch }) {
    return [{ id: "images", name: "images seen", factor: 1 },
      ...(epoch ? [{ id: "epochs", name: "epochs", factor: epoch }] : []),
      ...(batch ? [{ id: "steps", name: "steps", factor: batch }] : [])];
  }

  function refresh(page) {
    const { told, common } = page, units = unitsOf(told);
    common.factor = units.find(({ id }) => id === common.unit).factor;
    common.marks = ibot.trainingTables.marks(told);
    if (!common.zoomed) common.domain = whole(told);
    page.units.replaceChildren(...units.map(({ id, name }) => el("label", {},
      el("input", { type: "radio", name: "x", value: id, checked: id === common.unit, onchange: () => {
        common.unit = id;
        refresh(page);
        ibot.go({ x: id === "images" ? null : id }, { quiet: true, replace: true });
      } }), el("span", {}, name))));
    status(page);
    part(page, "verdicts", ibot.trainingTables.verdicts(told, (x) => {
      point(page, x);
      page.grid.scrollIntoView({ block: "start" });
    }), told.verdicts);
    part(page, "results", ibot.trainingTables.results(told), told.results);
    part(page, "settings", ibot.trainingTables.settings(told), told.settings);
    curves(page);
    point(page, common.cursor);
  }

  /* Replace a part when what it shows has changed: what the reader selected stays selected. */
  function part(page, name, made, data) {
    const now = JSON.stringify([data, page.told.curves.length > 0]);
    if (page[name].shown === now) return;
    page[name].shown = now;
    page[name].replaceChildren(made);
  }

  /* Charts stay the elements they were, so that focus and pointer do. */
  function curves(page) {
    const wanted = page.told.curves.filter(({ series }) => series.some(({ points }) => points.length));
    for (const [id, chart] of page.charts)
      if (!wanted.some((curve) => curve.id === id)) {
        chart.box.remove();
        page.charts.delete(id);
      }
    wanted.forEach((curve, at) => {
      const known = page.charts.get(curve.id) || ibot.chart(curve, page.common);
      page.charts.set(curve.id, known);
      if (page.grid.children[at] !== known.box)
        page.grid.insertBefore(known.box, page.grid.children[at] || null);
      known.update(curve);
    });
  }

  /* ---- what all charts share ---- */

  function whole({ curves: all }) {
    const xs = all.flatMap(({ series }) => series.flatMap(({ points }) => points.map(([x]) => x)));
    const most = xs.reduce((a, b) => Math.max(a, b), 0);
    return [0, most || 1];
  }

  function zoom(page, range) {
    const { common } = page, [least, most] = whole(page.told);
    const [low, high] = range || [least, most];
    common.domain = [Math.max(low, least), Math.min(high, most)];
    common.zoomed = common.domain[0] > least || common.domain[1] < most;
    page.reset.hidden = !common.zoomed;
    page.charts.forEach((chart) => chart.draw());
    point(page, common.cursor);
  }

  function point(page, x) {
    page.common.cursor = x;
    page.charts.forEach((chart) => chart.point());
    page.reading.textContent = x === null
      ? "Point at a curve to read all; drag to enlarge." : where(page);
  }

  /* The cursor in every unit that is known, at the nearest line of the log. */
  function where({ told, common }) {
    const longest = told.curves.flatMap(({ series }) => series.map(({ points }) => points))
      .reduce((a, b) => (b.length > a.length ? b : a), []);
    const x = longest.length ? longest[nearest(longest, common.cursor)][0] : common.cursor;
    return unitsOf(told).map(({ id, factor }) =>
      id === "images" ? `${ibot.number(Math.round(x))} images`
        : id === "epochs" ? `epoch ${(x / factor).toFixed(2)}` : `step ${ibot.number(Math.round(x / factor))}`)
      .join(" · ");
  }

  const clock = (updated) => (updated || "").replace("T", " ") || "at an unknown time";

  function status(page) {
    const { told } = page, [, seen] = whole(told), total = told.total_images;
    const share = total ? ` of ${ibot.number(total)}` : "";
    const done = total ? el("progress", { max: total, value: seen, "aria-label": "Share of the training" }) : "";
    const text = {
      running: ["Training now", `${ibot.number(seen)}${share} images, followed live`],
      ended: ["This training has ended", `${ibot.number(seen)}${share} images`],
      none: ["No longer a run", "its numbers as far as they are there"],
    }[told.state] || ["", ""];
    page.line.replaceChildren(el("span", { class: `state-dot ${told.state}`, "aria-hidden": "true" }),
      el("strong", {}, text[0]), ` · ${text[1]} `, done, told.why ? ` · ${told.why}` : "",
      el("span", { class: "quiet" }, ` last written ${clock(told.updated)}`));
  }

  ibot.view("training", {
    title: "Training", open,
    keys: [
      { key: "← →", text: "on a curve: read values (Page Up, Page Down: in larger steps)" },
      { key: "+ - 0", text: "on a curve: enlarge around the cursor, show all" },
    ],
  });
})();
