"use strict";
// The Gates page. It draws what the API says and sends back what was drawn: the rules are in the ledger.
// A gate whose digest changes while somebody looks is drawn anew, marked, and leaves the selection until it was looked at again.

const EVERY_MS = 5000, PATIENCE_MS = 20000, SOON_MS = 30 * 60000, JUST_NOW_MS = 1200;
const $ = id => document.getElementById(id);
const run = new URLSearchParams(location.search);
const embedded = window.parent !== window;

const state = {
  tab: "open", etag: {}, skew: 0, me: {login: "", roles: []},
  list: null,                // the last answer, exactly as drawn: its gates, order and digest go with a decision
  order: [], gates: new Map(), nodes: new Map(), drawn: new Map(),
  selected: new Set(), changed: new Map(), fresh: new Set(), closed: new Set(), mineJustDecided: new Set(),
  at: null, droppedAt: -Infinity, busy: false, revoking: null, revokeText: "",
};

// ---- small things

const el = (tag, props = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false && child !== ""));
  return node;
};
const words = (kind, decision) => kind === "readiness" ? (decision === "go" ? "Ready" : "Blocker") : (decision === "go" ? "Go" : "No-Go");
const stateWord = gate => ({expired: gate.kind === "readiness" ? "Blocker (silent)" : "Expired", withdrawn: "Withdrawn", open: "Open"})[gate.state] || words(gate.kind, gate.state);
const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;
const now = () => Date.now() + state.skew;
const say = text => { $("say").textContent = ""; requestAnimationFrame(() => { $("say").textContent = text; }); };
const sentence = text => text ? text[0].toUpperCase() + text.slice(1) + (text.endsWith(".") ? "" : ".") : "";
const short = digest => digest.slice(0, 8);

const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit"});
const dayAndClock = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"});
const local = iso => { const when = new Date(iso); return (when.toDateString() === new Date(now()).toDateString() ? clock : dayAndClock).format(when); };
const utc = iso => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
const time = (iso, text) => el("time", {datetime: iso, title: utc(iso)}, text || local(iso));
const span = ms => {
  const s = Math.max(0, Math.round(ms / 1000)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  return d ? `${d} d ${h % 24} h` : h ? `${h} h ${m % 60} min` : m >= 2 ? `${m} min` : `${s} s`;
};

// Airflow shows this page in a sandboxed frame, which may neither open windows nor leave. A link belonging to the page around it may.
const outside = (href, ...text) => {
  const link = el("a", {href, target: "_blank", rel: "noopener"}, ...text);
  link.addEventListener("click", event => {
    if (!embedded) return;
    try {
      const theirs = window.parent.document.createElement("a");
      Object.assign(theirs, {href: link.href, target: "_blank", rel: "noopener"});
      theirs.click();
      event.preventDefault();
    } catch { link.removeAttribute("target"); }
  });
  return link;
};

// Airflow's own choice of light or dark, as the page around us shows it or as it was stored; else the system's.
const followTheme = () => {
  const apply = theme => theme ? document.documentElement.setAttribute("data-theme", theme) : document.documentElement.removeAttribute("data-theme");
  const stored = () => { try { const theme = localStorage.getItem("theme"); return theme === "dark" || theme === "light" ? theme : null; } catch { return null; } };
  try {
    if (embedded) {
      const around = window.parent.document.documentElement;
      const look = () => apply(around.classList.contains("dark") ? "dark" : around.classList.contains("light") ? "light" : stored());
      new MutationObserver(look).observe(around, {attributes: true, attributeFilter: ["class"]});
      return look();
    }
  } catch { /* another origin around us */ }
  addEventListener("storage", () => apply(stored()));
  apply(stored());
};

// ---- talking to the API

const problemOf = async answer => {
  try { const body = await answer.json(); return {status: answer.status, why: body.why || body.detail || answer.statusText, remedy: body.remedy || "", ...body}; }
  catch { return {status: answer.status, code: "failed", why: `the server answered ${answer.status}`, remedy: "Try again.", refused: []}; }
};
const send = (path, body) => fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), signal: AbortSignal.timeout(60000)});

