"use strict";
// The responses: filters, order, pages, and tokens coloured by their numbers.

const payload = island("payload");
const browser = document.querySelector(".browser");
const tip = document.getElementById("tip");
const PER_PAGE = 20;
const FIRST_TOKENS = 500;
const UNKNOWN = 65535;
const MARKS = ["", "masked", "penalised", "foreign"];
const MARK_WORDS = ["", "left out by the mask", "held by a KL penalty", "not chosen by the policy"];

function bytes(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer;
}

/** A short form of a number for people. */
function short(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(+value.toPrecision(4)) : value.toExponential(2);
}

function brief(value) {
  return value && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
}

function indicesOf(row) {
  return new Uint32Array(bytes(row.pieces));
}

/** The tokens of a response: text, id, mark, and numbers by the name of their colour; made once. */
function tokensOf(row) {
  if (row.tokens) return row.tokens;
  const indices = indicesOf(row);
  const marks = new Uint8Array(bytes(row.marks));
  const numbers = {};
  for (const { name, scale: [low, high] } of payload.colours) {
    if (!(name in row.numbers)) continue;
    const steps = new Uint16Array(bytes(row.numbers[name]));
    numbers[name] = Array.from(steps, (step) => (step === UNKNOWN ? null : low + (step / 65534) * (high - low)));
  }
  row.tokens = Array.from(marks, (mark, i) => ({
    text: payload.has_text && indices.length ? payload.pieces[indices[i]][0] : null,
    id: indices.length ? payload.pieces[indices[i]][1] : null,
    mark,
    numbers: Object.fromEntries(Object.entries(numbers).map(([name, values]) => [name, values[i]])),
  }));
  return row.tokens;
}

function textOf(row) {
  if (row.text === undefined) {
    const piece = (index) => (payload.has_text ? payload.pieces[index][0] : `[${payload.pieces[index][1]}]`);
    row.text = row.response ?? Array.from(indicesOf(row), piece).join("");
  }
  return row.text;
}

function haystack(row) {
  const parts = [textOf(row), row.prompt === null ? "" : payload.prompts[row.prompt], row.key.join(":"), row.predicted];
  return (row.haystack ??= parts.join("\n").toLowerCase());
}

function colourOf(colour, value) {
  if (value === null || value === undefined) return "";
  const [low, high] = colour.ends;
  const place = colour.diverges ? value / high : (value - low) / (high - low);
  const strength = Math.min(Math.abs(Math.max(place, colour.diverges ? -1 : 0)), 1);
  const style = getComputedStyle(root);
  const hue = style.getPropertyValue(place < 0 ? "--cold" : "--hot");
  return `rgba(${hue}, ${(strength * style.getPropertyValue("--shade")).toFixed(3)})`;
}

const state = { page: 0, open: null, colour: payload && payload.colours.length ? payload.colours[0].name : null };

function colour() {
  return payload.colours.find(({ name }) => name === state.colour);
}

function paint(box) {
  const chosen = colour();
  for (const span of box.children) {
    if (span.token) span.style.backgroundColor = chosen ? colourOf(chosen, span.token.numbers[chosen.name]) : "";
  }
}

function showTip(span) {
  const { token } = span;
  const what = token.text === null ? `token ${token.id ?? ""}` : JSON.stringify(token.text).slice(1, -1);
  const list = element("dl");
  const fact = (name, value) => list.append(element("dt", { text: name }), element("dd", { text: value }));
  fact("place", `${token.place + 1}${token.id === null ? "" : `, id ${token.id}`}`);
  if (token.numbers.logprobs !== undefined && token.numbers.logprobs !== null) {
    fact("p", short(Math.exp(token.numbers.logprobs)));
  }
  for (const { name, label } of payload.colours) {
    if (name in token.numbers) fact(label, short(token.numbers[name]));
  }
  if (token.mark) fact("mask", MARK_WORDS[token.mark]);
  tip.replaceChildren(element("div", { className: "what", text: what.trim() ? what : `"${what}"` }), list);
  tip.hidden = false;
  const at = span.getClientRects()[0];
  const { width, height } = tip.getBoundingClientRect();
  const above = at.top - height - 8;
  tip.style.left = `${Math.max(12, Math.min(at.left, document.documentElement.clientWidth - width - 12))}px`;
  tip.style.top = `${above >= 8 ? above : Math.min(at.bottom + 8, innerHeight - height - 8)}px`;
  span.setAttribute("aria-describedby", "tip");
}

function hideTip(span) {
  tip.hidden = true;
  if (span) span.removeAttribute("aria-describedby");
}

