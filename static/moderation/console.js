"use strict";
// Adds keyboard shortcuts and partial updates to the console's pages, whose forms also work without JavaScript.

// Milliseconds after an item is shown during which clicks on it and keys that decide it are ignored.
const MIN_VIEW_TIME = 500;
// Milliseconds after an ignored key in which the next key counts as its continuation, such as R and 1.
const SEQUENCE_TIME = 2000;
// Milliseconds after K in which the browser begins to go back, if there is a page to go back to.
const MAX_BACK_TIME = 1000;
const PRESENCE_INTERVAL = 8000;
const SIMULATION_DELAY = 200;
const JOB_INTERVAL = 1000;

async function fetchJson(url, body, options = {}) {
  const headers = { "X-Requested-With": "fetch" };
  let response;
  try {
    response = await fetch(url, { method: body ? "POST" : "GET", headers, body, ...options });
  } catch {
    throw new Error("The server could not be reached. Check the connection, then try again.");
  }
  if (response.redirected || !(response.headers.get("Content-Type") || "").includes("json")) {
    throw new Error("You are signed out, or the server had an error. Reload the page.");
  }
  const data = await response.json();
  if (!response.ok) throw new Error(data.message);
  return data;
}

function showMessage(text, isError = false) {
  const status = document.getElementById("status-message");
  if (!status) return;
  clearTimeout(showMessage.timer);
  status.textContent = text;
  status.classList.toggle("error", isError);
  showMessage.timer = setTimeout(
    () => {
      status.textContent = "";
    },
    isError ? 10000 : 4000,
  );
}

// Notices about actions that were not saved stay in this tab, on all pages, until the user dismisses them.
function noticeKey() {
  return `notices-${document.getElementById("unsaved").dataset.user}`;
}

function storedNotices() {
  return JSON.parse(sessionStorage.getItem(noticeKey())) || [];
}

function storeNotices(notices) {
  sessionStorage.setItem(noticeKey(), JSON.stringify(notices));
  drawNotices();
}

function addNotice(text, link = null) {
  storeNotices([...storedNotices(), { id: `${Date.now()}-${Math.random()}`, text, link }]);
}

function drawNotices() {
  const notices = storedNotices().map(({ id, text, link }) => {
    const notice = document.createElement("p"),
      dismiss = document.createElement("button");
    notice.className = "notice";
    notice.append(text, " ");
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link.url;
      anchor.textContent = link.text;
      notice.append(anchor, " ");
    }
    dismiss.type = "button";
    dismiss.className = "plain";
    dismiss.textContent = "Dismiss";
    dismiss.addEventListener("click", () => storeNotices(storedNotices().filter((other) => other.id !== id)));
    notice.append(dismiss);
    return notice;
  });
  document.getElementById("unsaved").replaceChildren(...notices);
}

function startNotices() {
  drawNotices();
  // A page from the browser's back-forward cache may show notices that were dismissed meanwhile.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) drawNotices();
  });
}

