"""The plots: each is a function that generates one story in a `StoryState` and returns its summary.
What the end states follows from what happened. "|" separates the variants of a sentence. A word
that is not of the class that the lexicon gives it is marked in the sentence: "a smile/n"."""

# Unformatted, so that the variants of a sentence are below each other and speech stays compact.
# fmt: off
from collections.abc import Callable

from minislm.stories.lexicon import a, plural, words
from minislm.stories.narrator import PRONOUNS, Person, StoryState, at, begin, begin_pair, hobby
from minislm.tasks import number_words


def sharing(s: StoryState) -> str:
    """One has food, the other has none."""
    hero, friend = s.cast(fable=0.35)
    he, his, elder = hero.he, hero.his, f"{hero.his} {s.elder}"
    food = s.pick(words.wild_food if s.fable else words.treats + words.fruit)
    had, greedy = s.between(3, 9), s.chance(0.35, "Conflict")
    given = s.between(1, had - 1)
    begin(s, hero, traits=words.wild_traits if greedy else words.traits, likes=plural(food))
    s.gain(hero, had, food)
    s.add(f"""{s.once()}, {hero} had {s.count(had, food)} in {a(s.pick(words.holders))}.
        | {s.once()}, {elder} gave {hero.him} a bag. {he.title()} looked inside, and now {he} had
          {s.count(had, food)}.
        | {s.once()}, {hero} was very {s.happy()} because {he} had {s.count(had, food)}.""")
    if s.chance(0.6):
        s.count_aloud(hero, had)
    s.meet(hero, friend)
    s.add(f"""{friend} looked {s.sad()} because {friend.he} had nothing to eat.
        | {friend} was hungry and had no {plural(food)} at all.""")
    if s.chance(0.7):
        s.say(friend, f"""May I have {a(food)}, please? | I am so hungry.
            | Can you share your {plural(food)} with me?""")
    s.paragraph()
    if greedy:
        s.say(hero, f"""No! These {plural(food)} are mine! | No, I want them all.
            | Go away! I do not want to share!""", indirect=f"{hero} did not want to share.")
        s.add(f"{friend} began to cry. | {friend} turned around and walked away slowly.")
        s.add(f"{hero} looked at {friend} and felt bad. | now {hero} felt very sorry.")
        s.say(hero, "I am sorry. | Wait, please. I was mean. | Please come back.",
              indirect=f"{hero} said sorry.")
    left = s.give(hero, friend, given, food)
    s.add(f"""{hero} gave {friend} {s.count(given, food)}.
        | {hero} gave {friend} {s.number(given)} of {his} {plural(food)}.""")
    if s.chance(0.6):
        s.thank(friend)
    s.add(f"""now {hero} had {s.count(left, food)} left.
        | then {hero} had {s.count(left, food)} left, and {friend} had {s.number(given)}.""")
    if left == given and s.chance(0.8):
        s.add("they both had the same number.")
    elif left > given and s.chance(0.4):
        s.add(f"{hero} still had more than {friend}, but {friend} did not mind.")
    elif left < given and s.chance(0.6):
        s.add(f"{he} had less than {friend} now, but {he} did not mind.")
    s.add(f"""they sat down and ate their {s.pick(words.tasty)} {plural(food)} together.
        | the two friends ate, talked and laughed {at(s.outdoors())}.""")
    s.lesson(hero, """it is good to share | sharing makes everyone happy
        | food tastes better with a friend""")
    return f"{hero} shares {his} {plural(food)} with {friend}, who is hungry."


def lost(s: StoryState) -> str:
    """A dear thing is lost, looked for, and mostly found."""
    hero, friend = s.cast()
    he, his, him, color = hero.he, hero.his, hero.him, s.pick(words.colors)
    thing, place = s.pick(words.clothes + words.small_toys), s.outdoors()
    dear, spots = f"{color} {thing}", s.rng.sample(words.outdoor_spots, 3)
    ending = s.rng.choices(("friend", "self", "gone"), (6, 3, 2))[0]
    begin(s, hero, place=place)
    s.add(f"""{he} had {his} {dear} with {him}. | {he} was very proud of {his} new {dear}.
        | {he} took {his} {s.pick(words.looks)} {dear} along.""")
    s.add(f"""{he} ran and jumped and played for a long time.
        | {he} chased {his} shadow until {he} was tired.""")
    s.add(f"""but when it was time to go home, the {thing} was gone.
        | then {he} saw that the {dear} was not there.""")
    s.say(hero, f"Oh no! Where is my {thing}? | I lost my {dear}!", "cried")
    s.paragraph()
    s.add(f"{hero} was so {s.sad()} that {he} began to cry. | {hero} {s.was()} very {s.sad()}.")
    s.add(f"""{he} looked {spots[0]} and {spots[1]}, but it was not there.
        | first {he} looked {spots[0]}. Then {he} looked {spots[1]}. There was no {thing}.""")
    if ending == "gone":
        s.features.add("BadEnding")
        s.add(f"""{he} looked until it was dark, but {he} did not find it.
            | then it began to rain/v, and {he} had to go home.""")
        s.add(f"the {dear} was lost/a for good. | {hero} never saw {his} {dear} again.")
        s.add(f"that night, {he} cried in {his} bed. | {he} went to bed {s.sad()}.")
        if s.chance():
            s.lesson(hero, "you must take care/n of your things")
        return f"{hero} loses {his} {dear} {at(place)} and does not find it again."
    if ending == "self":
        s.add(f"""at last, {he} looked {spots[2]}, and there it was!
            | then {he} saw something {color} {spots[2]}. It was {his} {thing}!""")
        s.add(f"{he} picked it up and held it tight/o. | {he} {s.was()} very {s.happy()} again.")
        s.lesson(hero, """you find things when you do not give up
            | you must take care/n of your things""")
        return f"{hero} loses {his} {dear} {at(place)} and finds it {spots[2]}."
    s.add(f"""{a(friend.kind)} named {friend} was walking by with something {color} in {friend.his}
          hand. | just then, {a(friend.kind)} called {friend} came up to {him}.""")
    s.say(friend, f"""I found this {thing} {spots[2]}. Is it yours?
        | Is this your {thing}? It was {spots[2]}.""", "asked",
          indirect=f"{friend} had found it {spots[2]}.")
    s.say(hero, f"Yes, that is my {thing}! | Yes, it is mine!")
    s.add(f"{friend} gave the {dear} back to {hero}. | {friend} smiled and gave it back.")
    s.add(f"""{hero} was not {s.sad()} any more. {he.title()} thanked {friend} and hugged
          {friend.him}. | {hero} {s.was()} {s.happy()} and thanked {friend}.""")
    s.add(f"after that, they became good friends. | {hero} and {friend} walked home together.")
    return f"{hero} loses {his} {dear}, and {friend} finds it and gives it back."


