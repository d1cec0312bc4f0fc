"""The teller of a story: people, a small world that is kept true, and how things are said.

A `Tale` knows who owns how many of what, which names are taken and what was told so far, so that
a plot can say what follows from what happened.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from minislm.stories import lexicon as lex
from minislm.stories.lexicon import a, number_word, plural


@dataclass(frozen=True)
class Person:
    """A child, an animal or an elder of a story, with the right pronouns."""

    name: str
    kind: str  # "girl", "rabbit", "mom"
    she: bool

    def __str__(self) -> str:
        return self.name

    @property
    def he(self) -> str:
        return "she" if self.she else "he"

    @property
    def him(self) -> str:
        return "her" if self.she else "him"

    @property
    def his(self) -> str:
        return "her" if self.she else "his"


class Tale:
    """A story in the making: its random stream, its world, and the sentences told so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pick = rng.choice
        self.between = rng.randint
        self.digit_share = rng.choices((0.0, 0.5, 1.0), (5, 2, 2))[0]
        self.owned: Counter[tuple[str, str]] = Counter()
        self.sentences: list[str] = []
        self.gaps: list[str] = []
        self.features: set[str] = set()
        self.fable = False  # the heroes are animals of the forest
        self.used: set[str] = set()  # names
        self.gap = ""
        self.quiet = self.chance(0.3)  # told without dialogue where the plot allows it
        name = self.pick(tuple(lex.ELDERS))
        self.elder = Person(name, name, lex.ELDERS[name])

    def chance(self, share: float = 0.5) -> bool:
        return self.rng.random() < share

    # -- telling

    def tell(self, *variants: str) -> None:
        """Tell one of the variants; a sentence begins with a capital and never with a digit."""
        text = variants[0] if len(variants) == 1 else self.pick(variants)
        if text[0].isdigit():
            digits, rest = re.match(r"(\d+)(.*)", text, re.DOTALL).groups()
            text = number_word(int(digits)) + rest
        self.sentences.append(text[0].upper() + text[1:])
        self.gaps.append(self.gap)
        self.gap = " "

    def paragraph(self) -> None:
        """Begin the next sentence on a new line."""
        self.gap = "\n" if self.sentences else ""

    def say(self, who: object, line: str, verb: str = "", *, told: str = "") -> None:
        """Tell what someone says; a quiet story only tells `told`, the gist of it, if anything."""
        if self.quiet:
            if told:
                self.tell(told)
            return
        if not verb and line.endswith("?"):
            verb = "asked"
        verb = verb or ("said" if line.endswith(".") or self.chance(0.7) else "shouted")
        if self.chance():
            self.tell(f'{who} {verb}, "{line}"')
        else:
            line = line[:-1] + "," if line.endswith(".") else line
            self.tell(f'"{line}" {verb} {who}.', f'"{line}" {who} {verb}.')

    def shuffle(self, rng: random.Random) -> None:
        """Put the sentences out of order; line breaks stay where they are."""
        order = list(self.sentences)
        while order == self.sentences:
            rng.shuffle(order)
        self.sentences = order

    # -- numbers and things

    def number(self, n: int) -> str:
        return str(n) if self.rng.random() < self.digit_share else number_word(n)

    def capital(self, n: int) -> str:
        """The number at the beginning of a sentence."""
        return number_word(n).capitalize()

    def count(self, n: int, noun: str) -> str:
        return f"{self.number(n)} {noun if n == 1 else plural(noun)}"

    def aloud(self, n: int) -> str:
        """Counting from one to n aloud: "One, two, three"."""
        text = ", ".join(map(str if self.chance(self.digit_share) else number_word,
                             range(1, n + 1)))
        return text[0].upper() + text[1:]

    def gain(self, who: object, n: int, noun: str) -> int:
        """Let someone have n more; return how many that makes."""
        self.owned[str(who), noun] += n
        return self.owned[str(who), noun]

    def lose(self, who: object, n: int, noun: str) -> int:
        """Take n away from someone who has as many; return how many are left."""
        if not 0 <= n <= self.owned[str(who), noun]:
            raise ValueError(f"{who} cannot lose {n} {plural(noun)}")
        return self.gain(who, -n, noun)

    def give(self, giver: object, taker: object, n: int, noun: str) -> int:
        """Hand n over; return how many the giver has left."""
        self.gain(taker, n, noun)
        return self.lose(giver, n, noun)

    # -- people, places, times

    def child(self) -> Person:
        """A boy or a girl whom the story does not know yet."""
        she = self.chance()
        return self._person(lex.GIRLS if she else lex.BOYS, "girl" if she else "boy", she)

    def animal(self, kind: str) -> Person:
        """An animal with a name."""
        she = self.chance()
        return self._person(lex.SHE_ANIMALS if she else lex.HE_ANIMALS, kind, she)

    def _person(self, names: Sequence[str], kind: str, she: bool) -> Person:
        # Two names with the same first letter are easily mixed up.
        name = self.pick(names)
        while name[0] in self.used:
            name = self.pick(names)
        self.used.add(name[0])
        return Person(name, kind, she)

    def cast(self, fable: float = 0.0) -> tuple[Person, Person]:
        """Two heroes: children, or in a share of the stories two animals of the forest."""
        self.fable = self.chance(fable)
        if self.fable:
            one, other = self.rng.sample(lex.FOREST_ANIMALS, 2)
            return self.animal(one), self.animal(other)
        return self.child(), self.child()

    def outdoors(self) -> str:
        return self.pick(lex.FOREST_PLACES if self.fable else lex.OUTDOORS)

    def food(self) -> str:
        return self.pick(lex.WILD_FOOD if self.fable else lex.TREATS + lex.FRUIT)

    def once(self) -> str:
        """When it happened, with fair weather."""
        part = self.pick(("day", "day", "morning", "afternoon"))
        weather = self.pick(lex.NICE_WEATHER)
        return self.pick((
            "one/o day", f"one/o {part}", f"one/o {weather} {part}", f"on {a(f'{weather} {part}')}"
        ))

    def happy(self) -> str:
        return self.pick(lex.HAPPY)

    def sad(self) -> str:
        return self.pick(lex.SAD)

    def was(self) -> str:
        return self.pick(("was", "was", "felt"))


