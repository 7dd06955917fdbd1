/* The words by use: a grid of mosaics that grows while one scrolls. */
"use strict";

(() => {
  const { el, api, state, number, percent } = ibot;
  const PAGE = 48;
  const SORTS = [
    ["use", "uses"], ["images", "images"], ["confidence", "confidence"], ["entropy", "entropy"],
    ["score", "score"], ["purity", "purity of labels"], ["born", "first seen"],
  ];
  // The grid that was left last: going back finds it as it was, without asking again.
  let left = null;

  const settings = (params) => ({
    kind: params.kind === "class" ? "class" : "patch",
    sort: SORTS.some(([key]) => key === params.sort) ? params.sort : "use",
    desc: params.desc === "0" ? 0 : 1,
    label: params.label || "",
    min_images: Number(params.min_images) || 0,
    c: state.checkpoint,
  });

  /* An export holds all its words in one answer, which is sorted and filtered here. */
  function fromExport(all, { sort, desc, label, min_images: few, offset, limit }) {
    const key = sort === "use" ? "uses" : sort;
    const sign = desc ? -1 : 1;
    const words = all.words
      .filter((word) => word.images >= few && (!label || word.label === label))
      .sort((a, b) => sign * ((a[key] ?? -Infinity) - (b[key] ?? -Infinity)));
    return { ...all, total: words.length, words: words.slice(offset, offset + limit) };
  }

  async function ask(asked, offset) {
    const { label, kind, ...rest } = { ...asked, offset, limit: PAGE };
    const params = { ...rest, ...(label && { label }), ...(kind === "class" && { kind }) };
    const answer = await api.get("/api/words", params);
    return state.exported ? fromExport(answer, { ...rest, label }) : answer;
  }

  /* ---- one word ---- */

  function card(word, kind) {
    const { uses, images, confidence, entropy, label, purity, life } = word;
    const named = label !== null && label !== undefined;
    return el("a", { class: "card", "data-word": word.word,
      href: ibot.address({ view: "word", id: word.word, kind: kind === "class" ? kind : null }),
      "aria-label": `Word ${word.word}, ${ibot.plural(uses, "use")} in ` +
        `${ibot.plural(images, "image")}${named ? `, mostly ${label}` : ""}` },
    ibot.mosaic(word.word, { kind }),
    el("div", { class: "card-head" }, el("strong", { class: "numbers" }, `${word.word}`),
      life && life.length > 1 ? ibot.sparkline(life, "Uses over checkpoints") : ""),
    el("div", { class: "numbers" },
      kind === "class" ? ibot.plural(images, "image")
        : `${ibot.plural(uses, "use")} · ${ibot.plural(images, "image")}`),
    el("div", { class: "quiet numbers card-line", title: "mean confidence · mean entropy" },
      `${percent(confidence)} sure${entropy === null ? "" : ` · ${number(entropy, 2)} nats`}`),
    named ? el("div", { class: "card-line", title: `${percent(purity)} lie in ${label}` },
      el("bdi", { class: "label" }, label), el("span", { class: "quiet numbers" }, percent(purity))) : "",
    el("div", { class: "marks" }, ...ibot.lifeMarks(word)));
  }

  /* ---- the bar above ---- */

  const noClassWords = () =>
    state.about.class_words ? "" : "The network has no class words here.";

  function toolbar(asked, summary) {
    const { classes } = state.about.images;
    const change = (changes) => ibot.go({ view: "words", ...params(asked), ...changes });
    const labels = classes && classes.length
      ? ibot.select("Label", [["", "all"], ...classes.map((name) => [name, name])], asked.label,
        (label) => change({ label: label || null })) : "";
    const least = el("input", { type: "number", min: 0, max: 1e6, step: 1, class: "narrow",
      "aria-label": "At least in so many images", value: asked.min_images || "", placeholder: "0",
      onchange: (event) => change({ min_images: event.target.value || null }) });
    const sorts = SORTS.filter(([key]) =>
      (key !== "purity" || labels) && (key !== "born" || state.about.checkpoints.length > 1));
    return el("div", { class: "toolbar which", role: "search", "aria-label": "Which words" },
      ibot.choice("Words of", [["patch", "Patches"],
        ["class", "Images", noClassWords()]],
      asked.kind, (kind) => change({ kind: kind === "class" ? kind : null })),
      ibot.select("By", sorts, asked.sort, (sort) => change({ sort })),
      el("button", { class: "button icon", "aria-label": asked.desc ? "Largest first" : "Smallest first",
        title: asked.desc ? "largest first" : "smallest first",
        onclick: () => change({ desc: asked.desc ? 0 : null }) }, asked.desc ? "↓" : "↑"),
      labels, el("label", {}, "in at least", least, "images"), summary);
  }

  const params = ({ kind, sort, desc, label, min_images: least }) => ({
    kind: kind === "class" ? kind : null, sort: sort === "use" ? null : sort,
    desc: desc ? null : 0, label: label || null, min_images: least || null,
  });

  const told = ({ total, unused }) =>
    `${number(total)} ${total === 1 ? "word" : "words"}` +
    (unused ? ` · ${number(unused)} never used` : "");

  /* ---- the view ---- */

  async function open(root, given, signal) {
    if (!state.about.words) return nothing(root);
    const asked = settings(given);
    const key = JSON.stringify(asked);
    const again = left && left.key === key ? left : null;
    const summary = el("span", { class: "push numbers", role: "status" });
    const grid = el("div", { class: "cards", "aria-label": "Words" });
    const end = el("div", { class: "end" });
    root.append(el("h1", { class: "unseen" }, "Words"), toolbar(asked, summary), grid, end);
    ibot.loading(end);
    ibot.arrows(grid);

    const shown = { key, words: [], total: Infinity, unused: 0, scroll: 0 };
    left = shown;
    const add = (words) => {
      shown.words.push(...words);
      grid.append(...words.map((word) => card(word, asked.kind)));
      summary.textContent = told(shown);
    };
    let busy = false;
    const more = async () => {
      if (busy || shown.words.length >= shown.total) return;
      busy = true;
      try {
        const answer = await ask(asked, shown.words.length);
        Object.assign(shown, { total: answer.total, unused: answer.unused });
        add(answer.words);
        end.replaceChildren();
        if (!answer.total) none(end, asked);
        watchAgain();
      } catch (error) {
        ibot.failed(end, error, () => { busy = false; more(); });
      }
      busy = false;
    };
    let watch = null;
    // An observer tells of changes only: a tall window needs to be asked again after each page.
    const watchAgain = () => {
      if (watch) watch.disconnect();
      if (shown.words.length < shown.total && !signal.aborted) watch = ibot.whenNear(end, more, signal);
    };
    if (again && again.words.length) {
      Object.assign(shown, { total: again.total, unused: again.unused });
      add(again.words);
      end.replaceChildren();
      window.scrollTo(0, again.scroll);
      watchAgain();
    } else await more();
    window.addEventListener("scroll", () => { shown.scroll = window.scrollY; }, { signal });
  }

  function nothing(root) {
    if (state.about.head)
      return ibot.empty(root, "Nothing is indexed yet.",
        "Run `ibot index RUN --data DIR` once, then start the explorer again.");
    ibot.empty(root, "These weights have no head, so there are no words.",
      "Exports of the teacher with its head, and checkpoints of runs, have one. " +
      "Image, compare and map work without.");
  }

  function none(end, asked) {
    const narrowed = asked.label || asked.min_images;
    ibot.empty(end, narrowed ? "No word fulfils this." : "No word is used.",
      narrowed ? "Choose another label or fewer images." : "");
  }

  ibot.wordsInOrder = () => (left ? left.words.map((word) => word.word) : []);

  ibot.view("words", {
    title: "Words",
    open,
    keys: [{ key: "← → ↑ ↓", text: "from word to word" }, { key: "Enter", text: "open the word" }],
  });
})();
