"""What an answer becomes, and which do not serve."""

import pytest

from mamoe.prepare.captioning.answers import Reply, TokenLimit, cleaned, fault_of
from mamoe.prepare.captioning.template import Template

PICTURE, OBJECT = Template.load("picture"), Template.load("object")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a red car", "a red car"),
        ('  "A red car."\n', "A red car."),
        ("**a red\r\n\tcar**", "a red car"),
        ("- a red car", "a red car"),
        ('=HYPERLINK("http://x","y")', 'HYPERLINK("http://x","y")'),
        ('"=1+1"', "1+1"),
        ("@SUM(A1)", "SUM(A1)"),
        ("\t+cmd|' /C calc'!A0", "cmd|' /C calc'!A0"),
        ("a \u202eder\u202c car\x00\x1b[31m", "a der car [31m"),
        ("cafe\u0301", "café"),
        ("<b>a car</b>", "<b>a car</b>"),  # what shows it on a page escapes it
        ("", ""),
        ("'''", "'"),
    ],
)
def test_cleaned(text, wanted):
    assert cleaned(text) == wanted
    assert cleaned(cleaned(text)) == cleaned(text)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(text="a red car"), None),
        (Reply(text="a red car", finish="stop"), None),
        (Reply(text=" \n"), "empty"),
        (Reply(text="..."), "empty"),
        (Reply(text="I'm sorry, but I can't help with that."), "refusal"),
        (Reply(text="I’m unable to identify people in this image."), "refusal"),
        (Reply(text="As an AI model I see a car."), "refusal"),
        (Reply(text="", refusal="I will not."), "refusal: I will not."),
        (Reply(text="a car", finish="content_filter"), "refusal: the server's filter"),
        (Reply(text="a red car that", finish="length"), "cut off after max_tokens (60)"),
        (Reply(error="400 bad picture"), "refused by the server: 400 bad picture"),
        (Reply(text="Sure, here is the label: a red car"), "leaked instructions"),
        (Reply(text="Caption: a red car"), "leaked instructions"),
        (Reply(text="a red car<|im_end|>"), "leaked instructions"),
        (Reply(text="a car; leave the black around it and the sharpness of the picture out"), "leaked instructions"),
        (Reply(text="word " * 23), "too long: 23 words, wanted 15"),
        (Reply(text="word " * 22), None),
        (Reply(text="a car unlike others, sorry for its state"), None),
    ],
)
def test_faults(reply, why):
    assert fault_of(reply, OBJECT, None) == why


def test_the_text_encoder_decides_where_it_is_known():
    limit = TokenLimit(count=lambda text: 2 + len(text.split()), most=10)
    assert fault_of(Reply(text="word " * 8), OBJECT, limit) is None
    assert fault_of(Reply(text="word " * 9), OBJECT, limit) == "too long: 11 tokens, the text encoder takes 10"


def test_good_answers_to_the_shipped_templates_pass():
    street = (
        "A wide street seen from the middle of the road, a red car parked on the left and two people in dark coats "
        "crossing on the right, brick buildings behind them, wet asphalt under an overcast evening sky."
    )
    assert fault_of(Reply(text=street), PICTURE, None) is None
    label = "dark blue estate car seen from behind, parked, partly hidden"
    assert fault_of(Reply(text=label), OBJECT, None) is None
