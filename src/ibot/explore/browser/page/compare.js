/* Two images, patch against patch; or one image as two checkpoints see it. */
"use strict";

(() => {
  const { el, svg, api, state, number, percent } = ibot;
  const LINES = 16; // best matches drawn at once: more is a tangle
  let now = null; // {mode, sides: [{id, c, image, stage}], matches: [a to b, b to a], ...}

  const OTHER = [1, 0];
  const place = (patch, [, w]) => `row ${Math.floor(patch / w) + 1}, column ${(patch % w) + 1}`;

  /* ---- what the address says ---- */

  function asked(params) {
    const last = state.about.checkpoints.length - 1;
    const mode = params.mode === "checkpoints" && last > 0 && !state.exported ? "checkpoints" : "images";
    const first = state.listed ? state.listed[0] : 0;
    const a = params.a ?? first;
    const b = params.b ?? ibot.imageBeside(a, 1) ?? first; // beside an own image: the first
    const early = Math.min(Number(params.ca ?? 0), last);
    const layers = layerOptions().filter(([, , why]) => !why).map(([key]) => key);
    const usual = mode === "checkpoints" && layers.includes("words") ? "words" : "none";
    return { mode, layer: layers.includes(params.layer) ? params.layer : usual,
      lines: params.lines === "1",
      sides: mode === "images"
        ? [{ id: a, c: state.checkpoint }, { id: b, c: state.checkpoint }]
        : [{ id: a, c: early }, { id: a, c: state.checkpoint }] };
  }

  const layerOptions = () => [
    ["none", "Picture"], ["words", "Words", state.about.words ? "" : "There are no words here."],
    ["attention", "Attention"],
  ];

  /* ---- pointing ---- */

  function hovered(side, patch) {
    const shown = patch === null ? now.picked : { side, patch };
    if (now.mode === "images") shown ? pair(shown) : nothing();
    else shown ? both(shown) : nothing();
  }

  function nothing() {
    for (const { stage } of now.sides) stage.mark({});
    now.readout.replaceChildren(el("span", { class: "quiet" }, now.mode === "images"
      ? "Point at a patch of either image to see its match in the other; a click keeps it. Arrow keys do the same."
      : "Point at a patch to see its word at both checkpoints."));
    draw([]);
    if (now.lines && now.matches[0]) {
      const [{ match, mutual }] = now.matches, both = mutual.filter(Boolean).length;
      now.readout.prepend(el("span", {}, `${number(both)} of ${number(match.length)} matches are mutual` +
        (both > LINES ? `; the best ${LINES} are drawn.` : both ? ", all of them drawn." : ".")));
    }
  }

  const say = () =>
    ibot.announce([...now.readout.childNodes].map((part) => part.textContent).join(", "));

  function pair({ side, patch }) {
    const found = now.matches[side];
    if (!found) return;
    const there = found.match[patch];
    now.sides[side].stage.mark({ picked: patch });
    now.sides[OTHER[side]].stage.mark({ picked: there });
    const told = `${place(patch, now.sides[side].image.grid)} → ` +
      `${place(there, now.sides[OTHER[side]].image.grid)}`;
    const mutual = found.mutual[patch];
    now.readout.replaceChildren(
      el("strong", {}, side ? "right to left" : "left to right"), told,
      el("span", {}, `cosine ${number(found.cosine[patch], 3)}`),
      el("span", { class: mutual ? "good" : "quiet", title: "whether the match's own match is this patch" },
        mutual ? "✓ mutual" : "not mutual"));
    say();
    draw([[side, patch, there, mutual]]);
  }

  function both({ patch }) {
    const told = now.sides.map(({ image, stage }) => {
      const same = image.words
        ? image.words.flatMap((word, i) => (word === image.words[patch] ? [i] : [])) : [];
      stage.mark({ picked: patch, same });
      return image.words ? el("span", {}, ibot.swatch(image.words[patch]),
        ` word ${image.words[patch]} · ${percent(image.confidence[patch])}`) : "";
    });
    now.readout.replaceChildren(place(patch, now.sides[0].image.grid), told[0],
      told[0] && "→", told[1]);
    say();
  }

  function pick(side, patch) {
    const same = now.picked && now.picked.side === side && now.picked.patch === patch;
    now.picked = same ? null : { side, patch };
    now.sides[side].stage.start = patch;
    ibot.go({ patch: same ? null : patch, side: same || !side ? null : side },
      { replace: true, quiet: true });
    hovered(side, same ? null : patch);
  }

  /* ---- lines between the pictures ---- */

  const centre = (side, patch) => {
    const { stage, image } = now.sides[side];
    const box = stage.element.getBoundingClientRect();
    const room = now.pair.getBoundingClientRect();
    const [h, w] = image.grid;
    return [box.left - room.left + ((patch % w) + 0.5) * (box.width / w),
      box.top - room.top + (Math.floor(patch / w) + 0.5) * (box.height / h)];
  };

  function draw(current) {
    const best = now.lines && now.matches[0] && !current.length ? bestMatches() : [];
    const colours = ibot.colours.classes;
    now.drawing.replaceChildren(...[...best, ...current].flatMap(([side, from, to, mutual], i) => {
      const [x1, y1] = centre(side, from);
      const [x2, y2] = centre(OTHER[side], to);
      const place = { x1, y1, x2, y2 };
      const dots = [[x1, y1], [x2, y2]].map(([cx, cy]) => svg("circle", { cx, cy, r: 4,
        style: best.length ? { fill: colours[i % 7] } : {} }));
      return [svg("line", { class: "under", ...place }),
        svg("line", { class: mutual ? "match" : "match loose", ...place,
          style: best.length ? { stroke: colours[i % 7] } : {} }), ...dots];
    }));
  }

  /* Mutual matches of what the network looks at, surest first. */
  function bestMatches() {
    const { match, cosine, mutual, saliency } = now.matches[0];
    const worth = (i) => cosine[i] * (saliency.length ? saliency[i] : 1);
    return match.map((to, from) => [0, from, to, mutual[from]])
      .filter(([, from]) => mutual[from])
      .sort(([, a], [, b]) => worth(b) - worth(a)).slice(0, LINES);
  }

  /* ---- layer ---- */

  async function paint(side, layer) {
    const { stage, image, c } = side;
    stage.canvas.style.opacity = layer === "words" ? 0.55 : 0.75;
    stage.borders(layer === "words" ? image.words : null);
    if (layer === "words") ibot.layers.words(stage.canvas, image);
    else if (layer === "attention") {
      const data = await api.get(`/api/image/${image.id}/attention`, { c });
      ibot.layers.attention(stage.canvas, data, { head: "mean", mask: false });
      now.told.textContent = `${data.told[0].toUpperCase()}${data.told.slice(1)}; mean over heads.`;
    } else ibot.layers.clear(stage.canvas);
  }

  /* ---- frame ---- */

  function toolbar(set) {
    const many = state.about.checkpoints.length > 1 && !state.exported;
    return el("div", { class: "toolbar" },
      ibot.choice("What to compare", [["images", "Two images"],
        ["checkpoints", "Two checkpoints", many ? "" : state.exported ? "The exported page shows the newest checkpoint." : "Only one checkpoint is indexed."]], set.mode,
      (mode) => ibot.go({ mode: mode === "images" ? null : mode, patch: null, side: null, layer: null })),
      ibot.choice("Layer", layerOptions(), set.layer, (layer) => {
        ibot.go({ layer }, { replace: true, quiet: true });
        now.layer = layer;
        paintAll();
      }),
      set.mode === "images" ? ibot.check("best matches", set.lines, (lines) => {
        ibot.go({ lines: lines ? 1 : null }, { replace: true, quiet: true });
        now.lines = lines;
        hovered(0, null);
      }) : "",
      set.mode === "images" ? el("button", { class: "button", title: "Swap (x)", onclick: swap }, "⇄ Swap") : "",
      now.kept);
  }

  function swap() {
    const [left, right] = now.sides.map(({ id }) => id);
    if (now.mode === "images") ibot.go({ a: right, b: left, patch: null, side: null });
  }

  function sideHead(i, side) {
    const { image } = side;
    const name = el("bdi", { class: "side-name" },
      el("a", { href: ibot.address({ view: "image", id: image.id, c: side.c }) }, image.name));
    const key = i ? "b" : "a";
    if (now.mode === "checkpoints")
      return el("div", { class: "side-head" }, ibot.select("", state.about.checkpoints.map(
        (checkpoint) => [checkpoint.id, checkpoint.name]), side.c,
      (c) => ibot.go(i ? { c } : { ca: c })), name);
    const go = (id) => ibot.go({ a: now.sides[0].id, b: now.sides[1].id, [key]: id, patch: null, side: null });
    const by = (d) => {
      const next = ibot.imageBeside(image.id, d);
      return el("button", { class: "button icon", "aria-label": d > 0 ? "Next image" : "Image before",
        disabled: next === null, onclick: () => go(next) }, d > 0 ? "›" : "‹");
    };
    return el("div", { class: "side-head" },
      state.exported ? "" : ibot.imageSearch(i ? "Other right image" : "Other left image", go),
      by(-1), by(1), name);
  }

  async function paintAll() {
    now.told.hidden = now.layer !== "attention";
    try {
      await Promise.all(now.sides.map((side) => paint(side, now.layer)));
    } catch (error) {
      ibot.notice(error.message, error.fix);
    }
  }

  async function loadMatches(mine) {
    const [a, b] = now.sides.map(({ id }) => id);
    const c = state.checkpoint;
    const [forth, back] = await Promise.all([
      api.get("/api/match", { a, b, c }), api.get("/api/match", { a: b, b: a, c })]);
    if (mine !== now) return;
    now.matches = [forth, back];
    hovered(0, null);
  }

  /* Words settle late: those of the first half of a run mostly mean something else at its end. */
  const early = () => {
    const [one, other] = now.sides.map(({ c }) => state.about.checkpoints[c]?.step ?? null);
    return one !== null && other !== null && Math.min(one, other) < Math.max(one, other) / 2;
  };

  function kept() {
    const [then, later] = now.sides.map(({ image }) => image.words);
    if (now.mode !== "checkpoints" || !then || !later) return "";
    const same = then.filter((word, i) => word === later[i]).length;
    return el("span", { class: "push numbers" },
      `${percent(same / then.length)} of the patches have the same word at both`,
      same < then.length / 2 && early() ? ", as is usual with one so early" : "");
  }

  /* Two images that have something in common, where the address names fewer than two. */
  async function completed(params) {
    const { a, b, mode } = params;
    if (state.exported || b !== undefined || (a !== undefined && mode === "checkpoints")) return params;
    const found = await api.get("/api/pair", { c: state.checkpoint, a }).catch(() => ({ b: null }));
    return found.b === null ? params : { ...params, a: found.a, b: found.b };
  }

  async function open(root, params, signal) {
    if (!state.about.images.count && !params.a)
      return ibot.empty(root, "There are no images to compare.", "Drop one here, or start with `--data DIR`.");
    ibot.loading(root, 5);
    const set = asked(await completed(params));
    if (signal.aborted) return;
    const images = await Promise.all(
      set.sides.map(({ id, c }) => api.get(`/api/image/${id}`, { c })));
    if (signal.aborted) return;
    const mine = now = { ...set, signal, picked: null, matches: [null, null],
      readout: el("div", { class: "readout numbers" }), told: el("p", { class: "quiet told-layer", hidden: true }), drawing: svg("svg", { class: "lines", "aria-hidden": "true" }) };
    now.sides = set.sides.map((side, i) => ({ ...side, image: images[i], stage: ibot.stage({
      label: i ? "Right: " : "Left: ", hovered: (patch) => hovered(i, patch),
      picked: (patch) => pick(i, patch) }) }));
    now.kept = kept();
    now.pair = el("div", { class: "pair" }, now.sides.map((side, i) => {
      side.stage.show(side.image);
      return el("section", { "aria-label": i ? "Right" : "Left" }, sideHead(i, side),
        el("div", { class: "stage-room" }, side.stage.element));
    }), now.drawing);
    root.replaceChildren(el("h1", { class: "unseen" }, "Compare"), toolbar(set), now.pair, now.told, now.readout);
    keepPatch(params);
    nothing();
    paintAll();
    new ResizeObserver(() => mine === now && !signal.aborted && hovered(0, null)).observe(now.pair);
    document.addEventListener("ibot:theme", () => { paintAll(); hovered(0, null); }, { signal });
    if (now.mode === "images") await loadMatches(mine);
    else hovered(0, null);
  }

  function keepPatch({ patch, side }) {
    const at = side === "1" ? 1 : 0;
    const [h, w] = now.sides[at].image.grid;
    if (patch === undefined || !(Number(patch) >= 0 && Number(patch) < h * w)) return;
    now.picked = { side: at, patch: Number(patch) };
    now.sides[at].stage.start = now.picked.patch;
  }

  ibot.view("compare", {
    title: "Compare",
    open,
    dropped: (id) => ibot.go(now && now.mode === "checkpoints" ? { a: id, patch: null }
      : { b: id, patch: null, side: null }),
    keys: [
      { key: "← → ↑ ↓", text: "from patch to patch" },
      { key: "Enter", text: "keep this match, or let it go" },
      { key: "x", text: "swap left and right", run: () => now && !now.signal.aborted && swap() },
    ],
  });
})();
