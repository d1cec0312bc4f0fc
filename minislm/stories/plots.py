"""The plots: each is a function that moves things about in a `Tale`, tells it, and sums it up.

What is said at the end follows from what happened. A new plot is one more function here that takes
a `Tale`, tells its sentences and returns a one-sentence summary; add it to PLOTS. A word's class,
where the lexicon would take another, is marked in the sentence: "a smile/n".
"""

from __future__ import annotations

from collections.abc import Callable

from minislm.stories import lexicon as lex
from minislm.stories.lexicon import a, number_word, plural, verb_form
from minislm.stories.narrator import (
    Person,
    Tale,
    at,
    begin,
    begin_pair,
    count_them,
    hobby,
    lesson,
    meet,
    thanks,
)


def sharing(t: Tale) -> str:
    """One has food, the other has none."""
    hero, friend = t.cast(fable=0.35)
    he, his = hero.he, hero.his
    food, had, greedy = t.food(), t.between(3, 9), t.chance(0.35)
    given = t.between(1, had - 1)
    begin(t, hero, traits=lex.WILD_TRAITS if greedy else lex.TRAITS, likes=plural(food))
    t.paragraph()
    t.gain(hero, had, food)
    t.tell(f"{t.once()}, {hero} had {t.count(had, food)} in {a(t.pick(lex.HOLDERS))}.",
           f"{t.once()}, {his} {t.elder} gave {hero.him} a bag. {he.title()} looked "
           f"inside, and now {he} had {t.count(had, food)}.",
           f"{t.once()}, {hero} was very {t.happy()} because {he} had {t.count(had, food)}.")
    if t.chance(0.6):
        count_them(t, hero, had)
    meet(t, hero, friend)
    t.tell(f"{friend} looked {t.sad()} because {friend.he} had nothing to eat.",
           f"{friend} was hungry and had no {plural(food)} at all.")
    if t.chance(0.7):
        t.say(friend, t.pick((f"May I have {a(food)}, please?", "I am so hungry.",
                              f"Can you share your {plural(food)} with me?")))
    t.paragraph()
    if greedy:
        t.features.add("Conflict")
        t.say(hero, t.pick((f"No! These {plural(food)} are mine!", "No, I want them all.",
                            "Go away! I do not want to share!")),
              told=f"{hero} did not want to share.")
        t.tell(f"{friend} began to cry.", f"{friend} turned around and walked away slowly.")
        t.tell(f"{hero} looked at {friend} and felt bad.", f"now {hero} felt very sorry.")
        t.say(hero, t.pick(("I am sorry.", "Wait, please. I was mean.", "Please come back.")),
              told=f"{hero} said sorry.")
    left = t.give(hero, friend, given, food)
    t.tell(f"{hero} gave {friend} {t.count(given, food)}.",
           f"{hero} gave {friend} {t.number(given)} of {his} {plural(food)}.")
    if t.chance(0.6):
        thanks(t, friend)
    t.tell(f"now {hero} had {t.count(left, food)} left.",
           f"then {hero} had {t.count(left, food)} left, and {friend} had {t.number(given)}.")
    if left == given and t.chance(0.8):
        t.tell("they both had the same number.")
    elif left > given and t.chance(0.4):
        t.tell(f"{hero} still had more than {friend}, but {friend} did not mind.")
    elif left < given and t.chance(0.6):
        t.tell(f"{he} had less than {friend} now, but {he} did not mind.")
    t.tell(f"they sat down and ate their {t.pick(lex.TASTY)} {plural(food)} together.",
           f"the two friends ate, talked and laughed {at(t.outdoors())}.")
    lesson(t, hero, "it is good to share", "sharing makes everyone happy",
           "food tastes better with a friend")
    return f"{hero} shares {his} {plural(food)} with {friend}, who is hungry."


def lost(t: Tale) -> str:
    """A dear thing is lost, looked for, and mostly found."""
    hero, friend = t.cast()
    he, his, him, color = hero.he, hero.his, hero.him, t.pick(lex.COLORS)
    thing, place = t.pick(lex.CLOTHES + lex.SMALL_TOYS), t.outdoors()
    dear, spots = f"{color} {thing}", t.rng.sample(lex.OUTDOOR_SPOTS, 3)
    ending = t.rng.choices(("friend", "self", "gone"), (6, 3, 2))[0]
    begin(t, hero, place=place)
    t.tell(f"{he} had {his} {dear} with {him}.", f"{he} was very proud of {his} new "
           f"{dear}.", f"{he} took {his} {t.pick(lex.LOOKS)} {dear} along.")
    t.tell(f"{he} ran and jumped and played for a long time.",
           f"{he} chased {his} shadow until {he} was tired.")
    t.tell(f"but when it was time to go home, the {thing} was gone.",
           f"then {he} saw that the {dear} was not there.")
    t.say(hero, t.pick((f"Oh no! Where is my {thing}?", f"I lost my {dear}!")),
          "cried")
    t.paragraph()
    t.tell(f"{hero} was so {t.sad()} that {he} began to cry.", f"{hero} {t.was()} very {t.sad()}.")
    t.tell(f"{he} looked {spots[0]} and {spots[1]}, but it was not there.",
           f"first {he} looked {spots[0]}. Then {he} looked {spots[1]}. There was no {thing}.")
    if ending == "gone":
        t.features.add("BadEnding")
        t.tell(f"{he} looked until it was dark, but {he} did not find it.",
               f"then it began to rain/v, and {he} had to go home.")
        t.tell(f"the {dear} was lost/a for good.", f"{hero} never saw {his} {dear} again.")
        t.tell(f"that night, {he} cried in {his} bed.", f"{he} went to bed {t.sad()}.")
        if t.chance():
            lesson(t, hero, "you must take care/n of your things")
        return f"{hero} loses {his} {dear} {at(place)} and does not find it again."
    if ending == "self":
        t.tell(f"at last, {he} looked {spots[2]}, and there it was!",
               f"then {he} saw something {color} {spots[2]}. It was {his} {thing}!")
        t.tell(f"{he} picked it up and held it tight/o.", f"{he} {t.was()} very {t.happy()} again.")
        lesson(t, hero, "you find things when you do not give up",
               "you must take care/n of your things")
        return f"{hero} loses {his} {dear} {at(place)} and finds it {spots[2]}."
    t.tell(f"{a(friend.kind)} named {friend} was walking by with something {color} in "
           f"{friend.his} hand.", f"just then, {a(friend.kind)} called {friend} came up to {him}.")
    t.say(friend, t.pick((f"I found this {thing} {spots[2]}. Is it yours?",
                          f"Is this your {thing}? It was {spots[2]}.")), "asked",
          told=f"{friend} had found it {spots[2]}.")
    t.say(hero, t.pick((f"Yes, that is my {thing}!", "Yes, it is mine!")))
    t.tell(f"{friend} gave the {dear} back to {hero}.", f"{friend} smiled and gave it back.")
    t.tell(f"{hero} was not {t.sad()} any more. {he.title()} thanked {friend} and hugged "
           f"{friend.him}.", f"{hero} {t.was()} {t.happy()} and thanked {friend}.")
    t.tell("after that, they became good friends.", f"{hero} and {friend} walked home together.")
    return f"{hero} loses {his} {dear}, and {friend} finds it and gives it back."


def weather(t: Tale) -> str:
    """What to wear follows from the weather."""
    hero, friend = t.cast(fable=0.15)
    he, his, him = hero.he, hero.his, hero.him
    kind = t.pick(tuple(lex.WEATHER))
    sky, clothes, suffers, bad, good = lex.WEATHER[kind]
    thing = f"{t.pick(lex.COLORS)} {t.pick(clothes)}"
    short, listens, place = thing.split()[1], t.chance(0.4), t.outdoors()
    begin(t, hero, traits=lex.TRAITS if listens else lex.WILD_TRAITS)
    t.paragraph()
    t.tell(f"one/o {kind} day, {hero} wanted to go to the {place}.",
           f"it was a {kind} morning, and {sky}. {hero} wanted to play {at(place)}.")
    t.say(f"{his} {t.elder}", t.pick((f"It is {kind} today. Take your {short}.",
                                      f"Please do not go out without your {thing}.",
                                      f"Do not forget your {short}. It is {kind} outside.")),
          "said",
          told=f"{his} {t.elder} told {him} to take {his} {short}.")
    if listens:
        t.tell(f"{hero} nodded and took {his} {thing}.", f"{hero} put on {his} {thing}." if
               short != "umbrella" else f"{hero} picked up {his} {thing}.")
        t.tell(f"then {he} went out, and {he} {good}.", f"{at(place)}, {he} {good} all day.")
        meet(t, hero, friend)
        t.tell(f"{friend} had no {short}, and {friend.he} {suffers}.",
               f"{friend} {bad} because {friend.he} had no {short}.")
        t.say(hero, f"Come here. We can share my {short}." if short in ("umbrella", "coat")
              else f"I am fine now. You can have my {short} for a while.",
              told=f"{hero} let {friend} have the {short} for a while.")
        t.tell(f"soon {friend} felt better and smiled.", f"{friend} felt much better then.")
        lesson(t, hero, "it is wise to listen", f"{a(short)} is good on a {kind} day",
               "a good friend helps")
        return f"{hero} takes {his} {thing} on a {kind} day and helps {friend}."
    t.features |= {"Foreshadowing", "Conflict"}
    t.say(hero, t.pick((f"I do not need {a(short)}!", f"No, I do not like my {short}.",
                        f"I am big. I don't need my {short}.")), "said",
          told=f"{hero} did not want to take {his} {short}.")
    t.tell(f"{he} ran out of the door and left the {short} at home.",
           f"{he} left the {thing} on the chair and went out.")
    t.tell(f"at first, {he} had fun with {his} friend {friend}. They played a game.",
           f"{at(place)}, {he} met {his} friend {friend}, and they began to play.")
    t.tell(f"but soon {hero} {suffers}.", f"after a short time, {hero} {suffers}.")
    t.tell(f"{friend} had {a(short)}, so {friend.he} {good}.",
           f"{friend} {good}, because {friend.he} had {a(short)}.")
    t.tell(f"{hero} ran home to {his} {t.elder}.", f"{hero} {bad} and went home.")
    t.say(hero, t.pick(("You were right.", "I am sorry. Now I know why.")), "said")
    t.tell(f"the next day was {kind} again, and {hero} took {his} {short}. This time {he} {good}.",
           f"{he} took {his} {thing}, went out again, and {good}.")
    lesson(t, hero, f"it is good to listen to {his} {t.elder}",
           f"{a(short)} helps on a {kind} day")
    return f"{hero} goes out on a {kind} day without {his} {short} and learns to listen."


