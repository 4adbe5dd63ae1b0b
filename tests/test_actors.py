"""The gazetteer of states, and texts with their states found and swapped."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.actors import GAZETTEER, find, gazetteer, random_swap, swap
from training.errors import CorpusError

CODES = sorted(gazetteer())
# One word is two of name, adjective and capital: Singapore, New Zealand. There is no telling which is meant.
ONE_WORD = {
    code
    for code, actor in gazetteer().items()
    if actor.written("name") in (actor.written("adjective"), actor.written("capital"))
}


def found(text: str) -> list[tuple[str, str]]:
    return [(mention.text, mention.code) for mention in find(text)]


def forms(text: str) -> list[tuple[str, str]]:
    return [(mention.text, mention.form) for mention in find(text)]


# The gazetteer


def test_gazetteer_is_complete() -> None:
    with GAZETTEER.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["code", "name", "formal", "adjective", "people", "capital", "status"]
    assert Counter(row["status"] for row in rows) == {"member": 193, "observer": 2, "other": 2}
    codes = [row["code"] for row in rows]
    assert codes == sorted(set(codes))
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in codes)
    assert {row["code"] for row in rows if row["status"] == "observer"} == {"PSE", "VAT"}
    assert {row["code"] for row in rows if row["status"] == "other"} == {"TWN", "XKX"}
    for row in rows:
        for cell in row.values():
            parts = cell.split(";")
            assert all(part and part == part.strip() for part in parts), row
            assert len(set(parts)) == len(parts), row


def test_names_are_told_apart() -> None:
    names = Counter(actor.written("name").upper() for actor in gazetteer().values())
    assert max(names.values()) == 1


@pytest.mark.parametrize("code", CODES)
def test_every_state_is_found_by_its_name(code: str) -> None:
    name = gazetteer()[code].written("name")
    for text in (f"They met {name}.", f"THEY MET {name.upper()}.", f"They met {name}’s envoy."):
        assert [mention.code for mention in find(text)] == [code]


@pytest.mark.parametrize("code", CODES)
def test_every_form_counts_once_the_name_stands_there_too(code: str) -> None:
    actor = gazetteer()[code]
    for texts in actor.forms.values():
        for text in texts:
            assert [m.code for m in find(f"{actor.written('name')} said so: {text}")] == [code, code], text


# Finding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Russia's envoy met Germans in Kyiv.", [("Russia", "RUS"), ("Germans", "DEU"), ("Kyiv", "UKR")]),
        ("The Russian Federation and the DPRK", [("Russian Federation", "RUS"), ("DPRK", "PRK")]),
        ("Niger, Nigeria; Nigerien", [("Niger", "NER"), ("Nigeria", "NGA"), ("Nigerien", "NER")]),
        ("Guinea-Bissau and Guinea", [("Guinea-Bissau", "GNB"), ("Guinea", "GIN")]),
        ("Equatorial Guinea, Papua New Guinea", [("Equatorial Guinea", "GNQ"), ("Papua New Guinea", "PNG")]),
        ("Sudan and South Sudan", [("Sudan", "SDN"), ("South Sudan", "SSD")]),
        ("the Dominican Republic and Dominica", [("Dominican Republic", "DOM"), ("Dominica", "DMA")]),
        ("the Democratic Republic of the Congo", [("Democratic Republic of the Congo", "COD")]),
        ("the Republic of the Congo", [("Republic of the Congo", "COG")]),
        ("the Democratic People's Republic of Korea", [("Democratic People's Republic of Korea", "PRK")]),
        ("the Republic of Korea", [("Republic of Korea", "KOR")]),
        ("the People’s Republic of China", [("People’s Republic of China", "CHN")]),
        ("Ireland and Northern Ireland", [("Ireland", "IRL")]),
        ("Mexico City, not New Mexico", [("Mexico City", "MEX")]),
        ("Côte d’Ivoire, CÔTE D'IVOIRE", [("Côte d’Ivoire", "CIV"), ("CÔTE D'IVOIRE", "CIV")]),
        ("the United\nStates", [("United\nStates", "USA")]),
        ("Iran (Islamic Republic of)", [("Iran (Islamic Republic of)", "IRN")]),
        ("a US-led, pro-Russia–Iran push", [("US", "USA"), ("Russia", "RUS"), ("Iran", "IRN")]),
    ],
)  # fmt: skip
def test_longest_match(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A woman from Somaliland served turkey on fine china with chilli and polish.",
        "Polish the draft until it shines.",
        "Ships crossed the South China Sea, the Gulf of Guinea and the Indian Ocean.",
        "The Taiwan Strait, the Suez and the Panama Canal, Lake Chad, the Niger Delta, the Jordan River",
        "Dutch disease, German measles, Guinea pigs",
        "The Paris Agreement, the Vienna Convention, the Rome Statute and the Warsaw Pact hold.",
        "We saw Michael Jordan, Mr. Chad and Chad Wolf.",
        "He flew to Atlanta, Georgia, and the state of Georgia paid.",
        "Latin America, North Americans and the Organization of American States",
        "Northern Ireland, New Mexico, New Guinea, Inner Mongolia, West Germany, North Vietnam",
        "The fare was US$40. JOIN US NOW.",
        "russia, america and the us in lower case",
        "The Washington Post and the Times of India",
        "Brussels fined the firm, and Sofia and Victoria signed.",
        "Koreans, Congolese and Dominicans came.",
    ],
)
def test_left_alone(text: str) -> None:
    assert find(text) == []
    assert random_swap(text, random.Random(1)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Jordan and Chad agreed. But Georgia did not.", ["JOR", "TCD", "GEO"]),
        ("Jordan Foreign Minister Safadi met Georgian envoys in Tbilisi, Georgia.", ["JOR", "GEO", "GEO", "GEO"]),
        ("Turkey and China raised tariffs.", ["TUR", "CHN"]),
        ("Polish troops", ["POL"]),
        ("Mali is no Oman.", ["MLI", "OMN"]),
        ("North Korea fired; the Korean side denied it.", ["PRK", "PRK"]),
        ("Pyongyang and Seoul: the Korean question", ["PRK", "KOR"]),
        ("Kinshasa blamed Rwanda, and Congolese troops moved.", ["COD", "RWA", "COD"]),
        ("The Dominican Republic closed the border, a Dominican minister said.", ["DOM", "DOM"]),
        ("Belgium spoke. Brussels paid.", ["BEL", "BEL"]),
    ],
)
def test_ambiguous_words_by_their_text(text: str, expected: list[str]) -> None:
    assert [mention.code for mention in find(text)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the US envoy", [("US", "adjective")]),
        ("the US said", [("US", "abbreviation")]),
        ("The United States welcomes it.", [("United States", "name")]),
        ("the Netherlands government", [("Netherlands", "adjective")]),
        ("The French left a French ship.", [("French", "people"), ("French", "adjective")]),
        ("the French and German leaders", [("French", "adjective"), ("German", "adjective")]),
        ("A Dane and a Russian left Denmark.", [("Dane", "person"), ("Russian", "person"), ("Denmark", "name")]),
        ("the Russian Federation", [("Russian Federation", "formal")]),
    ],
)  # fmt: skip
def test_forms(text: str, expected: list[tuple[str, str]]) -> None:
    assert forms(text) == expected


# Swapping


@pytest.mark.parametrize(
    ("text", "mapping", "expected"),
    [
        (
            "Russia rejected it. Russian envoys, Russians and Moscow agreed.",
            {"RUS": "FRA"},
            "France rejected it. French envoys, French and Paris agreed.",
        ),
        ("Russia and Ukraine met in Kyiv.", {"RUS": "UKR", "UKR": "RUS"}, "Ukraine and Russia met in Moscow."),
        ("Russia spoke of Russia.", {"RUS": "NLD"}, "The Netherlands spoke of the Netherlands."),
        ("The Netherlands left the Netherlands.", {"NLD": "RUS"}, "Russia left Russia."),
        (
            "The United States and the Philippines",
            {"USA": "PHL", "PHL": "USA"},
            "The Philippines and the United States",
        ),
        ("“Russia must leave,” he said. “Russia!”", {"RUS": "GMB"}, "“The Gambia must leave,” he said. “The Gambia!”"),
        ("A Russian plan, an Iranian one", {"RUS": "IRN", "IRN": "RUS"}, "An Iranian plan, a Russian one"),
        ("a French ship", {"FRA": "UKR"}, "a Ukrainian ship"),
        ("an Omani ship", {"OMN": "UZB"}, "an Uzbek ship"),
        ("Annex A Russian forces", {"RUS": "IRN"}, "Annex A Iranian forces"),
        ("RUSSIA WARNS A FRENCH ENVOY", {"RUS": "NLD", "FRA": "IRN"}, "THE NETHERLANDS WARNS AN IRANIAN ENVOY"),
        ("Russia’s plan", {"RUS": "PHL"}, "The Philippines’ plan"),
        ("the Netherlands' plan", {"NLD": "RUS"}, "Russia's plan"),
        ("the Russians' plan", {"RUS": "JPN"}, "the Japanese's plan"),
        ("Honduras' plan", {"HND": "RUS"}, "Russia's plan"),
        ("A US plan angers the US.", {"USA": "IRN"}, "An Iranian plan angers Iran."),
        ("He left the U.S. The talks go on.", {"USA": "PER"}, "He left Peru. The talks go on."),
        ("U.S. President Obi met Iran's envoy.", {"USA": "PER"}, "Peruvian President Obi met Iran's envoy."),
        ("US-Russia talks", {"RUS": "NLD", "USA": "PER"}, "Peru-Netherlands talks"),
        ("eastern Ukraine, Putin's Russia", {"UKR": "NLD", "RUS": "USA"}, "eastern Netherlands, Putin's United States"),
        ("the Ukraine war", {"UKR": "NLD"}, "the Netherlands war"),
        ("The Russian Federation said", {"RUS": "JPN"}, "Japan said"),
        ("the DPRK and the UK", {"PRK": "RUS", "GBR": "USA"}, "Russia and the US"),
        ("South China Sea, says China", {"CHN": "PER"}, "South China Sea, says Peru"),
        ("Two Danes and a Dane left Denmark", {"DNK": "SWE"}, "Two Swedes and a Swede left Sweden"),
        ("Kiev said", {"UKR": "UKR"}, "Kiev said"),
        ("Russia and China", {"CHN": "PER"}, "Russia and Peru"),
    ],
)
def test_swap(text: str, mapping: dict[str, str], expected: str) -> None:
    assert swap(text, mapping) == expected


def test_unknown_code_is_an_error() -> None:
    with pytest.raises(CorpusError, match="ABC, rus"):
        swap("Russia spoke.", {"RUS": "ABC", "rus": "RUS"})


@pytest.mark.parametrize("code", [code for code in CODES if code not in ONE_WORD])
@pytest.mark.parametrize("home", ["PER", "NLD", "USA", "UKR"])
def test_there_and_back_again(home: str, code: str) -> None:
    if code != home:
        peruvian = "Peru said the Peruvian plan hurt the Peruvians. A Peruvian envoy flew to Lima on Peru’s behalf."
        text = swap(peruvian, {"PER": home})
        there = swap(text, {home: code})
        assert [mention.code for mention in find(there)] == [code] * 6
        assert swap(there, {code: home}) == text


@settings(max_examples=200, deadline=None)
@given(st.permutations(CODES))
def test_an_exchange_undoes_itself(order: list[str]) -> None:
    one, other, *_ = order
    text = swap("They met Peru, and in Peru they met Chad.", {"PER": one, "TCD": other})
    exchange = {one: other, other: one}
    assert swap(swap(text, exchange), exchange) == text


# Any text

PIECES = [gazetteer()[code].written("name") for code in CODES[::9]]
PIECES += ["the ", "The ", "a ", "An ", " ", ". ", "\n", "-", "“", "'", "’s", "said ", "envoy", "US", "U.S.", "Korea"]
PIECES += ["Russian", "GERMANY", "Georgia", "Polish", "Brussels"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=14).map("".join), st.integers())
def test_any_text(text: str, seed: int) -> None:
    mentions = find(text)
    last = 0
    for mention in mentions:
        assert last <= mention.start < mention.end
        assert text[mention.start : mention.end] == mention.text
        last = mention.end
    swapped = random_swap(text, random.Random(seed))
    assert swapped == random_swap(text, random.Random(seed))
    assert swap(text, {}) == text
    if not mentions:
        assert swapped == text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_texts_without_states_are_unchanged(text: str) -> None:
    if not find(text):
        assert random_swap(text, random.Random(0)) == text


def test_random_swap_is_injective_and_consistent() -> None:
    text = "Russia told Ukraine, Turkey and China that Russia would leave Ukraine, Turkey and China."
    for seed in range(50):
        codes = [mention.code for mention in find(random_swap(text, random.Random(seed)))]
        assert len(set(codes[:4])) == 4
        assert codes[0] == codes[4] and codes[1:4] == codes[5:]
        assert not any(new == old for new, old in zip(codes, ["RUS", "UKR", "TUR", "CHN"], strict=False))


def test_random_swap_of_a_text_that_names_every_state() -> None:
    text = "; ".join(gazetteer()[code].written("name") for code in CODES)
    codes = [mention.code for mention in find(random_swap(text, random.Random(3)))]
    assert sorted(codes) == CODES
    assert not any(new == old for new, old in zip(codes, CODES, strict=True))


def test_import_reads_nothing() -> None:
    program = "import training.actors as a; raise SystemExit(a.gazetteer.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", program], cwd=GAZETTEER.parent.parent, check=False).returncode == 0
