/* Addresses: `#/view/id?key=value` opens a view; the checkpoint `c` travels with every link. */
"use strict";

(() => {
  const { el, state } = ibot;
  const views = new Map();
  let present = null; // {name, params, controller}

  ibot.views = views;
  ibot.view = (name, view) => views.set(name, { name, ...view });
  ibot.place = () => present;

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // a lone percent sign: an address that somebody typed
    }
  }

  function read(hash) {
    const [path, query] = hash.replace(/^#\/?/, "").split("?");
    const [name, id, ...more] = path.split("/").map(decoded);
    const params = Object.fromEntries(new URLSearchParams(query || ""));
    const view = views.get(name);
    const known = !more.length && (!id || !view || view.numbered);
    return { name: known ? name || "words" : path, params: id ? { ...params, id } : params };
  }

  const newest = () => Math.max(state.about ? state.about.checkpoints.length - 1 : 0, 0);

  ibot.address = ({ view, id, ...params }) => {
    const c = "c" in params ? params.c : state.checkpoint;
    // The newest checkpoint is not named: an address then means "as far as the run has come".
    const all = { ...params, c: c === null || Number(c) === newest() ? null : c };
    const given = Object.entries(all).filter(([, v]) => v !== null && v !== undefined && v !== "");
    const query = new URLSearchParams(given).toString();
    const path = id === null || id === undefined ? view : `${view}/${encodeURIComponent(id)}`;
    return `#/${path}${query ? `?${query}` : ""}`;
  };

  ibot.go = (changes, { replace = false, quiet = false } = {}) => {
    const whole = changes.view
      ? changes
      : { view: present.name, ...present.params, ...changes };
    const address = ibot.address(whole);
    if (quiet) {
      // The address has changed, and its view is not open yet: what is on its way out keeps quiet.
      if (location.hash !== present.hash) return;
      history[replace ? "replaceState" : "pushState"](null, "", address);
      present.params = read(address).params;
      present.hash = location.hash;
    } else if (address === location.hash) open();
    else if (replace) location.replace(address);
    else location.hash = address;
  };

  function close() {
    if (!present) return;
    present.controller.abort();
    const view = views.get(present.name);
    if (view && view.close) view.close();
    present = null;
  }

  /* Open what the address says. The element is new each time: late answers find the old one. */
  function open() {
    const { name, params } = read(location.hash);
    const before = present && present.name;
    close();
    document.getElementById("help").close(); // the way back leads out of it, too
    const c = Number(params.c);
    // An export shows the newest: of others it holds what words meant then, nothing else.
    const known = "c" in params && c >= 0 && c <= newest() && !state.exported;
    state.checkpoint = known ? c : newest();
    present = { name, params, hash: location.hash, controller: new AbortController() };
    if (before === name) return ibot.keepFocus(document.getElementById("main"), show);
    window.scrollTo(0, 0);
    show();
    // Tab goes on from the new content; on arrival it begins at the top of the page.
    if (before !== null && document.activeElement === document.body)
      document.getElementById("main").focus({ preventScroll: true });
  }

  function show() {
    const { name, params } = present;
    const root = el("div", { class: `view view-${name}` });
    document.getElementById("main").replaceChildren(root);
    mark(name);
    document.dispatchEvent(new CustomEvent("ibot:opened"));
    const view = views.get(name);
    if (view) return enter(view, root, params);
    ibot.empty(root, "Nothing has this address.", "Choose a view from the bar above.");
  }
  ibot.open = open;

  async function enter(view, root, params) {
    const about = state.about;
    const offered = about && about.views[view.tab || view.name];
    if (offered && !offered.available)
      return ibot.empty(root, `${view.title} cannot be shown here.`, offered.why);
    try {
      await view.open(root, params, present.controller.signal);
    } catch (error) {
      ibot.failed(root, error, open);
    }
  }

  function mark(name) {
    const view = views.get(name);
    const tab = view ? view.tab || name : name;
    for (const link of document.querySelectorAll("#tabs a")) {
      const here = link.dataset.view === tab;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      if (here) link.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    ibot.title(view ? view.title : "");
  }

  ibot.title = (text) => {
    const run = state.about ? state.about.title : "ibot";
    document.title = text ? `${text} · ${run}` : run;
  };

  // Until the first view is there nothing is known that another could show.
  window.addEventListener("hashchange", () => present && open());
})();
