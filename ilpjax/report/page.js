"use strict";
// The rows table. Every text of the data reaches the page through text nodes only.
(() => {
  const { meta, lines } = JSON.parse(document.getElementById("lines").textContent);
  const cards = JSON.parse(document.getElementById("cards").textContent);
  const { datasets, problems, causes } = meta;
  const [ID, SET, SOURCE, PROMPT, RESPONSE, FLAGS, KINDS, BASE, TUNED, PASS, FLAG, SKILL, SEVERITY, CAUSE] = Array(14).keys();
  const UNLEARNED = 1, CORRECTED = 2, PLUMBING = 4, SEVERE = 8, LOST = 16, NO_VERDICT = 32;
  const PAGE = 20;
  const SVG = "http://www.w3.org/2000/svg";
  const $ = (id) => document.getElementById(id);

  function build(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);
  const dec = (x, digits = 2) => (x === null || x === undefined ? "–" : x.toFixed(digits).replace("-", "−"));
  const words = (kind) => kind.replaceAll("_", " ");
  const letter = (k) => String.fromCharCode(65 + k);
  const best = (values) => values.indexOf(Math.max(...values));

  // ---- the table's state: filter, sort, page ----
  const columns = [
    { name: "Row", key: null, cls: "text" },
    { name: "Data set", key: SET, cls: "set mid" },
    { name: "p base", key: BASE, cls: "r mid", title: "probability of the right option, base model" },
    { name: "p tuned", key: TUNED, cls: "r", title: "probability of the right option, tuned model" },
    { name: `pass@${meta.runs}`, key: PASS, cls: "r mid" },
    { name: "P(flag)", key: FLAG, cls: "r mid wide" },
    { name: "skill", key: SKILL, cls: "r mid wide" },
    { name: "severity", key: SEVERITY, cls: "r mid" },
  ];
  const verdicts = [
    ["not learned, paper mode", (f) => f & UNLEARNED],
    ["not learned, corrected mode", (f) => f & CORRECTED],
    ["lost: known before", (f) => f & LOST],
    ["learned, both modes", (f) => !(f & (UNLEARNED | CORRECTED | NO_VERDICT))],
    ["no verdict", (f) => f & NO_VERDICT],
    ["any", () => true],
  ];
  const state = { sort: null, down: true, page: 0, found: [] };
  let haystack = null;

  function hay(at) {
    const line = lines[at], card = cards[at];
    const texts = [line[ID], line[SOURCE], datasets[line[SET]], line[PROMPT], line[RESPONSE]];
    if (card) texts.push(card.prompt, card.response, ...card.options.map((option) => option[0]));
    return texts.join("\n").toLowerCase();
  }

  function find() {
    const terms = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = verdicts[$("verdict").selectedIndex][1];
    const set = $("dataset").selectedIndex - 1, problem = $("problem").selectedIndex, cause = $("cause").selectedIndex - 1;
    if (terms.length && !haystack) haystack = lines.map((_, at) => hay(at));
    const fits = (line, at) =>
      wanted(line[FLAGS]) && (set < 0 || line[SET] === set) && (cause < 0 || line[CAUSE] === cause) &&
      (problem === 0 || (problem === 1 ? line[KINDS].length > 0 : problem === 2 ? !line[KINDS].length : line[KINDS].includes(problem - 3))) &&
      terms.every((term) => haystack[at].includes(term));
    const found = [];
    lines.forEach((line, at) => { if (fits(line, at)) found.push(at); });
    if (state.sort !== null) {
      const sign = state.down ? -1 : 1, key = state.sort;
      found.sort((a, b) => {
        const x = lines[a][key], y = lines[b][key];
        if (x === null || y === null) return (x === null) - (y === null) || a - b; // no number: last either way
        return sign * (x - y) || a - b;
      });
    }
    state.found = found;
    state.page = 0;
    render();
  }

  function sortBy(key, down) {
    state.down = down !== undefined ? down : state.sort === key ? !state.down : key !== SET;
    state.sort = key;
    find();
  }

  function head() {
    const row = el("tr", {}, el("th", { scope: "col" }, el("span", { "aria-label": "open" })));
    for (const column of columns) {
      const button = el("button", { type: "button", title: column.title, onclick: () => sortBy(column.key, column.key === null ? true : undefined) }, column.name);
      column.cell = el("th", { scope: "col", class: column.cls }, button);
      row.append(column.cell);
    }
    document.querySelector("#table thead").append(row);
  }

  function tags(line) {
    const f = line[FLAGS], list = [];
    const add = (kind, text) => list.push(el("span", { class: `tag ${kind}` }, text));
    if (f & UNLEARNED) add("unlearned", "not learned");
    else if (f & CORRECTED) add("corrected", "no better than guessing");
    else if (!(f & NO_VERDICT)) add("", "learned");
    if (f & LOST) add("unlearned", "lost");
    if (f & NO_VERDICT) add("", "no verdict");
    if (line[CAUSE] >= 0) add("cause", words(causes[line[CAUSE]]));
    for (const kind of line[KINDS]) add("plumbing", words(problems[kind]));
    add("", line[SOURCE]);
    return el("div", { class: "tags" }, list);
  }

  function lineRow(at) {
    const line = lines[at];
    const opener = el("button", { type: "button", class: "opener", "aria-expanded": "false", "aria-label": `Card of row ${line[ID]}` }, "▸");
    const row = el("tr", { class: "line", "data-row": line[ID] }, el("td", {}, opener),
      el("td", { class: "text" }, el("div", { class: "snippet", dir: "auto" }, line[PROMPT] || "(empty prompt)"),
        el("div", { class: "snippet answer-line", dir: "auto" }, "→ ", line[RESPONSE]), tags(line)),
      el("td", { class: "set mid" }, el("bdi", {}, datasets[line[SET]])),
      columns.slice(2).map((column) => el("td", { class: column.cls }, dec(line[column.key]))));
    const toggle = () => {
      const open = opener.getAttribute("aria-expanded") !== "true";
      opener.setAttribute("aria-expanded", String(open));
      opener.textContent = open ? "▾" : "▸";
      row.classList.toggle("open", open);
      if (open) row.after(el("tr", { class: "holder-row" }, el("td", { class: "holder", colspan: columns.length + 1 }, card(at))));
      else row.nextElementSibling.remove();
    };
    row.addEventListener("click", () => { if (!String(getSelection())) toggle(); });
    opener.addEventListener("click", (event) => { event.stopPropagation(); toggle(); });
    return row;
  }

  function render() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const here = state.found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const body = document.querySelector("#table tbody");
    body.replaceChildren(...here.map(lineRow));
    if (!here.length) body.append(el("tr", {}, el("td", { class: "empty", colspan: columns.length + 1 }, "No row fits.")));
    for (const column of columns) {
      const sorted = column.key !== null && column.key === state.sort;
      if (sorted) column.cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else column.cell.removeAttribute("aria-sort");
    }
    $("count").textContent = `${state.found.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")} rows` + (state.sort === null ? ", worst first" : "");
    $("page").textContent = `Page ${state.page + 1} of ${pages}`;
    $("prev").disabled = state.page === 0;
    $("next").disabled = state.page === pages - 1;
  }

  // ---- one row's card ----
  const text = (title, content) => [el("h3", {}, title), el("p", { class: "body", dir: "auto", tabindex: "0" }, content || "(empty)")];

  function bar(kind, p) {
    const track = svg("svg", { class: `bar ${kind}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "track", width: 100, height: 8 }), svg("rect", { class: "fill", width: 100 * (p || 0), height: 8 }));
    return el("div", { class: "pbar" }, el("span", {}, kind), track, el("span", {}, dec(p, 3)));
  }

  function origin(option, right) {
    const [, , , from, file] = option;
    if (right) return null;
    if (from === "native") return "native option";
    if (!from || from === "answer") return null;
    return `the answer of row ${from}${file ? ` (${file})` : ""}`;
  }

  function optionList(found) {
    return el("ol", { class: "options" }, found.options.map((option, k) => {
      const right = k === found.right;
      return el("li", { class: right ? "right" : null },
        el("div", { class: "name", dir: "auto" }, el("b", {}, `${letter(k)}. `), option[0], right ? el("span", { class: "mark" }, " ✓ right") : null),
        el("div", { class: "origin" }, origin(option, right)), bar("base", option[1]), bar("tuned", option[2]));
    }));
  }

  function preferred(found) {
    const pick = (which) => { const k = best(found.options.map((option) => option[which])); return `${letter(k)} (${dec(found.options[k][which])}, ${k === found.right ? "right" : "wrong"})`; };
    return el("p", {}, `The base prefers ${pick(1)}, the tuned model ${pick(2)}. Right is ${letter(found.right)}.`);
  }

  function panel(points, which, x0, title, kind, top) {
    const W = 180, H = 92, first = points[0][0], last = points[points.length - 1][0];
    const x = (step) => x0 + (last === first ? W / 2 : ((step - first) / (last - first)) * W);
    const y = (value) => 22 + H - (value / top) * H;
    const at = points.filter((point) => point[which] !== null).map((point) => [x(point[0]).toFixed(1), y(point[which]).toFixed(1)]);
    return [
      svg("text", { x: x0, y: 11 }, title),
      svg("path", { class: "axis", d: `M${x0} ${22}H${x0 + W}M${x0} ${22 + H}H${x0 + W}` }),
      svg("text", { x: x0 - 5, y: 26, "text-anchor": "end" }, top === 1 ? "1" : top.toPrecision(2)),
      svg("text", { x: x0 - 5, y: 26 + H, "text-anchor": "end" }, "0"),
      svg("text", { x: x0, y: 38 + H }, `step ${first}`),
      last === first ? null : svg("text", { x: x0 + W, y: 38 + H, "text-anchor": "end" }, String(last)),
      at.length ? svg("path", { class: kind, d: `M${at.map((point) => point.join(" ")).join("L")}` }) : null,
      at.length > 60 ? null : at.map(([cx, cy]) => svg("circle", { class: kind, cx, cy, r: 2.6 })),
    ];
  }

  function curve(points) {
    if (!points.length) return el("p", { class: "note" }, meta.untrained || "This row was not visited in training.");
    const top = Math.max(...points.map((point) => point[2] || 0)) || 1, ends = [points[0], points[points.length - 1]];
    const label = `Training curve over ${points.length} visits: p(right token) from ${dec(ends[0][3])} to ${dec(ends[1][3])}, loss from ${dec(ends[0][2])} to ${dec(ends[1][2])} nats.`;
    return el("div", {}, svg("svg", { class: "curve", viewBox: "0 0 460 134", role: "img", "aria-label": label },
      panel(points, 3, 30, "p(right token)", "p", 1), panel(points, 2, 270, "loss, nats a token", "loss", top)),
    el("p", { class: "note" }, `${points.length} visits: p(right token) ${dec(ends[0][3])} → ${dec(ends[1][3])}, loss ${dec(ends[0][2])} → ${dec(ends[1][2])}.`));
  }

  function facts(line, found) {
    const list = [
      [`pass@${meta.runs}, tuned`, `${dec(line[PASS], 3)} (unlearned under ${meta.threshold})`],
      [`pass@${meta.runs}, base`, dec(found.base_pass_at_n, 3)],
      ["P(flag), tuned", dec(line[FLAG], 3)],
      [`Best of ${meta.runs} right`, dec(found.bon_correct, 3)],
      ["Skill, interval", `${dec(line[SKILL])} (${dec(found.skill_low)} to ${dec(found.skill_high)})`],
      ["Severity", dec(line[SEVERITY], 3) + (line[FLAGS] & SEVERE ? `, one of the ${meta.severe.toLocaleString("en")} worst` : "")],
      [meta.orders > 1 ? "Right, share of orders" : "Preferred answer", meta.orders > 1 ? dec(found.accuracy) : found.accuracy ? "right" : "wrong"],
      ["Shift from the base, JSD", `${dec(found.jsd, 3)} nats`],
      found.spread === undefined ? null : ["p(right) over orders", `spread ${dec(found.spread)}`],
      found.control === undefined || found.control === null ? null : ["Choices only, tuned", found.control >= 0.5 ? "right without the question" : "wrong without the question"],
      ["Length", `${found.length.toLocaleString("en")} ${meta.length_unit}`],
      ["Place in the order", `${(found.place + 1).toLocaleString("en")} of ${meta.judged.toLocaleString("en")}`],
    ];
    return el("dl", { class: "facts" }, list.filter(Boolean).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  // What the judge says of the row and the one that contradicts it.
  function ruling({ verdict, judge }) {
    const right = { right: "this row's answer to be right", wrong: "the other row's answer to be right", both: "both answers to be right", neither: "neither answer to be right" };
    if (!verdict) return null;
    if (verdict === "unjudged") return " No judge has ruled on the two.";
    return [" The judge", judge ? [" (", el("bdi", {}, judge), ")"] : null, verdict in right ? ` takes ${right[verdict]}.` : " does not decide between the two."];
  }

  // Why a row was not learned: the cause, and what it rests on.
  function why(found) {
    const { cause, cascade, what_to_do, posterior, evidence } = found.why, { base, tuned, partner, training, missing, facts } = evidence;
    const ranked = Object.entries(posterior).sort((a, b) => b[1] - a[1]).filter(([, p], n) => n === 0 || p >= 0.05);
    const list = [
      `The base: right ${dec(base.right)}, likeliest wrong ${dec(base.wrong)}. Over all wordings, less what the options alone give: right ${dec(base.probe_right)}, a wrong one ${dec(base.probe_wrong)}; ${dec(100 * base.agree, 0)} % of the wordings agree.`,
      `The tuned model: right ${dec(tuned.right)}, likeliest wrong ${dec(tuned.wrong)}.`,
      partner ? [`${partner.against} near row${partner.against === 1 ? " answers" : "s answer"} otherwise. The nearest (similarity ${dec(partner.similarity)}), row `, el("bdi", {}, partner.row_id), ": ", el("bdi", {}, partner.prompt), " → ", el("bdi", {}, partner.response), `. The tuned model gives that answer p = ${dec(partner.tuned)} here.`, ruling(partner)] : null,
      training ? `Loss ${dec(training.loss_first)} at the first visit, ${dec(training.loss_least)} at its lowest, ${dec(training.loss_last)} at the last, ${dec(training.loss_final)} after training (nats a token); last visited after ${dec(100 * training.place, 0)} % of training${training.learned_step ? `, last right after ${dec(100 * training.learned_step, 0)} %` : ", never right"}.` : null,
      missing ? "There is no record of training: forgetting and undertraining cannot be told." : null,
      facts.length ? ["Facts in it: ", facts.map((fact, n) => [n ? "; " : "", el("bdi", {}, [fact.subject, fact.relation, fact.object].join(" · ")), fact.blind ? " (unknown to the base)" : ""])] : null,
      `The paper's sequence of tests says ${words(cascade)}.`,
    ];
    return [el("h3", {}, "Why"), el("p", {}, el("b", {}, words(cause)), ": ", what_to_do),
      el("p", { class: "note" }, ranked.map(([name, p]) => `${words(name)} ${dec(p)}`).join(", ")),
      el("ul", { class: "notes" }, list.filter(Boolean).map((item) => el("li", {}, item)))];
  }

  // How many of the protocols flag the row.
  function robust(found) {
    const { votes, n, group, artefact } = found.robust, means = { core: "robust core", rim: "fragile rim", never: "never flagged" };
    const blind = artefact ? " The options alone, without the question, are flagged too." : "";
    return [el("h3", {}, "The model or the test"), el("p", {}, `Flagged by ${votes} of ${n} protocols: ${means[group]}.${blind}`)];
  }

  function card(at) {
    const line = lines[at], found = cards[at];
    const where = el("p", { class: "note" }, "Row ", el("bdi", {}, line[ID]), ", ", el("bdi", {}, line[SOURCE]));
    if (!found) return el("div", { class: "card" }, el("div", {}, where, el("p", {}, "This page carries full cards for the worst rows only. This row's texts are in rows.parquet, its numbers in detect.parquet.")));
    const judged = found.options.length > 0;
    const notes = found.notes.map(([problem, detail]) => el("li", {}, el("b", {}, words(problem)), detail ? ": " : "", el("bdi", {}, detail || "")));
    return el("div", { class: "card" },
      el("div", {}, found.context.map(([role, content]) => text(role, content)), text("Prompt", found.prompt), text("Trained response", found.response), where,
        el("h3", {}, "Training curve"), curve(found.curve)),
      el("div", {}, notes.length ? [el("h3", {}, "Plumbing: rule this out first"), el("ul", { class: "notes" }, notes)] : null,
        found.why ? why(found) : null,
        found.robust ? robust(found) : null,
        judged ? [el("h3", {}, "Options"), optionList(found), preferred(found)] : el("p", { class: "note" }, "This row could not be made a multiple-choice item, so it has no verdict."),
        judged ? [el("h3", {}, "Numbers"), facts(line, found)] : null));
  }

  // ---- row ids elsewhere on the page lead to their row's card ----
  function reveal(at) {
    $("search").value = "";
    $("verdict").selectedIndex = verdicts.length - 1;
    for (const id of ["dataset", "problem", "cause"]) $(id).selectedIndex = 0;
    state.sort = null;
    find();
    state.page = Math.floor(at / PAGE); // unfiltered and unsorted, every line stands at its place
    render();
    const row = document.querySelectorAll("#table tr.line")[at % PAGE];
    row.querySelector(".opener").click();
    row.scrollIntoView();
  }
  function link() {
    const places = new Map(lines.map((line, at) => [line[ID], at]));
    for (const name of document.querySelectorAll("bdi[data-card]")) {
      const at = places.get(name.dataset.card);
      if (at < cards.length) name.replaceChildren(el("a", { href: "#rows", onclick: (event) => { event.preventDefault(); reveal(at); } }, name.textContent));
    }
  }

  // ---- start ----
  const fill = (id, names) => $(id).append(...names.map((name) => el("option", {}, name)));
  fill("verdict", verdicts.map(([name]) => name));
  fill("dataset", ["all", ...datasets]);
  fill("cause", ["any or none", ...causes.map(words)]);
  fill("problem", ["any or none", "with a problem", "without", ...problems.map(words)]);
  fill("sort", ["worst first", ...columns.slice(1).flatMap((column) => [`${column.name} ↓`, `${column.name} ↑`])]);
  $("sort").addEventListener("change", () => {
    const n = $("sort").selectedIndex - 1;
    sortBy(n < 0 ? null : columns[1 + (n >> 1)].key, n % 2 === 0);
  });
  if (!lines.some((line) => line[FLAGS] & UNLEARNED)) $("verdict").selectedIndex = verdicts.length - 1;
  let waiting = 0;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(find, 120); });
  for (const id of ["verdict", "dataset", "problem", "cause"]) $(id).addEventListener("change", find);
  document.querySelector("form.controls").addEventListener("submit", (event) => event.preventDefault());
  const turn = (by) => { state.page += by; render(); $("rows").scrollIntoView(); };
  $("prev").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  head();
  find();
  link();
})();
