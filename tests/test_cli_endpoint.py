"""Commands that ask a server instead of a file."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
from click.testing import Result

from mimo_mobile.cli import main
from tests.commands import runner
from tests.served import Request, chat, paused, server, stream, wait_for_the_end

SAID = chat({"content": "<thi"}, {"content": "nk>\nIt is "}, {"content": "4.\n</think>\n"}, {"content": "\n4"})
USAGE = {"prompt_tokens": 12, "completion_tokens": 7}


def mimo(*words: str, text: str = "") -> Result:
    return runner().invoke(main, list(words), input=text)


def test_run_and_chat_ask_a_server() -> None:
    with server(stream(*SAID, {"choices": [], "usage": USAGE})) as there:
        found = mimo("run", "--endpoint", there.url, "2 + 2?", "--json", "--seed", "1")
        assert found.exit_code == 0, found.stderr
        assert json.loads(found.stdout) | {"stats": None} == {
            "thinking": "It is 4.", "answer": "4", "finish_reason": "stop", "stats": None,
        }  # fmt: skip
        found = mimo("run", f"--endpoint={there.url}", "--raw", "--", "--endpoint")
        assert found.stdout == "<think>\nIt is 4.\n</think>\n\n4\n"
        assert there.requests[-1].body["prompt"] == "--endpoint"
        found = mimo("chat", "--endpoint", there.url, "--hide-thinking", text="2 + 2?\nAnd 3?\n")
        assert found.stdout == "4\n4\n" and "[stop: 12 + 7 tokens" in found.stderr
        assert [each["content"] for each in there.requests[-1].body["messages"]] == ["", "2 + 2?", "4", "And 3?"]


def test_bench_measures_what_arrives() -> None:
    with server(paused(stream(*chat({"content": "4"}, {"content": "2"}, usage=USAGE)), b'"2"')) as there:
        found = mimo("bench", "--endpoint", there.url, "--repeats", "2", "--json")
        assert found.exit_code == 0, found.stderr
        result = json.loads(found.stdout)
        assert (result["model"], result["generated_tokens"], result["repeats"]) == ("mimo", 7, 2)
        assert result["client_time_to_first_token_s"] > 0 and result["client_decode_tps"] > 0
        asked = [str(each.body) for each in there.requests if each.method == "POST"]
        assert len(set(asked)) == 3
    with server(stream(*chat({"content": "4"}))) as there:
        assert "does not say how many tokens" in mimo("bench", "--endpoint", there.url).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--endpoint", "http://h", "x", "--threads", "2"], "--threads is for a MODEL that is loaded here"),
        (["run", "--endpoint", "http://h", "x", "--no-loop-guard"], "--loop-guard is for a MODEL"),
        (["chat", "--endpoint", "http://h", "--no-thinking"], "without thinking is nothing that OpenAI's API can ask"),
        (["bench", "--endpoint", "http://h", "--prompt-tokens", "9"], "--prompt-tokens is for a MODEL"),
        (["run", "--endpoint", "http://h", "out", "x"], "unexpected extra argument"),
        (["run", "--endpoint", "http://h"], "Missing argument 'PROMPT'"),
        (["run", __file__, "x", "--endpoint-model", "m"], "--endpoint-model and --endpoint-timeout are for --endpoint"),
        (["chat"], "Missing argument 'MODEL'"),
    ],
)  # fmt: skip
def test_options_that_come_to_nothing_beside_a_server_are_a_mistake(words: list[str], message: str) -> None:
    found = mimo(*words, text="x\n")
    assert message in found.stderr, found.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--endpoint", "{url}", "2 + 2?"],
        ["run", "--endpoint", "{url}", "2 + 2?", "--json"],
        ["eval", "--endpoint", "{url}", "--against", "nano", "--tokens", "0", "--problems", "11"],
    ],
)
def test_ctrl_c_closes_all_connections_and_says_so(words: list[str]) -> None:
    asked, gone = threading.Semaphore(0), threading.Semaphore(0)

    def thinking(request: Request, connection: socket.socket) -> None:
        if request.body.get("max_tokens") == 1:  # eval's first question, of which it wants the length
            connection.sendall(stream(*chat({"content": "x"})))
            return
        connection.sendall(stream({"choices": [{"delta": {"content": "<think>4"}}]}, done=False))
        asked.release()
        wait_for_the_end(connection)
        gone.release()

    most = 8 if words[0] == "eval" else 1
    with server(thinking) as there:
        command = [sys.executable, "-m", "mimo_mobile", *(word.format(url=there.url) for word in words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                for _ in range(most):
                    assert asked.acquire(timeout=60)
                process.send_signal(signal.SIGINT)
                for _ in range(most):
                    assert gone.acquire(timeout=60)
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
    assert process.returncode == 1 and said.endswith("Aborted!\n") and "Traceback" not in said, said