def watching(t: Tale) -> str:
    """Two kinds of animals are seen and counted; some of them leave."""
    hero, _ = t.cast()
    he, elder = hero.he, t.elder
    place, n, m = t.outdoors(), t.between(2, 9), t.between(2, 6)
    water, gone = place in ("lake", "river"), t.between(1, n - 1)
    seen = [kind for kind, (doing, _) in lex.SIGHTS.items() if water or "water" not in doing]
    one, two = t.rng.sample(seen, 2)
    begin(t, hero, place=place)
    t.tell(f"{he} saw {t.count(n, one)}. They were {lex.SIGHTS[one][0]}.")
    if t.chance():
        count_them(t, hero, n)
    t.tell(f"then {he} saw {t.count(m, two)}, too. They were {lex.SIGHTS[two][0]}.")
    total = t.gain(place, n, "animal") + m
    t.gain(place, m, "animal")
    said = t.chance(0.6)
    if said:
        t.say(f"{hero.his} {elder}", "How many animals are there?")
        t.say(hero, f"{t.capital(n)} {plural(one)} and {t.count(m, two)}. "
              f"There are {t.number(total)} in all.", "said")
        t.say(f"{hero.his} {elder}", t.pick(("Well/o done!", "You are so smart!",
                                                   "Yes, that is right!")), "said")
    if n == m:
        t.tell(f"there were as many {plural(one)} as {plural(two)}.")
    else:
        more, fewer = (one, two) if n > m else (two, one)
        apart = f"{t.number(abs(n - m))} " if abs(n - m) > 1 and t.chance() else ""
        t.tell(f"there were {apart}more {plural(more)} than {plural(fewer)}.")
    t.paragraph()
    t.tell("suddenly, there was a loud noise.",
           f"then a {t.pick(lex.SIZES[:2])} dog began to bark.",
           "a big black cloud came, and it began to rain/v.")
    left = t.lose(place, gone, "animal") - m
    t.tell(f"{t.number(gone)} of the {plural(one)} {lex.SIGHTS[one][1]}.")
    t.tell(f"now there {'was' if left == 1 else 'were'} only {t.count(left, one)} left.",
           f"{he} counted again. There {'was' if left == 1 else 'were'} {t.count(left, one)} left.")
    t.say(hero, t.pick(("Goodbye! Come back soon!", "Bye, little friends!", "Do not be afraid!")),
          "called")
    t.tell(f"at home, {he} drew {a(one)} and {a(two)}.", f"{he} went home and told {hero.his} "
           "friends all about it.", f"that night, {he} had a dream about {plural(one)}.")
    return f"{hero} counts {plural(one)} and {plural(two)} {at(place)}."


def tower(t: Tale) -> str:
    """A tower of blocks grows and falls."""
    hero, friend = t.cast()
    he, his, pick = hero.he, hero.his, t.pick
    first, more = t.between(3, 8), t.between(2, 5)
    things = pick(("block", "box", "cup", "brick"))
    begin(t, hero)
    t.paragraph()
    t.tell(f"{t.once()}, {hero} built a tower of {pick(lex.COLORS)} {plural(things)}.",
           f"{t.once()}, {hero} wanted to build the tallest tower of {plural(things)} in "
           "the world.")
    t.gain("tower", first, things)
    t.tell(f"{he} put one/o {things} on top of the other and counted, \"{t.aloud(first)}!\"")
    t.tell(f"the tower had {t.count(first, things)} now.")
    t.tell(f"then {friend} came with {t.number(more)} more {plural(things)}.")
    height = t.gain("tower", more, things)
    t.tell(f"they put them on top. Now the tower had {t.count(height, things)} in all.")
    t.tell("it was very tall.", "it was taller than a chair.", "it began to wobble a little/o.")
    t.paragraph()
    t.features.add("Conflict")
    pet = f"{pick(lex.FUR_COLORS)} {pick(lex.FURRY_PETS)}"
    falls = t.lose("tower", t.between(1, height), things)
    cause = pick((f"{his} {pet} ran past/o and bumped into it.", f"{friend} sneezed very hard/o.",
                  "a strong wind came in through the window."))
    t.tell(f"but then {cause}", f"suddenly, {cause}")
    if falls == 0:
        t.tell("crash/o! The whole tower fell down.",
               f"boom/o! All the {plural(things)} fell.")
    else:
        t.tell(f"crash/o! {t.capital(height - falls)} of the {plural(things)} fell down, "
               f"and the tower had only {t.number(falls)} left.")
    t.tell(f"{hero} {t.was()} {t.sad()}.", f"{hero} wanted to cry.")
    t.say(friend, pick(("Do not be sad. We can build it again.", "Don't cry. Let's try again!",
                        "Let's build a better one!")), "said",
          told=f"{friend} wanted to try again.")
    t.tell("they worked slowly and with care/n. This time the tower did not fall.",
           f"they built it again, and this time it was strong. It had all "
           f"{t.count(height, things)}.")
    t.tell(f"{hero} and {friend} were very {t.happy()}.", "they clapped their hands and danced.")
    lesson(t, hero, "you can always try again", "it is easier with a friend")
    return f"{hero} builds a tower with {friend}; it falls, and they build it again."


def broken(t: Tale) -> str:
    """Something breaks; to tell or not to tell."""
    hero, _ = t.cast()
    he, his, elder, pick = hero.he, hero.his, t.elder, t.pick
    thing, toy = f"{pick(lex.COLORS)} {pick(lex.BREAKABLE)}", pick(lex.SMALL_TOYS)
    short, honest, pieces = thing.split()[1], t.chance(), t.between(2, 9)
    begin(t, hero, traits=lex.WILD_TRAITS)
    t.paragraph()
    if t.chance(0.6):
        t.features.add("Foreshadowing")
        t.tell(f"{his} {elder} did not want {hero} to run in the house.",
               f"{his} {elder} often told {hero} not to play in the house.")
    t.tell(f"{t.once()}, {hero} was playing with {his} {toy} in the house.",
           f"{t.once()}, {hero} ran through the house with {his} {toy}.")
    t.tell(f"{he} bumped into a table, and {his} {elder}'s {thing} fell down.",
           f"the {toy} hit {his} {elder}'s {thing}, and it fell on the floor.")
    t.tell(f"crash/o! The {short} broke into {t.count(pieces, 'piece')}.",
           f"now the {thing} was in {t.count(pieces, 'piece')}.")
    t.tell(f"{hero} was scared.", f"{hero} did not know what to do.", f"{he} felt cold and hot.")
    t.paragraph()
    t.features.add("Conflict")
    if honest:
        t.tell(f"{he} wanted to hide, but then {he} went to {his} {elder}.",
               f"{he} took a deep breath and went to find {his} {elder}.")
        t.say(hero, f"I broke your {short}. I am very sorry.", "said",
              told=f"{he} told {his} {elder} about the {short}.")
        t.tell(f"{his} {elder} looked at the pieces and then at {hero}.")
        t.say(f"{his} {elder}", pick(("Thank you for telling me the truth.",
                                     "I am not angry, because you told me the truth.")), "said",
              told=f"{his} {elder} was not angry.")
        t.tell(f"they swept up the pieces with a broom. {hero} felt light and {t.happy()}.",
               "together they put the pieces back with glue. It took a long time, but it held.")
        lesson(t, hero, "it is best to tell the truth", "telling the truth is brave")
        return f"{hero} breaks {a(short)} and tells {his} {elder} the truth."
    t.tell(f"{he} hid the pieces {pick(lex.INDOOR_SPOTS)}.")
    t.say(f"{his} {elder}", f"Where is my {short}?",
          told=f"soon {his} {elder} came and looked for the {short}.")
    t.say(hero, pick(("I do not know.", f"Maybe the {pick(lex.FURRY_PETS)} took it.")), "said",
          told=f"{hero} said that {he} knew nothing about it.")
    t.tell(f"but that night, {hero} could not sleep.", f"all day, {hero} felt bad.")
    t.tell(f"at last, {he} went to {his} {elder} and told the truth.",
           f"then {his} {elder} found the pieces, and {hero} had to tell the truth.")
    t.say(f"{his} {elder}", pick((f"I am sad about the {short}, but I am more sad that you lied.",
                                  "You must not lie/v to me.")), "said",
          told=f"{his} {elder} was sad, because {hero} had lied.")
    t.tell(f"{hero} said sorry and cleaned the floor.", f"{hero} cried and said sorry.")
    lesson(t, hero, "a lie makes things worse", "it is better to tell the truth right away/o")
    return f"{hero} breaks {a(short)}, lies about it and is sorry in the end."


