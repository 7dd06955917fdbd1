/* Beside an image: its words, or what is known about one of its patches; and all images. */
"use strict";

(() => {
  const { el, api, number, percent, plural } = ibot;

  /* ---- without a patch: what words the image is made of ---- */

  function counted(words) {
    const at = new Map();
    words.forEach((word, i) => at.set(word, [...(at.get(word) || []), i]));
    return [...at].sort(([, a], [, b]) => b.length - a.length);
  }

  function overview(panel, image, stage, pick) {
    const hint = el("p", { class: "quiet" }, "Point at a patch to see its word, click it to see where " +
      "else it occurs. Arrow keys and Enter do the same.");
    if (!image.words)
      return panel.replaceChildren(el("h2", {}, "Patches"), hint, el("p", { class: "quiet" },
        "There are no words here: a click shows similar patches only."));
    const words = counted(image.words);
    const chip = ([word, at]) => {
      const outline = (yes) => () => stage.mark({ same: yes ? at : [] });
      return el("button", { class: "chip numbers", title: `Word ${word}`, onclick: () => pick(at[0]),
        onpointerenter: outline(true), onpointerleave: outline(false),
        onfocus: outline(true), onblur: outline(false) },
      ibot.swatch(word), `${word}`, el("span", { class: "quiet" }, `× ${at.length}`));
    };
    const sure = image.confidence.reduce((sum, x) => sum + x, 0) / image.confidence.length;
    panel.replaceChildren(
      el("h2", {}, `${plural(words.length, "word")} on ${plural(image.words.length, "patch", "patches")}`),
      hint,
      ibot.facts([["Mean confidence", percent(sure)],
        ["Most frequent word", `${percent(words[0][1].length / image.words.length)} of the patches`]]),
      el("div", { class: "chips" }, words.map(chip)));
  }

  /* ---- with a patch ---- */

  function tiles(title, note, found, line) {
    if (!found || !found.length) return "";
    const grid = el("div", { class: "tiles small" },
      found.map((place) => ibot.patchTile(place, line(place))));
    ibot.arrows(grid);
    return el("section", {}, el("h3", {}, title), note && el("p", { class: "quiet" }, note), grid);
  }

  function patch(panel, image, at, found, unpick) {
    const [h, w] = image.grid;
    const { word, score, confidence, here, uses, images, elsewhere, similar } = found;
    const known = word !== null && word !== undefined;
    const where = `Row ${Math.floor(at / w) + 1} of ${h}, column ${(at % w) + 1} of ${w}`;
    panel.replaceChildren(
      el("div", { class: "panel-head" },
        known ? el("h2", {}, ibot.swatch(word), ibot.wordLink(word)) : el("h2", {}, where),
        el("span", { class: "quiet numbers" }, known ? where : ""),
        el("button", { class: "button icon quiet", "aria-label": "Let go of the patch",
          title: "Let go of the patch (Esc)", onclick: unpick }, "✕")),
      known ? el("div", { class: "panel-word" },
        uses && api.has(`/api/word/${word}`)
          ? el("a", { href: ibot.address({ view: "word", id: word }), tabindex: -1,
            "aria-hidden": "true" }, ibot.mosaic(word)) : "",
        ibot.facts([["Confidence", percent(confidence)], ["Score", number(score)],
          ["Here", plural(here.length, "patch", "patches")],
          ["In the set", uses === null ? "–" : plural(uses, "patch", "patches")],
          ["", images === null ? "" : `of ${plural(images, "image")}`]])) : "",
      known && !(elsewhere && elsewhere.length)
        ? el("p", { class: "quiet" }, "This word occurs in no other image.") : "",
      tiles("Elsewhere in the set", "The best place in each image, with the word's probability there.",
        elsewhere, (place) => percent(place.confidence)),
      tiles("Similar patches", "By cosine of features.", similar, (place) => number(place.cosine)));
  }

  ibot.patchPanel = { overview, patch };

  /* ---- all images ---- */

  const PAGE = 120;

  ibot.gallery = async (root, signal) => {
    const grid = el("div", { class: "tiles gallery" });
    const end = el("div", { class: "end" });
    const count = el("span", { class: "push numbers" });
    root.append(el("div", { class: "toolbar" }, el("h1", {}, "Images"),
      ibot.state.exported ? "" : ibot.imageSearch("Find by name", (id) => ibot.go({ view: "image", id })),
      count), grid, end);
    ibot.arrows(grid);
    ibot.loading(end);
    let shown = 0;
    let total = Infinity;
    let watch = null;
    const tile = ({ id, name, label }) =>
      el("a", { class: "tile", title: name, href: ibot.address({ view: "image", id }) },
        ibot.picture(`/api/image/${id}/thumb.jpg`, { px: 128 }, { alt: name, class: "square" }),
        el("span", {}, el("bdi", {}, label || name)));
    const more = async () => {
      if (watch) watch.disconnect();
      try {
        const answer = await api.get("/api/images", { offset: shown, limit: PAGE });
        total = answer.total;
        shown += answer.images.length;
        grid.append(...answer.images.map(tile));
        const unread = total - (ibot.state.about.images.readable ?? total);
        count.textContent = plural(total, "image") +
          (unread > 0 ? `, ${number(unread)} cannot be read` : "");
        end.replaceChildren();
        if (!total) ibot.empty(end, "There are no images.", "Start the explorer with `--data DIR`, or drop one here.");
        else if (shown < total && answer.images.length && !signal.aborted)
          watch = ibot.whenNear(end, more, signal);
      } catch (error) {
        ibot.failed(end, error, more);
      }
    };
    await more();
  };
})();