def weather(s: StoryState) -> str:
    """What to wear follows from the weather."""
    hero, friend = s.cast(fable=0.15)
    he, his, him, elder = hero.he, hero.his, hero.him, f"{hero.his} {s.elder}"
    kind = s.pick(tuple(words.weather))
    sky, clothes, suffers, bad, good = words.weather[kind].split(" / ")
    thing = f"{s.pick(words.colors)} {s.pick(clothes.split())}"
    short, listens, place = thing.split()[1], s.chance(0.4), s.outdoors()
    begin(s, hero, traits=words.traits if listens else words.wild_traits)
    s.add(f"""one/o {kind} day, {hero} wanted to go to the {place}.
        | it was a {kind} morning, and {sky}. {hero} wanted to play {at(place)}.""")
    s.say(elder, f"""It is {kind} today. Take your {short}. | Please do not go out without your
        {thing}. | Do not forget your {short}. It is {kind} outside.""",
          indirect=f"{elder} told {him} to take {his} {short}.")
    if listens:
        puts_on = "picked up" if short == "umbrella" else "put on"
        s.add(f"{hero} nodded and took {his} {thing}. | {hero} {puts_on} {his} {thing}.")
        s.add(f"then {he} went out, and {he} {good}. | {at(place)}, {he} {good} all day.")
        s.meet(hero, friend)
        s.add(f"""{friend} had no {short}, and {friend.he} {suffers}.
            | {friend} {bad} because {friend.he} had no {short}.""")
        s.say(hero, f"Come here. We can share my {short}." if short in ("umbrella", "coat") else
              f"I am fine now. You can have my {short} for a while.",
              indirect=f"{hero} let {friend} have the {short} for a while.")
        s.add(f"soon {friend} felt better and smiled. | {friend} felt much better then.")
        s.lesson(hero, f"""it is wise to listen | {a(short)} is good on a {kind} day
            | a good friend helps""")
        return f"{hero} takes {his} {thing} on a {kind} day and helps {friend}."
    s.features |= {"Foreshadowing", "Conflict"}
    s.say(hero, f"""I do not need {a(short)}! | No, I do not like my {short}.
        | I am big. I don't need my {short}.""", "said",
          indirect=f"{hero} did not want to take {his} {short}.")
    s.add(f"""{he} ran out of the door and left the {short} at home.
        | {he} left the {thing} on the chair and went out.""")
    s.add(f"""at first, {he} had fun with {his} friend {friend}. They played a game.
        | {at(place)}, {he} met {his} friend {friend}, and they began to play.""")
    s.add(f"but soon {hero} {suffers}. | after a short time, {hero} {suffers}.")
    s.add(f"""{friend} had {a(short)}, so {friend.he} {good}.
        | {friend} {good}, because {friend.he} had {a(short)}.""")
    s.add(f"{hero} ran home to {elder}. | {hero} {bad} and went home.")
    s.say(hero, "You were right. | I am sorry. Now I know why.")
    s.add(f"""the next day was {kind} again, and {hero} took {his} {short}. This time {he} {good}.
        | {he} took {his} {thing}, went out again, and {good}.""")
    s.lesson(hero, f"it is good to listen to {elder} | {a(short)} helps on a {kind} day")
    return f"{hero} goes out on a {kind} day without {his} {short} and learns to listen."


def watching(s: StoryState) -> str:
    """Two kinds of animals are seen and counted; some of them leave."""
    hero, _ = s.cast()
    he, elder = hero.he, f"{hero.his} {s.elder}"
    place, n, m = s.outdoors(), s.between(2, 9), s.between(2, 6)
    water, gone = place in ("lake", "river"), s.between(1, n - 1)
    seen = [kind for kind, sight in words.sights.items() if water or "water" not in sight]
    one, two = s.rng.sample(seen, 2)
    doing, leaving = words.sights[one].split(" / ")
    begin(s, hero, place=place)
    s.add(f"{he} saw {s.count(n, one)}. They were {doing}.")
    if s.chance():
        s.count_aloud(hero, n)
    s.add(f"then {he} saw {s.count(m, two)}, too. They were {words.sights[two].split(' / ')[0]}.")
    total = s.gain(place, n, "animal") + m
    s.gain(place, m, "animal")
    if s.chance(0.6):
        s.say(elder, "How many animals are there?")
        s.say(hero, f"""{number_words(n).capitalize()} {plural(one)} and {s.count(m, two)}. There
              are {s.number(total)} in all.""")
        s.say(elder, "Well/o done! | You are so smart! | Yes, that is right!", "said")
    if n == m:
        s.add(f"there were as many {plural(one)} as {plural(two)}.")
    else:
        more, fewer = (one, two) if n > m else (two, one)
        difference = f"{s.number(abs(n - m))} " if abs(n - m) > 1 and s.chance() else ""
        s.add(f"there were {difference}more {plural(more)} than {plural(fewer)}.")
    s.paragraph()
    s.add(f"""suddenly, there was a loud noise.
        | then a {s.pick(words.sizes[:2])} dog began to bark.
        | a big black cloud came, and it began to rain/v.""")
    left = s.lose(place, gone, "animal") - m
    s.add(f"{s.number(gone)} of the {plural(one)} {leaving}.")
    s.add(f"""now there {'was' if left == 1 else 'were'} only {s.count(left, one)} left.
        | {he} counted again. There {'was' if left == 1 else 'were'} {s.count(left, one)} left.""")
    s.say(hero, "Goodbye! Come back soon! | Bye, little friends! | Do not be afraid!", "called")
    s.add(f"""at home, {he} drew {a(one)} and {a(two)}.
        | {he} went home and told {hero.his} friends all about it.
        | that night, {he} had a dream about {plural(one)}.""")
    return f"{hero} counts {plural(one)} and {plural(two)} {at(place)}."


def tower(s: StoryState) -> str:
    """A tower of blocks grows and falls."""
    hero, friend = s.cast()
    he, his, pick = hero.he, hero.his, s.pick
    first, more, things = s.between(3, 8), s.between(2, 5), pick(("block", "box", "cup", "brick"))
    begin(s, hero)
    s.add(f"""{s.once()}, {hero} built a tower of {pick(words.colors)} {plural(things)}.
        | {s.once()}, {hero} wanted to build the tallest tower of {plural(things)} in the world.""")
    s.gain("tower", first, things)
    s.add(f'{he} put one/o {things} on top of the other and counted, "{s.aloud(first)}!"')
    s.add(f"the tower had {s.count(first, things)} now.")
    s.add(f"then {friend} came with {s.number(more)} more {plural(things)}.")
    height = s.gain("tower", more, things)
    s.add(f"they put them on top. Now the tower had {s.count(height, things)} in all.")
    s.add("it was very tall. | it was taller than a chair. | it began to wobble a little/o.")
    s.paragraph()
    s.features.add("Conflict")
    pet = f"{pick(words.fur_colors)} {pick(words.furry_pets)}"
    falls = s.lose("tower", s.between(1, height), things)
    cause = pick((f"{his} {pet} ran past/o and bumped into it.", f"{friend} sneezed very hard/o.",
                  "a strong wind came in through the window."))
    s.add(f"but then {cause} | suddenly, {cause}")
    if falls == 0:
        s.add(f"crash/o! The whole tower fell down. | boom/o! All the {plural(things)} fell.")
    else:
        s.add(f"""crash/o! {number_words(height - falls).capitalize()} of the {plural(things)} fell
              down, and the tower had only {s.number(falls)} left.""")
    s.add(f"{hero} {s.was()} {s.sad()}. | {hero} wanted to cry.")
    s.say(friend, """Do not be sad. We can build it again. | Don't cry. Let's try again!
        | Let's build a better one!""", "said", indirect=f"{friend} wanted to try again.")
    s.add(f"""they worked slowly and with care/n. This time the tower did not fall.
        | they built it again, and this time it was strong. It had all
          {s.count(height, things)}.""")
    s.add(f"{hero} and {friend} were very {s.happy()}. | they clapped their hands and danced.")
    s.lesson(hero, "you can always try again | it is easier with a friend")
    return f"{hero} builds a tower with {friend}; it falls, and they build it again."