let timer = 0, asking = null;
const refresh = async () => {
  clearTimeout(timer);
  const tab = state.tab;
  const query = new URLSearchParams({state: tab});
  for (const key of ["dag_id", "run_id"]) if (run.get(key)) query.set(key, run.get(key));
  const mine = asking = {};
  try {
    const headers = state.etag[tab] ? {"If-None-Match": state.etag[tab]} : {};
    const answer = await fetch(`api/gates?${query}`, {headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS)});
    if (mine !== asking) return;
    if (answer.status === 200) {
      const list = await answer.json();
      if (mine !== asking) return;
      state.etag[tab] = answer.headers.get("ETag");
      state.skew = new Date(list.now) - Date.now();
      take(list);
    } else if (answer.status !== 304) {
      throw await problemOf(answer);
    }
    trouble(null);
  } catch (problem) {
    if (mine !== asking) return;
    trouble(problem.status ? problem : {why: "the server does not answer", remedy: ""});
  }
  timer = setTimeout(refresh, document.hidden ? EVERY_MS * 12 : EVERY_MS);
};

const trouble = problem => {
  $("live").className = `soft ${problem ? "off" : "on"}`;
  $("live-text").textContent = problem ? "not live" : `live, ${new Date().toLocaleTimeString(undefined, {hour: "2-digit", minute: "2-digit", second: "2-digit"})}`;
  const box = $("trouble"), key = problem ? `${problem.status} ${problem.why}` : "";
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.hidden = !problem;
  box.replaceChildren();
  if (!problem) return;
  if (problem.status === 401) box.append("You are signed out. ", el("a", {href: location.href}, "Sign in again"), ".");
  else box.append(`Not up to date: ${sentence(problem.why)} ${problem.remedy} This page tries again by itself.`);
  if (!state.list) $("list").replaceChildren();
};

// ---- what a new answer means for what is on the screen

const take = list => {
  const first = state.list === null;
  const incoming = new Map(list.gates.map(gate => [gate.gate, gate]));
  const dropped = [];
  if (state.tab === "open" && !first) {
    for (const id of state.order) {
      const gate = incoming.get(id), before = state.gates.get(id);
      if (!gate) {
        if (state.mineJustDecided.has(id)) continue;
        if (!state.closed.has(id)) { state.closed.add(id); if (state.selected.has(id)) dropped.push(id); }
      } else if (gate.digest !== before.digest) {
        state.changed.set(id, gate.changes);
        if (state.selected.has(id)) dropped.push(id);
      } else if (!gate.mine.may && state.selected.has(id)) dropped.push(id);
    }
    for (const gate of list.gates) if (!state.gates.has(gate.gate)) state.fresh.add(gate.gate);
  }
  dropped.forEach(id => state.selected.delete(id));
  const kept = state.tab === "open" && !first ? state.order.filter(id => incoming.has(id) || (state.closed.has(id) && !state.mineJustDecided.has(id))) : [];
  state.order = [...kept, ...list.gates.map(gate => gate.gate).filter(id => !kept.includes(id))];
  for (const gate of list.gates) { state.gates.set(gate.gate, gate); state.closed.delete(gate.gate); }
  state.mineJustDecided.clear();
  state.list = list;
  state.me = list.me;
  if (dropped.length) {
    state.droppedAt = performance.now();
    hint(`${plural(dropped.length, "gate", "gates")} changed and left the selection: #${dropped.join(", #")}. Look again.`, true);
    say($("hint").textContent);
  }
  draw();
};

// ---- drawing