def night_noise(t: Tale) -> str:
    """A scary noise turns out to be a small animal."""
    hero, friend = t.cast()
    he, his, pick = hero.he, hero.his, t.pick
    small = pick(("bird", "cat", "frog", "hedgehog", "kitten", "mouse", "owl", "puppy", "squirrel"))
    noise, says = pick((("scratch", "scratched"), ("knock", "knocked"), ("squeak", "squeaked")))
    spot, times = pick(lex.INDOOR_SPOTS), t.between(2, 6)
    begin(t, hero)
    t.paragraph()
    t.tell(f"one/o {pick(('dark', 'stormy', 'windy', 'cold'))} night, {hero} was in bed when {he} "
           f"heard a {pick(('strange', 'scary', 'loud', 'funny'))} noise.",
           f"one/o night, {hero} woke up because something made a noise {spot}.")
    t.tell(f"something {says} {t.count(times, 'time')}.")
    t.say(hero, pick(("Who is there?", "Is that a monster?", "What is that?")), "whispered")
    t.tell("no one/o answered.", f"{he} pulled the blanket over {his} head.")
    t.tell(f"{hero} was very scared.", f"{his} heart beat fast/o.")
    t.paragraph()
    t.features |= {"Twist"}
    with_elder = t.chance()
    if with_elder:
        t.tell(f"{he} ran to {his} {t.elder}.", f"{he} called {his} {t.elder}.")
        t.say(f"{his} {t.elder}", pick(("Let us look together.", "Come, take my hand.")), "said")
        t.tell(f"they took a {pick(('flashlight', 'lantern'))} and looked {spot}.")
    else:
        t.say(hero, pick(("I am brave.", "I want to know what it is.")), "said")
        t.tell(f"{he} took a {pick(('flashlight', 'lantern'))} and looked {spot}.")
    t.tell(f"it was not a monster at all. It was a {pick(('little', 'small', 'tiny'))} {small}!",
           f"there sat a {pick(('wet', 'scared', 'little'))} {small} with big eyes!")
    t.tell(f"the {small} was more afraid than {hero}.", f"the {small} was cold and hungry.")
    t.tell(f"{hero} gave it something to eat and a warm place to sleep.",
           f"{hero} laughed and {pick(('petted it', 'put it in a warm box'))}.")
    if small in lex.FURRY_PETS:
        t.tell(f"{he} kept the {small} and named it {friend}.", f"the {small} slept on {his} bed.")
    else:
        t.tell(f"in the morning, {he} took the {small} outside, and it was free.",
               f"the next day, {he} let it go in the garden.")
    if t.chance(0.7):
        lesson(t, hero, "things are not so scary when you look at them",
               "it is good to be brave")
    return f"{hero} hears a scary noise at night, but it is only {a(small)}."


def shopping(t: Tale) -> str:
    """Coins, a price, and what is left; or work to earn what is missing."""
    hero, _ = t.cast()
    he, his, him, pick = hero.he, hero.his, hero.him, t.pick
    thing = f"{pick(lex.COLORS)} {pick(lex.GIFTS + lex.SMALL_TOYS)}"
    short, price, enough = thing.split()[1], t.between(3, 12), t.chance(0.55)
    keeper = f"{pick(('Mr', 'Mrs'))}. {pick(lex.SURNAMES)}"
    shop = pick(("toy shop", "little shop", "corner shop", "market"))
    had = price + t.between(1, 8) if enough else price - t.between(1, price - 1)
    begin(t, hero)
    t.paragraph()
    t.gain(hero, had, "coin")
    t.tell(f"{t.once()}, {hero} opened {his} {pick(lex.HOLDERS)} of money. {he.title()} had "
           f"{t.count(had, 'coin')}.", f"{t.once()}, {hero} had {t.count(had, 'coin')} in {his} "
           "pocket.")
    t.tell(f"{he} went to the {shop} and saw {a(thing)}.", f"at the {shop}, {he} saw {a(thing)}.")
    t.say(hero, f"How much is the {short}?", "asked")
    t.say(keeper, f"It costs {t.count(price, 'coin')}.", "said",
          told=f"it cost {t.count(price, 'coin')}.")
    t.paragraph()
    if not enough:
        missing = price - had
        t.features.add("Conflict")
        t.tell(f"{hero} {t.was()} {t.sad()}. {he.title()} needed {t.number(missing)} more "
               f"{'coin' if missing == 1 else 'coins'}.")
        work = pick(("wash the windows", "sweep the floor", "carry the boxes", "water/v the plants",
                     "feed the hens", "clean/v the shelf"))
        t.say(keeper, f"You can {work} for me. Then I will pay you.", "said",
              told=f"but {keeper} let {him} {work} for money.")
        t.tell(f"{hero} worked hard/o all {pick(('morning', 'afternoon', 'day'))}.")
        t.tell(f"{keeper} gave {him} {t.number(missing)} more "
               f"{'coin' if missing == 1 else 'coins'}.")
        had = t.gain(hero, missing, "coin")
        t.tell(f"now {he} had {t.count(had, 'coin')}.", f"that made {t.count(had, 'coin')} in all.")
        t.tell("it was just enough!")
    left = t.lose(hero, price, "coin")
    t.tell(f"{he} gave {keeper} {t.count(price, 'coin')} and took the {short}.",
           f"{he} gave {t.count(price, 'coin')} to {keeper}.")
    t.tell(f"now {he} had {t.count(left, 'coin')} left." if left else f"{he} had no coins left.")
    t.tell(f"{he} ran home with {his} {pick(('new', 'beautiful'))} {short}.",
           f"{he} carried the {short} home with a big smile/n.")
    if not enough:
        lesson(t, hero, "work/n makes a thing dear", "you can get what you want if you work for it")
        return f"{hero} works to buy {a(thing)}."
    t.tell(f"{he} gave it to {his} {t.elder}, who was very {t.happy()}.",
           f"{his} {t.elder} liked it, too.", f"{he} put it next to {his} bed.")
    return f"{hero} buys {a(thing)} with {his} coins."