def at(place: str) -> str:
    return f"{lex.PLACES[place]} the {place}"


def hobby(t: Tale, his: str) -> str:
    """What "his" (or "her" or "their") owner likes to do, as a verb phrase after "to"."""
    pick = t.pick
    company = "their friends" if his == "their" else f"{his} {t.elder}"
    outside = t.outdoors()
    animals = plural(pick(pick((lex.BIRDS, lex.BUGS))))
    if t.fable:
        return pick((
            f"look for {plural(pick(lex.FINDS))} {at(outside)}", f"watch the {animals}",
            f"run and jump {at(outside)}", f"eat {plural(pick(lex.WILD_FOOD))}",
            f"sing with the {animals}", f"roll/v in the leaves {at(outside)}",
            f"sleep in the sun {at(outside)}", f"smell the {plural(pick(lex.FLOWERS))}",
        ))
    toy = pick(lex.SMALL_TOYS)
    beast = plural(pick(pick((lex.ZOO_ANIMALS, lex.FARM_ANIMALS, lex.PETS, lex.FOREST_ANIMALS))))
    return pick((
        f"play with {his} {pick(lex.COLORS)} {toy}", f"draw {pick(lex.SIZES)} {beast}",
        f"read books about {beast}", f"look for {plural(pick(lex.FINDS))} {at(outside)}",
        f"watch the {animals} {at(outside)}", f"sing songs about {beast}",
        f"bake {plural(pick(lex.BAKED))} with {company}",
        f"ride {his} {pick(lex.COLORS)} {pick(('bike', 'scooter'))} {at(outside)}",
        f"tell {company} stories about {beast}", f"run and jump {at(outside)}",
        f"paint {plural(pick(lex.FLOWERS))} and {beast}",
    ))


