"""Plots with large numbers in use: house numbers, mirrors, pairs, signs.

What pre-training on them teaches about digits can then be looked for in tasks that ask about other
numbers. A plot says in passing what a task asks for, of numbers of three digits and of the numbers
that D_train asks about; never of one that D_test asks about, and never in a prompt's words (a test
holds both).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from minislm.stories import lexicon as lex
from minislm.stories.lexicon import plural
from minislm.stories.narrator import Person, Tale, begin, begin_pair, lesson, meet
from minislm.tasks import is_test, number_words

_SMALL = tuple(i for i in range(1, 101) if not is_test(i))


def _numbers(t: Tale) -> Iterator[int]:
    """The four to seven numbers of a story, each drawn when the one before has been told."""
    for _ in range(t.between(4, 7)):
        yield t.pick(_SMALL) if t.chance(0.3) else t.between(101, 990)


def _open(t: Tale, hero: Person, friend: Person, likes: str = "") -> None:
    begin(t, hero, likes=likes)
    t.paragraph()
    meet(t, hero, friend)


def houses(t: Tale) -> str:
    """Houses in a row: each number is one more than the one before."""
    hero, friend = t.cast()
    _open(t, hero, friend)
    for n in _numbers(t):
        big = t.between(101, 990)
        row = ", ".join(str(big + k) for k in range(t.between(3, 5)))
        t.tell(
            f"{hero} walked past the houses {row}.",
            f"after house {n} came house {n + 1}.",
            f"{friend} lived in house {n}, and the next house was {n + 1}.",
            f'"What is after {n}?" asked {friend}. "{n + 1}," said {hero}.',
        )
    lesson(t, hero, "every house has its place", "numbers go on and on")
    return f"{hero} learns the numbers of the houses with {friend}."


def mirrors(t: Tale) -> str:
    """A mirror turns the digits round."""
    hero, friend = t.cast()
    _open(t, hero, friend)
    t.tell(
        f"{hero} had a magic mirror. It turned all numbers around.",
        f"{friend} gave {hero} a funny mirror that turned numbers around.",
    )
    for n in _numbers(t):
        turned = str(n)[::-1]
        t.tell(
            f"{hero} showed it {n}, and the mirror showed {turned}.",
            f"in the mirror, {n} was {turned}.",
            f"{friend} wrote {n}. Turned around it was {turned}.",
            f'"What is {n} turned around?" asked {friend}. "{turned}," said {hero}.',
        )
    t.tell("they laughed and laughed.", "it was so funny.")
    return f"{hero} plays with a mirror that turns numbers around."


def partners(t: Tale) -> str:
    """Things are laid out two by two: one is left over where the number is odd."""
    hero, friend = t.cast()
    things = plural(t.pick(lex.FINDS))
    _open(t, hero, friend, likes=things)
    for n in _numbers(t):
        kind = "odd" if n % 2 else "even"
        left = "one was left alone" if n % 2 else "none was left alone"
        t.tell(
            f"{hero} laid {n} {things} in pairs, and {left}: {n} was {kind}.",
            f"there were {n} {things}. {n} was {kind}, so {left}.",
            f'{friend} found {n} {things}. "{n} is {kind}," {friend.he} said.',
            f'"What kind of number is {n}?" asked {friend}. "It is {kind}," said {hero}.',
        )
    lesson(t, hero, "two and two make pairs", "some numbers leave one behind")
    return f"{hero} and {friend} lay out {things} in pairs."


def signs(t: Tale) -> str:
    """Numbers are read aloud and written down."""
    hero, friend = t.cast()
    _open(t, hero, friend)
    for n in _numbers(t):
        words = number_words(n)
        t.tell(
            f"the sign said {n}. {hero} read aloud: {words}.",
            f"{friend} said {words}, and {hero} wrote {n}.",
            f"{hero} saw {n} on a door. That is {words}.",
            f'"How do you say {n}?" asked {friend}. "You say {words}," said {hero}.',
        )
    t.tell(f"now {hero} could read all the signs.", f"{hero} was proud of {hero.his} reading.")
    return f"{hero} reads the signs with {friend}."


def notes(t: Tale) -> str:
    """Numbers are copied, and said again."""
    hero, friend = t.cast()
    begin_pair(t, hero, friend)
    t.paragraph()
    for n in _numbers(t):
        t.tell(
            f"{hero} wrote {n}, and {friend} wrote {n} too.",
            f"the number on the box was {n}. {friend} made a copy: {n}.",
            f'{hero} said, "{n}." {friend} said it again: {n}.',
            f'"Can you write {n} too?" asked {friend}. "Yes: {n}," said {hero}.',
        )
    t.tell("they did it all day long.", "it was a good game.")
    return f"{hero} and {friend} copy numbers."


NUMBER_PLOTS: tuple[Callable[[Tale], str], ...] = (houses, mirrors, partners, signs, notes)