def baking(t: Tale) -> str:
    """A batch is baked; some are eaten, some are kept, or all are gone."""
    hero, friend = t.cast()
    he, his, elder, pick = hero.he, hero.his, t.elder, t.pick
    food, made, eggs = pick(lex.BAKED), t.between(6, 20), t.between(2, 4)
    greedy = t.chance(0.35)
    begin(t, hero, traits=lex.WILD_TRAITS if greedy else lex.TRAITS, likes=plural(food))
    t.paragraph()
    t.tell(f"{t.once()}, {hero} helped {his} {elder} bake {plural(food)}.",
           f"{t.once()}, {hero} and {his} {elder} baked {plural(food)} in the kitchen.")
    t.tell(f"they mixed flour, sugar, milk and {t.count(eggs, 'egg')}.",
           f"{hero} put {t.count(eggs, 'egg')} and a cup of milk in a bowl.")
    minutes = t.between(2, 8) * 5
    t.tell(f"then they waited for {t.number(minutes)} minutes.",
           f"the {plural(food)} had to stay in the oven for {t.number(minutes)} minutes.")
    t.gain(hero, made, food)
    t.tell(f"when they were done, {hero} counted them. They had {t.count(made, food)}.")
    t.paragraph()
    if greedy:
        t.features |= {"Foreshadowing", "BadEnding"}
        t.say(f"{his} {elder}", "Do not eat too many, or your tummy will hurt.", "said",
              told=f"{his} {elder} told {hero} not to eat too many.")
        t.tell(f"but when {his} {elder} went out, {hero} ate one. It was so {pick(lex.TASTY)}!")
        t.lose(hero, 1, food)
        eaten = t.between(4, made - 1)
        left = t.lose(hero, eaten - 1, food)
        t.tell(f"{he} could not stop. {he.title()} ate {t.number(eaten - 1)} more.")
        t.tell(f"of {t.number(made)} {plural(food)}, only {t.number(left)} "
               f"{'was' if left == 1 else 'were'} left." if left else "not one/o was left.")
        t.tell(f"soon {his} tummy hurt very much.", f"then {he} felt sick and had to lie/v down.")
        t.say(hero, pick(("Ow! I ate too much.", "My tummy hurts!")), "cried")
        t.tell(f"{he} had to stay in bed all day and could not play.",
               f"{he} had no dinner and no story that night.")
        lesson(t, hero, "it is not good to be greedy", "too much of a good thing is bad")
        return f"{hero} eats too many {plural(food)} and feels sick."
    eaten = t.between(1, 4)
    t.tell(f"{hero} ate {t.count(eaten, food)}. {'It was' if eaten == 1 else 'They were'} "
           f"{pick(('warm', 'hot'))} and {pick(lex.TASTY)}.")
    left = t.lose(hero, eaten, food)
    t.tell(f"that left {t.count(left, food)}.", f"now there {'was' if left == 1 else 'were'} "
           f"{t.count(left, food)} left.")
    given = t.between(1, left - 1)
    t.tell(f"{hero} took {t.number(given)} of them to {friend}, who was sick in bed.",
           f"{he} gave {t.number(given)} of them to {friend}, who lived next door.")
    thanks(t, friend)
    rest = t.give(hero, friend, given, food)
    t.tell(f"the last {t.number(rest)} {'was' if rest == 1 else 'were'} for {his} {elder}."
           if rest < 9 else f"that left {t.count(rest, food)} for the family.")
    t.tell(f"{hero} {t.was()} {t.happy()}.", f"{hero} went home with a warm heart.")
    return f"{hero} bakes {plural(food)} with {his} {elder} and shares them with {friend}."


def planting(t: Tale) -> str:
    """Seeds need water and time."""
    hero, friend = t.cast(fable=0.2)
    he, his, pick = hero.he, hero.his, t.pick
    plant = pick(lex.FLOWERS + lex.VEGETABLES)
    flower, seeds, days = plant in lex.FLOWERS, t.between(3, 9), t.between(4, 20)
    dead = t.between(0, 2)
    begin(t, hero, likes=plural(plant))
    t.paragraph()
    t.tell(f"{t.once()}, {hero} got a small bag of seeds. {he.title()} had "
           f"{t.count(seeds, 'seed')}.",
           f"{t.once()}, {his} {t.elder} gave {hero.him} {t.count(seeds, 'seed')}.")
    t.gain(hero, seeds, "seed")
    t.tell(f"{he} dug {t.count(seeds, 'hole')} and put one seed in each hole.",
           f"{he} put all of them into the {pick(('soft', 'dark', 'wet'))} soil.")
    t.say(hero, pick((f"Grow, little {plural(plant)}!", "Now you must drink.")), "said")
    t.tell("the next day, there was nothing to see.", f"{he} looked every morning, but the ground "
           "was empty.")
    if t.chance():
        t.features.add("Conflict")
        t.say(f"{his} friend {friend}", pick(("Nothing will grow there.", "I think your seeds are "
                                              "bad.")), "said",
              told=f"{his} friend {friend} thought that nothing would grow.")
        t.tell(f"{hero} was {t.sad()}, but {he} did not give up.")
    t.paragraph()
    t.tell(f"{he} watered the seeds every day and waited.", f"every day, {he} gave them water.")
    up = t.lose(hero, dead, "seed")
    t.tell(f"after {t.number(days)} days, {he} saw {t.number(up)} green "
           f"{'sprout' if up == 1 else 'sprouts'}." if dead else
           f"after {t.number(days)} days, there was a green sprout for every seed.")
    if dead:
        t.tell(f"{t.count(dead, 'seed')} did not grow, but {up} did." if t.digit_share == 1 else
               f"{number_word(dead)} of the seeds did not grow, but {number_word(up)} did.")
    if flower:
        t.tell(f"in the summer, {he} had {t.count(up, f'{pick(lex.FLOWER_COLORS)} {plant}')}.")
        t.tell(f"{he} gave one to {his} {t.elder}.", f"{plural(pick(('bee', 'butterfly')))} came "
               "to visit them.")
    else:
        t.tell(f"in the summer, {he} had a basket full of {pick(lex.SIZES[:3])} {plural(plant)}.")
        t.tell(f"{his} {t.elder} made a {pick(lex.TASTY)} soup with them.",
               f"{he} shared them with {friend}.")
    lesson(t, hero, "good things take time", "you must be patient",
           "a plant needs water, sun and time")
    return f"{hero} plants seeds and waits until the {plural(plant)} grow."


def rescue(t: Tale) -> str:
    """An animal in need is helped, and helps in its turn."""
    hero, _ = t.cast(fable=0.3)
    he, his, him, pick = hero.he, hero.his, hero.him, t.pick
    animal = pick([kind for kind in lex.FOREST_ANIMALS if kind != hero.kind])
    trouble, tool, helps = pick((
        ("was stuck in a net", "teeth" if t.fable else "scissors", "cut the net"),
        ("had a thorn in its foot", "fingers" if not t.fable else "teeth", "pulled the thorn out"),
        ("was stuck under a heavy branch", "stick", "lifted the branch"),
        ("had fallen into a deep hole", "rope", "pulled it out of the hole"),
        ("was stuck in the thick mud", "branch", "pulled it out of the mud"),
    ))
    place = t.pick(("forest", "meadow", "field"))
    begin(t, hero, place=place)
    t.tell(f"{he} heard a small cry/n near a {pick(('tree', 'bush', 'rock'))}.",
           "suddenly, there was a sad sound.")
    t.tell(f"it was {a(f'{pick(lex.SIZES[3:])} {animal}')}. It {trouble}.")
    if t.chance(0.7):
        t.say(f"the {animal}", pick(("Please help me!", "Help! I cannot get out!"))
              if "stuck" in trouble or "hole" in trouble else "Ow! Please help me!", "cried")
    t.tell(f"{hero} felt sorry for the {animal}.", f"{hero} wanted to help at once/o.")
    t.say(hero, pick(("Do not be afraid. I will help you.", "Hold still/o. I can help.")), "said")
    t.tell(f"with {a(tool) if tool in ('stick', 'rope', 'branch') else f'{his} {tool}'}, {he} "
           f"{helps}.")
    t.tell(f"the {animal} was free." if "thorn" not in trouble else "soon the foot was better.",
           f"the {animal} was very thankful.")
    t.paragraph()
    days = t.between(2, 9)
    t.tell(f"{t.number(days)} days later/o, {hero} was lost/a in the forest. {he.title()} did not "
           f"know the way home.", f"{t.number(days)} days later/o, it got dark in the forest, and "
           f"{hero} could not find the way home.")
    t.features.add("Conflict")
    t.tell(f"then the {animal} came. It knew {him} at once/o.",
           f"who came there? It was the {animal}!")
    t.say(f"the {animal}", pick(("You helped me. Now I will help you.",
                                  "Come with me, my friend.")), "said")
    t.tell(f"it led {hero} home.", f"the {animal} showed {him} the way, and soon {he} was home.")
    t.tell(f"{hero} and the {animal} were friends from then on.", f"{hero} thanked the {animal} "
           "and waved.")
    lesson(t, hero, "when you help others, they will help you", "it is good to be kind to animals"
           if not t.fable else "it is good to be kind", "a small friend can be a big help/n")
    return f"{hero} helps {a(animal)} that {trouble}, and later it helps {him}."


def birthday(t: Tale) -> str:
    """One year older: candles, guests and balloons."""
    hero, friend = t.cast()
    he, his, pick = hero.he, hero.his, t.pick
    age, balloons = t.between(3, 8), t.between(4, 12)
    popped, gift = t.between(1, 3), f"{pick(lex.COLORS)} {pick(lex.GIFTS + lex.SMALL_TOYS)}"
    old = t.between(55, 90) if "grand" in t.elder.name else t.between(26, 45)
    begin(t, hero, aged=False)
    t.paragraph()
    t.tell(f"yesterday, {he} was {t.number(age)} years old. Today was {his} birthday, and now {he} "
           f"was {t.number(age + 1)}.",
           f"it was {his} birthday. Before that day, {he} was {t.number(age)}. Now {he} was "
           f"{t.number(age + 1)}.")
    t.tell(f"{his} {t.elder} put {t.number(age + 1)} candles on the cake.",
           f"there was a big cake with {t.number(age + 1)} candles.")
    if t.chance(0.4):
        t.say(hero, f"How old are you, {t.elder.name.title()}?", "asked")
        t.say(f"{his} {t.elder}", f"I am {t.number(old)}. That is a lot of candles!", "said")
    t.gain(hero, balloons, "balloon")
    t.tell(f"in the room, there were {t.count(balloons, f'{pick(lex.COLORS)} balloon')}.")
    t.tell(f"{friend} came and brought a gift in a box.",
           f"{friend} came to the party with a gift in a big box.")
    t.paragraph()
    if t.chance(0.6):
        t.features.add("Conflict")
        left = t.lose(hero, popped, "balloon")
        t.tell(f"pop/o! {t.capital(popped)} of the balloons broke, and {friend} cried.")
        t.say(hero, f"Do not cry. We still have {t.count(left, 'balloon')} left.", "said",
              told=f"but {hero} still had {t.count(left, 'balloon')} left.")
    t.tell(f"then {hero} opened the gift. It was {a(gift)}!",
           f"inside the box, there was {a(gift)}.")
    t.say(hero, pick(("This is just what I wanted!", "I love it!", "Thank you! It is so pretty!")))
    t.tell(f"{he} closed {his} eyes, made a wish/n and blew out all {t.number(age + 1)} candles.",
           f"{he} blew hard/o, and all {t.number(age + 1)} candles went out.")
    t.tell("everyone clapped and sang.", f"then they all ate cake and danced. {hero} "
           f"{t.was()} very {t.happy()}.")
    return f"{hero} turns {number_word(age + 1)} and has a party with {friend}."


