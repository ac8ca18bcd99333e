"use strict";
// Scores a comment while it is typed. The forms also work without JavaScript.

const TYPING_PAUSE = 250; // milliseconds without input before the text is scored

function startLiveScoring(form) {
  const text = form.elements.text;
  const result = document.getElementById("result");
  const status = document.getElementById("live-status");
  const source = document.getElementById("source");
  const announcement = document.getElementById("announcement");
  const example = document.getElementById("example");
  let timer, request;

  // Changes the text only if it differs, because screen readers announce each change.
  function setText(element, content) {
    if (element.textContent !== content) element.textContent = content;
  }

  function show(html) {
    const widths = [...result.querySelectorAll(".fill")].map((bar) => bar.getAttribute("width"));
    result.innerHTML = html; // from a template of the server, which escapes the comment
    for (const [index, bar] of result.querySelectorAll(".fill").entries()) {
      const width = bar.getAttribute("width");
      if (widths[index] === undefined) continue;
      bar.setAttribute("width", widths[index]); // the old width first, to animate the change
      bar.getBoundingClientRect();
      bar.setAttribute("width", width);
    }
    document.getElementById("after")?.remove(); // it belongs to the previous text
    setText(announcement, document.getElementById("verdict")?.textContent.trim() ?? "");
    setText(status, "");
  }

  async function score() {
    request?.abort();
    const current = new AbortController();
    request = current;
    result.classList.add("stale");
    try {
      const response = await fetch(form.dataset.live, {
        method: "POST",
        body: new FormData(form),
        signal: current.signal,
        headers: { Accept: "text/html, application/json" },
      });
      if (response.ok) show(await response.text());
      else if (response.status === 400) setText(status, (await response.json()).error);
      else if (response.status === 429)
        setText(status, "Too many requests. Live scoring continues in a moment.");
      else setText(status, "Live scoring is not available right now. Please try “Check comment”.");
    } catch (error) {
      if (error.name !== "AbortError") setText(status, "Live scoring can't reach the server right now.");
    } finally {
      if (current === request) result.classList.remove("stale");
    }
  }

  text.addEventListener("input", () => {
    clearTimeout(timer);
    request?.abort();
    timer = setTimeout(score, TYPING_PAUSE);
  });

  example.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const response = await fetch(example.action, { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Error(response.status);
      const comment = await response.json();
      text.value = comment.text;
      source.textContent = "This example comes with toxicmod.";
      clearTimeout(timer);
      score();
    } catch {
      setText(status, "No example is available right now. Please try again in a moment.");
    }
  });
}

function startCopyButton(button) {
  const status = document.getElementById("copy-status");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(document.getElementById("share").href);
      status.textContent = "Copied.";
    } catch {
      status.textContent = "Your browser did not allow copying. Please copy the link by hand.";
    }
  });
}

// A second click would store the visitor's text twice. The page may be shown again from the browser's cache.
function submitOnce(form) {
  const buttons = [...form.elements].filter((element) => element.type === "submit");
  const disable = (isDisabled) => {
    for (const button of buttons) button.disabled = isDisabled;
  };
  form.addEventListener("submit", () => disable(true));
  window.addEventListener("pageshow", () => disable(false));
}
for (const form of document.querySelectorAll("form[method=post]")) submitOnce(form);

const form = document.getElementById("try");
if (form) startLiveScoring(form);
const copyButton = document.getElementById("copy");
if (copyButton && navigator.clipboard) startCopyButton(copyButton);

// Escape hides a tooltip without moving the pointer or the focus (WCAG 1.4.13).
const root = document.documentElement;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") root.classList.add("hide-tips");
});
for (const type of ["pointerover", "focusin"]) {
  document.addEventListener(type, () => root.classList.remove("hide-tips"));
}