/** The token on the line above or below that lies nearest. */
function onLine(span, direction) {
  const sibling = direction < 0 ? "previousElementSibling" : "nextElementSibling";
  const here = span.getBoundingClientRect();
  let line = null;
  let best = null;
  for (let other = span[sibling]; other; other = other[sibling]) {
    const there = other.getClientRects()[0];
    if (!other.token || !there || Math.abs(there.top - here.top) < 4) continue;
    line ??= there.top;
    if (Math.abs(there.top - line) > 4) break;
    if (!best || Math.abs(there.left - here.left) < Math.abs(best.getClientRects()[0].left - here.left)) best = other;
  }
  return best;
}

function goTo(box, span) {
  if (!span) return;
  box.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
  span.setAttribute("tabindex", "0");
  span.focus();
}

function tokenBox(row) {
  const tokens = tokensOf(row);
  const box = element("div", { className: "tokens", role: "group", "aria-label": "Tokens; arrow keys go from one to the next" });
  const add = (from, to) => {
    tokens.slice(from, to).forEach((token, i) => {
      token.place = from + i;
      const text = token.text === null ? String(token.id ?? token.place + 1) : token.text.replaceAll("\n", "⏎\n");
      const kind = `${MARKS[token.mark]}${token.text === null ? " number" : ""}`;
      const span = element("span", { className: kind, text, tabindex: from + i ? -1 : 0 });
      span.token = token;
      box.append(span);
    });
    paint(box);
  };
  add(0, FIRST_TOKENS);
  const moves = {
    ArrowRight: (span) => span.nextElementSibling,
    ArrowLeft: (span) => span.previousElementSibling,
    ArrowDown: (span) => onLine(span, 1),
    ArrowUp: (span) => onLine(span, -1),
    Home: () => box.firstElementChild,
    End: () => box.lastElementChild,
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip(event.target);
    if (!(event.key in moves) || !event.target.token) return;
    event.preventDefault();
    goTo(box, moves[event.key](event.target));
  });
  for (const name of ["mouseover", "focusin"]) box.addEventListener(name, ({ target }) => target.token && showTip(target));
  for (const name of ["mouseout", "focusout"]) box.addEventListener(name, ({ target }) => hideTip(target));
  if (tokens.length <= FIRST_TOKENS) return [box];
  const more = element("button", { type: "button", className: "more", text: `Show all ${tokens.length} tokens` });
  more.addEventListener("click", () => {
    const next = FIRST_TOKENS;
    add(next, tokens.length);
    more.remove();
    goTo(box, box.children[next]);
  });
  return [box, more];
}

function quoted(name, text, open = false) {
  const details = element("details", {}, element("summary", { text: name }), element("div", { className: "quoted", text }));
  details.open = open;
  return details;
}

function aboutRow(row) {
  const line = element("p", { className: "about-row" });
  const fact = (name, value) => {
    if (value !== null && value !== undefined && value !== "") line.append(`${name} `, element("b", { text: value }), "  ·  ");
  };
  fact("step", row.key[0]);
  fact("prompt", row.key[1]);
  fact("sample", row.key[2]);
  fact("version", row.version);
  fact("source", row.source);
  fact("ended by", row.finish);
  fact("read as", row.predicted);
  fact("right answer", row.answer);
  fact("shown because", row.why.map((name) => payload.extremes[name] ?? name).join("; "));
  line.lastChild.remove();
  return line;
}

function bodyOf(row) {
  const body = element("div", { className: "body" }, aboutRow(row));
  if (row.prompt !== null) body.append(quoted("Prompt", payload.prompts[row.prompt]));
  if (row.response !== undefined && row.response !== null) body.append(quoted("Response", row.response, true));
  if (row.shown) body.append(...tokenBox(row));
  if (row.shown < row.length) {
    body.append(element("p", { className: "about-row", text: `The first ${row.shown} of ${row.length} tokens are in this file.` }));
  }
  return body;
}

function itemOf(row) {
  const id = `body-${row.place}`;
  const facts = [`step ${row.key[0]}`, row.reward === null ? "" : `reward ${brief(row.reward)}`];
  facts.push(row.entropy === null ? "" : `H ${brief(row.entropy)}`, `${row.length} tokens`);
  if (row.masked) facts.push(`${brief(100 * row.masked)} % masked`);
  const head = element(
    "button",
    { type: "button", className: "head", "aria-expanded": "false", "aria-controls": id },
    element("span", { className: `outcome ${row.outcome === "correct" || row.outcome === "wrong" ? row.outcome : ""}`, text: row.outcome ?? "not graded" }),
    element("span", { className: "excerpt", text: textOf(row).slice(0, 200).replaceAll("\n", "⏎ ") }),
    element("span", { className: "facts", text: facts.filter(Boolean).join(" · ") }),
  );
  const item = element("div", { className: "item", role: "listitem" }, head);
  head.addEventListener("click", () => {
    const opens = head.getAttribute("aria-expanded") === "false";
    if (state.open && state.open !== head) close(state.open);
    if (!opens) return close(head);
    head.setAttribute("aria-expanded", "true");
    const body = bodyOf(row);
    body.id = id;
    item.append(body);
    state.open = head;
  });
  return item;
}