def swap(t: Tale) -> str:
    """Two collectors trade, and both have what they want."""
    hero, friend = t.cast(fable=0.2)
    pick = t.pick
    mine, yours = t.rng.sample(lex.FINDS if t.fable else lex.SWAPS, 2)
    n, m = t.between(3, 9), t.between(3, 9)
    k, j = t.between(1, n - 1), t.between(1, m - 1)
    begin_pair(t, hero, friend)
    t.paragraph()
    t.gain(hero, n, mine)
    t.gain(friend, m, yours)
    t.tell(f"{hero} had {t.count(n, mine)}. {friend} had {t.count(m, yours)}.",
           f"{hero} had {t.count(n, mine)}, and {friend} had {t.count(m, yours)}.")
    t.tell(f"{t.once()}, they met {at(t.outdoors())}.", f"{t.once()}, they sat in the grass and "
           f"looked at their things.")
    t.say(hero, pick((f"I like your {plural(yours)}. Can we trade/v?",
                      f"I have no {plural(yours)}. Do you want to swap?")),
          told=f"{hero} liked the {plural(yours)} and wanted to trade/v.")
    if t.chance(0.4):
        t.features.add("Conflict")
        t.say(friend, pick(("No, I want to keep them all.", "I am not sure.")), "said",
              told=f"at first, {friend} did not want to trade/v.")
        t.tell(f"{hero} was a little/o {t.sad()}.")
        t.tell(f"but then {friend} looked at the {plural(mine)}. They were so {pick(lex.LOOKS)}.")
    t.say(friend, f"I will give you {t.count(j, yours)} for {t.count(k, mine)}.", "said",
          told=f"{friend} wanted to give {t.count(j, yours)} for {t.count(k, mine)}.")
    t.say(hero, pick(("That is fair.", "Yes, let us do that.", "Good idea!")), "said",
          told=f"{hero} said yes.")
    t.paragraph()
    left = t.give(hero, friend, k, mine)
    t.tell(f"{hero} gave {friend} {t.count(k, mine)}. Now {hero} had {t.count(left, mine)} left.")
    left = t.give(friend, hero, j, yours)
    t.tell(f"then {friend} gave {hero} {t.count(j, yours)}. Now {friend} had "
           f"{t.count(left, yours)} left.")
    t.tell("both of them were happy with the trade.", f"they were both {t.happy()}.")
    t.tell(f"they played with the {plural(mine)} and the {plural(yours)} until dinner.",
           "they put their treasures into two little boxes.")
    if t.chance():
        lesson(t, pick((hero, friend)), "a fair trade is good for both", "it is good to share")
    return f"{hero} and {friend} trade {plural(mine)} for {plural(yours)}."


def new_friend(t: Tale) -> str:
    """Someone is alone, and someone else asks."""
    hero, friend = t.cast(fable=0.3)
    he, his, him, pick = hero.he, hero.his, hero.him, t.pick
    place = t.outdoors() if t.fable else pick(("playground", "park", "school", "beach"))
    others, game = t.between(3, 8), pick(("tag", "hide-and-seek", "catch"))
    begin(t, hero, place=place, traits="calm gentle kind quiet shy small smart sweet young".split())
    t.tell(f"{t.number(others)} other {'animals' if t.fable else 'children'} were playing "
           f"{game} there.", f"there {he} saw {t.number(others)} "
           f"{'animals' if t.fable else 'children'}. They were playing {game}.")
    t.tell(f"{hero} was new and did not know anyone.", f"no one/o asked {hero} to play.")
    t.tell(f"{he} sat down {pick(lex.OUTDOOR_SPOTS)}, all alone.", f"{he} stood alone and "
           "looked at them.")
    t.tell(f"{he} felt {pick(('lonely', 'sad', 'very lonely'))}.")
    t.paragraph()
    if t.chance(0.4):
        t.features.add("Conflict")
        t.tell(f"one/o of them laughed at {him}.")
        t.say(f"the {pick(('biggest', 'tallest', 'loudest'))} one/o",
              pick(("You are too small!", "You cannot play with us!")), "said")
    t.tell(f"then {friend}, {a(f'{pick(lex.TRAITS)} {friend.kind}')}, came up to {him}.")
    t.say(friend, pick(("Do you want to play with us?", "Why are you alone? Come and play!",
                        f"Hello! I am {friend}. What is your name?")),
          told=f"{friend} asked {him} to play with them.")
    t.say(hero, pick((f"I am {hero}. I would love to play.", f"Yes, please! My name is {hero}.")),
          "said")
    t.tell(f"now there were {t.number(others + 1)} of them in the game." if t.chance(0.6) else
           f"{friend} took {his} hand, and they ran to the others.")
    t.tell(f"{hero} ran fast/o and laughed out loud.", f"{hero} was very good at {game}.",
           "they played until the sun went down.")
    t.tell(f"when it was time to go, {hero} was not lonely any more.", f"{hero} and {friend} "
           "became best friends.")
    lesson(t, pick((friend, "everyone")), "a kind word can make a friend",
           "it is nice to let others play")
    return f"{hero} is lonely {at(place)} until {friend} asks {him} to play."


def warning(t: Tale) -> str:
    """A warning is not heard."""
    hero, _ = t.cast()
    he, his, him, elder, pick = hero.he, hero.his, hero.him, t.elder, t.pick
    rule, act, result, hurt, why = pick((
        ("Do not touch the stove.", "touched the stove", "burned his finger", "finger",
         "a stove is hot"),
        ("Do not climb on the wall.", "climbed on the wall", "fell down and hurt his knee", "knee",
         "a high wall is dangerous"),
        ("Do not run on the wet floor.", "ran over the wet floor", "slipped and hurt his arm",
         "arm", "a wet floor is slippery"),
        ("Do not go near the bees.", "poked the nest with a stick", "got a sting on his nose",
         "nose", "bees must be left alone"),
        ("Do not pull the cat's tail.", "pulled the cat's tail", "got a scratch on his hand",
         "hand", "animals do not like to be pulled"),
        ("Do not jump off the swing.", "jumped off the swing", "fell on his leg", "leg",
         "it is not safe to jump from a swing"),
        ("Do not play with the knife.", "took the knife", "cut his thumb", "thumb",
         "a knife is sharp"),
        ("Do not walk on the ice.", "walked on the ice", "fell through and got a wet foot", "foot",
         "thin ice breaks"),
    ))
    result, bad = result.replace("his", his), t.chance(0.3)
    begin(t, hero, traits=lex.WILD_TRAITS)
    t.paragraph()
    t.features |= {"Foreshadowing", "Conflict"}
    t.tell(f"{t.once()}, {hero} was at home with {his} {elder}." if "stove" in rule or "knife" in
           rule or "floor" in rule else f"{t.once()}, {hero} and {his} {elder} were outside."
           if "ice" not in rule else f"one/o cold day, {hero} and {his} {elder} went to the pond.")
    t.say(f"{his} {elder}", pick((rule, f"Be careful, {hero}. {rule}")), "said",
          told=f"{his} {elder} told {him} not to {rule[7:-1]}.")
    t.say(hero, pick(("Why not?", "Yes, I know.", "But it looks like fun!")))
    t.tell(f"for a while, {hero} was good.", f"then {his} {elder} turned around.",
           f"{hero} waited until {his} {elder} looked away.")
    t.tell(f"{hero} did not listen. {he.title()} {act}.", f"then {he} forgot the rule and "
           f"{act}.")
    t.tell(f"{he} {result}.")
    t.say(hero, pick(("Ow! It hurts!", "Ow, ow, ow!", "Oh no! Help!")), "cried")
    t.paragraph()
    days = t.between(2, 9)
    t.tell(f"{his} {elder} ran to {him} and put a bandage on {his} {hurt}." if hurt != "foot" else
           f"{his} {elder} wrapped {his} cold foot in a blanket.")
    if bad:
        t.features.add("BadEnding")
        t.tell(f"they had to go to the doctor. {hero} could not play for {t.number(days)} days.",
               f"it hurt for {t.number(days)} days, and {hero} had to stay in bed.")
    else:
        t.say(hero, pick(("I am sorry. I will listen next time.", "You told me, and I did not "
                          "listen.")), "said",
              told=f"{hero} said sorry.")
        t.tell(f"{his} {elder} hugged {him}. After {t.number(days)} days, the {hurt} was fine "
               "again.")
    lesson(t, hero, why, f"it is wise to listen to {his} {elder}")
    return f"{hero} does not listen to {his} {elder} and gets hurt/a."