const draw = () => {
  const main = $("list");
  main.setAttribute("aria-busy", "false");
  main.setAttribute("aria-labelledby", `tab-${state.tab}`);
  const focused = document.activeElement && document.activeElement.closest ? document.activeElement.closest(".gate") : null;
  const focusedId = focused ? Number(focused.dataset.gate) : null;
  const focusPart = focused && document.activeElement !== focused ? document.activeElement.dataset.part : null;
  const wanted = state.order.map(id => {
    const gate = state.gates.get(id);
    const key = JSON.stringify([gate, state.tab, state.selected.has(id), state.changed.get(id), state.fresh.has(id), state.closed.has(id), state.revoking === id]);
    if (state.drawn.get(id) !== key) {
      state.nodes.set(id, state.tab === "open" ? openGate(gate) : decidedGate(gate));
      state.drawn.set(id, key);
    }
    return state.nodes.get(id);
  });
  if (!wanted.length) wanted.push(nothing());
  const same = main.children.length === wanted.length && wanted.every((node, i) => main.children[i] === node);
  if (!same) {
    // Nodes that stay where they are are not touched, so that neither scroll position nor focus moves.
    wanted.forEach((node, i) => { if (main.children[i] !== node) main.insertBefore(node, main.children[i] || null); });
    while (main.children.length > wanted.length) main.lastChild.remove();
  }
  if (!state.order.includes(state.at)) state.at = state.order[0] ?? null;
  for (const id of state.order) state.nodes.get(id).tabIndex = id === state.at ? 0 : -1;
  if (focusedId !== null && state.nodes.has(focusedId) && !state.nodes.get(focusedId).contains(document.activeElement)) {
    const node = state.nodes.get(focusedId);
    ((focusPart && node.querySelector(`[data-part="${focusPart}"]`)) || node).focus({preventScroll: true});
  }
  drawHead();
  drawBar();
  tick();
};

const drawHead = () => {
  $("me").textContent = `${state.me.login} · ${state.me.roles.length ? state.me.roles.join(", ") : "no role"}`;
  if (state.tab !== "open") return;
  const live = openNow(), mine = live.filter(gate => gate.mine.needed).length;
  const soon = live.filter(gate => new Date(gate.deadline) - now() < SOON_MS).length;
  $("n-open").textContent = live.length;
  $("counts").replaceChildren(el("strong", {}, `${live.length}`), " open", ...(live.length ? [" · ", el("strong", {}, `${mine}`), mine === 1 ? " waits for you" : " wait for you"] : []),
    ...(soon ? [" · ", el("span", {class: "urgent"}, `${soon} due within 30 min`)] : []));
};
const openNow = () => state.order.filter(id => !state.closed.has(id)).map(id => state.gates.get(id));

const asker = gate => {
  const {dag_id: dag, run_id: id, task_id: task} = gate.asked_by;
  return outside(`../dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(id)}`, `${dag} / ${id}`, task ? el("span", {class: "hidden"}, ` task ${task}`) : "");
};
const meta = (gate, ...more) => el("p", {class: "meta"}, el("span", {}, `#${gate.gate} ${gate.name}`), gate.feature ? el("span", {}, gate.feature) : null,
  el("span", {}, "asked by ", asker(gate)), ...more);

const evidence = gate => gate.evidence.length ? el("ul", {class: "evidence", "aria-label": "Evidence"}, gate.evidence.map(item => el("li", {},
  item.link ? outside(`reports/${item.link}`, item.title) : item.title, item.detail ? el("span", {class: "soft"}, ` ${item.detail}`) : "", " ",
  el("span", {class: "digest", title: `sha256 ${item.digest}`}, short(item.digest))))) : null;

const votes = gate => gate.votes.length ? el("ul", {class: "votes", "aria-label": "Votes"}, gate.votes.map(vote => el("li", {},
  el("span", {class: vote.decision === "go" ? "yes-word" : "no-word"}, words(gate.kind, vote.decision)), ` ${vote.actor}`, vote.role ? ` as ${vote.role}` : "", " ", el("q", {}, vote.reason),
  el("span", {class: "soft"}, " ", time(vote.at), vote.via ? ` via ${vote.via}` : "")))) : null;

const roles = gate => el("ul", {class: "roles", "aria-label": "Who decides"},
  gate.votes.filter(vote => vote.role).map(vote => el("li", {class: "filled"}, el("b", {}, vote.role), ` ✓ ${vote.actor}`)),
  gate.missing.map(need => el("li", {class: gate.mine.roles.includes(need.role) ? "mine" : ""}, el("b", {}, need.role), need.count > 1 ? ` × ${need.count}` : "", ` needs ${need.holders.join(" or ") || "somebody: nobody holds it"}`)));

