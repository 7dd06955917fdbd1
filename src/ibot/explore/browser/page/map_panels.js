/* What stands beside the map: legend, selection, and the same points as a list. */
"use strict";

(() => {
  const { el } = ibot;
  const FEW = 8; // rows of a legend that begins folded
  const ROWS = 60, STRIP = 24, COMMON = 5, NEAR = 12, SEARCHED = 14;

  const label = (map, i) => {
    const key = map.about.labels ? map.about.labels[i] : -1;
    return key >= 0 ? String((map.about.classes || [])[key] ?? key) : null;
  };
  const thumb = (id, px = 96) =>
    ibot.picture(`/api/image/${id}/thumb.jpg`, { px, c: ibot.state.checkpoint }, { class: "thumb" });

  /* ---- legend: its rows are switches ---- */

  function legend(map, changed) {
    const heading = el("h2", {}, ""), rows = el("div", { class: "legend-rows" });
    const clear = el("button", { class: "button quiet small", onclick: () => {
      map.pressed.clear();
      shown();
      changed();
    } }, "show all");
    const search = el("input", { type: "search", placeholder: "find", "aria-label": "Find in the legend",
      oninput: shown });
    const more = el("p", { class: "quiet" });
    let folded = true;
    const fold = el("button", { class: "button quiet small", onclick: () => {
      folded = !folded;
      shown();
    } });
    const box = el("section", { class: "map-panel legend", "aria-label": "Legend" },
      el("div", { class: "map-head" }, heading, clear), search, rows, fold, more);

    function row(group, number) {
      return el("button", { class: "legend-row", "data-group": number,
        "aria-pressed": String(map.pressed.has(number)),
        onclick: (event) => {
          if (!map.pressed.delete(number)) map.pressed.add(number);
          event.currentTarget.setAttribute("aria-pressed", map.pressed.has(number));
          clear.hidden = !map.pressed.size;
          changed();
        } },
      ibot.mapGroups.sign(group), el("span", { class: "name" }, group.name),
      el("span", { class: "numbers quiet" }, ibot.number(group.count)));
    }
    function shown() {
      const { list } = map.groups, wanted = search.value.trim().toLowerCase();
      const found = list.map((group, at) => [group, at])
        .filter(([group]) => group.name.toLowerCase().includes(wanted));
      rows.replaceChildren(...found.slice(0, ROWS).map(([group, at]) => row(group, at)));
      // Of many groups the frequent ones: a list of words that name one image each tells nothing.
      const often = Math.min(found.filter(([{ count }]) => count > 1).length || 3, FEW);
      const folds = map.colour === "word" && !wanted && list.length > SEARCHED;
      if (folds && folded) rows.replaceChildren(...[...rows.children].slice(0, often));
      fold.hidden = !folds;
      fold.textContent = folded ? `${ibot.number(found.length - often)} rarer words` : "fewer words";
      fold.setAttribute("aria-expanded", String(!folded));
      const left = folds && folded ? 0 : found.length - ROWS;
      more.textContent = left > 0 ? `and ${ibot.number(left)} more; type to find one` : "";
      more.hidden = left <= 0;
      clear.hidden = !map.pressed.size;
    }
    const update = () => {
      const { id, name } = ibot.mapGroups.modes.find((mode) => mode.id === map.colour);
      box.hidden = id === "none";
      heading.textContent = name[0].toUpperCase() + name.slice(1);
      search.value = "";
      folded = true;
      search.hidden = map.groups.list.length < SEARCHED;
      shown();
    };
    return { box, update };
  }

  /* ---- selection ---- */

  /* The most common of `keys` among the chosen, with their share here and in the whole set. */
  function common(keys, chosen) {
    const here = new Map(), all = new Map();
    for (const i of chosen) here.set(keys[i], (here.get(keys[i]) || 0) + 1);
    for (const key of keys) if (here.has(key)) all.set(key, (all.get(key) || 0) + 1);
    return [...here].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, COMMON)
      .map(([key, count]) => ({ key, count, share: count / chosen.length, usual: all.get(key) / keys.length }));
  }

  function shares(title, found, named) {
    return el("div", { class: "shares" }, el("h3", {}, title), el("ul", {}, found.map((one) => {
      const bar = el("span", { class: "bar", "aria-hidden": "true" });
      bar.style.setProperty("--share", `${(100 * one.share).toFixed(1)}%`);
      const usual = `${ibot.percent(one.usual)} of all images`;
      return el("li", { title: usual }, bar, named(one.key),
        el("span", { class: "numbers quiet" }, `${ibot.percent(one.share)}, usually ${ibot.percent(one.usual)}`));
    })));
  }

  function selection(map, actions) {
    const box = el("section", { class: "map-panel selection", "aria-label": "Selection" });
    const button = (text, run) => el("button", { class: "button", onclick: run }, text);
    const hint = () => el("p", { class: "quiet" },
      "Draw around points (Lasso or Box, or drag with Shift) to see what they have in common.");

    function update() {
      const chosen = map.chosen();
      if (!chosen.length) return box.replaceChildren(el("h2", {}, "Selection"), hint());
      const [a, b] = chosen.map(map.id), { labels, class_words: words } = map.about;
      const wordLink = (key) =>
        el("a", { href: ibot.address({ view: "word", id: key, kind: "class" }) }, `word ${key}`);
      box.replaceChildren(
        el("div", { class: "map-head" },
          el("h2", {}, ibot.plural(chosen.length, "image")),
          el("button", { class: "button quiet small", onclick: actions.clear }, "clear")),
        el("div", { class: "strip" }, chosen.slice(0, STRIP).map((i) =>
          el("a", { href: ibot.address({ view: "image", id: map.id(i) }), "data-image": map.id(i),
            "aria-label": `Open image ${map.id(i)}`, onfocus: () => actions.mark(i),
            onmouseenter: () => actions.mark(i) }, thumb(map.id(i), 64)))),
        chosen.length > STRIP ? el("p", { class: "quiet" }, `the ${STRIP} nearest to their middle`) : "",
        labels ? shares("Labels", common(labels, chosen), (key) =>
          el("span", { class: "name" }, key < 0 ? "without" : String((map.about.classes || [])[key] ?? key))) : "",
        words ? shares("Class words", common(words, chosen), wordLink) : "",
        el("p", { class: "actions" }, button("Zoom to them", actions.zoom),
          chosen.length > 1 ? el("a", { class: "button", href: ibot.address({ view: "compare", a, b }) },
            chosen.length === 2 ? "Compare them" : "Compare the first two") : ""));
      ibot.announce(`${ibot.plural(chosen.length, "image")} selected`);
    }
    return { box, update };
  }

  /* ---- the list: one image, and what lies nearest to it ---- */

  function list(map, actions) {
    const box = el("section", { class: "map-panel near", "aria-label": "Nearest on the map" });
    const visited = [];
    let centre = null;

    async function item(i, at) {
      const { name } = await map.name(map.id(i)), of = label(map, i);
      return el("li", {}, el("a", { href: ibot.address({ view: "image", id: map.id(i) }), "data-point": i,
        tabindex: at === 0 ? 0 : -1, onfocus: () => actions.mark(i) },
      thumb(map.id(i), 64), el("span", { class: "name" }, name), of ? el("span", { class: "quiet" }, of) : ""));
    }
    async function update(i, focused = false) {
      centre = i;
      const near = [i, ...map.plot.around(i, NEAR)], items = await Promise.all(near.map(item));
      if (centre !== i) return;
      box.replaceChildren(el("h2", {}, "Nearest on the map"),
        el("p", { class: "quiet" }, "An image and those beside it. ↑ ↓ walk, → goes on from there, ← back."),
        el("ul", { class: "near-list" }, items));
      if (focused) box.querySelector("a").focus();
    }
    box.addEventListener("keydown", (event) => {
      const links = [...box.querySelectorAll("a")], at = links.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
      if (at < 0) return;
      if (links[to]) {
        links.forEach((link, number) => { link.tabIndex = number === to ? 0 : -1; });
        links[to].focus();
      } else if (event.key === "ArrowRight") {
        visited.push(centre);
        actions.show(Number(links[at].dataset.point));
      } else if (event.key === "ArrowLeft" && visited.length) actions.show(visited.pop());
      else if (to === undefined) return;
      event.preventDefault();
    });
    return { box, update };
  }

  ibot.mapPanels = { legend, selection, list, label, thumb };
})();
