"use strict";
// The conversation: what was said, what is being said, and the request that it comes from.

const at = (id) => document.getElementById(id);
const turns = []; // {question, thinking, answer}
let model = "", running = null;

function headers() {
  const key = at("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function tell(text, failed = false) {
  at("status").textContent = text;
  at("status").classList.toggle("failed", failed);
}

async function problem(response) {
  const found = await response.json().catch(() => null);
  const said = found?.error?.message ?? `the server answered with status ${response.status}`;
  return response.status === 401 ? `${said} (Settings have a field for it)` : said;
}

async function name() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) throw new Error(await problem(response));
  model = (await response.json()).data[0].id;
  at("name").textContent = model;
  document.title = `${model} – MiMo Mobile`;
}

function request(question, before) {
  const messages = at("system").value ? [{ role: "system", content: at("system").value }] : [];
  for (const turn of before) messages.push({ role: "user", content: turn.question }, { role: "assistant", content: turn.answer });
  const body = { model, messages: [...messages, { role: "user", content: question }], stream: true, stream_options: { include_usage: true } };
  for (const field of ["temperature", "top_p", "max_tokens", "thinking_budget", "seed"]) {
    if (at(field).value !== "") body[field] = Number(at(field).value);
  }
  return body;
}

// The records of a stream of server-sent events.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const data = held.slice(0, end).match(/^data: (.*)$/m)?.[1];
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

// The elements of a turn, and how they follow what comes.
function view(turn) {
  const question = element("article", turn.question);
  question.className = "user";
  const thinking = element("div"), answer = element("div"), facts = element("p"), summary = element("summary", "Thinking");
  thinking.className = "thinking";
  facts.className = "facts";
  const details = element("details", summary, thinking);
  details.hidden = true;
  const edit = element("button", "Edit"), again = element("button", "Answer again");
  const tools = element("div", edit, again);
  tools.className = "tools";
  for (const button of [edit, again]) button.type = "button";
  edit.addEventListener("click", () => { if (!running) { drop(turn); at("question").value = turn.question; at("question").focus(); } });
  again.addEventListener("click", () => { if (!running) { drop(turn); ask(turn.question); } });
  const answered = element("article", details, answer, facts, tools);
  at("conversation").append(question, answered);
  turn.elements = [question, answered];
  let due = false;
  const draw = () => {
    due = false;
    thinking.textContent = turn.thinking;
    details.hidden = !turn.thinking;
    answer.replaceChildren(...blocks(turn.answer));
  };
  return {
    draw() { if (!due) { due = true; requestAnimationFrame(draw); } },
    facts(text) { facts.textContent = text; },
    thought(tokens) { summary.textContent = `Thinking (${tokens} tokens)`; },
  };
}

function drop(turn) {
  for (const each of turns.splice(turns.indexOf(turn))) for (const part of each.elements) part.remove();
}

const NOTICES = { loop_closed: "The thinking repeated itself and was closed.", context_full: "The context is full." };

function factsOf(usage, seconds, reason, notices) {
  const made = [`${usage.completion_tokens} tokens`, `${(usage.completion_tokens / Math.max(seconds, 0.001)).toFixed(1)} tokens/s`];
  if (usage.drafted_tokens) made.push(`${Math.round((100 * usage.accepted_tokens) / usage.drafted_tokens)} % of drafts right`);
  if (usage.prompt_tokens_details.cached_tokens) made.push(`${usage.prompt_tokens_details.cached_tokens} tokens of the prompt kept`);
  if (reason === "length") made.push("cut");
  return [made.join(" · "), ...notices].join(" ");
}

async function ask(question) {
  const turn = { question, thinking: "", answer: "" }, before = [...turns];
  turns.push(turn);
  const shown = view(turn), notices = [];
  running = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  tell("Waiting for the first token …");
  let first = 0, reason = null;
  try {
    if (!model) await name();
    const response = await fetch("v1/chat/completions",
      { method: "POST", headers: headers(), body: JSON.stringify(request(question, before)), signal: running.signal });
    if (!response.ok) throw new Error(await problem(response));
    for await (const record of events(response)) {
      if (record.error) throw new Error(record.error.message);
      for (const choice of record.choices) {
        const { reasoning_content: thinking, content: answer } = choice.delta;
        if ((thinking || answer) && !first) { first = performance.now(); tell("Answering …"); }
        turn.thinking += thinking ?? "";
        turn.answer += answer ?? "";
        reason = choice.finish_reason ?? reason;
        if (choice.notice) notices.push(NOTICES[choice.notice] ?? choice.notice);
      }
      if (record.usage) {
        shown.facts(factsOf(record.usage, (performance.now() - first) / 1000, reason, notices));
        if (turn.thinking) shown.thought(record.usage.completion_tokens_details.reasoning_tokens);
      }
      shown.draw();
    }
    tell(turn.answer ? "The answer is complete." : "There is no answer.");
  } catch (error) {
    const stopped = error.name === "AbortError";
    tell(stopped ? "Stopped." : `That failed: ${error.message}`, !stopped);
    if (!turn.answer) { drop(turn); at("question").value ||= question; }
  } finally {
    running = null;
    at("send").hidden = false;
    at("stop").hidden = true;
    at("question").focus();
  }
}

function markdown() {
  return turns.map((turn) => `## ${turn.question}\n\n` + (turn.thinking ? `<details><summary>Thinking</summary>\n\n${turn.thinking}\n\n</details>\n\n`
    : "") + `${turn.answer}\n`).join("\n");
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || running) return;
  at("question").value = "";
  ask(question);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) running.abort(); });
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  running?.abort();
  if (turns.length) drop(turns[0]);
  tell("");
  at("question").focus();
});
at("export").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([markdown()], { type: "text/markdown" }));
  link.download = "conversation.md";
  link.click();
  URL.revokeObjectURL(link.href);
});
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("settings-button").addEventListener("click", () => {
  at("settings").hidden = !at("settings").hidden;
  at("settings-button").setAttribute("aria-expanded", String(!at("settings").hidden));
});
name().catch((error) => tell(error.message, true));