function startReview(page) {
  const select = (selector) => page.querySelector(selector);
  const selectAll = (selector) => page.querySelectorAll(selector);
  const dialog = () => document.getElementById("reasons");
  const decideForm = () => select("#decide");
  const itemId = () => Number(select("#centre").dataset.item) || 0;
  const tab = Math.random().toString(36).slice(2);

  const pending = new Map(); // actions whose response has not arrived, by item
  let isLeaving = false; // another page is loading
  let backTimer = 0; // ends `isLeaving` if there is no page to go back to
  let newestAction = null; // of this tab; the U key undoes it
  let prefetched = null; // the request for the next item, and its response
  let leaseRequest = null; // a promise while the item is leased or being leased
  let shownAt = Date.now();
  let shownNumber = 0;
  let presenceTimer = 0;
  let isBusy = false; // while the next item is loading, no key except U works
  let viewsNumber = 0; // of the newest request for the sizes of the saved views
  let ignoredKey = null; // the first key of a sequence that was ignored, and when
  let loading = Promise.resolve();

  const pendingDone = () => Promise.allSettled([...pending.values()].map((action) => action.done));

  function formData(fields = {}) {
    const data = new FormData();
    data.set("csrfmiddlewaretoken", document.querySelector("[name=csrfmiddlewaretoken]").value);
    data.set("view", page.dataset.view);
    data.set("tab", tab);
    for (const [name, value] of Object.entries(fields)) data.set(name, value);
    return data;
  }

  // The server excludes the items that this tab shows or is deciding, so no decided item comes back.
  function fetchNext() {
    const exclude = [...pending.keys(), itemId()].filter(Boolean).join(",");
    return fetchJson(page.dataset.nextUrl, formData({ exclude }));
  }

  // Fetches the next item while this one is read.
  function prefetchNext() {
    const number = ++shownNumber;
    prefetched = null;
    if (!select("#centre").dataset.claimUrl) return;
    const request = { next: null };
    prefetched = request;
    request.done = fetchNext().then(
      (next) => {
        request.next = next;
        if (number !== shownNumber && next.item && next.item !== itemId()) withdrawOffer(next.item);
      },
      () => {},
    );
  }

  function withdrawOffer(item) {
    navigator.sendBeacon(page.dataset.nextUrl.replace("next/", `item/${item}/release/`), formData());
  }

  // Ends the lease and the offers of an item that is left without a decision.
  function release() {
    const { releaseUrl } = select("#centre").dataset;
    if (!releaseUrl || pending.has(itemId())) return;
    const version = leaseRequest ? decideForm().version.value : "";
    navigator.sendBeacon(releaseUrl, formData({ version, prefetched: prefetched?.next?.item || "" }));
    leaseRequest = null;
  }

  // Shows the sizes of the saved views after an action, which the page was rendered before.
  async function updateViews() {
    const number = ++viewsNumber;
    try {
      const { html } = await fetchJson(`${page.dataset.viewsUrl}?view=${page.dataset.view}`);
      if (number === viewsNumber) select(".views").outerHTML = html;
    } catch {
      /* The next action tries again. */
    }
  }

  // Leases the item, because its text was revealed or a decision begins.
  function claim() {
    const centre = select("#centre");
    if (!centre.dataset.claimUrl || leaseRequest) return;
    leaseRequest = fetchJson(centre.dataset.claimUrl, formData()).then(
      (lease) => {
        if (centre !== select("#centre")) return;
        decideForm().version.value = lease.version;
        showLease(lease.lease_until);
        updateViews();
      },
      (error) => {
        if (centre === select("#centre")) disableDecisions(error.message);
      },
    );
  }

  // A note that was typed stays in this tab until its decision is saved, for example when the page is reloaded.
  const noteKey = () => `note-${document.getElementById("unsaved").dataset.user}-${itemId()}`;

  function restoreNote() {
    const stored = sessionStorage.getItem(noteKey());
    if (stored !== null && select("#note")) select("#note").value = stored;
  }

  function showLease(until) {
    const time = select(".lease time");
    time.dataset.until = until;
    time.parentElement.hidden = false;
    select(".renew").textContent = "Extend reservation";
    updateTimers();
  }

  // Another moderator has taken the item: explains why, once, and disables the decision buttons.
  function disableDecisions(message) {
    if (!select("#centre").dataset.claimUrl) return;
    const notice = document.createElement("p");
    notice.className = "notice";
    notice.setAttribute("role", "alert");
    notice.textContent = `View only. ${message} Press J for the next item.`;
    select("#last-decision").after(notice);
    dialog()?.close();
    const controls = selectAll(".decision-buttons button, .renew, [form=decide][name=labels]");
    for (const control of controls) control.disabled = true;
    select(".lease").hidden = true;
    delete select("#centre").dataset.claimUrl;
    leaseRequest = null;
  }

  function initItem() {
    shownAt = Date.now();
    leaseRequest = "hasLease" in select("#centre").dataset ? Promise.resolve() : null;
    for (const control of selectAll(".help, .confirm, .cancel")) {
      control.hidden = control.matches(".help") && !("keys" in page.dataset);
    }
    reportPresence(true);
    prefetchNext();
    restoreNote();
    if (select("#comment")?.open) claim();
    updateSimilarCount();
  }

  function show(next) {
    release();
    page.innerHTML = next.html;
    history.pushState({}, "", next.url);
    document.title = next.title;
    initItem();
    window.scrollTo(0, 0);
    select("#centre").focus({ preventScroll: true });
  }

  async function reportPresence(isFirst = false) {
    clearTimeout(presenceTimer);
    const centre = select("#centre");
    if (!centre.dataset.presenceUrl) return;
    presenceTimer = setTimeout(reportPresence, PRESENCE_INTERVAL);
    if (document.hidden) return;
    try {
      const presence = await fetchJson(
        centre.dataset.presenceUrl,
        formData(isFirst ? { is_first: "1" } : {}),
      );
      if (centre !== select("#centre")) return;
      const viewers = select("#other-viewers");
      viewers.hidden = !presence.other_viewers.length;
      viewers.querySelector("span").textContent = presence.other_viewers.join(", ");
      if (presence.problem) disableDecisions(presence.problem);
      else if (presence.lease_until) showLease(presence.lease_until);
      else if (leaseRequest && !isFirst) {
        leaseRequest = null;
        claim();
      }
    } catch {
      /* The next report tries again. */
    }
  }

  function updateTimers() {
    const time = select(".lease time");
    if (time?.dataset.until) {
      const left = Math.round((new Date(time.dataset.until) - Date.now()) / 1000);
      const clock = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
      const expired = "Reservation expired: extend it or go to the next item";
      time.textContent = left > 0 ? clock : "";
      time.parentElement.firstChild.data = left > 0 ? "Reserved for you: " : expired;
      time.parentElement.classList.toggle("expiring", left < 60);
    }
    const line = select(".last-decision"),
      undoTime = select(".last-decision .undo-time");
    if (undoTime && line.dataset.secondsLeft > 0) {
      line.dataset.secondsLeft -= 1;
      undoTime.querySelector("b").textContent = line.dataset.secondsLeft;
      undoTime.hidden = line.dataset.secondsLeft <= 0;
    }
  }

  const similarIds = () => select("input[name=similar]")?.value;

  function describeAction(name, item) {
    const rule = decideForm().querySelector("[name=rule]:checked")?.closest(".rule");
    const reason = rule?.querySelector("b").textContent;
    return `${name} item ${item}${reason && name === "Reject" ? `: ${reason}` : ""}`;
  }

  // Sends the action and registers it as pending until the response arrives.
  function send(submitter) {
    const form = decideForm(),
      item = itemId();
    form.seconds.value = (Date.now() - shownAt) / 1000;
    // `form.action` would be the buttons of that name.
    const url = submitter.getAttribute("formaction") || form.getAttribute("action");
    const isSkip = submitter.classList.contains("skip");
    const name = { approve: "Approve", reject: "Reject", escalate: "Escalate" }[submitter.value] || "Skip";
    const action = {
      item,
      isSkip,
      noteKey: noteKey(),
      labels: [...selectAll("[name=labels]:checked")].map((box) => box.value),
      label: `${name} item ${item}`,
      link: { url: location.href.split("#")[0], text: `Open item ${item}.` },
      progress: `${describeAction(name, item)}. Saving…`,
    };
    action.done = fetchJson(url, new FormData(form, submitter), { keepalive: true })
      .then(
        (response) => {
          action.response = response;
          sessionStorage.removeItem(action.noteKey);
          if (response.notice) addNotice(response.notice);
        },
        (error) => {
          action.error = error;
          addNotice(`“${action.label}” was not saved. ${error.message}`, action.link);
        },
      )
      .finally(() => {
        pending.delete(item);
      });
    pending.set(item, action);
    newestAction = action;
    delete select("#centre").dataset.releaseUrl;
    return action;
  }

  // Returns whether the moderator can use the keys: they are on, and the device has more than a touch screen.
  function hasKeys() {
    return "keys" in page.dataset && matchMedia("(any-hover: hover)").matches;
  }

  // Decides the item in the background and shows the next one.
  async function decide(submitter) {
    if (isBusy) return;
    const similar = ["approve", "reject"].includes(submitter.value) && similarIds();
    const action = send(submitter);
    dialog().close();
    showProgress(action.progress);
    isBusy = true;
    page.setAttribute("aria-busy", "true");
    loading = showNext(action, similar);
    const isShown = await loading;
    if (!isShown) return;
    showProgress(action.progress);
    await action.done;
    updateViews();
    if (newestAction !== action) return;
    if (action.error) {
      showProgress("");
      return;
    }
    select("#last-decision").innerHTML = action.response.last_decision;
    const hint = action.isSkip ? "U goes back to it." : "U undoes it.";
    showMessage(hasKeys() ? `${action.response.message} ${hint}` : action.response.message);
  }

  // Shows the item after an action; returns false if that failed and the page is being left or the item stays.
  async function showNext(action, similar) {
    try {
      await prefetched?.done;
      let next = prefetched?.next;
      // The prefetched item may be one of the similar comments that are being decided too.
      if (!next?.item || similar) {
        await pendingDone();
        if (next?.item) withdrawOffer(next.item);
        next = await fetchNext();
      }
      show(next);
      return true;
    } catch {
      if (action.error) return false;
      await pendingDone();
      location.assign(select(".views [aria-current]")?.href || page.dataset.nextUrl.replace("next/", ""));
      return false;
    } finally {
      isBusy = false;
      page.removeAttribute("aria-busy");
    }
  }

  function showProgress(text) {
    const line = document.createElement("p");
    line.className = "last-decision";
    line.textContent = text;
    select("#last-decision").replaceChildren(...(text ? [line] : []));
  }

  // The page is left while actions are on their way: their responses will be lost.
  function addPendingNotices() {
    for (const { label, link } of pending.values()) {
      addNotice(`“${label}” may not have been saved: the page was left before the server answered.`, link);
    }
  }

  // Undoes the newest action of this tab once its response has arrived, or after a reload the decision that the
  // page names.
  async function undo() {
    await loading;
    if (isBusy) return showMessage("The last action is being processed. Press U again when it is done.");
    isBusy = true;
    try {
      const action = newestAction;
      if (action && !action.response && !action.error)
        showMessage(`Waiting until item ${action.item} is saved…`);
      await action?.done;
      newestAction = null;
      if (action?.error) return showMessage(`Nothing to undo: “${action.label}” was not saved.`, true);
      const itemUrl = action?.response?.item_url || (!action && select("#undo-skip")?.href);
      if (itemUrl) {
        await pendingDone();
        return void location.assign(itemUrl);
      }
      const url = action ? action.response.undo_url : select("#undo")?.action;
      if (!url) return showMessage("There is nothing to undo here. Your profile lists your last decisions.");
      const response = await fetchJson(url, formData());
      show(response);
      // An escalation stores no labels, so the server cannot tick them again.
      for (const label of action?.labels || []) select(`[name=labels][value=${label}]`).checked = true;
      showMessage(response.message);
    } catch (error) {
      showMessage(error.message, true);
    } finally {
      isBusy = false;
    }
  }

  // Shows on the buttons to how many comments an approval or rejection will apply.
  function updateSimilarCount() {
    const count = similarIds() ? similarIds().split(",").length + 1 : 0;
    for (const label of selectAll(".similar-count")) label.textContent = count ? `all ${count} ` : "";
  }

  async function toggleSimilar() {
    const section = select("#similar");
    if (!section || isBusy) return;
    if (section.dataset.link) {
      section.innerHTML = section.dataset.link;
      delete section.dataset.link;
      return updateSimilarCount();
    }
    if (section.querySelector(".hide-similar")) return void section.querySelector(".hide-similar").click();
    claim();
    try {
      const similar = await fetchJson(select("#centre").dataset.similarUrl);
      if (section !== select("#similar")) return;
      section.dataset.link = section.innerHTML;
      section.innerHTML = similar.html;
      section.scrollIntoView({ block: "nearest" });
      updateSimilarCount();
      const comments = `${similar.count} similar comment${similar.count > 1 ? "s" : ""}`;
      const message = `An approval or rejection will also apply to ${comments}.`;
      showMessage(similar.count ? message : "No similar comment is open any more.");
    } catch (error) {
      showMessage(error.message, true);
    }
  }

  function openReasons() {
    const noLabel = select("[name=none]"); // exists in blind reviews only
    if (noLabel && !noLabel.checked && !select("[name=labels]:checked")) {
      return showMessage("In a blind review, first tick the labels that apply, or “None of these”.", true);
    }
    claim();
    dialog().showModal();
  }

  function confirmReason() {
    if (decideForm().reportValidity()) click(select("#reasons .confirm"));
  }

  function click(control) {
    if (control && !control.disabled) control.click();
  }

  const isJustShown = () => Date.now() - shownAt < MIN_VIEW_TIME;

  // Returns whether to ignore a key that decides or ticks a label. The second of two quick presses was meant for
  // the previous item. A digit after an ignored R would tick a label instead of choosing a reason, and a decision
  // after an ignored digit would lack its label: that next key is ignored once, too.
  function ignoresKey(name) {
    const now = Date.now();
    const isDigit = (key) => /\d/.test(key);
    if (ignoredKey && now - ignoredKey.at > SEQUENCE_TIME) ignoredKey = null;
    const previous = ignoredKey;
    if (isBusy || isJustShown()) ignoredKey = { name: previous?.name || name, at: now };
    else {
      ignoredKey = null;
      if (!previous || isDigit(previous.name) === isDigit(name)) return false;
    }
    const first = (previous?.name || name).toUpperCase();
    showMessage(`The key ${first} was ignored, because the item had only just appeared. Press it again.`);
    return true;
  }

  // Ignores the second click of a double click, which was meant for the previous item, and clicks right after
  // an item is shown. The click event that a key causes has no detail.
  page.addEventListener(
    "click",
    (event) => {
      const isRepeated =
        event.detail > 1 && event.target.closest(".action-bar :is(button, a), #reasons button, #undo button");
      const isEarly = event.detail && isJustShown() && !event.target.closest(".left");
      const isLate = isLeaving && event.target.closest(".action-bar, #reasons");
      if (!isRepeated && !isEarly && !isLate) return;
      event.preventDefault();
      event.stopPropagation();
    },
    true,
  );

  page.classList.add("scripted");
  page.addEventListener("submit", async (event) => {
    const { submitter } = event;
    if (event.target.id === "undo") {
      event.preventDefault();
      undo();
      return;
    }
    if (event.target.id !== "decide" || !submitter) return;
    if (submitter.closest(".decision-buttons, #reasons")) {
      event.preventDefault();
      decide(submitter);
    } else if (submitter.classList.contains("renew")) {
      event.preventDefault();
      leaseRequest = null;
      claim();
      leaseRequest?.then(() => leaseRequest && showMessage("Reserved for you for ten more minutes."));
    } else if (pending.size) {
      event.preventDefault();
      await pendingDone();
      decideForm()?.requestSubmit(submitter);
    }
  });
  page.addEventListener("click", (event) => {
    const isOn = (selector) => event.target.closest(selector);
    if (isOn(".help")) document.getElementById("keys").showModal();
    else if (isOn(".decision-buttons .reject")) {
      event.preventDefault();
      if (!isBusy) openReasons();
    } else if (isOn("#reasons .cancel")) dialog().close();
    else if (isOn("#reasons .confirm") && !decideForm().querySelector("[name=rule]:checked")) {
      event.preventDefault();
      confirmReason();
    } else if (isOn(".show-similar") || (isOn(".hide-similar") && select("#similar").dataset.link)) {
      event.preventDefault();
      toggleSimilar();
    }
  });
  // “None of these” and the labels exclude each other.
  page.addEventListener("change", ({ target }) => {
    if (!target.checked || !target.matches("[name=none], [name=labels]")) return;
    for (const box of selectAll(target.name === "none" ? "[name=labels]" : "[name=none]"))
      box.checked = false;
  });
  page.addEventListener("input", ({ target }) => {
    if (target.id === "note") sessionStorage.setItem(noteKey(), target.value);
  });
  page.addEventListener(
    "toggle",
    (event) => {
      if (event.target.id === "comment" && event.target.open) claim();
    },
    true,
  );
  // A page that loads before a decision is saved could show the decided item again.
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[href]");
    const opensTab = event.ctrlKey || event.metaKey || event.shiftKey || event.button;
    if (!pending.size || !link || event.defaultPrevented || opensTab) return;
    event.preventDefault();
    await pendingDone();
    location.assign(link.href);
  });

  function toggleComment() {
    const comment = select("#comment");
    if (comment) comment.open = !comment.open;
  }

  // From here on, keys and clicks are meant for the next page, not for the item that is still shown.
  function leave() {
    clearTimeout(backTimer);
    isLeaving = true;
  }

  async function goBack() {
    await pendingDone();
    leave();
    backTimer = setTimeout(() => {
      isLeaving = false;
    }, MAX_BACK_TIME);
    history.back();
  }

  const shortcuts = {
    " ": toggleComment,
    a: () => click(select(".decision-buttons .approve")),
    r: () => click(select(".decision-buttons .reject")),
    e: () => click(select(".decision-buttons .escalate")),
    s: () => click(select(".decision-buttons .skip")),
    n: () => select("#note")?.focus(),
    u: undo,
    c: toggleSimilar,
    j: () => click(select(".release") || select(".next-link")),
    k: goBack,
    0: () => click(select("[name=none]")),
    "/": () => document.getElementById("search").focus(),
    "?": () => document.getElementById("keys").showModal(),
  };
  for (const number of "123456") shortcuts[number] = () => click(selectAll("[name=labels]")[number - 1]);
  const decidingKeys = "ares0123456"; // also those that tick labels, which are part of the decision

  function handleDialogKey(event) {
    if (event.repeat || event.target.matches("button")) return;
    if (event.key === "Enter") {
      event.preventDefault();
      confirmReason();
    } else if (/^[1-9]$/.test(event.key)) {
      event.preventDefault();
      const radio = dialog().querySelectorAll("[name=rule]")[event.key - 1];
      click(radio);
      radio?.focus();
    }
  }

  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (key === "Escape" && target.id === "note") return target.blur();
    if (!("keys" in page.dataset) || event.ctrlKey || event.metaKey || event.altKey || event.isComposing)
      return;
    if (dialog()?.open) return handleDialogKey(event);
    if (document.querySelector("dialog[open]")) return;
    const isTyping =
      target.isContentEditable ||
      target.matches("textarea, select, input:not([type=radio], [type=checkbox])");
    // Space and Enter activate the control that has the focus.
    const activates = (key === " " || key === "Enter") && target.matches("a, button, summary, input, label");
    if (isTyping || event.repeat || activates) return;
    const name = key.length === 1 ? key.toLowerCase() : key;
    const shortcut = shortcuts[name];
    if (!shortcut) return;
    event.preventDefault();
    if (isLeaving) return showMessage("The key was ignored, because another page is loading.");
    if (decidingKeys.includes(name) ? ignoresKey(name) : isBusy && shortcut !== undo) return;
    shortcut();
  });
  window.addEventListener("beforeunload", leave);
  window.addEventListener("popstate", async () => {
    leave();
    await pendingDone();
    location.reload();
  });
  window.addEventListener("pagehide", release);
  window.addEventListener("pagehide", addPendingNotices);
  // A page from the browser's back-forward cache shows an outdated item.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  setInterval(updateTimers, 1000);
  initItem();
  updateTimers();
}

