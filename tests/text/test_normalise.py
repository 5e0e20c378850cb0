from __future__ import annotations

import pytest

from adapt.text.normalise import NORMALISERS, basic


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don\u2019t Stop (Live) \u2014 'til \u201cdawn\u201d", "don't stop live til dawn"),
        ("AC/DC & Guns N' Roses; yes,no", "ac dc and guns n roses yes no"),
        ("Wait...what? P!nk. 3.5 or 1,000 U.S.A.", "wait what pnk 3.5 or 1000 usa"),
        (
            "Bj\u00f6rk \u0939\u093f\u0928\u094d\u0926\u0940 \u041b\u0415 \uff21",
            "bj\u00f6rk \u0939\u093f\u0928\u094d\u0926\u0940 \u043b\u0435 a",
        ),
        ("  \u00a0!?  ", ""),
        ("mail joe@aol.com", "mail joe aol com"),
        ("The end.Then will.i.am, Dr.Dre at 5 p.m.today", "the end then will i am dr dre at 5 pm today"),
        ("Lego\u2122 1\u00bd m\u00b2", "lego 1 1 2 m2"),
        ("\u0130stanbul i\u0307 5\u2032 rock \u2032n\u2032 roll", "istanbul i 5 rock n roll"),
        ("\u0645\u062d\u0640\u0640\u0645\u062f \u0663\u0664 a\u200bb", "\u0645\u062d\u0645\u062f 34 a b"),
    ],
)
def test_the_basic_normaliser(text, expected):
    assert basic(text) == expected


@pytest.mark.parametrize("name", ["none", "basic"])  # "english" is what Whisper's rules make of it
def test_normalising_twice_is_normalising_once(name):
    normalise = NORMALISERS[name]
    # Every character between two others, so that each rule meets its neighbours.
    for code in range(0x3000):
        for text in (f"a{chr(code)}b", f"{chr(code)}1{chr(code)}{chr(code)}2", f"e{chr(code)}\u0301"):
            once = normalise(text)
            assert normalise(once) == once, ascii(text)
            assert once == once.strip() and "  " not in once
