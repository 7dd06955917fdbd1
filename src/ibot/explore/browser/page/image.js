/* One image: what the network makes of it, patch by patch. */
"use strict";

(() => {
  const { el, api, state, percent } = ibot;
  let now = null; // what is open: {image, stage, params, panel, controls, heads, signal}

  const c = () => state.checkpoint;
  const numbers = (text) => (text === undefined || text === null ? null : Number(text));

  /* What the address says, completed. */
  function asked(params) {
    const layers = layerOptions().filter(([, , why]) => !why).map(([key]) => key);
    const first = state.about.words ? "words" : "attention";
    const layer = layers.includes(params.layer) ? params.layer
      : layers.includes(first) ? first : "none";
    return { layer, head: params.head === undefined ? "mean" : Number(params.head),
      mask: params.mask === "1", scale: Number(params.scale) || 1,
      over: params.over === "set" ? "set" : "image",
      strength: numbers(params.strength) ?? (layer === "words" ? 55 : 75) };
  }

  const layerOptions = () => [
    ["none", "Picture"],
    ["words", "Words", state.about.words ? "" : "These weights have no head, or nothing is indexed."],
    ["attention", "Attention"],
    ["features", "Components"],
  ];

  function change(changes) {
    ibot.go(changes, { replace: true, quiet: true });
    now.params = ibot.place().params;
    drawControls();
    paint();
  }

  /* ---- controls ---- */

  function drawControls() {
    const set = asked(now.params);
    const strength = el("input", { type: "range", min: 0, max: 100, value: set.strength,
      "aria-label": "Strength", oninput: (event) => {
        now.stage.canvas.style.opacity = event.target.value / 100;
        ibot.go({ strength: event.target.value }, { replace: true, quiet: true });
        now.params = ibot.place().params;
      } });
    ibot.keepFocus(now.controls, () => now.controls.replaceChildren(
      ibot.choice("Layer", layerOptions(), set.layer,
        (layer) => change({ layer, strength: null })),
      ...(set.layer === "attention" ? attentionControls(set) : []),
      ...(set.layer === "features" ? featureControls(set) : []),
      set.layer === "none" ? "" : el("label", {}, "strength", strength)));
  }

  const attentionControls = ({ mask, scale }) => [
    ibot.check("60 % of the mass", mask, (yes) => change({ mask: yes ? 1 : null })),
    state.exported ? "" : ibot.select("Detail", [["1", "1 ×"], ["2", "2 ×"], ["4", "4 ×"]], String(scale),
      (value) => change({ scale: value === "1" ? null : value })),
  ];

  const featureControls = ({ over }) => [
    ibot.select("of", [["image", "this image"], ["set", "the set"]], over,
      (value) => change({ over: value === "set" ? "set" : null }), "Components of"),
  ];

  /* ---- layer ---- */

  async function paint() {
    const set = asked(now.params);
    const { image, stage } = now;
    const mine = (now.painting = {});
    const late = () => mine !== now.painting || stage !== now.stage;
    stage.canvas.style.opacity = set.strength / 100;
    stage.borders(set.layer === "words" ? image.words : null);
    now.beside.hidden = set.layer !== "attention";
    const slow = setTimeout(() => !late() && stage.busy(true), 200);
    try {
      if (set.layer === "words") ibot.layers.words(stage.canvas, image);
      else if (set.layer === "attention") {
        const data = await attention(image.id, set.scale);
        if (!late()) drawAttention(data, set);
      } else if (set.layer === "features") {
        const data = await api.get(`/api/image/${image.id}/features`, { c: c(), over: set.over });
        if (!late()) ibot.layers.features(stage.canvas, data);
      } else ibot.layers.clear(stage.canvas);
    } catch (error) {
      if (late()) return;
      ibot.layers.clear(stage.canvas);
      ibot.notice(error.message, [error.why, error.fix].filter(Boolean).join(" "));
    } finally {
      clearTimeout(slow);
      if (!late()) stage.busy(false);
    }
  }

  const attention = (id, scale) =>
    api.get(`/api/image/${id}/attention`, { c: c(), ...(scale > 1 && { scale }) });

  function drawAttention(data, set) {
    const head = set.head === "mean" || set.head < data.heads ? set.head : "mean";
    ibot.layers.attention(now.stage.canvas, data, { ...set, head });
    const small = (which, text) => {
      const canvas = el("canvas", { "aria-hidden": "true" });
      ibot.layers.attention(canvas, data, { head: which, mask: set.mask });
      const colour = set.mask && head === "mean" && which !== "mean"
        ? { "--head": ibot.layers.headColour(which) } : {};
      canvas.style.aspectRatio = `${now.image.view[1]} / ${now.image.view[0]}`;
      return el("button", { class: "head", "aria-pressed": String(which === head), style: colour,
        onclick: () => change({ head: which === "mean" ? null : which }) }, canvas, text);
    };
    const held = document.activeElement && document.activeElement.closest(".head");
    now.source.textContent = `${data.told[0].toUpperCase()}${data.told.slice(1)}.`;
    now.heads.replaceChildren(small("mean", set.mask ? "all" : "mean"),
      ...Array.from({ length: data.heads }, (_, i) => small(i, `${i + 1}`)));
    if (held) now.heads.querySelector("[aria-pressed=true]").focus();
  }

  function stepHead(by) {
    const set = asked(now.params);
    const count = now.heads.children.length - 1;
    if (set.layer !== "attention" || count < 1) return change({ layer: "attention", strength: null });
    const at = set.head === "mean" ? 0 : set.head + 1;
    const next = (at + by + count + 1) % (count + 1);
    change({ head: next ? next - 1 : null });
  }

  /* ---- patches ---- */

  const sameWord = (patch) =>
    patch === null || !now.image.words ? []
      : now.image.words.flatMap((word, i) => (word === now.image.words[patch] ? [i] : []));

  const place = (patch) => {
    const w = now.image.grid[1];
    return `row ${Math.floor(patch / w) + 1}, column ${(patch % w) + 1}`;
  };

  function hovered(patch) {
    const { stage, image } = now;
    const shown = patch ?? now.picked;
    stage.mark({ hover: patch, picked: now.picked, same: sameWord(shown) });
    if (patch === null) return stage.tip("");
    const told = image.words
      ? `word ${image.words[patch]} · ${percent(image.confidence[patch])}` : place(patch);
    stage.tip(told, patch);
    ibot.announce(`${place(patch)}: ${told}`);
  }

  function pick(patch) {
    // The way back lets go of the patch; from one patch to the next it makes no step.
    if (now.picked === null) now.before = location.hash;
    ibot.go({ patch }, { replace: now.picked !== null, quiet: true });
    now.picked = now.stage.start = patch;
    now.params = ibot.place().params;
    hovered(now.stage.at);
    showPatch(patch);
  }

  function unpick() {
    if (now.picked === null) return;
    const without = ibot.address({ view: "image", ...ibot.place().params, patch: null });
    if (now.before === without) return history.back();
    now.picked = null;
    ibot.go({ patch: null }, { replace: true, quiet: true });
    now.params = ibot.place().params;
    hovered(now.stage.at);
    ibot.patchPanel.overview(now.panel, now.image, now.stage, pick);
  }

  async function showPatch(patch) {
    const { panel, image } = now;
    const mine = (now.asking = {});
    const slow = setTimeout(() => mine === now.asking && ibot.loading(panel, 6), 150);
    try {
      const found = await api.get("/api/patch", { image: image.id, patch, c: c() });
      if (mine === now.asking) ibot.patchPanel.patch(panel, image, patch, found, unpick);
    } catch (error) {
      if (mine === now.asking) ibot.failed(panel, error, () => showPatch(patch));
    } finally {
      clearTimeout(slow);
    }
  }

  /* ---- the view ---- */

  function step(by) {
    // From the address: what is open now may be an image that cannot be shown.
    const next = ibot.imageBeside(ibot.place().params.id, by);
    if (next !== null) ibot.go({ id: next, patch: null });
  }

  const classWord = ({ class_word: word }) =>
    word === null || word === undefined ? []
      : [" · ", ibot.wordLink(word, "class", `class word ${word}`)];

  const upwards = () =>
    el("a", { class: "button quiet", href: ibot.address({ view: "image" }) }, "← All images");

  const isOwn = (id) => String(id).startsWith("drop");

  const beside = (id) => isOwn(id) ? "" : el("span", {}, [["Image before", "‹", -1], ["Next image", "›", 1]]
    .map(([label, text, by]) => el("button", { class: "button icon", "aria-label": label,
      disabled: ibot.imageBeside(id, by) === null, onclick: () => step(by) }, text))
    .flatMap((button) => [button, " "]));

  const searched = () => state.exported ? ""
    : ibot.imageSearch("Find by name", (id) => ibot.go({ id, patch: null }));

  function head(image) {
    const own = isOwn(image.id);
    const [h, w] = image.size || image.view;
    return el("div", { class: "toolbar" },
      upwards(),
      el("div", { class: "named" }, el("h1", {}, el("bdi", {}, image.name)),
        el("span", { class: "quiet numbers" },
          [image.label, own ? "own image" : `image ${image.id}`, `${w} × ${h}`]
            .filter(Boolean).join(" · "), ...classWord(image))),
      el("span", { class: "push toolbar" },
        el("a", { class: "button", href: ibot.address({ view: "compare", a: image.id }) }, "Compare"),
        searched(), beside(image.id)));
  }

  /* An image that cannot be shown: the ways on are there all the same. */
  function refused(root, id, error, again) {
    const told = el("div", {});
    root.replaceChildren(el("div", { class: "toolbar" }, upwards(),
      el("span", { class: "push toolbar" }, searched(), beside(id))), told);
    ibot.failed(told, error, again);
  }

  async function open(root, params, signal) {
    if (!("id" in params)) return ibot.gallery(root, signal);
    ibot.loading(root, 5);
    let image;
    try {
      image = await api.get(`/api/image/${params.id}`, { c: c() });
    } catch (error) {
      return refused(root, params.id, error, error.status === 404 ? null : ibot.open);
    }
    if (signal.aborted) return;
    const stage = ibot.stage({ label: "", hovered, picked: pick });
    const patches = image.grid[0] * image.grid[1];
    const given = numbers(params.patch);
    now = { image, stage, params, signal, picked: given >= 0 && given < patches ? given : null,
      controls: el("div", { class: "toolbar" }),
      heads: el("div", { class: "heads", role: "group", "aria-label": "Heads" }),
      source: el("p", { class: "quiet" }),
      panel: el("aside", { class: "panel", "aria-label": "Patch" }) };
    now.beside = el("section", { hidden: true }, now.heads, now.source);
    stage.show(image);
    stage.start = now.picked;
    root.replaceChildren(head(image), el("div", { class: "image-page" },
      el("div", { class: "image-side" }, now.controls, el("div", { class: "stage-room" }, stage.element)),
      el("div", { class: "beside" }, now.beside, now.panel)));
    root.style.setProperty("--ratio", image.view[1] / image.view[0]);
    ibot.title(image.name);
    drawControls();
    paint();
    hovered(null);
    document.addEventListener("ibot:theme", paint, { signal });
    if (now.picked === null) ibot.patchPanel.overview(now.panel, image, stage, pick);
    else showPatch(now.picked);
    stage.element.focus({ preventScroll: true, focusVisible: false });
  }

  const layerKey = (key, layer, text) => ({ key, text, run: () => live() && change({ layer, strength: null }) });
  const live = () => now && !now.signal.aborted; // not in the gallery, nor where an image failed

  ibot.view("image", {
    title: "Image",
    numbered: true,
    open,
    close: () => { if (now) now.painting = now.asking = null; },
    keys: [
      { key: "← → ↑ ↓", text: "from patch to patch" },
      { key: "Enter", text: "ask about the patch" },
      { key: "Escape", text: "let go of the patch", run: () => live() && unpick() },
      { key: "n", text: "next image", run: () => step(1) },
      { key: "p", text: "image before", run: () => step(-1) },
      layerKey("v", "none", "the picture alone"), layerKey("w", "words", "map of words"),
      layerKey("a", "attention", "attention"), layerKey("f", "features", "components as colours"),
      { key: "h", text: "next head of attention", run: () => live() && stepHead(1) },
    ],
  });
})();