function startHistogram(figure) {
  const form = document.getElementById("bulk"),
    dragged = document.getElementById("dragged");
  let begin = null;
  figure.classList.add("scripted");
  document.querySelector(".drag-hint").hidden = false;

  const roundToStep = (score, round) => round(score * 20) / 20;

  function scoreAt(event) {
    const box = figure.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  }

  function draggedRange(event) {
    const score = scoreAt(event);
    return [roundToStep(Math.min(begin, score), Math.floor), roundToStep(Math.max(begin, score), Math.ceil)];
  }

  figure.addEventListener("pointerdown", (event) => {
    begin = scoreAt(event);
    figure.setPointerCapture(event.pointerId);
  });
  figure.addEventListener("pointermove", (event) => {
    if (begin === null) return;
    const [low, high] = draggedRange(event);
    dragged.setAttribute("x", low * 100);
    dragged.setAttribute("width", (high - low) * 100);
    form.score_from.value = low;
    form.score_to.value = high;
  });
  figure.addEventListener("pointerup", (event) => {
    if (begin === null) return;
    [form.score_from.value, form.score_to.value] = draggedRange(event);
    begin = null;
    form.requestSubmit();
  });
}

function startJob(section) {
  if (!("refresh" in section.dataset)) return;
  const timer = setInterval(async () => {
    try {
      const job = await fetchJson(location.href);
      section.innerHTML = job.html;
      if (!job.is_active) clearInterval(timer);
    } catch {
      clearInterval(timer);
    }
  }, JOB_INTERVAL);
}

