"use strict";

const WAIT = 250; // milliseconds without a keystroke before a comment is scored

const form = document.getElementById("try");
if (form) {
  const text = form.elements.text;
  const result = document.getElementById("result");
  const status = document.getElementById("live");
  const source = document.getElementById("source");
  const spoken = document.getElementById("spoken");
  let timer, running;

  const say = (words) => { if (status.textContent !== words) status.textContent = words; };

  function show(html) {
    const before = [...result.querySelectorAll(".fill")].map((bar) => bar.getAttribute("width"));
    result.innerHTML = html; // the server's own template, which escapes the comment
    for (const [index, bar] of result.querySelectorAll(".fill").entries()) {
      const width = bar.getAttribute("width");
      if (before[index] === undefined) continue;
      bar.setAttribute("width", before[index]); // so that the bar moves instead of jumping
      bar.getBoundingClientRect();
      bar.setAttribute("width", width);
    }
    document.getElementById("after")?.remove(); // it spoke of the comment as it was
    const verdict = document.getElementById("verdict")?.textContent.trim() ?? "";
    if (spoken.textContent !== verdict) spoken.textContent = verdict; // for screen readers
    say("");
  }

  async function score() {
    running?.abort();
    const mine = (running = new AbortController());
    result.classList.add("stale");
    try {
      const answer = await fetch(form.dataset.live, {
        method: "POST",
        body: new FormData(form),
        signal: mine.signal,
        headers: { Accept: "text/html, application/json" },
      });
      if (answer.ok) show(await answer.text());
      else if (answer.status === 400) say((await answer.json()).error);
      else if (answer.status === 429) say("That was a lot of typing at once. Live scoring goes on in a moment.");
      else say("Live scoring is not available right now. “Score it” may work.");
    } catch (error) {
      if (error.name !== "AbortError") say("Live scoring can't reach the server right now.");
    } finally {
      if (mine === running) result.classList.remove("stale");
    }
  }

  text.addEventListener("input", () => {
    clearTimeout(timer);
    running?.abort();
    timer = setTimeout(score, WAIT);
  });

  const example = document.getElementById("example");
  example.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const answer = await fetch(example.action, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(answer.status);
      const found = await answer.json();
      text.value = found.text;
      source.textContent = `An example, ${found.source === "built-in" ? "one of our own" : `from ${found.source}`}.`;
      clearTimeout(timer);
      score();
    } catch {
      say("No example can be had right now. Please try again in a moment.");
    }
  });
}

const copy = document.getElementById("copy");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const said = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(document.getElementById("share").href);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "Your browser did not allow it: please copy the link by hand.";
    }
  });
}

// Escape hides a tooltip without moving the pointer or the focus (WCAG 1.4.13).
const root = document.documentElement;
document.addEventListener("keydown", (event) => { if (event.key === "Escape") root.classList.add("quiet-tips"); });
for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, () => root.classList.remove("quiet-tips"));
