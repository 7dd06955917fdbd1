/* One word: where it is found, what it goes with, and how it came to be. */
"use strict";

(() => {
  const { el, api, state, number, percent, plural } = ibot;
  const PAGE = 36;

  function step(by) {
    const { id, kind } = ibot.place().params;
    const order = ibot.wordsInOrder();
    const here = order.indexOf(Number(id));
    const next = here < 0 ? Number(id) + by : order[here + by];
    const count = kind === "class" ? state.about.class_words : state.about.words;
    if (next === undefined || next < 0 || next >= count || !api.has(`/api/word/${next}`, kind === "class" ? { kind } : null)) return;
    ibot.go({ view: "word", id: next, kind });
  }

  function sentences(word, kind) {
    const { uses, images, share, confidence, entropy, label, purity, born, died } = word;
    const what = kind === "class" ? "images" : "patches";
    if (!uses) return [`No ${what} of this set have this word at this checkpoint.`];
    const told = [kind === "class"
      ? `It names ${plural(uses, "image")}: ${percent(share)} of the set.`
      : `It stands on ${plural(uses, "patch", "patches")} of ${plural(images, "image")}: ` +
        `${percent(share)} of all patches, ${number(uses / Math.max(images, 1), 1)} per image.`];
    if (confidence !== null)
      told.push(`Where it is chosen its probability is ${percent(confidence)} on average` +
        (entropy === null ? "." : `, with an entropy of ${number(entropy, 2)} nats: ${sure(entropy)}.`));
    if (label !== null && label !== undefined)
      told.push(`${percent(purity)} of its places lie in images of one label, ${label}.`);
    const { checkpoints } = state.about;
    if (born > 0) told.push(`It was first used at ${checkpoints[born].name}.`);
    if (died !== null && died !== undefined && checkpoints[died])
      told.push(`It fell out of use at ${checkpoints[died].name}.`);
    return told;
  }

  // exp(entropy) is the number of words that would be as uncertain if all were alike.
  const sure = (entropy) =>
    entropy < 0.1 ? "hardly any other word competes"
      : `as uncertain as between ${number(Math.round(Math.exp(entropy)))} equal words`;

  function labels(word) {
    if (!word.labels || !word.labels.length) return "";
    const top = word.labels[0].count;
    const sum = word.labels.reduce((all, { count }) => all + count, 0);
    return el("section", {}, el("h2", {}, "Labels of its images"),
      ibot.bars(word.labels.slice(0, 8).map(({ label, count }) =>
        [label, count / top, `${number(count)} · ${percent(count / sum)}`])));
  }

  /* In place of pictures of a word that no patch has. */
  const unused = () => el("span", { class: "picture square absent" }, el("span", {}, "not used"));

  function neighbours(word, kind) {
    if (!word.neighbours || !word.neighbours.length) return "";
    return el("section", { class: "beside" }, el("h2", {}, "Neighbours"),
      el("p", { class: "quiet" }, "Words with the most similar prototypes, and their cosine."),
      el("div", { class: "tiles" }, word.neighbours.slice(0, 8).map(({ word: other, cosine, uses }) =>
        uses ? ibot.wordTile(other, `${other} · ${number(cosine, 2)}`, { kind })
          : el("span", { class: "tile", title: `Word ${other} is not used in this set` },
            unused(), el("span", {}, `${other} · ${number(cosine, 2)}`)))));
  }

  /* What it meant then: one column per checkpoint. */
  function life(word, kind) {
    if (!word.life || word.life.length < 2) return "";
    const top = Math.max(...word.life.map(({ uses }) => uses), 1);
    const column = ({ c, name, uses, images, overlap }) =>
      el("li", { class: c === state.checkpoint ? "present" : "" },
        el(state.exported ? "span" : "a", { class: "then", href: state.exported ? null
          : ibot.address({ view: "word", id: word.word, c, kind: kind === "class" ? kind : null }),
        "aria-current": c === state.checkpoint ? "true" : null,
        title: `${name}: ${plural(uses, "use")} in ${plural(images, "image")}` },
        el("span", { class: "column" }, el("span", { style: { height: `${(100 * uses) / top}%` } })),
        uses ? ibot.mosaic(word.word, { kind, checkpoint: c, count: 4, px: 48, side: 3,
          then: state.exported ? c : null })
          : unused(),
        el("span", { class: "numbers" }, name.replace(/^step 0*/, "")),
        el("span", { class: "quiet numbers" }, number(uses)),
        el("span", { class: "quiet numbers", title: "places kept since the checkpoint before" },
          overlap === null ? " " : `⤷ ${percent(overlap)}`)));
    return el("section", { class: "life" }, el("h2", {}, "What it meant then"),
      el("p", { class: "quiet" },
        "Uses at each checkpoint and its best places there. ",
        "⤷ is the share of its patches that it held one checkpoint earlier."),
      el("ol", {}, word.life.map(column)));
  }

  /* ---- occurrences ---- */

  function occurrences(word, kind, signal) {
    const tiles = el("div", { class: "tiles" });
    const end = el("div", { class: "end" });
    let shown = 0;
    const add = (found) => {
      shown += found.length;
      tiles.append(...found.map((place) =>
        ibot.patchTile(kind === "class" ? { ...place, patch: null, row: null } : place,
          kind === "class" ? number(place.score) : percent(place.confidence))));
      end.replaceChildren(shown < word.total
        ? el("button", { class: "button", onclick: more },
          `Show more of ${number(word.total)}`) : "");
    };
    async function more() {
      try {
        const params = { c: state.checkpoint, offset: shown, limit: PAGE,
          ...(kind === "class" && { kind }) };
        const answer = await api.get(`/api/word/${word.word}`, params);
        if (!signal.aborted) add(answer.occurrences);
      } catch (error) {
        ibot.failed(end, error, more);
      }
    }
    ibot.arrows(tiles);
    add(word.occurrences);
    if (state.exported) end.replaceChildren();
    return el("section", {}, el("h2", {}, "Where it is found"),
      el("p", { class: "quiet" },
        kind === "class" ? "Best first, each with its score" :
          `The best place in each ${state.exported ? "of the best images" : "image"}, best first, with its probability`,
        state.exported ? "." : `; a click opens the image${kind === "class" ? "" : " at this patch"}.`),
      tiles, end);
  }

  /* ---- the view ---- */

  async function open(root, { id, kind: given }, signal) {
    const kind = given === "class" ? "class" : "patch";
    ibot.loading(root, 5);
    const word = await api.get(`/api/word/${id}`,
      { c: state.checkpoint, limit: PAGE, ...(kind === "class" && { kind }) });
    ibot.title(`Word ${word.word}`);
    const head = el("div", { class: "toolbar" },
      el("a", { class: "button quiet", href: ibot.address({ view: "words",
        kind: kind === "class" ? kind : null }) }, "← All words"),
      el("h1", {}, kind === "class" ? `Class word ${word.word}` : `Word ${word.word}`),
      ibot.swatch(word.word), ...ibot.lifeMarks(word),
      el("span", { class: "push" },
        el("button", { class: "button icon", "aria-label": "Word before", onclick: () => step(-1) }, "‹"),
        " ",
        el("button", { class: "button icon", "aria-label": "Next word", onclick: () => step(1) }, "›")));
    const about = el("div", {},
      el("section", { class: "told" }, sentences(word, kind).map((line) => el("p", {}, line))),
      labels(word), neighbours(word, kind));
    root.replaceChildren(head,
      el("div", { class: "word-page" },
        word.uses ? ibot.mosaic(word.word, { kind, count: 16, px: 96 })
          : unused(), about),
      life(word, kind), word.uses ? occurrences(word, kind, signal) : "");
  }

  ibot.view("word", {
    title: "Word",
    numbered: true,
    tab: "words",
    open,
    keys: [
      { key: "[", text: "word before, in the order of the list", run: () => step(-1) },
      { key: "]", text: "next word", run: () => step(1) },
      { key: "u", text: "up to all words", run: () => ibot.go({ view: "words" }) },
    ],
  });
})();
