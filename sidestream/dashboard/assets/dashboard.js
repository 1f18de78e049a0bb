// Keeps an open page up to date, and says what is under the pointer. Without it the page is whole, and loads anew.
"use strict";

(() => {
  const POLL_MS = 5000;
  const SILENT_MS = 45000;
  const main = document.getElementById("main");
  const lamp = document.getElementById("live");
  document.documentElement.classList.add("scripted");

  // --- Filters: what is chosen is looked at, without another click. ---
  const form = document.querySelector("form.controls");
  if (form) {
    const go = () => {
      const query = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value) query.append(name, value);
      const text = query.toString();
      location.assign(form.getAttribute("action") + (text ? "?" + text : ""));
    };
    // By the pointer a choice is one click. By the keys each step would be one: then Enter or the button says so.
    let keyed = false;
    form.addEventListener("pointerdown", () => (keyed = false));
    form.addEventListener("keydown", (event) => {
      if (!(event.target instanceof HTMLSelectElement)) return;
      if (event.key === "Enter" && form.classList.contains("chosen")) go();
      else if (event.key !== "Tab" && event.key !== "Shift") keyed = true;
    });
    form.addEventListener("change", (event) => {
      if (!(event.target instanceof HTMLSelectElement)) return;
      if (keyed) form.classList.add("chosen");
      else go();
    });
    // Whoever comes back sees what the address says, and not what was chosen before leaving.
    addEventListener("pageshow", () => form.reset());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      go();
    });
  }
  if (!main || !lamp) return;

  // --- Parts: each that has changed takes the place of the one before it. ---
  let replacing = false;

  function replace(id, html) {
    const before = document.getElementById("p-" + id);
    const box = document.createElement("template");
    box.innerHTML = html;
    const after = box.content.firstElementChild;
    if (!after || !before) return Boolean(after) === Boolean(before);
    const open = [...before.querySelectorAll("details[open][id]")].map((one) => one.id);
    const scrolled = [...before.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
    const focused = before.contains(document.activeElement) ? [...before.querySelectorAll("a, summary, [tabindex]")].indexOf(document.activeElement) : -1;
    replacing = true;
    before.replaceWith(...box.content.children);
    replacing = false;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    [...after.querySelectorAll(".scroll")].forEach((one, place) => {
      if (scrolled[place]) [one.scrollLeft, one.scrollTop] = scrolled[place];
    });
    if (focused >= 0) [...after.querySelectorAll("a, summary, [tabindex]")][focused]?.focus({ preventScroll: true });
    return true;
  }

  // What somebody clicks or marks stays where it is until that is over.
  let pressed = false;
  let waiting = {};
  const isHeld = () => {
    const marked = document.getSelection();
    return pressed || Boolean(marked && !marked.isCollapsed && main.contains(marked.anchorNode));
  };
  function release() {
    if (isHeld() || !Object.keys(waiting).length) return;
    const parts = waiting;
    waiting = {};
    take(parts);
  }
  document.addEventListener("pointerdown", () => (pressed = true));
  for (const end of ["pointerup", "pointercancel", "dragend", "blur"]) {
    // A click comes after its pointer is up.
    addEventListener(end, () => setTimeout(() => ((pressed = false), release()), 50));
  }
  document.addEventListener("selectionchange", () => setTimeout(release, 50));

  function take(parts) {
    if (isHeld()) return void Object.assign(waiting, parts);
    let fits = true;
    for (const [id, html] of Object.entries(parts)) fits = replace(id, html) && fits;
    document.documentElement.dataset.updates = String(Number(document.documentElement.dataset.updates || 0) + 1);
    // Panels have come or gone, as when the first event arrives: the page as a whole is another.
    if (!fits) location.reload();
    if (pointed) point(pointed.plot.isConnected ? pointed.plot : plotAt(pointed.x, pointed.y), pointed.x, pointed.y);
    if (lamp.dataset.state === "live") lamp.textContent = document.querySelector("#p-trust.stale") ? "live, Redis is away" : "live";
  }

  // --- Live: a stream of what has changed; where there is none, the page asks. ---
  const query = new URLSearchParams(location.search);
  query.set("view", document.body.dataset.view);
  let heard = 0;
  let timer = 0;

  function say(state, words) {
    if (lamp.dataset.state === state) return;
    lamp.dataset.state = state;
    lamp.textContent = words;
  }

  function listen() {
    const source = new EventSource("/live?" + query);
    source.addEventListener("parts", (event) => {
      heard = Date.now();
      say("live", "live");
      take(JSON.parse(event.data));
    });
    source.addEventListener("still", () => {
      heard = Date.now();
      say("live", "live");
    });
    source.onerror = () => {
      // The browser tries again by itself, unless it was refused.
      say("lost", "not connected");
      if (source.readyState === EventSource.CLOSED) {
        end();
        poll();
      }
    };
    return source;
  }

  async function poll() {
    clearTimeout(timer);
    try {
      const answer = await fetch("/parts?" + query, { headers: { Accept: "application/json" } });
      // Signing in has ended: the page itself says where that is done.
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      take(await answer.json());
      say("polling", "every 5 s");
    } catch {
      say("lost", "not connected");
    }
    timer = setTimeout(poll, POLL_MS);
  }

  // A browser opens six connections to one place. Four pages may hold one each; further ones ask now and then.
  const SEATS = 4;
  let leave_seat = null;
  async function seat() {
    for (let n = 0; n < SEATS && navigator.locks; n++) {
      const got = await new Promise((resolve) => {
        navigator.locks
          .request("sidestream-stream-" + n, { ifAvailable: true }, (lock) => {
            if (!lock) return resolve(null);
            return new Promise((leave) => resolve(leave));
          })
          .catch(() => resolve(null));
      });
      if (got) return got;
    }
    return null;
  }

  let source = null;
  let turn = 0;
  async function begin() {
    const mine = ++turn;
    heard = Date.now();
    const got = window.EventSource && !query.has("poll") ? await seat() : null;
    // It may have been hidden meanwhile.
    if (mine !== turn) return got?.();
    leave_seat = got;
    if (got) source = listen();
    else poll();
  }
  function end() {
    turn++;
    source?.close();
    source = null;
    leave_seat?.();
    leave_seat = null;
    clearTimeout(timer);
  }
  // A page that nobody sees costs nothing.
  document.addEventListener("visibilitychange", () => {
    end();
    if (document.hidden) say("paused", "paused");
    else begin();
  });
  setInterval(() => {
    if (source && !document.hidden && Date.now() - heard > SILENT_MS) say("lost", "not connected");
  }, 5000);
  begin();

  // --- How old the figures are goes on while nothing new arrives. ---
  setInterval(() => {
    const time = document.querySelector("#p-trust time[data-late-ms]");
    if (!time) return;
    time.seen ??= Date.now();
    const late = Number(time.dataset.lateMs) + Date.now() - time.seen;
    if (late < 10000) return;
    const seconds = Math.round(late / 1000);
    time.textContent = (seconds < 60 ? seconds + " s" : Math.floor(seconds / 60) + " m " + String(seconds % 60).padStart(2, "0") + " s") + " ago";
    time.className = late > 60000 ? "lost" : late > 15000 ? "late" : "";
  }, 1000);

  // --- Charts: the values under the pointer, or of the step that the arrow keys have chosen. ---
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "status");
  const cursor = document.createElement("div");
  cursor.className = "cursor";
  let pointed = null;

  const plotAt = (x, y) => document.elementFromPoint(x, y)?.closest(".plot") ?? null;

  function point(plot, x, y) {
    if (!plot) return leave();
    const lines = plot.querySelector(".lines").getBoundingClientRect();
    const data = JSON.parse(plot.dataset.chart);
    const count = data.labels.length;
    const place = Math.min(count - 1, Math.max(0, Math.floor(((x - lines.left) / lines.width) * count)));
    const list = document.createElement("ul");
    for (const series of data.series) {
      const row = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "swatch " + series.colour;
      const value = document.createElement("b");
      value.textContent = series.said[place] ?? "–";
      row.append(swatch, series.name, value);
      list.append(row);
    }
    const when = document.createElement("p");
    when.textContent = data.labels[place];
    tip.replaceChildren(when, list);
    tip.hidden = false;
    document.body.append(tip);
    plot.append(cursor);
    const at = lines.left + ((place + 0.5) / count) * lines.width;
    const box = plot.getBoundingClientRect();
    cursor.style.left = at - box.left + "px";
    cursor.style.top = lines.top - box.top + "px";
    cursor.style.height = lines.height + "px";
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(room, at + 14)) + "px";
    tip.style.top = Math.max(8, lines.top - 6) + "px";
    pointed = { plot, x, y, place, count };
  }

  function leave() {
    pointed = null;
    tip.hidden = true;
    cursor.remove();
  }

  document.addEventListener("pointermove", (event) => {
    const plot = event.target instanceof Element ? event.target.closest(".plot") : null;
    if (plot) point(plot, event.clientX, event.clientY);
    else if (pointed) leave();
  });
  document.addEventListener("keydown", (event) => {
    const plot = document.activeElement?.closest?.(".plot");
    if (event.key === "Escape") return leave();
    if (!plot || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const lines = plot.querySelector(".lines").getBoundingClientRect();
    const count = JSON.parse(plot.dataset.chart).labels.length;
    const from = pointed?.plot === plot ? pointed.place : count;
    const place = Math.min(count - 1, Math.max(0, from + (event.key === "ArrowRight" ? 1 : -1)));
    point(plot, lines.left + ((place + 0.5) / count) * lines.width, lines.top);
  });
  document.addEventListener("focusout", () => replacing || leave());
})();
