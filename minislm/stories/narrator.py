"""The state of a story, and what all plots share: people, counted things, how sentences vary."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from minislm.stories.lexicon import a, plural, words
from minislm.tasks import number_words

PRONOUNS = {"she": ("she", "her", "her"), "he": ("he", "him", "his")}


@dataclass(frozen=True)
class Person:
    """A child, an animal or an elder of a story, with the right pronouns."""

    name: str
    kind: str  # "girl", "rabbit", "mom"
    he: str  # "he" or "she"
    him: str
    his: str

    def __str__(self) -> str:
        return self.name


class StoryState:
    """A story being generated: its random stream, who owns how many of what, its sentences."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.pick, self.between = rng, rng.choice, rng.randint
        self.happy, self.sad = partial(rng.choice, words.happy), partial(rng.choice, words.sad)
        self.was = partial(rng.choice, ("was", "was", "felt"))
        self.digit_share = rng.choices((0.0, 0.5, 1.0), (5, 2, 2))[0]
        self.owned: Counter[tuple[str, str]] = Counter()
        self.sentences: list[str] = []
        self.gaps: list[str] = []  # the white space in front of each sentence
        self.features: set[str] = set()
        self.fable = False  # the heroes are animals of the forest
        self.initials: set[str] = set()  # of the names in use
        self.gap = ""
        self.dialogue = not self.chance(0.3)
        name = self.pick(tuple(words.elders))
        self.elder = Person(name, name, *PRONOUNS[words.elders[name]])

    def chance(self, share: float = 0.5, feature: str = "") -> bool:
        """True in a share of the stories, which then have the feature, if one is given."""
        happens = self.rng.random() < share
        if happens and feature:
            self.features.add(feature)
        return happens

    # -- sentences

    def add(self, text: str) -> None:
        """Add one of the variants in `text`; it begins with a capital and never with a digit."""
        text = self.one_of(text)
        if text[0].isdigit():
            text = re.sub(r"\d+", lambda digits: number_words(int(digits[0])), text, count=1)
        self.sentences.append(text[0].upper() + text[1:])
        self.gaps.append(self.gap)
        self.gap = " "

    def one_of(self, text: str) -> str:
        """One of the variants in `text`, which "|" separates; line breaks count as spaces."""
        variants = text.split("|")
        return " ".join((variants[0] if len(variants) == 1 else self.pick(variants)).split())

    def paragraph(self) -> None:
        """Begin the next sentence on a new line."""
        self.gap = "\n"

    def say(self, who: object, text: str, verb: str = "", *, indirect: str = "") -> None:
        """Add direct speech, one of the variants in `text`; without dialogue, `indirect`."""
        line = self.one_of(text)
        if not self.dialogue:
            if indirect:
                self.add(indirect)
            return
        if not verb and line.endswith("?"):
            verb = "asked"
        verb = verb or ("said" if line.endswith(".") or self.chance(0.7) else "shouted")
        if self.chance():
            self.add(f'{who} {verb}, "{line}"')
        else:
            line = line[:-1] + "," if line.endswith(".") else line
            self.add(f'"{line}" {verb} {who}. | "{line}" {who} {verb}.')

    def meet(self, hero: Person, friend: Person) -> None:
        """Add the arrival of the second person."""
        who = a(f"{self.pick(words.traits)} {friend.kind}")
        self.add(f"""then {hero.he} met {friend}, {who}. | soon {who} named {friend} came by.
            | {hero.his} friend {friend} came along. | just then, {friend}, {who}, walked by.""")

    def count_aloud(self, hero: Person, n: int) -> None:
        self.add(f"""{hero} counted them aloud. "{self.aloud(n)}!"
            | "{self.aloud(n)}," {hero} counted.
            | {hero} pointed at them and counted, "{self.aloud(n)}." """)

    def thank(self, who: object) -> None:
        thanks = """Thank you so much! | Thank you! | Thank you. You are very kind.
            | Oh, thank you! You are a good friend. | That is so nice of you!"""
        self.say(who, thanks, "said")

    def lesson(self, hero: object, morals: str) -> None:
        """Add the moral of the story: one of the variants in `morals`."""
        self.features.add("MoralValue")
        moral = self.pick(morals.split("|")).strip()
        self.add(f"""{hero} learned that {moral}. | from that day on, {hero} knew that {moral}.
            | that day, {hero} learned that {moral}. | {hero} never forgot that {moral}.""")

    # -- numbers and things

    def number(self, n: int) -> str:
        return str(n) if self.chance(self.digit_share) else number_words(n)

    def count(self, n: int, noun: str) -> str:
        return f"{self.number(n)} {plural(noun, n)}"

    def aloud(self, n: int) -> str:
        """Counting from one to n aloud: "One, two, three"."""
        to_text = str if self.chance(self.digit_share) else number_words
        return ", ".join(map(to_text, range(1, n + 1))).capitalize()

    def gain(self, who: object, n: int, noun: str) -> int:
        """Let someone have n more; returns how many that makes."""
        self.owned[str(who), noun] += n
        return self.owned[str(who), noun]

    def lose(self, who: object, n: int, noun: str) -> int:
        """Take n away from someone who has as many; returns how many are left."""
        if not 0 <= n <= self.owned[str(who), noun]:
            raise ValueError(f"{who} cannot lose {n} {plural(noun)}")
        return self.gain(who, -n, noun)

    def give(self, giver: object, taker: object, n: int, noun: str) -> int:
        """Hand n over; returns how many the giver has left."""
        self.gain(taker, n, noun)
        return self.lose(giver, n, noun)

    # -- people, places, times

    def person(self, animal: str = "") -> Person:
        """A child, or an animal of that kind, with a new name."""
        she = self.chance()
        names = words.girls if she else words.boys
        if animal:
            names = words.she_animals if she else words.he_animals
        name = self.pick(names)
        while name[0] in self.initials:  # names with the same first letter are easily mixed up
            name = self.pick(names)
        self.initials.add(name[0])
        kind = animal or ("girl" if she else "boy")
        return Person(name, kind, *PRONOUNS["she" if she else "he"])

    def cast(self, fable: float = 0.0) -> tuple[Person, Person]:
        """Two heroes: children, or in a share `fable` of the stories two animals of the forest."""
        self.fable = self.chance(fable)
        one, other = self.rng.sample(words.forest_animals, 2) if self.fable else ("", "")
        return self.person(one), self.person(other)

    def outdoors(self) -> str:
        return self.pick(words.forest_places if self.fable else words.outdoors)

    def once(self) -> str:
        """When it happened, with fair weather."""
        part = self.pick(("day", "day", "morning", "afternoon"))
        fair = f"{self.pick(words.nice_weather)} {part}"
        return self.pick(("one/o day", f"one/o {part}", f"one/o {fair}", f"on {a(fair)}"))


