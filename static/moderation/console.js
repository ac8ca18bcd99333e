"use strict";
// What the console's forms do without a script, this does with keys and without loading whole pages.

const ASKED = { "X-Requested-With": "fetch" };

async function ask(url, body) {
  const response = await fetch(url, { method: body ? "POST" : "GET", headers: ASKED, body });
  if (response.redirected || !(response.headers.get("Content-Type") || "").includes("json")) {
    throw new Error("You are signed out, or the server had a fault. Load the page again.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

function say(message, bad = false) {
  const said = document.getElementById("said");
  if (!said) return;
  clearTimeout(say.timer);
  said.textContent = message;
  said.classList.toggle("bad", bad);
  say.timer = setTimeout(() => { said.textContent = ""; }, bad ? 10000 : 4000);
}

function startDesk(desk) {
  const find = (selector) => desk.querySelector(selector);
  const form = () => desk.querySelector("#decide");
  const button = (name) => desk.querySelector(`.verdicts .${name}`);
  let ahead = null, since = Date.now(), busy = false, lookTimer = 0, asked = 0;

  function token(extra = {}) {
    const data = new FormData();
    data.set("csrfmiddlewaretoken", document.querySelector("[name=csrfmiddlewaretoken]").value);
    data.set("view", desk.dataset.view);
    for (const [name, value] of Object.entries(extra)) data.set(name, value);
    return data;
  }

  // The next item is asked for while this one is read, so that it is there at the key.
  function prefetch() {
    const url = find("#centre").dataset.ahead, number = ++asked;
    ahead = null;
    if (url) ask(url, token()).then((part) => { if (number === asked) ahead = part; }, () => {});
  }

  function arm(on) { desk.classList.toggle("arming", on); }

  function settle() {
    since = Date.now();
    arm(false);
    for (const help of desk.querySelectorAll(".help")) help.hidden = !("keys" in desk.dataset);
    look();
    prefetch();
  }

  function show(part) {
    desk.innerHTML = part.html;
    history.pushState({}, "", part.url);
    settle();
    window.scrollTo(0, 0);
    find("#centre").focus({ preventScroll: true });
  }

  async function look(renew) {
    clearTimeout(lookTimer);
    const centre = find("#centre");
    if (!centre.dataset.look) return;
    lookTimer = setTimeout(look, 8000);
    if (document.hidden) return;
    try {
      const seen = await ask(centre.dataset.look, token(renew === true ? { renew: "1" } : {}));
      if (centre !== find("#centre")) return;
      const others = find("#others");
      others.hidden = !seen.others.length;
      others.querySelector("span").textContent = seen.others.join(", ");
      if (seen.until) find(".lease time").dataset.until = seen.until;
      if (form()) form().version.value = seen.until ? seen.version : form().version.value;
    } catch (error) { if (renew === true) say(error.message, true); }
  }

  function tick() {
    const time = find(".lease time");
    if (time) {
      const left = Math.round((new Date(time.dataset.until) - Date.now()) / 1000);
      time.textContent = left > 0 ? `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}` : "";
      time.parentElement.firstChild.data = left > 0 ? "Yours for " : "Your time is up: keep it or take the next";
      time.parentElement.classList.toggle("late", left < 60);
    }
    const last = find(".last"), tell = find(".last .tell");
    if (tell && last.dataset.left > 0) {
      last.dataset.left -= 1;
      tell.querySelector("b").textContent = last.dataset.left;
      tell.hidden = last.dataset.left <= 0;
    }
  }

  async function send(submitter) {
    if (busy) return;
    const decide = form(), skips = submitter.classList.contains("skip");
    const alike = desk.querySelector("[name=alike]:checked");
    decide.seconds.value = (Date.now() - since) / 1000;
    // `decide.action` is the buttons of that name.
    const url = submitter.getAttribute("formaction") || decide.getAttribute("action");
    const data = new FormData(decide, submitter);
    // With the similar ones decided too, the item in hand may be one of them.
    const next = alike ? null : ahead;
    const back = location.href;
    busy = true;
    if (next?.html) show(next);
    try {
      const answer = await ask(url, data);
      if (!next?.html) return void location.assign(next?.url || desk.querySelector(".views [aria-current]").href);
      find("#last").innerHTML = answer.last;
      say(skips ? "Skipped." : find(".last .verdict").textContent + ". U takes it back.");
      if (!ahead) prefetch();
    } catch (error) {
      say(error.message, true);
      const link = document.createElement("a");
      link.href = back.split("#")[0];
      link.textContent = " See that item.";
      if (next?.html) document.getElementById("said").append(link);
    } finally { busy = false; }
  }

  desk.addEventListener("submit", (event) => {
    const submitter = event.submitter;
    if (event.target.id !== "decide" || !submitter) return;
    if (submitter.closest(".verdicts")) { event.preventDefault(); send(submitter); }
    else if (submitter.classList.contains("renew")) { event.preventDefault(); look(true).then(() => say("Yours for ten more minutes.")); }
  });
  desk.addEventListener("click", (event) => {
    if (event.target.closest(".help")) document.getElementById("keys").showModal();
  });

  const press = (element) => element && !element.disabled && element.click();
  const keys = {
    " ": () => { const comment = find("#comment"); if (comment) comment.open = !comment.open; },
    a: () => press(button("approve")),
    r: () => {
      if (!button("reject")) return;
      if (desk.classList.contains("arming")) return press(button("reject"));
      arm(true);
      find(".rules :checked")?.focus();
      say("Enter rejects for the chosen reason. The arrows choose another, Esc goes back.");
    },
    Enter: () => { if (desk.classList.contains("arming")) press(button("reject")); },
    Escape: () => arm(false),
    e: () => press(button("escalate")),
    s: () => press(button("skip")),
    n: () => find("#note")?.focus(),
    u: () => find("#undo")?.requestSubmit(),
    c: () => press(find("[name=alike]")),
    j: () => press(find(".later") || find(".go")),
    k: () => history.back(),
    "/": () => document.getElementById("search").focus(),
    "?": () => document.getElementById("keys").showModal(),
  };
  for (const number of "123456") keys[number] = () => press(desk.querySelectorAll("[name=labels]")[number - 1]);

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.key === "Escape" && at.id === "note") return at.blur();
    if (!("keys" in desk.dataset) || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    const typing = at.isContentEditable || at.matches("textarea, select, input:not([type=radio], [type=checkbox])");
    // Space and Enter belong to the control that has the focus; in an armed rejection Enter confirms.
    const own = (event.key === " " || event.key === "Enter") && at.matches("a, button, summary, input, label");
    const confirms = event.key === "Enter" && at.name === "rule" && desk.classList.contains("arming");
    if (typing || event.repeat || (own && !confirms)) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    if (event.key !== "Escape") event.preventDefault();
    act();
  });
  window.addEventListener("popstate", () => location.reload());
  // A page kept by the back button shows an item as it was: ask anew.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  setInterval(tick, 1000);
  settle();
  tick();
}

function startHistogram(figure) {
  const form = document.getElementById("bulk"), dragged = document.getElementById("dragged");
  let begin = null;
  figure.classList.add("live");
  document.querySelector(".drag").hidden = false;
  const at = (event) => {
    const box = figure.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  };
  const step = (share, round) => round(share * 20) / 20;
  const range = (event) => {
    const here = at(event);
    return [step(Math.min(begin, here), Math.floor), step(Math.max(begin, here), Math.ceil)];
  };
  figure.addEventListener("pointerdown", (event) => { begin = at(event); figure.setPointerCapture(event.pointerId); });
  figure.addEventListener("pointermove", (event) => {
    if (begin === null) return;
    const [low, high] = range(event);
    dragged.setAttribute("x", low * 100);
    dragged.setAttribute("width", (high - low) * 100);
    form.score_from.value = low;
    form.score_to.value = high;
  });
  figure.addEventListener("pointerup", (event) => {
    if (begin === null) return;
    [form.score_from.value, form.score_to.value] = range(event);
    begin = null;
    form.requestSubmit();
  });
}

function startJob(job) {
  const timer = setInterval(async () => {
    try {
      const answer = await ask(location.href);
      job.innerHTML = answer.html;
      if (answer.over) clearInterval(timer);
    } catch (error) { clearInterval(timer); }
  }, 1000);
}

function startSimulator(form) {
  const figures = document.getElementById("figures"), attempt = form.querySelector(".try");
  let timer = 0, number = 0;
  attempt.hidden = true;
  async function run() {
    const mine = ++number;
    try {
      const answer = await ask(location.href, new FormData(form, attempt));
      if (mine === number) figures.innerHTML = answer.html;
    } catch (error) { if (mine === number) figures.textContent = error.message; }
  }
  for (const slider of form.querySelectorAll(".slider")) {
    const box = document.getElementById(slider.dataset.for);
    slider.hidden = false;
    slider.addEventListener("input", () => { box.value = slider.value; });
    box.addEventListener("input", () => { slider.value = box.value === "" ? 1 : box.value; });
  }
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(run, 200); });
}

for (const [id, start] of [["desk", startDesk], ["histogram", startHistogram], ["policy", startSimulator]]) {
  const found = document.getElementById(id);
  if (found) start(found);
}
const watched = document.querySelector("#job[data-watch]");
if (watched) startJob(watched);