const revoke = gate => {
  if (!gate.mine.may_revoke) return null;
  if (state.revoking !== gate.gate) return el("button", {type: "button", class: "quiet", "data-part": "revoke", onclick: () => { state.revoking = gate.gate; state.revokeText = ""; draw(); state.nodes.get(gate.gate).querySelector("input[type=text]").focus(); }}, "Revoke my vote");
  const input = el("input", {type: "text", maxlength: 4000, placeholder: "Why you take it back", "aria-label": "Why you take your vote back", "data-part": "revoke-why", oninput: event => { state.revokeText = event.target.value; }});
  input.value = state.revokeText;
  const leave = () => { state.revoking = null; draw(); state.nodes.get(gate.gate).focus(); };
  input.addEventListener("keydown", event => { if (event.key === "Enter") { event.preventDefault(); takeBack(gate, input); } if (event.key === "Escape") { event.stopPropagation(); leave(); } });
  return el("span", {class: "revoke"}, input, el("button", {type: "button", class: "quiet", onclick: () => takeBack(gate, input)}, "Revoke"), el("button", {type: "button", class: "quiet", onclick: leave}, "Keep"));
};

const listed = lines => lines.length === 1 ? lines[0] : el("ul", {}, lines.map(line => el("li", {}, line)));

const openGate = gate => {
  const id = gate.gate, closed = state.closed.has(id), changed = state.changed.get(id), picked = state.selected.has(id);
  const why = closed ? "This gate is closed." : changed ? "Changed since you looked." : gate.mine.why;
  const pick = el("input", {type: "checkbox", class: "pick", tabindex: -1, "data-part": "pick", "aria-label": `Select ${gate.question}`, title: why, disabled: closed || !!changed || !gate.mine.may, onchange: () => toggle(id)});
  pick.checked = picked;
  const node = el("article", {class: `gate${picked ? " selected" : ""}${changed ? " changed" : ""}${closed ? " closed" : ""}`, "data-gate": id, "aria-label": `${gate.question} ${why}`},
    pick, el("h3", {}, gate.question, state.fresh.has(id) ? el("span", {class: "chip new"}, "new") : ""),
    closed ? el("span", {class: "due"}, "closed") : el("span", {class: "due", "data-deadline": gate.deadline, title: `${gate.kind === "readiness" ? "Silence is a Blocker" : "Silence closes the gate"} at ${utc(gate.deadline)}`}),
    meta(gate, el("span", {}, "asked ", el("time", {datetime: gate.opened_at, title: utc(gate.opened_at), "data-since": gate.opened_at})), el("span", {}, "due ", time(gate.deadline)), gate.revision > 1 ? el("span", {}, `revision ${gate.revision}`) : null),
    evidence(gate), votes(gate),
    gate.no_data ? el("div", {class: "strip stop"}, el("div", {}, el("b", {}, "No data: "), `${gate.no_data}. Nobody can say ${words(gate.kind, "go")} until the evidence can be collected.`)) : null,
    gate.blockers.length ? el("div", {class: "strip stop"}, el("div", {}, el("b", {}, gate.blockers.length === 1 ? "Blocker: " : "Blockers: "), listed(gate.blockers))) : null,
    closed ? el("div", {class: "strip note"}, "Closed while you looked; see Decided.", el("button", {type: "button", class: "quiet", onclick: () => { state.order = state.order.filter(each => each !== id); state.closed.delete(id); draw(); }}, "Clear"))
      : changed ? el("div", {class: "strip warn"}, el("div", {}, el("b", {}, "Changed since you looked: "), listed(changed.length ? changed : ["what it asks, its deadline or its policy"]), gate.revision > 1 ? " Votes given before are void." : ""), el("button", {type: "button", class: "quiet", "data-part": "looked", onclick: () => looked(id)}, "I have looked"))
      : gate.changes.length ? el("div", {class: "strip note"}, el("div", {}, el("b", {}, "Changed since it was opened: "), listed(gate.changes))) : null,
    closed ? null : el("div", {class: "people"}, roles(gate), el("span", {class: `standing${gate.mine.needed && !changed ? " may" : ""}`}, changed && gate.mine.may ? "Look at what changed, then you may vote." : gate.mine.why), revoke(gate)));
  node.addEventListener("click", event => { state.at = id; if (event.detail === 1 && !event.target.closest("a, button, input, time") && !String(getSelection())) toggle(id); });
  node.addEventListener("focusin", () => moveTo(id, false));
  return node;
};