def at(place: str) -> str:
    return f"{words.places[place]} the {place}"


def hobby(s: StoryState, his: str) -> str:
    """What "his" (or "her" or "their") owner likes to do, as a verb phrase after "to"."""
    pick = s.pick
    company = "their friends" if his == "their" else f"{his} {s.elder}"
    outside = at(s.outdoors())
    animals = plural(pick(pick((words.birds, words.bugs))))
    if s.fable:
        return s.one_of(f"""look for {plural(pick(words.finds))} {outside}
            | watch the {animals} | run and jump {outside} | eat {plural(pick(words.wild_food))}
            | sing with the {animals} | roll/v in the leaves {outside}
            | sleep in the sun {outside} | smell the {plural(pick(words.flowers))}""")
    toy = pick(words.small_toys)
    kinds = (words.zoo_animals, words.farm_animals, words.pets, words.forest_animals)
    beasts = plural(pick(pick(kinds)))
    return s.one_of(f"""play with {his} {pick(words.colors)} {toy}
        | draw {pick(words.sizes)} {beasts} | read books about {beasts}
        | look for {plural(pick(words.finds))} {outside} | watch the {animals} {outside}
        | sing songs about {beasts} | bake {plural(pick(words.baked))} with {company}
        | ride {his} {pick(words.colors)} {pick(("bike", "scooter"))} {outside}
        | tell {company} stories about {beasts} | run and jump {outside}
        | paint {plural(pick(words.flowers))} and {beasts}""")