def broken(s: StoryState) -> str:
    """Something breaks; it is admitted at once, or after a lie."""
    hero, _ = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    thing, toy = f"{pick(words.colors)} {pick(words.breakable)}", pick(words.small_toys)
    short, honest, pieces = thing.split()[1], s.chance(), s.between(2, 9)
    begin(s, hero, traits=words.wild_traits)
    if s.chance(0.6, "Foreshadowing"):
        s.add(f"""{elder} did not want {hero} to run in the house.
            | {elder} often told {hero} not to play in the house.""")
    s.add(f"""{s.once()}, {hero} was playing with {his} {toy} in the house.
        | {s.once()}, {hero} ran through the house with {his} {toy}.""")
    s.add(f"""{he} bumped into a table, and {elder}'s {thing} fell down.
        | the {toy} hit {elder}'s {thing}, and it fell on the floor.""")
    s.add(f"""crash/o! The {short} broke into {s.count(pieces, 'piece')}.
        | now the {thing} was in {s.count(pieces, 'piece')}.""")
    s.add(f"{hero} was scared. | {hero} did not know what to do. | {he} felt cold and hot.")
    s.paragraph()
    s.features.add("Conflict")
    if honest:
        s.add(f"""{he} wanted to hide, but then {he} went to {elder}.
            | {he} took a deep breath and went to find {elder}.""")
        s.say(hero, f"I broke your {short}. I am very sorry.",
              indirect=f"{he} told {elder} about the {short}.")
        s.add(f"{elder} looked at the pieces and then at {hero}.")
        s.say(elder, """Thank you for telling me the truth.
            | I am not angry, because you told me the truth.""", indirect=f"{elder} was not angry.")
        s.add(f"""they swept up the pieces with a broom. {hero} felt light and {s.happy()}.
            | together they put the pieces back with glue. It took a long time, but it held.""")
        s.lesson(hero, "it is best to tell the truth | telling the truth is brave")
        return f"{hero} breaks {a(short)} and tells {elder} the truth."
    s.add(f"{he} hid the pieces {pick(words.indoor_spots)}.")
    s.say(elder, f"Where is my {short}?", indirect=f"soon {elder} came and looked for the {short}.")
    s.say(hero, f"I do not know. | Maybe the {pick(words.furry_pets)} took it.",
          indirect=f"{hero} said that {he} knew nothing about it.")
    s.add(f"but that night, {hero} could not sleep. | all day, {hero} felt bad.")
    s.add(f"""at last, {he} went to {elder} and told the truth.
        | then {elder} found the pieces, and {hero} had to tell the truth.""")
    s.say(elder, f"""I am sad about the {short}, but I am more sad that you lied.
        | You must not lie/v to me.""", indirect=f"{elder} was sad, because {hero} had lied.")
    s.add(f"{hero} said sorry and cleaned the floor. | {hero} cried and said sorry.")
    s.lesson(hero, "a lie makes things worse | it is better to tell the truth right away/o")
    return f"{hero} breaks {a(short)}, lies about it and is sorry in the end."


def night_noise(s: StoryState) -> str:
    """A scary noise turns out to be a small animal."""
    hero, friend = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    small = pick(("bird", "cat", "frog", "hedgehog", "kitten", "mouse", "owl", "puppy", "squirrel"))
    noise, spot = pick(("scratched", "knocked", "squeaked")), pick(words.indoor_spots)
    times = s.between(2, 6)
    begin(s, hero)
    s.add(f"""one/o {pick(('dark', 'stormy', 'windy', 'cold'))} night, {hero} was in bed when {he}
          heard a {pick(('strange', 'scary', 'loud', 'funny'))} noise.
        | one/o night, {hero} woke up because something made a noise {spot}.""")
    s.add(f"something {noise} {s.count(times, 'time')}.")
    s.say(hero, "Who is there? | Is that a monster? | What is that?", "whispered")
    s.add(f"no one/o answered. | {he} pulled the blanket over {his} head.")
    s.add(f"{hero} was very scared. | {his} heart beat fast/o.")
    s.paragraph()
    s.features.add("Twist")
    if s.chance():
        s.add(f"{he} ran to {elder}. | {he} called {elder}.")
        s.say(elder, "Let us look together. | Come, take my hand.")
        s.add(f"they took a {pick(('flashlight', 'lantern'))} and looked {spot}.")
    else:
        s.say(hero, "I am brave. | I want to know what it is.")
        s.add(f"{he} took a {pick(('flashlight', 'lantern'))} and looked {spot}.")
    s.add(f"""it was not a monster at all. It was a {pick(('little', 'small', 'tiny'))} {small}!
        | there sat a {pick(('wet', 'scared', 'little'))} {small} with big eyes!""")
    s.add(f"the {small} was more afraid than {hero}. | the {small} was cold and hungry.")
    s.add(f"""{hero} gave it something to eat and a warm place to sleep.
        | {hero} laughed and {pick(('petted it', 'put it in a warm box'))}.""")
    if small in words.furry_pets:
        s.add(f"{he} kept the {small} and named it {friend}. | the {small} slept on {his} bed.")
    else:
        s.add(f"""in the morning, {he} took the {small} outside, and it was free.
            | the next day, {he} let it go in the garden.""")
    if s.chance(0.7):
        s.lesson(hero, "things are not so scary when you look at them | it is good to be brave")
    return f"{hero} hears a scary noise at night, but it is only {a(small)}."


def shopping(s: StoryState) -> str:
    """Coins, a price, and what is left; or work to earn what is missing."""
    hero, _ = s.cast()
    he, his, him, pick, elder = hero.he, hero.his, hero.him, s.pick, f"{hero.his} {s.elder}"
    thing = f"{pick(words.colors)} {pick(words.gifts + words.small_toys)}"
    short, price, enough = thing.split()[1], s.between(3, 12), s.chance(0.55)
    keeper = f"{pick(('Mr', 'Mrs'))}. {pick(words.surnames)}"
    shop = pick(("toy shop", "little shop", "corner shop", "market"))
    had = price + s.between(1, 8) if enough else price - s.between(1, price - 1)
    begin(s, hero)
    s.gain(hero, had, "coin")
    s.add(f"""{s.once()}, {hero} opened {his} {pick(words.holders)} of money. {he.title()} had
          {s.count(had, 'coin')}.
        | {s.once()}, {hero} had {s.count(had, 'coin')} in {his} pocket.""")
    s.add(f"{he} went to the {shop} and saw {a(thing)}. | at the {shop}, {he} saw {a(thing)}.")
    s.say(hero, f"How much is the {short}?")
    s.say(keeper, f"It costs {s.count(price, 'coin')}.",
          indirect=f"it cost {s.count(price, 'coin')}.")
    s.paragraph()
    if not enough:
        missing = price - had
        s.features.add("Conflict")
        s.add(f"""{hero} {s.was()} {s.sad()}. {he.title()} needed {s.number(missing)} more
              {plural('coin', missing)}.""")
        work = pick(("wash the windows", "sweep the floor", "carry the boxes", "water/v the plants",
                     "feed the hens", "clean/v the shelf"))
        s.say(keeper, f"You can {work} for me. Then I will pay you.",
              indirect=f"but {keeper} let {him} {work} for money.")
        s.add(f"{hero} worked hard/o all {pick(('morning', 'afternoon', 'day'))}.")
        s.add(f"{keeper} gave {him} {s.number(missing)} more {plural('coin', missing)}.")
        had = s.gain(hero, missing, "coin")
        s.add(f"now {he} had {s.count(had, 'coin')}. | that made {s.count(had, 'coin')} in all.")
        s.add("it was just enough!")
    left = s.lose(hero, price, "coin")
    s.add(f"""{he} gave {keeper} {s.count(price, 'coin')} and took the {short}.
        | {he} gave {s.count(price, 'coin')} to {keeper}.""")
    s.add(f"now {he} had {s.count(left, 'coin')} left." if left else f"{he} had no coins left.")
    s.add(f"""{he} ran home with {his} {pick(('new', 'beautiful'))} {short}.
        | {he} carried the {short} home with a big smile/n.""")
    if not enough:
        s.lesson(hero, "work/n makes a thing dear | you can get what you want if you work for it")
        return f"{hero} works to buy {a(thing)}."
    s.add(f"""{he} gave it to {elder}, who was very {s.happy()}. | {elder} liked it, too.
        | {he} put it next to {his} bed.""")
    return f"{hero} buys {a(thing)} with {his} coins."


