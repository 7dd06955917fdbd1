/* What a training says in words and numbers: verdicts, results, settings. */
"use strict";

(() => {
  const { el } = ibot;
  const { written } = ibot.chartScale;

  /* Marks of the verdicts on the axis: their numbers are those of the list. */
  function marks(told) {
    return told.verdicts.map((verdict, at) => ({
      x: verdict.images_seen ?? verdict.step * (told.batch || 1), number: at + 1,
      text: `${verdict.kind}: ${verdict.evidence}`,
    }));
  }

  function verdicts(told, point) {
    if (!told.verdicts.length)
      return told.curves.length
        ? el("p", { class: "healthy" }, "✓ Nothing in the health log speaks against this training.") : "";
    return el("section", { class: "verdicts", "aria-label": "Verdicts" },
      el("h2", {}, "What the health log says"),
      el("ol", {}, marks(told).map(({ x, number }) => {
        const { step, kind, evidence, advice } = told.verdicts[number - 1];
        return el("li", {},
          el("span", { class: "verdict-number", "aria-hidden": "true" }, number),
          el("div", {}, el("strong", {}, kind),
            el("button", { class: "button quiet small", title: "Show in the curves", onclick: () => point(x) },
              `step ${ibot.number(step)}`),
            el("p", {}, ...ibot.prose(evidence)), advice ? el("p", { class: "quiet" }, ...ibot.prose(advice)) : ""));
      })));
  }

  const table = (head, rows, numbers) => el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((text, at) =>
      el("th", { scope: "col", class: numbers.includes(at) ? "number" : "" }, text)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((text, at) => at === 0
      ? el("th", { scope: "row" }, text)
      : el("td", { class: numbers.includes(at) ? "number" : "" }, text)))))));

  function results(told) {
    const rows = told.results.map(({ name, value, low, high, when }) => [name, written(value),
      Number.isFinite(low) && Number.isFinite(high) ? `${written(low)} to ${written(high)}` : "–",
      (when || "").replace("T", " ")]);
    return el("section", { class: "results" }, el("h2", {}, "Results"), rows.length
      ? table(["", "value", "95 % interval", "measured"], rows, [1, 2])
      : el("p", { class: "quiet" }, ...ibot.prose(
        "None yet. `ibot eval knn RUN --data DIR` measures what the features are worth.")));
  }

  function settings(told) {
    return el("section", { class: "settings" }, el("h2", {}, "Settings that differ from the recipe"),
      told.settings.length
        ? table(["setting", "this run", "recipe"],
          told.settings.map(([key, value, usual]) => [key, value, usual || "–"]), [])
        : el("p", { class: "quiet" }, "None."));
  }

  ibot.trainingTables = { marks, verdicts, results, settings };
})();
