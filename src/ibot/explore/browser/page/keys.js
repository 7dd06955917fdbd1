/* Shortcuts, and the list of them under "?". */
"use strict";

(() => {
  const { el } = ibot;
  const common = [
    { key: "?", text: "this list", run: () => help() },
    { key: "1 … 5", text: "go to a view" },
    { key: "o", text: "open an image of your own", run: () => ibot.choose() },
    { key: "t", text: "dark, light or as the system", run: () => ibot.nextTheme() },
    { key: "c", text: "older checkpoint", run: () => ibot.stepCheckpoint(-1) },
    { key: "C", text: "newer checkpoint", run: () => ibot.stepCheckpoint(1) },
  ];

  function viewKeys() {
    const place = ibot.place();
    const view = place && ibot.views.get(place.name);
    return { title: view ? view.title : "", keys: (view && view.keys) || [] };
  }

  const rows = (keys) =>
    el("dl", { class: "shortcuts" },
      keys.map(({ key, text }) =>
        el("div", {},
          el("dt", {}, ...key.split(" ").map((name) => el("kbd", {}, name))),
          el("dd", {}, text))));

  function help() {
    const dialog = document.getElementById("help");
    const { title, keys } = viewKeys();
    dialog.replaceChildren(
      el("form", { method: "dialog" },
        el("h2", { id: "help-title" }, "Keys"),
        el("button", { class: "button quiet", "aria-label": "Close" }, "Close")),
      rows(common), keys.length ? el("h3", {}, title) : "", rows(keys));
    dialog.showModal();
  }
  ibot.help = help;

  const typing = (target) =>
    target.closest && target.closest("input:not([type=range]):not([type=checkbox]), select, textarea");

  document.addEventListener("keydown", (event) => {
    const busy = event.ctrlKey || event.metaKey || event.altKey || typing(event.target);
    if (event.defaultPrevented || busy || document.querySelector("dialog[open]")) return;
    const found = [...viewKeys().keys, ...common].find(
      ({ key, run }) => run && key.split(" ").includes(event.key));
    const tab = /^[1-5]$/.test(event.key)
      ? document.querySelectorAll("#tabs a")[Number(event.key) - 1] : null;
    if (!found && !tab) return;
    event.preventDefault();
    if (found) found.run(event);
    else tab.click();
  });

  /* "#main" is an address of the router, too: the link moves the focus itself. */
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
})();