function startSimulator(form) {
  const simulation = document.getElementById("simulation"),
    tryButton = form.querySelector(".try");
  let timer = 0,
    newest = 0;
  tryButton.hidden = true;

  async function simulate() {
    const number = ++newest;
    try {
      const response = await fetchJson(location.href, new FormData(form, tryButton));
      if (number === newest) simulation.innerHTML = response.html;
    } catch (error) {
      if (number === newest) simulation.textContent = error.message;
    }
  }

  for (const slider of form.querySelectorAll(".slider")) {
    const input = document.getElementById(slider.dataset.for);
    slider.hidden = false;
    slider.addEventListener("input", () => {
      input.value = slider.value;
    });
    const followInput = () => {
      slider.value = input.value === "" ? 1 : input.value;
    };
    input.addEventListener("input", followInput);
    followInput();
  }
  let isChanged = "unsaved" in form.dataset; // the server has rejected the changes
  form.addEventListener("input", () => {
    isChanged = true;
    clearTimeout(timer);
    timer = setTimeout(simulate, SIMULATION_DELAY);
  });

  // The stored version is activated, which would lose the changes.
  const activate = document.querySelector("[value=activate]");
  activate?.form.addEventListener("submit", (event) => {
    if (!isChanged) return;
    event.preventDefault();
    const message = document.getElementById("unsaved-changes");
    message.hidden = false;
    message.scrollIntoView({ block: "nearest" });
  });
}