def baking(s: StoryState) -> str:
    """A batch is baked; some are eaten, some are kept, or all are gone."""
    hero, friend = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    food, made, eggs, greedy = pick(words.baked), s.between(6, 20), s.between(2, 4), s.chance(0.35)
    begin(s, hero, traits=words.wild_traits if greedy else words.traits, likes=plural(food))
    s.add(f"""{s.once()}, {hero} helped {elder} bake {plural(food)}.
        | {s.once()}, {hero} and {elder} baked {plural(food)} in the kitchen.""")
    s.add(f"""they mixed flour, sugar, milk and {s.count(eggs, 'egg')}.
        | {hero} put {s.count(eggs, 'egg')} and a cup of milk in a bowl.""")
    minutes = s.between(2, 8) * 5
    s.add(f"""then they waited for {s.number(minutes)} minutes.
        | the {plural(food)} had to stay in the oven for {s.number(minutes)} minutes.""")
    s.gain(hero, made, food)
    s.add(f"when they were done, {hero} counted them. They had {s.count(made, food)}.")
    s.paragraph()
    if greedy:
        s.features |= {"Foreshadowing", "BadEnding"}
        s.say(elder, "Do not eat too many, or your tummy will hurt.",
              indirect=f"{elder} told {hero} not to eat too many.")
        s.add(f"but when {elder} went out, {hero} ate one. It was so {pick(words.tasty)}!")
        eaten = s.between(4, made - 1)
        left = s.lose(hero, eaten, food)
        s.add(f"{he} could not stop. {he.title()} ate {s.number(eaten - 1)} more.")
        s.add(f"""of {s.number(made)} {plural(food)}, only {s.number(left)}
              {'was' if left == 1 else 'were'} left.""" if left else "not one/o was left.")
        s.add(f"soon {his} tummy hurt very much. | then {he} felt sick and had to lie/v down.")
        s.say(hero, "Ow! I ate too much. | My tummy hurts!", "cried")
        s.add(f"""{he} had to stay in bed all day and could not play.
            | {he} had no dinner and no story that night.""")
        s.lesson(hero, "it is not good to be greedy | too much of a good thing is bad")
        return f"{hero} eats too many {plural(food)} and feels sick."
    eaten = s.between(1, 4)
    s.add(f"""{hero} ate {s.count(eaten, food)}. {'It was' if eaten == 1 else 'They were'}
          {pick(('warm', 'hot'))} and {pick(words.tasty)}.""")
    left = s.lose(hero, eaten, food)
    s.add(f"""that left {s.count(left, food)}.
        | now there {'was' if left == 1 else 'were'} {s.count(left, food)} left.""")
    given = s.between(1, left - 1)
    s.add(f"""{hero} took {s.number(given)} of them to {friend}, who was sick in bed.
        | {he} gave {s.number(given)} of them to {friend}, who lived next door.""")
    s.thank(friend)
    rest = s.give(hero, friend, given, food)
    s.add(f"the last {s.number(rest)} {'was' if rest == 1 else 'were'} for {elder}."
          if rest < 9 else f"that left {s.count(rest, food)} for the family.")
    s.add(f"{hero} {s.was()} {s.happy()}. | {hero} went home with a warm heart.")
    return f"{hero} bakes {plural(food)} with {elder} and shares them with {friend}."


def planting(s: StoryState) -> str:
    """Seeds need water and time."""
    hero, friend = s.cast(fable=0.2)
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    plant = pick(words.flowers + words.vegetables)
    flower, seeds, days = plant in words.flowers, s.between(3, 9), s.between(4, 20)
    dead = s.between(0, 2)
    begin(s, hero, likes=plural(plant))
    s.add(f"""{s.once()}, {hero} got a small bag of seeds. {he.title()} had
          {s.count(seeds, 'seed')}.
        | {s.once()}, {elder} gave {hero.him} {s.count(seeds, 'seed')}.""")
    s.gain(hero, seeds, "seed")
    s.add(f"""{he} dug {s.count(seeds, 'hole')} and put one seed in each hole.
        | {he} put all of them into the {pick(('soft', 'dark', 'wet'))} soil.""")
    s.say(hero, f"Grow, little {plural(plant)}! | Now you must drink.", "said")
    s.add(f"""the next day, there was nothing to see.
        | {he} looked every morning, but the ground was empty.""")
    if s.chance(0.5, "Conflict"):
        s.say(f"{his} friend {friend}", "Nothing will grow there. | I think your seeds are bad.",
              indirect=f"{his} friend {friend} thought that nothing would grow.")
        s.add(f"{hero} was {s.sad()}, but {he} did not give up.")
    s.paragraph()
    s.add(f"{he} watered the seeds every day and waited. | every day, {he} gave them water.")
    up = s.lose(hero, dead, "seed")
    if dead:
        s.add(f"after {s.number(days)} days, {he} saw {s.number(up)} green {plural('sprout', up)}.")
        s.add(f"{s.count(dead, 'seed')} did not grow, but {up} did." if s.digit_share == 1 else
              f"{number_words(dead)} of the seeds did not grow, but {number_words(up)} did.")
    else:
        s.add(f"after {s.number(days)} days, there was a green sprout for every seed.")
    if flower:
        s.add(f"in the summer, {he} had {s.count(up, f'{pick(words.flower_colors)} {plant}')}.")
        s.add(f"""{he} gave one to {elder}.
            | {plural(pick(('bee', 'butterfly')))} came to visit them.""")
    else:
        s.add(f"in the summer, {he} had a basket full of {pick(words.sizes[:3])} {plural(plant)}.")
        s.add(f"""{elder} made a {pick(words.tasty)} soup with them.
            | {he} shared them with {friend}.""")
    s.lesson(hero, """good things take time | you must be patient
        | a plant needs water, sun and time""")
    return f"{hero} plants seeds and waits until the {plural(plant)} grow."


def rescue(s: StoryState) -> str:
    """An animal in need is helped, and helps in its turn."""
    hero, _ = s.cast(fable=0.3)
    he, his, him, pick = hero.he, hero.his, hero.him, s.pick
    animal = pick([kind for kind in words.forest_animals if kind != hero.kind])
    trouble, tool, animal_tool, helps = pick(words.troubles).split(" / ")
    tool = animal_tool if s.fable else tool
    begin(s, hero, place=pick(("forest", "meadow", "field")))
    s.add(f"""{he} heard a small cry/n near a {pick(('tree', 'bush', 'rock'))}.
        | suddenly, there was a sad sound.""")
    s.add(f"it was {a(f'{pick(words.sizes[3:])} {animal}')}. It {trouble}.")
    if s.chance(0.7):
        s.say(f"the {animal}", "Ow! Please help me!" if "thorn" in trouble else
              "Please help me! | Help! I cannot get out!", "cried")
    s.add(f"{hero} felt sorry for the {animal}. | {hero} wanted to help at once/o.")
    s.say(hero, "Do not be afraid. I will help you. | Hold still/o. I can help.")
    with_tool = a(tool) if tool in ("stick", "rope", "branch") else f"{his} {tool}"
    s.add(f"with {with_tool}, {he} {helps}.")
    result = "soon the foot was better" if "thorn" in trouble else f"the {animal} was free"
    s.add(f"{result}. | the {animal} was very thankful.")
    s.paragraph()
    days = s.between(2, 9)
    s.add(f"""{s.number(days)} days later/o, {hero} was lost/a in the forest. {he.title()} did not
          know the way home.
        | {s.number(days)} days later/o, it got dark in the forest, and {hero} could not find the
          way home.""")
    s.features.add("Conflict")
    s.add(f"""then the {animal} came. It knew {him} at once/o.
        | who came there? It was the {animal}!""")
    s.say(f"the {animal}", "You helped me. Now I will help you. | Come with me, my friend.")
    s.add(f"it led {hero} home. | the {animal} showed {him} the way, and soon {he} was home.")
    s.add(f"""{hero} and the {animal} were friends from then on.
        | {hero} thanked the {animal} and waved.""")
    s.lesson(hero, f"""when you help others, they will help you | it is good to be
        kind{'' if s.fable else ' to animals'} | a small friend can be a big help/n""")
    return f"{hero} helps {a(animal)} that {trouble}, and later it helps {him}."


