"""Named places: a sequence's own spans, and spans of words and sentences from offsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.errors import UserError
from helpers.hidden_states.capture import POSITIONS, capture, find_place, last_subtoken, text_span
from helpers.models.forwards import TokenSequence
from helpers.models.loading import LanguageModel, load_language_model
from helpers.models.tokens import tokenise
from support.tiny_models import END, byte_tokenizer, random_model, save_language_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder: Path = tmp_path_factory.mktemp("model")
    return load_language_model(str(save_language_model("qwen3", folder)), device="cpu")


def test_a_sequences_own_span_wins_and_is_read_or_averaged(lm: LanguageModel) -> None:
    own = TokenSequence((5, 6, 7), (8, 9, 10, 0), {"word": (1, 2), "some": (2, 6), "tbg": (0, 1)})
    plain = TokenSequence(own.prompt_ids, own.answer_ids)
    for whole in (True, False):
        found = capture(lm, [own, own], ("word", "some", "tbg"), whole=whole)
        tokens = [(1, 2), (2, 6), (0, 1)]
        for name, (start, end) in zip(found.hidden, tokens, strict=True):
            each = [
                capture(lm, [TokenSequence(plain.prompt_ids, plain.answer_ids, {"x": (i, i + 1)})],
                        ("x",)).hidden["x"][0]
                for i in range(start, end)
            ]  # fmt: skip
            for row in found.hidden[name]:
                np.testing.assert_allclose(row, np.mean(each, axis=0), rtol=0, atol=1e-4)
        assert [found.token_ids[n].tolist() for n in found.hidden] == [[6, 6], [10, 10], [5, 5]]
        assert not any(each.any() for each in found.stand_ins.values())
    assert find_place(lm, plain, "tbg") != find_place(lm, own, "tbg")


def test_as_far_as_needed_gives_the_states_of_whole_sequences(lm: LanguageModel) -> None:
    sequences = [
        TokenSequence((5, 6), (7, 8, 2, 9, 10, 0)),
        TokenSequence((5, 6), (7, 8, 2, 11, 0)),  # alike as far as the thinking goes
        TokenSequence((5, 6), (12,)),
    ]
    for positions in (("think_end",), ("tbg",), ("answer_second_last", "tbg"), tuple(POSITIONS)):
        short = capture(lm, sequences, positions, whole=False)
        whole = capture(lm, sequences, positions)
        for name in positions:
            np.testing.assert_allclose(short.hidden[name], whole.hidden[name], rtol=0, atol=1e-4)
            assert (short.stand_ins[name] == whole.stand_ins[name]).all()
            assert (short.token_ids[name] == whole.token_ids[name]).all()
        assert (short.token_embedding == whole.token_embedding).all()
    counted: list[tuple[int, int]] = []
    capture(lm, sequences, ("think_end",), whole=False, progress=lambda *n: counted.append(n))
    assert [sum(n) for n in zip(*counted, strict=True)] == [3, 5 + 3]  # two sequences are read


@pytest.mark.parametrize("span", [(-1, 1), (2, 2), (3, 6), (4, 2)])
def test_a_span_outside_of_the_sequence_is_refused(
    lm: LanguageModel, span: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=r"'word': tokens .* of a sequence of 5"):
        find_place(lm, TokenSequence((5, 6, 7), (8, 9), {"word": span}), "word")
    with pytest.raises(ValueError, match="unknown position 'word'"):
        capture(lm, [TokenSequence((5,), (6,))], ("word",))


def begun(tokenizer: object) -> object:
    """The tokenizer with a token of its own at the beginning of each text."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return tokenizer


TEXT = "Zoë saw 😀 twice. She left."


@pytest.mark.parametrize("first", [0, 1])
def test_a_words_last_token_and_a_sentences_tokens_in_bytes(first: int) -> None:
    """The tokenizer has one token a byte: ë is two of them, 😀 four."""
    tokenizer = begun(byte_tokenizer()) if first else byte_tokenizer()
    text = tokenise(tokenizer, TEXT)
    assert len(text.ids) == len(TEXT.encode()) + first
    for part in ("Zoë", "saw", "😀", "twice.", "She left."):
        start = TEXT.index(part)
        from_byte = first + len(TEXT[:start].encode())
        to_byte = from_byte + len(part.encode())
        assert text_span(text, start, start + len(part)) == (from_byte, to_byte)
        assert last_subtoken(text, start, start + len(part)) == (to_byte - 1, to_byte)
    with pytest.raises(ValueError, match="no token covers characters"):
        text_span(text, len(TEXT), len(TEXT) + 3)
    assert tokenise(tokenizer, TEXT, special_tokens=False).ids == text.ids[first:]


def test_a_token_that_begins_with_a_space_belongs_to_its_word() -> None:
    """As in byte-pair vocabularies, where " saw" is one token with an offset before the word."""
    lab = load_language_model("lab", device="cpu").tokenizer
    sentence = "Question: How many apples has Anna? She has seven."
    text = tokenise(lab, sentence)
    words = [word for word in sentence.split(" ") if word]
    at, ends = 0, []
    for word in words:
        start = sentence.index(word, at)
        at = start + len(word)
        token, after = last_subtoken(text, start, at)
        assert after == token + 1
        assert text.offsets[token][1] >= at > text.offsets[token][0]
        ends.append(token)
    assert ends == sorted(set(ends))
    second = sentence.index("She")
    span = text_span(text, second, len(sentence))
    assert lab.decode(list(text.ids[span[0] : span[1]])).strip() == sentence[second:]
    assert text_span(text, 0, second - 1)[1] <= span[0]


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="gives no offsets"):
        tokenise(Slow(), "a")
    assert tokenise(random_model(layers=1).tokenizer, "a").offsets == ((0, 1),)