const decidedGate = gate => {
  const answer = gate.decision, by = answer ? [...new Set(answer.by)].join(", ") : "";
  const node = el("article", {class: "gate decided", "data-gate": gate.gate, "aria-label": `${gate.question} ${stateWord(gate)}`},
    el("h3", {}, gate.question), el("span", {class: `verdict chip ${gate.state}`}, stateWord(gate)),
    meta(gate, gate.consumed_by ? el("span", {}, `acted on by ${gate.consumed_by} `, gate.consumed_at ? time(gate.consumed_at) : "")
      : gate.state === "go" || gate.state === "no_go" ? el("span", {}, "nobody has acted on it yet") : null, gate.state === "go" && gate.valid_until && !gate.consumed_by ? el("span", {}, "holds until ", time(gate.valid_until)) : null),
    answer ? el("p", {class: "votes"}, `Decided by ${by} `, el("span", {class: "soft"}, time(answer.at)), " ", gate.votes.length > 1 ? "" : el("q", {}, answer.reason))
      : el("p", {class: "votes soft"}, gate.state === "expired" ? "No answer in time; due " : "Asked again since, so this one was withdrawn; was due ", time(gate.deadline), "."),
    gate.votes.length > 1 ? votes(gate) : null, evidence(gate),
    gate.mine.may_revoke ? el("div", {class: "people"}, revoke(gate)) : null);
  node.addEventListener("focusin", () => moveTo(gate.gate, false));
  return node;
};

const nothing = () => state.tab === "open"
  ? el("div", {class: "empty"}, el("h2", {}, run.get("run_id") ? "This run asks nothing now" : "No gate is open"),
      el("p", {}, "A gate opens when a run needs people: the daily sync asks every owner for Ready or Blocker at 10:00 UTC and then for the Go of a release, a rollout asks before it touches production. You will see the question here with its evidence, and in Airflow under Required Actions."),
      el("p", {}, "This page looks for new ones by itself."))
  : el("div", {class: "empty"}, el("h2", {}, "Nothing was decided yet"), el("p", {}, "The last 50 answers will be here: who gave them, when, why, and which task acted on them."));

const tick = () => {
  const at = now();
  document.querySelectorAll("[data-deadline]").forEach(node => {
    const left = new Date(node.dataset.deadline) - at;
    const text = left <= 0 ? "time is over" : `${span(left)} left`;
    if (node.textContent !== text) node.textContent = text;
    node.className = `due${left <= 0 ? " over" : left < SOON_MS ? " soon" : ""}`;
  });
  document.querySelectorAll("[data-since]").forEach(node => {
    const text = `${span(at - new Date(node.dataset.since))} ago`;
    if (node.textContent !== text) node.textContent = text;
  });
};

// ---- selecting

const chosen = () => state.order.filter(id => state.selected.has(id)).map(id => state.gates.get(id));
const mayPick = gate => gate && !state.closed.has(gate.gate) && !state.changed.has(gate.gate) && gate.mine.may;
const toggle = id => {
  if (state.tab !== "open") return;
  const gate = state.gates.get(id);
  if (state.selected.has(id)) state.selected.delete(id);
  else if (mayPick(gate)) state.selected.add(id);
  else { hint(state.changed.has(id) ? `#${id} changed since you looked: say that you have looked (v).` : state.closed.has(id) ? `#${id} is closed.` : `#${id}: ${gate.mine.why}`, true); say($("hint").textContent); return; }
  hint("");
  draw();
};
const looked = id => { state.changed.delete(id); state.fresh.delete(id); hint(""); draw(); state.nodes.get(id).focus({preventScroll: true}); };
const selectAll = () => {
  const wanted = openNow().filter(gate => mayPick(gate) && gate.mine.needed).map(gate => gate.gate);
  const all = wanted.length && wanted.every(id => state.selected.has(id));
  if (all) state.selected.clear(); else wanted.forEach(id => state.selected.add(id));
  hint(wanted.length ? "" : "No gate waits for a vote of yours.", !wanted.length);
  draw();
};
const moveTo = (id, focus = true) => {
  if (state.at !== null && state.nodes.has(state.at)) state.nodes.get(state.at).tabIndex = -1;
  state.at = id;
  const node = state.nodes.get(id);
  node.tabIndex = 0;
  if (focus) { node.focus({preventScroll: true}); node.scrollIntoView({block: "nearest"}); }
};
const move = by => {
  if (!state.order.length) return;
  const here = document.activeElement && document.activeElement.closest(".gate");
  const i = state.order.indexOf(state.at);
  moveTo(state.order[here ? Math.min(state.order.length - 1, Math.max(0, i + by)) : Math.max(0, i)]);
};

