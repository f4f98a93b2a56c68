"use strict";
// LaTeX's formulas → MathML, which browsers draw themselves. What is not known stays as it was written.

const SYMBOLS = {
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ϵ", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ", iota: "ι", kappa: "κ",
  lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", upsilon: "υ", phi: "ϕ", varphi: "φ", chi: "χ",
  psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Xi: "Ξ", Pi: "Π", Sigma: "Σ", Phi: "Φ", Psi: "Ψ", Omega: "Ω",
  infty: "∞", partial: "∂", nabla: "∇", ell: "ℓ", hbar: "ℏ", emptyset: "∅", varnothing: "∅", angle: "∠", triangle: "△", Re: "ℜ",
  Im: "ℑ", prime: "′", degree: "°", circ: "∘", dots: "…", ldots: "…", cdots: "⋯", vdots: "⋮", ddots: "⋱",
};
const OPERATORS = {
  times: "×", cdot: "⋅", div: "÷", pm: "±", mp: "∓", leq: "≤", le: "≤", geq: "≥", ge: "≥", neq: "≠", ne: "≠", approx: "≈", equiv: "≡",
  sim: "∼", simeq: "≃", cong: "≅", propto: "∝", in: "∈", notin: "∉", ni: "∋", subset: "⊂", subseteq: "⊆", supset: "⊃",
  supseteq: "⊇", cup: "∪", cap: "∩", setminus: "∖", forall: "∀", exists: "∃", neg: "¬", lnot: "¬", land: "∧", wedge: "∧", lor: "∨",
  vee: "∨", to: "→", rightarrow: "→", leftarrow: "←", leftrightarrow: "↔", Rightarrow: "⇒", implies: "⟹", Leftarrow: "⇐",
  Leftrightarrow: "⇔", iff: "⟺", mapsto: "↦", mid: "∣", nmid: "∤", parallel: "∥", perp: "⊥", ast: "∗", star: "⋆", oplus: "⊕",
  otimes: "⊗", colon: ":", therefore: "∴", because: "∵", ll: "≪", gg: "≫", bmod: "mod",
  lfloor: "⌊", rfloor: "⌋", lceil: "⌈", rceil: "⌉", langle: "⟨", rangle: "⟩", lbrace: "{", rbrace: "}", vert: "|", Vert: "‖",
  "{": "{", "}": "}", "|": "‖", "%": "%", "$": "$", "#": "#", "&": "&", "_": "_",
};
const LARGE = { sum: "∑", prod: "∏", coprod: "∐", int: "∫", iint: "∬", iiint: "∭", oint: "∮", bigcup: "⋃", bigcap: "⋂" };
const WORDS = ["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "lg", "exp",
  "det", "dim", "gcd", "lcm", "deg", "ker", "hom", "arg", "Pr"];
const LIMITS = ["lim", "max", "min", "sup", "inf", "limsup", "liminf", "argmax", "argmin"];
const ACCENTS = { hat: "^", widehat: "^", bar: "‾", overline: "‾", vec: "→", overrightarrow: "→", tilde: "~", dot: "˙", ddot: "¨" };
const SPACES = { ",": "0.17em", ":": "0.22em", ";": "0.28em", "!": "-0.17em", " ": "0.3em", quad: "1em", qquad: "2em" };
const LETTERS = { mathbb: "double-struck", mathcal: "script", mathfrak: "fraktur", mathbf: "bold", boldsymbol: "bold" };
const BOARDS = { N: "ℕ", Z: "ℤ", Q: "ℚ", R: "ℝ", C: "ℂ", P: "ℙ", H: "ℍ", E: "𝔼", F: "𝔽" };
const FENCES = { matrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"], vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"],
  cases: ["{", ""], array: ["", ""], aligned: ["", ""], align: ["", ""], "align*": ["", ""], gathered: ["", ""], equation: ["", ""],
  "equation*": ["", ""] };
const DEEPEST = 60;

const MATH = "http://www.w3.org/1998/Math/MathML";
function m(name, ...children) {
  const made = document.createElementNS(MATH, name);
  made.append(...children);
  return made;
}
const row = (nodes) => (nodes.length === 1 ? nodes[0] : m("mrow", ...nodes));