def birthday(s: StoryState) -> str:
    """One year older: candles, guests and balloons."""
    hero, friend = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    age, balloons = s.between(3, 8), s.between(4, 12)
    popped, gift = s.between(1, 3), f"{pick(words.colors)} {pick(words.gifts + words.small_toys)}"
    old = s.between(55, 90) if "grand" in s.elder.name else s.between(26, 45)
    begin(s, hero, aged=False)
    s.add(f"""yesterday, {he} was {s.number(age)} years old. Today was {his} birthday, and now {he}
          was {s.number(age + 1)}.
        | it was {his} birthday. Before that day, {he} was {s.number(age)}. Now {he} was
          {s.number(age + 1)}.""")
    s.add(f"""{elder} put {s.number(age + 1)} candles on the cake.
        | there was a big cake with {s.number(age + 1)} candles.""")
    if s.chance(0.4):
        s.say(hero, f"How old are you, {s.elder.name.title()}?")
        s.say(elder, f"I am {s.number(old)}. That is a lot of candles!", "said")
    s.gain(hero, balloons, "balloon")
    s.add(f"in the room, there were {s.count(balloons, f'{pick(words.colors)} balloon')}.")
    s.add(f"""{friend} came and brought a gift in a box.
        | {friend} came to the party with a gift in a big box.""")
    s.paragraph()
    if s.chance(0.6, "Conflict"):
        left = s.lose(hero, popped, "balloon")
        s.add(f"""pop/o! {number_words(popped).capitalize()} of the balloons broke, and {friend}
              cried.""")
        s.say(hero, f"Do not cry. We still have {s.count(left, 'balloon')} left.",
              indirect=f"but {hero} still had {s.count(left, 'balloon')} left.")
    s.add(f"then {hero} opened the gift. It was {a(gift)}! | inside the box, there was {a(gift)}.")
    s.say(hero, "This is just what I wanted! | I love it! | Thank you! It is so pretty!")
    s.add(f"""{he} closed {his} eyes, made a wish/n and blew out all {s.number(age + 1)} candles.
        | {he} blew hard/o, and all {s.number(age + 1)} candles went out.""")
    s.add(f"""everyone clapped and sang.
        | then they all ate cake and danced. {hero} {s.was()} very {s.happy()}.""")
    return f"{hero} turns {number_words(age + 1)} and has a party with {friend}."


def swap(s: StoryState) -> str:
    """Two collectors trade, and both have what they want."""
    hero, friend = s.cast(fable=0.2)
    mine, yours = s.rng.sample(words.finds if s.fable else words.swaps, 2)
    n, m = s.between(3, 9), s.between(3, 9)
    k, j = s.between(1, n - 1), s.between(1, m - 1)
    begin_pair(s, hero, friend)
    s.gain(hero, n, mine)
    s.gain(friend, m, yours)
    s.add(f"""{hero} had {s.count(n, mine)}. {friend} had {s.count(m, yours)}.
        | {hero} had {s.count(n, mine)}, and {friend} had {s.count(m, yours)}.""")
    s.add(f"""{s.once()}, they met {at(s.outdoors())}.
        | {s.once()}, they sat in the grass and looked at their things.""")
    s.say(hero, f"""I like your {plural(yours)}. Can we trade/v?
        | I have no {plural(yours)}. Do you want to swap?""",
          indirect=f"{hero} liked the {plural(yours)} and wanted to trade/v.")
    if s.chance(0.4, "Conflict"):
        s.say(friend, "No, I want to keep them all. | I am not sure.",
              indirect=f"at first, {friend} did not want to trade/v.")
        s.add(f"{hero} was a little/o {s.sad()}.")
        s.add(f"""but then {friend} looked at the {plural(mine)}. They were so
              {s.pick(words.looks)}.""")
    s.say(friend, f"I will give you {s.count(j, yours)} for {s.count(k, mine)}.",
          indirect=f"{friend} wanted to give {s.count(j, yours)} for {s.count(k, mine)}.")
    s.say(hero, "That is fair. | Yes, let us do that. | Good idea!", "said",
          indirect=f"{hero} said yes.")
    s.paragraph()
    left = s.give(hero, friend, k, mine)
    s.add(f"{hero} gave {friend} {s.count(k, mine)}. Now {hero} had {s.count(left, mine)} left.")
    left = s.give(friend, hero, j, yours)
    s.add(f"""then {friend} gave {hero} {s.count(j, yours)}. Now {friend} had {s.count(left, yours)}
          left.""")
    s.add(f"both of them were happy with the trade. | they were both {s.happy()}.")
    s.add(f"""they played with the {plural(mine)} and the {plural(yours)} until dinner.
        | they put their treasures into two little boxes.""")
    if s.chance():
        s.lesson(s.pick((hero, friend)), "a fair trade is good for both | it is good to share")
    return f"{hero} and {friend} trade {plural(mine)} for {plural(yours)}."


def new_friend(s: StoryState) -> str:
    """Someone is alone, and someone else asks."""
    hero, friend = s.cast(fable=0.3)
    he, his, him, pick = hero.he, hero.his, hero.him, s.pick
    place = s.outdoors() if s.fable else pick(("playground", "park", "school", "beach"))
    others, game = s.between(3, 8), pick(("tag", "hide-and-seek", "catch"))
    begin(s, hero, place=place, traits="calm gentle kind quiet shy small smart sweet young".split())
    s.add(f"""{s.number(others)} other {'animals' if s.fable else 'children'} were playing {game}
          there.
        | there {he} saw {s.number(others)} {'animals' if s.fable else 'children'}. They were
          playing {game}.""")
    s.add(f"{hero} was new and did not know anyone. | no one/o asked {hero} to play.")
    s.add(f"""{he} sat down {pick(words.outdoor_spots)}, all alone.
        | {he} stood alone and looked at them.""")
    s.add(f"{he} felt {pick(('lonely', 'sad', 'very lonely'))}.")
    s.paragraph()
    if s.chance(0.4, "Conflict"):
        s.add(f"one/o of them laughed at {him}.")
        s.say(f"the {pick(('biggest', 'tallest', 'loudest'))} one/o", """You are too small!
            | You cannot play with us!""", "said")
    s.add(f"then {friend}, {a(f'{pick(words.traits)} {friend.kind}')}, came up to {him}.")
    s.say(friend, f"""Do you want to play with us? | Why are you alone? Come and play!
        | Hello! I am {friend}. What is your name?""",
          indirect=f"{friend} asked {him} to play with them.")
    s.say(hero, f"I am {hero}. I would love to play. | Yes, please! My name is {hero}.")
    s.add(f"now there were {s.number(others + 1)} of them in the game." if s.chance(0.6) else
          f"{friend} took {his} hand, and they ran to the others.")
    s.add(f"""{hero} ran fast/o and laughed out loud. | {hero} was very good at {game}.
        | they played until the sun went down.""")
    s.add(f"""when it was time to go, {hero} was not lonely any more.
        | {hero} and {friend} became best friends.""")
    s.lesson(pick((friend, "everyone")), """a kind word can make a friend
        | it is nice to let others play""")
    return f"{hero} is lonely {at(place)} until {friend} asks {him} to play."


def warning(s: StoryState) -> str:
    """A warning is ignored."""
    hero, _ = s.cast()
    he, his, him, pick, elder = hero.he, hero.his, hero.him, s.pick, f"{hero.his} {s.elder}"
    rule, act, result, hurt, why = pick(words.warnings).split(" / ")
    result, bad = result.replace("his", his), s.chance(0.3, "BadEnding")
    begin(s, hero, traits=words.wild_traits)
    s.features |= {"Foreshadowing", "Conflict"}
    if "ice" in rule:
        s.add(f"one/o cold day, {hero} and {elder} went to the pond.")
    elif any(indoors in rule for indoors in ("stove", "knife", "floor")):
        s.add(f"{s.once()}, {hero} was at home with {elder}.")
    else:
        s.add(f"{s.once()}, {hero} and {elder} were outside.")
    s.say(elder, f"{rule} | Be careful, {hero}. {rule}",
          indirect=f"{elder} told {him} not to {rule.removeprefix('Do not ')[:-1]}.")
    s.say(hero, "Why not? | Yes, I know. | But it looks like fun!")
    s.add(f"""for a while, {hero} was good. | then {elder} turned around.
        | {hero} waited until {elder} looked away.""")
    s.add(f"{hero} did not listen. {he.title()} {act}. | then {he} forgot the rule and {act}.")
    s.add(f"{he} {result}.")
    s.say(hero, "Ow! It hurts! | Ow, ow, ow! | Oh no! Help!", "cried")
    s.paragraph()
    days = s.between(2, 9)
    s.add(f"{elder} wrapped {his} cold foot in a blanket." if hurt == "foot" else
          f"{elder} ran to {him} and put a bandage on {his} {hurt}.")
    if bad:
        s.add(f"""they had to go to the doctor. {hero} could not play for {s.number(days)} days.
            | it hurt for {s.number(days)} days, and {hero} had to stay in bed.""")
    else:
        s.say(hero, "I am sorry. I will listen next time. | You told me, and I did not listen.",
              indirect=f"{hero} said sorry.")
        s.add(f"{elder} hugged {him}. After {s.number(days)} days, the {hurt} was fine again.")
    s.lesson(hero, f"{why} | it is wise to listen to {elder}")
    return f"{hero} does not listen to {elder} and gets hurt/a."


