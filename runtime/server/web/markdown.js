"use strict";
// A model's answer → elements. Everything goes in as text, nothing as HTML.

function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

const INLINE = new RegExp(
  [/`([^`]+)`/, /\\\((.+?)\\\)/, /\$\$(.+?)\$\$/, /\$(?!\s)((?:[^$\\]|\\.)+?)(?<!\s)\$(?!\d)/, /\*\*(.+?)\*\*/, /\*(?!\s)([^*]+?)\*/]
    .map((each) => each.source).join("|"), "su");

function inline(text) {
  const made = [];
  for (;;) {
    const found = INLINE.exec(text);
    if (!found) break;
    made.push(text.slice(0, found.index));
    const [whole, code, round, twice, once, bold, italic] = found;
    if (code !== undefined) made.push(element("code", code));
    else if (bold !== undefined) made.push(element("strong", ...inline(bold)));
    else if (italic !== undefined) made.push(element("em", ...inline(italic)));
    else made.push(formula(round ?? twice ?? once, false));
    text = text.slice(found.index + whole.length);
  }
  made.push(text);
  return made;
}

function codeBlock(text, language) {
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  const code = element("code", text);
  if (language) code.dataset.language = language;
  return element("pre", code, copy);
}

const cellsOf = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((each) => each.trim().replaceAll("\\|", "|"));

function table(lines) {
  const [head, , ...rest] = lines;
  const body = rest.map((line) => element("tr", ...cellsOf(line).map((cell) => element("td", ...inline(cell)))));
  return element("table",
    element("thead", element("tr", ...cellsOf(head).map((cell) => element("th", ...inline(cell))))), element("tbody", ...body));
}

// The blocks of a text: code, display formulas, tables, headings, lists and paragraphs.
function blocks(text) {
  const lines = text.split("\n"), made = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) made.push(element("p", ...inline(paragraph.join("\n"))));
    paragraph = [];
  };
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const fence = /^\s*(```+|~~~+)\s*([\w+-]*)/.exec(line);
    const opened = /^\s*(\\\[|\$\$)(.*)$/s.exec(line);
    const item = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/.exec(line);
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (fence) {
      flush();
      const code = [];
      for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) code.push(lines[at]);
      made.push(codeBlock(code.join("\n"), fence[2]));
    } else if (opened) {
      const close = opened[1] === "$$" ? "$$" : "\\]";
      let source = opened[2], next = at;
      while (!source.includes(close) && next + 1 < lines.length) source += `\n${lines[(next += 1)]}`;
      if (!source.includes(close)) { paragraph.push(line); continue; }
      flush();
      const [inner, ...after] = source.split(close);
      made.push(formula(inner.trim(), true));
      if (after.join(close).trim()) paragraph.push(after.join(close));
      at = next;
    } else if (line.includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1] ?? "")) {
      flush();
      const rows = [];
      for (; at < lines.length && lines[at].includes("|"); at += 1) rows.push(lines[at]);
      at -= 1;
      made.push(table(rows));
    } else if (heading) {
      flush();
      made.push(element(`h${Math.min(6, heading[1].length + 1)}`, ...inline(heading[2])));
    } else if (item) {
      flush();
      const list = element(item[1] === undefined ? "ul" : "ol");
      if (item[1] !== undefined) list.start = Number(item[1]);
      const kind = item[1] === undefined ? /^\s*[-*+]\s+(.*)$/ : /^\s*\d+[.)]\s+(.*)$/;
      for (let found; (found = kind.exec(lines[at] ?? "")); at += 1) list.append(element("li", ...inline(found[1])));
      at -= 1;
      made.push(list);
    } else if (line.trim()) paragraph.push(line);
    else flush();
  }
  flush();
  return made;
}