def begin(
    s: StoryState, hero: Person, *, place: str = "", traits: Sequence[str] = (), likes: str = "",
    aged: bool = True,
) -> None:  # fmt: skip
    """Add the opening: who the hero is and what the hero likes; at `place`, if one is given."""
    he, his, pick = hero.he, hero.his, s.pick
    trait = pick(traits or words.traits)
    who = a(f"{trait} {hero.kind}") if s.chance(0.6) else f"a little {hero.kind}"
    home = a(f"{pick(words.place_looks)} {'forest' if s.fable else pick(words.homes)}")
    if place and s.chance(0.3):  # in the middle of things
        again = pick((f"{s.once()}, {he} was there again.", ""))
        s.add(f"{hero} was {who} who went to the {place} every {pick(('day', 'week'))}."
              if again else f"{s.once()}, {who} named {hero} was playing {at(place)}.")  # fmt: skip
        s.add(f"{he} liked to {hobby(s, his)}. | {he} loved to {hobby(s, his)}.")
        if again:
            s.add(again)
        return
    s.add(f"""once upon a time, there was {who} named {hero}.
        | once upon a time, in {home}, there lived {who} named {hero}.
        | there once was {who} called {hero}.
        | {hero} was {who} who lived in {home}.
        | in {home}, there lived {who} named {hero}.
        | {hero} was {a(f"{trait} {hero.kind}")} with
          {pick(("a big smile/n", "a small nose", "a loud voice", "long hair", "big ears"))}.""")
    pet = f"{pick(words.fur_colors)} {pick(words.pets)}"
    hobby_there = hobby(s, his).replace(f"{his} {s.elder}", s.elder.him)
    second = [f"{he} loved to {hobby(s, his)}.", f"every day, {he} liked to {hobby(s, his)}."]
    if "lived" in s.sentences[-1]:
        second.append(f"{he} lived there with {his} {s.elder} and liked to {hobby_there}.")
    if not s.fable and aged:
        second.append(f"{he} was {s.number(s.between(3, 8))} years old and had {a(pet)}.")
        toy = f"{pick(words.colors)} {pick(words.small_toys)}"
        second.append(f"{he} had {a(pet)} and {a(toy)}.")
    s.add(" | ".join(second))
    if likes:
        s.add(f"""most of all, {he} liked {likes}. | {he} also liked {likes} very much.
            | but {his} favorite things were {likes}.""")
    s.paragraph()
    if place:
        s.add(f"""{s.once()}, {hero} went to the {place} with {his} {s.elder}.
            | {s.once()}, {his} {s.elder} took {hero.him} to the {place}.
            | {s.once()}, {hero} went to the {place} to play.
            | {s.once()}, {hero} and {his} {s.elder} walked to the {place}.""")


def begin_pair(s: StoryState, hero: Person, friend: Person) -> None:
    """Add the opening of a story about two; a new paragraph begins after it."""
    home = a(f"{s.pick(words.place_looks)} {'forest' if s.fable else s.pick(words.homes)}")
    if hero.kind == friend.kind:
        kinds = f"{s.pick(words.traits)} {plural(hero.kind)}"
    else:
        kinds = f"{a(hero.kind)} and {a(friend.kind)}"
    s.add(f"""{hero} and {friend} were good friends who lived in {home}.
        | once upon a time, there were two friends named {hero} and {friend}.
        | {hero} and {friend} were {kinds} who did everything together.
        | in {home}, there lived two friends called {hero} and {friend}.""")
    s.add(f"""they loved to {hobby(s, "their")}. | every day, they liked to {hobby(s, "their")}.
        | {hero} liked to {hobby(s, hero.his)}, and {friend} liked to be with {hero.him}.""")
    s.paragraph()
