"""A process of its own that answers autointerp's questions, SAEBench's and ours, as one who knows single words.

An explanation is the word that is marked most often; a window fits it that contains the word. Prints its address.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.explaining.llm.chat_server import serve

MARKED = re.compile(r"<<(.+?)>>")
EXPLAINED = re.compile(r'the word "(.+?)"')
NUMBERED = re.compile(r"^(\d+)\. (.*)$", flags=re.MULTILINE)


def answer(request: dict[str, Any]) -> str:
    """The answer to a question of either program, in the form that it asks for."""
    system, user = (message["content"] for message in request["messages"][:2])
    in_json = "Answer with JSON" in system + user
    if "this checks that" in system.lower():
        return '{"intruder": 1}'
    explained = EXPLAINED.search(user)
    if explained is None:
        words = Counter(word.strip() or word for word in MARKED.findall(user))
        text = f'the word "{words.most_common(1)[0][0]}"'
        return json.dumps({"explanation": text}) if in_json else f"This neuron activates on {text}"
    fitting = [int(number) for number, text in NUMBERED.findall(user) if explained[1] in text]
    return json.dumps({"active": fitting}) if in_json else ", ".join(map(str, fitting)) or "None"


@contextmanager
def reader() -> Iterator[str]:
    """The address of a reader in a process of its own, whose time is not that of the programs compared."""
    command = [sys.executable, "-m", "tests.benchmarks.reader"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    with serve(answer) as server:
        print(server.url, flush=True)
        sys.stdin.read()
