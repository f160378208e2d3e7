// The subset of TOML that chain scripts use: tables, arrays of tables, inline tables, strings, numbers, booleans.

const ESCAPES = { n: "\n", t: "\t", r: "\r", b: "\b", f: "\f", '"': '"', "\\": "\\", e: "\x1b" };

// Parses a script. Throws an Error that names the line of a syntax error.
export function parseToml(text) {
  const root = {};
  let table = root, at = 0;
  const fail = (what) => { throw new Error(`line ${text.slice(0, at).split("\n").length}: ${what}`); };
  const skip = (pattern) => { pattern.lastIndex = at; const found = pattern.exec(text); if (found) at += found[0].length; return found; };
  const space = () => skip(/[ \t]*/y);
  const endOfLine = () => { space(); skip(/#[^\n]*/y); if (!skip(/\r?\n|$/y)) fail("unexpected text at the end of the line"); };

  function unescape(raw) {
    return raw.replace(/\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\r?\n\s*|.)/g, (whole, code) => {
      if (/^[uU]./.test(code)) return String.fromCodePoint(parseInt(code.slice(1), 16));
      if (/^\s/.test(code)) return "";
      return ESCAPES[code] ?? fail(`unknown escape ${whole}`);
    });
  }
  function value() {
    let found;
    if ((found = skip(/"""\r?\n?((?:\\[\s\S]|[^\\])*?)"""/y))) return unescape(found[1]);
    if ((found = skip(/'''\r?\n?([\s\S]*?)'''/y))) return found[1];
    if ((found = skip(/"((?:\\.|[^"\\\n])*)"/y))) return unescape(found[1]);
    if ((found = skip(/'([^'\n]*)'/y))) return found[1];
    if ((found = skip(/true\b|false\b/y))) return found[0] === "true";
    if ((found = skip(/[+-]?\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d+)?/y))) return Number(found[0].replaceAll("_", ""));
    if (skip(/\{[ \t]*/y)) return inline();
    return fail("expected a string, a number, true, false or a table in braces");
  }
  function inline() {
    const found = {};
    if (skip(/\}/y)) return found;
    do {
      space();
      pair(found);
      space();
    } while (skip(/,/y));
    if (!skip(/\}/y)) fail("} is missing");
    return found;
  }
  function pair(into) {
    const key = name();
    space();
    if (!skip(/=/y)) fail("= is missing");
    space();
    if (Object.hasOwn(into, key)) fail(`${key} is defined twice`);
    into[key] = value();
  }
  function name() {
    const found = skip(/[A-Za-z0-9_-]+/y) ?? fail("expected a name");
    return found[0];
  }

  while (at < text.length) {
    skip(/(?:[ \t]*(?:#[^\n]*)?\r?\n)+/y);
    space();
    if (at >= text.length) break;
    if (text[at] === "#") { endOfLine(); continue; }
    if (skip(/\[\[\s*/y)) {
      const key = name();
      if (!skip(/\s*\]\]/y)) fail("]] is missing");
      (root[key] ??= []).push((table = {}));
    } else if (skip(/\[\s*/y)) {
      let parent = root, key = name();
      while (skip(/[ \t]*\.[ \t]*/y)) { parent = parent[key] ??= {}; key = name(); }
      if (!skip(/\s*\]/y)) fail("] is missing");
      if (key in parent) fail(`[${key}] is defined twice`);
      table = parent[key] = {};
    } else {
      pair(table);
    }
    endOfLine();
  }
  return root;
}

const quoted = (text) => JSON.stringify(text).replace(/\u007f/g, "\\u007f");
const isSet = ([, value]) => value !== undefined && value !== null && value !== "" && !(typeof value === "object" && !Object.entries(value).some(isSet));
const pairs = (table) => Object.entries(table).filter(isSet).map(([key, value]) => `${key} = ${written(value)}`);
const written = (value) => (typeof value === "string" ? quoted(value) : typeof value === "object" ? `{ ${pairs(value).join(", ")} }` : value);
const lines = (table) => pairs(table).map((line) => `${line}\n`).join("");

// Returns a chain script as text.
export function chainToml(chain, stages) {
  return `schema = "mold.chain.v1"\n\n[chain]\n${lines(chain)}${stages.map((stage) => `\n[[stage]]\n${lines(stage)}`).join("")}`;
}