def collecting(s: StoryState) -> str:
    """A collection grows from day to day."""
    hero, friend = s.cast(fable=0.2)
    he, pick, elder = hero.he, s.pick, f"{hero.his} {s.elder}"
    thing, place = pick(words.finds), s.outdoors()
    days = [s.between(1, 6) for _ in range(s.between(2, 3))]
    begin(s, hero, likes=plural(thing))
    total = s.gain(hero, days[0], thing)
    kind = pick(("red", "white", "brown", "small", "big", "pretty"))
    s.add(f"on Monday, {he} found {s.count(days[0], f'{kind} {thing}')} {at(place)}.")
    if days[0] > 2 and s.chance(0.4):
        s.count_aloud(hero, days[0])
    for day, more in zip(("Tuesday", "Wednesday"), days[1:]):
        total = s.gain(hero, more, thing)
        s.add(f"on {day}, {he} found {s.number(more)} more.")
        s.add(f"""now {he} had {s.count(total, thing)} in all.
            | that made {s.count(total, thing)} in all.""")
    s.add(f"""{he} kept them in {a(f'{pick(words.colors)} {pick(words.holders)}')}.
        | {he} put them in a row on the {pick(('shelf', 'table', 'floor'))}.""")
    s.paragraph()
    if total > 2 and s.chance(0.6):
        s.meet(hero, friend)
        s.say(friend, f"What nice {plural(thing)}! | I have none. Where did you find them?")
        gift = s.between(1, total - 1)
        left = s.give(hero, friend, gift, thing)
        s.add(f"{hero} gave {friend} {s.count(gift, thing)}.")
        s.add(f"then {hero} had {s.count(left, thing)} left.")
        s.say(hero, "Tomorrow we can look together. | Let us find more together!", "said")
        s.add(f"{friend} was {s.happy()}, and {hero} was {s.happy()}, too.")
    else:
        s.add(f"{elder} looked at them and was very {s.happy()}.")
        s.say(elder, f"You have good eyes! | What a lot of {plural(thing)}!", "said")
        if s.chance(0.4):
            s.add(f"{he} gave the prettiest one/o to {elder}.")
    s.add(f"{hero} went to sleep with a smile/n. | the next day, {hero} went out to look for more.")
    return f"{hero} collects {plural(thing)} and has more every day."


def turns(s: StoryState) -> str:
    """Two want the same toy."""
    hero, friend = s.cast()
    toy = s.pick(tuple(words.toys))
    thing, act = f"{s.pick(words.colors)} {toy}", words.toys[toy]
    bad, minutes = s.chance(0.3, "BadEnding"), s.between(2, 10)
    begin_pair(s, hero, friend)
    place = s.pick(("in the yard", "in the park", "at school", "in the garden", "at home"))
    s.add(f"""{s.once()}, they found {a(thing)} {place}.
        | {s.once()}, they were {place}. There was only one {thing}.
        | {s.once()}, there was a new {thing} {place}.""")
    s.features.add("Conflict")
    s.say(hero, f"I want to {act}{'' if act == 'play' else '/v'} it!",
          indirect=f"they both wanted to {act}/v it.")
    s.say(friend, "No, I saw it first! | No, it is my turn! | But I want it, too!")
    s.add(f"""{hero} pulled, and {friend} pulled, too.
        | they both held the {toy} and did not let go.""")
    s.paragraph()
    if bad:
        s.add(f"snap/o! The {toy} broke in two pieces. | then the {toy} fell and broke.")
        s.add(f"now no one/o could {act}/v it. | now they had nothing to play with.")
        s.add(f"{hero} cried, and {friend} cried, too. | {hero} and {friend} were very {s.sad()}.")
        s.lesson(s.pick((hero, friend, "they")), """fighting breaks things
            | it is better to share than to fight""")
        return f"{hero} and {friend} fight about {a(thing)}, and it breaks."
    who = f"{s.pick((hero, friend))}'s {s.elder}"
    agreed = "then they agreed to take turns."
    if s.chance(0.6):
        s.say(who, "Stop! You can take turns. | Let us take turns.", indirect=agreed)
    else:
        s.say(hero, "Wait. Let us take turns. | I am sorry. You can go first.", indirect=agreed)
    s.add(f"""so {friend} had the {toy} for {s.number(minutes)} minutes, and then {hero} had it for
          {s.number(minutes)} minutes.
        | {friend} played with it first. After {s.number(minutes)} minutes, it was {hero}'s
          turn.""")
    s.add(f"""{hero} showed {friend} how to {act}/v it best/o.
        | it was fun to {act}/v the {toy} together. | they laughed and had a lot of fun.""")
    s.lesson(s.pick((f"{hero} and {friend}", "they")), """taking turns is fair
        | a toy is more fun with a friend""")
    return f"{hero} and {friend} want the same {toy} and learn to take turns."


def treasure(s: StoryState) -> str:
    """A map with steps, and what is at its end."""
    hero, friend = s.cast()
    first, then, feet = s.between(2, 9) * 5, s.between(1, 8) * 5, s.between(2, 4)
    tree = s.pick(("tall tree", "old tree", "tree with no leaves"))
    rock = s.pick(("big rock", "gray wall", "wooden bridge", "old well/n"))
    real = s.chance(0.6)
    begin_pair(s, hero, friend)
    s.add(f"""{s.once()}, they found an old map in
          {s.pick(('a box', 'a book', 'a bottle', 'the attic'))}.
        | {s.once()}, {hero}'s {s.elder} gave them an old map.""")
    s.say(hero, "It shows the way to a treasure! | Look! A treasure map!",
          indirect="it was a treasure map.")
    s.add(f"""it said to go {s.number(first)} steps from the gate to the {tree}.
        | first they had to walk {s.number(first)} steps to the {tree}.""")
    s.add(f"after that, they had to go {s.number(then)} steps to the {rock}.")
    steps = first + then
    s.add(f"""{friend} counted every step. They made {s.number(steps)} steps in all.
        | that was {s.number(steps)} steps in all.""")
    s.add(f"""there they dug with {s.pick(('a spade', 'a shovel', 'two spoons'))} until the hole was
          {s.number(feet)} feet deep. | there they began to dig.""")
    s.paragraph()
    s.add(f"""at last, they hit something hard. It was {a(s.pick(('old', 'big', 'small')))}
          {s.pick(('chest', 'box', 'pot'))}!""")
    s.say(friend, "Open/v it! | Is it gold? | We are rich!")
    coins = s.between(2, 8) * 2
    if real:
        gems = f"{s.pick(words.colors)} {s.pick(words.swaps)}"
        s.add(f"inside, there were {s.count(coins, gems)}.")
        s.add(f"""{hero} took {s.number(coins // 2)}, and {friend} took {s.number(coins // 2)}. Each
              of them had the same number.""")
        s.add(f"""they were so {s.happy()} that they danced around the hole.
            | it was the best day of the summer.""")
        return f"{hero} and {friend} follow a map and find a treasure."
    s.features.add("Twist")
    s.add(f"but there was no gold. Inside was a letter from {hero}'s {s.elder}." if s.chance() else
          f"but inside was only a picture of {hero} and {friend}.")
    s.add('on it were the words, "The best treasure is a good friend."')
    s.add(f"{hero} looked at {friend} and smiled. | {hero} and {friend} hugged and laughed.")
    s.lesson("they", "a friend is better than gold | friends are the best treasure")
    return f"{hero} and {friend} follow a map and find out that friends are the best treasure."


