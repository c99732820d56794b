// Follows every play of a Twee file written for SugarCube, as far as its macros set, if, link and include go.
const text = require("fs").readFileSync(process.argv[2], "utf8");
const passages = {};
for (const part of text.split(/^:: /m).slice(1)) {
  const end = part.indexOf("\n");
  passages[part.slice(0, end)] = part.slice(end + 1);
}
const setup = {};
new Function("setup", passages["functions [script]"])(setup);

function value(code, state) {
  const names = code.replace(/\$(\w+)/g, "state.$1").replace(/\b_(d\d+)/g, "state._$1");
  return new Function("state", "setup", `return (${names});`)(state, setup);
}

// Shows a passage: carries out its macros on the state, and returns the passages that it links to.
function show(name, state) {
  const links = [];
  const open = [];
  for (const [, macro, rest] of passages[name].matchAll(/<<(\/?\w+)((?:[^>"]|"[^"]*"|>(?!>))*)>>/g)) {
    const here = open.every((level) => level.on);
    if (macro === "if") {
      const on = here && value(rest, state);
      open.push({ on, done: on || !here });
    } else if (macro === "elseif" || macro === "else") {
      const level = open[open.length - 1];
      level.on = !level.done && (macro === "else" || value(rest, state));
      level.done = level.done || level.on;
    } else if (macro === "/if") {
      open.pop();
    } else if (here && macro === "set") {
      const [, variable, code] = rest.match(/^ ([$_]\w+) to (.*)$/s);
      state[variable.replace("$", "")] = value(code, state);
    } else if (here && macro === "link") {
      links.push(rest.match(/" "([^"]*)"$/)[1]);
    } else if (here && macro === "include") {
      links.push(...show(rest.match(/"([^"]*)"/)[1], state));
    }
  }
  return links;
}

const first = {};
show("StoryInit", first);
const found = [];
const pending = [[JSON.parse(passages.StoryData).start, first, 0]];
while (pending.length) {
  const [name, state, taken] = pending.pop();
  const links = show(name, state);
  if (!links.length) found.push([taken, state.ending]);
  else if (taken < 12) for (const link of links) pending.push([link, { ...state }, taken + 1]);
}
console.log(JSON.stringify(found));
