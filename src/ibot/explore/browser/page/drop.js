/* Images of one's own: dropped anywhere, chosen or pasted; the server keeps them in memory. */
"use strict";

(() => {
  const { el } = ibot;
  const zone = document.getElementById("dropzone");
  let depth = 0; // dragenter and dragleave come for each element below the pointer

  ibot.notice = (title, text = "") => {
    const box = el("div", { class: "notice" },
      el("div", {}, el("strong", {}, title), text && el("p", {}, ...ibot.prose(text))),
      el("button", { class: "button quiet", "aria-label": "Dismiss",
        onclick: () => box.remove() }, "✕"));
    document.getElementById("notices").replaceChildren(box);
  };

  async function open(file) {
    if (ibot.state.exported)
      return ibot.notice("This page is an export.", "Start `ibot explore` to open own images.");
    if (!file) return ibot.notice("That was no file.", "Drop or paste one image.");
    document.body.classList.add("busy");
    ibot.announce(`Opening ${file.name}`);
    try {
      const image = await ibot.api.post("/api/drop", file,
        { "X-Name": encodeURIComponent(file.name || "pasted image") });
      document.getElementById("notices").replaceChildren();
      arrived(image);
    } catch (error) {
      const told = [error.why || error.message, error.fix].filter(Boolean).join(" ");
      ibot.notice(`${file.name || "It"} could not be opened`, told);
    } finally {
      document.body.classList.remove("busy");
    }
  }

  function arrived(image) {
    (ibot.state.own ||= []).push(image.id); // the map shows all of them
    const view = ibot.views.get(ibot.place().name);
    if (view && view.dropped) view.dropped(image.id, image);
    else ibot.go({ view: "image", id: image.id });
  }

  const chooser = el("input", { type: "file", accept: "image/*", hidden: true,
    id: "chooser", tabindex: "-1", "aria-label": "Own image" });
  chooser.addEventListener("change", () => {
    if (chooser.files.length) open(chooser.files[0]);
    chooser.value = ""; // the same file can be chosen again
  });
  document.body.append(chooser);
  ibot.choose = () => chooser.click();

  const carriesFile = (event) =>
    event.dataTransfer && [...event.dataTransfer.types].includes("Files");

  function shown(yes) {
    depth = yes ? depth : 0;
    zone.hidden = !yes;
  }
  document.addEventListener("dragenter", (event) => {
    if (!carriesFile(event)) return;
    depth += 1;
    shown(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (carriesFile(event) && --depth <= 0) shown(false);
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFile(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    shown(false);
    open(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData && event.clipboardData.files[0];
    if (file) open(file);
  });
})();