def collecting(t: Tale) -> str:
    """A collection grows from day to day."""
    hero, friend = t.cast(fable=0.2)
    he, his, pick = hero.he, hero.his, t.pick
    thing, place = pick(lex.FINDS), t.outdoors()
    days = [t.between(1, 6) for _ in range(t.between(2, 3))]
    begin(t, hero, likes=plural(thing))
    t.paragraph()
    names = ["on Monday", "on Tuesday", "on Wednesday"]
    total = t.gain(hero, days[0], thing)
    kind = pick(("red", "white", "brown", "small", "big", "pretty"))
    t.tell(f"{names[0]}, {he} found {t.count(days[0], f'{kind} {thing}')} {at(place)}.")
    if days[0] > 2 and t.chance(0.4):
        count_them(t, hero, days[0])
    for name, more in zip(names[1:], days[1:], strict=False):
        total = t.gain(hero, more, thing)
        t.tell(f"{name}, {he} found {t.number(more)} more.")
        t.tell(f"now {he} had {t.count(total, thing)} in all.",
               f"that made {t.count(total, thing)} in all.")
    t.tell(f"{he} kept them in {a(f'{pick(lex.COLORS)} {pick(lex.HOLDERS)}')}.", f"{he} put them "
           f"in a row on the {pick(('shelf', 'table', 'floor'))}.")
    t.paragraph()
    if total > 2 and t.chance(0.6):
        meet(t, hero, friend)
        t.say(friend, pick((f"What nice {plural(thing)}!",
                            "I have none. Where did you find them?")))
        gift = t.between(1, total - 1)
        left = t.give(hero, friend, gift, thing)
        t.tell(f"{hero} gave {friend} {t.count(gift, thing)}.")
        t.tell(f"then {hero} had {t.count(left, thing)} left.")
        t.say(hero, pick(("Tomorrow we can look together.", "Let us find more together!")), "said")
        t.tell(f"{friend} was {t.happy()}, and {hero} was {t.happy()}, too.")
    else:
        t.tell(f"{his} {t.elder} looked at them and was very {t.happy()}.")
        t.say(f"{his} {t.elder}", pick(("You have good eyes!", f"What a lot of {plural(thing)}!")),
              "said")
        t.tell(f"{he} gave the prettiest one/o to {his} {t.elder}.") if t.chance(0.4) else None
    t.tell(f"{hero} went to sleep with a smile/n.", f"the next day, {hero} went out to "
           "look for more.")
    return f"{hero} collects {plural(thing)} and has more every day."


def turns(t: Tale) -> str:
    """Two want the same toy."""
    hero, friend = t.cast()
    pick = t.pick
    toy = pick(tuple(lex.TOYS))
    thing, act = f"{pick(lex.COLORS)} {toy}", lex.TOYS[toy]
    bad, minutes = t.chance(0.3), t.between(2, 10)
    begin_pair(t, hero, friend)
    t.paragraph()
    place = pick(("in the yard", "in the park", "at school", "in the garden", "at home"))
    t.tell(f"{t.once()}, they found {a(thing)} {place}.", f"{t.once()}, they were {place}. There "
           f"was only one {thing}.", f"{t.once()}, there was a new {thing} {place}.")
    t.features.add("Conflict")
    t.say(hero, f"I want to {act}/v it!" if act != "play" else "I want to play it!",
          told=f"they both wanted to {act}/v it.")
    t.say(friend, pick(("No, I saw it first!", "No, it is my turn!", "But I want it, too!")))
    t.tell(f"{hero} pulled, and {friend} pulled, too.", f"they both held the {toy} and did not "
           "let go.")
    t.paragraph()
    if bad:
        t.features.add("BadEnding")
        t.tell(f"snap/o! The {toy} broke in two pieces.", f"then the {toy} fell and broke.")
        t.tell(f"now no one/o could {act}/v it.", "now they had nothing to play with.")
        t.tell(f"{hero} cried, and {friend} cried, too.", f"{hero} and {friend} were very "
               f"{t.sad()}.")
        lesson(t, pick((hero, friend, "they")), "fighting breaks things",
               "it is better to share than to fight")
        return f"{hero} and {friend} fight about {a(thing)}, and it breaks."
    who = f"{pick((hero, friend))}'s {t.elder}"
    wise = t.chance(0.6)
    t.say(who if wise else hero, pick(("Stop! You can take turns.", "Let us take turns.") if wise
          else ("Wait. Let us take turns.", "I am sorry. You can go first.")), "said",
          told="then they agreed to take turns.")
    t.tell(f"so {friend} had the {toy} for {t.number(minutes)} minutes, and then {hero} had it for "
           f"{t.number(minutes)} minutes.",
           f"{friend} played with it first. After {t.number(minutes)} minutes, it was "
           f"{hero}'s turn.")
    t.tell(f"{hero} showed {friend} how to {act}/v it best/o.", f"it was fun to {act}/v the {toy} "
           "together.", "they laughed and had a lot of fun.")
    lesson(t, pick((f"{hero} and {friend}", "they")), "taking turns is fair",
           "a toy is more fun with a friend")
    return f"{hero} and {friend} want the same {toy} and learn to take turns."


def treasure(t: Tale) -> str:
    """A map with steps, and what lies at its end."""
    hero, friend = t.cast()
    pick = t.pick
    first, then, feet = t.between(2, 9) * 5, t.between(1, 8) * 5, t.between(2, 4)
    tree, rock = pick(("tall tree", "old tree", "tree with no leaves")), pick((
        "big rock", "gray wall", "wooden bridge", "old well/n"))
    real = t.chance(0.6)
    begin_pair(t, hero, friend)
    t.paragraph()
    t.tell(f"{t.once()}, they found an old map in "
           f"{pick(('a box', 'a book', 'a bottle', 'the attic'))}.",
           f"{t.once()}, {hero}'s {t.elder} gave them an old map.")
    t.say(hero, pick(("It shows the way to a treasure!", "Look! A treasure map!")),
          told="it was a treasure map.")
    t.tell(f"it said to go {t.number(first)} steps from the gate to the {tree}.",
           f"first they had to walk {t.number(first)} steps to the {tree}.")
    t.tell(f"after that, they had to go {t.number(then)} steps to the {rock}.")
    steps = first + then
    t.tell(f"{friend} counted every step. They made {t.number(steps)} steps in all.",
           f"that was {t.number(steps)} steps in all.")
    t.tell(f"there they dug with {pick(('a spade', 'a shovel', 'two spoons'))} until the hole was "
           f"{t.number(feet)} feet deep.", "there they began to dig.")
    t.paragraph()
    t.tell(f"at last, they hit something hard. It was {a(pick(('old', 'big', 'small')))} "
           f"{pick(('chest', 'box', 'pot'))}!")
    t.say(friend, pick(("Open/v it!", "Is it gold?", "We are rich!")))
    coins = t.between(2, 8) * 2
    if real:
        t.tell(f"inside, there were {t.count(coins, f'{pick(lex.COLORS)} ' + pick(lex.SWAPS))}.")
        t.tell(f"{hero} took {t.number(coins // 2)}, and {friend} took {t.number(coins // 2)}. "
               "Each of them had the same number.")
        t.tell(f"they were so {t.happy()} that they danced around the hole.",
               "it was the best day of the summer.")
        return f"{hero} and {friend} follow a map and find a treasure."
    t.features.add("Twist")
    t.tell(f"but there was no gold. Inside was a letter from {hero}'s {t.elder}." if
           t.chance() else f"but inside was only a picture of {hero} and {friend}.")
    t.tell('on it were the words, "The best treasure is a good friend."')
    t.tell(f"{hero} looked at {friend} and smiled.", f"{hero} and {friend} hugged and laughed.")
    lesson(t, "they", "a friend is better than gold", "friends are the best treasure")
    return f"{hero} and {friend} follow a map and find out that friends are the best treasure."


