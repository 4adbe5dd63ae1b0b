"""States in a text: finding them in all their forms, and swapping one for another consistently.

The gazetteer is `datasets/actors.csv`: the 193 members of the United Nations, its two observer states, Kosovo
and Taiwan. A cell holds alternatives separated by ";", the one to write first. A word that several states
share (Korean, Congo, Dominican) or that mostly means something else (Victoria, Brussels) counts only where
the same text names exactly one of its states in another way; fixed phrases (South China Sea, Paris Agreement,
Dutch disease) and namesakes (Michael Jordan; Atlanta, Georgia) are left alone. Swapping actors is the
invariance test of Ribeiro et al. (2020), "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList".
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from training.errors import CorpusError

GAZETTEER = Path(__file__).resolve().parent.parent / "datasets" / "actors.csv"
COLUMNS = ("code", "name", "formal", "adjective", "people", "capital", "status")
STATUSES = ("member", "observer", "other")
Form = Literal["name", "formal", "abbreviation", "capital", "adjective", "people", "person"]

_ABBREVIATION = re.compile(r"(?:[A-Z]\.?){2,}")
_LONG = re.compile(
    r"\b(?:Republic|Kingdom|States?|Federation|Confederation|Union|Commonwealth|Principality|Duchy|Sultanate"
    r"|Emirate|Jamahiriya|Holy See|Lao PDR)\b",
    re.I,
)
# Names that are written with "the": all long ones, abbreviations, and a few plurals and odd ones.
_WITH_THE = re.compile(
    rf"{_LONG.pattern}|(?:[A-Z]\.?){{2,}}$|\b(?:Emirates|Islands|Bahamas|Comoros|Gambia|Maldives|Netherlands"
    r"|Philippines|Vatican)$",
    re.I,
)
_WEAK = frozenset(
    "Brussels Georgetown Kingston Male Nassau Santiago Sofia Sucre Victoria Wellington Dane Finn Pole Turk Lao "
    "Trinidad Antigua".split()
) | {"San José", "San Jose", "Saint John's", "St. John's", "St John's", "Saint George's", "St. George's"}
_WEAK |= {"St George's", "Central African", "Central Africans"}

# Words after a state that no noun phrase goes on with: "the US said" against "the US envoy".
_CLOSED = (
    "a about after again against agree all along also although always an and any are as at be because been before "
    "being believe between both but by came can cannot could did do does during each few first for from gave had "
    "has have he held her his how however i if in insist into is it its itself just kept know last left let like "
    "made many may might more most must neither never next no nor not now of off on once only or our out over "
    "per put said say says see seek sent set shall she should since so some still such take than that the their "
    "then there these they think this those though through to today together told took toward towards two under "
    "unless until up upon us vs want was we went were what when where whether which while who whom whose why will "
    "with within without would yes yesterday yet you your meanwhile tomorrow monday tuesday wednesday thursday "
    "friday saturday sunday"
)
_CLOSED_WORD = rf"(?i:{_CLOSED.replace(' ', '|')})\b"
_NOUN_NEXT = re.compile(
    r"\s+(?:armed|ally|supply|family|training|authorities|officials|forces|troops|sanctions|diplomats|soldiers"
    rf"|vessels|citizens|companies|arms)\b|\s+(?!{_CLOSED_WORD}|\w+(?:ed|ing|ly|n['’]t)\b)[^\W\d_]"
)
_VERB_NEXT = re.compile(r"\s+[a-z]+[^s\W]s\b")  # after "the US": welcomes, intends, calls
_THE = re.compile(r"\b(?:the|THE|The)\s+$")
_INDEFINITE = re.compile(r"\b(an?|An?|AN)(\s+)$")
_NO_THE_AFTER = re.compile(  # "new", "eastern", "Putin's" and the like leave no room for "the"
    r"(?:\b(?:an?|the|this|that|its|his|her|their|our|my|your|no|every|each|new|old|modern|mainland|fellow|central"
    r"|neighbou?ring|\w+ern|post-?\w+)|['’]s)\s+$",
    re.I,
)
_SENTENCE_START = re.compile(r"(?:\A|\n|[.!?…][\"”’')\]]*\s|[,:]\s(?=[\"“‘]))[\s\-*#>•\"“‘'(\[]*$")
_PLURAL_POSSESSIVE = re.compile(r"['’](?=\s\w)")
_OPEN_QUOTE = re.compile(r"(?<!\w)['‘](?=\w)")
_VOWEL_SOUND = re.compile(r"[AEIO]|Uz|É", re.I)
_TITLE_BEFORE = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|Sen|Rep)\.|\b(?!" + _CLOSED_WORD + r")[A-Z][a-z]+)\s$")
_SURNAME_AFTER = re.compile(
    r"\s(?!Prime|President|King|Queen|Crown|Foreign|Defen[cs]e|Interior|Finance|Minister|Ambassador|Government|Armed"
    rf"|Army|Parliament|{_CLOSED_WORD})[A-Z][a-z]+"
)
_NAMESAKES = frozenset(("Chad", "Jordan", "Georgia"))
_OTHER_GEORGIA = re.compile(
    r"Atlanta|Savannah|Fulton County|[Ss]tate of Georgia|Georgia (?:Senate|Tech|voters)|Alabama"
)


def _words(words: str) -> str:
    return "|".join(f"{word}|{word.upper()}" for word in words.split())


_FIXED = "|".join(
    (
        rf"(?:{_words('Gulf Sea Bay Strait Straits Isthmus Treaty Congress Times')})\s(?:of|OF)\s(?:the\s)?[A-Z]\w+",
        rf"(?:{_words('Lake River Mount George Queen')})\s[A-Z]\w+",
        r"(?:(?:North|South|East|West|NORTH|SOUTH|EAST|WEST)\s)?[A-Z]\w+\s(?:"
        + _words(
            "Sea Ocean Strait Straits River Basin Delta Canal Peninsula Channel Valley Falls Isles Agreement Agreements "
            "Accord Accords Convention Conventions Protocol Protocols Pact Statute Memorandum Declaration Club Group "
            "Process Format Consensus Principles Post Times Daily Herald War"
        )
        + r")\b",
        r"(?i:(?:Latin|Central|South|North|Native|African|Asian|Pan|Inter)[ -]Americans?|(?:Latin|South|North|Central)"
        r" America|American (?:Samoans?|Indians?|football)|Organi[sz]ation of American States|Americas"
        r"|New (?:Mexico|Guinea)|Northern (?:Ireland|Irish)|Inner Mongolian?|South Georgia|West (?:Indians?|Papuan?)"
        r"|(?:East|West) German(?:y|s)?|(?:North|South) (?:Vietnam|Vietnamese|Yemen|Yemenis?|Pole)"
        r"|East Jerusalem|Occupied Jerusalem|Washington (?:State|Monument|Consensus)|Israel Katz|(?:French|Dutch)"
        r" (?:Guiana|Polynesia|Open|fries|windows?|disease|auctions?|courage|East Indies)"
        r"|British (?:Columbia|Virgin Islands|Indian Ocean Territory)|(?:US|U\.S\.) Virgin Islands"
        r"|Netherlands Antilles|Austria-Hungary|German (?:measles|shepherds?)|Spanish flu|Russian roulette|Cuban heels?"
        r"|Mexican stand-?offs?|Swiss (?:cheese|army knife)|Chinese (?:walls?|whispers)|Turkish (?:delight|baths?|coffee)"
        r"|Brazil nuts?|Panama (?:hats?|Papers)|Guinea (?:pigs?|fowl|worms?)|Japanese encephalitis|Danish pastry"
        r"|Turkey (?:sandwich|dinner|breast)(?:es|s)?|Dominican (?:friars?|order|nuns?))\b",
        r"Polish\s(?:the|your|up|it|and|off)\b",
    )
)


@dataclass(frozen=True)
class Actor:
    """A state as the gazetteer has it; of alternatives, the first is the one to write.

    Attributes:
        code: ISO 3166-1 alpha-3, or the user-assigned XKX for Kosovo.
        name: the short name that news uses.
        formal: the official name, then other names and abbreviations.
        adjective, people: "Russian", "Russians"; after the plurals, a singular that is no adjective ("Dane").
        capital: official capital or seat of government, with other spellings.
        status: in the United Nations: "member", "observer" or "other".
    """

    code: str
    name: str
    formal: tuple[str, ...]
    adjective: tuple[str, ...]
    people: tuple[str, ...]
    capital: tuple[str, ...]
    status: str

    @cached_property
    def forms(self) -> Mapping[Form, tuple[str, ...]]:
        """Every way to write the state, by kind; kinds may be empty but for name, adjective, people, capital."""
        others = [text for text in self.formal if text != self.name]
        short = tuple(text for text in others if _ABBREVIATION.fullmatch(text))
        formal = tuple(text for text in others if text not in short and _LONG.search(text))
        names = tuple(text for text in others if text not in short + formal)
        single = tuple(p for p in self.people[1:] if not p.endswith("s") and p not in self.adjective)
        return {
            "name": (self.name, *names),
            "formal": formal,
            "abbreviation": short,
            "capital": self.capital,
            "adjective": self.adjective,
            "people": tuple(text for text in self.people if text not in single),
            "person": single,
        }

    def written(self, form: Form) -> str:
        """The state in the form asked for, or in the nearest one that it has."""
        return (self.forms[form] or self.forms["adjective" if form == "person" else "name"])[0]


@dataclass(frozen=True)
class Mention:
    """`text[start:end]` names the state `code` in the given form; a possessive ending stays outside."""

    start: int
    end: int
    code: str
    form: Form
    text: str
