"use strict";
// What the console's forms do without a script, this does with keys and without loading whole pages.

const NOUNS = { Approve: "approval", Reject: "rejection", Escalate: "escalation", Skip: "skip" };
const ASKED = { "X-Requested-With": "fetch" };

async function ask(url, body, options = {}) {
  let response;
  try {
    response = await fetch(url, { method: body ? "POST" : "GET", headers: ASKED, body, ...options });
  } catch (error) {
    throw new Error("The server could not be reached. Check the connection, then try again.");
  }
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
  const tab = Math.random().toString(36).slice(2);
  // Decisions whose answer has not come yet, by item; the newest action of this tab, which U undoes.
  const pending = new Map();
  let newest = null, ahead = null, held = null, since = Date.now(), shownAt = 0, lookTimer = 0;
  let waits = false, showing = Promise.resolve();  // while the next item is not there, keys other than U do nothing

  const item = () => Number(find("#centre").dataset.item) || 0;
  const settled = () => Promise.allSettled([...pending.values()].map((entry) => entry.done));

  function token(extra = {}) {
    const data = new FormData();
    data.set("csrfmiddlewaretoken", document.querySelector("[name=csrfmiddlewaretoken]").value);
    data.set("view", desk.dataset.view);
    data.set("tab", tab);
    for (const [name, value] of Object.entries(extra)) data.set(name, value);
    return data;
  }

  // The server leaves out what this tab shows or is deciding, so no decided item comes back.
  const next = () => ask(desk.dataset.next, token({ besides: [...pending.keys(), item()].filter(Boolean).join(",") }));

  // The next item is asked for while this one is read, so that it is there at the key.
  function prefetch() {
    const number = ++shownAt;
    ahead = null;
    if (!find("#centre").dataset.claim) return;
    const asked = { part: null };
    ahead = asked;
    asked.done = next().then((part) => {
      asked.part = part;
      if (number !== shownAt && part.item && part.item !== item()) drop(part.item);
    }, () => {});
  }

  const drop = (pk) => navigator.sendBeacon(desk.dataset.next.replace("next/", `item/${pk}/release/`), token());

  // Ends the lease and the offers of the item that is left without a decision.
  function leave() {
    const { release } = find("#centre").dataset;
    if (!release || pending.has(item())) return;
    navigator.sendBeacon(release, token({ version: held ? form().version.value : "", ahead: ahead?.part?.item || "" }));
    held = null;
  }

  // Leases the item: its text was revealed, or a decision begins.
  function hold() {
    const centre = find("#centre");
    if (!centre.dataset.claim || held) return;
    held = ask(centre.dataset.claim, token()).then((lease) => {
      if (centre !== find("#centre")) return;
      form().version.value = lease.version;
      reserved(lease.until);
    }, (error) => { if (centre === find("#centre")) unavailable(error.message); });
  }

  function reserved(until) {
    const time = find(".lease time");
    time.dataset.until = until;
    time.parentElement.hidden = false;
    find(".renew").textContent = "Extend reservation";
    tick();
  }

  // Somebody else took the item meanwhile: say so and offer no decision.
  function unavailable(message) {
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    notice.textContent = `View only. ${message} Press J for the next item.`;
    find("#last").after(notice);
    document.getElementById("reasons")?.close();
    for (const control of desk.querySelectorAll(".verdicts button, .renew, [form=decide][name=labels]")) control.disabled = true;
    delete find("#centre").dataset.claim;
    held = null;
  }

  function settle() {
    since = Date.now();
    held = "held" in find("#centre").dataset ? Promise.resolve() : null;
    for (const help of desk.querySelectorAll(".help, .confirm, .cancel")) help.hidden = help.matches(".help") && !("keys" in desk.dataset);
    look(true);
    prefetch();
    if (find("#comment")?.open) hold();
    also();
  }

  function show(part) {
    leave();
    desk.innerHTML = part.html;
    history.pushState({}, "", part.url);
    settle();
    window.scrollTo(0, 0);
    find("#centre").focus({ preventScroll: true });
  }

  async function look(begins) {
    clearTimeout(lookTimer);
    const centre = find("#centre");
    if (!centre.dataset.look) return;
    lookTimer = setTimeout(look, 8000);
    if (document.hidden) return;
    try {
      const seen = await ask(centre.dataset.look, token(begins === true ? { begins: "1" } : {}));
      if (centre !== find("#centre")) return;
      const others = find("#others");
      others.hidden = !seen.others.length;
      others.querySelector("span").textContent = seen.others.join(", ");
      if (seen.problem) unavailable(seen.problem);
      else if (seen.until) reserved(seen.until);
      else if (held && begins !== true) { held = null; hold(); }
    } catch (error) { /* The next look tries again. */ }
  }

  function tick() {
    const time = find(".lease time");
    if (time?.dataset.until) {
      const left = Math.round((new Date(time.dataset.until) - Date.now()) / 1000);
      time.textContent = left > 0 ? `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}` : "";
      time.parentElement.firstChild.data = left > 0 ? "Reserved for you: " : "Reservation expired: extend it or go to the next item";
      time.parentElement.classList.toggle("late", left < 60);
    }
    const last = find(".last"), tell = find(".last .tell");
    if (tell && last.dataset.left > 0) {
      last.dataset.left -= 1;
      tell.querySelector("b").textContent = last.dataset.left;
      tell.hidden = last.dataset.left <= 0;
    }
  }

  // Decides the item in the background and shows the next one.
  async function send(submitter) {
    if (waits) return;
    let shown;
    showing = new Promise((resolve) => { shown = resolve; });
    const decide = form(), at = item(), back = location.href.split("#")[0];
    const reason = decide.querySelector("[name=rule]:checked")?.closest(".rule").querySelector("b").textContent;
    const name = submitter.classList.contains("skip") ? "Skip" : { approve: "Approve", reject: "Reject", escalate: "Escalate" }[submitter.value];
    const similar = desk.querySelector("input[name=similar]")?.value;
    decide.seconds.value = (Date.now() - since) / 1000;
    // `decide.action` is the buttons of that name.
    const url = submitter.getAttribute("formaction") || decide.getAttribute("action");
    const data = new FormData(decide, submitter);
    document.getElementById("reasons").close();
    const entry = { at, name };
    entry.done = ask(url, data, { keepalive: true }).then(
      (answer) => { entry.answer = answer; },
      (error) => { entry.error = error; unsaved(name, at, back, error.message); },
    ).finally(() => { pending.delete(at); });
    pending.set(at, entry);
    newest = entry;
    delete find("#centre").dataset.release;
    const saving = `${name} item ${at}${reason && name === "Reject" ? `: ${reason}` : ""}. Saving…`;
    strip(saving);
    waits = true;
    desk.setAttribute("aria-busy", "true");
    try {
      await ahead?.done;
      let part = ahead?.part;
      // Similar comments are decided too, so the item that came ahead may be one of them.
      if (!part?.item || similar) {
        await settled();
        if (part?.item) drop(part.item);
        part = await next();
      }
      show(part);
    } catch (error) {
      if (entry.error) return;
      await entry.done;
      location.assign(find(".views [aria-current]")?.href || desk.dataset.next.replace("next/", ""));
      return;
    } finally {
      waits = false;
      desk.removeAttribute("aria-busy");
      shown();
    }
    strip(saving);
    await entry.done;
    if (newest !== entry) return;
    if (entry.error) { strip(""); return; }
    find("#last").innerHTML = entry.answer.last;
    say(`${entry.answer.message} U ${name === "Skip" ? "goes back to it" : "undoes it"}.`);
    if (entry.answer.notice) note(entry.answer.notice);
  }

  function strip(text) {
    const line = document.createElement("p");
    line.className = "last";
    line.textContent = text;
    find("#last").replaceChildren(...(text ? [line] : []));
  }

  // What was not stored stays on the page until it is dismissed.
  function note(text, link) {
    const line = document.createElement("p"), close = document.createElement("button");
    line.className = "notice";
    line.textContent = text;
    close.type = "button";
    close.className = "plain";
    close.textContent = "Dismiss";
    close.addEventListener("click", () => line.remove());
    line.append(" ", ...(link ? [link, " "] : []), close);
    document.getElementById("unsaved").append(line);
  }

  function unsaved(name, at, back, message) {
    const link = document.createElement("a");
    link.href = back;
    link.textContent = `Open item ${at}.`;
    note(`${name} item ${at} was not stored. ${message}`, link);
  }

  // Undoes the newest action of this tab, once its answer is there; after a reload what the line names.
  async function undo() {
    await showing;
    if (waits) return;
    waits = true;
    try {
      const entry = newest;
      if (entry && !entry.answer && !entry.error) say(`Waiting until item ${entry.at} is stored…`);
      await entry?.done;
      newest = null;
      if (entry?.error) return say(`Nothing was undone: ${NOUNS[entry.name]} of item ${entry.at} had not been stored.`, true);
      const link = entry?.answer?.back || (!entry && find("#undo-skip")?.href);
      if (link) return void location.assign(link);
      const url = entry ? entry.answer.undo : find("#undo")?.action;
      if (!url) return say("There is nothing to undo here. My page lists your last decisions.");
      const answer = await ask(url, token());
      show(answer);
      say(answer.message);
    } catch (error) {
      say(error.message, true);
    } finally { waits = false; }
  }

  // Says on the buttons how many comments the next decision is for.
  function also() {
    const similar = desk.querySelector("input[name=similar]")?.value;
    const count = similar ? similar.split(",").length + 1 : 0;
    for (const place of desk.querySelectorAll(".also")) place.textContent = count ? `all ${count} ` : "";
  }

  async function toggleSimilar() {
    const place = find("#similar");
    if (!place || waits) return;
    if (place.dataset.link) {
      place.innerHTML = place.dataset.link;
      delete place.dataset.link;
      return also();
    }
    if (place.querySelector(".hide-similar")) return void place.querySelector(".hide-similar").click();
    hold();
    try {
      const answer = await ask(find("#centre").dataset.similar);
      if (place !== find("#similar")) return;
      place.dataset.link = place.innerHTML;
      place.innerHTML = answer.html;
      place.scrollIntoView({ block: "nearest" });
      also();
      say(answer.count ? `The decision will also apply to ${answer.count} similar comment${answer.count > 1 ? "s" : ""}.` : "No similar comment is open any more.");
    } catch (error) { say(error.message, true); }
  }

  function openReasons() {
    const blind = find("[name=none]");
    if (blind && !blind.checked && !find("[name=labels]:checked")) {
      return say("In a blind review, first tick the labels that apply, or “None of these”.", true);
    }
    hold();
    document.getElementById("reasons").showModal();
  }

  function confirmReasons() {
    if (form().reportValidity()) press(find("#reasons .confirm"));
  }

  // The second click of a double click was meant for the item before; a key's click has no detail.
  desk.addEventListener("click", (event) => {
    const again = event.detail > 1 && event.target.closest(".act :is(button, a), #reasons button, #undo button");
    const early = event.detail && Date.now() - since < 500 && !event.target.closest(".left");
    if (!again && !early) return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  desk.classList.add("live");
  desk.addEventListener("submit", async (event) => {
    const { submitter } = event;
    if (event.target.id === "undo") { event.preventDefault(); undo(); return; }
    if (event.target.id !== "decide" || !submitter) return;
    if (submitter.closest(".verdicts, #reasons")) { event.preventDefault(); send(submitter); }
    else if (submitter.classList.contains("renew")) {
      event.preventDefault();
      held = null;
      hold();
      held?.then(() => held && say("Reserved for you for ten more minutes."));
    } else if (pending.size) {
      event.preventDefault();
      await settled();
      form()?.requestSubmit(submitter);
    }
  });
  desk.addEventListener("click", (event) => {
    if (event.target.closest(".help")) document.getElementById("keys").showModal();
    else if (event.target.closest(".verdicts .reject")) { event.preventDefault(); if (!waits) openReasons(); }
    else if (event.target.closest("#reasons .cancel")) document.getElementById("reasons").close();
    else if (event.target.closest("#reasons .confirm") && !form().querySelector("[name=rule]:checked")) { event.preventDefault(); confirmReasons(); }
    else if (event.target.closest(".show-similar") || (event.target.closest(".hide-similar") && find("#similar").dataset.link)) { event.preventDefault(); toggleSimilar(); }
  });
  desk.addEventListener("toggle", (event) => { if (event.target.id === "comment" && event.target.open) hold(); }, true);
  // A page that is loaded while a decision is on its way could show the decided item again.
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[href]");
    if (!pending.size || !link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    await settled();
    location.assign(link.href);
  });

  const press = (element) => element && !element.disabled && element.click();
  const keys = {
    " ": () => { const comment = find("#comment"); if (comment) comment.open = !comment.open; },
    a: () => press(button("approve")),
    r: () => press(button("reject")),
    e: () => press(button("escalate")),
    s: () => press(button("skip")),
    n: () => find("#note")?.focus(),
    u: undo,
    c: toggleSimilar,
    j: () => press(find(".later") || find(".go")),
    k: () => history.back(),
    0: () => press(find("[name=none]")),
    "/": () => document.getElementById("search").focus(),
    "?": () => document.getElementById("keys").showModal(),
  };
  for (const number of "123456") keys[number] = () => press(desk.querySelectorAll("[name=labels]")[number - 1]);

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.key === "Escape" && at.id === "note") return at.blur();
    if (!("keys" in desk.dataset) || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const reasons = document.getElementById("reasons");
    if (reasons?.open) {
      if (event.repeat || at.matches("button")) return;
      if (event.key === "Enter") { event.preventDefault(); confirmReasons(); }
      else if (/^[1-9]$/.test(event.key)) { event.preventDefault(); const radio = reasons.querySelectorAll("[name=rule]")[event.key - 1]; press(radio); radio?.focus(); }
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    const typing = at.isContentEditable || at.matches("textarea, select, input:not([type=radio], [type=checkbox])");
    // Space and Enter belong to the control that has the focus.
    const own = (event.key === " " || event.key === "Enter") && at.matches("a, button, summary, input, label");
    if (typing || event.repeat || own) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (waits && act !== undo)) return;
    event.preventDefault();
    act();
  });
  window.addEventListener("popstate", async () => { await settled(); location.reload(); });
  window.addEventListener("pagehide", leave);
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
