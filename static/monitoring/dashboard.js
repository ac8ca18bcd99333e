// Starts what Dash loaded; Dash's own page does it by an inline script, which this site forbids.
new window.DashRenderer();
