// The subset of TOML that chain scripts use: tables, arrays of tables, strings, numbers, booleans.

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
    return fail("expected a string, a number, true or false");
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
      const key = name();
      if (!skip(/\s*\]/y)) fail("] is missing");
      if (key in root) fail(`[${key}] is defined twice`);
      table = root[key] = {};
    } else {
      const key = name();
      space();
      if (!skip(/=/y)) fail("= is missing");
      space();
      if (Object.hasOwn(table, key)) fail(`${key} is defined twice`);
      table[key] = value();
    }
    endOfLine();
  }
  return root;
}

const quoted = (text) => JSON.stringify(text).replace(/\u007f/g, "\\u007f");
const line = ([key, value]) => `${key} = ${typeof value === "string" ? quoted(value) : value}\n`;
const lines = (table) => Object.entries(table).filter(([, value]) => value !== undefined && value !== null && value !== "").map(line).join("");

// Returns a chain script as text.
export function chainToml(chain, stages) {
  return `schema = "mold.chain.v1"\n\n[chain]\n${lines(chain)}${stages.map((stage) => `\n[[stage]]\n${lines(stage)}`).join("")}`;
}
