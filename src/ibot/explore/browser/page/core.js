/* The ground of the explorer's page: elements, requests, colours, numbers and states.

   Classic scripts without a build step: every file adds to the one global `ibot`. What a view uses:

   ibot.view(name, {title, open(root, params, signal), close(), keys, tab, numbered, dropped(id)})  router.js
       `open` fills an element of its own, on every change of the address; `params` are strings:
       `#/word/17?c=3` opens view `word` with {id: "17", c: "3"}. What answers late writes into an
       element that is gone, which is harmless. Listeners outside of `root` take `signal`, aborted
       when the view is left. `close`, `keys` ([{key, text, run(event)}]; listed under "?"), `tab`
       (the view under which it stands in the bar), `numbered` (its addresses have an id) and
       `dropped` (an own image came) may be absent.
   ibot.go({view, id, ...params}, {replace, quiet})                                         router.js
       Without `view`: changes to the present parameters, null removes one. `replace` makes no step
       for the back button, `quiet` changes the address alone, without opening the view again.
   ibot.address({view, id, ...params})  the same as text, for links                         router.js
   ibot.state = {about, checkpoint, exported}   checkpoint: its number, the newest by default
   ibot.api.get(path, params)     promise of JSON; {fresh: true} as third argument asks again
   ibot.api.url(path, params)     address of a picture (in an export: its data, or null)
   ibot.api.has(path)             false for what an export leaves out: no link then
   ibot.api.post(path, body, headers)
       Answers that are errors reject with an Error that has `message`, `why`, `fix`, `status`.
   ibot.el(tag, props, ...children), ibot.svg(...)   props: class, style {}, onclick, data-x, ...
   ibot.picture(path, params, {alt, ...})            lazy <img> with states of its own
   ibot.loading(root), ibot.empty(root, text, whatToDo), ibot.failed(root, error, again)
   ibot.colours.classes (Okabe-Ito, by scheme), .cividis(0..1) -> [r, g, b], .word(number);
   ibot.ink("--ink") is the value of a variable of look.css, for canvases; event `ibot:theme` on
   the document: colours have changed
   ibot.number(x), ibot.percent(x), ibot.announce(text) for screen readers */
"use strict";