function close(head) {
  head.setAttribute("aria-expanded", "false");
  head.parentElement.querySelector(".body")?.remove();
  state.open = null;
  hideTip();
}

const form = browser?.querySelector(".filters");

function found() {
  const { search, outcome, step, prompt, why, sort } = Object.fromEntries(new FormData(form));
  const words = search.trim().toLowerCase();
  const rows = payload.rows.filter(
    (row) =>
      (!outcome || String(row.outcome) === outcome) &&
      (!step || String(row.key[0]) === step) &&
      (!prompt || row.key[1] === prompt) &&
      (!why || row.why.includes(why)) &&
      (!words || haystack(row).includes(words)),
  );
  const [field, direction] = sort.split("-");
  if (!direction) return rows;
  const sign = direction === "down" ? -1 : 1;
  const value = (row) => row[field] ?? -sign * Infinity * -1;
  return rows.sort((a, b) => sign * (value(a) - value(b)) || a.place - b.place);
}

function list() {
  const rows = found();
  const pages = Math.max(Math.ceil(rows.length / PER_PAGE), 1);
  state.page = Math.min(state.page, pages - 1);
  const from = state.page * PER_PAGE;
  const shown = rows.slice(from, from + PER_PAGE);
  state.open = null;
  hideTip();
  browser.querySelector(".list").replaceChildren(...shown.map(itemOf));
  const which = rows.length ? `${from + 1} to ${from + shown.length} of ${rows.length} responses` : "No response fits these filters";
  browser.querySelector(".count").textContent = rows.length < payload.rows.length && rows.length ? `${which} that fit` : which;
  browser.querySelector("[name=back]").disabled = state.page === 0;
  browser.querySelector("[name=forth]").disabled = state.page >= pages - 1;
}

function options(name, all, values) {
  const select = form.elements[name];
  select.append(element("option", { value: "", text: all }), ...values.map((value) => element("option", { value, text: value })));
}

function legend() {
  const chosen = colour();
  const line = browser.querySelector(".legend");
  if (!chosen) return line.replaceChildren("These responses carry no numbers for their tokens.");
  const scale = element("span", { className: "scale" });
  const [low, high] = chosen.ends;
  const stops = [0, 0.25, 0.5, 0.75, 1].map((part) => colourOf(chosen, low + part * (high - low)) || "transparent");
  scale.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
  const masked = payload.rows.some((row) => row.masked);
  const mark = masked ? [element("span", { className: "mark", text: "token" }), " left out by the mask"] : [];
  line.replaceChildren(brief(low), scale, brief(high), ...mark, element("span", { className: "about", text: chosen.about }));
}

function colours() {
  const choices = browser.querySelector(".choices");
  for (const { name, label } of payload.colours) {
    const input = element("input", { type: "radio", name: "colour", value: name });
    input.checked = name === state.colour;
    input.addEventListener("change", () => {
      state.colour = name;
      repaint();
    });
    choices.append(element("label", {}, input, element("span", { text: label })));
  }
}

function repaint() {
  legend();
  browser.querySelectorAll(".tokens").forEach(paint);
}

if (payload) {
  payload.rows.forEach((row, place) => (row.place = place));
  const different = (value) => [...new Set(payload.rows.map(value))];
  options("outcome", "every outcome", different((row) => String(row.outcome)));
  options("step", "every step", different((row) => row.key[0]).sort((a, b) => a - b));
  options("prompt", "every prompt", different((row) => row.key[1]).sort());
  options("why", "every reason", ["at random", ...Object.keys(payload.extremes)].filter((why) => payload.rows.some((row) => row.why.includes(why))));
  form.addEventListener("input", () => ((state.page = 0), list()));
  form.addEventListener("submit", (event) => event.preventDefault());
  browser.querySelector("[name=back]").addEventListener("click", () => (state.page--, list()));
  browser.querySelector("[name=forth]").addEventListener("click", () => (state.page++, list()));
  document.addEventListener("themed", repaint);
  // A token that the keyboard went to may lie outside the window, and is scrolled to.
  const follow = () => tip.hidden || (document.activeElement.token ? showTip(document.activeElement) : hideTip());
  document.addEventListener("scroll", follow, { passive: true });
  colours();
  legend();
  list();
  browser.hidden = false;
}