class Formula {
  constructor(source) {
    this.tokens = source.match(/\\[a-zA-Z]+\*?|\\[^a-zA-Z]|[0-9]+(?:[.,][0-9]+)*|\s+|[^]/gu) ?? [];
    this.place = 0;
    this.depth = 0;
  }
  peek() {
    while (/^\s/.test(this.tokens[this.place] ?? "")) this.place += 1;
    return this.tokens[this.place];
  }
  take() {
    const token = this.peek();
    this.place += 1;
    return token;
  }
  // The nodes up to one of the tokens that end them, which is not taken.
  nodes(...ends) {
    this.depth += 1;
    if (this.depth > DEEPEST) throw new Error("nested too deeply");
    const made = [];
    while (this.peek() !== undefined && !ends.includes(this.peek())) made.push(this.scripted());
    this.depth -= 1;
    return made;
  }
  scripted() {
    const large = LARGE[(this.peek() ?? "").slice(1)] !== undefined || LIMITS.includes((this.peek() ?? "").slice(1));
    const base = this.peek() === "^" || this.peek() === "_" ? m("mrow") : this.atom();
    let under, over;
    for (;;) {
      const next = this.peek();
      if (next === "_" && under === undefined) { this.take(); under = this.argument(); }
      else if (next === "^" && over === undefined) { this.take(); over = this.argument(); }
      else if (next === "'" ) { this.take(); over = row([...(over ? [over] : []), m("mo", "′")]); }
      else if (next === "\\limits" || next === "\\nolimits") this.take();
      else break;
    }
    if (under && over) return m(large ? "munderover" : "msubsup", base, under, over);
    if (under) return m(large ? "munder" : "msub", base, under);
    if (over) return m(large ? "mover" : "msup", base, over);
    return base;
  }
  argument() {
    if (this.peek() === undefined) throw new Error("something is missing at the end");
    if (this.peek() === "{") return this.group();
    const digits = this.peek();
    if (/^[0-9]{2,}/.test(digits)) { // x^23 is x², 3
      this.tokens.splice(this.place, 1, digits[0], digits.slice(1));
    }
    return this.atom();
  }
  group() {
    this.expect("{");
    const made = row(this.nodes("}"));
    this.expect("}");
    return made;
  }
  expect(token) {
    if (this.take() !== token) throw new Error(`${token} is missing`);
  }
  text() { // the source of a group, as it stands
    this.expect("{");
    let depth = 1, found = "";
    for (; this.place < this.tokens.length; this.place += 1) {
      const token = this.tokens[this.place];
      depth += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (depth === 0) { this.place += 1; return found; }
      found += token.startsWith("\\") && !/[a-zA-Z]/.test(token[1]) ? token[1] : token;
    }
    throw new Error("} is missing");
  }
  atom() {
    const token = this.take();
    if (token === undefined) throw new Error("something is missing at the end");
    if (token === "{") { this.place -= 1; return this.group(); }
    if (token === "}") throw new Error("} has no beginning");
    if (/^[0-9]/.test(token)) return m("mn", token);
    if (token.startsWith("\\") && token.length > 1) return this.command(token.slice(1));
    if (/^\p{L}/u.test(token)) return m("mi", token);
    const made = m("mo", token === "-" ? "−" : token === "*" ? "∗" : token === "~" ? "\u00a0" : token);
    if ("()[]|".includes(token)) made.setAttribute("stretchy", "false");
    return made;
  }
  command(name) {
    if (Object.hasOwn(SYMBOLS, name)) return m("mi", SYMBOLS[name]);
    if (Object.hasOwn(OPERATORS, name)) return m("mo", OPERATORS[name]);
    if (Object.hasOwn(LARGE, name)) return m("mo", LARGE[name]);
    if (WORDS.includes(name) || LIMITS.includes(name)) return m("mi", name);
    if (Object.hasOwn(SPACES, name)) {
      const space = m("mspace");
      space.setAttribute("width", SPACES[name]);
      return space;
    }
    if (Object.hasOwn(ACCENTS, name)) {
      const made = m("mover", this.argument(), m("mo", ACCENTS[name]));
      made.setAttribute("accent", "true");
      return made;
    }
    if (Object.hasOwn(LETTERS, name)) return letters(this.text(), LETTERS[name]);
    switch (name) {
      case "frac": case "dfrac": case "tfrac": case "cfrac": return m("mfrac", this.argument(), this.argument());
      case "binom": case "dbinom": case "tbinom": {
        const made = m("mfrac", this.argument(), this.argument());
        made.setAttribute("linethickness", "0");
        return m("mrow", m("mo", "("), made, m("mo", ")"));
      }
      case "sqrt": {
        if (this.peek() !== "[") return m("msqrt", this.argument());
        this.take();
        const degree = row(this.nodes("]"));
        this.expect("]");
        return m("mroot", this.argument(), degree);
      }
      case "text": case "mathrm": case "textrm": case "textbf": case "textit": case "operatorname": case "mbox": case "mathit":
        return m("mtext", this.text());
      case "boxed": {
        const made = m("mrow", this.argument());
        made.style.border = "1px solid";
        made.style.padding = "0.15em 0.3em";
        return made;
      }
      case "left": {
        const open = this.fence();
        const inner = this.nodes("\\right");
        this.expect("\\right");
        return m("mrow", open, ...inner, this.fence());
      }
      case "underbrace": return m("munder", this.argument(), m("mo", "⏟"));
      case "overbrace": return m("mover", this.argument(), m("mo", "⏞"));
      case "pmod": return m("mrow", m("mo", "("), m("mi", "mod"), m("mspace"), this.argument(), m("mo", ")"));
      case "not": return m("mo", `${this.atom().textContent}\u0338`);
      case "begin": return this.environment(this.text());
      case "displaystyle": case "textstyle": case "big": case "Big": case "bigg": case "Bigg": case "bigl": case "bigr": case "nonumber":
        return m("mrow");
      default: throw new Error(`\\${name} is not known`);
    }
  }
  fence() {
    const token = this.take();
    if (token === undefined) throw new Error("a bracket is missing");
    const shown = token === "." ? "" : token.startsWith("\\") ? OPERATORS[token.slice(1)] ?? token : token;
    const made = m("mo", shown);
    made.setAttribute("stretchy", "true");
    return made;
  }
  environment(name) {
    if (!Object.hasOwn(FENCES, name)) throw new Error(`${name} is not known`);
    if (name === "array" && this.peek() === "{") this.text(); // how columns are aligned
    const table = m("mtable");
    for (;;) {
      const cells = m("mtr");
      for (;;) {
        cells.append(m("mtd", ...this.nodes("&", "\\\\", "\\end")));
        if (this.peek() !== "&") break;
        this.take();
      }
      table.append(cells);
      if (this.peek() !== "\\\\") break;
      this.take();
      if (this.peek() === "\\end") break;
    }
    this.expect("\\end");
    if (this.text() !== name) throw new Error(`the end of ${name} is missing`);
    if (name === "cases" || name.startsWith("align")) table.setAttribute("columnalign", "left");
    const [open, close] = FENCES[name];
    return open || close ? m("mrow", m("mo", open), table, ...(close ? [m("mo", close)] : [])) : table;
  }
}

function letters(text, variant) {
  if (variant === "double-struck" && Object.hasOwn(BOARDS, text)) return m("mi", BOARDS[text]);
  const made = m("mi", text);
  if (variant === "bold") made.style.fontWeight = "bold";
  if (variant === "script" || variant === "fraktur") made.style.fontFamily = "cursive";
  return made;
}

// A formula as an element; as the text that it was when it cannot be read.
function formula(source, display) {
  try {
    const parser = new Formula(source);
    const nodes = parser.nodes();
    const made = m("math", m("mrow", ...nodes));
    if (display) made.setAttribute("display", "block");
    made.setAttribute("alttext", source);
    return made;
  } catch {
    const made = document.createElement("code");
    made.textContent = source;
    return made;
  }
}
