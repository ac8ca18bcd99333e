// Starts what Dash loaded; Dash's own page does it by an inline script, which this site forbids.
new window.DashRenderer();

// A page that can no longer refresh itself turns red, too. Eleven minutes is when the server calls counts late.
setInterval(() => {
  const time = document.querySelector(".as-of time");
  const age = time ? Date.now() - Date.parse(time.dateTime) : 0;
  document.querySelector(".dashboard").classList.toggle("stale", age > 11 * 60_000);
}, 15_000);
