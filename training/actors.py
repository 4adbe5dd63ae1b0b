"""States in a text: found in all their forms, and swapped for others consistently.

The gazetteer is `datasets/actors.csv`; in a cell, ";" parts alternatives, the one to write first. A word that several
states share (Korean, Congo) or that is seldom a state (Victoria, Brussels) counts only where the text names exactly one
of its states otherwise. Fixed phrases (South China Sea, Rome Statute) and namesakes (Michael Jordan; Atlanta, Georgia)
are left alone. Swapping what must not matter is the invariance test of Ribeiro et al. (2020), "Beyond Accuracy:
Behavioral Testing of NLP Models with CheckList".
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from training.errors import CorpusError

GAZETTEER = Path(__file__).resolve().parent.parent / "datasets" / "actors.csv"
Form = Literal["name", "formal", "abbreviation", "capital", "adjective", "people", "person"]

_SHORT = re.compile(r"(?:[A-Z]\.?){2,}")
# Official styles and the names that take "the"; "Iran (Islamic Republic of)" behaves like a short name.
_LONG = re.compile(
    r"(?i)\bof\b(?!.*\))|(?:Republic|Federation|Confederation|States?|Kingdom|Jamahiriya|PDR|See|Vatican|Emirates"
    r"|Islands|Bahamas|Comoros|Gambia|Maldives|Netherlands|Philippines)$"
)
_WEAK = re.compile(  # as `_key` has them
    r"BRUSSELS|GEORGETOWN|KINGSTON|MALE|NASSAU|SANTIAGO|SOFIA|SUCRE|VICTORIA|WELLINGTON|SAN JOS[ÉE]|DANE|FINN|POLE|TURK"
    r"|(?:SAINT|ST\.?) (?:JOHN|GEORGE)'S|CENTRAL AFRICANS?|LAO|TRINIDAD|ANTIGUA"
)
# "The US said" or "the US envoy": words that no noun phrase goes on with, and plurals that look like verbs.
_CLOSED = (
    r"(?i:(?:about|after|again|against|all|also|an?|and|any|are|as|at|be|because|been|before|being|both|but|by|came|can"
    r"|cannot|could|did|do|does|during|for|from|gave|had|has|have|he|held|her|his|how|I|if|in|into|is|its?|itself|left|let"
    r"|made|may|might|must|never|no|not|now|of|off|on|only|or|our|over|said|says?|see|sent|set|she|should|since|so|still"
    r"|stood|than|that|the|their|then|there|these|they|this|those|through|to|told|took|under|unless|until|up|vs|want|was"
    r"|we|were|what|when|where|whether|which|while|who|whose|why|will|with|without|would|yet|you|\w{2,6}day|meanwhile)\b)"
)
_NOUN = (
    r"\s+(?:armed|ally|supply|family|authorities|officials|forces|troops|sanctions|soldiers|citizens|arms|tariffs)\b"
)
_NOUN_NEXT = re.compile(rf"{_NOUN}|\s+(?!{_CLOSED}|\w+(?:ed|ing|ly|n['’]t)\b)[^\W\d_]")
_VERB_NEXT = re.compile(rf"(?!{_NOUN})\s+[a-z]+[^\Ws]s\b")
_COORDINATED = re.compile(r"[-–/,]|\s+(?:and|or)\s+(?!the\b)")
_COUNTED = re.compile(r"\b(?:the|these|those|many|most|some|few|all|other|two|three|hundred|thousand|\d+)\s+$", re.I)
_ARTICLE = re.compile(r"\b([Tt]he|THE|[Aa]n?|AN)(\s+)$")
_NO_ROOM_FOR_THE = re.compile(  # after a determiner, an adjective or a hyphen
    r"(?:\b(?:th?is|that|its|h[ie][sr]|their|our|my|your|no|every|new|old|fellow|\w+ern|post-?\w+)\s+|['’]s\s+|[-–/])$"
)
_SENTENCE_START = re.compile(r"(?:\A|\n|[.!?…][\"”’')\]]*\s|[,:]\s(?=[\"“‘]))[\s\-*#>•\"“‘'(\[]*$")
_SENTENCE_END = re.compile(r"[\"”’')\]]*(?:\s*\Z|\s*\n|\s+[\"“]?[A-Z])")
_POSSESSIVE = re.compile(r"(?:(?<=s)(['’])(?= \w)|(['’])s\b)", re.I)
_FIXED = (
    r"(?:Gulf|GULF|Sea|SEA|Bay|Straits?|Isthmus|Treaty|Congress|Times)\s(?i:of(?:\sthe)?)\s[A-Z]\w+"
    r"|(?:Lake|River|George)\s[A-Z]\w+|Polish\s(?:the|your|up|off|it)\b|(?!THE|AND|IN)[A-Z]{2,}\sUS\b|Israel\sKatz"
    rf"|(?:(?:Mr|Mrs|Ms|Dr|Sen|Rep)\.|(?!{_CLOSED})[A-Z][a-z]+)\s(?:Chad|Jordan|Georgia)\b"
    rf"|(?:Chad|Jordan|Georgia)\s(?!Prime|President|King|Queen|Foreign|Defen[cs]e|Minister|Army|{_CLOSED})[A-Z][a-z]+"
    r"|(?:Atlanta,|Athens,|[Ss]tate\sof)\sGeorgia|(?:(?i:North|South|East|West)\s)?[A-Z]\w+\s(?=[A-Z])(?i:Sea|Ocean"
    r"|Straits?|River|Basin|Delta|Canal|Valley|Falls|Isles|Peninsula|Agreements?|Accords?|Conventions?|Protocols?|Pact"
    r"|Statute|Memorandum|Club|Group|Process|Format|Consensus|Principles|Post|Times|Daily)\b|(?i:(?:Latin|Central|South"
    r"|North|Native|African|Asian|Inter)[ -]American?s?|American (?:Samoans?|Indians?|States)|New (?:Mexico|Guinea)"
    r"|Northern (?:Ireland|Irish)|Inner Mongolia|West Indians?|(?:East|West) German[ys]?|East Jerusalem|(?:North|South)"
    r" (?:Vietnam(?:ese)?|Yemen|Pole)|Korean War|Vietnam War|(?:British|US|U\.S\.) Virgin Islands|British (?:Columbia"
    r"|India)|Washington State|French (?:Guiana|fries)|Dutch disease|German measles|Spanish flu|Guinea pigs?)\b"
)


@dataclass(frozen=True)
class Actor:
    """A state; of its `forms` the preferred come first, and "formal", "abbreviation" and "person" may be empty.

    `code` is ISO 3166-1 alpha-3 (XKX for Kosovo), `status` in the United Nations "member", "observer" or "other".
    """

    code: str
    status: str
    forms: Mapping[Form, tuple[str, ...]]

    def written(self, form: Form) -> str:
        """The state in this form, or in the nearest one that it has."""
        return (self.forms[form] or self.forms["adjective" if form == "person" else "name"])[0]


@dataclass(frozen=True)
class Mention:
    """`text` stands at `start:end` and names the state `code`; an article or possessive ending is outside."""

    start: int
    end: int
    code: str
    form: Form
    text: str


@cache
def gazetteer() -> Mapping[str, Actor]:
    """The states by code, read once; the tests hold the file complete."""
    with GAZETTEER.open(encoding="utf-8", newline="") as stream:
        return {row["code"]: Actor(row["code"], row["status"], _forms(row)) for row in csv.DictReader(stream)}


def find(text: str) -> list[Mention]:
    """The states that a text names, in order, longest match first, none overlapping."""
    pattern, known = _index()
    found = [(match, known[_key(match[0])]) for match in pattern.finditer(text) if match["form"]]
    named = {code for m, owners in found if len(owners) == 1 and not _WEAK.fullmatch(_key(m[0])) for code in owners}
    return [
        Mention(match.start(), match.end(), code, _form(text, match, owners[code]), match[0])
        for match, owners in found
        for code in owners
        if owners.keys() & named == {code}
    ]


def swap(text: str, mapping: Mapping[str, str]) -> str:
    """Writes for the states of a text, form for form, those that `mapping` (code -> code) puts in their place.

    Articles, possessives and capitals follow; a text that names none of the states comes back unchanged.

    Raises:
        CorpusError: a code is not in the gazetteer.
    """
    actors = gazetteer()
    if unknown := sorted({*mapping, *mapping.values()} - set(actors)):
        raise CorpusError(f"No state has the code {', '.join(unknown)}; use the codes of {GAZETTEER}, such as KEN.")
    result = text
    for mention in reversed(find(text)):  # from the end, so that offsets hold
        if mapping.get(mention.code, mention.code) != mention.code:
            start, end, new = _rewritten(text, mention, actors[mapping[mention.code]].written(mention.form))
            result = result[:start] + new + result[end:]
    return result


def random_swap(text: str, rng: random.Random) -> str:
    """Every state of a text becomes another, no two the same, drawn among the members of the United Nations."""
    named = {mention.code for mention in find(text)}
    # Each to its predecessor in a random cycle: never itself, never two to one, however many are named.
    cycle = sorted(named | {actor.code for actor in gazetteer().values() if actor.status == "member"})
    rng.shuffle(cycle)
    return swap(text, {code: cycle[cycle.index(code) - 1] for code in named})


def _forms(row: Mapping[str, str]) -> Mapping[Form, tuple[str, ...]]:
    formal, adjective, people, capital = (row[key].split(";") for key in ("formal", "adjective", "people", "capital"))
    short = [text for text in formal if _SHORT.fullmatch(text)]
    long = [text for text in formal if _LONG.search(text) and text not in (row["name"], *short)]
    names = dict.fromkeys([row["name"], *(text for text in formal if text not in short + long)])
    person = [text for text in people[1:] if text[-1] != "s" and text not in adjective]  # Dane, after Danes
    people = [text for text in people if text not in person]
    return dict(zip(get_args(Form), map(tuple, (names, long, short, capital, adjective, people, person)), strict=True))


@cache
def _index() -> tuple[re.Pattern[str], Mapping[str, Mapping[str, list[Form]]]]:
    known: dict[str, dict[str, list[Form]]] = {}
    spellings: set[str] = set()
    for actor in gazetteer().values():
        for form, texts in actor.forms.items():
            for text in texts:
                known.setdefault(_key(text), {}).setdefault(actor.code, []).append(form)
                spellings |= {text, text.upper()}
    longest_first = sorted(spellings, key=lambda text: (-len(text), text))
    body = "|".join(re.escape(text).replace(r"\ ", r"\s+").replace("'", "['’]") for text in longest_first)
    return re.compile(rf"\b(?=\w)(?:{_FIXED}|(?P<form>{body}))(?![\w$])"), known


def _key(text: str) -> str:
    return " ".join(text.split()).replace("’", "'").upper()


def _before(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    return pattern.search(text, max(0, start - 40), start)


def _noun_follows(text: str, start: int, end: int) -> bool:
    article = _before(_ARTICLE, text, start)  # after "the", a word in -s is rather the verb: "the US welcomes"
    return bool(_NOUN_NEXT.match(text, end)) and not (article and _VERB_NEXT.match(text, end))


def _form(text: str, match: re.Match[str], forms: list[Form]) -> Form:
    start, end, first = match.start(), match.end(), forms[0]
    if first == "abbreviation" or (first in ("name", "formal") and _LONG.search(match[0])):
        return "adjective" if _noun_follows(text, start, end) else first
    if first == "adjective" and not _NOUN_NEXT.match(text, end) and not _COORDINATED.match(text, end):
        if (article := _before(_ARTICLE, text, start)) and article[1].lower() != "the":
            return "person"
        if "people" in forms and (_before(_COUNTED, text, start) or _before(_SENTENCE_START, text, start)):
            return "people"
    return first


def _rewritten(text: str, mention: Mention, new: str) -> tuple[int, int, str]:
    start, end, old = mention.start, mention.end, mention.text
    proper = mention.form in ("name", "formal", "abbreviation")
    had_the = mention.form == "abbreviation" or bool(_LONG.search(old))
    needs_the = proper and bool(_SHORT.fullmatch(new) or _LONG.search(new))
    shouted = old.isupper() and (text.isupper() or old not in gazetteer()[mention.code].forms["abbreviation"])
    article, lead, tail = _before(_ARTICLE, text, start), "", ""
    if proper and old[-1] == "." and _SENTENCE_END.match(text, end):
        tail = "."  # the full stop of "U.S." closed the sentence too
    elif possessive := _POSSESSIVE.match(text, end):
        plural = new[-1] == "s" and (needs_the or mention.form == "people")
        end, tail = possessive.end(), (possessive[1] or possessive[2]) + "s" * (not plural)
    if article and article[1].lower() != "the":
        if article[1] != "A" or shouted or _before(_SENTENCE_START, text, article.start()):  # not "Annex A"
            start, lead = article.start(), ("an" if re.match(r"[AEIO]|Uz", new) else "a") + article[2]
            lead = lead.capitalize() if article[1][0] == "A" else lead
    elif text[mention.end : mention.end + 1] not in ("-", "–", "/"):
        if article and proper and not needs_the and not _noun_follows(text, mention.start, mention.end):
            start = article.start()
        elif needs_the and not article and not had_the and not _before(_NO_ROOM_FOR_THE, text, start):
            lead = "The " if _before(_SENTENCE_START, text, start) else "the "
    new = lead + new + tail
    return start, end, new.upper() if shouted else new
