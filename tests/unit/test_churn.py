"""What answers of tests/e2e/churn.py are held to."""

from tests.e2e.churn import DRIFT, Said, said

EXPECTED = Said(" a cat", (" a", " cat"), (-0.5, -0.7), (1.0, DRIFT))


def got(text: str = " a cat", tokens: tuple[str, ...] = (" a", " cat"), off: float = 0.0) -> Said:
    return Said(text, tokens, (-0.5, -0.7 + off), (1.0, DRIFT))


def test_the_same_answer_is_right_and_rounding_is_measured() -> None:
    likeness = EXPECTED.against(got(off=DRIFT / 2))
    assert likeness.flaw is None
    assert likeness.near_tie is None
    assert abs(likeness.drift - DRIFT / 2) < 1e-9


def test_another_token_is_wrong_unless_it_was_as_likely() -> None:
    assert EXPECTED.against(got(" a dog", (" a", " dog"))).near_tie == DRIFT
    assert "token 0" in str(EXPECTED.against(got("the cat", ("the", " cat"))).flaw)


def test_the_same_tokens_with_other_thoughts_are_another_models() -> None:
    assert "off by" in str(EXPECTED.against(got(off=2 * DRIFT)).flaw)


def test_the_text_counts_byte_for_byte() -> None:
    assert "text" in str(EXPECTED.against(got(text=" a cat ")).flaw)


def test_an_answer_in_pieces_is_read_as_one() -> None:
    def piece(token: str, p: float, other: float) -> dict[str, object]:
        told = {"tokens": [token], "token_logprobs": [p], "top_logprobs": [{token: p, "?": other}]}
        return {"text": token, "logprobs": told}

    end: dict[str, object] = {"text": "", "logprobs": None}
    read = said([piece(" a", -0.5, -1.5), piece(" cat", -0.7, -0.7 - DRIFT), end])
    assert (read.text, read.tokens, read.logprobs) == (" a cat", (" a", " cat"), (-0.5, -0.7))
    assert [round(one, 6) for one in read.gaps] == [1.0, DRIFT]