def race(t: Tale) -> str:
    """The fast one boasts, the slow one keeps going."""
    t.fable = True
    fast, slow = t.animal(t.pick(("rabbit", "deer", "horse", "fox"))), t.animal(
        t.pick(("turtle", "snail", "hedgehog", "duck")))
    he, pick = slow.he, t.pick
    days, wins = t.between(4, 20), t.chance(0.7)
    goal = pick(("old bridge", "big rock", "tall tree", "end of the field", "top of the hill"))
    begin(t, slow)
    t.paragraph()
    t.tell(f"in the same forest lived {fast}, {a(fast.kind)}. "
           f"{fast} was very fast.")
    t.say(fast, pick(("No one/o is as fast as I am!", "You are so slow! Ha ha!",
                      "I can run ten times as fast as you.")), "said",
          told=f"{fast} laughed at {slow}, because {slow} was so slow.")
    t.features.add("Conflict")
    t.tell(f"{slow} was {t.sad()}, but {he} was not afraid.")
    t.say(slow, f"Let us race/v to the {goal}.", "said",
          told=f"{slow} wanted to race/v to the {goal}.")
    t.tell(f"{slow} practiced for {t.number(days)} days.", f"{fast} laughed and slept, but {slow} "
           f"practiced every day for {t.number(days)} days.")
    t.paragraph()
    watchers = t.between(11, 60)
    t.tell(f"{t.number(watchers)} animals came to watch the race.")
    t.tell('"One, two, three, go!" an owl called.', '"3, 2, 1, go!" an owl called.'
           if t.digit_share else '"Three, two, one, go!" an owl called.')
    if wins:
        t.features.add("Twist")
        t.tell(f"{fast} ran ahead/o, but soon {fast.he} was bored and took a nap under a tree.",
               f"{fast} ran so fast/o that {fast.he} got tired and lay down to rest/v.")
        t.tell(f"{slow} went on, step by step, and did not stop.", f"{slow} kept going slowly.")
        t.tell(f"when {fast} woke up, {slow} was already at the {goal}. {slow} was the winner!")
        t.tell(f"{slow} was first, and {fast} was second.", "all the animals cheered.")
        lesson(t, fast, "it is not wise to boast", "slow and steady wins the race")
        return f"{slow}, a slow {slow.kind}, wins a race against {fast}, a fast {fast.kind}."
    t.tell(f"{fast} was first and {slow} was last, but {slow} did not give up.",
           f"{fast} came to the {goal} first. {slow} came much later/o, but {he} did not stop.")
    t.tell(f"when {he} came to the {goal}, all the animals cheered for {slow.him}.")
    t.say(fast, pick(("You did not give up. I am sorry I laughed.", "You are very brave.")), "said",
          told=f"{fast} was sorry.")
    t.tell(f"{slow} {t.was()} {t.happy()}.", f"{fast} and {slow} became friends.")
    lesson(t, fast, "it is not nice to laugh at others", "trying hard/o is worth more than winning")
    return f"{slow} loses a race against {fast} but does not give up."


def find_house(t: Tale) -> str:
    """A house number, read the wrong way round or passed one by one."""
    hero, friend = t.cast()
    he, his, pick = hero.he, hero.his, t.pick
    tens, ones = t.rng.sample(range(1, 10), 2)
    house, mixed_up = 10 * tens + ones, t.chance()
    street = f"{pick(lex.SURNAMES)} Street"
    thing = pick(lex.GIFTS)
    begin(t, hero)
    t.paragraph()
    t.tell(f"{t.once()}, {hero} wanted to visit {his} friend {friend}. {he.title()} had {a(thing)} "
           f"for {friend.him}.", f"{t.once()}, {hero} took {a(thing)} and went to see {friend}.")
    t.tell(f"{friend} lived at number {t.number(house)} in {street}.",
           f'"{friend} lives in {street}, at number {t.number(house)}," {his} {t.elder} said.')
    if mixed_up:
        wrong = 10 * ones + tens
        t.features.add("Conflict")
        t.tell(f"but {hero} mixed up the numbers and went to house {t.number(wrong)}.")
        stranger = pick(("man", "woman", ""))
        t.tell(f"an old {stranger} opened the door." if stranger else
               "no one/o was there but a big dog.")
        t.tell(f"{hero} was {pick(('scared', 'surprised', 'worried'))}.")
        if stranger:
            t.say(f"the old {stranger}", f"This is number {t.number(wrong)}. You want number "
                  f"{t.number(house)}.", "said",
                  told=f"this was number {t.number(wrong)}, not number {t.number(house)}.")
            t.tell(f"{hero} said thank/o you and went on.")
        else:
            t.tell(f"{he} looked at the paper again. It said {house}, not {wrong}!"
                   if t.digit_share else f"{he} thought again. It was {number_word(house)}, not "
                   f"{number_word(wrong)}!")
    else:
        t.tell(f"{hero} walked past/o number {t.number(house - 2)} and number "
               f"{t.number(house - 1)}.", f"first came number {t.number(house - 2)}, then number "
               f"{t.number(house - 1)}.")
        t.say(hero, pick((f"The next one/o must be {t.number(house)}!",
                          f"After {t.number(house - 1)} comes {t.number(house)}!")), "said")
        t.tell(f"there was a house with {a(pick(lex.COLORS))} door.")
    t.paragraph()
    t.tell(f"{he} knocked at number {t.number(house)}, and {friend} opened the door.",
           f"at last, {he} stood in front of number {t.number(house)}. {friend} was at the window "
           "and waved.")
    t.say(friend, pick(("You found it!", f"Hello, {hero}! Come in!", "How nice that you came!")))
    t.tell(f"{hero} gave {friend} the {thing}, and {friend} {t.was()} very {t.happy()}.")
    t.tell(f"they played with {friend}'s {pick(lex.COLORS)} {pick(lex.SMALL_TOYS)} until evening.",
           f"they ate {plural(pick(lex.TREATS))} and read a book about {plural(pick(lex.BUGS))}.")
    if mixed_up:
        lesson(t, hero, "it is good to look twice/o")
    return f"{hero} looks for {friend}'s house, number {house}."


def fixing(t: Tale) -> str:
    """A problem, the wrong tool and the right one."""
    hero, friend = t.cast()
    he, his, him, pick = hero.he, hero.his, hero.him, t.pick
    toy = pick(("kite", "ball", "plane"))
    thing = f"{pick(lex.COLORS)} {toy}"
    place, trouble, wrong, right, done = pick((
        ("in the park", f"the {toy} got stuck in a tall tree", "a stick, but it was too short",
         "a ladder", "climbed up slowly and got it down"),
        ("at school", f"the {toy} flew onto the roof", "a rope, but it was too weak",
         "a long ladder", "climbed up and threw it down"),
        (at(pick(("lake", "pond", "river"))), f"the {toy} fell into the water",
         "a spoon, but it was too small", "a net", "caught it and pulled it out of the water"),
        ("in the yard", f"the {toy} slipped under the shed", "a spoon, but it was too short",
         "a broom", "pushed it out"),
    ))
    tries = t.between(2, 6)
    begin(t, hero)
    t.paragraph()
    t.tell(f"{t.once()}, {hero} played with {his} {thing} {place}.",
           f"{t.once()}, {hero} and {his} {t.elder} were {place}. {hero} had {his} new {thing}.")
    t.tell(f"suddenly, {trouble}.", f"then {trouble}.")
    t.features.add("Conflict")
    t.say(hero, pick((f"Oh no, my {toy}!", "What can I do now?")), pick(("cried", "said")))
    t.tell(f"{he} tried with {wrong}.", f"first, {he} used {wrong}.")
    t.tell(f"{he} tried {t.count(tries, 'time')}, but it was no use/n.",
           f"after trying {t.count(tries, 'time')}, {he} was {pick(('tired', 'angry', 'sad'))}.")
    t.paragraph()
    t.tell(f"{friend}, who lived next door, saw {him} and came over.",
           f"just then, {his} friend {friend} came by.")
    t.say(friend, pick((f"I think we need {right}.", f"Let's get {right}!", f"I have {right} at "
                        "home.")), "said",
          told=f"{friend} said that they needed {right}.")
    t.tell(f"they got {right}. Then {hero}'s {t.elder} {done}." if "climbed" in done else
           f"with {right}, they {done}.")
    t.tell(f"{hero} {t.was()} so {t.happy()} to have {his} {toy} back.")
    t.say(hero, pick((f"Thank you, {friend}! You had a good idea.", "We did it!")))
    t.tell("they played together until it was dark.",
           f"now {hero} and {friend} played with the {toy} together.")
    if t.chance(0.7):
        lesson(t, hero, "you need the right tool", "two heads are better than one/o",
               "it is good to ask for help/n")
    return f"{hero} is in trouble with {his} {thing}, and {friend} has an idea."


