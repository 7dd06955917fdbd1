/* What is shown of the point under the pointer, and of the one that was tapped. */
"use strict";

(() => {
  const { el } = ibot;
  const WIDTH = 190, GAP = 14;

  ibot.mapCard = (map, actions) => {
    const box = el("div", { class: "map-card", hidden: true });
    let shown = null, fixed = false;

    /* At the point `i`; `pinned` stays and can be worked with. */
    async function show(i, pinned) {
      if (i === shown && pinned === fixed) return;
      shown = i;
      fixed = pinned;
      const id = map.id(i), { name } = await map.name(id);
      if (shown !== i || fixed !== pinned) return;
      const words = map.about.class_words, label = ibot.mapPanels.label(map, i);
      box.classList.toggle("pinned", pinned);
      box.replaceChildren(
        ibot.mapPanels.thumb(id, 128), el("strong", { class: "name" }, name),
        label ? el("span", {}, label) : "",
        words ? el("span", { class: "quiet" }, "class word ", pinned
          ? el("a", { href: ibot.address({ view: "word", id: words[i], kind: "class" }) }, words[i])
          : String(words[i])) : "",
        pinned ? el("div", { class: "actions" },
          el("a", { class: "button", href: ibot.address({ view: "image", id }) }, "Open"),
          el("button", { class: "button", onclick: () => actions.toggle(i) },
            map.selected[i] ? "Deselect" : "Select"),
          el("button", { class: "button quiet", "aria-label": "Close", onclick: actions.close }, "✕")) : "");
      box.hidden = false;
      move();
    }

    /* Beside the point, inside of the picture. */
    function move() {
      if (shown === null || box.hidden) return;
      const { camera } = map.plot, [px, py] = map.plot.toScreen(...map.plot.placeOf(shown));
      const left = px + GAP + WIDTH < camera.width ? px + GAP : px - GAP - WIDTH;
      const height = box.offsetHeight;
      const top = Math.min(Math.max(py - height / 2, 6), Math.max(camera.height - height - 6, 6));
      box.style.setProperty("left", `${Math.round(Math.min(Math.max(left, 6), camera.width - WIDTH - 6))}px`);
      box.style.setProperty("top", `${Math.round(top)}px`);
      const away = px < 0 || py < 0 || px > camera.width || py > camera.height;
      box.classList.toggle("away", away);
    }
    function hide() {
      shown = null;
      fixed = false;
      box.hidden = true;
    }
    return { box, show, move, hide, refresh: () => {
      if (!fixed || shown === null) return;
      const i = shown;
      shown = null;
      show(i, true);
    } };
  };
})();