def race(s: StoryState) -> str:
    """The fast one boasts, the slow one keeps going."""
    pick, s.fable = s.pick, True
    fast = s.person(pick(("rabbit", "deer", "horse", "fox")))
    slow = s.person(pick(("turtle", "snail", "hedgehog", "duck")))
    he, days, wins = slow.he, s.between(4, 20), s.chance(0.7, "Twist")
    goal = pick(("old bridge", "big rock", "tall tree", "end of the field", "top of the hill"))
    begin(s, slow)
    s.add(f"in the same forest lived {fast}, {a(fast.kind)}. {fast} was very fast.")
    s.say(fast, """No one/o is as fast as I am! | You are so slow! Ha ha!
        | I can run ten times as fast as you.""", "said",
          indirect=f"{fast} laughed at {slow}, because {slow} was so slow.")
    s.features.add("Conflict")
    s.add(f"{slow} was {s.sad()}, but {he} was not afraid.")
    s.say(slow, f"Let us race/v to the {goal}.", indirect=f"{slow} wanted to race/v to the {goal}.")
    s.add(f"""{slow} practiced for {s.number(days)} days.
        | {fast} laughed and slept, but {slow} practiced every day for {s.number(days)} days.""")
    s.paragraph()
    s.add(f"{s.number(s.between(11, 60))} animals came to watch the race.")
    countdown = "3, 2, 1" if s.digit_share else "Three, two, one"
    s.add(f'"One, two, three, go!" an owl called. | "{countdown}, go!" an owl called.')
    if wins:
        s.add(f"""{fast} ran ahead/o, but soon {fast.he} was bored and took a nap under a tree.
            | {fast} ran so fast/o that {fast.he} got tired and lay down to rest/v.""")
        s.add(f"{slow} went on, step by step, and did not stop. | {slow} kept going slowly.")
        s.add(f"when {fast} woke up, {slow} was already at the {goal}. {slow} was the winner!")
        s.add(f"{slow} was first, and {fast} was second. | all the animals cheered.")
        s.lesson(fast, "it is not wise to boast | slow and steady wins the race")
        return f"{slow}, a slow {slow.kind}, wins a race against {fast}, a fast {fast.kind}."
    s.add(f"""{fast} was first and {slow} was last, but {slow} did not give up.
        | {fast} came to the {goal} first. {slow} came much later/o, but {he} did not stop.""")
    s.add(f"when {he} came to the {goal}, all the animals cheered for {slow.him}.")
    s.say(fast, "You did not give up. I am sorry I laughed. | You are very brave.",
          indirect=f"{fast} was sorry.")
    s.add(f"{slow} {s.was()} {s.happy()}. | {fast} and {slow} became friends.")
    s.lesson(fast, "it is not nice to laugh at others | trying hard/o is worth more than winning")
    return f"{slow} loses a race against {fast} but does not give up."


def find_house(s: StoryState) -> str:
    """A house number, with its digits swapped or found by counting."""
    hero, friend = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    tens, ones = s.rng.sample(range(1, 10), 2)
    house, mixed_up = 10 * tens + ones, s.chance(0.5, "Conflict")
    street, thing = f"{pick(words.surnames)} Street", pick(words.gifts)
    begin(s, hero)
    s.add(f"""{s.once()}, {hero} wanted to visit {his} friend {friend}. {he.title()} had {a(thing)}
          for {friend.him}. | {s.once()}, {hero} took {a(thing)} and went to see {friend}.""")
    s.add(f"""{friend} lived at number {s.number(house)} in {street}.
        | "{friend} lives in {street}, at number {s.number(house)}," {elder} said.""")
    if mixed_up:
        wrong = 10 * ones + tens
        s.add(f"but {hero} mixed up the numbers and went to house {s.number(wrong)}.")
        stranger = pick(("man", "woman", ""))
        s.add(f"an old {stranger} opened the door." if stranger else
              "no one/o was there but a big dog.")
        s.add(f"{hero} was {pick(('scared', 'surprised', 'worried'))}.")
        if stranger:
            s.say(f"the old {stranger}", f"""This is number {s.number(wrong)}. You want number
                  {s.number(house)}.""",
                  indirect=f"this was number {s.number(wrong)}, not number {s.number(house)}.")
            s.add(f"{hero} said thank/o you and went on.")
        else:
            s.add(f"{he} looked at the paper again. It said {house}, not {wrong}!" if s.digit_share
                  else f"""{he} thought again. It was {number_words(house)}, not
                  {number_words(wrong)}!""")
    else:
        s.add(f"""{hero} walked past/o number {s.number(house - 2)} and number
              {s.number(house - 1)}.
            | first came number {s.number(house - 2)}, then number {s.number(house - 1)}.""")
        s.say(hero, f"""The next one/o must be {s.number(house)}!
            | After {s.number(house - 1)} comes {s.number(house)}!""", "said")
        s.add(f"there was a house with {a(pick(words.colors))} door.")
    s.paragraph()
    s.add(f"""{he} knocked at number {s.number(house)}, and {friend} opened the door.
        | at last, {he} stood in front of number {s.number(house)}. {friend} was at the window and
          waved.""")
    s.say(friend, f"You found it! | Hello, {hero}! Come in! | How nice that you came!")
    s.add(f"{hero} gave {friend} the {thing}, and {friend} {s.was()} very {s.happy()}.")
    s.add(f"""they played with {friend}'s {pick(words.colors)} {pick(words.small_toys)} until
          evening.
        | they ate {plural(pick(words.treats))} and read a book about
          {plural(pick(words.bugs))}.""")
    if mixed_up:
        s.lesson(hero, "it is good to look twice/o")
    return f"{hero} looks for {friend}'s house, number {house}."


def fixing(s: StoryState) -> str:
    """A problem, the wrong tool and the right one."""
    hero, friend = s.cast()
    he, his, him, pick, elder = hero.he, hero.his, hero.him, s.pick, f"{hero.his} {s.elder}"
    toy = pick(("kite", "ball", "plane"))
    thing = f"{pick(words.colors)} {toy}"
    problem = dict(toy=toy, water=at(pick(("lake", "pond", "river"))))
    place, trouble, wrong, right, done = pick(words.problems).format(**problem).split(" / ")
    tries = s.between(2, 6)
    begin(s, hero)
    s.add(f"""{s.once()}, {hero} played with {his} {thing} {place}.
        | {s.once()}, {hero} and {elder} were {place}. {hero} had {his} new {thing}.""")
    s.add(f"suddenly, {trouble}. | then {trouble}.")
    s.features.add("Conflict")
    s.say(hero, pick((f"Oh no, my {toy}!", "What can I do now?")), pick(("cried", "said")))
    s.add(f"{he} tried with {wrong}. | first, {he} used {wrong}.")
    s.add(f"""{he} tried {s.count(tries, 'time')}, but it was no use/n.
        | after trying {s.count(tries, 'time')}, {he} was {pick(('tired', 'angry', 'sad'))}.""")
    s.paragraph()
    s.add(f"""{friend}, who lived next door, saw {him} and came over.
        | just then, {his} friend {friend} came by.""")
    s.say(friend, f"""I think we need {right}. | Let's get {right}!
        | I have {right} at home.""", "said", indirect=f"{friend} said that they needed {right}.")
    s.add(f"they got {right}. Then {hero}'s {s.elder} {done}." if "climbed" in done else
          f"with {right}, they {done}.")
    s.add(f"{hero} {s.was()} so {s.happy()} to have {his} {toy} back.")
    s.say(hero, f"Thank you, {friend}! You had a good idea. | We did it!")
    s.add(f"""they played together until it was dark.
        | now {hero} and {friend} played with the {toy} together.""")
    if s.chance(0.7):
        s.lesson(hero, """you need the right tool | two heads are better than one/o
            | it is good to ask for help/n""")
    return f"{hero} is in trouble with {his} {thing}, and {friend} has an idea."


