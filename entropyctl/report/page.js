"use strict";
// The theme, and the words that are said to those who do not see the page.

const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");

/** An element with a class and text; what comes from data is only ever set as text. */
function element(tag, { className = "", text = null, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function island(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function say(text) {
  document.getElementById("spoken").textContent = text;
}

function setTheme() {
  const chosen = document.getElementById("theme").value;
  root.dataset.theme = chosen || (dark.matches ? "dark" : "light");
  document.dispatchEvent(new Event("themed"));
}

setTheme();
document.getElementById("theme").addEventListener("change", setTheme);
dark.addEventListener("change", setTheme);
