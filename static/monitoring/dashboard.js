// Start Dash. Its own page does this in an inline script, which this site's Content-Security-Policy forbids.
new window.DashRenderer();

// Mark the data as late if the page could not refresh itself. The server calls rollups late after ten minutes,
// and the page refreshes itself every minute.
setInterval(() => {
  const time = document.querySelector(".as-of time");
  const age = time ? Date.now() - Date.parse(time.dateTime) : 0;
  document.querySelector(".dashboard").classList.toggle("stale", age > 11 * 60_000);
}, 15_000);