// Submits a form only while the user is signed in, because the page for signing in would lose its fields.
function startKeptForm(form) {
  const message = document.createElement("p");
  let isChecking = false; // also ignores a second click
  let isSignedIn = false;
  message.className = "overdue";
  message.setAttribute("role", "alert");
  form.addEventListener("submit", async (event) => {
    if (isSignedIn) return;
    event.preventDefault();
    if (isChecking) return;
    isChecking = true;
    event.submitter.parentElement.after(message);
    message.textContent = "";
    try {
      const response = await fetch(location.href);
      if (response.redirected) {
        message.textContent =
          "You are signed out, so nothing was sent. Sign in in another tab, then try again.";
        isChecking = false;
        return;
      }
      // Signing in replaces the token that the form needs.
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      form.csrfmiddlewaretoken.value = page.querySelector("[name=csrfmiddlewaretoken]").value;
    } catch {
      message.textContent = "The server could not be reached, so nothing was sent. Try again.";
      isChecking = false;
      return;
    }
    isSignedIn = true;
    form.requestSubmit(event.submitter);
    isSignedIn = false;
  });
  // The browser's back-forward cache shows the form again.
  window.addEventListener("pageshow", () => {
    isChecking = false;
  });
}

for (const form of document.querySelectorAll("form[data-kept]")) startKeptForm(form);

const STARTERS = {
  unsaved: startNotices,
  review: startReview,
  histogram: startHistogram,
  policy: startSimulator,
  job: startJob,
};
for (const [id, start] of Object.entries(STARTERS)) {
  const element = document.getElementById(id);
  if (element) start(element);
}