def bedtime(s: StoryState) -> str:
    """Someone cannot sleep and counts."""
    hero, _ = s.cast(fable=0.2)
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    counted = pick(("star", "sheep", "cloud", "star"))
    n, toy = s.between(11, 60), pick(words.small_toys)
    begin(s, hero)
    s.add(f"""one/o night, {hero} could not sleep. {pick(('The wind was loud.', 'It was too hot.'))}
        | it was late, but {hero} was not sleepy at all.
        | one/o night, {hero} lay in bed and was wide/o awake.""")
    s.say(hero, f"{s.elder.name.title()}, I cannot sleep.", indirect=f"{he} called {elder}.")
    s.add(f"{elder} came and sat down on the bed. | {elder} brought {hero.him} a cup of warm milk.")
    if not s.fable and s.chance(0.6, "Conflict"):
        s.add(f"{hero} wanted {his} {pick(words.colors)} {toy}, but it was gone.")
        s.add(f"they looked and looked. At last, they found it {pick(words.indoor_spots)}.")
    s.say(elder, words.sleep_advice[counted],
          indirect=f"{elder} told {hero.him} to count {plural(counted)}.")
    s.paragraph()
    s.add(f"""{hero} began to count. "{s.aloud(pick((3, 4, 5)))}..."
        | "{s.aloud(pick((3, 4, 5)))}," {hero} whispered.""")
    s.add(f"""when {he} came to {s.number(n)}, {he} yawned.
        | after {s.count(n, counted)}, {his} eyes were heavy.""")
    last = str(n + 1) if s.chance(s.digit_share) else number_words(n + 1).capitalize()
    s.add(f'"{last}..." {he} said very slowly, and then {he} slept.')
    s.add(f"""{he} had a dream about {a(pick(words.colors))} {pick(words.zoo_animals)} that could
          fly.
        | all night, {he} dreamed of {plural(pick(words.bugs))} and
          {plural(pick(words.flowers))}.""")
    s.add(f"""in the morning, {he} was {s.happy()} and ready to play.
        | {elder} kissed {hero.him} and turned off the light/n.""")
    return f"{hero} cannot sleep and counts {plural(counted)}."


def pets(s: StoryState) -> str:
    """A day with pets, in the present tense."""
    hero, friend = s.cast()
    he, his, pick, elder = hero.he, hero.his, s.pick, f"{hero.his} {s.elder}"
    pet = pick(words.pets)
    one, two = s.rng.sample(words.fur_colors, 2)
    n, m, treats = s.between(1, 4), s.between(1, 4), s.between(1, 3)
    food, total = words.pet_food[pet], s.gain(hero, n + m, pet)
    s.add(f"""{hero} is {a(pick(words.traits))} {hero.kind}. {he.title()} is
          {s.number(s.between(4, 8))} years old and lives in {a(pick(words.place_looks))}
          {pick(words.homes)}.
        | {hero} lives in {a(pick(words.place_looks))} {pick(words.homes)} with {elder}.
          {he.title()} likes to {hobby(s, his)}.""")
    s.add(f"{he} has {s.count(total, pet)}. | {hero} has {s.count(total, pet)} and loves them all.")
    s.add(f"""{s.number(n)} {'is' if n == 1 else 'are'} {one}, and {s.number(m)}
          {'is' if m == 1 else 'are'} {two}.""")
    if n != m and min(n, m) > 1:
        more, fewer = (one, two) if n > m else (two, one)
        s.add(f"so {he} has more {more} {plural(pet)} than {fewer} {plural(pet)}.")
    s.paragraph()
    s.add(f"""every {pick(('morning', 'evening'))}, {hero} feeds {his} {plural(pet)}. Each {pet}
          gets {s.count(treats, food)}, so {he} needs {s.count(total * treats, food)}.""")
    s.add(f"the {one} {plural(pet, n)} always {'eats' if n == 1 else 'eat'} first.")
    s.paragraph()
    if s.chance(0.6, "Conflict"):
        s.add(f"today {he} counts the {plural(pet)}, and there are only {s.number(total - 1)}."
              if total > 2 else f"today {he} sees only one {pet}.")
        which = f"my {one} {pet}" if n == 1 else f"the last {pet}"
        s.say(hero, f"Oh no! One {pet} is not here! | Where is {which}?", "cries")
        s.add(f"""{he} looks everywhere. Then {friend} comes to the door with something in
              {friend.his} arms. It is the {pet}!""")
        s.say(friend, "It was in our garden.", "says")
        s.add(f"{hero} hugs {friend}. Now all {s.number(total)} are at home again." if total > 2
              else f"{hero} hugs {friend}. Now both are at home again.")
    else:
        s.add(f"""today {friend} comes to visit with {s.number(1)} more {pet}. Now there are
              {s.count(total + 1, pet)} in the house.""")
        s.say(hero, "They like each other! | Look, they are friends!", "says")
        s.add(f"when {friend} goes home, {hero} has {s.count(total, pet)} again.")
    s.add(f"""in the evening, {he} is tired and {pick(('happy', 'glad'))}.
        | {hero} falls asleep with a smile/n on {his} face.""")
    return f"{hero} takes care of {his} {plural(pet)}."


def worker(s: StoryState) -> str:
    """A day at work, in the present tense: made, sold, left."""
    child, pick = s.person(), s.pick
    title, kind, he = ("Mrs", "woman", "she") if s.chance() else ("Mr", "man", "he")
    boss = Person(f"{title}. {pick(words.surnames)}", kind, *PRONOUNS[he])
    job, thing, made = pick((
        ("baker", "loaf", "bakes"), ("baker", pick(words.baked), "bakes"),
        ("farmer", pick(words.vegetables), "picks"), ("farmer", pick(words.fruit), "picks"),
        ("gardener", pick(words.flowers), "cuts"),
        ("candy maker", pick(("candy", "lollipop")), "makes"),
        ("toy maker", pick(words.small_toys), "makes"),
    ))
    many, hour = s.between(10, 40), s.between(4, 8)
    sold = s.between(3, many - 2)
    s.gain(boss, many, thing)
    s.add(f"""{boss} is {a(pick(words.traits))} {job} who lives in {a(pick(words.place_looks))}
          {pick(('town', 'village', 'house'))}.
        | in {a(pick(words.place_looks))} {pick(('town', 'village'))} lives {boss},
          {a(pick(words.traits))} {job}.""")
    s.add(f"""every day, {he} gets up at {s.number(hour)} and drinks a cup of
          {pick(('tea', 'milk', 'coffee'))}. Then {he} {made} {s.count(many, thing)}.
        | {he} has {a(pick(words.fur_colors))} {pick(words.furry_pets)} and {a(pick(words.colors))}
          {pick(('hat', 'coat', 'cart'))}. Today {he} {made} {s.count(many, thing)}.""")
    s.add(f"""{he} takes them to the market in {a(pick(words.sizes[:3]))}
          {pick(('cart', 'basket'))}.""")
    s.paragraph()
    left = s.lose(boss, sold, thing)
    s.add(f"""many people come. {boss} sells {s.number(sold)} of them, so {he} has
          {s.count(left, thing)} left.""")
    s.add(f"""then {child.name}, {a(pick(words.traits))} {child.kind}, comes to {boss.his} table.
        | in the afternoon, {a(child.kind)} named {child} walks by.""")
    if s.chance(0.65, "Conflict"):
        s.add(f"{child} looks {s.sad()}.")
        s.say(child, f"I want {a(thing)} for my {s.elder}, but I have no money.", "says",
              indirect=f"{child.he} wants {a(thing)}, but {child.he} has no money.")
        s.add(f"{boss} thinks for a moment. Then {he} gives {child} {s.count(1, thing)}.")
        left = s.lose(boss, 1, thing)
        s.say(child, "Thank you so much! | You are so kind!", "says")
    else:
        left = s.lose(boss, 2, thing)
        s.say(child, f"May I have {s.count(2, thing)}, please?", "asks",
              indirect=f"{child} wants {s.count(2, thing)}.")
        s.add(f"{child} pays for them and smiles.")
    s.add(f"""in the evening, {boss} counts. There {'is' if left == 1 else 'are'}
          {s.count(left, thing)} left.""" if left else
          f"in the evening, {boss} has no {plural(thing)} left.")
    s.add(f"{he} goes home and is {s.happy()}. | {he} sings a song on the way home.")
    return f"{boss}, {a(job)}, sells {plural(thing)} and is kind to {child}."


PLOTS: tuple[Callable[[StoryState], str], ...] = (
    sharing, lost, weather, watching, tower, broken, night_noise, shopping, baking, planting,
    rescue, birthday, swap, new_friend, warning, collecting, turns, treasure, race, find_house,
    fixing, bedtime, pets, worker,
)
