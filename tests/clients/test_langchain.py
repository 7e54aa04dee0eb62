"""The class OpenAI of langchain-openai: it sends prompts as a list, and penalties of 0."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from charrnn_runtime import CharRNN

pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")

import langchain_openai

from served import Served


@pytest.fixture
def llm(server: Served) -> Any:
    return langchain_openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="lstm", temperature=0.8, seed=3, max_tokens=40
    )


def test_a_text(llm: Any, lstm: CharRNN) -> None:
    assert llm.invoke("LORD ") == lstm.generate("LORD ", 40, seed=3, echo=False)


def test_several_texts_at_once(llm: Any, lstm: CharRNN) -> None:
    wanted = lstm.generate(["LORD ", "KING"], 40, seed=3, echo=False)
    generated = llm.generate(["LORD ", "KING"])
    assert [each[0].text for each in generated.generations] == wanted
    assert generated.llm_output["token_usage"]["completion_tokens"] == 80


def test_several_choices(server: Served, lstm: CharRNN) -> None:
    llm = langchain_openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="lstm", n=2, best_of=2, seed=3, temperature=0.8
    )
    texts = [each.text for each in llm.generate(["LORD "]).generations[0]]
    assert texts == lstm.generate(["LORD "] * 2, 256, seed=3, echo=False)


def test_a_stream(llm: Any, lstm: CharRNN) -> None:
    pieces = list(llm.stream("LORD ", stop=["th"]))
    assert "".join(pieces) == lstm.generate("LORD ", 40, seed=3, stop="th", echo=False)

    async def read() -> str:
        return "".join([piece async for piece in llm.astream("LORD ")])

    assert asyncio.run(read()) == lstm.generate("LORD ", 40, seed=3, echo=False)


def test_an_error(llm: Any) -> None:
    with pytest.raises(Exception, match="U\\+2603"):
        llm.invoke("\u2603")
