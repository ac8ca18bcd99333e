// Updates the progress of a training run. Without JavaScript the user reloads the page.
const run = document.getElementById("run");
const unfinished = ["queued", "running"];

async function update() {
  try {
    const response = await fetch(run.dataset.url, { headers: { Accept: "application/json" } });
    if (!response.ok) return;
    const state = await response.json();
    document.getElementById("run-status").textContent = state.status_display;
    document.getElementById("run-progress").value = state.progress;
    document.getElementById("run-step").textContent = state.step;
    document.getElementById("run-explanation").textContent = state.explanation;
    if (!unfinished.includes(state.status)) {
      clearInterval(timer);
      location.reload();
    }
  } catch {
    // The server can't be reached. The next update tries again.
  }
}

const timer = run && document.querySelector("form [value^=Cancel]") ? setInterval(update, 2000) : 0;