// ---- deciding

const hint = (text, bad = false) => { $("hint").textContent = text; $("hint").className = bad ? "bad" : ""; };
const both = (gates, decision) => [...new Set((gates.length ? gates : [{kind: "decision"}]).map(gate => words(gate.kind, decision)))].join(" / ");
const drawBar = () => {
  const gates = chosen(), n = gates.length, stopped = gates.filter(gate => !gate.mine.may_go);
  $("selected").textContent = `${n} selected`;
  $("go").textContent = `${both(gates, "go")} (${n})`;
  $("no-go").textContent = `${both(gates, "no_go")} (${n})`;
  $("go").disabled = !n || state.busy || stopped.length === n;
  $("no-go").disabled = !n || state.busy;
  const waiting = state.tab === "open" ? openNow().filter(gate => mayPick(gate) && gate.mine.needed).length : 0;
  $("select-all").replaceChildren("Select all", el("span", {class: "wide"}, " I may decide"), ` (${waiting})`);
  $("select-all").disabled = !waiting;
  $("bar").hidden = (state.tab !== "open" || (state.list && !state.order.length)) && $("result").hidden;
  if (n && stopped.length && !$("hint").className) hint(`${both(stopped, "go")} will be refused for ${stopped.map(gate => `#${gate.gate}`).join(", ")}: ${stopped[0].no_data ? "no data" : "a blocker stands"}.`);
  else if (!n && !$("hint").className) hint("");
};

const decide = async decision => {
  const gates = chosen(), reason = $("reason").value.trim();
  if (!gates.length || state.busy) return;
  if (performance.now() - state.droppedAt < JUST_NOW_MS) { hint("The list changed as you clicked. Check the selection and press again.", true); return; }
  if (!reason) { $("reason").classList.add("missing"); $("reason").focus(); hint("Say why, in a few words: the reason is recorded with every vote.", true); return; }
  const list = state.list;
  const body = {decision, reason, gates: gates.map(gate => gate.gate), shown: list.gates.map(({gate, digest}) => ({gate, digest})), list_digest: list.list_digest, atomic: $("atomic").checked};
  state.busy = true; hint("Recording …"); drawBar();
  try {
    const answer = await send("api/gates/decide", body);
    if (answer.ok) settle(decision, await answer.json());
    else { const problem = await problemOf(answer); showResult(answer.status < 500 || problem.code === "unreachable" ? `Nothing was recorded: ${problem.why}` : `It is open whether your votes were recorded: ${problem.why}`, [...(problem.refused || [])], [], problem.remedy); }
  } catch {
    showResult("No answer came back. Your votes may have been recorded: the list below will show them.", [], [], "");
  }
  state.busy = false; hint(""); drawBar();
  refresh();
};
const settle = (decision, outcome) => {
  for (const gate of outcome.decided) {
    state.selected.delete(gate.gate); state.fresh.delete(gate.gate);
    if (gate.state !== "open") state.mineJustDecided.add(gate.gate);
  }
  if (outcome.decided.length && !outcome.refused.length) $("reason").value = "";
  const parts = [outcome.decided.length ? `${plural(outcome.decided.length, "vote", "votes")} recorded` : "No vote recorded", outcome.refused.length ? `${outcome.refused.length} refused` : ""];
  showResult(parts.filter(Boolean).join(", "), outcome.refused, outcome.decided, "", decision);
};
const showResult = (head, refused, decided, way, decision) => {
  const question = id => (state.gates.get(id) || {question: ""}).question;
  const close = el("button", {type: "button", class: "quiet", onclick: () => { $("result").hidden = true; drawBar(); }}, "Close");
  $("result").replaceChildren(el("div", {class: "head"}, el("span", {}, head), close), way ? el("p", {class: "way"}, way) : "", el("ul", {},
    refused.map(each => el("li", {}, el("span", {class: "no-word"}, `refused`), el("span", {}, `#${each.gate} ${question(each.gate)} `, el("br"), el("span", {}, sentence(each.why)), " ", el("span", {class: "way"}, each.remedy)))),
    decided.map(gate => el("li", {}, el("span", {class: decision === "go" ? "yes-word" : "no-word"}, gate.state === "open" ? "recorded" : stateWord(gate)), el("span", {}, `#${gate.gate} ${gate.question} `, el("br"), el("span", {class: "way"},
      gate.state === "open" ? `Your ${words(gate.kind, decision)} counts; still missing: ${gate.missing.map(need => `${need.count > 1 ? `${need.count} × ` : ""}${need.role} (${need.holders.join(", ")})`).join(", ")}.` : gate.state === "no_go" ? "Decided: nothing behind this gate runs." : "Decided; the run goes on by itself."))))));
  $("result").hidden = false;
  drawBar();
};
const takeBack = async (gate, input) => {
  if (!input.value.trim()) { input.classList.add("missing"); input.focus(); return; }
  try {
    const answer = await send(`api/gates/${gate.gate}/revoke`, {reason: input.value.trim()});
    state.revoking = null;
    if (answer.ok) { say(`Your vote on ${gate.question} was revoked`); }
    else { const problem = await problemOf(answer); showResult(`Not revoked: ${problem.why}`, [], [], problem.remedy); }
  } catch { trouble({why: "the server does not answer", remedy: ""}); }
  draw(); refresh();
};

// ---- tabs, keys, start

const showTab = tab => {
  if (tab === state.tab) return;
  Object.assign(state, {tab, list: null, order: [], at: null, etag: {}});
  for (const each of [state.gates, state.nodes, state.drawn, state.selected, state.changed, state.fresh, state.closed]) each.clear();
  for (const name of ["open", "decided"]) { $(`tab-${name}`).setAttribute("aria-selected", name === tab); $(`tab-${name}`).tabIndex = name === tab ? 0 : -1; }
  $("list").setAttribute("aria-busy", "true");
  $("list").replaceChildren(...[1, 2, 3].map(() => el("div", {class: "skeleton"})));
  $("result").hidden = true;
  hint("");
  drawBar();
  refresh();
};

addEventListener("keydown", event => {
  const typing = event.target.matches("textarea, input[type=text]");
  if (event.key === "Escape" && !$("help").open) {
    if (typing) event.target.blur();
    else if (!$("result").hidden) { $("result").hidden = true; drawBar(); }
    else if (state.selected.size) { state.selected.clear(); draw(); }
    if (typing && state.at !== null && state.nodes.has(state.at)) moveTo(state.at);
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const onControl = event.target.closest("button, a, input, [role=tab]");
  const keys = {
    ArrowDown: () => move(1), j: () => move(1), ArrowUp: () => move(-1), k: () => move(-1), x: () => state.at !== null && toggle(state.at),
    " ": () => state.at !== null && toggle(state.at), a: selectAll, v: () => state.changed.has(state.at) && looked(state.at),
    g: () => $("go").focus(), n: () => $("no-go").focus(), r: () => $("reason").focus(), "?": () => $("help").showModal(),
  };
  if (onControl && event.key === " ") return;
  if (event.target.closest(".tabs") && event.key.startsWith("Arrow")) return;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});
$("tab-open").addEventListener("click", () => showTab("open"));
$("tab-decided").addEventListener("click", () => showTab("decided"));
document.querySelector(".tabs").addEventListener("keydown", event => {
  if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  const other = state.tab === "open" ? "decided" : "open";
  showTab(other); $(`tab-${other}`).focus();
});
$("select-all").addEventListener("click", selectAll);
$("go").addEventListener("click", () => decide("go"));
$("no-go").addEventListener("click", () => decide("no_go"));
$("reason").addEventListener("input", () => { $("reason").classList.remove("missing"); if ($("hint").className) { hint(""); drawBar(); } });
$("ballot").addEventListener("submit", event => event.preventDefault());
$("help-open").addEventListener("click", () => $("help").showModal());
$("all-runs").hidden = !run.get("run_id") || embedded;
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(tick, 1000);
followTheme();
refresh();