window.ibot = (() => {
  const SVG = "http://www.w3.org/2000/svg";

  function create(make, props, children) {
    const element = make();
    for (const [key, value] of Object.entries(props || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "class") element.setAttribute("class", value);
      // The page's security policy blocks style attributes, not the object model.
      else if (key === "style")
        for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (key === "value") element.value = value;
      else element.setAttribute(key, value === true ? "" : String(value));
    }
    // Strings become text nodes, never markup: names of files are the user's, not ours.
    element.append(...children.flat().filter((child) => ![null, undefined, false].includes(child)));
    if (props && "value" in props) element.value = props.value; // a select has its options now
    return element;
  }
  const el = (tag, props, ...children) =>
    create(() => document.createElement(tag), props, children);
  const svg = (tag, props, ...children) =>
    create(() => document.createElementNS(SVG, tag), props, children);

  /* ---- requests ---- */

  /* The server's messages are those of the command line: parts of a line, here sentences. */
  const sentence = (text) =>
    text && text[0].toUpperCase() + text.slice(1) + (/[.!?…`]$/.test(text) ? "" : ".");

  class Failure extends Error {
    constructor(message, { why = "", fix = "", status = 0 } = {}) {
      super(sentence(message));
      Object.assign(this, { why: sentence(why), fix: sentence(fix), status });
    }
  }
  const exported = window.IBOT_EXPORT || null;
  const kept = new Map();
  const KEPT = 300; // answers remembered: enough to walk back and forth without waiting

  function join(path, params) {
    const given = Object.entries(params || {}).filter(([, v]) => v !== null && v !== undefined);
    given.sort(([a], [b]) => (a < b ? -1 : 1));
    const query = given.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
    return query ? `${path}?${query}` : path;
  }

  const TELLING = ["a", "b", "image", "kind", "over", "patch", "then", "view"];

  /* An export holds answers by path: as asked, else by the parameters that change what is meant,
     else by the path alone. */
  function inExport(path, params) {
    const telling = TELLING.filter((key) => params && key in params);
    const few = Object.fromEntries(telling.map((key) => [key, params[key]]));
    const key = [join(path, params), join(path, few), path].find((name) => name in exported);
    return key === undefined ? null : exported[key];
  }

  async function ask(path, options) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      document.dispatchEvent(new CustomEvent("ibot:offline"));
      throw new Failure("The explorer's server does not answer.", {
        why: "It was stopped, or the computer slept.",
        fix: "Start `ibot explore` again; this page reconnects by itself.",
      });
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => ({}));
    throw new Failure(told.error || `The server answered ${response.status}.`, {
      ...told,
      status: response.status,
    });
  }

  async function get(path, params, { fresh = false } = {}) {
    if (exported) {
      const found = inExport(path, params);
      if (found !== null) return typeof found === "string" ? JSON.parse(found) : found;
      throw new Failure("This is not part of the exported page.", {
        fix: "Start `ibot explore` on the run to see everything.",
        status: 404,
      });
    }
    const address = join(path, params);
    if (!fresh && kept.has(address)) return kept.get(address);
    const answer = ask(address).then((response) => response.json());
    if (!fresh) {
      kept.set(address, answer);
      answer.catch(() => kept.delete(address));
      if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    }
    return answer;
  }

  /* The map as the server would send it: an export has the one by principal components. */
  function exportedMap(path) {
    const found = inExport(path, null);
    if (found === null) throw new Failure("This is not part of the exported page.");
    const bytes = Uint8Array.from(atob(found.points), (letter) => letter.charCodeAt(0));
    return new Response(bytes, { headers: { "X-Method": found.method } });
  }

  const api = {
    get,
    /* Whether there is more behind a link: an export holds some words and images only. */
    has: (path, params) => !exported || join(path, params) in exported,
    url: (path, params) => (exported ? inExport(path, params) : join(path, params)),
    post: async (path, body, headers) =>
      (await ask(path, { method: "POST", body, headers })).json(),
    /* Whole responses, for binary data and status codes. */
    raw: (path, params, options) =>
      exported ? Promise.resolve(exportedMap(path)) : ask(join(path, params), options),
    forget: () => kept.clear(),
  };

  /* ---- colours ---- */

  // Nine stops of cividis: rises evenly in lightness, for colour-blind eyes as for others.
  const CIVIDIS = [
    [0, 34, 78], [26, 56, 111], [66, 78, 108], [95, 101, 110], [124, 123, 120],
    [155, 147, 117], [188, 173, 108], [222, 200, 92], [254, 232, 56],
  ];

  function cividis(x) {
    const place = Math.min(Math.max(x, 0), 1) * (CIVIDIS.length - 1);
    const low = Math.min(Math.floor(place), CIVIDIS.length - 2);
    return CIVIDIS[low].map((v, i) => Math.round(v + (place - low) * (CIVIDIS[low + 1][i] - v)));
  }

  /* A colour of its own for each word: hues by the golden angle, three lightnesses and strengths. */
  function wordColour(word) {
    const lightness = [64, 46, 78][word % 3];
    return `hsl(${((word * 137.508) % 360).toFixed(1)} ${[70, 60, 55][word % 3]}% ${lightness}%)`;
  }

  /* The colour that a variable of look.css has now, for canvases. */
  const ink = (variable) =>
    getComputedStyle(document.documentElement).getPropertyValue(variable).trim();

  const colours = {
    /* Okabe and Ito's eight, as the present colour scheme has them. */
    get classes() {
      return [1, 2, 3, 4, 5, 6, 7, 8].map((i) => ink(`--c${i}`));
    },
    cividis,
    word: wordColour,
  };

  /* ---- numbers ---- */

  const whole = new Intl.NumberFormat("en");
  const number = (x, digits = 2) =>
    x === null || x === undefined ? "–" : Number.isInteger(x) ? whole.format(x) : x.toFixed(digits);
  function percent(x) {
    if (x === null || x === undefined) return "–";
    if (x > 0 && x < 0.001) return "<\u00a00.1 %"; // on one line
    return `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`;
  }
  const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  /* ---- states ---- */

  const loading = (root, lines = 3) =>
    root.replaceChildren(
      el("div", { class: "skeleton", role: "status", "aria-label": "Loading" },
        Array.from({ length: lines }, () => el("span"))),
    );

  /* Backticks in sentences mark what can be typed. */
  const prose = (text) =>
    text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

  const empty = (root, text, whatToDo = "") =>
    root.replaceChildren(
      el("div", { class: "state" },
        el("h2", {}, ...prose(text)), whatToDo && el("p", {}, ...prose(whatToDo))),
    );

  function failed(root, error, again = null) {
    const known = error instanceof Failure;
    if (!known) console.error(error);
    root.replaceChildren(
      el("div", { class: "state failed", role: "alert" },
        el("h2", {}, ...prose(known ? error.message : "The page made a mistake.")),
        known ? error.why && el("p", {}, ...prose(error.why)) : el("p", {}, String(error)),
        error.fix && el("p", {}, ...prose(error.fix)),
        again && el("button", { class: "button", onclick: again }, "Try again")),
    );
  }

  /* A lazy picture that fades nowhere and jumps nowhere: its place is there before it is. */
  function picture(path, params, { alt = "", ...props } = {}) {
    const source = api.url(path, params);
    const classes = `picture ${props.class || ""}`;
    if (source === null)
      return el("span", { ...props, class: `${classes} absent`, role: "img",
        "aria-label": `${alt} (not part of the export)` });
    const image = el("img", { loading: "lazy", decoding: "async", draggable: "false", ...props,
      class: `${classes} waiting`, alt });
    image.addEventListener("load", () => image.classList.remove("waiting"));
    image.addEventListener("error", () => {
      image.classList.remove("waiting");
      image.classList.add("absent");
    });
    image.src = source;
    return image;
  }

  function announce(text) {
    document.getElementById("announced").textContent = text;
  }

  return {
    el, svg, api, Failure, ink, number, percent, plural, bytes, prose,
    loading, empty, failed, picture, announce, colours,
    state: { about: null, checkpoint: null, listed: null, exported: exported !== null },
  };
})();
