/* The frame around the views: bar, colour scheme, checkpoint, and the line to the server.
   The last script: it asks what there is, then opens the address. */
"use strict";

(() => {
  const { el, api, state } = ibot;
  const TABS = [
    ["words", "Words"], ["image", "Image"], ["compare", "Compare"],
    ["map", "Map"], ["training", "Training"],
  ];
  const byId = (id) => document.getElementById(id);

  /* ---- colour scheme ---- */

  const THEMES = { system: "◐", light: "☀", dark: "☾" };
  const stored = (() => {
    try {
      return localStorage.getItem("ibot-theme");
    } catch {
      return null; // pages from files may have no storage
    }
  })();
  let theme = stored in THEMES ? stored : "system";

  function showTheme() {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = byId("theme");
    if (button) {
      button.textContent = THEMES[theme];
      button.title = `Colours: ${theme} (t)`;
      button.setAttribute("aria-label", `Colours: ${theme}`);
    }
    document.dispatchEvent(new CustomEvent("ibot:theme")); // canvases draw again
  }
  ibot.nextTheme = () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    try {
      localStorage.setItem("ibot-theme", theme);
    } catch { /* as above */ }
    showTheme();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  showTheme();

  /* ---- bar ---- */

  function named({ id, name, step }) {
    const text = step === null ? name : `step ${ibot.number(step)}`;
    return id === state.about.checkpoints.length - 1 ? `${text} · newest` : text;
  }

  function checkpointChoice() {
    const { checkpoints } = state.about;
    if (checkpoints.length < 2 || state.exported) return "";
    const options = checkpoints.map((checkpoint) =>
      el("option", { value: checkpoint.id }, named(checkpoint))).reverse();
    return el("select", { id: "checkpoint", "aria-label": "Checkpoint",
      title: "Checkpoint (c, C): all views show the network as it was then",
      value: state.checkpoint,
      onchange: (event) => ibot.go({ c: Number(event.target.value) }) }, ...options);
  }

  ibot.stepCheckpoint = (by) => {
    if (state.exported) return;
    const last = state.about.checkpoints.length - 1;
    const next = Math.min(Math.max(state.checkpoint + by, 0), last);
    if (next === state.checkpoint) return;
    ibot.announce(state.about.checkpoints[next].name);
    ibot.go({ c: next }, { replace: true });
  };

  /* What the server has to say beside: behind a button, which is marked until they are read. */
  function notesButton(notes) {
    if (!notes.length) return "";
    const key = `ibot-read ${notes.join(" ")}`;
    const line = byId("notes");
    const read = (() => {
      try {
        return sessionStorage.getItem(key) !== null;
      } catch {
        return false;
      }
    })();
    line.replaceChildren(...notes.map((note) => el("p", {}, ...ibot.prose(note))));
    const button = el("button", { class: `button icon${read ? "" : " unread"}`, id: "noted",
      title: notes.join("\n"), "aria-label": `Notes: ${notes.length}`, "aria-expanded": "false",
      "aria-controls": "notes", onclick: () => {
        line.hidden = !line.hidden;
        button.setAttribute("aria-expanded", String(!line.hidden));
        button.classList.remove("unread");
        try {
          sessionStorage.setItem(key, "1");
        } catch { /* then it is marked again */ }
      } }, "i");
    return button;
  }

  function bar() {
    const { about } = state;
    byId("run").replaceChildren(
      el("strong", {}, about.title), el("span", {}, about.network || ""));
    byId("run").title = [about.run || about.weights, about.images.root].filter(Boolean).join("\n");
    byId("tabs").replaceChildren(...TABS.map(([name, title], i) => {
      const { available, why } = about.views[name] || { available: false, why: "" };
      return el("a", { href: ibot.address({ view: name }), "data-view": name,
        class: available ? "" : "unavailable", title: available ? `${title} (${i + 1})` : why },
      title);
    }));
    byId("notes").hidden = true;
    byId("tools").replaceChildren(
      notesButton(about.notes || []),
      checkpointChoice(),
      state.exported ? "" : el("button", { class: "button", id: "own", title: "Open an image (o)",
        onclick: () => ibot.choose() }, "Open image"),
      el("button", { class: "button icon", id: "theme", onclick: () => ibot.nextTheme() }),
      el("button", { class: "button icon", id: "keys", title: "Keys (?)", "aria-label": "Keys",
        onclick: () => ibot.help() }, "?"));
    showTheme();
  }

  document.addEventListener("ibot:opened", () => {
    const choice = byId("checkpoint");
    if (choice) choice.value = state.checkpoint;
    for (const tab of document.querySelectorAll("#tabs a"))
      tab.href = ibot.address({ view: tab.dataset.view });
  });

  /* ---- the server ---- */

  const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  let reconnecting = false;

  async function reconnect() {
    if (reconnecting) return;
    reconnecting = true;
    const line = byId("connection");
    line.hidden = false;
    line.textContent = "The explorer's server does not answer. Trying again …";
    for (;;) {
      await wait(1.5);
      const response = await fetch("/api/about").catch(() => null);
      if (response && response.ok) break;
    }
    line.hidden = true;
    reconnecting = false;
    api.forget(); // another run may be behind the same address now
    start();
  }
  document.addEventListener("ibot:offline", reconnect);

  function preparing(root, about) {
    ibot.loading(root, 4);
    root.firstChild.append(el("p", {}, about.why || "Opening network and images …"));
  }

  async function start() {
    const root = byId("main");
    ibot.loading(root, 4);
    try {
      state.about = await api.get("/api/about", null, { fresh: true });
      while (state.about.state === "loading") {
        preparing(root, state.about);
        await wait(0.5);
        state.about = await api.get("/api/about", null, { fresh: true });
      }
    } catch (error) {
      return ibot.failed(root, error, start);
    }
    state.about.images ??= { root: "", count: 0, classes: null };
    if (state.exported)
      state.listed = (await api.get("/api/images")).images.map(({ id }) => id);
    bar();
    if (state.about.state === "failed")
      return ibot.empty(root, "The explorer could not open this.", state.about.why || "");
    ibot.open();
  }
  start();
})();
