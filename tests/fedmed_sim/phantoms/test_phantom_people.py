"""Invented people: real in form, nobody in fact."""

import re
from collections import Counter
from datetime import date

import numpy as np
import pytest

from fedmed_sim.phantoms.names import Language, PersonName, draw_name, unaccented
from fedmed_sim.phantoms.people import (
    broken_id,
    check_character,
    draw_person,
    population,
    resident_id,
    short_id,
    written_identity,
    written_phone,
)

LANGUAGES: tuple[Language, ...] = ("zh", "en")


def names(language: Language, count: int) -> list[PersonName]:
    """Return names drawn from a fixed seed."""
    rng = np.random.default_rng(4)
    return [draw_name(rng, language, "F" if index % 2 else "M") for index in range(count)]


def test_a_resident_id_has_a_right_checksum_and_the_birth_date():
    """The last character follows MOD 11-2, the birth date stands in the middle, and odd orders are men."""
    rng = np.random.default_rng(1)
    for sex in ("F", "M"):
        identity = resident_id(rng, date(1958, 3, 9), sex)
        assert identity[6:14] == "19580309"
        assert int(identity[16]) % 2 == (sex == "M")
        assert check_character(identity[:17]) == identity[17]


def test_the_checksum_is_that_of_the_published_example():
    """The example of GB 11643 ends in X."""
    assert check_character("11010519491231002") == "X"


def test_a_resident_id_has_no_county_that_is_given_out():
    """The county codes are 95 to 98, so the number is nobody's."""
    rng = np.random.default_rng(2)
    assert all(95 <= int(resident_id(rng, date(1990, 1, 1), "F")[4:6]) <= 98 for _ in range(200))


def test_a_broken_id_fails_its_checksum():
    """A broken ID differs in the last character only, and that is not the right one."""
    rng = np.random.default_rng(3)
    identity = resident_id(rng, date(1990, 1, 1), "F")
    for _ in range(50):
        broken = broken_id(rng, identity)
        assert broken[:17] == identity[:17]
        assert broken[17] != check_character(broken[:17])


def test_every_spelling_of_an_identity_is_the_identity():
    """Without spaces and width, a spelling is the ID or its old form, and all spellings occur."""
    rng = np.random.default_rng(5)
    identity = resident_id(rng, date(1960, 1, 1), "M")
    spellings = {written_identity(rng, identity) for _ in range(400)}
    plain = {"".join(str(int(c)) if c.isdecimal() else c for c in text if c != " ").upper() for text in spellings}
    plain = {text.replace("Ｘ", "X") for text in plain}
    assert plain == {identity, short_id(identity)}
    assert len(spellings) >= 5


def test_every_spelling_of_a_phone_has_its_digits():
    """A spelling adds signs and a country code, and loses nothing."""
    rng = np.random.default_rng(6)
    for language in LANGUAGES:
        for _ in range(200):
            person = draw_person(rng, language)
            digits = "".join(str(int(c)) for c in written_phone(rng, person.phone, language) if c.isdecimal())
            assert digits.endswith(person.phone)


def test_chinese_names_come_in_all_forms():
    """One and two characters, compound surnames and names with a middle dot occur; each has pinyin."""
    drawn = names("zh", 3000)
    forms = Counter((len(name.family), len(name.given)) for name in drawn if name.family)
    assert {(1, 1), (1, 2), (2, 1), (2, 2)} <= set(forms)
    assert sum(bool(re.search("[·•．]", name.full)) for name in drawn) > 50
    assert all(name.roman.isascii() and name.roman_given for name in drawn)


def test_english_names_come_in_all_forms():
    """Hyphens, O', particles, initials, suffixes and accents occur; the romanised form is ASCII."""
    drawn = names("en", 3000)
    for form in ("-", "O'", "de la ", "Jr."):
        assert any(form in name.full for name in drawn)
    assert any(name.middle.endswith(".") for name in drawn)
    assert any(not name.full.isascii() for name in drawn)
    assert all(name.roman.isascii() for name in drawn)
    assert unaccented("Kjærström") == "Kjaerstrom"


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_are_many(language: Language):
    """Of 3000 names, nine in ten differ from all others."""
    assert len({name.full for name in names(language, 3000)}) > 2700


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_population_has_no_twins(language: Language):
    """Names, identities and record numbers of a population are unique, and some people are over 89."""
    people = list(population(np.random.default_rng(7), language, 2500))
    for key in ("identity", "record"):
        assert len({getattr(person, key) for person in people}) == 2500
    assert len({person.name.full for person in people}) == 2500
    assert 60 < sum(person.age_on(date(2025, 6, 30)) > 89 for person in people) < 400


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_seed_gives_the_same_people(language: Language):
    """A population is a function of the seed."""
    first, again, other = (list(population(np.random.default_rng(seed), language, 20)) for seed in (8, 8, 9))
    assert first == again
    assert first != other