def begin(
    t: Tale, hero: Person, *, place: str = "", traits: Sequence[str] = lex.TRAITS, likes: str = "",
    aged: bool = True,
) -> None:
    """The opening: who the hero is, what the hero likes; at `place` when one is given."""
    he, his, pick = hero.he, hero.his, t.pick
    trait = pick(traits)
    who = a(f"{trait} {hero.kind}") if t.chance(0.6) else f"a little {hero.kind}"
    home = f"{pick(lex.PLACE_LOOKS)} {'forest' if t.fable else pick(lex.HOMES)}"
    if place and t.chance(0.3):  # in the middle of things
        again = t.pick((f"{t.once()}, {he} was there again.", ""))
        t.tell(f"{hero} was {who} who went to the {place} every {pick(('day', 'week'))}."
               if again else f"{t.once()}, {who} named {hero} was playing {at(place)}.")
        t.tell(f"{he} liked to {hobby(t, his)}.", f"{he} loved to {hobby(t, his)}.")
        if again:
            t.tell(again)
        return
    t.tell(
        f"once upon a time, there was {who} named {hero}.",
        f"once upon a time, in {a(home)}, there lived {who} named {hero}.",
        f"there once was {who} called {hero}.",
        f"{hero} was {who} who lived in {a(home)}.",
        f"in {a(home)}, there lived {who} named {hero}.",
        f"{hero} was {a(f'{trait} {hero.kind}')} with "
        f"{pick(('a big smile/n', 'a small nose', 'a loud voice', 'long hair', 'big ears'))}.",
    )
    pet = f"{pick(lex.FUR_COLORS)} {pick(lex.PETS)}"
    hobby_there = hobby(t, his).replace(f"{his} {t.elder}", t.elder.him)
    second = [f"{he} loved to {hobby(t, his)}.", f"every day, {he} liked to {hobby(t, his)}.",
              f"{he} lived there with {his} {t.elder} and liked to {hobby_there}."]
    if not t.fable and aged:
        second.append(f"{he} was {t.number(t.between(3, 8))} years old and had {a(pet)}.")
        second.append(f"{he} had {a(pet)} and {a(f'{pick(lex.COLORS)} {pick(lex.SMALL_TOYS)}')}.")
    if "lived" not in t.sentences[-1]:
        second.remove(second[2])
    t.tell(*second)
    if likes:
        t.tell(f"most of all, {he} liked {likes}.", f"{he} also liked {likes} very much.",
               f"but {his} favorite things were {likes}.")
    if place:
        t.paragraph()
        t.tell(f"{t.once()}, {hero} went to the {place} with {his} {t.elder}.",
               f"{t.once()}, {his} {t.elder} took {hero.him} to the {place}.",
               f"{t.once()}, {hero} went to the {place} to play.",
               f"{t.once()}, {hero} and {his} {t.elder} walked to the {place}.")


def begin_pair(t: Tale, hero: Person, friend: Person) -> None:
    """The opening of a story about two."""
    pick = t.pick
    home = f"{pick(lex.PLACE_LOOKS)} {'forest' if t.fable else pick(lex.HOMES)}"
    kinds = f"{a(hero.kind)} and {a(friend.kind)}" if hero.kind != friend.kind else (
        f"{pick(lex.TRAITS)} {plural(hero.kind)}")
    t.tell(
        f"{hero} and {friend} were good friends who lived in {a(home)}.",
        f"once upon a time, there were two friends named {hero} and {friend}.",
        f"{hero} and {friend} were {kinds} who did everything together.",
        f"in {a(home)}, there lived two friends called {hero} and {friend}.",
    )
    t.tell(f"they loved to {hobby(t, 'their')}.",
           f"every day, they liked to {hobby(t, 'their')}.",
           f"{hero} liked to {hobby(t, hero.his)}, and {friend} liked to be with {hero.him}.")


def meet(t: Tale, hero: Person, friend: Person) -> None:
    """The second person comes in."""
    who = a(f"{t.pick(lex.TRAITS)} {friend.kind}")
    t.tell(f"then {hero.he} met {friend}, {who}.", f"soon {who} named {friend} came by.",
           f"{hero.his} friend {friend} came along.", f"just then, {friend}, {who}, walked by.")


def count_them(t: Tale, hero: Person, n: int) -> None:
    t.tell(f'{hero} counted them aloud. "{t.aloud(n)}!"',
           f'"{t.aloud(n)}," {hero} counted.',
           f'{hero} pointed at them and counted, "{t.aloud(n)}."')


def thanks(t: Tale, who: object) -> None:
    t.say(who, t.pick(("Thank you so much!", "Thank you!", "Thank you. You are very kind.",
                       "Oh, thank you! You are a good friend.", "That is so nice of you!")),
          "said")


def lesson(t: Tale, hero: object, *morals: str) -> None:
    """The moral of the story."""
    t.features.add("MoralValue")
    moral = t.pick(morals)
    t.tell(f"{hero} learned that {moral}.", f"from that day on, {hero} knew that {moral}.",
           f"that day, {hero} learned that {moral}.", f"{hero} never forgot that {moral}.")
