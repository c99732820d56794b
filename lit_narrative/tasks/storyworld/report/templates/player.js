"use strict";
// Plays the worlds of the page by the rules of simulator/play.py, on plans that player.py has made: an option is open
// where all its tests hold; a choice adds its changes one by one, each clamped to the bounds of its variable; then the
// encounter follows that it leads to. A bound that is null is infinite. All texts go to the page as text, never as HTML.

const ENDS = { "-1": "ending", "-2": "implicit", "-3": "dangling" };
const SAID = {
  ending: "The end.",
  implicit: "The story breaks off: nothing says where this option leads, or nothing is left that could follow.",
  dangling: "The story breaks off: this option leads to an encounter that does not exist.",
  stuck: "The story is stuck: no option is open here.",
};

function holds([index, low, high, negated], state) {
  const within = (low === null || low <= state[index]) && (high === null || state[index] <= high);
  return within !== negated;
}

function isOpen(option, state) {
  if (option.when) return option.when.every((script) => value(script, state));
  return option.tests.every((test) => holds(test, state));
}

const SLACK = 1e-9, LARGEST = 1e9, EDGE = 0.999999;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const sum = (numbers) => numbers.reduce((a, b) => a + b);
const COMPARE = {
  ">=": (a, b) => a >= b - SLACK, "<": (a, b) => a < b - SLACK, "<=": (a, b) => a <= b + SLACK, ">": (a, b) => a > b + SLACK,
  "==": (a, b) => b - SLACK <= a && a <= b + SLACK, "!=": (a, b) => !(b - SLACK <= a && a <= b + SLACK),
};
const OPERATORS = {
  "neg": (x) => -x, "abs": Math.abs, "not": (x) => !x, "holds": (x) => x !== 0,
  "+": (...all) => sum(all), "*": (...all) => all.reduce((a, b) => a * b), "mean": (...all) => sum(all) / all.length,
  "-": (first, ...rest) => (rest.length ? first - sum(rest) : first), "min": Math.min, "max": Math.max, "clamp": clamp,
  "nudge": (x, w) => x * (1 - Math.abs(w)) + w, "add": (x, w) => clamp(x + w, -1, 1), "distance": (a, b) => Math.abs(a - b),
  "blend": (a, b, w) => a * (1 - (w + 1) / 2) + b * ((w + 1) / 2), "near": (a, b) => clamp(0.99 - Math.abs(a - b), -0.99, 0.99),
  "xor": (...all) => sum(all.map(Number)) % 2, "same": (...all) => Number(new Set(all.map(Boolean)).size === 1),
  "bounded_sum": (...all) => {
    const total = sum(all.map((x) => clamp(x, -EDGE, EDGE)).map((x) => (x > 0 ? 1 / (1 - x) - 1 : 1 - 1 / (1 + x))));
    return total > 0 ? 1 - 1 / (total + 1) : -1 - 1 / (total - 1);
  },
};

// A script's value: a number, or true or false. Only what is needed is looked at, as Python's "and", "or" and "if" do.
function value(script, state) {
  if (typeof script === "number") return script;
  const [name, ...parts] = script;
  if (name === "s") return state[parts[0]];
  if (name === "all") return parts.every((part) => value(part, state));
  if (name === "any") return parts.some((part) => value(part, state));
  if (name === "if") return value(parts[value(parts[0], state) ? 1 : 2], state);
  const known = parts.map((part) => value(part, state));
  if (name in COMPARE) return COMPARE[name](...known);
  if (name[0] === "e" && name.slice(1) in COMPARE) return Number(compared(name.slice(1), ...known));
  return OPERATORS[name](...known);
}

function compared(sign, a, b) {
  if (sign === "==") return Math.abs(a - b) <= SLACK;
  return sign === "!=" ? Math.abs(a - b) > SLACK : COMPARE[sign](a, b);
}

function number(script, state) {
  const found = Number(value(script, state));
  return Number.isNaN(found) ? 0 : clamp(found, -LARGEST, LARGEST);
}

function changed([op, place, script, low, high], state) {
  if (op === "spool") return value(script, state) ? 1 : 0;
  const by = number(script, state), now = state[place];
  const after = op === "set" ? by : op === "add" ? now + by : OPERATORS[op === "push" ? "add" : "nudge"](now, by);
  return low !== null && after < low ? low : high !== null && after > high ? high : after;
}

// The encounter that selection chooses, and the turn then; the story ends without a word (-2) where there is none.
function select(plan, state, visited, turn) {
  let found = -2, most = -Infinity, later = Infinity;
  for (const [scene, first, last, spools, accepted, wanted] of plan.pool) {
    if ((last !== null && turn > last) || visited.has(scene) || first >= later) continue;
    if ((spools.length && !spools.some((place) => state[place])) || !value(accepted, state)) continue;
    if (first > turn) { later = first; continue; }
    later = turn + 1;
    const desire = number(wanted, state);
    if (desire > most) { found = scene; most = desire; }
  }
  return found >= 0 || later === Infinity ? [found, turn] : select(plan, state, visited, later);
}

function follow(plan, moment, option) {
  const desires = option.ways.map((way) => number(way.wanted, moment.state)), best = Math.max(...desires);
  const way = option.ways[plan.last ? desires.lastIndexOf(best) : desires.indexOf(best)];
  const state = moment.state.slice(), visited = new Set(moment.visited);
  for (const change of way.changes) state[change[1]] = changed(change, state);
  for (const place of way.events) state[place] = 1;
  let scene = way.target, turn = moment.turn + 1;
  if (scene === -4) [scene, turn] = select(plan, state, visited, turn);
  visited.add(scene);
  return { scene, at: moment.scene, state, said: way.said, visited, turn };
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
  const scene = "first" in plan ? plan.first : plan.scenes.length ? 0 : -3;
  return { scene, at: 0, state: plan.start, said: [], visited: new Set([scene]), turn: 0 };
}

function choose(plan, moment, position) {
  const option = plan.scenes[moment.scene].options[position];
  if (option.ways) return follow(plan, moment, option);
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
      if (option.when) return value(option.when[index], moment.state) ? [] : [need];
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
