"use strict";
// Plays the worlds of the page by the rules of simulator/play.py, on plans that player.py has made: an option is open
// where all its tests hold; a choice adds its changes one by one, each clamped to the bounds of its variable; then the
// encounter follows that it leads to. A bound that is null is infinite. All texts go to the page as text, never as HTML.

const ENDS = { "-1": "ending", "-2": "implicit", "-3": "dangling" };
const SAID = {
  ending: "The end.",
  implicit: "The story breaks off: this option does not say where it leads.",
  dangling: "The story breaks off: this option leads to an encounter that does not exist.",
  stuck: "The story is stuck: no option is open here.",
};

function holds([index, low, high, negated], state) {
  const within = (low === null || low <= state[index]) && (high === null || state[index] <= high);
  return within !== negated;
}

function isOpen(option, state) {
  return option.tests.every((test) => holds(test, state));
}

function take(option, state) {
  const after = state.slice();
  for (const [index, change, low, high] of option.changes) {
    const value = after[index] + change;
    after[index] = low !== null && value < low ? low : high !== null && value > high ? high : value;
  }
  return after;
}

function begin(plan) {
  return { scene: plan.scenes.length ? 0 : -3, at: 0, state: plan.start, said: [] };
}

function choose(plan, moment, position) {
  const option = plan.scenes[moment.scene].options[position];
  return { scene: option.target, at: moment.scene, state: take(option, moment.state), said: option.said };
}

// How the play ended, or null where there is something to choose.
function outcome(plan, moment) {
  if (moment.scene < 0) return ENDS[moment.scene];
  const options = plan.scenes[moment.scene].options;
  if (options.some((option) => isOpen(option, moment.state))) return null;
  return options.length ? "stuck" : "ending";
}

function shown(value) {
  return String(Number(value.toFixed(9)));  // hides the drift of repeated addition, as Python's _shown does
}

function element(parent, tag, className, text) {
  const made = parent.appendChild(document.createElement(tag));
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function button(parent, text, act) {
  const made = element(parent, "button", "", text);
  made.type = "button";
  if (act) made.addEventListener("click", act);
  else made.disabled = true;
  return made;
}

function showState(box, plan, before, state) {
  const list = element(box, "dl", "state");
  plan.names.forEach((name, index) => {
    const pair = element(list, "div");
    element(pair, "dt", "", name);
    const value = element(pair, "dd", "", shown(state[index]));
    const change = state[index] - before[index];
    if (change) element(value, "small", "", " (" + (change > 0 ? "+" : "") + shown(change).replace("-", "\u2212") + ")");
  });
}

function showOptions(box, plan, moment, go) {
  const list = element(box, "ul", "choices");
  plan.scenes[moment.scene].options.forEach((option, position) => {
    const item = element(list, "li");
    const open = isOpen(option, moment.state);
    button(item, option.text, open ? () => go(position) : null);
    const why = option.needs.flatMap((need, index) => {
      const test = option.tests[index];
      return holds(test, moment.state) ? [] : [need + " (it is " + shown(moment.state[test[0]]) + ")"];
    });
    if (!open) element(item, "small", "", "closed: needs " + why.join(" and "));
  });
}

function mount(box) {
  const plan = JSON.parse(box.querySelector("script").textContent);
  const stage = element(box, "div", "stage");
  const found = new Set();
  let moments = [begin(plan)];

  function show(focus) {
    const moment = moments[moments.length - 1];
    const before = moments.length > 1 ? moments[moments.length - 2].state : moment.state;
    const end = outcome(plan, moment);
    const scene = plan.scenes[moment.scene < 0 ? moment.at : moment.scene];
    stage.replaceChildren();
    moment.said.forEach((text) => element(stage, "p", "told", text));
    const title = element(stage, "h4", "", moment.scene < 0 ? "" : scene.title);
    title.tabIndex = -1;
    if (moment.scene >= 0) element(stage, "p", "scene", scene.text);
    if (end === null) {
      showOptions(stage, plan, moment, (position) => { moments.push(choose(plan, moment, position)); show(true); });
    } else {
      if (end === "ending") found.add(scene.title);
      element(stage, "p", "end " + end, SAID[end] + (end === "ending" ? " You came to \u201c" + scene.title + "\u201d." : ""));
    }
    showState(stage, plan, before, moment.state);
    const bar = element(stage, "p", "bar");
    button(bar, "Restart", () => { moments = [begin(plan)]; show(true); });
    button(bar, "Back", moments.length > 1 ? () => { moments.pop(); show(true); } : null);
    element(bar, "span", "note", "step " + moments.length + ", endings found: " + ([...found].join(", ") || "none"));
    if (focus) title.focus({ preventScroll: true });
  }

  box.querySelector(".without").remove();
  show(false);
}

if (typeof document === "undefined") module.exports = { begin, choose, isOpen, outcome };
else document.querySelectorAll(".player").forEach(mount);