def bedtime(t: Tale) -> str:
    """Someone cannot sleep and counts."""
    hero, _ = t.cast(fable=0.2)
    he, his, pick = hero.he, hero.his, t.pick
    counted = pick(("star", "sheep", "cloud", "star"))
    n, toy = t.between(11, 60), pick(lex.SMALL_TOYS)
    begin(t, hero)
    t.paragraph()
    t.tell(f"one/o night, {hero} could not sleep. "
           f"{pick(('The wind was loud.', 'It was too hot.'))}",
           f"it was late, but {hero} was not sleepy at all.",
           f"one/o night, {hero} lay in bed and was wide/o awake.")
    t.say(hero, f"{t.elder.name.title()}, I cannot sleep.", "said",
          told=f"{he} called {his} {t.elder}.")
    t.tell(f"{his} {t.elder} came and sat down on the bed.", f"{his} {t.elder} brought "
           f"{hero.him} a cup of warm milk.")
    if not t.fable and t.chance(0.6):
        t.features.add("Conflict")
        t.tell(f"{hero} wanted {his} {pick(lex.COLORS)} {toy}, but it was gone.")
        t.tell(f"they looked and looked. At last, they found it "
               f"{pick(lex.INDOOR_SPOTS)}.")
    t.say(f"{his} {t.elder}", f"Close your eyes and think of {plural(counted)}. Then count them."
          if counted == "sheep" else f"Look out of the window and count the {plural(counted)}."
          if counted == "star" else f"Think of white {plural(counted)} and count them.", "said",
          told=f"{his} {t.elder} told {hero.him} to count {plural(counted)}.")
    t.paragraph()
    t.tell(f'{hero} began to count. "{t.aloud(pick((3, 4, 5)))}..."',
           f'"{t.aloud(pick((3, 4, 5)))}," {hero} whispered.')
    t.tell(f"when {he} came to {t.number(n)}, {he} yawned.", f"after {t.count(n, counted)}, {his} "
           "eyes were heavy.")
    last = str(n + 1) if t.chance(t.digit_share) else t.capital(n + 1)
    t.tell(f'"{last}..." {he} said very slowly, and then {he} slept.')
    t.tell(f"{he} had a dream about {a(pick(lex.COLORS))} {pick(lex.ZOO_ANIMALS)} that could fly.",
           f"all night, {he} dreamed of {plural(pick(lex.BUGS))} and {plural(pick(lex.FLOWERS))}.")
    t.tell(f"in the morning, {he} was {t.happy()} and ready to play.", f"{his} {t.elder} kissed "
           f"{hero.him} and turned off the light/n.")
    return f"{hero} cannot sleep and counts {plural(counted)}."


def pets(t: Tale) -> str:
    """A day with pets, told in the present."""
    hero, friend = t.cast()
    he, his, pick = hero.he, hero.his, t.pick
    pet = pick(lex.PETS)
    one, two = t.rng.sample(lex.FUR_COLORS, 2)
    n, m = t.between(1, 4), t.between(1, 4)
    treats = t.between(1, 3)
    food = {"cat": "fish", "kitten": "fish", "dog": "bone", "puppy": "bone", "rabbit": "carrot",
            "pony": "apple", "parrot": "nut", "hamster": "seed", "turtle": "leaf"}[pet]
    total = t.gain(hero, n + m, pet)
    t.tell(f"{hero} is {a(pick(lex.TRAITS))} {hero.kind}. {he.title()} is "
           f"{t.number(t.between(4, 8))} years old and lives in "
           f"{a(pick(lex.PLACE_LOOKS))} {pick(lex.HOMES)}.",
           f"{hero} lives in {a(pick(lex.PLACE_LOOKS))} {pick(lex.HOMES)} with {his} {t.elder}. "
           f"{he.title()} likes to {hobby(t, his)}.")
    t.tell(f"{he} has {t.count(total, pet)}.", f"{hero} has {t.count(total, pet)} and loves them "
           "all.")
    t.tell(f"{t.number(n)} {'is' if n == 1 else 'are'} {one}, and {t.number(m)} "
           f"{'is' if m == 1 else 'are'} {two}.")
    if n != m and min(n, m) > 1:
        more, fewer = (one, two) if n > m else (two, one)
        t.tell(f"so {he} has more {more} {plural(pet)} than {fewer} {plural(pet)}.")
    t.paragraph()
    t.tell(f"every {pick(('morning', 'evening'))}, {hero} feeds {his} {plural(pet)}. "
           f"Each {pet} gets {t.count(treats, food)}, so {he} needs "
           f"{t.count(total * treats, food)}.")
    t.tell(f"the {one} {pet if n == 1 else plural(pet)} always "
           f"{verb_form('eat', 's') if n == 1 else 'eat'} first.")
    t.paragraph()
    if t.chance(0.6):
        t.features.add("Conflict")
        t.tell(f"today {he} counts the {plural(pet)}, and there are only {t.number(total - 1)}."
               if total > 2 else f"today {he} sees only one {pet}.")
        t.say(hero, pick((f"Oh no! One {pet} is not here!", f"Where is my {one} {pet}?"
                          if n == 1 else f"Where is the last {pet}?")),
              "cries")
        t.tell(f"{he} looks everywhere. Then {friend} comes to the door with something in "
               f"{friend.his} arms. It is the {pet}!")
        t.say(friend, "It was in our garden.", "says")
        t.tell(f"{hero} hugs {friend}. Now all {t.number(total)} are at home again." if total > 2
               else f"{hero} hugs {friend}. Now both are at home again.")
    else:
        t.tell(f"today {friend} comes to visit with {t.number(1)} more {pet}. Now there "
               f"are {t.count(total + 1, pet)} in the house.")
        t.say(hero, pick(("They like each other!", "Look, they are friends!")), "says")
        t.tell(f"when {friend} goes home, {hero} has {t.count(total, pet)} again.")
    t.tell(f"in the evening, {he} is tired and {pick(('happy', 'glad'))}.",
           f"{hero} falls asleep with a smile/n on {his} face.")
    return f"{hero} takes care of {his} {plural(pet)}."


def worker(t: Tale) -> str:
    """A day at work, told in the present: made, sold, left."""
    child, pick = t.child(), t.pick
    she = t.chance()
    boss = Person(f"{'Mrs' if she else 'Mr'}. {pick(lex.SURNAMES)}", "woman" if she else "man", she)
    he, his = boss.he, boss.his
    job, thing, made = pick((
        ("baker", "loaf", "bakes"), ("baker", pick(lex.BAKED), "bakes"),
        ("farmer", pick(lex.VEGETABLES), "picks"), ("farmer", pick(lex.FRUIT), "picks"),
        ("gardener", pick(lex.FLOWERS), "cuts"),
        ("candy maker", pick(("candy", "lollipop")), "makes"),
        ("toy maker", pick(lex.SMALL_TOYS), "makes"),
    ))
    many, hour = t.between(10, 40), t.between(4, 8)
    sold = t.between(3, many - 2)
    t.gain(boss, many, thing)
    t.tell(f"{boss} is {a(pick(lex.TRAITS))} {job} who lives in {a(pick(lex.PLACE_LOOKS))} "
           f"{pick(('town', 'village', 'house'))}.", f"in {a(pick(lex.PLACE_LOOKS))} "
           f"{pick(('town', 'village'))} lives {boss}, {a(pick(lex.TRAITS))} {job}.")
    t.tell(f"every day, {he} gets up at {t.number(hour)} and drinks a cup of "
           f"{pick(('tea', 'milk', 'coffee'))}. Then {he} {made} {t.count(many, thing)}.",
           f"{he} has {a(pick(lex.FUR_COLORS))} {pick(lex.FURRY_PETS)} and {a(pick(lex.COLORS))} "
           f"{pick(('hat', 'coat', 'cart'))}. Today {he} {made} {t.count(many, thing)}.")
    t.tell(f"{he} takes them to the market in {a(pick(lex.SIZES[:3]))} {pick(('cart', 'basket'))}.")
    t.paragraph()
    left = t.lose(boss, sold, thing)
    t.tell(f"many people come. {boss} sells {t.number(sold)} of them, so {he} has "
           f"{t.count(left, thing)} left.")
    t.tell(f"then {child.name}, {a(pick(lex.TRAITS))} {child.kind}, comes to {his} table.",
           f"in the afternoon, {a(child.kind)} named {child} walks by.")
    if t.chance(0.65):
        t.features.add("Conflict")
        t.tell(f"{child} looks {t.sad()}.")
        t.say(child, f"I want {a(thing)} for my {t.elder}, but I have no money.", "says",
              told=f"{child.he} wants {a(thing)}, but {child.he} has no money.")
        t.tell(f"{boss} thinks for a moment. Then {he} gives {child} {t.count(1, thing)}.")
        left = t.lose(boss, 1, thing)
        t.say(child, pick(("Thank you so much!", "You are so kind!")), "says")
    else:
        left = t.lose(boss, 2, thing)
        t.say(child, f"May I have {t.count(2, thing)}, please?", "asks",
              told=f"{child} wants {t.count(2, thing)}.")
        t.tell(f"{child} pays for them and smiles.")
    t.tell(f"in the evening, {boss} counts. There {'is' if left == 1 else 'are'} "
           f"{t.count(left, thing)} left." if left else
           f"in the evening, {boss} has no {plural(thing)} left.")
    t.tell(f"{he} goes home and is {t.happy()}.", f"{he} sings a song on the way home.")
    return f"{boss}, {a(job)}, sells {plural(thing)} and is kind to {child}."


PLOTS: tuple[Callable[[Tale], str], ...] = (
    sharing, lost, weather, watching, tower, broken, night_noise, shopping, baking, planting,
    rescue, birthday, swap, new_friend, warning, collecting, turns, treasure, race, find_house,
    fixing, bedtime, pets, worker,
)
