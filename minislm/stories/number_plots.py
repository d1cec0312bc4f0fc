"""Plots that use large numbers: house numbers, mirrors, pairs, signs.
A study measures whether pre-training on them helps with the number tasks. So no plot answers for a
number of D_test, or in the words of a prompt (tests/studies checks both)."""

from collections.abc import Callable, Iterator

from minislm.stories.lexicon import plural, words
from minislm.stories.narrator import Person, StoryState, begin, begin_pair
from minislm.tasks import is_test, number_words

_SMALL = tuple(i for i in range(1, 101) if not is_test(i))


def _numbers(s: StoryState) -> Iterator[int]:
    """Yield the four to seven numbers of a story, each sampled when it is needed."""
    for _ in range(s.between(4, 7)):
        yield s.pick(_SMALL) if s.chance(0.3) else s.between(101, 990)


def _open(s: StoryState, hero: Person, friend: Person, likes: str = "") -> None:
    begin(s, hero, likes=likes)
    s.meet(hero, friend)


def houses(s: StoryState) -> str:
    """Houses in a row: each number is one more than the one before."""
    hero, friend = s.cast()
    _open(s, hero, friend)
    for n in _numbers(s):
        big = s.between(101, 990)
        row = ", ".join(str(big + k) for k in range(s.between(3, 5)))
        s.add(f"""{hero} walked past the houses {row}.
            | after house {n} came house {n + 1}.
            | {friend} lived in house {n}, and the next house was {n + 1}.
            | "What is after {n}?" asked {friend}. "{n + 1}," said {hero}.""")
    s.lesson(hero, "every house has its place | numbers go on and on")
    return f"{hero} learns the numbers of the houses with {friend}."


def mirrors(s: StoryState) -> str:
    """A mirror reverses the digits."""
    hero, friend = s.cast()
    _open(s, hero, friend)
    s.add(f"""{hero} had a magic mirror. It turned all numbers around.
        | {friend} gave {hero} a funny mirror that turned numbers around.""")
    for n in _numbers(s):
        mirrored = str(n)[::-1]
        s.add(f"""{hero} showed it {n}, and the mirror showed {mirrored}.
            | in the mirror, {n} was {mirrored}.
            | {friend} wrote {n}. Turned around it was {mirrored}.
            | "What is {n} turned around?" asked {friend}. "{mirrored}," said {hero}.""")
    s.add("they laughed and laughed. | it was so funny.")
    return f"{hero} plays with a mirror that turns numbers around."


def partners(s: StoryState) -> str:
    """Things are put in pairs: one is left over where the number is odd."""
    hero, friend = s.cast()
    things = plural(s.pick(words.finds))
    _open(s, hero, friend, likes=things)
    for n in _numbers(s):
        kind = "odd" if n % 2 else "even"
        left = "one was left alone" if n % 2 else "none was left alone"
        s.add(f"""{hero} laid {n} {things} in pairs, and {left}: {n} was {kind}.
            | there were {n} {things}. {n} was {kind}, so {left}.
            | {friend} found {n} {things}. "{n} is {kind}," {friend.he} said.
            | "What kind of number is {n}?" asked {friend}. "It is {kind}," said {hero}.""")
    s.lesson(hero, "two and two make pairs | some numbers leave one behind")
    return f"{hero} and {friend} lay out {things} in pairs."


def signs(s: StoryState) -> str:
    """Numbers are read aloud and written down."""
    hero, friend = s.cast()
    _open(s, hero, friend)
    for n in _numbers(s):
        spoken = number_words(n)
        s.add(f"""the sign said {n}. {hero} read aloud: {spoken}.
            | {friend} said {spoken}, and {hero} wrote {n}.
            | {hero} saw {n} on a door. That is {spoken}.
            | "How do you say {n}?" asked {friend}. "You say {spoken}," said {hero}.""")
    s.add(f"now {hero} could read all the signs. | {hero} was proud of {hero.his} reading.")
    return f"{hero} reads the signs with {friend}."


def notes(s: StoryState) -> str:
    """Numbers are copied and repeated."""
    hero, friend = s.cast()
    begin_pair(s, hero, friend)
    for n in _numbers(s):
        s.add(f"""{hero} wrote {n}, and {friend} wrote {n} too.
            | the number on the box was {n}. {friend} made a copy: {n}.
            | {hero} said, "{n}." {friend} said it again: {n}.
            | "Can you write {n} too?" asked {friend}. "Yes: {n}," said {hero}.""")
    s.add("they did it all day long. | it was a good game.")
    return f"{hero} and {friend} copy numbers."


NUMBER_PLOTS: tuple[Callable[[StoryState], str], ...] = (houses, mirrors, partners, signs, notes)
