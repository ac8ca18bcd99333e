// Shows how far a training run is, without reloading. Without this file the page is reloaded by hand.
const run = document.getElementById("run");
const going = ["queued", "running"];

async function look() {
  try {
    const answer = await fetch(run.dataset.url, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const now = await answer.json();
    document.getElementById("run-status").textContent = now.status_display;
    document.getElementById("run-share").value = now.share;
    document.getElementById("run-step").textContent = now.step;
    if (!going.includes(now.status)) {
      clearInterval(timer);
      location.reload();
    }
  } catch {
    // The server is away for a moment: the next look tells.
  }
}

const timer = run && document.querySelector("form [value^=Cancel]") ? setInterval(look, 2000) : 0;
